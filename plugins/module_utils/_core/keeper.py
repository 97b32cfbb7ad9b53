# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The line keeper: asks every controller of the gateway all the time, lest its firmware takes the master for dead.

One thread a line. It holds the line for single requests only, so that modules and people work beside it, and never
writes. A controller that a firmware transaction works on is left to that one. What was heard is published once a second
as JSON, and systemd is told that all lines move.

A new version or configuration comes in by handing over: the successor has asked everybody before its predecessor ends.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from . import lock
from .console import complain
from .device import READ_ATTEMPTS
from .errors import BadFrame, CoreError, ExceptionAnswer, NoAnswer
from .gateway import KEEP_ALIVE, Controller, by_line, open_line
from .line import Bus
from .plan import plan
from .settings import PATH, Settings, load
from .store import Store, now

STATUS = Path("/run/multi_sonicator/status.json")
_SILENT_PAUSE = 2.0
"""Between requests to a controller that is known to be silent, each of which takes the line for long."""
_LONGEST_PAUSE = 5.0
_LOCK_TIMEOUT = 1.0
_PUBLISH = 1.0
_STUCK = 10.0
"""A line's thread that has not come round for so long hangs: no request and no deadline of ours takes half of it."""
_START_DEADLINE = 10.0


class Watched:
    """One controller, as the keeper knows it. Only its line's thread changes it."""

    def __init__(self, controller: Controller, store: Store) -> None:
        self.controller = controller
        profile = controller.profile
        conditions = (*profile.health, *profile.drain.at_rest)
        names = profile.version_points() | {condition.point for condition in conditions if condition.point}
        self._points = [profile.point(name) for name in sorted(names)]
        low, _high = profile.readable[0]
        spans = plan([point.span for point in self._points], profile.readable, profile.largest_block)
        self._requests = [(span.address, span.count) for span in spans] or [(low, 1)]
        self._turn = 0
        self._registers: dict[int, int] = {}
        self._directory = store.controller(controller.name)
        self.due = 0.0
        self.misses = 0
        self.asked: float | None = None
        self.longest_gap = 0.0
        self.round_trip: float | None = None
        self.tried = False
        self.state = "unknown"
        self.since = now()
        self.last_answer: str | None = None
        self.error: str | None = None

    def ask(self, bus: Bus) -> None:
        """One request: the next of those that read what is published. Errors of the line itself are raised."""
        if self._in_transaction():
            self._enter("transaction")
            self.asked, self.misses, self.due = None, 0, time.monotonic() + KEEP_ALIVE
            return
        self._turn = (self._turn + 1) % len(self._requests)
        address, count = self._requests[self._turn]
        begun = time.monotonic()
        try:
            registers = bus.read(self.controller.unit, address, count)
        except (NoAnswer, BadFrame) as error:
            self.misses += 1
            self.error = str(error)
            if self.misses >= READ_ATTEMPTS:
                self._registers = {}
                self._enter("silent")
        except ExceptionAnswer as error:
            self._answered(begun)
            self.error = str(error)
        else:
            self._registers = {**self._registers, **dict(enumerate(registers, address))}
            self._answered(begun)
            self.error = None
        ended = time.monotonic()
        if self.asked is not None:
            self.longest_gap = max(self.longest_gap, ended - self.asked)
        self.asked = ended
        self.due = ended + (KEEP_ALIVE if self.misses < READ_ATTEMPTS else _SILENT_PAUSE)

    def fail(self, error: CoreError) -> None:
        """The line could not be used."""
        self.error = str(error)
        self._registers = {}
        self._enter("transaction" if self._in_transaction() else "unreachable")

    def status(self) -> dict[str, Any]:
        """What is published of it; times in UTC, spans in seconds.

        ``state``: answers, silent, unreachable (the line cannot be used), or transaction (its firmware is worked on).
        """
        profile, registers = self.controller.profile, self._registers
        known = [
            point for point in self._points if all(point.address + i in registers for i in range(point.span.count))
        ]
        values = {
            point.name: point.decode([registers[point.address + i] for i in range(point.span.count)]) for point in known
        }
        has_version = all(name in values for name in profile.version_points())
        return {
            **self.controller.place,
            "profile": profile.name,
            "state": self.state,
            "answers": self.state == "answers",
            "since": self.since,
            "last_answer": self.last_answer,
            "error": self.error,
            "round_trip_ms": None if self.round_trip is None else round(1000 * self.round_trip, 1),
            "longest_gap": round(self.gap(), 3),
            "version": profile.version_text(values) if has_version else None,
            "alarms": self._violations(values, "health"),
            "running": self._violations(values, "at_rest"),
            "values": values,
        }

    def gap(self) -> float:
        """The longest time between two requests to it, the present pause included."""
        return max(self.longest_gap, 0.0 if self.asked is None else time.monotonic() - self.asked)

    def _violations(self, values: dict[str, Any], what: str) -> list[str]:
        profile = self.controller.profile
        conditions = profile.health if what == "health" else profile.drain.at_rest
        reasons = [one.violation(values[one.point]) for one in conditions if one.point in values]
        return [reason for reason in reasons if reason]

    def _answered(self, begun: float) -> None:
        self.misses = 0
        self.round_trip = time.monotonic() - begun
        self.last_answer = now()
        self._enter("answers")

    def _enter(self, state: str) -> None:
        self.tried = True
        if state != self.state:
            self.state, self.since = state, now()

    def _in_transaction(self) -> bool:
        """Whether a run works on its firmware now. One that was interrupted leaves a journal, but nobody who talks."""
        try:
            if not (self._directory / "journal.jsonl").exists():
                return False
            with open(self._directory / "lock", "rb") as stream:
                fcntl.flock(stream.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # not ours to see; a board in reset is asked in vain
        return False


class Line:
    """One line and its thread, which ends by ``end`` only."""

    def __init__(self, members: Sequence[Controller], store: Store) -> None:
        self.path = members[0].line
        self.watched = [Watched(one, store) for one in members]
        self.beat = time.monotonic()
        self.error: CoreError | None = None
        self._members = members
        self._patience = max(one.profile.timing.response_timeout for one in members)
        self._limit = min(one.profile.timing.longest_silence for one in members) / 2
        self._bus: Bus | None = None
        self._pause = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.path, daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def end(self) -> None:
        """No request is made after this."""
        self._ended.set()
        self._thread.join()

    @property
    def moves(self) -> bool:
        """Whether the thread lives and comes round."""
        return self._thread.is_alive() and time.monotonic() - self.beat < _STUCK

    @property
    def tried(self) -> bool:
        """Whether each of its controllers was asked, or found out of reach."""
        return all(one.tried for one in self.watched)

    def status(self) -> dict[str, Any]:
        """What is published of it."""
        return {
            "line": self.path,
            "error": None if self.error is None else str(self.error),
            "longest_gap": round(max(one.gap() for one in self.watched), 3),
            "holders": [str(one) for one in lock.holders(self.path)] if self.error else [],
        }

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self.beat = time.monotonic()
                self._turn()
        finally:
            if self._bus:
                self._bus.close()

    def _turn(self) -> None:
        one = self._next()
        if self._ended.wait(max(0.0, one.due - time.monotonic())):
            return
        try:
            self._bus = self._bus or open_line(self._members, _LOCK_TIMEOUT)
            one.ask(self._bus)
        except CoreError as error:
            self.error = error
            for other in self.watched:
                other.fail(error)
            self._rest()
        else:
            self.error, self._pause = None, 0.0

    def _next(self) -> Watched:
        """Whose turn it is. Waiting for one that may not answer must not make the others wait too long."""
        one = min(self.watched, key=lambda other: other.due)
        steady = [other for other in self.watched if not other.misses and other.asked is not None]
        if one.misses and steady:
            first = min(steady, key=lambda other: other.asked or 0.0)
            moment = max(time.monotonic(), one.due)
            too_long = moment + self._patience > (first.asked or 0.0) + self._limit
            if too_long and moment < one.due + _SILENT_PAUSE:
                return first
        return one

    def _rest(self) -> None:
        """Before the next try on a line that cannot be used: longer each time, but not after its port has come back."""
        self._pause = min(max(2 * self._pause, 0.1), _LONGEST_PAUSE)
        was_there = os.path.exists(self.path)
        until = time.monotonic() + self._pause
        while time.monotonic() < until and not self._ended.wait(min(0.1, self._pause)):
            if os.path.exists(self.path) and not was_there:
                return


class Keeper:
    """All lines of a gateway."""

    def __init__(self, settings: Settings) -> None:
        self.lines = [Line(members, settings.store) for members in by_line(settings.controllers).values()]
        self._started = now()

    def start(self) -> None:
        """Begin to ask on all lines."""
        for line in self.lines:
            line.start()

    def end(self) -> None:
        """No request is made after this."""
        for line in self.lines:
            line.end()

    def wait_until_tried(self, seconds: float = _START_DEADLINE) -> bool:
        """Until every controller was asked once, at most ``seconds``; whether they were."""
        until = time.monotonic() + seconds
        while not all(line.tried for line in self.lines):
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def stuck(self) -> list[str]:
        """The lines whose threads have died or hang."""
        return [line.path for line in self.lines if not line.moves]

    def status(self) -> dict[str, Any]:
        """What is published: one entry a controller, one a line."""
        return {
            "time": now(),
            "started": self._started,
            "pid": os.getpid(),
            "runtime": Path(__file__).resolve().parents[1].name,
            "controllers": [one.status() for line in self.lines for one in line.watched],
            "lines": [line.status() for line in self.lines],
        }


# systemd


def notify(message: str) -> None:
    """Tell systemd something in the way of sd_notify; nothing where it does not listen."""
    with _systemd() as stream:
        if stream:
            stream.send(message.encode())


def _wait_for_systemd() -> None:
    """Until systemd has taken in what it was told before."""
    reading, writing = os.pipe()
    with _systemd() as stream, os.fdopen(reading, "rb"):
        try:
            if stream:
                socket.send_fds(stream, [b"BARRIER=1"], [writing])
        finally:
            os.close(writing)
        poll = select.poll()
        poll.register(reading, 0)
        poll.poll(1000 * _START_DEADLINE)


@contextlib.contextmanager
def _systemd() -> Any:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        yield None
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as stream:
        stream.connect("\0" + address[1:] if address.startswith("@") else address)
        yield stream


# The service


class Service:
    """The keeper as a service: publishes, feeds the watchdog, hands over at SIGHUP, ends at SIGTERM."""

    def __init__(self, keeper: Keeper, status: Path) -> None:
        self._keeper = keeper
        self._status = status
        self._wake = threading.Event()
        self._wishes: list[int] = []

    def run(self, predecessor: socket.socket | None) -> int:
        """Until it is told to end, or has handed over: 0; or a line's thread dies or hangs: 1."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self._keeper.start()
        self._keeper.wait_until_tried()
        if predecessor:
            predecessor.send(b"r")
            predecessor.recv(1)  # nothing comes but its end
        notify("READY=1")
        while True:
            if stuck := self._keeper.stuck():
                complain(f"line {', '.join(stuck)}: its thread has died or hangs")
                return 1
            self._publish()
            self._wake.wait(_PUBLISH)
            self._wake.clear()
            while self._wishes:
                if self._wishes.pop(0) != signal.SIGHUP or self._hand_over():
                    self._keeper.end()
                    return 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._wishes.append(number)
        self._wake.set()

    def _publish(self) -> None:
        status = self._keeper.status()
        found = [one["state"] for one in status["controllers"]]
        notify(f"STATUS={found.count('answers')} of {len(found)} controllers answer\nWATCHDOG=1")
        try:
            new = self._status.with_suffix(".new")
            new.write_text(json.dumps(status, indent=1) + "\n")
            new.replace(self._status)
        except OSError as error:
            complain(f"{self._status}: {error.strerror}")

    def _hand_over(self) -> bool:
        """Start the program anew, as it is installed now, and have it take over; False where it does not come up."""
        ours, theirs = socket.socketpair()
        with ours:
            command = [
                *sys.orig_argv[: -len(sys.argv)],
                *_without_successor(sys.argv),
                f"--successor={theirs.fileno()}",
            ]
            with theirs:
                successor = subprocess.Popen(  # pylint: disable=ansible-bad-function  # the core knows no AnsibleModule
                    command, pass_fds=[theirs.fileno()]
                )
            ours.settimeout(_START_DEADLINE + 5)
            try:
                ready = ours.recv(1) == b"r"
            except OSError:
                ready = False
            if not ready:
                complain("the successor does not come up, so this one stays; see above why")
                successor.kill()
                successor.wait()
                return False
            notify(f"MAINPID={successor.pid}")
            _wait_for_systemd()
            self._keeper.end()
            return True


def _without_successor(arguments: Sequence[str]) -> list[str]:
    return [one for one in arguments if not one.startswith("--successor=")]


def ask_to_hand_over(pid: int) -> int:
    """Have the running keeper hand over and wait until it has ended: 0; 1 where it stays."""
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, signal.SIGHUP)
    ended = select.select([descriptor], [], [], _START_DEADLINE + 10)[0]
    return 0 if ended else 1


def cover(settings: Settings, command: Sequence[str]) -> int:
    """Keep all lines while ``command`` runs, such as a restart of the service; its exit code."""
    keeper = Keeper(settings)
    keeper.start()
    keeper.wait_until_tried()
    try:
        ended = subprocess.run(  # pylint: disable=ansible-bad-function  # the core knows no AnsibleModule
            command, check=False
        )
        return ended.returncode
    finally:
        keeper.end()


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="keeper", description="Keeps the lines of this gateway spoken to.")
    parser.add_argument("--configuration", type=Path, default=PATH, metavar="FILE")
    parser.add_argument("--status", type=Path, default=STATUS, metavar="FILE", help="where to publish what was heard")
    parser.add_argument("--successor", type=int, metavar="FD", help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb")
    hand_over = verbs.add_parser("hand-over", help="have a running keeper hand over to the installed version")
    hand_over.add_argument("pid", type=int)
    covering = verbs.add_parser("cover", help="keep the lines while a command runs")
    covering.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    try:
        settings = load(given.configuration)  # what a successor could not read is said to who asks for one
        if given.verb == "hand-over":
            return ask_to_hand_over(given.pid)
        if given.verb == "cover":
            return cover(settings, given.command)
        predecessor = None if given.successor is None else socket.socket(fileno=given.successor)
        return Service(Keeper(settings), given.status).run(predecessor)
    except CoreError as error:
        complain(str(error))
        return 2

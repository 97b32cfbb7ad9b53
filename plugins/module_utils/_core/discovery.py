# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which controllers answer on the lines of a gateway, and which programmer resets which of them.

A scan sends reads only. It keeps off ports that somebody uses, off lines that another master talks on, and off what may
be a programmer: a programmer takes the byte of unit 80 for the order to reset its chip.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .device import Device, Identity
from .errors import BadFrame, BusError, CoreError, ExceptionAnswer, NoAnswer
from .line import Bus, open_bus
from .ports import PROGRAMMER, UNKNOWN, Port, distinct, entries
from .profile import Profile, Value
from .programmer import Programmer

# A master that keeps controllers in production talks at least once a second.
LISTEN = 1.1
# Attempts on a unit that answers with noise; silence is believed at once, for there are hundreds of units to ask.
_ATTEMPTS = 3
# Seconds that a firmware's clock must show before it can tell a restart from going on.
_CLOCK = 4.0
_WATCH_PAUSE = 0.01

Mode = tuple[int, str, int]
"""Baud rate, parity and stop bits of a line."""


@dataclass(frozen=True)
class Order:
    """What to look for. ``units`` are groups, each asked at every baud rate before the next one; ``deadline`` bounds
    the scan of one port, in seconds; ``profiles`` come in the order of preference."""

    profiles: Sequence[Profile]
    baudrates: Sequence[int]
    units: Sequence[range]
    deadline: float = 120.0

    @property
    def modes(self) -> list[Mode]:
        """How to talk to a line, the most likely first: as the profiles do, then without parity."""
        timings = [profile.timing for profile in self.profiles]
        said = [(timing.baudrate, timing.parity, timing.stopbits) for timing in timings]
        return list(dict.fromkeys([*said, *((baudrate, "N", 1) for baudrate in self.baudrates)]))

    def open(self, line: str, mode: Mode) -> Bus:
        """The line at this mode, with the most patient manners of all profiles."""
        timings = [profile.timing for profile in self.profiles]
        return open_bus(
            line,
            baudrate=mode[0],
            parity=mode[1],
            stopbits=mode[2],
            response_timeout=max(timing.response_timeout for timing in timings),
            request_gap=max(timing.request_gap for timing in timings),
        )


@dataclass
class Controller:
    """One that answered. ``profile`` is the first that fits, ``misfits`` say in words why the others do not."""

    line: Port
    unit: int
    mode: Mode
    profile: Profile | None = None
    fits: list[str] = field(default_factory=list)
    misfits: dict[str, list[str]] = field(default_factory=dict)
    identity: Identity = field(default_factory=lambda: Identity(None, None))
    restless: list[str] = field(default_factory=list)
    programmers: list[Port] = field(default_factory=list)
    lost: dict[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"unit {self.unit} on {self.line.name}"

    @property
    def programmer(self) -> Port | None:
        return self.programmers[0] if len(self.programmers) == 1 else None


@dataclass
class Scan:
    """What became of the scan of one port: whether it was scanned to the end, and why not, or what was odd."""

    port: Port
    complete: bool = False
    msg: str = ""
    noise: list[str] = field(default_factory=list)
    controllers: list[Controller] = field(default_factory=list)
    seconds: float = 0.0


def parse_units(texts: Sequence[str]) -> list[range]:
    """Units such as ``2`` and ``1-247``; CoreError where one is outside of 1 to 247 or no number."""
    groups = []
    for text in texts:
        match = re.fullmatch(r"\s*([0-9]{1,3})\s*(?:-\s*([0-9]{1,3})\s*)?", text, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= 247:
            raise CoreError(f"units {text!r}: expected a number or a range such as 1-247, of 1 to 247")
        groups.append(range(first, last + 1))
    return groups


# Scan


def scannable(port: Port) -> str:
    """Why the port must not be scanned, in words; empty where it may be."""
    if port.kind == PROGRAMMER:
        return f"not scanned: it {port.evidence}"
    if port.kind == UNKNOWN and not port.asked:
        return f"not scanned: {port.evidence}; name it in ports if it is a line, or in programmers if it is one"
    if port.problem:
        return f"not scanned: it {port.problem}"
    if port.used_by:
        users = ", ".join(port.used_by)
        return f"not scanned: {users} uses it; once its units rest, end that program for the time of the scan"
    return ""


def scan(found: Sequence[Port], order: Order) -> list[Scan]:
    """Every port scanned, all at the same time, each within the order's deadline."""
    if not found:
        return []
    with ThreadPoolExecutor(len(found)) as pool:
        return list(pool.map(lambda port: _scan(port, order), found))


def _scan(port: Port, order: Order) -> Scan:
    result = Scan(port, msg=scannable(port))
    if result.msg:
        return result
    started = time.monotonic()
    try:
        if _is_talked_on(port.name, order):
            result.msg = "not scanned: another master talks on the line; scan when it is off, or give its settings"
        else:
            _ask_units(result, order, time.monotonic() + order.deadline)
    except CoreError as error:
        result.msg = str(error)
    result.seconds = round(time.monotonic() - started, 1)
    return result


def _is_talked_on(line: str, order: Order) -> bool:
    """Whether bytes come in that we did not ask for; also those of somebody here who has taken the line since."""
    bus = order.open(line, order.modes[0])
    try:
        port = os.open(line, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            poll = select.poll()
            poll.register(port, select.POLLIN)
            return bool(poll.poll(LISTEN * 1000))
        finally:
            os.close(port)
    finally:
        bus.close()


def _ask_units(result: Scan, order: Order, deadline: float) -> None:
    modes = order.modes
    asked: set[tuple[Mode, int]] = set()
    for group in order.units:
        for mode in list(modes):
            bus = order.open(result.port.name, mode)
            try:
                for unit in group:
                    if (mode, unit) in asked:
                        continue
                    if time.monotonic() > deadline:
                        result.msg = (
                            f"{order.deadline:g} s are over: asked up to unit {unit - 1} at {mode[0]} baud; "
                            "give fewer units or baud rates, or a longer deadline"
                        )
                        return
                    asked.add((mode, unit))
                    if _answers(result, bus, unit, order, mode):
                        modes = [mode]  # all of a line talk alike
                        result.controllers.append(_identify(Controller(result.port, unit, mode), bus, order))
            finally:
                bus.close()
            if modes == [mode]:
                break
    result.complete = True
    result.msg = f"{len(result.controllers)} controllers answer" if result.controllers else "nothing answers"


def _answers(result: Scan, bus: Bus, unit: int, order: Order, mode: Mode) -> bool:
    address = order.profiles[0].readable[0][0]
    for _attempt in range(_ATTEMPTS):
        try:
            bus.read(unit, address, 1)
        except ExceptionAnswer:
            return True
        except NoAnswer:
            return False
        except BadFrame:
            continue
        return True
    result.noise.append(
        f"unit {unit} at {mode[0]} baud: no valid answer; two units with one id, noise, or another rate"
    )
    return False


def _identify(controller: Controller, bus: Bus, order: Order) -> Controller:
    """Find the profile that it fits, and what this says of it. Reads only."""
    for profile in order.profiles:
        timing = profile.timing
        if (timing.baudrate, timing.parity, timing.stopbits) != controller.mode:
            reasons = [f"answers at {controller.mode[0]} baud, expected {timing.baudrate}"]
        else:
            device = Device(str(controller), controller.unit, profile, bus)
            try:
                reasons = device.violations(profile.fingerprint)
                if not reasons and controller.profile is None:
                    controller.identity = device.identity()
                    controller.restless = device.violations((*profile.drain.at_rest, *profile.drain.permitted))
                    controller.profile = profile
            except BusError as error:
                reasons = [str(error)]
        if reasons:
            controller.misfits[profile.name] = reasons
        else:
            controller.fits.append(profile.name)
    return controller


# Programmers


def refusal(scans: Sequence[Scan]) -> str:
    """Why no programmer may be asked now, in words; empty where all controllers are known and at rest."""
    reasons = [f"{one.port.name}: {one.msg}" for one in scans if not one.complete]
    for one in (controller for scan in scans for controller in scan.controllers):
        if one.profile is None or one.profile.part is None:
            reasons.append(f"{one} fits no profile with a part, so that nothing tells whether its units are at rest")
        elif one.restless:
            reasons.append(f"{one}: {'; '.join(one.restless)}")
    return "; ".join(reasons)


def identify_programmers(
    programmers: Sequence[Port], scans: Sequence[Scan], order: Order, lock_directory: str, scratch: Path
) -> dict[str, str]:
    """Ask one programmer after the other for the signature and see which controller restarts; a word on each by name.

    Every call resets the controller behind it, which loses the settings that only its memory holds: ``lost`` tells
    those. Only with all controllers at rest (see ``refusal``), which is looked at again before each call.
    """
    answers: dict[str, str] = {}
    with contextlib.ExitStack() as opened:
        witnesses = []
        for one in (scan for scan in scans if scan.controllers):
            bus = order.open(one.port.name, one.controllers[0].mode)
            opened.callback(bus.close)
            witnesses += [_Witness(controller, bus) for controller in one.controllers if controller.profile]
        opened.enter_context(_watched(witnesses))
        before = {witness: witness.device.settings() for witness in witnesses}
        for port in programmers:
            try:
                answers[port.name] = _ask(port, witnesses, lock_directory, scratch)
            except CoreError as error:
                answers[port.name] = f"not identified: {error}"
        for witness, settings in before.items():
            witness.device.wait_for_answer(witness.device.profile.timing.boot_time)
            with contextlib.suppress(CoreError):
                after = witness.device.settings()
                changed = {name: value for name, value in settings.items() if after[name] != value}
                witness.controller.lost = changed
    return answers


def _ask(port: Port, witnesses: Sequence[_Witness], lock_directory: str, scratch: Path) -> str:
    part = next((witness.device.profile.part for witness in witnesses), None)
    if part is None:
        return "not asked: no controller answers that could be its own"
    programmer = Programmer(port.name, part, scratch, lock_directory)
    with programmer.held():
        for witness in witnesses:
            witness.prepare()
        programmer.release()
    restarted = [witness.controller for witness in witnesses if witness.has_restarted()]
    if len(restarted) == 1:
        restarted[0].programmers.append(port)
        return f"resets {restarted[0]}"
    if not restarted:
        return (
            "answers, but resets none of the controllers that were found; its own is not on these lines, or is silent"
        )
    return f"unclear: {' and '.join(map(str, restarted))} restarted meanwhile; discover again"


class _Witness:
    """A controller that is watched while programmers are asked."""

    def __init__(self, controller: Controller, bus: Bus) -> None:
        if controller.profile is None:
            raise CoreError(f"{controller} has no profile and cannot be watched")
        self.controller = controller
        self.device = Device(str(controller), controller.unit, controller.profile, bus)
        self._uptime: float | None = None
        self._read = 0.0
        self.was_silent = False

    def prepare(self) -> None:
        """Wait until its clock can tell a restart; CoreError where its units are not at rest."""
        drain = self.device.profile.drain
        if restless := self.device.violations((*drain.at_rest, *drain.permitted)):
            raise CoreError(f"{self.controller}: {'; '.join(restless)}; bring its units to rest and discover again")
        deadline = time.monotonic() + 2 * _CLOCK
        while True:
            self._read, self._uptime = time.monotonic(), self.device.identity().uptime
            if self._uptime is None or self._uptime >= _CLOCK or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        self.was_silent = False

    def has_restarted(self) -> bool:
        """Whether it has since: by its clock, and where it has none by its silence."""
        if not self.device.wait_for_answer(self.device.profile.timing.boot_time):
            return self.was_silent
        uptime = self.device.identity().uptime
        if self._uptime is None or uptime is None:
            return self.was_silent
        return uptime < self._uptime / 2 + time.monotonic() - self._read


@contextlib.contextmanager
def _watched(witnesses: Sequence[_Witness]) -> Iterator[None]:
    """Talk to each all the time, the controllers of one line in turn, and note who falls silent."""
    ended = threading.Event()
    lines: dict[Bus, list[_Witness]] = {}
    for witness in witnesses:
        lines.setdefault(witness.device.bus, []).append(witness)

    def watch(members: Sequence[_Witness]) -> None:
        while not ended.wait(_WATCH_PAUSE):
            for witness in members:
                with contextlib.suppress(CoreError):  # a line that vanishes is told by who asks for something
                    witness.was_silent |= not witness.device.answers()

    threads = [threading.Thread(target=watch, args=(members,), daemon=True) for members in lines.values()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


# What a caller gets


def discover(
    found: Sequence[Port],
    order: Order | None,
    identify: bool = False,
    lock_directory: str = "/run/lock",
    scratch: Path = Path("/tmp"),
) -> dict[str, Any]:
    """All facts as data: ports and controllers, notes for people, and the part of an inventory that follows."""
    scans = scan([port for port in found if port.kind != PROGRAMMER], order) if order else []
    programmers = [port for port in found if port.kind == PROGRAMMER]
    answers: dict[str, str] = {}
    notes: list[str] = []
    if identify and order and programmers:
        try:
            if reason := refusal(scans):
                raise CoreError(reason)
            answers = identify_programmers(programmers, scans, order, lock_directory, scratch)
        except CoreError as error:
            notes.append(f"no programmer was asked, since that resets its controller: {error}")
    controllers = [controller for one in scans for controller in one.controllers]
    names = distinct(
        ((f"line_{one.line.identity}_unit_{one.unit}", f"{one.line.name} {one.unit}") for one in controllers), 64
    )
    notes += _notes(scans, answers)
    by_name = {one.port.name: one for one in scans}
    named = list(zip(names, controllers, strict=True))
    inventory: dict[str, Any] = {"gateway_ports": entries(found)}
    if any(one.complete for one in scans):
        inventory["controllers"] = [_entry(name, one) for name, one in named if one.profile]
    return {
        "ports": [_told(port, by_name.get(port.name), answers.get(port.name, "")) for port in found],
        "controllers": [_controller(name, one) for name, one in named],
        "notes": notes,
        "inventory": inventory,
    }


def _told(port: Port, scanned: Scan | None, answer: str) -> dict[str, Any]:
    facts: dict[str, Any] = asdict(port)
    facts |= {"names": list(port.names), "used_by": list(port.used_by)}
    del facts["asked"]
    if scanned:
        facts["scan"] = {
            "complete": scanned.complete,
            "msg": scanned.msg,
            "noise": scanned.noise,
            "seconds": scanned.seconds,
        }
    if answer:
        facts["programmer"] = answer
    return facts


def _controller(name: str, one: Controller) -> dict[str, Any]:
    baudrate, parity, stopbits = one.mode
    return {
        "name": name,
        "line": one.line.name,
        "unit": one.unit,
        "baudrate": baudrate,
        "parity": parity,
        "stopbits": stopbits,
        "profile": one.profile.name if one.profile else None,
        "fits": one.fits,
        "misfits": one.misfits,
        "version": one.identity.version,
        "uptime": one.identity.uptime,
        "at_rest": not one.restless if one.profile else None,
        "programmer": one.programmer.name if one.programmer else None,
        "settings_lost": one.lost,
    }


def _entry(name: str, one: Controller) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "line": one.line.name, "unit": one.unit}
    if one.programmer:
        entry["programmer"] = one.programmer.name
    return {**entry, "profile": one.profile.name if one.profile else None}


def _notes(scans: Sequence[Scan], answers: dict[str, str]) -> list[str]:
    """What a person has to know or decide."""
    notes = []
    for one in scans:
        if not one.complete or one.noise:
            notes.append(f"{one.port.name}: {'; '.join([one.msg, *one.noise])}")
        if one.controllers and not one.port.stable and not one.port.asked:
            notes.append(
                f"{one.port.name}: a name that may lead to another port tomorrow; plug it where it gets another"
            )
        for controller in one.controllers:
            notes += _notes_on(controller)
    notes += [f"{name}: {answer}" for name, answer in answers.items() if not answer.startswith("resets")]
    return notes


def _notes_on(one: Controller) -> Iterator[str]:
    if one.profile is None:
        reasons = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in one.misfits.items())
        yield f"{one} answers, but fits no profile ({reasons})"
    elif len(one.fits) > 1:
        yield f"{one} fits the profiles {' and '.join(one.fits)}; taken is the first"
    if len(one.programmers) > 1:
        yield f"{one} is reset by {' and '.join(port.name for port in one.programmers)}; discover again"
    if one.lost:
        settings = ", ".join(f"{name} {value}" for name, value in one.lost.items())
        yield f"{one} lost settings with the restart, which were: {settings}"

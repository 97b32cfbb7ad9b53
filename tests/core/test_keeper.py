# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The line keeper on simulated boards: nobody waits long for a request, whatever happens, and nobody is written to."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from _core import backup, lock, settings
from _core import keeper as keeping
from _core.backup import Configuration
from _core.installation import Installation
from _core.restic import Target
from support import site
from support.profiles import mapping
from support.virtual import Board, VirtualLine, opened

pytestmark = pytest.mark.timing

LONGEST_GAP_MS = 500
PATIENCE = 15.0


class Runtime:
    """The keeper as it is installed, on one simulated line, in a process of its own."""

    def __init__(self, place: Path, line: VirtualLine) -> None:
        self.place = place
        self.line = line
        self.configuration = place / "gateway.json"
        self.status_file = place / "status.json"
        self.programs = place / "lib/current"
        options = {
            "controllers": site.entries(line),
            "profiles": {"multi_sonicator_io": mapping()},
            "state_directory": str(place / "gateway/state"),
            "lock_directory": str(place),
        }
        self.content = settings.dump(options)
        Installation(place / "lib", {"keeper": "keeper"}, {}, self.configuration, self.content).install()
        self.process = self.start()
        self.wait_for(lambda status: all(one["state"] != "unknown" for one in status["controllers"]))

    def command(self, *words: object) -> list[str]:
        options = [f"--configuration={self.configuration}", f"--status={self.status_file}"]
        return [sys.executable, "-I", str(self.programs / "keeper"), *options, *map(str, words)]

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command())

    def end(self) -> None:
        """Also a successor, which is not our child."""
        pid = self.status()["pid"]
        for number in list(dict.fromkeys((pid, self.process.pid))):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.status_file.read_text())
        return found

    def controller(self, name: str) -> dict[str, Any]:
        return {one["name"]: one for one in self.status()["controllers"]}[name]

    def wait_for(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not (self.status_file.exists() and condition(self.status())):
            assert time.monotonic() < until, self.status() if self.status_file.exists() else "nothing is published"
            time.sleep(0.05)

    def wait_for_state(self, name: str, state: str) -> None:
        self.wait_for(lambda _status: self.controller(name)["state"] == state)

    def boards(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.line.state()["boards"]
        return found

    def forget(self) -> None:
        self.line.control("line", "counters_reset")

    def require_spoken_to(self, *names: str) -> None:
        """Since the last ``forget`` these heard from the keeper all the time, and nobody was written to by it."""
        for name in names:
            found = self.boards()[name]
            assert found["longest_gap_ms"] <= LONGEST_GAP_MS, name
            assert (found["write_requests"], found["programmer"]["rx_bytes"], found["boots"]) == (0, 0, 0), name


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    (tmp_path / "line").mkdir()
    boards = [Board(name, unit) for unit, name in enumerate("abcd", 2)]
    with VirtualLine(tmp_path / "line", boards, programmer_baudrate=19200) as line:
        one = Runtime(tmp_path, line)
        yield one
        one.end()


def test_it_hears_everybody_and_says_so(runtime: Runtime) -> None:
    runtime.forget()
    time.sleep(2)
    runtime.require_spoken_to(*"abcd")
    runtime.wait_for(lambda status: len(status["controllers"][0]["values"]) > 9)
    found = runtime.controller("a")
    assert (found["answers"], found["unit"], found["version"], found["alarms"]) == (True, 2, "1.0.0", [])
    assert found["values"]["system_status"] == ["ok"]
    assert found["values"]["sonicator4_status_flags"] == []
    assert 0 < found["round_trip_ms"] < LONGEST_GAP_MS
    assert 0 < runtime.status()["lines"][0]["longest_gap"] < 1


def test_a_backup_leaves_it_its_pace(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {name: question for name, question in backup.QUESTIONS.items() if question[0] in ("cat", "uname")}
    monkeypatch.setattr(backup, "QUESTIONS", asked)
    target = Target("vault", str(runtime.place / "repository"), "first", "second")
    configuration = Configuration("gateway_a", runtime.place / "backup", [], [], [target], None, 3600.0, {})
    configuration.restic(target).create()
    runtime.forget()
    for _turn in range(3):
        taken = backup.run(settings.load(runtime.configuration), configuration)
        assert taken.problems == [] and set(taken.manifest.controllers) == set("abcd")
    runtime.require_spoken_to(*"abcd")


def test_neighbours_of_a_controller_that_is_flashed_go_on_hearing_from_it(runtime: Runtime) -> None:
    """The run knows of one controller only, so that nobody but the keeper talks to the others."""
    flashed = site.gateway(runtime.place / "gateway", [one for one in site.entries(runtime.line) if one["name"] == "a"])
    seen = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            seen.add(runtime.controller("a")["state"])

    watcher = threading.Thread(target=look)
    watcher.start()
    runtime.forget()
    result = site.deploy(flashed, "1.1.0")["a"]
    ended.set()
    watcher.join()
    assert result["outcome"] == "deployed", result["msg"]
    assert seen == {"answers", "transaction"}
    runtime.require_spoken_to(*"bcd")
    runtime.wait_for(lambda _status: runtime.controller("a")["version"] == "1.1.0")


def test_a_transaction_that_nobody_works_on_any_more_leaves_its_controller_to_the_keeper(runtime: Runtime) -> None:
    journal = site.gateway(runtime.place / "gateway", []).store.journal("a")
    journal.append("begin", transaction="t")
    lock_file = journal.path.with_name("lock")
    with open(lock_file, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        runtime.wait_for_state("a", "transaction")
        runtime.forget()
        time.sleep(1)
        assert runtime.boards()["a"]["requests"] == 0
    runtime.wait_for_state("a", "answers")


def test_silent_controllers_do_not_keep_the_others_waiting(runtime: Runtime) -> None:
    runtime.forget()
    for name in "ab":
        runtime.line.control(name, "power", "off")
        runtime.wait_for_state(name, "silent")
    assert "found silence" in runtime.controller("a")["error"]
    assert runtime.controller("a")["values"] == {}
    time.sleep(3)
    runtime.require_spoken_to(*"cd")
    runtime.line.control("a", "power", "on")
    runtime.wait_for_state("a", "answers")


def test_a_port_that_was_pulled_is_used_as_soon_as_it_is_back(runtime: Runtime) -> None:
    runtime.line.control("line", "unplug")
    runtime.wait_for_state("a", "unreachable")
    assert "check the cable" in runtime.status()["lines"][0]["error"]
    time.sleep(3)
    runtime.line.control("line", "plug")
    plugged = time.monotonic()
    runtime.forget()
    while not all(board["requests"] for board in runtime.boards().values()):
        assert time.monotonic() - plugged < 1
    runtime.wait_for_state("a", "answers")


def test_who_holds_the_line_is_named(runtime: Runtime) -> None:
    with opened(runtime.line.line) as port:
        assert lock.lock(port, 5)
        runtime.wait_for_state("d", "unreachable")
        assert any(f"PID {os.getpid()} " in holder for holder in runtime.status()["lines"][0]["holders"])
    runtime.wait_for_state("d", "answers")


def test_it_hands_over_without_a_silence(runtime: Runtime) -> None:
    before = runtime.status()["pid"]
    runtime.forget()
    asked = subprocess.run(runtime.command("hand-over", before), check=False)
    assert (asked.returncode, runtime.process.wait(5)) == (0, 0)
    runtime.wait_for(lambda status: status["pid"] != before)
    time.sleep(1)
    runtime.require_spoken_to(*"abcd")
    again = runtime.status()["pid"]
    assert subprocess.run(runtime.command("hand-over", again), check=False).returncode == 0
    runtime.wait_for(lambda status: status["pid"] != again)
    runtime.require_spoken_to(*"abcd")


def test_it_stays_when_its_successor_does_not_come_up(runtime: Runtime) -> None:
    runtime.forget()
    runtime.configuration.write_text("{}")
    before = runtime.status()["pid"]
    assert subprocess.run(runtime.command("hand-over", before), check=False).returncode == 2
    os.kill(before, signal.SIGHUP)
    time.sleep(2)
    assert runtime.process.poll() is None
    assert runtime.status()["pid"] == before
    runtime.require_spoken_to(*"abcd")


def test_it_covers_a_restart(runtime: Runtime) -> None:
    restart = f"import os, time; os.kill({runtime.process.pid}, 9); time.sleep(2); raise SystemExit(7)"
    runtime.forget()
    covered = subprocess.run(runtime.command("cover", sys.executable, "-c", restart), check=False)
    assert covered.returncode == 7
    runtime.require_spoken_to(*"abcd")


def test_it_ends_when_it_is_told_to(runtime: Runtime) -> None:
    runtime.process.terminate()
    assert runtime.process.wait(5) == 0


def test_systemd_hears_from_it_until_a_line_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "notify"
    with VirtualLine(tmp_path / "line", [Board("a")]) as line, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hear:
        hear.bind(str(address))
        hear.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setattr(keeping, "_STUCK", 1.0)
        known = site.gateway(tmp_path / "gateway", site.entries(line))
        keeper = keeping.Keeper(settings.Settings(known.controllers, {"state_directory": str(tmp_path)}))
        ask, hangs = keeping.Watched.ask, threading.Event()

        def hang(watched: keeping.Watched, bus: Any) -> None:
            if hangs.wait(0.0):
                time.sleep(3)
            ask(watched, bus)

        monkeypatch.setattr(keeping.Watched, "ask", hang)
        threading.Timer(2.5, hangs.set).start()
        begun = time.monotonic()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            assert keeping.Service(keeper, tmp_path / "status.json").run(None) == 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        assert 3 < time.monotonic() - begun < 6
        keeper.end()
        assert hear.recv(100) == b"READY=1"
        assert hear.recv(100) == b"STATUS=1 of 1 controllers answer\nWATCHDOG=1"

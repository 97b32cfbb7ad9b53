# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command of people on a gateway, on simulated boards, without a keeper."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from _core import events, msctl, settings
from _core.device import Device
from _core.errors import CoreError
from _core.line import open_bus
from _core.rest import bring_to_rest
from support import site
from support.production import Production
from support.profiles import mapping, profile
from support.virtual import Board, VirtualLine, opened


class Place:
    """A gateway with two lines: a and b on the first, c on the second."""

    def __init__(self, directory: Path, lines: Sequence[VirtualLine]) -> None:
        self.directory = directory
        self.lines = lines
        self.configuration = directory / "gateway.json"
        entries = [entry for line in lines for entry in site.entries(line)]
        options = {
            "controllers": entries,
            "profiles": {"multi_sonicator_io": mapping()},
            "state_directory": str(directory / "state"),
            "lock_directory": str(directory),
        }
        self.configuration.write_bytes(settings.dump(options))

    def run(self, *words: str) -> int:
        return msctl.main([f"--configuration={self.configuration}", *words])

    def read(self, name: str, *points: str) -> dict[str, Any]:
        line = next(line for line in self.lines if name in line.boards)
        bus = open_bus(str(line.line))
        try:
            return dict(Device(name, line.boards[name].unit, profile(), bus).read(points))
        finally:
            bus.close()

    @contextlib.contextmanager
    def producing(self) -> Iterator[None]:
        """Units of all controllers run, and their masters are there."""
        with contextlib.ExitStack() as stack:
            for line in self.lines:
                stack.enter_context(Production(line.line, [board.unit for board in line.boards.values()]))
            yield


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        VirtualLine(tmp_path / "one", [Board("a", 2), Board("b", 3)]) as one,
        VirtualLine(tmp_path / "two", [Board("c", 2)]) as two,
    ):
        yield Place(tmp_path, (one, two))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[events.Event]:
    """What went to the system journal."""
    found: list[events.Event] = []
    monkeypatch.setattr(events, "send", found.extend)
    return found


def test_read_tells_engineering_values(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("read", "c", "sonicator1_amplitude", "system_status") == 0
    assert capsys.readouterr().out == 'sonicator1_amplitude = 50 %\nsystem_status = ["ok"]\n'
    assert place.run("read", "c", "active_count", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"active_count": 0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("read", "d", "active_count"), "no controller d (there are a, b, c)"),
        (("read", "a", "active_cont"), "did you mean active_count"),
        (("snapshot", "d"), "no controller d"),
    ],
)
def test_what_is_not_there_is_refused(
    place: Place, capsys: pytest.CaptureFixture[str], words: Sequence[str], said: str
) -> None:
    assert place.run(*words) == 2
    assert said in capsys.readouterr().err


def test_a_gateway_that_is_not_set_up_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert msctl.main([f"--configuration={tmp_path}/none.json", "lines"]) == 2
    assert "run it for this gateway" in capsys.readouterr().err
    (tmp_path / "damaged.json").write_text('{"controllers": 3, "profiles": {}}')
    assert msctl.main([f"--configuration={tmp_path}/damaged.json", "lines"]) == 2
    assert "damaged" in capsys.readouterr().err


def test_snapshot_keeps_sets_once_and_tells_the_journal(
    place: Place, told: list[events.Event], capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.run("snapshot") == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["a", "b", "c"]
    assert [(event.what, event.controller) for event in told] == [("snapshot", name) for name in "abc"]
    assert place.run("snapshot", "b") == 0
    assert "already kept" in capsys.readouterr().out
    assert len(told) == 3
    store = settings.load(place.configuration).store
    assert [len(store.set_ids(name)) for name in "abc"] == [1, 1, 1]


def test_a_silent_controller_fails_its_snapshot_only(
    place: Place, told: list[events.Event], capsys: pytest.CaptureFixture[str]
) -> None:
    place.lines[0].control("a", "power", "off")
    assert place.run("snapshot") == 1
    assert capsys.readouterr().err.startswith("a (")
    assert [(event.controller, event.result) for event in told] == [("a", "failed"), ("b", "read"), ("c", "read")]


def test_stop_all_stops_everything_that_can_be_reached_and_keeps_it_stopped(
    place: Place,
    told: list[events.Event],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUDO_USER", "olga")
    with place.producing():
        place.lines[0].control("a", "power", "off")
        assert place.run("stop-all", "--yes") == 1
        for name in "bc":
            found = place.read(name, "active_count", "start_inhibit_mask")
            assert found == {"active_count": 0, "start_inhibit_mask": [f"sonicator{n}" for n in range(1, 5)]}
    said = capsys.readouterr()
    assert said.err.startswith("a (")
    assert said.out == "b: stopped, no start is accepted\nc: stopped, no start is accepted\n"
    assert [(event.what, event.controller, event.result) for event in told] == [
        ("emergency", "a", "failed"),
        ("emergency", "b", "changed"),
        ("emergency", "c", "changed"),
    ]
    assert all("(msctl by olga)" in str(event.message) for event in told)


def test_a_pulled_line_does_not_keep_the_other_from_being_stopped(place: Place, told: list[events.Event]) -> None:
    with place.producing():
        place.lines[0].control("line", "unplug")
        assert place.run("stop-all", "--yes") == 1
        assert place.read("c", "active_count") == {"active_count": 0}
    assert [event.result for event in told] == ["failed", "failed", "changed"]


def test_stop_all_asks_first(
    place: Place, told: list[events.Event], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.run("stop-all") == 2
    assert "say --yes" in capsys.readouterr().err
    for answer, code in (("no", 2), ("stop", 0)):
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("builtins.input", lambda _question, answer=answer: answer)
        assert place.run("stop-all") == code
    assert len(told) == 3


def test_lines_names_who_holds_one_and_who_has_it_open(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(place.lines[0].line) as port:
        fcntl.flock(port, fcntl.LOCK_EX)
        assert place.run("lines") == 0
    first, second = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert first[:3] == [str(place.lines[0].line), "holds", str(os.getpid())]
    assert second[:2] == [str(place.lines[1].line), "free"]


def test_status_tells_by_its_exit_code_whether_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "status.json"

    def status(state: str) -> int:
        one = {
            "name": "a",
            "line": "/dev/x",
            "unit": 2,
            "state": state,
            "since": "2026-01-01T00:00:00Z",
            "version": None,
            "running": [],
            "alarms": ["system_status shows fault"],
            "values": {"active_count": 0} if state == "answers" else {},
            "error": None if state == "answers" else "line /dev/x: silence",
        }
        file.write_text(json.dumps({"controllers": [one], "lines": [{"line": "/dev/x", "error": None}]}))
        return msctl.main(["status", f"--file={file}"])

    assert status("answers") == 0
    assert "system_status shows fault" in capsys.readouterr().out
    assert status("transaction") == 0
    assert status("silent") == 1
    assert "a: line /dev/x: silence" in capsys.readouterr().out
    assert msctl.main(["status", f"--file={file}", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["controllers"][0]["state"] == "silent"
    status("answers")
    os.utime(file, (0, time.time() - 60))
    assert msctl.main(["status", f"--file={file}"]) == 1
    assert "nothing for 60 s" in capsys.readouterr().err
    file.unlink()
    assert msctl.main(["status", f"--file={file}"]) == 2
    assert "does not run" in capsys.readouterr().err


# Before a gateway falls silent


def rest(place: Place, drain: str, deadline: float = 1, check: bool = False) -> list[tuple[bool, bool, str]]:
    gateway = settings.load(place.configuration).gateway()
    found = bring_to_rest(gateway, drain, deadline, check)
    return [(one["failed"], one["changed"], one["msg"].partition(" (")[0].partition(";")[0]) for one in found]


def test_a_gateway_may_fall_silent_when_nothing_runs_or_nobody_listens(place: Place) -> None:
    place.lines[0].control("a", "power", "off")
    silent = (False, False, "does not answer, so that it misses nobody")
    assert rest(place, "refuse") == [silent, (False, False, "at rest"), (False, False, "at rest")]


def test_units_that_run_are_refused_waited_for_or_stopped(place: Place) -> None:
    with place.producing():
        assert rest(place, "refuse") == [(True, False, "units run")] * 3
        assert rest(place, "stop", check=True) == [(False, True, "would stop")] * 3
        assert rest(place, "wait") == [(True, False, "still not at rest at the deadline")] * 3
        assert place.read("a", "active_count") == {"active_count": 2}
        assert rest(place, "stop") == [(False, True, "stopped")] * 3
        assert place.read("a", "active_count", "start_inhibit_mask") == {"active_count": 0, "start_inhibit_mask": []}


def test_a_controller_of_another_kind_is_not_written_to(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def differs(_device: Device) -> None:
        raise CoreError("is not what its profile describes")

    with place.producing():
        monkeypatch.setattr(Device, "require_fingerprint", differs)
        place.lines[0].control("line", "counters_reset")
        assert place.run("stop-all", "--yes") == 1
        assert {board["write_requests"] for board in place.lines[0].state()["boards"].values()} == {0}

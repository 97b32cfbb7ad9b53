# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scans of simulated lines, and programmers that are matched with the controllers they reset."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import termios
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _core import rtu
from _core.device import Device
from _core.discovery import Order, discover, parse_units
from _core.line import open_bus
from _core.ports import Port, find
from support.profiles import profile
from support.virtual import Board, VirtualLine

PROFILES = [profile(), profile("multi_sonicator_io_observed")]


def order(*units: str, **options: Any) -> Order:
    return Order(PROFILES, options.pop("baudrates", []), parse_units(units), **options)


def look(lines: list[VirtualLine], tmp_path: Path, wanted: Order, identify: bool = False) -> dict[str, Any]:
    """What discovery makes of these lines and their programmers."""
    programmers = [str(line.programmer(name)) for line in lines for name in line.boards]
    found = find([str(line.line) for line in lines], programmers)
    return discover(found, wanted, identify, str(tmp_path), tmp_path / "scratch")


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[list[VirtualLine]]:
    """Units 2 and 7 on one line, unit 3 on another."""
    with (
        VirtualLine(tmp_path / "one", [Board("mixer", 2), Board("press", 7)]) as one,
        VirtualLine(tmp_path / "two", [Board("mill", 3)]) as two,
    ):
        for line in (one, two):
            # Where that is allowed the boards keep their pace however busy the machine is, as real ones do.
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(line.pid, os.SCHED_RR, os.sched_param(1))
        yield [one, two]


class Slave:
    """Unit ``unit`` at one baud rate: an exception for whatever it is asked, and how many frames it saw at others.

    ``damage`` is added to the last byte of each answer.
    """

    def __init__(self, baudrate: int, unit: int, damage: int = 0) -> None:
        self._speed = getattr(termios, f"B{baudrate}")
        self._unit = unit
        self._damage = damage
        self.master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.line = os.ttyname(self._slave)
        self.others = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while frame := os.read(self.master, 256):
                if termios.tcgetattr(self._slave)[4] != self._speed:
                    self.others += 1
                elif frame[0] == self._unit:
                    answer = rtu.seal(bytes([frame[0], frame[1] | 0x80, 2]))
                    os.write(self.master, answer[:-1] + bytes([answer[-1] + self._damage & 0xFF]))

    def close(self) -> None:
        os.close(self.master)
        os.close(self._slave)


@contextlib.contextmanager
def slave(*settings: int, **options: int) -> Iterator[Slave]:
    one = Slave(*settings, **options)
    try:
        yield one
    finally:
        one.close()


def test_a_scan_finds_what_answers_and_writes_nothing(lines: list[VirtualLine], tmp_path: Path) -> None:
    found = look(lines, tmp_path, order("1-9"))
    assert [(one["line"], one["unit"], one["profile"], one["version"]) for one in found["controllers"]] == [
        (str(lines[0].line), 2, "multi_sonicator_io", "1.0.0"),
        (str(lines[0].line), 7, "multi_sonicator_io", "1.0.0"),
        (str(lines[1].line), 3, "multi_sonicator_io", "1.0.0"),
    ]
    assert all(one["at_rest"] for one in found["controllers"])
    for line in lines:
        state = line.state()
        assert state["requests"] > 9
        assert state["write_requests"] == state["gap_violations"] == state["collisions"] == 0
        for board in state["boards"].values():
            assert board["boots"] == 1
            assert (board["programmer"]["opened"], board["programmer"]["rx_bytes"]) == (0, 0)


def test_programmers_are_matched_with_the_controllers_they_reset(lines: list[VirtualLine], tmp_path: Path) -> None:
    with contextlib.closing(open_bus(str(lines[0].line))) as bus:
        Device("press", 7, profile(), bus).write("sonicator1_amplitude", 55)
    for line in lines:
        line.control("line", "counters_reset")
    found = look(lines, tmp_path, order("1-9"), identify=True)
    assert {one["unit"]: one["programmer"] for one in found["controllers"]} == {
        2: str(lines[0].programmer("mixer")),
        7: str(lines[0].programmer("press")),
        3: str(lines[1].programmer("mill")),
    }
    assert {one["unit"]: one["settings_lost"] for one in found["controllers"]} == {
        2: {}, 3: {}, 7: {"sonicator1_amplitude": 55}
    }  # fmt: skip
    assert found["notes"] == [
        f"unit 7 on {lines[0].line} lost settings with the restart, which were: sonicator1_amplitude 55"
    ]
    for line in lines:
        assert line.state()["write_requests"] == 0
        assert [board["programmer"]["enters"] for board in line.state()["boards"].values()] == [1] * len(line.boards)
        assert [board["programmer"]["pages"] for board in line.state()["boards"].values()] == [0] * len(line.boards)


def test_no_programmer_is_asked_where_something_might_run(lines: list[VirtualLine], tmp_path: Path) -> None:
    with contextlib.closing(open_bus(str(lines[1].line))) as bus:
        Device("mill", 3, profile(), bus).write("emergency_stop", 1)
    found = look(lines, tmp_path, order("1-9"), identify=True)
    assert len(found["notes"]) == 1
    assert f"no programmer was asked, since that resets its controller: unit 3 on {lines[1].line}" in found["notes"][0]
    with contextlib.closing(open_bus(str(lines[1].line))) as bus:
        Device("mill", 3, profile(), bus).write("emergency_stop", 0)
    with slave(115200, 9) as unknown:
        ports = find([str(lines[0].line), unknown.line], [str(lines[0].programmer("mixer"))])
        found = discover(ports, order("1-9"), True, str(tmp_path), tmp_path / "scratch")
    assert any("unit 9 on" in note and "fits no profile with a part" in note for note in found["notes"])
    used = Port("/dev/used", ("/dev/used",), "/dev/used", kind="line", used_by=("PID 1 (keeper)",))
    unknown_use = Port("/dev/what", ("/dev/what",), "/dev/what")
    found = discover([*ports, used, unknown_use], order("1-3"), True, str(tmp_path), tmp_path / "scratch")
    assert "/dev/used: not scanned: PID 1 (keeper) uses it" in found["notes"][0]
    assert "/dev/what: not scanned" in found["notes"][0]
    for line in lines:
        assert [board["boots"] for board in line.state()["boards"].values()] == [1] * len(line.boards)


def test_a_programmer_whose_controller_is_silent_is_told_as_such(lines: list[VirtualLine], tmp_path: Path) -> None:
    lines[0].control("press", "silent", "on")
    found = look(lines, tmp_path, order("1-9"), identify=True)
    assert {one["unit"]: one["programmer"] for one in found["controllers"]} == {
        2: str(lines[0].programmer("mixer")),
        3: str(lines[1].programmer("mill")),
    }
    assert len(found["notes"]) == 1
    assert str(lines[0].programmer("press")) in found["notes"][0]
    assert "resets none of the controllers that were found" in found["notes"][0]


def test_the_baud_rate_is_found_and_kept_to(tmp_path: Path) -> None:
    with slave(9600, 4) as one:
        found = discover(find([one.line]), order("4", "3-6", baudrates=[57600, 9600, 1200]))
        at_other_rates = one.others
    (controller,) = found["controllers"]
    assert (controller["unit"], controller["baudrate"], controller["profile"]) == (4, 9600, None)
    assert controller["misfits"]["multi_sonicator_io"] == ["answers at 9600 baud, expected 115200"]
    assert at_other_rates == 2, "unit 4 at 115200 and 57600, and nothing more once it has answered"
    assert found["inventory"]["controllers"] == []


@pytest.mark.timing
def test_a_scan_ends_at_its_deadline(tmp_path: Path) -> None:
    with slave(9600, 250) as nobody:
        began = time.monotonic()
        (port,) = discover(find([nobody.line]), order("1-247", deadline=1.0))["ports"]
        took = time.monotonic() - began
    assert not port["scan"]["complete"]
    assert re.search(r"^1 s are over: asked up to unit [2-5] at 115200 baud; give fewer units", port["scan"]["msg"])
    # Listening, the deadline, the last request, and what a busy machine adds.
    assert took < 1.1 + 1.0 + 0.3 + 1.0


def test_a_line_that_another_master_talks_on_is_left_alone(tmp_path: Path) -> None:
    with slave(115200, 2) as one:
        ended = threading.Event()

        def talk() -> None:
            while not ended.wait(0.2):
                os.write(one.master, b"\x02\x03\x00\x00")

        talking = threading.Thread(target=talk)
        talking.start()
        (port,) = discover(find([one.line]), order("2"))["ports"]
        ended.set()
        talking.join()
    assert port["scan"]["msg"].startswith("not scanned: another master talks on the line")


def test_a_port_that_somebody_uses_is_told_and_not_opened(lines: list[VirtualLine], tmp_path: Path) -> None:
    line = lines[0]
    child = os.fork()
    if child == 0:
        os.open(line.line, os.O_RDWR | os.O_NOCTTY)
        time.sleep(60)
        os._exit(0)
    try:
        deadline = time.monotonic() + 10
        while not find([str(line.line)])[0].used_by and time.monotonic() < deadline:
            time.sleep(0.02)
        found = discover(find([str(line.line)]), order("2"))
        (port,) = found["ports"]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert f"PID {child}" in port["used_by"][0]
    assert port["scan"]["msg"].startswith("not scanned: PID")
    assert line.state()["requests"] == 0
    assert "controllers" not in found["inventory"], "nobody knows of any, which is not the same as none"


def test_a_unit_that_answers_with_noise_is_told(tmp_path: Path) -> None:
    with slave(115200, 6, damage=1) as one:
        found = discover(find([one.line]), order("5-6"))
    assert found["controllers"] == []
    (note,) = found["notes"]
    assert "unit 6 at 115200 baud: no valid answer; two units with one id" in note

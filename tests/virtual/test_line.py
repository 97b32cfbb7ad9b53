# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated line: several boards, what is counted, and what can go wrong on it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.virtual import Board, ControlError, VirtualLine, firmware
from virtual.avrdude import wait_until
from virtual.master import GAP, Master, Refused, Silence, crc


@pytest.fixture
def line(tmp_path: Path) -> Iterator[VirtualLine]:
    with VirtualLine(tmp_path, [Board("a", 2), Board("b", 3), Board("c", 4, programmer=False)]) as started:
        yield started


@pytest.fixture
def master(line: VirtualLine) -> Iterator[Master]:
    with Master(line.line) as opened:
        yield opened


@pytest.mark.timing
def test_boards_of_one_line_answer_in_turn(line: VirtualLine, master: Master) -> None:
    """Each hears the others' answers, and a request 1.75 ms after one of them is still a request of its own."""
    for turn in range(40):
        for unit in (2, 3, 4):
            master.write(0x0101, 20 + unit + turn, unit)
            assert master.read(0x0100, 50, unit)[1] == 20 + unit + turn
    for unit in (2, 3, 4):
        assert master.read(0x0004, 1, unit) == [0], "no communication errors"
    state = line.state()
    assert (state["bad_frames"], state["collisions"], state["gap_violations"]) == (0, 0, 0)
    for board in ("a", "b", "c"):
        assert state["boards"][board]["uart_rx_bytes"] > state["rx_bytes"]


@pytest.mark.timing
def test_the_wire_takes_its_time(master: Master) -> None:
    """A request of 8 and an answer of 105 bytes at 115200 baud, and the gap between them."""
    took = []
    for _turn in range(20):
        began = time.monotonic()
        master.read(0x0100, 50)
        took.append(time.monotonic() - began)
    wire = (8 + 105) * 10 / 115200 + 2 * GAP
    # A busy machine can only make a read longer.
    assert wire * 0.95 < sum(took) / len(took)
    assert min(took) < wire * 1.5


def test_requests_are_counted(line: VirtualLine, master: Master) -> None:
    for _turn in range(3):
        master.read(0, 5)
    master.write(0x0101, 60)
    master.write_block(0x0101, [60, 0])
    with pytest.raises(Refused):
        master.write(0x0000, 1)
    with pytest.raises(Silence):
        master.read(0, 1, 9)
    for function, rest in ((5, "0001ff00"), (15, "0000000801ff"), (22, "0004f2f20025"), (23, "0000000100100001020001")):
        with pytest.raises(Refused, match="exception 1"):
            master.request(bytes([function]) + bytes.fromhex(rest))
    frame = bytes([2, 6, 1, 1, 0, 60])
    master.send(frame + b"xx")
    time.sleep(0.02)
    state = line.state()
    assert state["units"]["2"] | {"longest_gap_ms": 0} == {"requests": 10, "write_requests": 7, "longest_gap_ms": 0}
    assert state["units"]["9"]["requests"] == 1
    assert (state["requests"], state["write_requests"], state["bad_frames"]) == (11, 7, 1)
    assert (state["boards"]["a"]["requests"], state["boards"]["b"]["requests"]) == (10, 0)
    reset = line.control("line", "counters_reset")
    assert (reset["requests"], reset["units"], reset["boards"]["a"]["uart_rx_bytes"]) == (0, {}, 0)


@pytest.mark.timing
def test_longest_gap_between_requests(line: VirtualLine, master: Master) -> None:
    began = time.monotonic()
    master.read(0)
    time.sleep(0.3)
    master.read(0)
    passed = (time.monotonic() - began) * 1000
    master.read(0)
    assert 300 <= line.state("a")["longest_gap_ms"] <= passed + 1


@pytest.mark.timing
def test_a_request_that_follows_too_soon_is_counted(line: VirtualLine, master: Master) -> None:
    request = bytes([2, 3, 0, 0, 0, 1])
    master.read(0)
    assert line.state()["gap_violations"] == 0
    # On a busy machine a request may come later than it was meant to.
    for _turn in range(20):
        master.send(request + crc(request))
        master.receive(0.1)
        if violations := line.state()["gap_violations"]:
            break
    assert violations == 1


def test_silent_board(line: VirtualLine, master: Master) -> None:
    line.control("a", "silent", "on")
    assert not master.answers()
    assert master.answers(3)
    state = line.state("a")
    assert state["mcu"] == "running" and state["uart_tx_bytes"] > 0
    line.control("a", "clear")
    assert master.answers()


def test_power_off_and_on(line: VirtualLine, master: Master) -> None:
    master.write(0x0101, 77)
    assert line.control("a", "power", "off")["mcu"] == "off"
    assert not master.answers()
    assert line.control("a", "power", "on")["boots"] == 2
    time.sleep(0.02)
    assert master.read(0x0101) == [50]
    assert master.read(0x0006) == [2], "last shutdown: power loss"


def test_reset_is_no_power_loss(line: VirtualLine, master: Master) -> None:
    line.control("a", "reset")
    time.sleep(0.02)
    assert master.read(0x0006) == [0]
    master.write(0x0011, 1)
    line.control("a", "reset")
    time.sleep(0.02)
    assert master.read(0x0006) == [3], "last shutdown: emergency stop"


def test_unplugged_line(line: VirtualLine, master: Master) -> None:
    line.control("line", "unplug")
    assert not line.line.is_symlink()
    with pytest.raises(OSError):
        os.write(master._port, b"x")
    assert line.control("line", "plug")["plugged"] is True
    with Master(line.line) as again:
        assert again.answers()


def test_noise_to_the_boards(line: VirtualLine, master: Master) -> None:
    line.control("line", "noise_rx", 8)
    failures = sum(not master.answers() for _turn in range(20))
    line.control("line", "noise_rx", 0)
    assert failures > 3
    assert master.read(0x0004)[0] > 0
    assert line.state()["noise_hits"] > 0


def test_noise_to_the_master(line: VirtualLine, master: Master) -> None:
    line.control("line", "noise_tx", 8)
    failures = sum(not master.answers() for _turn in range(20))
    line.control("line", "clear")
    assert failures > 3
    assert master.read(0x0004) == [0]


def test_acknowledged_and_discarded_writes(line: VirtualLine, master: Master) -> None:
    line.control("a", "discard_writes", "on")
    master.write(0x0101, 77)
    master.write_block(0x0101, [78, 0])
    assert master.read(0x0101) == [50]
    master.write(0x0101, 79, 3)
    assert master.read(0x0101, 1, 3) == [79]
    assert line.state()["discarded"] == 2
    assert line.state("a")["write_requests"] == 2
    line.control("a", "clear")
    master.write(0x0101, 77)
    assert master.read(0x0101) == [77]


@pytest.mark.parametrize("count", [126, 255, 0x017D])
def test_what_modbus_does_not_allow_is_not_acknowledged(line: VirtualLine, master: Master, count: int) -> None:
    """A request that also reads: up to 125 registers, which is what an answer holds."""
    line.control("a", "discard_writes", "on")
    writes = bytes.fromhex("010100010200dd")
    assert master.request(bytes.fromhex("170000007d") + writes) == bytes([250, *bytes(250)])
    with pytest.raises(Refused, match="exception 1"):
        master.request(bytes([23, 0, 0, *count.to_bytes(2)]) + writes)
    assert line.state()["discarded"] == 1
    assert master.read(0x0101) == [50]


def test_wrong_clock_fuses_garble_the_line(line: VirtualLine, master: Master) -> None:
    """8 MHz of the internal oscillator halve the baud rate."""
    line.kill()
    line.memory("a", "fuses").write_text("lfuse 0xE4\nhfuse 0xD9\nlock 0xFF\n")
    line.start()
    with Master(line.line) as again:
        assert line.state("a")["clock_mhz"] == 8
        assert not again.answers(2)
        assert again.answers(3)


def test_board_with_an_empty_flash(tmp_path: Path) -> None:
    with VirtualLine(tmp_path, [Board("a", firmware=None)]) as line, Master(line.line) as master:
        assert not master.answers()
        wait_until(lambda: line.state("a")["mcu"] == "crashed")


def test_a_closed_line_keeps_nothing_for_the_next_master(line: VirtualLine) -> None:
    request = bytes([2, 3, 0, 0, 0, 1])
    with Master(line.line) as master:
        master.send(request + crc(request))
        time.sleep(0.001)
    time.sleep(0.05)
    with Master(line.line) as master:
        assert master.receive(0.05) == b""
        assert master.answers()


def test_faults_of_the_configuration(tmp_path: Path) -> None:
    boards = [Board("a", faults=["silent on"]), Board("b", 3)]
    with VirtualLine(tmp_path, boards, faults=["noise_rx 0"]) as line, Master(line.line) as master:
        assert not master.answers()
        assert master.answers(3)


@pytest.mark.timing
def test_a_firmware_that_never_answers_costs_little(tmp_path: Path) -> None:
    with VirtualLine(tmp_path, [Board("a", firmware=firmware("1.2.0"))]) as line, Master(line.line) as master:
        before = line.state()["cpu_s"]
        assert not master.answers()
        time.sleep(1)
        assert line.state("a")["mcu"] == "running"
        assert line.state()["cpu_s"] - before < 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "state"), 'no board "x"'),
        (("a", "nonsense"), 'unknown command "nonsense"'),
        (("line", "nonsense"), 'unknown command "nonsense"'),
        (("a", "power", "maybe"), "expected on or off"),
        (("a", "hold_after_pages"), "expected the number of pages"),
        (("a", "hold_after_pages", "0"), "1 or more"),
        (("a", "hold_at", "dawn"), "expected page, erase"),
        (("a", "signature", "1E"), "three bytes"),
        (("a", "signature", "1E", "95", "XX"), '"XX" is not a byte'),
        (("a", "corrupt_read", "32768"), "from 0 to 32767"),
        (("a",), "BOARD|line COMMAND"),
    ],
)
def test_commands_that_are_refused(line: VirtualLine, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ControlError) as refused:
        line.control(*words)
    assert message in str(refused.value)

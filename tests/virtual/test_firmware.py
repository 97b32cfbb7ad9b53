# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference firmware obeys the safety rules; its released images are what its sources give."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.virtual import FIRMWARE, Board, VirtualLine, firmware
from virtual.avrdude import image_of
from virtual.master import Master, Refused, Silence

ACTIVE_MASK, VERSION, UPTIME, STARTS, STOPS, SILENCE_STOPS = 0x02, 0x07, 0x09, 0x0A, 0x0B, 0x0C
ENABLE, EMERGENCY_STOP, RESET, INHIBIT = 0x10, 0x11, 0x12, 0x13
SONICATORS = [0x100, 0x120, 0x140, 0x160]
AMPLITUDE, OVERLOAD_RESET, POWER, FLAGS, ACTUAL, PERSISTED = 0x01, 0x02, 0x10, 0x12, 0x13, 0x15


@pytest.fixture
def line(tmp_path: Path) -> Iterator[VirtualLine]:
    with VirtualLine(tmp_path, [Board("a", 2), Board("b", 3)]) as started:
        yield started


@pytest.fixture
def master(line: VirtualLine) -> Iterator[Master]:
    with Master(line.line) as opened:
        yield opened


def refused(master: Master, address: int, value: int) -> int:
    with pytest.raises(Refused) as refusal:
        master.write(address, value)
    return refusal.value.code


def test_power_up(master: Master) -> None:
    assert master.read(0x00, 20) == [1, 0, 0, 1, 0, 0, 2, 0x0100, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    for base in SONICATORS:
        assert master.read(base, 32) == [0, 50, *[0] * 30]


def test_start_and_stop(master: Master) -> None:
    master.write(SONICATORS[1] + AMPLITUDE, 60)
    master.write(SONICATORS[1], 1)
    assert master.read(ACTIVE_MASK) == [0b0010]
    assert master.read(SONICATORS[1] + FLAGS) == [0b001]
    master.talk(0.3, 0.05)
    values = master.read(SONICATORS[1], 32)
    assert values[FLAGS] == 0b101 and values[ACTUAL] == 60
    assert 450 <= values[POWER] * 5 / 1023 / 0.00544 <= 520
    assert 1900 < values[0x11] < 2100
    master.write(SONICATORS[1], 0)
    assert master.read(SONICATORS[1] + POWER, 4) == [0, 0, 0, 0]
    assert master.read(STARTS, 3) == [1, 1, 0]


@pytest.mark.timing
def test_silence_stops_after_one_second_and_no_sooner(line: VirtualLine, master: Master) -> None:
    """Only requests to the unit itself count; the state is read at the line of the neighbour's clock, not its own."""

    def stopped_after(silence: float) -> tuple[bool, float]:
        line.control("a", "reset")
        time.sleep(0.02)
        began = time.monotonic()
        master.write(SONICATORS[0], 1)
        quiet_since = time.monotonic()
        while time.monotonic() < quiet_since + silence - 0.02:
            master.read(0, 1, 3)
            time.sleep(0.1)
        time.sleep(max(0.0, quiet_since + silence - time.monotonic()))
        running = master.read(ACTIVE_MASK) == [1]
        passed = time.monotonic() - began
        assert master.read(SILENCE_STOPS) == [int(not running)]
        return not running, passed

    # On a busy machine the question may come too late to tell anything.
    assert any(not stopped and passed < 1 for stopped, passed in (stopped_after(0.9) for _turn in range(5)))
    assert stopped_after(1.3)[0]
    assert master.read(0) == [8], "communication fault, latched"
    master.talk(0.3)
    assert master.read(0) == [8]
    master.write(SONICATORS[0], 1)
    assert master.read(0) == [1], "until the next start"


def test_silence_is_no_fault_when_nothing_runs(master: Master) -> None:
    master.read(0)
    time.sleep(1.2)
    assert (master.read(0), master.read(SILENCE_STOPS)) == ([1], [0])


def test_emergency_stop_latches(master: Master) -> None:
    master.write(SONICATORS[0], 1)
    master.write(EMERGENCY_STOP, 1)
    assert master.read(ACTIVE_MASK) == [0]
    assert master.read(0) == [4]
    assert refused(master, SONICATORS[0], 1) == 4
    assert refused(master, EMERGENCY_STOP, 2) == 3
    master.write(EMERGENCY_STOP, 0)
    assert (master.read(0), master.read(ACTIVE_MASK)) == ([1], [0]), "nothing resumes"
    master.write(SONICATORS[0], 1)
    assert master.read(ACTIVE_MASK) == [1]


def test_inhibited_sonicator_ignores_starts_but_runs_on(master: Master) -> None:
    master.write(SONICATORS[0], 1)
    master.write(INHIBIT, 0b0011)
    master.write(SONICATORS[0], 1)
    master.write(SONICATORS[1], 1)
    master.write(SONICATORS[2], 1)
    assert master.read(ACTIVE_MASK) == [0b0101]
    master.write(SONICATORS[0], 0)
    master.write(SONICATORS[0], 1)
    assert master.read(ACTIVE_MASK) == [0b0100]
    assert refused(master, INHIBIT, 16) == 3


def test_global_enable(master: Master) -> None:
    master.write(SONICATORS[3], 1)
    master.write(ENABLE, 0)
    assert master.read(ACTIVE_MASK) == [0]
    assert refused(master, SONICATORS[3], 1) == 4
    master.write(ENABLE, 1)
    master.write(SONICATORS[3], 1)


@pytest.mark.parametrize(
    ("value", "good"), [(19, False), (20, True), (100, True), (101, False), (0, False), (65535, False)]
)
def test_amplitude_range(master: Master, value: int, good: bool) -> None:
    if good:
        master.write(SONICATORS[2] + AMPLITUDE, value)
    else:
        assert refused(master, SONICATORS[2] + AMPLITUDE, value) == 3
    assert master.read(SONICATORS[2] + AMPLITUDE) == [value if good else 50]


def test_a_block_is_written_whole_or_not_at_all(master: Master) -> None:
    with pytest.raises(Refused, match="exception 3"):
        master.write_block(SONICATORS[0] + AMPLITUDE, [60, 2])
    assert master.read(SONICATORS[0] + AMPLITUDE, 2) == [50, 0]
    master.write_block(SONICATORS[0], [0, 61, 1])
    assert master.read(SONICATORS[0], 3) == [0, 61, 1]


def test_what_can_be_read(master: Master) -> None:
    assert len(master.read(0x100, 50)) == 50
    refusals = {(0, 51): 3, (0, 0): 3, (0x14, 1): 2, (0x13, 2): 2, (0xFF, 1): 2, (0x180, 1): 2, (0x17F, 2): 2}
    for (address, count), code in refusals.items():
        with pytest.raises(Refused) as refusal:
            master.read(address, count)
        assert refusal.value.code == code, hex(address)
    assert master.read(0x17F) == [0]


def test_what_can_be_written(master: Master) -> None:
    for address in (0x00, 0x07, 0x0F, 0x14, 0x103, SONICATORS[0] + POWER, 0x180):
        assert refused(master, address, 1) == 2, hex(address)
    with pytest.raises(Refused, match="exception 1"):
        master.request(bytes([4, 0, 0, 0, 1]))
    with pytest.raises(Refused, match="exception 3"):
        master.request(bytes([16, 1, 1, 0, 2, 3, 0, 60, 0]))
    with pytest.raises(Silence):  # broadcasts are not supported
        master.write(EMERGENCY_STOP, 1, 0)
    assert master.read(EMERGENCY_STOP) == [0]


def test_system_reset(line: VirtualLine, master: Master) -> None:
    master.write(SONICATORS[0] + AMPLITUDE, 70)
    master.write(SONICATORS[0], 1)
    assert refused(master, RESET, 1) == 3
    master.write(RESET, 0xA5C3)
    time.sleep(0.1)
    values = master.read(0, 20)
    assert (values[ACTIVE_MASK], values[6], values[UPTIME], values[STARTS]) == (0, 0, 0, 0)
    assert master.read(SONICATORS[0] + AMPLITUDE) == [50]
    assert line.state("a")["boots"] == 1, "it was the firmware that did it"


@pytest.mark.timing
def test_uptime(master: Master) -> None:
    before = master.read(UPTIME)[0]
    time.sleep(2)
    assert master.read(UPTIME)[0] == before + 2


def test_persisted_amplitude_outlives_power_and_simulator(line: VirtualLine, master: Master) -> None:
    master.write(SONICATORS[1] + AMPLITUDE, 65)
    master.write(SONICATORS[1], 1)
    master.talk(0.4, 0.05)
    assert line.memory("a", "eeprom.bin").read_bytes()[20:24] == b"\xff\x41\xff\xff"
    line.kill()
    line.start()
    with Master(line.line) as again:
        assert again.read(SONICATORS[1] + PERSISTED) == [65]
        assert again.read(SONICATORS[1] + AMPLITUDE) == [50], "a setting it is not"


def test_unit_is_in_the_eeprom(tmp_path: Path) -> None:
    with VirtualLine(tmp_path, [Board("a", 17)]) as line, Master(line.line, 17) as master:
        assert master.answers(17)
        assert not master.answers(2)
        line.stop()
        line.memory("a", "eeprom.bin").write_bytes(b"\xff" * 1024)
        line.start()
        with Master(line.line) as again:
            assert again.answers(2), "an erased one answers under the default"


def test_damaged_frames_are_counted_and_cost_nothing_else(master: Master) -> None:
    for damaged in (b"\x02\x03\x00\x00\x00\x01\x00\x00", b"x", b"\x02" * 255):
        master.send(damaged)
        time.sleep(0.05)
    assert master.read(0x04) == [3]


@pytest.mark.parametrize(("release", "expected"), [("1.0.0", 0x0100), ("1.1.0", 0x0101)])
def test_releases_name_their_version(tmp_path: Path, release: str, expected: int) -> None:
    with VirtualLine(tmp_path, [Board("a", firmware=firmware(release))]) as line, Master(line.line) as master:
        assert master.read(VERSION, 2) == [expected, 0]


def test_release_1_2_0_never_answers(tmp_path: Path) -> None:
    with VirtualLine(tmp_path, [Board("a", firmware=firmware("1.2.0"))]) as line, Master(line.line) as master:
        assert not any(master.answers() for _turn in range(5))
        assert line.state("a")["uart_tx_bytes"] == 0


@pytest.mark.timing
def test_observed_firmware(tmp_path: Path) -> None:
    """What the published firmware does, with the one fatal fault out of the way."""
    boards = [Board("a", 2, firmware("observed")), Board("b", 3)]
    with VirtualLine(tmp_path, boards) as line, Master(line.line) as master:
        took = []
        for _turn in range(10):
            began = time.monotonic()
            assert master.read(0, 8) == [1, 0, 0, 1, 0, 0, 0, 0]
            took.append(time.monotonic() - began)
        # A busy machine can only make a read longer.
        assert 0.011 < min(took) < 0.02
        with pytest.raises(Refused, match="exception 1"):
            master.write_block(0x10, [1])
        master.write(0x120, 1)
        # Sonicator 1, one block on, its status one word early.
        assert master.read(0x120, 32)[0x0F:0x13] == [450, 2000, 5, 50]
        assert len(master.read(0x100, 61)) == 61
        with pytest.raises(Silence):
            master.read(0x100, 62)
        for hole in (0x20, 0xFF, 0x420):
            with pytest.raises(Refused, match="exception 2"):
                master.read(hole)
        master.write(0x11, 60)
        assert master.read(0)[0] & 4, "the amplitude latches the emergency stop bit"
        master.send(b"x")
        time.sleep(0.02)
        assert not master.answers() and master.answers(), "a stray byte costs the next request"
        master.read(0, 1, 3)
        assert not master.answers(), "traffic to another slave makes it miss the next request"
        master.read(0, 1, 3)
        time.sleep(0.04)
        assert master.answers()
        time.sleep(1.1)
        assert not master.answers() and not master.answers(), "deaf after silence"
        line.control("a", "reset")
        assert master.answers()


def test_images_are_small_enough_to_be_cut_at_every_page() -> None:
    for release in ("1.0.0", "1.1.0", "1.2.0"):
        assert len(image_of(firmware(release))) <= 24 * 128


def test_rebuild_gives_the_released_bytes(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "-C", str(FIRMWARE), f"OUTPUT={tmp_path}"], check=True)
    built = sorted(path.name for path in tmp_path.iterdir())
    assert built == sorted(path.name for path in FIRMWARE.glob("*.hex"))
    for name in built:
        assert (tmp_path / name).read_bytes() == (FIRMWARE / name).read_bytes(), name

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated ArduinoISP, as the real avrdude finds it."""

from __future__ import annotations

import os
import select
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.virtual import Board, ControlError, VirtualLine, firmware, opened
from virtual.avrdude import avrdude, bytewise, flash, image_of, running, wait_until
from virtual.master import Master

OLD, NEW = firmware("1.0.0"), firmware("1.1.0")
PAGE = 128


@pytest.fixture
def line(tmp_path: Path) -> Iterator[VirtualLine]:
    with VirtualLine(tmp_path, [Board("a", 2), Board("b", 3)]) as started:
        yield started


def version(line: VirtualLine) -> int:
    with Master(line.line) as master:
        return master.read(0x0007)[0]


def pages_of(memory: bytes) -> list[bytes]:
    return [memory[at : at + PAGE] for at in range(0, len(memory), PAGE)]


def test_flash_verify_and_read_back(line: VirtualLine, tmp_path: Path) -> None:
    assert version(line) == 0x0100
    assert flash(line.programmer("a"), NEW).returncode == 0
    assert version(line) == 0x0101
    image = image_of(NEW)
    assert line.memory("a", "flash.bin").read_bytes() == image.ljust(32768, b"\xff")
    read = tmp_path / "read.bin"
    assert avrdude(line.programmer("a"), "-U", f"flash:r:{read}:r").returncode == 0
    assert read.read_bytes().ljust(len(image), b"\xff") == image
    counted = line.state("a")["programmer"]
    assert counted["pages"] == -(-len(image) // PAGE)
    assert counted["erases"] == 1 and counted["rx_bytes"] > len(image)
    other = line.state("b")["programmer"]
    assert (other["rx_bytes"], other["enters"], other["opened"]) == (0, 0, 0)


def eeprom_image(directory: Path) -> Path:
    image = directory / "eeprom.bin"
    image.write_bytes(bytes([2]) + bytes(n * 7 % 256 for n in range(1, 1024)))
    return image


def test_eeprom_in_the_flash_session(line: VirtualLine, tmp_path: Path) -> None:
    image = eeprom_image(tmp_path)
    part, port = bytewise(tmp_path), line.programmer("a")
    assert avrdude(port, *part, "-U", f"flash:w:{NEW}:i", "-U", f"eeprom:w:{image}:r").returncode == 0
    assert line.memory("a", "eeprom.bin").read_bytes() == image.read_bytes()
    assert version(line) == 0x0101
    read = tmp_path / "read.bin"
    assert avrdude(port, *part, "-U", f"eeprom:r:{read}:r").returncode == 0
    assert read.read_bytes() == image.read_bytes()


def test_eeprom_pages_go_where_the_sketch_puts_them(line: VirtualLine, tmp_path: Path) -> None:
    """avrdude 7.1 sends byte addresses, ArduinoISP takes them for words (avrdudes/avrdude#1337)."""
    image = tmp_path / "half.bin"
    image.write_bytes(bytes(range(8)))
    assert avrdude(line.programmer("a"), "-U", f"eeprom:w:{image}:r").returncode == 0
    expected = bytes(range(4)) + b"\xff" * 4 + bytes(range(4, 8))
    assert line.memory("a", "eeprom.bin").read_bytes()[:12] == expected


def test_fuses_lock_and_signature(line: VirtualLine) -> None:
    port = line.programmer("a")
    assert avrdude(port, "-U", "hfuse:w:0xd1:m", "-U", "lock:w:0xfc:m").returncode == 0
    assert line.memory("a", "fuses").read_text() == "lfuse 0xFF\nhfuse 0xD1\nlock 0xFC\n"
    assert line.state("a")["fuses"] == {"lfuse": 0xFF, "hfuse": 0xD1, "lock": 0xFC}
    found = avrdude(port, "-U", "hfuse:r:-:h", "-U", "lfuse:r:-:h", "-U", "signature:r:-:h")
    assert found.stdout.split() == ["0xd1", "0xff", "0x1e,0x95,0x2"]
    assert flash(port, NEW).returncode == 0
    assert line.state("a")["fuses"]["lock"] == 0xFF, "a chip erase unlocks"


@pytest.mark.parametrize(("hfuse", "kept"), [(0xD9, False), (0xD1, True)])
def test_chip_erase_respects_eesave(line: VirtualLine, hfuse: int, kept: bool) -> None:
    port = line.programmer("a")
    assert avrdude(port, "-U", f"hfuse:w:{hfuse:#x}:m").returncode == 0
    assert flash(port, NEW).returncode == 0
    assert line.memory("a", "eeprom.bin").read_bytes()[0] == (2 if kept else 0xFF)


def test_without_its_eeprom_a_board_collides_with_its_neighbour(line: VirtualLine) -> None:
    assert flash(line.programmer("b"), NEW).returncode == 0
    with Master(line.line) as master:
        assert not master.answers(3)
        assert not master.answers(2)
    assert line.state()["collisions"] > 0


def test_flash_without_erase_only_clears_bits(line: VirtualLine, tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(bytes(range(256)))
    before = line.memory("a", "flash.bin").read_bytes()
    assert avrdude(line.programmer("a"), "-D", "-V", "-U", f"flash:w:{other}:r").returncode == 0
    expected = bytes(old & new for old, new in zip(before, bytes(range(256)), strict=False))
    assert line.memory("a", "flash.bin").read_bytes()[:256] == expected
    with Master(line.line) as master:
        assert not master.answers()


def test_programming_mode_holds_the_board_in_reset(line: VirtualLine) -> None:
    with Master(line.line) as master:
        master.write(0x0101, 77)
        line.control("a", "hold_at", "enter")
        with running(line.programmer("a"), "-n") as process:
            wait_until(lambda: bool(line.state("a")["programmer"]["holding"]))
            assert line.state("a")["mcu"] == "reset"
            assert not master.answers()
            assert master.answers(3)
            line.control("a", "release")
            assert process.wait(10) == 0
        state = line.state("a")
        assert (state["mcu"], state["in_reset"]) == ("running", False)
        time.sleep(0.05)
        assert master.read(0x0101) == [50], "settings are lost with the reset"


@pytest.mark.parametrize("page", [1, 24])
def test_killed_avrdude_leaves_the_board_in_reset_until_the_next_run(line: VirtualLine, page: int) -> None:
    image = image_of(NEW).ljust(32768, b"\xff")
    line.control("a", "hold_after_pages", page)
    with running(line.programmer("a"), "-U", f"flash:w:{NEW}:i"):
        wait_until(lambda: bool(line.state("a")["programmer"]["holding"]))
    assert line.state("a")["programmer"]["pages"] == page
    flashed = line.memory("a", "flash.bin").read_bytes()
    assert flashed == image[: page * PAGE].ljust(32768, b"\xff")
    line.control("a", "release")
    assert line.state("a")["mcu"] == "reset"
    assert flash(line.programmer("a"), NEW).returncode == 0
    assert line.state("a")["mcu"] == "running"
    assert line.memory("a", "flash.bin").read_bytes() == image


@pytest.mark.parametrize("half", [False, True])
def test_power_lost_at_a_page_write(line: VirtualLine, half: bool) -> None:
    line.control("a", "power_off_after_pages", 5, *(["half"] if half else []))
    assert flash(line.programmer("a"), NEW).returncode != 0
    assert line.state("a")["mcu"] == "off"
    written = 4 * PAGE + (PAGE // 2 if half else 0)
    assert line.memory("a", "flash.bin").read_bytes() == image_of(NEW)[:written].ljust(32768, b"\xff")
    assert avrdude(line.programmer("a"), "-n").returncode != 0, "no answer from a chip without power"
    line.control("a", "power", "on")
    assert flash(line.programmer("a"), NEW).returncode == 0
    assert version(line) == 0x0101


def test_power_lost_at_the_erase(line: VirtualLine) -> None:
    line.control("a", "power_off_at", "erase")
    assert flash(line.programmer("a"), NEW).returncode != 0
    flashed = line.memory("a", "flash.bin").read_bytes()
    assert set(flashed[:16384]) == {0xFF}
    assert line.memory("a", "eeprom.bin").read_bytes()[0] == 2


def test_wrong_signature_changes_nothing(line: VirtualLine) -> None:
    line.control("a", "signature", "1E", "95", "0F")
    before = line.memory("a", "flash.bin").read_bytes()
    result = flash(line.programmer("a"), NEW)
    assert result.returncode == 1 and "signature" in result.stderr
    assert line.memory("a", "flash.bin").read_bytes() == before
    assert version(line) == 0x0100


@pytest.mark.parametrize("fault", ["corrupt_read", "corrupt_write"])
def test_corrupt_cell_fails_the_verification(line: VirtualLine, fault: str) -> None:
    line.control("a", fault, 0x123)
    result = flash(line.programmer("a"), NEW)
    assert result.returncode == 1 and "0x0123" in result.stderr
    differs = line.memory("a", "flash.bin").read_bytes()[0x123] != image_of(NEW)[0x123]
    assert differs == (fault == "corrupt_write")
    line.control("a", "clear")
    assert flash(line.programmer("a"), NEW).returncode == 0


def test_programmer_that_dies_hangs_avrdude(line: VirtualLine) -> None:
    line.control("a", "die_after_pages", 3)
    with running(line.programmer("a"), "-U", f"flash:w:{NEW}:i") as process:
        wait_until(lambda: bool(line.state("a")["programmer"]["dead"]))
        time.sleep(0.5)
        assert process.poll() is None
    assert line.state("a")["programmer"]["pages"] == 3
    line.control("a", "clear")
    assert flash(line.programmer("a"), NEW).returncode == 0


def test_mute_programmer(line: VirtualLine) -> None:
    line.control("a", "mute", "on")
    with running(line.programmer("a"), "-n") as process:
        wait_until(lambda: int(line.state("a")["programmer"]["rx_bytes"]) >= 4)
        assert process.poll() is None
    programmer = line.state("a")["programmer"]
    assert (programmer["tx_bytes"], programmer["enters"]) == (0, 0)


@pytest.mark.parametrize("count", [0x0120, 0xFF20])
def test_more_than_a_page_is_no_command(line: VirtualLine, count: int) -> None:
    """The low byte of the count is the mark that ends a command."""
    before = line.memory("a", "flash.bin").read_bytes()
    with opened(line.programmer("a")) as port:
        tty.setraw(port)

        def ask(command: bytes) -> bytes:
            os.write(port, command)
            assert select.select([port], [], [], 5)[0]
            time.sleep(0.05)
            return os.read(port, 100)

        assert ask(b"P ") == b"\x14\x10"
        assert ask(b"d" + count.to_bytes(2)) == b"\x15"
        assert ask(b"0 ") == b"\x14\x10"
        programmer = line.state("a")["programmer"]
        assert (programmer["pages"], programmer["eeprom_writes"], programmer["no_sync"]) == (0, 0, 1)
        assert ask(b"Q ") == b"\x14\x10"
    assert line.memory("a", "flash.bin").read_bytes() == before


def test_unplugged_programmer(line: VirtualLine) -> None:
    port = line.programmer("a")
    line.control("a", "hold_after_pages", 2)
    with running(port, "-U", f"flash:w:{NEW}:i") as process:
        wait_until(lambda: bool(line.state("a")["programmer"]["holding"]))
        descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        assert line.control("a", "unplug")["programmer"]["plugged"] is False
        assert not port.is_symlink()
        with pytest.raises(OSError):
            os.write(descriptor, b"x")
        os.close(descriptor)
        time.sleep(0.2)
        assert process.poll() is None, "avrdude spins on the port that is gone"
    assert avrdude(port, "-n").returncode == 1
    line.control("a", "plug")
    line.control("a", "release")
    assert flash(port, NEW).returncode == 0


def test_noise_on_the_programmers_wire_is_noticed(line: VirtualLine) -> None:
    line.control("a", "programmer_noise", 300)
    with running(line.programmer("a"), "-U", f"flash:w:{NEW}:i") as process:
        time.sleep(2)
        assert process.poll() != 0
    line.control("a", "clear")
    assert flash(line.programmer("a"), NEW).returncode == 0


def test_board_without_programmer_has_no_programmer_commands(tmp_path: Path) -> None:
    with VirtualLine(tmp_path, [Board("a", programmer=False)]) as line:
        assert line.state("a")["programmer"] is None
        assert not line.programmer("a").exists()
        with pytest.raises(ControlError, match="without programmer"):
            line.control("a", "hold_after_pages", 1)


def test_autoreset_releases_the_board(tmp_path: Path) -> None:
    with VirtualLine(tmp_path, [Board("a")], programmer_autoreset=100) as line:
        line.control("a", "hold_at", "enter")
        with running(line.programmer("a"), "-n"):
            wait_until(lambda: bool(line.state("a")["programmer"]["holding"]))
        line.control("a", "release")
        assert line.state("a")["mcu"] == "reset"
        descriptor = os.open(line.programmer("a"), os.O_RDWR | os.O_NOCTTY)
        wait_until(lambda: line.state("a")["mcu"] == "running")
        os.close(descriptor)


@pytest.mark.timing
def test_paced_programmer_does_not_hold_up_the_line(tmp_path: Path) -> None:
    """A page takes 75 ms on a wire of 19200 baud, and the sketch waits 30 ms after it: others answer meanwhile."""
    part = tmp_path / "part.bin"
    part.write_bytes(bytes(range(256)) * 2)
    boards = [Board("a", 2), Board("b", 3)]
    paced = VirtualLine(tmp_path, boards, programmer_baudrate=19200, programmer_delays=True)
    with paced as line, Master(line.line, 3) as master:
        took = []
        began = time.monotonic()
        with running(line.programmer("a"), "-U", f"flash:w:{part}:r") as process:
            while process.poll() is None:
                asked = time.monotonic()
                master.read(0)
                took.append(time.monotonic() - asked)
                time.sleep(0.002)
            assert process.returncode == 0
        assert line.state("a")["programmer"]["pages"] == 4
        # 4 pages written and read at 10 bits a byte
        assert time.monotonic() - began > 2 * 4 * PAGE * 10 / 19200 + 4 * 0.03
        # Held up by pages it would be one request a page written or read, eight in all; a busy machine delays some.
        assert sum(one > 0.05 for one in took) < 4

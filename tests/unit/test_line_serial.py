# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The serial line when things go wrong: noise, silence, vanishing ports, and ports that somebody else holds."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import select
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _core import line as line_module
from _core import lock, rtu
from _core.errors import BadFrame, CoreError, ExceptionAnswer, MissingPackage, NoAnswer, PortBusy, PortMissing
from _core.line import SerialBus, open_bus

Script = Callable[["Slave", bytes], None]


def right_answer(slave: Slave, request: bytes) -> None:
    """Register A of any unit holds A, and a write is acknowledged."""
    if request[1] in (6, 16):
        slave.send(rtu.seal(request[:6]))
        return
    address, count = request[2] << 8 | request[3], request[5]
    data = b"".join(one.to_bytes(2, "big") for one in range(address, address + count))
    slave.send(rtu.seal(bytes([request[0], request[1], 2 * count]) + data))


class Slave:
    """A slave behind a PTY that does with each request what the test's script says."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.script: Script = right_answer
        self.requests: list[bytes] = []
        self.plug_in()

    def plug_in(self) -> None:
        self.master, self._keeper = os.openpty()
        tty.setraw(self._keeper)
        self._ended, self._end = os.pipe()
        self.link.symlink_to(os.ttyname(self._keeper))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def unplug(self) -> None:
        self.link.unlink()
        os.write(self._end, b"x")
        self._thread.join()
        for fd in (self.master, self._keeper, self._ended, self._end):
            os.close(fd)

    def send(self, data: bytes) -> None:
        os.write(self.master, data)

    def _serve(self) -> None:
        received = b""
        while self._ended not in select.select([self.master, self._ended], [], [])[0]:
            received += os.read(self.master, 512)
            if len(received) >= 8 and (received[1] != 16 or len(received) >= 9 + received[6]):
                self.requests.append(received)
                request, received = received, b""
                self.script(self, request)


@pytest.fixture
def slave(tmp_path: Path) -> Iterator[Slave]:
    one = Slave(tmp_path / "line_1")
    yield one
    if one.link.is_symlink():
        one.unplug()


@pytest.fixture
def bus(slave: Slave) -> Iterator[SerialBus]:
    opened = SerialBus(str(slave.link), response_timeout=0.3, lock_timeout=0.5)
    yield opened
    opened.close()


def test_writes_go_out_as_asked(slave: Slave, bus: SerialBus) -> None:
    bus.write(2, 0x10, [7], function=6)
    bus.write(2, 0x10, [7, 8])
    assert slave.requests == [
        rtu.write_request(2, 0x10, [7], 6).frame,
        rtu.write_request(2, 0x10, [7, 8], 16).frame,
    ]


def test_silence(slave: Slave, bus: SerialBus) -> None:
    slave.script = lambda *_: None
    started = time.monotonic()
    with pytest.raises(NoAnswer, match=r"unit 2, function 3, 2 registers 0x0010-0x0011: .*within 0\.3 s.*wiring"):
        bus.read(2, 0x10, 2)
    assert 0.3 <= time.monotonic() - started < 1
    slave.script = right_answer
    assert bus.read(3, 0x10, 2) == [0x10, 0x11]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param(lambda answer: answer[:-2], "5 bytes", id="truncated"),
        pytest.param(lambda answer: b"\x00" + answer, "8 bytes", id="stray byte before"),
        pytest.param(lambda answer: answer + b"\x00" * 30, "37 bytes", id="noise after"),
        pytest.param(lambda answer: answer[:3] + b"\xff" + answer[4:], "CRC", id="flipped"),
        pytest.param(lambda answer: rtu.seal(b"\x05" + answer[1:-2]), "unit 5", id="another unit"),
        pytest.param(lambda answer: rtu.seal(b"\x02\x04" + answer[2:-2]), "function 4", id="another function"),
        pytest.param(lambda answer: rtu.seal(b"\x02\x90\x01"), "5 bytes", id="refusal of another function"),
    ],
)
def test_a_bad_answer_is_refused_and_the_next_is_right(
    slave: Slave, bus: SerialBus, damage: Callable[[bytes], bytes], found: str
) -> None:
    slave.script = lambda one, request: one.send(damage(rtu.seal(bytes([2, 3, 2]) + request[2:4])))
    with pytest.raises(BadFrame, match=f"found.*{found}|expected a valid {found}"):
        bus.read(2, 0x10, 1)
    slave.script = right_answer
    assert bus.read(2, 0x20, 1) == [0x20]


def test_the_rest_of_a_broken_answer_is_waited_out(slave: Slave, bus: SerialBus) -> None:
    def babble(one: Slave, request: bytes) -> None:
        for _turn in range(6):
            one.send(b"\x55" * 20)
            time.sleep(0.004)

    slave.script = babble
    with pytest.raises(BadFrame):
        bus.read(2, 0x10, 1)
    slave.script = right_answer
    assert bus.read(2, 0x11, 1) == [0x11]


def test_stale_bytes_are_drained_before_a_request(slave: Slave, bus: SerialBus) -> None:
    """A whole valid answer, of somebody's request that was given up: same unit, same length, wrong register."""
    assert bus.read(2, 0, 1) == [0]
    slave.send(rtu.seal(bytes([2, 3, 2, 0xDE, 0xAD])))
    assert bus.read(2, 1, 1) == [1]


def test_a_line_that_never_gets_quiet(slave: Slave, bus: SerialBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "_LONGEST_NOISE", 0.1)
    monkeypatch.setattr(line_module, "_ADAPTER_LATENCY", 0.1)
    assert bus.read(2, 0, 1) == [0]
    ended = threading.Event()

    def babble() -> None:
        while not ended.wait(0.005):
            slave.send(b"\x55")

    thread = threading.Thread(target=babble)
    thread.start()
    try:
        time.sleep(0.02)
        with pytest.raises(BadFrame, match="expected a quiet line, found bytes without end"):
            bus.read(2, 0, 1)
        assert len(slave.requests) == 1
    finally:
        ended.set()
        thread.join()
    assert bus.read(2, 3, 1) == [3]


def test_a_refusal_is_an_answer(slave: Slave, bus: SerialBus) -> None:
    slave.script = lambda one, request: one.send(rtu.seal(bytes([request[0], request[1] | 0x80, 2])))
    started = time.monotonic()
    with pytest.raises(ExceptionAnswer, match="illegal data address") as caught:
        bus.read(2, 0x10, 50)
    assert caught.value.code == 2
    assert time.monotonic() - started < 0.25  # not waited for the 105 bytes of a whole answer
    assert not bus._disturbed


def test_an_answer_in_pieces(slave: Slave, bus: SerialBus) -> None:
    def trickle(one: Slave, request: bytes) -> None:
        answer = rtu.seal(bytes([2, 3, 4, 0, 1, 0, 2]))
        for byte in answer:
            one.send(bytes([byte]))
            time.sleep(0.002)

    slave.script = trickle
    assert bus.read(2, 1, 2) == [1, 2]


def test_a_missing_port_says_which_ports_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def present(directory: str) -> list[str]:
        return ["usb-B-port0", "usb-A-port0"] if directory.endswith("by-id") else []

    monkeypatch.setattr(lock.os, "listdir", present)
    with pytest.raises(PortMissing) as caught:
        open_bus(str(tmp_path / "line_9"))
    assert f"line {tmp_path}/line_9: " in str(caught.value)
    assert "/dev/serial/by-id/usb-A-port0, /dev/serial/by-id/usb-B-port0" in str(caught.value)
    assert "inventory" in str(caught.value)


def test_a_port_that_vanishes_and_comes_back(slave: Slave, bus: SerialBus) -> None:
    assert bus.read(2, 1, 1) == [1]
    slave.unplug()
    for _turn in range(2):
        with pytest.raises(PortMissing):
            bus.read(2, 1, 1)
    slave.plug_in()
    assert bus.read(2, 1, 1) == [1]


def test_a_port_that_was_replugged_between_two_requests(slave: Slave, bus: SerialBus) -> None:
    assert bus.read(2, 1, 1) == [1]
    slave.unplug()
    slave.plug_in()
    assert bus.read(2, 2, 1) == [2]


def test_a_port_that_vanishes_in_the_middle_of_a_request(slave: Slave, bus: SerialBus) -> None:
    def die(one: Slave, request: bytes) -> None:
        os.close(one.master)
        one.master = os.open("/dev/null", os.O_RDONLY)

    slave.script = die
    with pytest.raises(PortMissing):
        bus.read(2, 1, 1)
    with pytest.raises(PortMissing):
        bus.read(2, 1, 1)


def test_a_port_that_vanishes_while_noise_is_waited_out(
    slave: Slave, bus: SerialBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bus.read(2, 1, 1) == [1]
    slave.send(b"noise")

    def vanish(*_: Any) -> bool:
        monkeypatch.undo()
        raise line_module._Vanished

    results: list[Callable[[], bool]] = [bus._drain, vanish]

    def drain() -> bool:
        return results.pop(0)()

    monkeypatch.setattr(bus, "_drain", drain)
    with pytest.raises(PortMissing):
        bus.read(2, 1, 1)
    assert bus.read(2, 1, 1) == [1]


def test_a_port_that_went_unnoticed_is_opened_again(
    slave: Slave, bus: SerialBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A USB adapter that came back under the same node: the name fits, the open file is dead."""
    assert bus.read(2, 1, 1) == [1]
    real = os.read

    def dead(fd: int, size: int) -> bytes:
        if fd == dead_fd:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, size)

    dead_fd = bus._fd
    slave.send(b"x")
    time.sleep(0.02)
    monkeypatch.setattr(line_module.os, "read", dead)
    original = bus._close

    def close() -> None:
        monkeypatch.setattr(line_module.os, "read", real)
        original()

    monkeypatch.setattr(bus, "_close", close)
    assert bus.read(2, 2, 1) == [2]


def test_a_port_that_takes_no_bytes(slave: Slave, bus: SerialBus, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise BlockingIOError

    bus.open()
    monkeypatch.setattr(line_module.os, "write", full)
    with pytest.raises(CoreError, match="takes no bytes"):
        bus.read(2, 1, 1)


HOLDER = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
fcntl.flock(fd, fcntl.LOCK_EX)
if sys.argv[2] == "exclusive":
    fcntl.flock(fd, fcntl.LOCK_UN)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(slave: Slave) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(slave.link), "flock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.communicate()


def test_a_line_held_too_long_names_its_holder(slave: Slave, holder: subprocess.Popen[str]) -> None:
    started = time.monotonic()
    with pytest.raises(PortBusy) as caught:
        open_bus(str(slave.link), lock_timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 1
    assert f"line {slave.link}: held by PID {holder.pid} ({sys.executable} -c" in str(caught.value)
    assert "within 0.3 s" in str(caught.value)
    assert slave.requests == []


def test_an_open_line_waits_for_its_turn(slave: Slave, bus: SerialBus) -> None:
    assert bus.read(2, 1, 1) == [1]
    other = os.open(slave.link, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(PortBusy, match=f"held by PID {os.getpid()} "):
        bus.read(2, 1, 1)
    timer = threading.Timer(0.2, os.close, [other])
    timer.start()
    assert bus.read(2, 2, 1) == [2]
    timer.join()


def test_a_thread_that_waits_too_long(slave: Slave, bus: SerialBus) -> None:
    bus.open()
    with bus._mutex, pytest.raises(PortBusy, match=f"held by PID {os.getpid()} "):
        bus.read(2, 1, 1)
    assert bus.read(2, 1, 1) == [1]


def test_a_port_opened_exclusively_by_another_program(slave: Slave, monkeypatch: pytest.MonkeyPatch) -> None:
    """TIOCEXCL as picocom and others use it; the superuser is let in all the same, so the refusal is made here."""
    real = os.open

    def refuse(path: str, *arguments: Any, **options: Any) -> int:
        if path == str(slave.link):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(path, *arguments, **options)

    monkeypatch.setattr(line_module.os, "open", refuse)
    monkeypatch.setattr(lock, "openers", lambda _: [lock.Process(4711, "picocom /dev/ttyUSB0")])
    with pytest.raises(PortBusy, match=r"held by PID 4711 \(picocom"):
        open_bus(str(slave.link))


def test_no_permission(slave: Slave, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(line_module.os, "open", refuse)
    with pytest.raises(CoreError, match="group dialout"):
        open_bus(str(slave.link))


def test_a_file_is_no_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CoreError, match=r"cannot be opened with 115200 baud 8N1 .*expected a serial port"):
        open_bus(str(tmp_path / "file"))


def test_an_unknown_kind_of_line() -> None:
    with pytest.raises(CoreError, match="tcp://host:port"):
        open_bus("rfc2217://host:1")


def test_a_host_without_pyserial(slave: Slave, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "serial":
            raise ImportError
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingPackage, match="python3-serial"):
        open_bus(str(slave.link))


def test_nothing_is_left_open(slave: Slave) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _turn in range(3):
        bus = open_bus(str(slave.link))
        bus.read(2, 1, 1)
        bus.close()
    with pytest.raises(CoreError):
        open_bus(str(slave.link), baudrate=-5)
    assert len(os.listdir("/proc/self/fd")) == before
    fd = os.open(slave.link, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_the_line_is_raw_and_has_the_asked_speed(slave: Slave) -> None:
    bus = open_bus(str(slave.link), baudrate=19200, stopbits=2)
    try:
        attributes = termios.tcgetattr(bus._fd)  # type: ignore[attr-defined]
        assert attributes[4] == termios.B19200
        assert attributes[2] & termios.CSTOPB
        assert not attributes[3] & (termios.ICANON | termios.ECHO)
        assert bus.read(2, 10, 3) == [10, 11, 12]  # newline and others pass unchanged
    finally:
        bus.close()

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One line to MODBUS controllers: the bus interface, and the serial line as a small paced RTU master.

The silence before a request and the flock around a whole exchange are kept here, because a general client keeps
neither precisely: it ends requests late, and two masters on one line read each other's answers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import termios
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from . import lock, rtu
from .errors import CoreError, ExceptionAnswer, MissingPackage, NoAnswer, PortBusy, PortMissing

if TYPE_CHECKING:
    import serial

_SILENT_CHARACTERS = 3.5
_ADAPTER_LATENCY = 0.02
"""USB adapters hand bytes over up to 16 ms late; only after a longer pause has a disturbed line become quiet."""
_LONGEST_NOISE = 0.5
_SLEEP_OVERSHOOT = 0.00015
_GONE = frozenset((errno.EIO, errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.ENOTDIR, errno.EBADF))


class Bus(Protocol):
    """What every transport offers. Raises NoAnswer, BadFrame, ExceptionAnswer, PortMissing, PortBusy; never retries."""

    line: str

    def read(self, unit: int, address: int, count: int, function: int = 3) -> list[int]:
        """Registers, each 0-65535."""

    def write(self, unit: int, address: int, values: Sequence[int], function: int = 16) -> None:
        """Write registers; function 6 takes exactly one value."""

    def close(self) -> None:
        """Give the line back; a later request opens it again."""


def open_bus(
    line: str,
    *,
    baudrate: int = 115200,
    parity: str = "N",
    stopbits: int = 1,
    response_timeout: float = 0.1,
    request_gap: float = 0.00175,
    lock_timeout: float = 5.0,
) -> Bus:
    """Open a line: a serial device, or tcp://host:port."""
    if line.startswith("tcp://"):
        from .tcp import TcpBus

        network = TcpBus(line, response_timeout=response_timeout)
        network.open()
        return network
    if "://" in line:
        raise CoreError(f"line {line}: unknown kind of line; expected the path of a serial port, or tcp://host:port")
    wire = SerialBus(
        line,
        baudrate=baudrate,
        parity=parity,
        stopbits=stopbits,
        response_timeout=response_timeout,
        request_gap=request_gap,
        lock_timeout=lock_timeout,
    )
    wire.open()
    return wire


class _Vanished(Exception):
    """The open port is of no use any more."""


class SerialBus:
    """MODBUS RTU master on a serial port that it shares with other processes, exchange by exchange."""

    def __init__(
        self,
        line: str,
        *,
        baudrate: int = 115200,
        parity: str = "N",
        stopbits: int = 1,
        response_timeout: float = 0.1,
        request_gap: float = 0.00175,
        lock_timeout: float = 5.0,
    ) -> None:
        self.line = line
        self._baudrate = baudrate
        self._parity = parity
        self._stopbits = stopbits
        self._response_timeout = response_timeout
        self._lock_timeout = lock_timeout
        self._character = (9 + (parity != "N") + stopbits) / baudrate
        self._gap = max(request_gap, _SILENT_CHARACTERS * self._character)
        # Another master that keeps the silences needs at least this long for an exchange: when we get the lock back
        # sooner, nobody has been on the line since our own last byte.
        self._alone = (2 * _SILENT_CHARACTERS + rtu.SHORTEST_EXCHANGE) * self._character
        self._mutex = threading.Lock()
        self._port: serial.Serial | None = None
        self._fd = -1
        self._lock_fd = -1
        self._poll = select.poll()
        self._last_byte = 0.0
        self._disturbed = False

    def open(self) -> None:
        """Open the port now, to learn about a missing or busy one before the first request."""
        self._enter()
        self._leave()

    def read(self, unit: int, address: int, count: int, function: int = 3) -> list[int]:
        return self._exchange(rtu.read_request(unit, address, count, function))

    def write(self, unit: int, address: int, values: Sequence[int], function: int = 16) -> None:
        self._exchange(rtu.write_request(unit, address, values, function))

    def close(self) -> None:
        with self._mutex:
            self._close()

    def _exchange(self, request: rtu.Request) -> list[int]:
        self._enter()
        try:
            self._disturbed, was_disturbed = True, self._disturbed
            self._make_ready(was_disturbed, request)
            try:
                answer = self._ask(request)
            except _Vanished:
                self._close()
                raise PortMissing(lock.missing_port("line", self.line)) from None
            registers = request.parse(answer, self.line)
            self._disturbed = False
            return registers
        except ExceptionAnswer:
            self._disturbed = False
            raise
        finally:
            self._leave()

    def _enter(self) -> None:
        """Get the line for ourselves, open, and silent for the gap."""
        started = time.monotonic()
        if not self._mutex.acquire(timeout=self._lock_timeout):
            raise self._busy([one for one in [lock.process(os.getpid())] if one])
        try:
            remaining = max(0.0, self._lock_timeout - (time.monotonic() - started))
            if self._port is not None and not self._is_current():
                self._close()
            if self._port is None:
                self._open(remaining)
                quiet_since = time.monotonic()
            else:
                tries = lock.lock(self._lock_fd, remaining)
                if not tries:
                    raise self._busy(lock.holders(self.line))
                now = time.monotonic()
                quiet_since = self._last_byte if tries == 1 and now - self._last_byte < self._alone else now
            _wait_until(quiet_since + self._gap)
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        if self._lock_fd >= 0:
            lock.unlock(self._lock_fd)
        self._mutex.release()

    def _make_ready(self, disturbed: bool, request: rtu.Request) -> None:
        """Leave no byte of the past in the input; a port that went and came back unnoticed is opened again."""
        try:
            stale = self._drain()
        except _Vanished:
            self._close()
            self._open(self._lock_timeout)
            _wait_until(time.monotonic() + self._gap)
            return
        if stale or disturbed:
            self._wait_for_silence(request)

    def _wait_for_silence(self, request: rtu.Request) -> None:
        silence = max(self._gap, _ADAPTER_LATENCY)
        deadline = time.monotonic() + _LONGEST_NOISE
        while True:
            _wait_until(self._last_byte + silence)
            try:
                if not self._drain():
                    return
            except _Vanished:
                self._close()
                raise PortMissing(lock.missing_port("line", self.line)) from None
            if time.monotonic() > deadline:
                raise rtu.bad_frame(self.line, request, "a quiet line", f"bytes without end for {_LONGEST_NOISE} s")

    def _drain(self) -> bool:
        stale = False
        while self._poll.poll(0):
            self._receive()
            stale = True
        return stale

    def _ask(self, request: rtu.Request) -> bytes:
        self._send(request.frame)
        characters = len(request.frame) + request.answer_length
        deadline = time.monotonic() + self._response_timeout + characters * self._character
        answer = b""
        while not request.complete(answer):
            # Also at the deadline: on a busy gateway it may be us who come late, and the answer is there.
            remaining = max(0.0, deadline - time.monotonic())
            if self._poll.poll(remaining * 1000):
                answer += self._receive()
            elif not remaining:
                if answer:
                    return answer
                raise no_answer(self.line, request, self._response_timeout)
        return answer

    def _send(self, frame: bytes) -> None:
        deadline = time.monotonic() + self._response_timeout + len(frame) * self._character
        while frame:
            try:
                frame = frame[os.write(self._fd, frame) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CoreError(
                        f"line {self.line}: the port takes no bytes; expected {len(frame)} more to go out; "
                        f"check the adapter and its flow control"
                    ) from None
                time.sleep(self._character)
            except OSError as error:
                raise _Vanished from error
        self._last_byte = time.monotonic()

    def _receive(self) -> bytes:
        """Bytes that poll has announced; none although announced, or an error, means that the port has gone."""
        try:
            data = os.read(self._fd, 512)
        except OSError as error:
            raise _Vanished from error
        if not data:
            raise _Vanished
        self._last_byte = time.monotonic()
        return data

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.line), os.fstat(self._lock_fd))
        except OSError:
            return False

    def _open(self, timeout: float) -> None:
        """Open the port, already holding its lock: opening flushes the input, perhaps someone's answer."""
        try:
            import serial
        except ImportError:
            raise MissingPackage(
                f"line {self.line}: the Python library 'serial' is missing; install the Debian package python3-serial"
            ) from None
        mode = f"{self._baudrate} baud 8{self._parity}{self._stopbits}"
        try:
            self._lock_fd = os.open(self.line, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            if not lock.lock(self._lock_fd, timeout):
                raise self._busy(lock.holders(self.line))
            port = serial.Serial(None, self._baudrate, parity=self._parity, stopbits=self._stopbits)
            port.port = self.line
            port.open()
        except (OSError, ValueError, termios.error) as error:
            self._close()
            raise self._cannot_open(error, mode) from error
        except BaseException:
            self._close()
            raise
        self._port = port
        self._fd = port.fileno()
        self._poll.register(self._fd, select.POLLIN)
        # Some USB adapters hold bytes back for 16 ms unless told so; other ports know nothing of it.
        with contextlib.suppress(OSError, ValueError):
            port.set_low_latency_mode(True)
        self._last_byte = time.monotonic()

    def _close(self) -> None:
        if self._port is not None:
            self._poll.unregister(self._fd)
            self._port.close()
            self._port = None
            self._fd = -1
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _cannot_open(self, error: Exception, mode: str) -> CoreError:
        number = error.args[0] if error.args else None
        if number in _GONE:
            return PortMissing(lock.missing_port("line", self.line))
        if number == errno.EBUSY:
            return self._busy(lock.openers(self.line))
        if number in (errno.EACCES, errno.EPERM):
            return CoreError(f"line {self.line}: no permission; expected to read and write; join the group dialout")
        return CoreError(f"line {self.line}: cannot be opened with {mode} ({error}); expected a serial port for MODBUS")

    def _busy(self, processes: list[lock.Process]) -> PortBusy:
        return PortBusy(
            f"line {self.line}: held by {lock.name_all(processes)}; expected it free within "
            f"{self._lock_timeout:g} s; end that program if it should not use the line"
        )


def no_answer(line: str, request: rtu.Request, timeout: float) -> NoAnswer:
    return NoAnswer(
        f"line {line}: {request}: expected an answer within {timeout:g} s, found silence; check the unit id, the "
        f"controller's power, the wiring and the baud rate"
    )


def _wait_until(moment: float) -> None:
    """Precise to some microseconds: a plain sleep ends about 0.1 ms late, a third of the gap at 115200 baud."""
    pause = moment - time.monotonic() - _SLEEP_OVERSHOOT
    if pause > 0:
        time.sleep(pause)
    while time.monotonic() < moment:
        pass

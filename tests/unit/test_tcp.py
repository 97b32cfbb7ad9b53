# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""MODBUS/TCP when things go wrong, against a gateway that does what the test tells it."""

from __future__ import annotations

import builtins
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from _core.errors import BadFrame, CoreError, ExceptionAnswer, MissingPackage, NoAnswer, PortMissing
from _core.line import open_bus
from _core.tcp import TcpBus

Script = Callable[[socket.socket, int, int, bytes], None]


def send(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
    connection.sendall(struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu)


def registers(*values: int) -> bytes:
    return struct.pack(f">BB{len(values)}H", 3, 2 * len(values), *values)


class Gateway:
    """Accepts connections and lets the script answer each request (connection, transaction, unit, PDU)."""

    def __init__(self) -> None:
        self.script: Script = lambda connection, transaction, unit, pdu: send(
            connection, transaction, unit, registers(*([unit] * pdu[4]))
        )
        self.connections = 0
        self.open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.line = f"tcp://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _unused = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while header := connection.recv(7, socket.MSG_WAITALL):
                transaction, _unused, length, unit = struct.unpack(">HHHB", header)
                self.script(connection, transaction, unit, connection.recv(length - 1, socket.MSG_WAITALL))

    def hang_up(self) -> None:
        while self.open:
            connection = self.open.pop()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    one = Gateway()
    yield one
    one.close()


@pytest.fixture
def bus(gateway: Gateway) -> Iterator[TcpBus]:
    opened = TcpBus(gateway.line, response_timeout=0.2)
    yield opened
    opened.close()


def test_silence(gateway: Gateway, bus: TcpBus) -> None:
    answering = gateway.script
    gateway.script = lambda *_: None
    started = time.monotonic()
    with pytest.raises(NoAnswer, match=r"unit 2, .*within 0\.2 s, found silence"):
        bus.read(2, 0, 1)
    assert 0.15 < time.monotonic() - started < 1
    gateway.script = answering
    assert bus.read(3, 0, 2) == [3, 3]


def test_a_late_answer_is_not_taken_for_the_next(gateway: Gateway, bus: TcpBus) -> None:
    late = threading.Event()

    def script(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        if not late.is_set():
            late.set()
            time.sleep(0.3)
            send(connection, transaction, unit, registers(0xDEAD))
        else:
            send(connection, transaction, unit, registers(7))

    gateway.script = script
    with pytest.raises(NoAnswer):
        bus.read(2, 0, 1)
    for _turn in range(3):
        time.sleep(0.1)
        assert bus.read(2, 1, 1) == [7]


@pytest.mark.parametrize(
    ("function", "expected"), [(6, bytes([6, 0, 5, 0, 9])), (16, bytes([16, 0, 5, 0, 1, 2, 0, 9]))]
)
def test_writing(gateway: Gateway, bus: TcpBus, function: int, expected: bytes) -> None:
    seen: list[bytes] = []

    def script(connection: socket.socket, transaction: int, unit: int, pdu: bytes) -> None:
        seen.append(pdu)
        send(connection, transaction, unit, pdu[:5])

    gateway.script = script
    bus.write(2, 5, [9], function)
    assert seen == [expected]


def test_exceptions(gateway: Gateway, bus: TcpBus) -> None:
    gateway.script = lambda connection, transaction, unit, _: send(connection, transaction, unit, bytes([0x83, 4]))
    with pytest.raises(ExceptionAnswer, match="device failure") as caught:
        bus.read(2, 0, 1)
    assert caught.value.code == 4
    assert gateway.connections == 1


def test_a_unit_that_is_silent_behind_the_gateway(gateway: Gateway, bus: TcpBus) -> None:
    """The gateway speaks for it with exception 11; for us it is the same as silence on a serial line."""
    gateway.script = lambda connection, transaction, unit, _: send(connection, transaction, unit, bytes([0x83, 11]))
    with pytest.raises(NoAnswer):
        bus.read(2, 0, 1)
    assert gateway.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda transaction: struct.pack(">HHHB", transaction, 0, 7, 2) + registers(1, 2), id="too many"),
        pytest.param(lambda transaction: struct.pack(">HHHB", transaction, 0, 5, 9) + registers(1), id="wrong unit"),
        pytest.param(
            lambda transaction: struct.pack(">HHHB", transaction, 0, 5, 2) + b"\x63\x02\x00\x01", id="function"
        ),
        pytest.param(lambda transaction: b"\xff" * 30, id="garbage"),
    ],
)
def test_wrong_answers_are_never_taken(gateway: Gateway, bus: TcpBus, answer: Callable[[int], bytes]) -> None:
    """pymodbus drops some of these and waits on: then they are silence."""
    answering = gateway.script
    gateway.script = lambda connection, transaction, *_: connection.sendall(answer(transaction))
    with pytest.raises((BadFrame, NoAnswer)):
        bus.read(2, 0, 1)
    gateway.script = answering
    assert bus.read(2, 0, 3) == [2, 2, 2]


def test_a_connection_closed_between_requests_is_opened_again(gateway: Gateway, bus: TcpBus) -> None:
    assert bus.read(2, 0, 1) == [2]
    gateway.hang_up()
    time.sleep(0.05)
    assert bus.read(2, 0, 1) == [2]
    assert gateway.connections == 2


def test_a_connection_closed_instead_of_an_answer(gateway: Gateway, bus: TcpBus) -> None:
    answering = gateway.script
    gateway.script = lambda connection, *_: connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(PortMissing, match="connection ended"):
        bus.read(2, 0, 1)
    gateway.script = answering
    assert bus.read(2, 0, 1) == [2]


def test_a_gateway_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PortMissing, match=rf"line tcp://127\.0\.0\.1:{port}: no connection .*check the address"):
        open_bus(f"tcp://127.0.0.1:{port}")


@pytest.mark.parametrize("line", ["tcp://", "tcp://host:port", "tcp://host/path", "tcp://host:99999"])
def test_a_line_that_is_no_place(line: str) -> None:
    with pytest.raises(CoreError, match="expected tcp://host"):
        open_bus(line)


def test_the_default_port() -> None:
    assert TcpBus("tcp://[::1]")._tcp_port == 502


def test_a_gateway_host_without_pymodbus(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("pymodbus"):
            raise ImportError("No module named 'pymodbus'", name="pymodbus")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingPackage, match="python3-pymodbus"):
        open_bus("tcp://127.0.0.1:502")

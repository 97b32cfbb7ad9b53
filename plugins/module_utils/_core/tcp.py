# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""MODBUS/TCP lines: pymodbus behind the bus interface, over all its releases from 3.0 on."""

from __future__ import annotations

import inspect
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from . import rtu
from .errors import BusError, CoreError, MissingPackage, PortMissing
from .line import no_answer

_DEFAULT_PORT = 502
_CONNECT_TIMEOUT = 3.0
_UNIT_NAMES = ("device_id", "slave", "unit")
_GATEWAY_TARGET_SILENT = 11


class TcpBus:
    """MODBUS/TCP master; the units behind one gateway are told apart by their unit ids."""

    def __init__(self, line: str, *, response_timeout: float = 0.1) -> None:
        self.line = line
        self._host, self._tcp_port = _place(line)
        self._response_timeout = response_timeout
        self._mutex = threading.Lock()
        self._client: Any = None
        self._unit_name = _UNIT_NAMES[0]

    def open(self) -> None:
        """Connect now, to learn about a missing gateway before the first request."""
        with self._mutex:
            self._connect()

    def read(self, unit: int, address: int, count: int, function: int = 3) -> list[int]:
        request = rtu.read_request(unit, address, count, function)
        method = "read_holding_registers" if function == 3 else "read_input_registers"
        answer = self._exchange(request, method, address, count=count)
        registers = list(getattr(answer, "registers", None) or [])
        if len(registers) != count:
            with self._mutex:
                self._close()
            raise rtu.bad_frame(self.line, request, f"{count} registers", f"{len(registers)}")
        return registers

    def write(self, unit: int, address: int, values: Sequence[int], function: int = 16) -> None:
        request = rtu.write_request(unit, address, values, function)
        if function == rtu.WRITE_SINGLE:
            self._exchange(request, "write_register", address, values[0])
        else:
            self._exchange(request, "write_registers", address, list(values))

    def close(self) -> None:
        with self._mutex:
            self._close()

    def _exchange(self, request: rtu.Request, method: str, *arguments: Any, **options: int) -> Any:
        with self._mutex:
            self._connect()
            call: Callable[..., Any] = getattr(self._client, method)
            options[self._unit_name] = request.unit
            started = time.monotonic()
            try:
                answer = call(*arguments, **options)
            except Exception as error:
                answer = error
            failed = isinstance(answer, Exception) or answer.isError()
            if failed and (code := getattr(answer, "exception_code", 0)):
                if code == _GATEWAY_TARGET_SILENT:
                    raise no_answer(self.line, request, time.monotonic() - started)
                raise rtu.refused(self.line, request, code)
            if failed:
                # An answer that comes too late must not be taken for that of a later request.
                self._close()
                raise self._failure(request, answer, time.monotonic() - started)
            return answer

    def _failure(self, request: rtu.Request, problem: Any, duration: float) -> BusError | PortMissing:
        # Some releases of pymodbus wrap their ConnectionException, so that its text is all there is to tell it by.
        if isinstance(problem, OSError) or "[Connection]" in str(problem):
            return PortMissing(
                f"line {self.line}: {request}: the connection ended ({problem}); expected it to stay; "
                f"check the network and the MODBUS gateway"
            )
        if duration >= 0.9 * self._response_timeout:
            return no_answer(self.line, request, self._response_timeout)
        return rtu.bad_frame(self.line, request, "a MODBUS/TCP answer to it", str(problem))

    def _connect(self) -> None:
        if self._client is not None and self._is_stale():
            self._close()
        if self._client is not None:
            return
        try:
            from pymodbus.client import ModbusTcpClient
        except ImportError as error:
            # pymodbus 3.0 imports serial_asyncio whatever the transport; Debian only recommends it.
            raise MissingPackage(
                f"line {self.line}: the Python library '{error.name}' is missing; "
                f"install the Debian packages python3-pymodbus and python3-serial-asyncio"
            ) from None
        # Without a handler of the application the library's log would go to standard error.
        logging.getLogger("pymodbus").addHandler(logging.NullHandler())
        client: Any = ModbusTcpClient(self._host, port=self._tcp_port, timeout=self._response_timeout, retries=0)
        # pymodbus 3.0 cuts the time limit to whole seconds, 0.1 s to none.
        settings = getattr(client, "params", None)
        if settings is not None and hasattr(settings, "timeout"):
            settings.timeout = self._response_timeout
        known = inspect.signature(client.read_holding_registers).parameters
        self._unit_name = next(name for name in _UNIT_NAMES if name in known)
        try:
            # Connected here: the client's own connect has the short time limit of an answer, and hides the reason.
            client.socket = socket.create_connection((self._host, self._tcp_port), timeout=_CONNECT_TIMEOUT)
        except OSError as error:
            raise PortMissing(
                f"line {self.line}: no connection ({error}); expected a MODBUS gateway there; "
                f"check the address, the network and the gateway's power"
            ) from None
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client

    def _is_stale(self) -> bool:
        """Whether the peer has closed the connection, or left bytes in it that nobody asked for."""
        if self._client.socket is None:
            return True
        readable = select.select([self._client.socket], [], [], 0)[0]
        return bool(readable)

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _place(line: str) -> tuple[str, int]:
    try:
        parts = urlsplit(line)
        port = parts.port or _DEFAULT_PORT
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "tcp" or not parts.hostname or parts.path not in ("", "/"):
        raise CoreError(f"line {line}: expected tcp://host or tcp://host:port")
    return parts.hostname, port

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare MODBUS RTU master for tests of the simulator: independent of the collection's own, free to send anything."""

from __future__ import annotations

import os
import select
import struct
import time
import tty
from pathlib import Path
from types import TracebackType

GAP = 0.00175


def crc(frame: bytes) -> bytes:
    value = 0xFFFF
    for byte in frame:
        value ^= byte
        for _bit in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return struct.pack("<H", value)


def is_whole(answer: bytes) -> bool:
    """Whether it has its length; a CRC can be zero one byte early."""
    if len(answer) < 5 or crc(answer) != b"\0\0":
        return False
    if answer[1] & 0x80:
        return len(answer) == 5
    return len(answer) == (5 + answer[2] if answer[1] in (3, 4, 23) else 8)


class Refused(Exception):
    """An exception answer."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code}")
        self.code = code


class Silence(Exception):
    """No answer, or none that is whole."""


class Master:
    def __init__(self, line: Path, unit: int = 2, timeout: float = 0.5) -> None:
        self.unit = unit
        self.timeout = timeout
        self._port = os.open(line, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._port)

    def close(self) -> None:
        os.close(self._port)

    def __enter__(self) -> Master:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, frame: bytes) -> None:
        os.write(self._port, frame)

    def receive(self, timeout: float) -> bytes:
        """Bytes until they make an answer, or until the time is over."""
        frame = b""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0 and select.select([self._port], [], [], left)[0]:
            frame += os.read(self._port, 300)
            if is_whole(frame):
                break
        return frame

    def request(self, pdu: bytes, unit: int | None = None) -> bytes:
        frame = bytes([self.unit if unit is None else unit]) + pdu
        self.send(frame + crc(frame))
        answer = self.receive(self.timeout)
        time.sleep(GAP)
        if not is_whole(answer) or answer[0] != frame[0] or answer[1] & 0x7F != pdu[0]:
            raise Silence(answer.hex() or "nothing")
        if answer[1] & 0x80:
            raise Refused(answer[2])
        return answer[2:-2]

    def read(self, address: int, count: int = 1, unit: int | None = None) -> list[int]:
        data = self.request(struct.pack(">BHH", 3, address, count), unit)
        return list(struct.unpack(f">{count}H", data[1:]))

    def write(self, address: int, value: int, unit: int | None = None) -> None:
        self.request(struct.pack(">BHH", 6, address, value), unit)

    def write_block(self, address: int, values: list[int], unit: int | None = None) -> None:
        head = struct.pack(">BHHB", 16, address, len(values), 2 * len(values))
        self.request(head + struct.pack(f">{len(values)}H", *values), unit)

    def answers(self, unit: int | None = None) -> bool:
        try:
            self.read(0, 1, unit)
        except Silence:
            return False
        return True

    def talk(self, seconds: float, every: float = 0.2, unit: int | None = None) -> None:
        """Keeps a unit from its silence stop."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(0, 1, unit)
            time.sleep(every)

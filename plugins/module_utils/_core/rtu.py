# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""MODBUS RTU frames of a master: requests built, answers judged. Pure functions, no input or output."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import BadFrame, CoreError, ExceptionAnswer

READ_FUNCTIONS = (3, 4)
WRITE_SINGLE = 6
WRITE_MULTIPLE = 16
LARGEST_READ = 125
LARGEST_WRITE = 123
EXCEPTION_LENGTH = 5
SHORTEST_EXCHANGE = 8 + EXCEPTION_LENGTH
"""Characters of the shortest request and answer that a line can carry."""

EXCEPTION_NAMES = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge",
    6: "device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target failed to respond",
}
_EXCEPTION_REMEDIES = {
    1: "the profile's function_codes do not fit this firmware",
    2: "the profile's readable ranges do not fit this firmware",
    3: "check the value or the block size against the profile",
}


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _turn in range(8):
            byte = (byte >> 1) ^ 0xA001 if byte & 1 else byte >> 1
        table.append(byte)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc16(data: bytes | bytearray) -> int:
    """CRC-16/MODBUS; of a frame together with its own CRC it is zero."""
    table = _CRC_TABLE
    crc = 0xFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc


def seal(body: bytes) -> bytes:
    """The frame of unit, function and data: the same with its CRC, low byte first."""
    return body + crc16(body).to_bytes(2, "little")


@dataclass(frozen=True)
class Request:
    """One request as it goes over the wire, and what its answer must look like."""

    unit: int
    function: int
    address: int
    count: int
    frame: bytes
    answer_length: int

    def __str__(self) -> str:
        last = self.address + self.count - 1
        registers = f"register 0x{self.address:04X}"
        if self.count > 1:
            registers = f"{self.count} registers 0x{self.address:04X}-0x{last:04X}"
        return f"unit {self.unit}, function {self.function}, {registers}"

    def complete(self, received: bytes | bytearray) -> bool:
        """Whether no more bytes are to be waited for."""
        if len(received) >= EXCEPTION_LENGTH and received[1] & 0x80:
            return True
        return len(received) >= self.answer_length

    def parse(self, answer: bytes | bytearray, line: str) -> list[int]:
        """The registers that a valid answer carries (none for a write); else BadFrame or ExceptionAnswer."""
        if len(answer) >= EXCEPTION_LENGTH and answer[1] == self.function | 0x80:
            self._check(answer, EXCEPTION_LENGTH, line)
            raise refused(line, self, answer[2])
        self._check(answer, self.answer_length, line)
        if answer[1] != self.function:
            raise bad_frame(line, self, f"an answer of function {self.function}", f"function {answer[1]}")
        if self.function in READ_FUNCTIONS:
            if answer[2] != 2 * self.count:
                raise bad_frame(line, self, f"{2 * self.count} bytes of data", f"a byte count of {answer[2]}")
            return list(struct.unpack_from(f">{self.count}H", answer, 3))
        if answer[:6] != self.frame[:6]:
            raise bad_frame(line, self, f"the echo {self.frame[:6].hex(' ')}", bytes(answer[:6]).hex(" "))
        return []

    def _check(self, answer: bytes | bytearray, length: int, line: str) -> None:
        if len(answer) != length:
            raise bad_frame(line, self, f"{length} bytes", f"{len(answer)} bytes: {bytes(answer[:16]).hex(' ')}")
        if crc16(answer) != 0:
            raise bad_frame(line, self, "a valid CRC", f"{bytes(answer[:16]).hex(' ')}")
        if answer[0] != self.unit:
            raise bad_frame(line, self, f"an answer of unit {self.unit}", f"unit {answer[0]}")


def read_request(unit: int, address: int, count: int, function: int = 3) -> Request:
    """Read holding registers (3) or input registers (4)."""
    if function not in READ_FUNCTIONS:
        raise CoreError(f"unit {unit}: function {function} reads no registers; expected 3 or 4")
    _check_span(unit, address, count, LARGEST_READ)
    frame = seal(struct.pack(">BBHH", unit, function, address, count))
    return Request(unit, function, address, count, frame, 5 + 2 * count)


def write_request(unit: int, address: int, values: Sequence[int], function: int = WRITE_MULTIPLE) -> Request:
    """Write one register (6) or several (16)."""
    if function not in (WRITE_SINGLE, WRITE_MULTIPLE):
        raise CoreError(f"unit {unit}: function {function} writes no registers; expected 6 or 16")
    _check_span(unit, address, len(values), 1 if function == WRITE_SINGLE else LARGEST_WRITE)
    for value in values:
        if not 0 <= value <= 0xFFFF:
            raise CoreError(f"unit {unit}, register 0x{address:04X}: {value} does not fit a register; expected 0-65535")
    count = len(values)
    if function == WRITE_SINGLE:
        body = struct.pack(">BBHH", unit, function, address, values[0])
    else:
        body = struct.pack(f">BBHHB{count}H", unit, function, address, count, 2 * count, *values)
    return Request(unit, function, address, count, seal(body), 8)


def bad_frame(line: str, request: Request, expected: str, found: str) -> BadFrame:
    return BadFrame(
        f"line {line}: {request}: expected {expected}, found {found}; look for noise, a second master that takes no "
        f"lock, two units with one id, or a wrong baud rate"
    )


def refused(line: str, request: Request, code: int) -> ExceptionAnswer:
    name = EXCEPTION_NAMES.get(code, "unknown")
    remedy = _EXCEPTION_REMEDIES.get(code, "look at the controller")
    return ExceptionAnswer(f"line {line}: {request}: refused with exception {code} ({name}); {remedy}", code)


def _check_span(unit: int, address: int, count: int, largest: int) -> None:
    if not 1 <= unit <= 247:
        raise CoreError(f"unit {unit} is no unit id; expected 1-247")
    if not 1 <= count <= largest:
        raise CoreError(
            f"unit {unit}, register 0x{address:04X}: {count} registers in one request; expected 1-{largest}"
        )
    if not 0 <= address <= 0x10000 - count:
        raise CoreError(f"unit {unit}: {count} registers from {address} lie outside of 0x0000-0xFFFF")

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames: the published examples, the limits of the protocol, and answers that must not pass."""

from __future__ import annotations

import pytest
from _core import rtu
from _core.errors import BadFrame, CoreError, ExceptionAnswer

LINE = "/dev/line_1"


def test_crc_of_the_published_check_string() -> None:
    assert rtu.crc16(b"123456789") == 0x4B37


def test_requests_of_the_modbus_specification() -> None:
    assert rtu.read_request(17, 0x6B, 3).frame == bytes.fromhex("11 03 00 6B 00 03 76 87")
    assert rtu.write_request(17, 1, [3], function=6).frame == bytes.fromhex("11 06 00 01 00 03 9A 9B")
    assert rtu.write_request(17, 1, [10, 258]).frame == bytes.fromhex("11 10 00 01 00 02 04 00 0A 01 02 C6 F0")


def test_answer_of_the_modbus_specification() -> None:
    answer = bytes.fromhex("11 03 06 AE 41 56 52 43 40 49 AD")
    request = rtu.read_request(17, 0x6B, 3)
    assert request.complete(answer)
    assert not request.complete(answer[:-1])
    assert request.parse(answer, LINE) == [0xAE41, 0x5652, 0x4340]


@pytest.mark.parametrize(
    ("unit", "address", "count", "function"),
    [(0, 0, 1, 3), (248, 0, 1, 3), (1, 0, 0, 3), (1, 0, 126, 3), (1, -1, 1, 3), (1, 0xFFFF, 2, 4), (1, 0, 1, 1)],
)
def test_a_read_that_the_protocol_does_not_know(unit: int, address: int, count: int, function: int) -> None:
    with pytest.raises(CoreError, match=r"expected|outside"):
        rtu.read_request(unit, address, count, function)


@pytest.mark.parametrize(
    ("values", "function"), [([], 16), ([0] * 124, 16), ([1, 2], 6), ([0x10000], 6), ([-1], 16), ([1], 5)]
)
def test_a_write_that_the_protocol_does_not_know(values: list[int], function: int) -> None:
    with pytest.raises(CoreError, match="expected"):
        rtu.write_request(1, 0, values, function)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("03 03 02 00 07", "unit 3"),
        ("02 04 02 00 07", "function 4"),
        ("02 03 04 00 07", "byte count of 4"),
        ("02 03 02 00", "6 bytes"),
        ("02 03 02 00 07 00", "8 bytes"),
        ("02 84 02", "5 bytes"),
        ("03 83 02", "unit 3"),
    ],
)
def test_an_answer_to_something_else(body: str, found: str) -> None:
    with pytest.raises(BadFrame, match=found) as caught:
        rtu.read_request(2, 0x10, 1).parse(rtu.seal(bytes.fromhex(body)), LINE)
    assert "line /dev/line_1: unit 2, function 3, register 0x0010" in str(caught.value)


@pytest.mark.parametrize("function", [6, 16])
def test_a_write_acknowledged_for_another_register(function: int) -> None:
    request = rtu.write_request(2, 0x10, [5], function)
    other = rtu.write_request(2, 0x11, [5], function)
    assert request.parse(rtu.seal(request.frame[:6]), LINE) == []
    with pytest.raises(BadFrame, match="echo"):
        request.parse(rtu.seal(other.frame[:6]), LINE)


@pytest.mark.parametrize(("code", "name"), [(2, "illegal data address"), (11, "gateway target"), (99, "unknown")])
def test_an_exception_carries_its_code(code: int, name: str) -> None:
    answer = rtu.seal(bytes([2, 0x83, code]))
    request = rtu.read_request(2, 0x10, 4)
    assert request.complete(answer)
    with pytest.raises(ExceptionAnswer, match=rf"4 registers 0x0010-0x0013: refused with exception {code} \({name}"):
        request.parse(answer, LINE)
    try:
        request.parse(answer, LINE)
    except ExceptionAnswer as error:
        assert error.code == code

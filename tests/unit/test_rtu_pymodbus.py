# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every frame of ours against pymodbus as an independent oracle, in both roles, from its release 3.0 to the newest."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import tty
from collections.abc import Iterator
from typing import Any

import pytest
from _core import rtu
from _core.errors import BadFrame, ExceptionAnswer
from hypothesis import given, settings
from hypothesis import strategies as st

try:
    from pymodbus.framer import FramerRTU
    from pymodbus.pdu import DecodePDU, ExceptionResponse
    from pymodbus.pdu.register_message import (
        ReadHoldingRegistersResponse,
        ReadInputRegistersResponse,
        WriteMultipleRegistersResponse,
        WriteSingleRegisterResponse,
    )

    FRAMER_GENERATION = 2
    ModbusRtuFramer = ServerDecoder = None
except ImportError:
    from pymodbus.factory import ServerDecoder
    from pymodbus.framer.rtu_framer import ModbusRtuFramer
    from pymodbus.pdu import ExceptionResponse
    from pymodbus.register_read_message import ReadHoldingRegistersResponse, ReadInputRegistersResponse
    from pymodbus.register_write_message import WriteMultipleRegistersResponse, WriteSingleRegisterResponse

    FRAMER_GENERATION = 1

LINE = "/dev/line_1"
UNIT_NAMES = ("dev_id", "slave_id", "unit_id")

units = st.integers(1, 247)
words = st.integers(0, 0xFFFF)
read_functions = st.sampled_from([3, 4])


@st.composite
def spans(draw: st.DrawFn, largest: int) -> tuple[int, int]:
    count = draw(st.integers(1, largest))
    return draw(st.integers(0, 0x10000 - count)), count


def decoded(frame: bytes) -> Any:
    """The request that pymodbus' server side finds in a frame; None if it finds none."""
    if FRAMER_GENERATION == 2:
        framer: Any = FramerRTU(DecodePDU(True))
        if hasattr(framer, "handleFrame"):
            used, request = framer.handleFrame(frame, 0, 0)
        else:
            used, request = framer.processIncomingFrame(frame)
        assert request is None or used == len(frame)
        return request
    found: list[Any] = []
    # Unit 0 in the list of units makes this release's framer take requests to every unit.
    ModbusRtuFramer(ServerDecoder()).processIncomingPacket(frame, found.append, [0], single=True)
    return found[0] if found else None


def encoded(message: Any, unit: int) -> bytes:
    """The frame in which pymodbus' server side sends an answer."""
    for name in UNIT_NAMES:
        setattr(message, name, unit)
    if FRAMER_GENERATION == 2:
        return bytes(FramerRTU(DecodePDU(True)).buildFrame(message))
    return bytes(ModbusRtuFramer(ServerDecoder()).buildPacket(message))


def filled(message: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def unit_of(message: Any) -> int:
    return next(int(getattr(message, name)) for name in UNIT_NAMES if hasattr(message, name))


def values_of(request: Any) -> list[int]:
    values = getattr(request, "registers", None) or getattr(request, "values", None)
    return list(values) if values else [request.value]


@given(units, spans(125), read_functions)
def test_pymodbus_reads_our_read_request(unit: int, span: tuple[int, int], function: int) -> None:
    request = decoded(rtu.read_request(unit, *span, function).frame)
    assert (unit_of(request), request.function_code, request.address, request.count) == (unit, function, *span)


@given(units, words, words)
def test_pymodbus_reads_our_write_of_one(unit: int, address: int, value: int) -> None:
    request = decoded(rtu.write_request(unit, address, [value], function=6).frame)
    assert (unit_of(request), request.function_code, request.address) == (unit, 6, address)
    assert values_of(request) == [value]


@given(units, spans(123), st.data())
def test_pymodbus_reads_our_write_of_several(unit: int, span: tuple[int, int], data: st.DataObject) -> None:
    address, count = span
    values = data.draw(st.lists(words, min_size=count, max_size=count))
    request = decoded(rtu.write_request(unit, address, values).frame)
    assert (unit_of(request), request.function_code, request.address) == (unit, 16, address)
    assert values_of(request) == values


@given(units, words, read_functions, st.lists(words, min_size=1, max_size=125))
def test_we_read_its_registers(unit: int, address: int, function: int, values: list[int]) -> None:
    request = rtu.read_request(unit, min(address, 0x10000 - len(values)), len(values), function)
    kind = ReadHoldingRegistersResponse if function == 3 else ReadInputRegistersResponse
    answer = encoded(filled(kind(), registers=values), unit)
    assert request.complete(answer)
    assert not request.complete(answer[:-1])
    assert request.parse(answer, LINE) == values


@given(units, words, words)
def test_we_read_its_acknowledgement_of_one(unit: int, address: int, value: int) -> None:
    answer = encoded(filled(WriteSingleRegisterResponse(), address=address, registers=[value], value=value), unit)
    assert rtu.write_request(unit, address, [value], function=6).parse(answer, LINE) == []


@given(units, spans(123))
def test_we_read_its_acknowledgement_of_several(unit: int, span: tuple[int, int]) -> None:
    address, count = span
    answer = encoded(filled(WriteMultipleRegistersResponse(), address=address, count=count), unit)
    assert rtu.write_request(unit, address, [0] * count).parse(answer, LINE) == []


@given(units, spans(125), read_functions, st.integers(1, 255))
def test_we_read_its_exceptions(unit: int, span: tuple[int, int], function: int, code: int) -> None:
    answer = encoded(ExceptionResponse(function, code), unit)
    request = rtu.read_request(unit, *span, function)
    assert request.complete(answer)
    with pytest.raises(ExceptionAnswer) as caught:
        request.parse(answer, LINE)
    assert caught.value.code == code


@given(units, st.lists(words, min_size=1, max_size=125), st.data())
def test_a_disturbed_answer_is_never_taken(unit: int, values: list[int], data: st.DataObject) -> None:
    """Up to three flipped bits, bytes lost at the end, or a byte too many."""
    request = rtu.read_request(unit, 0, len(values))
    answer = bytearray(encoded(filled(ReadHoldingRegistersResponse(), registers=values), unit))
    damage = data.draw(st.sampled_from(["flip", "truncate", "prepend", "append"]))
    if damage == "flip":
        for bit in data.draw(st.sets(st.integers(0, 8 * len(answer) - 1), min_size=1, max_size=3)):
            answer[bit // 8] ^= 1 << bit % 8
    elif damage == "truncate":
        del answer[data.draw(st.integers(0, len(answer) - 1)) :]
    else:
        answer.insert(0 if damage == "prepend" else len(answer), data.draw(st.integers(0, 255)))
    with pytest.raises(BadFrame):
        request.parse(answer, LINE)


@given(units, st.integers(1, 125), st.binary(max_size=256))
def test_garbage_passes_only_with_a_right_checksum(unit: int, count: int, garbage: bytes) -> None:
    request = rtu.read_request(unit, 0, count)
    try:
        values = request.parse(garbage, LINE)
    except BadFrame:
        return
    except ExceptionAnswer:
        assert rtu.crc16(garbage) == 0
        return
    assert rtu.crc16(garbage) == 0
    assert len(values) == count


@given(units, st.integers(1, 125), st.binary(max_size=60))
def test_a_sealed_answer_must_still_fit_the_request(unit: int, count: int, body: bytes) -> None:
    """Frames with a right checksum: taken only if unit, function and length are those of the request."""
    request = rtu.read_request(unit, 0, count)
    frame = rtu.seal(body)
    fits = len(body) == 3 + 2 * count and body[:3] == bytes([unit, 3, 2 * count])
    refusal = len(body) == 3 and body[:2] == bytes([unit, 0x83])
    if fits:
        assert len(request.parse(frame, LINE)) == count
    else:
        with pytest.raises(ExceptionAnswer if refusal else BadFrame):
            request.parse(frame, LINE)


@contextlib.contextmanager
def small_slave(unit: int, registers: list[int]) -> Iterator[str]:
    """A slave made of our own frames, behind a PTY: knows the requests that rtu.py would build, and their answers."""
    master, keeper = os.openpty()
    tty.setraw(keeper)
    ended, end = os.pipe()

    def answer(frame: bytes) -> bytes:
        function, address, number = frame[1], frame[2] << 8 | frame[3], frame[4] << 8 | frame[5]
        if address + (1 if function == 6 else number) > len(registers):
            return rtu.seal(bytes([unit, function | 0x80, 2]))
        if function == 3:
            assert rtu.read_request(unit, address, number).frame == frame
            data = b"".join(value.to_bytes(2, "big") for value in registers[address : address + number])
            return rtu.seal(bytes([unit, 3, len(data)]) + data)
        several = [frame[at] << 8 | frame[at + 1] for at in range(7, len(frame) - 2, 2)]
        values = [number] if function == 6 else several
        assert rtu.write_request(unit, address, values, function).frame == frame
        registers[address : address + len(values)] = values
        return rtu.seal(frame[:6])

    def serve() -> None:
        received = b""
        while ended not in select.select([master, ended], [], [])[0]:
            received += os.read(master, 256)
            if len(received) < 8 or (received[1] == 16 and len(received) < 9 + received[6]):
                continue
            if rtu.crc16(received) == 0 and received[0] == unit:
                os.write(master, answer(received))
            received = b""

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield os.ttyname(keeper)
    finally:
        os.write(end, b"x")
        thread.join()
        for fd in (master, keeper, ended, end):
            os.close(fd)


def test_pymodbus_serial_client_talks_to_a_slave_of_our_frames() -> None:
    from pymodbus.client import ModbusSerialClient

    registers = [7 * address for address in range(200)]
    with small_slave(5, registers) as port:
        client = ModbusSerialClient(port=port, baudrate=115200, timeout=2)
        assert client.connect()
        try:
            names = client.read_holding_registers.__code__.co_varnames
            unit = {next(name for name in ("device_id", "slave", "unit") if name in names): 5}
            for address, count in [(0, 1), (3, 10), (75, 125)]:
                assert client.read_holding_registers(address, count=count, **unit).registers == [
                    7 * one for one in range(address, address + count)
                ]
            assert not client.write_register(9, 0xBEEF, **unit).isError()
            assert not client.write_registers(20, [1, 2, 3], **unit).isError()
            assert registers[9] == 0xBEEF
            assert registers[20:23] == [1, 2, 3]
            refusal = client.read_holding_registers(199, count=2, **unit)
            assert refusal.isError()
            assert refusal.exception_code == 2
        finally:
            client.close()


settings.register_profile("frames", deadline=None)
settings.load_profile("frames")

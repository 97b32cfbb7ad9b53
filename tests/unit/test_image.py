# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Intel HEX: against an independent library, and every kind of damage."""

from __future__ import annotations

import hashlib
import io

import pytest
from _core import image
from hypothesis import given
from hypothesis import strategies as st
from intelhex import IntelHex

FLASH = 32768
GOOD = ":0400000001020304F2\n:00000001FF\n"


def as_library_writes(memory: bytes, start: int = 0) -> str:
    text = io.StringIO()
    content = IntelHex()
    content.frombytes(memory, offset=start)
    content.write_hex_file(text)
    return text.getvalue()


@given(memory=st.binary(min_size=1, max_size=600), start=st.integers(0, 2000))
def test_reads_what_the_library_writes(memory: bytes, start: int) -> None:
    memory += b"\0"
    assert image.parse_hex(as_library_writes(memory, start), "x", FLASH) == b"\xff" * start + memory


@given(memory=st.binary(min_size=1, max_size=600))
def test_library_reads_what_we_write(memory: bytes) -> None:
    content = IntelHex(io.StringIO(image.format_hex(memory)))
    content.padding = 0xFF
    assert bytes(content[i] for i in range(len(memory))) == memory


@given(memory=st.binary(min_size=1, max_size=600), trailing=st.integers(0, 300))
def test_digest_ignores_erased_flash_behind_the_content(memory: bytes, trailing: int) -> None:
    assert image.digest(memory) == image.digest(memory + b"\xff" * trailing)


@given(position=st.integers(0, len(GOOD) - 14), character=st.sampled_from("0123456789ABCDEF"))
def test_no_damaged_digit_is_taken(position: int, character: str) -> None:
    damaged = GOOD[:position] + character + GOOD[position + 1 :]
    if damaged != GOOD:
        with pytest.raises(image.ImageError):
            image.parse_hex(damaged, "x", FLASH)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no end record"),
        (":0400000001020304F2\n", "no end record"),
        (":00000001FF\n", "holds no data"),
        ("hello", "line 1: not an Intel HEX record"),
        (":04zz", "line 1: not hexadecimal"),
        (":0400000001020304\n", "record length"),
        (":0400000001020304F3\n", "checksum is 0xF3, expected 0xF2"),
        (GOOD + ":0400000001020304F2\n", "line 3: data after the end record"),
        (":0400000001020304F2\n" + GOOD, "line 2: address 0x0 is written twice"),
        (":0100000700F8\n", "unknown record type 07"),
        (":01000002007D\n" + ":00000001FF\n", "line 1: checksum"),
        (":0100000400FB\n", "address record of 1 bytes"),
        (":020000040001F9\n" + GOOD, "line 2: image too large, it reaches 0x10003"),
    ],
)
def test_damage_is_named_with_its_line(text: str, words: str) -> None:
    with pytest.raises(image.ImageError, match=words):
        image.parse_hex(text, "firmware.hex", FLASH)


def test_start_address_records_and_blank_lines_are_passed_over() -> None:
    assert image.parse_hex(":0400000300000000F9\n\n" + GOOD, "x", FLASH) == bytes((1, 2, 3, 4))


def test_digest_of_the_file() -> None:
    image.verify(b"abc", hashlib.sha256(b"abc").hexdigest().upper(), "x")
    with pytest.raises(image.ImageError, match=r"f\.hex: digest mismatch, expected sha256 00, found ba78"):
        image.verify(b"abc", "00", "f.hex")

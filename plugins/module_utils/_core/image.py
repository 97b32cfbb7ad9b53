# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Firmware images: Intel HEX, digests, and comparison with what was read back. Pure.

Erased flash reads 0xFF and avrdude drops trailing 0xFF when it reads, so an image's content is what remains
without them, and two images are equal when that is.
"""

from __future__ import annotations

import hashlib

from .errors import CoreError


class ImageError(CoreError):
    """An image that is broken, too large, or not the one that was promised."""


def content(memory: bytes) -> bytes:
    """``memory`` without its trailing erased bytes."""
    return memory.rstrip(b"\xff")


def digest(memory: bytes) -> str:
    """The identity of a memory's content: sha256 (64 hex digits) of it without trailing erased bytes."""
    return hashlib.sha256(content(memory)).hexdigest()


def parse_hex(text: str, name: str, size: int) -> bytes:
    """The memory image of Intel HEX ``text``, gaps erased, without trailing erased bytes.

    ``name`` stands in errors, ``size`` is the memory's size in bytes. Record types 00, 01, 02 and 04 carry
    data and addresses, 03 and 05 (start addresses) mean nothing to an AVR and are passed over.
    """
    memory = bytearray()
    written = bytearray()
    base = 0
    ended = False
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line:
            continue
        where = f"{name}, line {number}"
        if ended:
            raise ImageError(f"{where}: data after the end record; the file is damaged, fetch it again")
        kind, address, data = _record(line, where)
        if kind == 1:
            ended = True
        elif kind in (2, 4):
            if len(data) != 2:
                raise ImageError(f"{where}: address record of {len(data)} bytes, expected 2")
            base = int.from_bytes(data, "big") << (4 if kind == 2 else 16)
        elif kind == 0 and data:
            start, end = base + address, base + address + len(data)
            if end > size:
                raise ImageError(
                    f"{where}: image too large, it reaches 0x{end - 1:X} and the part's flash ends at 0x{size - 1:X}; "
                    "this image is for another part"
                )
            if end > len(memory):
                memory.extend(b"\xff" * (end - len(memory)))
                written.extend(bytes(end - len(written)))
            if any(written[start:end]):
                raise ImageError(f"{where}: address 0x{start:X} is written twice; the file is damaged, fetch it again")
            memory[start:end] = data
            written[start:end] = b"\1" * len(data)
    if not ended:
        raise ImageError(f"{name}: no end record; the file is cut off, fetch it again")
    image = content(bytes(memory))
    if not image:
        raise ImageError(f"{name}: holds no data")
    return image


def _record(line: str, where: str) -> tuple[int, int, bytes]:
    if not line.startswith(":"):
        raise ImageError(f"{where}: not an Intel HEX record (no colon at its start)")
    try:
        raw = bytes.fromhex(line[1:])
    except ValueError:
        raise ImageError(f"{where}: not hexadecimal; the file is damaged, fetch it again") from None
    if len(raw) < 5 or len(raw) != raw[0] + 5:
        raise ImageError(f"{where}: record length does not fit its count; the file is damaged, fetch it again")
    if sum(raw) & 0xFF:
        raise ImageError(
            f"{where}: checksum is 0x{raw[-1]:02X}, expected 0x{-sum(raw[:-1]) & 0xFF:02X}; fetch it again"
        )
    if raw[3] > 5:
        raise ImageError(f"{where}: unknown record type {raw[3]:02X}")
    return raw[3], raw[1] << 8 | raw[2], raw[4:-1]


def format_hex(memory: bytes, block: int = 16) -> str:
    """Intel HEX of ``memory`` (at most 64 KiB), blocks of erased bytes left out."""
    lines = []
    for address in range(0, len(memory), block):
        data = memory[address : address + block]
        if data.strip(b"\xff"):
            record = bytes((len(data), address >> 8, address & 0xFF, 0)) + data
            lines.append(f":{record.hex().upper()}{-sum(record) & 0xFF:02X}")
    return "\n".join([*lines, ":00000001FF", ""])


def verify(data: bytes, sha256: str, name: str) -> None:
    """ImageError unless the bytes of the file ``name`` have the promised ``sha256`` (64 hex digits)."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256.strip().lower():
        raise ImageError(
            f"{name}: digest mismatch, expected sha256 {sha256}, found {found}; "
            "the file is not the release, nothing was sent"
        )

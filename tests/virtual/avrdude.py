# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real avrdude, against the simulated programmer."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def command(port: Path, *arguments: str) -> list[str]:
    part = [] if "-p" in arguments else ["-p", "m32"]
    return ["avrdude", "-q", "-q", "-c", "stk500v1", "-b", "19200", "-P", str(port), *part, *arguments]


def avrdude(port: Path, *arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(port, *arguments), capture_output=True, text=True, check=False, timeout=timeout)


def flash(port: Path, image: Path) -> subprocess.CompletedProcess[str]:
    return avrdude(port, "-U", f"flash:w:{image}:i")


def bytewise(directory: Path) -> list[str]:
    """Options for EEPROM access byte by byte: avrdude and ArduinoISP differ about the addresses of its pages."""
    config = directory / "bytewise.conf"
    config.write_text(
        """part parent "m32"
               id = "m32_bytewise";
               memory "eeprom"
                   page_size = 1;
                   loadpage_lo = NULL;
                   writepage = NULL;
               ;
           ;
        """
    )
    return ["-C", f"+{config}", "-p", "m32_bytewise"]


@contextmanager
def running(port: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """An avrdude that is ended for good at the end, however it hangs."""
    process = subprocess.Popen(command(port, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], timeout: float = 10) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.005)


def image_of(hex_file: Path) -> bytes:
    """The bytes of an Intel HEX file that starts at 0, read without any code of the project."""
    image = b""
    for line in hex_file.read_text().split():
        record = bytes.fromhex(line[1:])
        if record[3] == 0:
            address = int.from_bytes(record[1:3], "big")
            image = image.ljust(address, b"\xff")[:address] + record[4:-1]
    return image

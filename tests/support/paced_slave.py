# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire-paced slave of tests/bench/paced_slave.c as a context manager; compiled when its source has changed."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "bench" / "paced_slave.c"


def build() -> Path:
    """The compiled slave, from .cache/ where it is up to date."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    program = ROOT / ".cache" / f"paced_slave-{digest}"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        fresh = program.with_name(f"{program.name}.{os.getpid()}")
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", fresh, SOURCE, "-lpthread"], check=True)
        fresh.replace(program)
    return program


def register(unit: int, address: int) -> int:
    """What a register of the slave holds until it is written."""
    return (address * 7 + unit * 4099) & 0xFFFF


def registers(unit: int, address: int, count: int) -> list[int]:
    return [register(unit, one) for one in range(address, address + count)]


class PacedSlave:
    """Slaves on one or more lines at the pace of a real wire (baudrate 0: as fast as possible)."""

    def __init__(
        self,
        directory: Path,
        *,
        baudrate: int = 115200,
        ports: int = 1,
        gap: float | None = None,
        turnaround: float = 0.0,
        units: Sequence[int] = (),
    ) -> None:
        self.lines = [str(directory / f"line_{index}") for index in range(ports)]
        options = ["-b", str(baudrate), "-n", str(ports), "-d", str(round(turnaround * 1e6))]
        if gap is not None:
            options += ["-g", str(round(gap * 1e6))]
        if units:
            options += ["-u", ",".join(map(str, units))]
        self._process = subprocess.Popen(
            [build(), *options, directory / "line_"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _turn in range(ports):
            if self._read() != "ready":
                self.close()
                raise RuntimeError("the paced slave did not start")

    @property
    def line(self) -> str:
        return self.lines[0]

    def counters(self) -> dict[str, int]:
        """What happened on the wire since the last call."""
        if self._process.stdin is None:
            raise RuntimeError("no connection to the paced slave")
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return {name: int(value) for name, value in (item.split("=") for item in self._read().split())}

    def close(self) -> None:
        self._process.communicate()

    def __enter__(self) -> PacedSlave:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> str:
        return self._process.stdout.readline().strip() if self._process.stdout else ""

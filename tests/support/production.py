# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A production master: another process on the same line, which starts units and keeps asking their controllers.

As a program it is that process; its arguments are the line and the controllers' units, and a line on its standard input
makes it talk or fall silent.
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    REPOSITORY = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "plugins/module_utils")]

from _core.device import Device
from _core.errors import CoreError
from _core.line import open_bus
from support.profiles import profile

_PERIOD = 0.15


class Production:
    """The master in a process of its own; when ``with`` begins, the first two units of each controller run."""

    def __init__(self, line: str | Path, units: Sequence[int]) -> None:
        self._command = [sys.executable, __file__, str(line), *map(str, units)]

    def __enter__(self) -> Production:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._expect("runs")
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=5)
        self._process.kill()

    def talk(self) -> None:
        self._tell("talks")

    def fall_silent(self) -> None:
        """From the return of this on nothing is heard from it."""
        self._tell("silent")

    def _tell(self, what: str) -> None:
        if self._process.stdin is None:
            raise RuntimeError("no pipe, though asked for")
        self._process.stdin.write(f"{what}\n")
        self._expect(what)

    def _expect(self, what: str) -> None:
        if self._process.stdout is None:
            raise RuntimeError("no pipe, though asked for")
        said = self._process.stdout.readline().strip()
        if said != what:
            raise AssertionError(f"the production master says {said!r}, expected {what!r}")


def main(line: str, units: Sequence[int]) -> None:
    bus = open_bus(line)
    devices = [Device(f"unit {unit}", unit, profile(), bus) for unit in units]
    for device in devices:
        for number in (1, 2):
            device.write(f"sonicator{number}_start_stop", 1)
    print("runs", flush=True)
    talks = True
    while True:
        if talks:
            for device in devices:
                with contextlib.suppress(CoreError):
                    device.read(["system_status", "active_mask", "sonicator1_power", "sonicator2_power"])
        until = time.monotonic() + _PERIOD
        if select.select([sys.stdin], [], [], max(0.0, until - time.monotonic()))[0]:
            told = sys.stdin.readline().strip()
            if not told:
                return
            talks = told == "talks"
            print(told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [int(unit) for unit in sys.argv[2:]])

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long recovery takes: a drill of 16 controllers, and a controller on a chip fresh from the factory.

The chip is programmed at a programmer's real pace: what is beyond the wire is what the collection adds, such as the
start of Ansible, restic, and the proof of a new boot.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path

from ratios import Result, import_path, report

import_path()

from _core import backup  # noqa: E402
from support.ansible import VirtualSite  # noqa: E402
from support.backups import QUESTIONS, Backups  # noqa: E402
from support.virtual import Board  # noqa: E402

BAUDRATE = 19200
CHARACTER = 10 / BAUDRATE
GATEWAYS, ON_EACH = 4, 4
# As an ATmega32A leaves the factory.
FACTORY = "lfuse 0xE1\nhfuse 0x99\nlock 0xFF\n"


def drill(directory: Path) -> float:
    """Seconds of a drill of all controllers, with two targets each."""
    directory.mkdir()
    boards = {
        f"gateway_{gateway}": [[Board(f"press_{gateway}_{place}", 1 + place) for place in range(1, ON_EACH + 1)]]
        for gateway in range(GATEWAYS)
    }
    with VirtualSite(directory, boards) as site:
        kept = Backups(site)
        site.play("snapshot", controllers_read_chip=True)
        for gateway in boards:
            kept.take(gateway)
        started = time.monotonic()
        run = site.play("recovery_drill", recovery_drill_sample=0)
        seconds = time.monotonic() - started
    print(f"drill of {GATEWAYS * ON_EACH} controllers: {seconds:.0f} s; {_figures(run.output)}", flush=True)
    return seconds


def replacement(directory: Path) -> float:
    """Bringing a controller back onto a blank chip, against what the wire takes for what is transferred."""
    directory.mkdir()
    with VirtualSite(directory, {"gateway": [[Board("press_1")]]}, programmer_baudrate=BAUDRATE) as site:
        kept = Backups(site)
        site.play("snapshot", controllers_read_chip=True)
        kept.take("gateway")
        configuration = str(kept.write_configuration("gateway"))
        line = site.line("press_1")
        line.stop()
        for memory in ("flash.bin", "eeprom.bin"):
            path = line.memory("press_1", memory)
            path.write_bytes(b"\xff" * path.stat().st_size)
        line.memory("press_1", "fuses").write_text(FACTORY)
        line.start()
        site.control.environment["SIMULATORS"] = str(line.control_socket)
        # As the role recovery does it, for a gateway whose configuration is not in its own place.
        fetch = site.task("backup_set", {"configuration": configuration}, register="fetched")
        brought = {"set": "{{ fetched.set }}", "flash_silent": True, "write_fuses": True}
        started = time.monotonic()
        run = site.tasks(fetch, site.task("firmware", brought, register="brought"))
        seconds = time.monotonic() - started
    wire = run.traffic["programmer_bytes"] * CHARACTER
    print(f"a blank chip: {seconds:.1f} s, {wire:.1f} s of them on the wire", flush=True)
    return seconds / wire


def _figures(output: str) -> str:
    found = re.search(r"recovery time \d+ s, recovery point \d+ s before", " ".join(output.split()))
    if found is None:
        raise RuntimeError(f"no figures were told:\n{output}")
    return found[0]


def main() -> int:
    backup.QUESTIONS.clear()
    backup.QUESTIONS.update(QUESTIONS)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        blank = replacement(directory / "replacement")
        drilled = drill(directory / "drill")
    return report(
        [
            Result("recovery: a blank chip / wire time of its transfers", blank, 2.0),
            Result(f"recovery: drill of {GATEWAYS * ON_EACH} controllers, in s", drilled, 900),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

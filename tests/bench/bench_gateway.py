# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many controllers behind one gateway against one: a task that reads, and flashing at a programmer's real pace."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ratios import Result, import_path, report

import_path()

from _core.change import Policy  # noqa: E402
from support import site  # noqa: E402
from support.ansible import VirtualSite  # noqa: E402
from support.virtual import Board, VirtualLine  # noqa: E402

MANY = 8
CALLS = 11
FLASHINGS = 3
BAUDRATE = 19200
CHARACTER = 10 / BAUDRATE
POLICY = Policy(soak=0.0)


def boards() -> list[list[Board]]:
    return [[Board(f"press_{number}")] for number in range(1, MANY + 1)]


def reading(directory: Path) -> float:
    """One task that reads all points of eight controllers on eight lines, against one with one."""
    with VirtualSite(directory, {"gateway": boards()}) as virtual:
        one = {"controllers": virtual.controllers["gateway"][:1]}
        calls = [
            {"name": f"{name} {number}", **virtual.task("registers_info", options)}
            for number in range(CALLS)
            for name, options in (("one", one), ("many", {}))
        ]
        events = virtual.tasks(*calls).events
    seconds = {
        name: statistics.median(e["seconds"] for e in events if e["task"].startswith(name)) for name in ("one", "many")
    }
    print(f"a task that reads one controller {seconds['one']:.3f} s, {MANY} controllers {seconds['many']:.3f} s")
    return seconds["many"] / seconds["one"]


def flashing(directory: Path) -> tuple[float, float]:
    """Transactions on eight boards against one, and one against what its programmer's wire takes."""
    lines = []
    for [board] in boards():
        place = directory / board.name
        place.mkdir(parents=True)
        lines.append(VirtualLine(place, [board], programmer_baudrate=BAUDRATE))
    for line in lines:
        line.start()
    try:
        one, many, overhead = [], [], []
        for number in range(FLASHINGS):
            version = ("1.1.0", "1.0.0")[number % 2]
            lines[0].control("line", "counters_reset")
            one.append(deploy(directory, lines[:1], version))
            programmer = lines[0].state("press_1")["programmer"]
            overhead.append(one[-1] / ((programmer["rx_bytes"] + programmer["tx_bytes"]) * CHARACTER))
            # The first board is on this release already, so that one more is needed for eight.
            deploy(directory, lines[:1], ("1.0.0", "1.1.0")[number % 2])
            many.append(deploy(directory, lines, version))
    finally:
        for line in lines:
            line.stop()
    medians = statistics.median(one), statistics.median(many)
    print(f"a transaction on one board {medians[0]:.2f} s, on {MANY} boards {medians[1]:.2f} s")
    return medians[1] / medians[0], statistics.median(overhead)


def deploy(directory: Path, lines: list[VirtualLine], version: str) -> float:
    """Seconds that it takes to bring these boards to a release."""
    controllers: list[dict[str, Any]] = [entry for line in lines for entry in site.entries(line)]
    started = time.monotonic()
    results = site.deploy(site.gateway(directory, controllers), version, POLICY)
    seconds = time.monotonic() - started
    wrong = [result for result in results.values() if result["outcome"] != "deployed"]
    if wrong:
        raise RuntimeError(f"not deployed: {wrong}")
    return seconds


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        read = reading(directory / "reading")
        many, overhead = flashing(directory / "flashing")
    return report(
        [
            Result(f"gateway: reading {MANY} controllers in one call / one", read, 1.15),
            Result(f"gateway: flashing {MANY} boards / one", many, 1.25),
            Result("gateway: a transaction / wire time of its transfers", overhead, 1.15),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

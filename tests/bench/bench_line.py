# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The serial line against the time its wire needs, and against pymodbus' serial client, in one run."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from ratios import ROOT, Result, import_path, medians, report

import_path()

import yaml  # noqa: E402
from _core.line import open_bus  # noqa: E402
from _core.plan import Span, plan  # noqa: E402
from support.paced_slave import PacedSlave, registers  # noqa: E402

BAUDRATE = 115200
CHARACTER = 10 / BAUDRATE
GAP = 3.5 * CHARACTER
UNIT = 2
ROUNDS = 31
PROFILE = ROOT / "plugins" / "plugin_utils" / "profiles" / "multi_sonicator_io.yml"


def scattered_points(profile: dict[str, Any]) -> list[Span]:
    """What a status table asks for: 10 points of the controller and 4 of each sonicator, one register each."""
    points = profile["points"]
    group = profile["groups"]["sonicator"]
    own = sorted(point["address"] for point in points.values())
    first = own[:7] + own[-3:]
    names = ("power", "frequency", "status_flags", "amplitude_actual")
    offsets = [group["points"][name]["address"] for name in names]
    members = [
        group["address"] + member * group["stride"] + offset for member in range(group["count"]) for offset in offsets
    ]
    return [Span(address, 1) for address in first + members]


def wire_time(spans: list[Span]) -> float:
    """Request, silence that ends it, answer, silence before the next."""
    return sum((8 + 5 + 2 * span.count) * CHARACTER + 2 * GAP for span in spans)


def main() -> int:
    from pymodbus.client import ModbusSerialClient

    profile = yaml.safe_load(PROFILE.read_text())
    points = scattered_points(profile)
    planned = plan(points, list(map(tuple, profile["readable"])), profile["largest_block"])
    block = Span(0x100, profile["largest_block"])
    with tempfile.TemporaryDirectory() as directory, PacedSlave(Path(directory), baudrate=BAUDRATE, ports=2) as slave:
        bus = open_bus(slave.line, baudrate=BAUDRATE, request_gap=GAP)

        def read(spans: list[Span]) -> None:
            for span in spans:
                if bus.read(UNIT, span.address, span.count) != registers(UNIT, span.address, span.count):
                    raise RuntimeError(f"wrong values at {span}")

        def read_ours(spans: list[Span]) -> float:
            [seconds] = medians(ROUNDS, lambda: read(spans))
            return seconds / wire_time(spans)

        read(planned)
        slave.counters()
        planned_ratio, block_ratio, single_ratio = read_ours(planned), read_ours([block] * 5), read_ours(points)
        counters = slave.counters()

        # On a line of its own: it holds the lock of its port as long as it has it open.
        client: Any = ModbusSerialClient(port=slave.lines[1], baudrate=BAUDRATE, timeout=1)
        client.connect()
        names = client.read_holding_registers.__code__.co_varnames
        unit = {next(name for name in ("device_id", "slave") if name in names): UNIT}

        def read_one_by_one() -> None:
            for point in points:
                found = client.read_holding_registers(point.address, count=1, **unit).registers
                if found != registers(UNIT, point.address, 1):
                    raise RuntimeError(f"wrong value at {point}")

        [one_by_one, ours] = medians(11, read_one_by_one, lambda: read(planned))
        bus.close()
        client.close()

    print(f"{len(points)} points in {len(planned)} requests, {BAUDRATE} baud, silences of 3.5 characters")
    return report(
        [
            Result("line: planned read of 26 points / wire time", planned_ratio, 1.10),
            Result("line: largest block / wire time", block_ratio, 1.05),
            Result("line: single registers / wire time", single_ratio, 1.25),
            Result("line: silences too short", counters["gap_violations"] + counters["collisions"], 0),
            Result("line: pymodbus one by one / planned read", one_by_one / ours, 2.5, at_least=True),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

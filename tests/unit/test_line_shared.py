# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The line at the pace of a real wire, and shared by two processes at full speed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _core.errors import NoAnswer
from _core.line import open_bus
from support.paced_slave import ROOT, PacedSlave, registers

CHARACTER = 10 / 115200


@pytest.fixture
def slave(tmp_path: Path) -> Iterator[PacedSlave]:
    with PacedSlave(tmp_path, units=(2, 3)) as one:
        yield one


def test_paced_reads_keep_the_silences(slave: PacedSlave) -> None:
    bus = open_bus(slave.line, request_gap=0)
    for _turn in range(20):
        for unit, address, count in [(2, 0, 1), (3, 0, 20), (2, 0x100, 50)]:
            assert bus.read(unit, address, count) == registers(unit, address, count)
    bus.write(2, 0x10, [1, 2, 3])
    bus.write(2, 0x11, [9], function=6)
    assert bus.read(2, 0x10, 3) == [1, 9, 3]
    bus.close()
    counters = slave.counters()
    assert counters["requests"] == counters["answers"] == 63
    assert counters["writes"] == 2
    assert counters["gap_violations"] == counters["collisions"] == counters["bad_crc"] == 0


def test_the_configured_gap_is_kept(slave: PacedSlave) -> None:
    bus = open_bus(slave.line, request_gap=0.01)
    bus.read(2, 0, 1)
    started = time.monotonic()
    for _turn in range(10):
        bus.read(2, 0, 1)
    assert time.monotonic() - started >= 0.1
    bus.close()


@pytest.mark.timing
def test_a_silent_unit_costs_the_others_no_more_than_its_timeout(slave: PacedSlave) -> None:
    bus = open_bus(slave.line)
    took = []
    for _turn in range(5):
        with pytest.raises(NoAnswer):
            bus.read(9, 0, 1)
        started = time.monotonic()
        assert bus.read(3, 4, 2) == registers(3, 4, 2)
        took.append(time.monotonic() - started)
    bus.close()
    # A busy machine can only make a read longer.
    assert min(took) < 0.05


READER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from _core.line import open_bus
line, first, reads = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
bus = open_bus(line, request_gap=0, response_timeout=1)
print("ready", flush=True)
sys.stdin.readline()
wrong, failed, longest = [], [], 0.0
for number in range(reads):
    unit, address = 1 + (number + first) % 200, (number * 5 + first) % 24
    started = time.monotonic()
    try:
        values = bus.read(unit, address, 4)
    except Exception as error:
        failed.append(str(error))
        if len(failed) > 10:
            break
        continue
    finally:
        longest = max(longest, time.monotonic() - started)
    if values != [((address + i) * 7 + unit * 4099) & 0xFFFF for i in range(4)]:
        wrong.append([unit, address, values])
print(json.dumps({"wrong": wrong, "failed": failed, "longest": longest}), flush=True)
"""


def shared(line: str, reads: int) -> list[dict[str, Any]]:
    """What two reading processes report, both at full speed."""
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(ROOT / "plugins" / "module_utils"), line, str(first), str(reads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, 1)
    ]
    try:
        for reader in readers:
            assert reader.stdout
            assert reader.stdout.readline() == "ready\n"
        for reader in readers:
            assert reader.stdin
            reader.stdin.write("\n")
            reader.stdin.flush()
        return [json.loads(reader.communicate(timeout=120)[0]) for reader in readers]
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


@pytest.mark.timing
def test_two_processes_share_a_line_at_full_speed(tmp_path: Path) -> None:
    """10,000 reads in all, each of its own unit and address, as fast as the lock and the 3.5 characters allow."""
    with PacedSlave(tmp_path, baudrate=0) as slave:
        reports = shared(slave.line, 5000)
        counters = slave.counters()
    for report in reports:
        assert report["wrong"] == []
        assert report["failed"] == []
    assert counters["requests"] == counters["answers"] == 10_000


@pytest.mark.timing
def test_two_processes_keep_the_silences_and_both_get_their_turn(tmp_path: Path) -> None:
    with PacedSlave(tmp_path) as slave:
        reports = shared(slave.line, 400)
        counters = slave.counters()
    for report in reports:
        assert report["wrong"] == []
        assert report["failed"] == []
        assert report["longest"] < 0.5, "the longest that a controller may be left without a request"
    assert counters["answers"] == 800
    assert counters["gap_violations"] == counters["collisions"] == 0

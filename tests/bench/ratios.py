# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a benchmark states its result: one line per ratio, the limit it must keep, and whether it does."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def import_path() -> None:
    """Let a benchmark that is run as a script import the core and the tests' helpers."""
    sys.path[:0] = [str(ROOT / "plugins" / "module_utils"), str(ROOT / "tests"), str(ROOT / "molecule")]


@dataclass(frozen=True)
class Result:
    """A measured figure and its limit."""

    name: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def ok(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def __str__(self) -> str:
        bound = f"{'>=' if self.at_least else '<='} {self.limit:g}"
        return f"{self.name:<58} {self.measured:>8.3f}  {bound:<8}  {'ok' if self.ok else 'MISSED'}"


def report(results: list[Result]) -> int:
    """Print the results; the exit code of the benchmark."""
    for result in results:
        print(result, flush=True)
    return 0 if all(result.ok for result in results) else 1


def duration(work: Callable[[], object]) -> float:
    """Seconds that one run takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def medians(rounds: int, *works: Callable[[], object]) -> list[float]:
    """The median duration of each, run in turn so that a busy moment of the machine meets all of them."""
    samples: list[list[float]] = [[] for _work in works]
    for _round in range(rounds):
        for sample, work in zip(samples, works, strict=True):
            sample.append(duration(work))
    return [statistics.median(sample) for sample in samples]

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which registers are wanted, turned into the fewest and then the smallest requests. Pure: no I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .errors import CoreError

# More registers than any plan reads: with the cost requests * _REQUEST + registers, requests count first.
_REQUEST = 1 << 40


@dataclass(frozen=True)
class Span:
    """Neighbouring registers: those of a point, or those of a request."""

    address: int
    count: int

    @property
    def last(self) -> int:
        """The last register."""
        return self.address + self.count - 1

    def __str__(self) -> str:
        return f"0x{self.address:04X}" if self.count == 1 else f"0x{self.address:04X} to 0x{self.last:04X}"


def plan(wanted: Iterable[Span], readable: Sequence[tuple[int, int]], largest_block: int) -> list[Span]:
    """The fewest requests that read every ``wanted`` span whole, and of those plans one with the fewest registers.

    ``readable`` are ranges, first and last register included; a request lies within one of them. Neighbouring ranges
    stay apart: a firmware that names them separately may refuse to be read across. ``largest_block`` is the most
    registers of a request. A wanted span is never split, since its registers must be of one moment.
    The requests come in the order of their addresses.
    """
    ranges = sorted(readable)
    starts = [first for first, _last in ranges]
    spans = sorted(set(wanted), key=lambda span: (span.address, -span.count))
    _refuse_impossible(spans, ranges, starts, largest_block)
    result: list[Span] = []
    together: list[Span] = []
    here = -1
    for span in _not_contained(spans):
        there = bisect_right(starts, span.address) - 1
        if there != here:
            result += _fewest(together, largest_block)
            together, here = [], there
        together.append(span)
    return result + _fewest(together, largest_block)


def _refuse_impossible(spans: list[Span], ranges: list[tuple[int, int]], starts: list[int], largest_block: int) -> None:
    problems: list[str] = []
    for span in spans:
        where = bisect_right(starts, span.address) - 1
        if span.count < 1:
            problems.append(f"0x{span.address:04X} with {span.count} registers is no span")
        elif where < 0 or span.last > ranges[where][1]:
            problems.append(f"{span} lies outside of what can be read")
        elif span.count > largest_block:
            problems.append(f"{span} is longer than the largest block of {largest_block} registers")
    if problems:
        known = ", ".join(f"0x{first:04X} to 0x{last:04X}" for first, last in ranges) or "nothing"
        raise CoreError(
            f"cannot plan a read: {'; '.join(problems)}; expected registers within {known}; "
            "correct the addresses, or readable and largest_block in the profile"
        )


def _not_contained(spans: list[Span]) -> Iterator[Span]:
    """Without the spans that lie within another: what is left rises in its first and in its last registers.

    Therefore a request that reads two of them reads all between, and an optimal plan cuts the list into runs.
    """
    reached = -1
    for span in spans:
        if span.last > reached:
            reached = span.last
            yield span


def _fewest(spans: list[Span], largest_block: int) -> list[Span]:
    """The best cut of ``spans`` (of one readable range) into runs, found from the last span backwards."""
    size = len(spans)
    lasts = [span.last for span in spans]
    # What it costs to end a run with a span: its last register, and the best plan for all spans behind it.
    ending = [0] * size
    following = [0] * size
    behind = 0
    for start in range(size - 1, -1, -1):
        ending[start] = lasts[start] + behind
        address = spans[start].address
        beyond = bisect_right(lasts, address + largest_block - 1)
        cheapest = min(ending[start:beyond])
        following[start] = ending.index(cheapest, start) + 1
        behind = _REQUEST + cheapest - address + 1
    result: list[Span] = []
    start = 0
    while start < size:
        address = spans[start].address
        start = following[start]
        result.append(Span(address, lasts[start - 1] - address + 1))
    return result

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The read planner, against every other way to read the same registers and against its own promises."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from _core.errors import CoreError
from _core.plan import Span, plan
from hypothesis import given, settings
from hypothesis import strategies as st

EVERYTHING = [(0, 0xFFFF)]


def holds(outer: Span, inner: Span) -> bool:
    return outer.address <= inner.address and inner.last <= outer.last


def best_by_trial(wanted: list[Span], readable: list[tuple[int, int]], largest: int) -> tuple[int, int]:
    """Requests and registers of the best plan, found by trying every set of possible requests."""
    addresses = sorted({span.address for span in wanted})
    lasts = sorted({span.last for span in wanted})
    possible = [
        Span(first, last - first + 1)
        for first in addresses
        for last in lasts
        if 0 <= last - first < largest and any(low <= first and last <= high for low, high in readable)
    ]
    for requests in range(len(wanted) + 1):
        registers = [
            sum(request.count for request in chosen)
            for chosen in itertools.combinations(possible, requests)
            if all(any(holds(request, span) for request in chosen) for span in wanted)
        ]
        if registers:
            return requests, min(registers)
    raise AssertionError("no plan at all")


@st.composite
def tasks(draw: st.DrawFn, most: int, reach: int, blocks: int) -> tuple[list[Span], list[tuple[int, int]], int]:
    """Wanted spans that can be read, the readable ranges and the largest block."""
    largest = draw(st.integers(1, blocks))
    edges = sorted(draw(st.sets(st.integers(0, reach), min_size=2, max_size=8)))
    readable = [(edges[i], edges[i + 1]) for i in range(0, len(edges) - 1, 2)]
    wanted = []
    for _number in range(draw(st.integers(0, most))):
        low, high = draw(st.sampled_from(readable))
        address = draw(st.integers(low, high))
        wanted.append(Span(address, draw(st.integers(1, min(largest, high - address + 1, 4)))))
    return wanted, readable, largest


def check_promises(wanted: list[Span], readable: list[tuple[int, int]], largest: int) -> list[Span]:
    requests = plan(wanted, readable, largest)
    for request in requests:
        assert 1 <= request.count <= largest
        assert any(low <= request.address and request.last <= high for low, high in readable)
    assert all(any(holds(request, span) for request in requests) for span in wanted)
    assert [request.address for request in requests] == sorted({request.address for request in requests})
    return requests


@settings(max_examples=300, deadline=None)
@given(tasks(most=5, reach=24, blocks=9))
def test_no_other_plan_is_better(task: tuple[list[Span], list[tuple[int, int]], int]) -> None:
    requests = check_promises(*task)
    assert (len(requests), sum(request.count for request in requests)) == best_by_trial(*task)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 125))
def test_large_plans_keep_the_promises(seed: int, largest: int) -> None:
    # Random and not drawn: hypothesis would spend its time on hundreds of numbers whose shrinking helps nobody.
    chance = random.Random(seed)
    edges = sorted(chance.sample(range(5000), 2 * chance.randint(1, 10)))
    readable = [(edges[i], edges[i + 1]) for i in range(0, len(edges), 2)]
    wanted = []
    for _number in range(chance.randint(1, 200)):
        low, high = chance.choice(readable)
        address = chance.randint(low, high)
        wanted.append(Span(address, chance.randint(1, min(largest, high - address + 1, 8))))
    requests = check_promises(wanted, readable, largest)
    # Taking each time as much as a request can hold gives the fewest requests (not the fewest registers).
    count, first, home = 0, -1, None
    reached = -1
    for span in sorted(wanted, key=lambda span: (span.address, -span.count)):
        if span.last <= reached:
            continue
        reached = span.last
        here = next(pair for pair in readable if pair[0] <= span.address <= pair[1])
        if here != home or span.last - first + 1 > largest:
            count, first, home = count + 1, span.address, here
    assert len(requests) == count


@given(tasks(most=20, reach=200, blocks=20), st.randoms())
def test_order_and_repetition_do_not_matter(
    task: tuple[list[Span], list[tuple[int, int]], int], shuffle: random.Random
) -> None:
    wanted, readable, largest = task
    again = wanted + wanted[:3]
    shuffle.shuffle(again)
    assert plan(again, readable[::-1], largest) == plan(wanted, readable, largest)


def test_fewest_requests_come_before_fewest_registers() -> None:
    assert plan([Span(0, 1), Span(9, 1)], EVERYTHING, 10) == [Span(0, 10)]


def test_of_equal_requests_the_fewest_registers() -> None:
    # Filling the first request (0 to 9) would leave 10 to 19 for the second: 20 registers instead of 11.
    assert plan([Span(0, 1), Span(9, 2), Span(18, 1)], EVERYTHING, 10) == [Span(0, 1), Span(9, 10)]


def test_neighbouring_ranges_are_not_read_across() -> None:
    assert plan([Span(4, 1), Span(5, 1)], [(0, 4), (5, 9)], 10) == [Span(4, 1), Span(5, 1)]


def test_a_value_of_two_registers_stays_whole() -> None:
    assert plan([Span(0, 2), Span(2, 2), Span(4, 2)], EVERYTHING, 5) == [Span(0, 2), Span(2, 4)]


def test_nothing_wanted_nothing_read() -> None:
    assert plan([], EVERYTHING, 50) == []
    assert plan(iter([]), [], 50) == []


@pytest.mark.parametrize(
    ("wanted", "readable", "largest", "words"),
    [
        (
            [Span(0x20, 1)],
            [(0, 0x13), (0x100, 0x117)],
            50,
            ["0x0020 lies outside", "0x0000 to 0x0013, 0x0100 to 0x0117"],
        ),
        ([Span(0x13, 2)], [(0, 0x13)], 50, ["0x0013 to 0x0014 lies outside"]),
        ([Span(1, 1)], [(2, 9)], 50, ["0x0001 lies outside"]),
        ([Span(3, 2)], [(0, 3), (4, 9)], 50, ["0x0003 to 0x0004 lies outside"]),
        ([Span(1, 1)], [], 50, ["expected registers within nothing"]),
        ([Span(2, 4)], EVERYTHING, 3, ["0x0002 to 0x0005 is longer than the largest block of 3"]),
        ([Span(2, 0)], EVERYTHING, 3, ["0x0002 with 0 registers is no span"]),
        (
            [Span(0x20, 1), Span(0x30, 1), Span(0, 9)],
            [(0, 9)],
            5,
            ["0x0020 lies", "0x0030 lies", "0x0000 to 0x0008 is longer"],
        ),
    ],
)
def test_what_cannot_be_read_is_named(
    wanted: list[Span], readable: list[tuple[int, int]], largest: int, words: list[str]
) -> None:
    with pytest.raises(CoreError) as caught:
        plan(wanted, readable, largest)
    for word in words:
        assert word in str(caught.value)
    assert "correct the addresses" in str(caught.value)


@pytest.mark.timing
@pytest.mark.parametrize("distance", [1, 2, 7, 100])
def test_five_hundred_points_are_planned_in_no_time(distance: int) -> None:
    wanted = [Span(number * distance, 1) for number in range(500)]

    def timed() -> float:
        begin = time.process_time()
        plan(wanted, EVERYTHING, 125)
        return time.process_time() - begin

    assert min(timed() for _attempt in range(3)) < 0.05

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A transaction is cut off at every page, every event of the programmer and every save; the next run puts things right.

Cut off means: everything of ours is killed, or the board loses power. Each on the way forward, from 1.0.0 to 1.1.0, and
on the way back, when 1.2.0, which never answers, has been written over 1.0.0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from _core.change import Target
from support import site
from support.cuts import SETTINGS, Cut, Cutter, Lane

OLD, NEW, BROKEN = map(site.target, ("1.0.0", "1.1.0", "1.2.0"))
# A third healthy image: the new one with some bytes more behind it.
OTHER = Target("1.1.0 of another build", site.flash_of("1.1.0") + b"another build", version="1.1.0")
DEFAULTS = {
    **{f"sonicator{number}_amplitude": 50 for number in range(1, 5)},
    "global_enable": 1,
    "start_inhibit_mask": [],
}
COUNTERS = {"page": "pages", "erase": "erases", "eeprom": "eeprom_writes", "enter": "enters", "leave": "leaves"}


@dataclasses.dataclass
class Way:
    """What a whole run does in one direction: its events as simulator's names and numbers, and its saves by number."""

    target: Target
    events: list[str]
    saves: dict[int, str]


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Way]:
    """The way forward and the way back, as runs that nobody cuts off take them."""
    lane = Lane(tmp_path_factory.mktemp("ways") / "lane")
    try:
        forward, saves = _whole_run(lane, NEW, "deployed")
        both, all_saves = _whole_run(lane, BROKEN, "rolled_back")
    finally:
        lane.close()
    events = [f"{name} {number}" for name in COUNTERS for number in range(1, forward[name] + 1)]
    back = [f"{name} {number}" for name in COUNTERS for number in range(forward[name] + 1, both[name] + 1)]
    turn = all_saves.index("append back")
    assert forward["page"] == -(-len(NEW.flash or b"") // 128)
    assert both["page"] - forward["page"] == -(-len(OLD.flash or b"") // 128)
    return {
        "forward": Way(NEW, events, dict(enumerate(saves, 1))),
        "back": Way(BROKEN, back, dict(list(enumerate(all_saves, 1))[turn:])),
    }


def _whole_run(lane: Lane, target: Target, outcome: str) -> tuple[dict[str, int], list[str]]:
    lane.prepare("1.0.0")
    result = lane.run(target.label)
    assert result
    assert result["outcome"] == outcome, result["msg"]
    lane.require_whole(NEW if outcome == "deployed" else OLD)
    counters = lane.control("state")["programmer"]
    return {name: counters[counter] for name, counter in COUNTERS.items()}, lane.saves()


def cuts_of(way: Way, how: str, where: str) -> list[Cut]:
    if where == "saves":
        return [Cut(f"save {number} {moment}", how) for number in way.saves for moment in ("before", "after")]
    events = [event for event in way.events if event.startswith("page") == (where != "events")]
    if how == "kill":
        return [Cut(f"hold_at {event}", how) for event in events]
    half = " half" if where == "half pages" else ""
    return [Cut(f"power_off_at {event}{half}", how) for event in events]


PLACES = [("kill", "pages"), ("kill", "events"), ("kill", "saves")]
PLACES += [("power", "pages"), ("power", "half pages"), ("power", "events"), ("power", "saves")]


def settings_after(way: Way, cut: Cut) -> dict[str, object]:
    """Settings live in RAM: a board that loses power when the transaction has looked at it for the last time has lost
    them as it would have without any transaction."""
    if (
        cut.how == "power"
        and cut.at.startswith("save")
        and way.saves[int(cut.at.split()[1])] in ("append end", "close")
    ):
        return DEFAULTS
    return SETTINGS


def cut_off(lane: Lane, target: Target, *cuts: Cut) -> None:
    """A board of the old release, and runs to ``target`` one after the other, each cut off."""
    lane.prepare("1.0.0")
    for cut in cuts:
        lane.run(target.label, cut)
        lane.control("clear")


def finish(lane: Lane, target: Target, expected: Target, settings: dict[str, object]) -> None:
    """The next run, and where that one rolls back, one more, end on ``expected``; then nothing is left to be done."""
    result = lane.deploy(target)
    if result["failed"]:
        assert result["outcome"] in ("rolled_back", "failed"), result["msg"]
        lane.require_whole(OLD, settings)
        result = lane.deploy(target)
    assert result["outcome"] in ("deployed", "unchanged"), result["msg"]
    lane.require_whole(expected, settings)
    lane.require_nothing_to_do(expected)


@pytest.mark.parametrize(("how", "where"), PLACES)
def test_cut_off_forward(
    tmp_path: Path, ways: dict[str, Way], how: str, where: str, record_property: pytest.RecordProperty
) -> None:
    way = ways["forward"]

    def attempt(lane: Lane, cut: Cut) -> None:
        cut_off(lane, NEW, cut)
        if how == "kill":  # the board had power all the time: nothing speaks against going on
            result = lane.deploy(NEW)
            assert result["outcome"] in ("deployed", "unchanged"), result["msg"]
        finish(lane, NEW, NEW, settings_after(way, cut))

    require_none(tmp_path, cuts_of(way, how, where), attempt, record_property)


@pytest.mark.parametrize(("how", "where"), PLACES)
def test_cut_off_on_the_way_back(
    tmp_path: Path, ways: dict[str, Way], how: str, where: str, record_property: pytest.RecordProperty
) -> None:
    way = ways["back"]

    def attempt(lane: Lane, cut: Cut) -> None:
        cut_off(lane, BROKEN, cut)
        result = lane.deploy(BROKEN)
        assert result["outcome"] == "rolled_back", result["msg"]
        lane.require_whole(OLD, settings_after(way, cut))
        lane.require_nothing_to_do(OLD)

    require_none(tmp_path, cuts_of(way, how, where), attempt, record_property)


def require_none(
    tmp_path: Path, cuts: Sequence[object], attempt: object, record_property: object, **options: int
) -> None:
    """No cut after which ``attempt`` fails; how many there were is in the report."""
    record_property("cuts", len(cuts))  # type: ignore[operator]
    assert cuts
    problems = Cutter(tmp_path, options=options).try_all(cuts, attempt)  # type: ignore[arg-type]
    assert not problems, f"{len(problems)} of {len(cuts)} cuts:\n" + "\n".join(problems)


def some(way: Way, *saves: str) -> list[Cut]:
    """After each of these saves, and at three pages: killed, and without power."""
    numbers = [number for number, name in way.saves.items() if name in saves]
    pages = [event for event in way.events if event.startswith("page")]
    chosen = [f"save {number} after" for number in numbers]
    kills = [Cut(at, "kill") for at in chosen] + [Cut(f"hold_at {pages[i]}", "kill") for i in (0, 11, -1)]
    return kills + [Cut(at, "power") for at in chosen] + [Cut(f"power_off_at {pages[i]}", "power") for i in (0, 11, -1)]


STEPS = [
    f"append {step}" for step in ("begin", "drain", "read", "saved", "write", "written", "boot", "restore", "release")
]


@pytest.mark.parametrize("wanted", [OLD, OTHER], ids=["the old release", "another release"])
def test_something_else_is_wanted_after_the_cut(
    tmp_path: Path, ways: dict[str, Way], wanted: Target, record_property: pytest.RecordProperty
) -> None:
    def attempt(lane: Lane, cut: Cut) -> None:
        cut_off(lane, NEW, cut)
        finish(lane, wanted, wanted, SETTINGS)

    require_none(tmp_path, some(ways["forward"], *STEPS), attempt, record_property)


@pytest.mark.parametrize("direction", ["forward", "back"])
def test_the_next_run_is_cut_off_too(
    tmp_path: Path, ways: dict[str, Way], direction: str, record_property: pytest.RecordProperty
) -> None:
    way = ways[direction]
    pages = [event for event in way.events if event.startswith("page")]
    firsts = [Cut(f"hold_at {pages[6]}", "kill"), Cut(f"power_off_at {pages[6]}", "power")]
    seconds = [Cut("hold_at enter 1", "kill"), Cut("hold_at erase 1", "kill"), Cut("hold_at page 3", "kill")]
    seconds += [
        Cut("hold_at leave 1", "kill"),
        Cut("power_off_at erase 1", "power"),
        Cut("power_off_at page 3", "power"),
    ]
    seconds += [Cut(f"save {number} {moment}", "kill") for number in (1, 2, 3, 4) for moment in ("before", "after")]

    def attempt(lane: Lane, cuts: tuple[Cut, Cut]) -> None:
        lane.prepare("1.0.0")
        lane.run(way.target.label, cuts[0])
        lane.control("clear")
        lane.control("counters_reset")
        lane.run(way.target.label, cuts[1])
        lane.control("clear")
        if direction == "forward":
            finish(lane, NEW, NEW, SETTINGS)
        else:
            assert lane.deploy(BROKEN)["outcome"] == "rolled_back"
            lane.require_whole(OLD)

    both = [(first, second) for first in firsts for second in seconds]
    require_none(tmp_path, both, attempt, record_property)


@pytest.mark.parametrize("options", [{"hfuse": 0xD1}, {"programmer_autoreset": 40}], ids=["EESAVE", "autoreset"])
def test_other_boards_and_programmers(
    tmp_path: Path, ways: dict[str, Way], options: dict[str, int], record_property: pytest.RecordProperty
) -> None:
    """An EEPROM that outlives the erase; an Uno that restarts, and lets the board go, whenever its port is opened."""
    way = ways["forward"]
    pages = [event for event in way.events if event.startswith("page")]
    events = ["enter 1", "enter 2", "erase 1", *pages[::6], pages[-1], "leave 1"]
    cuts = [Cut(f"hold_at {event}", "kill") for event in events] + [
        Cut(f"power_off_at {event}", "power") for event in events
    ]

    def attempt(lane: Lane, cut: Cut) -> None:
        cut_off(lane, NEW, cut)
        finish(lane, NEW, NEW, SETTINGS)

    require_none(tmp_path, cuts, attempt, record_property, **options)

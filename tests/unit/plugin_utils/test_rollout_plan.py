# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rollout planner: whole rollouts of random fleets with a clock of their own, and each rule and error by itself."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import (
    Action,
    Budget,
    Cell,
    CellRule,
    Decision,
    Member,
    Plan,
    PlanError,
    Policy,
    Request,
    Rollout,
    Share,
    Status,
    Window,
    describe,
    parse_members,
    parse_policy,
    plan,
)
from hypothesis import given, settings
from hypothesis import strategies as st

MONDAY = datetime(2026, 6, 1, 12, tzinfo=UTC)
FAILED = (Status.FAILED, Status.UNREACHABLE)
SEEDS = st.integers(0, 2**32)


# Whole rollouts ------------------------------------------------------------------------------------------------------


def holds(rule: CellRule, size: int, in_service: int) -> bool:
    """Whether a cell with so many in service keeps its rule, told without rounding."""

    def of(share: Share) -> Fraction:
        return Fraction(share) if isinstance(share, int) else Fraction(share.rstrip("%")) * size / 100

    enough = rule.min_in_service is None or in_service >= of(rule.min_in_service)
    return enough and (rule.max_unavailable is None or size - in_service <= of(rule.max_unavailable))


def random_rule(chance: random.Random) -> CellRule:
    least, most = chance.choices([1, 2, 3, "10%", "34%", "50%", "70%"], k=2)
    return chance.choice([CellRule(min_in_service=least), CellRule(max_unavailable=most), CellRule(least, most)])


def random_policy(chance: random.Random, cells: Sequence[str]) -> Policy:
    windows = [
        Window(
            frozenset(chance.sample(range(7), chance.randint(1, 7))),
            time(chance.randrange(24)),
            time(chance.randrange(24), 30),
            ZoneInfo(chance.choice(["UTC", "Europe/Berlin", "America/New_York"])),
        )
        for _number in range(chance.choice([0, 0, 1, 2]))
    ]
    return Policy(
        canaries=chance.randrange(4),
        waves=tuple(chance.choice([1, 3, "10%", "30%", "100%"]) for _number in range(chance.randint(1, 3))),
        cells={name: random_rule(chance) for name in cells if chance.random() < 0.6},
        cell_default=chance.choice([CellRule(max_unavailable=1), CellRule("50%")]),
        windows=tuple(windows),
        budget=chance.choice([Budget(), Budget(2), Budget(None, 20.0, 5), Budget(3, 30.0, 4), Budget(None, 100.0)]),
        soak=tuple(chance.choice([0.0, 60.0, 3600.0]) for _number in range(chance.randint(1, 3))),
        approve_before=chance.choice([(), (), (2,), "all"]),
        cell_patience=chance.choice([0.0, 0.0, 600.0, 86400.0]),
    )


def random_fleet(chance: random.Random) -> tuple[list[Member], list[Member]]:
    """Controllers of an inventory, and those of them that are to be changed."""
    labels = [None, *(f"cell_{number}" for number in range(chance.randint(0, 5)))]
    controllers = [
        Member(f"gateway_{chance.randrange(6)}", f"press_{number}", chance.choice(labels), chance.random() < 0.05)
        for number in range(chance.randint(1, 30))
    ]
    return [one for one in controllers if chance.random() < 0.8], controllers


class World:
    """A fleet, an operator and a clock. ``trouble`` is how likely things go wrong, 0 for never."""

    def __init__(self, chance: random.Random, drawn: Plan, controllers: Iterable[Member], trouble: float) -> None:
        self.chance, self.plan, self.trouble = chance, drawn, trouble
        self.rollout = Rollout(drawn)
        self.now = MONDAY + timedelta(seconds=chance.randrange(7 * 86400))
        self.request = Request.NONE
        self.cells = {one.id: one.cell for one in controllers if one.cell is not None}
        self.sizes = Counter(self.cells.values())
        self.in_service = set(self.cells)
        self.lost_gateways: set[str] = set()
        self.steps: list[Decision] = []
        self.completed: list[str] = []

    def run(self) -> Decision:
        """Do as decided until the end, and check every decision."""
        for _number in range(50 + 50 * len(self.plan.members)):
            self.disturb()
            decision = self.rollout.decide(self.now, self.measured(), self.request)
            if decision.action in (Action.STOP, Action.FINISHED):
                return decision
            getattr(self, decision.action.value)(decision)
        raise AssertionError(f"no end, the last decision was {decision}")

    def measured(self) -> set[str]:
        return {one for one in self.in_service if one.split("/")[0] not in self.lost_gateways}

    def disturb(self) -> None:
        """What happens meanwhile without the rollout: controllers are lost and return, gateways vanish, people act."""
        if self.chance.random() < self.trouble:
            self.in_service -= {one for one in self.cells if self.chance.random() < 0.1}
        if self.chance.random() < self.trouble:
            self.in_service |= {one for one in self.cells if self.chance.random() < 0.5}
        if self.chance.random() < self.trouble / 10:
            self.lost_gateways.add(f"gateway_{self.chance.randrange(6)}")
        if self.chance.random() < self.trouble / 5:
            self.request = self.chance.choice([Request.PAUSE, Request.PAUSE, Request.STOP, Request.ABORT])
        if self.chance.random() < self.trouble:
            self.restart()

    def restart(self) -> None:
        """The control node dies, and another goes on with what was written down."""
        old = self.rollout
        self.rollout = Rollout(Plan.from_mapping(json.loads(json.dumps(old.plan.to_mapping()))))
        for identity, moment in old.since.items():
            self.rollout.record(identity, Status(str(old.status[identity])), moment)
        self.rollout.approved, self.rollout.short_since = old.approved, old.short_since

    def wait(self, decision: Decision) -> None:
        if decision.until is None:
            assert self.request is Request.PAUSE
            self.request = self.chance.choice([Request.NONE, Request.NONE, Request.STOP, Request.ABORT])
            self.now += timedelta(seconds=self.chance.randrange(86400))
        else:
            assert decision.until > self.now
            self.now += (decision.until - self.now) / self.chance.choice([1, 1, 1, 2])

    def approve(self, decision: Decision) -> None:
        assert decision.wave not in self.rollout.approved
        self.now += timedelta(seconds=self.chance.randrange(3600))
        self.rollout.approved.add(decision.wave)

    def start(self, decision: Decision) -> None:
        self.check_start(decision)
        self.steps.append(decision)
        for member in decision.members:
            self.rollout.record(member.id, Status.RUNNING, self.now)
            self.in_service.discard(member.id)
        self.nothing_starts_meanwhile()
        for member in self.chance.sample(decision.members, len(decision.members)):
            self.now += timedelta(seconds=self.chance.randrange(3))
            fate = self.fate(member)
            self.rollout.record(member.id, fate, self.now)
            if fate is Status.DONE:
                self.completed.append(member.id)
            if member.cell is not None and not (fate in FAILED and self.chance.random() < 0.5):
                self.in_service.add(member.id)

    def fate(self, member: Member) -> Status:
        if member.gateway in self.lost_gateways:
            return Status.UNREACHABLE
        if self.chance.random() < self.trouble / 2:
            return self.chance.choice([Status.FAILED, Status.UNCHANGED, Status.SKIPPED])
        return Status.DONE

    def check_start(self, decision: Decision) -> None:
        policy, status = self.plan.policy, self.rollout.status
        assert self.request is Request.NONE
        assert decision.members
        assert all(status[member.id] is Status.PENDING for member in decision.members)
        waves = [[member.id for step in wave for member in step] for wave in self.plan.waves]
        assert {member.id for member in decision.members} <= set(waves[decision.wave - 1])
        before = [one for wave in waves[: decision.wave - 1] for one in wave]
        assert not {status[one] for one in before} & {Status.PENDING, Status.RUNNING}
        assert Status.UNDONE not in status.values()
        # The budget.
        failures = sum(found in FAILED for found in status.values())
        attempted = failures + sum(found in (Status.DONE, Status.UNCHANGED) for found in status.values())
        budget = policy.budget
        assert budget.max_failures is None or failures <= budget.max_failures
        if budget.max_failures_percent is not None and attempted >= budget.minimum_sample:
            assert failures <= attempted * budget.max_failures_percent / 100
        # Windows, soak and approval.
        assert not policy.windows or any(window.open_at(self.now) for window in policy.windows)
        for number, wave in enumerate(waves[: decision.wave - 1], 1):
            soak = timedelta(seconds=policy.soak[min(number, len(policy.soak)) - 1])
            assert all(self.now >= self.rollout.since[one] + soak for one in wave if status[one] is Status.DONE)
        needed = policy.approve_before == "all" or decision.wave in policy.approve_before
        assert not needed or decision.wave in self.rollout.approved
        self.check_cells(decision)

    def check_cells(self, decision: Decision) -> None:
        """Every cell that gives something keeps its rule, before and while its members are worked on."""
        measured = self.measured()
        taken = {member.id for member in decision.members}
        for cell in {member.cell for member in decision.members if member.cell is not None}:
            rule = self.plan.policy.cells.get(cell, self.plan.policy.cell_default)
            present = {one for one in measured if self.cells[one] == cell}
            assert holds(rule, self.sizes[cell], len(present))
            assert holds(rule, self.sizes[cell], len(present - taken))

    def nothing_starts_meanwhile(self) -> None:
        for request in Request:
            assert self.rollout.decide(self.now, set(self.cells), request).action is Action.WAIT

    def roll_back(self, decision: Decision) -> None:
        assert self.request is Request.ABORT
        waves = {
            member.id: number for number, wave in enumerate(self.plan.waves, 1) for step in wave for member in step
        }
        last = max(waves[one] for one, found in self.rollout.status.items() if found not in ("pending", "skipped"))
        members = [member.id for member in decision.members]
        assert members
        assert all(waves[one] == last and self.rollout.status[one] is Status.DONE for one in members)
        assert members == [one for one in reversed(self.completed) if one in members]
        measured = self.measured()
        for cell in {self.cells[one] for one in members if one in measured}:
            rule = self.plan.policy.cells.get(cell, self.plan.policy.cell_default)
            present = {one for one in measured if self.cells[one] == cell}
            assert holds(rule, self.sizes[cell], len(present - set(members)))
        for one in members:
            self.rollout.record(one, Status.RUNNING, self.now)
        self.nothing_starts_meanwhile()
        for one in members:
            self.rollout.record(one, Status.UNDONE if self.chance.random() < 0.9 else Status.FAILED, self.now)
            if one in self.cells:
                self.in_service.add(one)


def random_world(seed: int, trouble: float) -> World | None:
    """A world with a plan; None where there is none, which then has its reason."""
    # Random and not drawn: hypothesis would spend its time on hundreds of choices whose shrinking helps nobody.
    chance = random.Random(seed)
    members, controllers = random_fleet(chance)
    cells = sorted({one.cell for one in controllers if one.cell is not None})
    policy = random_policy(chance, cells)
    sizes = Counter(one.cell for one in controllers)
    stuck = [
        cell
        for cell in {member.cell for member in members if member.cell is not None}
        if not holds(policy.cells.get(cell, policy.cell_default), sizes[cell], sizes[cell] - 1)
    ]
    try:
        drawn = plan(members, controllers, policy)
    except PlanError as error:
        assert stuck, error
        assert all(f"cell {cell}: " in str(error) for cell in stuck)
        return None
    assert not stuck
    return World(chance, drawn, controllers, trouble)


@settings(max_examples=2000, deadline=None)
@given(SEEDS, st.sampled_from([0.02, 0.1, 0.4]))
def test_whatever_happens_no_rule_is_broken_and_every_rollout_ends(seed: int, trouble: float) -> None:
    world = random_world(seed, trouble)
    if world is None:
        return
    end = world.run()
    status = world.rollout.status
    assert Status.RUNNING not in status.values()
    if end.action is Action.FINISHED:
        assert Status.PENDING not in status.values()
        assert world.request not in (Request.STOP, Request.ABORT)
        assert not world.rollout.over_budget
    elif end.reason.startswith("cell "):
        held = next(cell for cell in world.sizes if f"cell {cell}: " in end.reason)
        rule = world.plan.policy.cells.get(held, world.plan.policy.cell_default)
        present = sum(world.cells[one] == held for one in world.measured())
        assert not holds(rule, world.sizes[held], present - 1)
    else:
        asked = world.request in (Request.STOP, Request.ABORT) or Status.UNDONE in status.values()
        assert asked or world.rollout.over_budget
        assert ("budget" in end.reason) or ("operator" in end.reason)
    # The end is an end: asked again, the answer is the same.
    assert world.rollout.decide(world.now, world.measured(), world.request).action is end.action


@settings(max_examples=300, deadline=None)
@given(SEEDS)
def test_an_undisturbed_rollout_goes_exactly_as_planned(seed: int) -> None:
    world = random_world(seed, trouble=0.0)
    if world is None:
        return
    assert world.run().action is Action.FINISHED
    assert set(world.rollout.status.values()) <= {Status.DONE}
    went = [(step.wave, step.step, step.members) for step in world.steps]
    assert went == [
        (number, place, step) for number, wave in enumerate(world.plan.waves, 1) for place, step in enumerate(wave, 1)
    ]


# Planning ------------------------------------------------------------------------------------------------------------


def fewest_steps(left: Iterable[Member], cells: dict[str, Cell], size: int) -> int:
    """The fewest steps that any ``size`` of these members take: what cells can give in so many steps."""
    counts = Counter(member.cell for member in left)
    steps = 1
    while (
        sum(count if cell is None else min(count, steps * cells[cell].spare) for cell, count in counts.items()) < size
    ):
        steps += 1
    return steps


@settings(max_examples=500, deadline=None)
@given(SEEDS)
def test_every_wave_takes_the_fewest_steps(seed: int) -> None:
    world = random_world(seed, trouble=0.0)
    if world is None or not world.plan.waves:
        return
    drawn = world.plan
    left = set(drawn.members.values())
    for number, wave in enumerate(drawn.waves):
        members = [member for step in wave for member in step]
        if number or not members[0].canary:
            assert len(wave) == fewest_steps(left, dict(drawn.cells), len(members))
        else:
            assert len(wave) == fewest_steps(members, dict(drawn.cells), len(members))
        for step in wave:
            taken = Counter(member.cell for member in step if member.cell is not None)
            assert all(count <= drawn.cells[cell].spare for cell, count in taken.items())
        left -= set(members)
    assert not left


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_the_same_input_in_any_order_gives_the_same_plan(seed: int) -> None:
    chance = random.Random(seed)
    members, controllers = random_fleet(chance)
    policy = Policy(waves=("20%", 3), canaries=2, cell_default=CellRule(max_unavailable="100%"))
    first = plan(members, controllers, policy)
    again = plan(chance.sample(members, len(members)), chance.sample(controllers, len(controllers)), policy)
    assert again == first
    assert again.digest == first.digest
    kept = json.dumps(first.to_mapping())
    assert Plan.from_mapping(json.loads(kept)) == first
    assert describe(Plan.from_mapping(json.loads(kept))) == describe(first)


@settings(max_examples=300, deadline=None)
@given(SEEDS, st.integers(0, 12))
def test_canaries_come_first_from_as_many_cells_as_there_are(seed: int, wanted: int) -> None:
    members, controllers = random_fleet(random.Random(seed))
    drawn = plan(members, controllers, Policy(canaries=wanted, cell_default=CellRule(max_unavailable="100%")))
    flagged = {member.id for member in members if member.canary}
    canaries = [member for member in drawn.members.values() if member.canary]
    assert flagged <= {member.id for member in canaries}
    assert len(canaries) == max(len(flagged), min(wanted, len(members)))
    assert [m for wave in drawn.waves[: 1 if canaries else 0] for step in wave for m in step if not m.canary] == []
    if not flagged:
        kinds = {member.cell or member.id for member in members}
        assert len({member.cell or member.id for member in canaries}) == min(len(canaries), len(kinds))


def site(*cells: tuple[str | None, int], gateways: int = 2) -> list[Member]:
    """Controllers of cells of these sizes, on gateways in turn."""
    labels = [cell for cell, size in cells for _number in range(size)]
    return [Member(f"g{number % gateways}", f"c{number}", cell) for number, cell in enumerate(labels)]


def sizes(drawn: Plan) -> list[list[int]]:
    return [[len(step) for step in wave] for wave in drawn.waves]


@pytest.mark.parametrize(
    ("rule", "size", "minimum"),
    [
        (CellRule(min_in_service="50%"), 5, 3),
        (CellRule(max_unavailable="50%"), 5, 3),
        (CellRule(max_unavailable="34%"), 6, 4),
        (CellRule(min_in_service="33.4%"), 3, 2),
        (CellRule(min_in_service="29%"), 100, 29),  # 0.29 * 100 is more than 29 in binary
        (CellRule(min_in_service=2, max_unavailable=1), 4, 3),
        (CellRule(min_in_service=3, max_unavailable=4), 5, 3),
        (CellRule(min_in_service=0), 5, 0),
    ],
)
def test_percentages_round_to_the_safe_side(rule: CellRule, size: int, minimum: int) -> None:
    assert rule.minimum(size) == minimum


@pytest.mark.parametrize(
    ("waves", "canaries", "expected"),
    [
        ((1, "50%", 2), 0, [1, 5, 2, 2]),
        (("10%",), 0, [1] * 10),
        (("25%", "100%"), 3, [3, 2, 5]),
        (("1%", "100%"), 0, [1, 9]),
        (("100%",), 20, [10]),
    ],
)
def test_waves_are_sized_like_a_serial(waves: tuple[Share, ...], canaries: int, expected: list[int]) -> None:
    controllers = site((None, 10))
    drawn = plan(controllers, controllers, Policy(waves=waves, canaries=canaries))
    assert [sum(wave) for wave in sizes(drawn)] == expected


def test_large_cells_begin_early_so_that_later_waves_take_fewer_steps() -> None:
    controllers = site(("drying", 1), ("pressing", 1), ("mixing", 2))
    assert sizes(plan(controllers, controllers, Policy(canaries=0, waves=(2,)))) == [[2], [2]]


def test_controllers_that_stay_as_they_are_count_for_their_cell() -> None:
    controllers = site(("mixing", 4))
    policy = Policy(canaries=0, cell_default=CellRule(min_in_service="50%"))
    assert sizes(plan(controllers[:2], controllers, policy)) == [[2]]
    assert sizes(plan(controllers[:2], controllers[:3], policy)) == [[1, 1]]


def test_the_steps_of_a_cell_go_over_its_gateways() -> None:
    controllers = [Member(f"g{number // 4}", f"c{number}", "mixing") for number in range(8)]
    drawn = plan(controllers, controllers, Policy(canaries=0, cell_default=CellRule(max_unavailable=2)))
    assert [{member.gateway for member in step} for step in drawn.waves[0]] == [{"g0", "g1"}] * 4


def test_named_canaries() -> None:
    controllers = site(("mixing", 3), (None, 3))
    drawn = plan(controllers[1:], controllers, Policy(canaries=("g0/c4", "g0/c0")))
    # c0 is up to date and so no member; what is not to be changed cannot be the first to be.
    assert [member.id for member in drawn.waves[0][0]] == ["g0/c4"]
    assert describe(drawn).count("(canaries)") == 1


def test_nothing_to_do_is_no_error() -> None:
    drawn = plan([], site(("mixing", 1)), Policy(cells={"mixing": CellRule(min_in_service=1)}))
    assert drawn.waves == ()
    assert Plan.from_mapping(drawn.to_mapping()) == drawn
    assert Rollout(drawn).decide(MONDAY, []).action is Action.FINISHED
    assert "0 controllers" in describe(drawn)


def test_everything_that_forbids_a_plan_is_told_at_once() -> None:
    controllers = [*site(("mixing", 4), ("pressing", 2), ("drying", 2)), Member("g9", "c9"), Member("g9", "c9")]
    policy = Policy(
        canaries=("g0/c0", "g7/c7"),
        cells={
            "mixing": CellRule(min_in_service=4),
            "pressing": CellRule(max_unavailable="40%"),
            "drying": CellRule(min_in_service=5),
            "mixnig": CellRule(max_unavailable=1),
        },
    )
    members = [*controllers[:7], Member("g8", "c8"), Member("g1", "c7", "mixing")]
    with pytest.raises(PlanError) as caught:
        plan(members, controllers, policy)
    text = str(caught.value)
    for words in (
        "cell mixing: min_in_service 4 of 4 controllers means that 4 must stay in service, so that none can be spared",
        "cell pressing: max_unavailable 40% of 2 controllers means that 2 must stay in service",
        "cell drying: min_in_service 5 of 2 controllers means that 5 must stay in service",
        "lower min_in_service or raise max_unavailable",
        "cells.mixnig: no controller of the inventory is in such a cell (there are drying, mixing, pressing)",
        "canary g7/c7 is no controller of the inventory",
        "controller g9/c9 is listed 2 times",
        "controller g8/c8 is not in the inventory, or in another cell there",
        "controller g1/c7 is not in the inventory, or in another cell there",
        "nothing was started",
    ):
        assert words in text
    assert "g0/c0" not in text


def test_a_cell_that_nothing_is_taken_from_may_be_untouchable() -> None:
    controllers = site(("mixing", 2), ("pressing", 2))
    policy = Policy(cells={"mixing": CellRule(max_unavailable=0)})
    assert set(plan(controllers[2:], controllers, policy).cells) == {"pressing"}


def test_a_plan_as_text() -> None:
    controllers = [
        Member("hall_1", "mixer_1", "mixing"),
        Member("hall_2", "mixer_2", "mixing"),
        Member("hall_2", "mixer_3", "mixing"),
        Member("hall_2", "pump_1"),
    ]
    policy = Policy(
        windows=(Window(frozenset({5, 6}), time(22), time(4), ZoneInfo("Europe/Berlin")),),
        budget=Budget(1, 10.0, 20),
        soak=(300.0, 0.0),
        approve_before=(2,),
    )
    drawn = plan(controllers, controllers, policy)
    assert describe(drawn) == (
        f"rollout of 4 controllers on 2 gateways in 2 waves, 3 steps (plan {drawn.digest[:12]})\n"
        "budget: at most 1 failed, at most 10 % of 20 or more attempted failed\n"
        "windows: sat, sun 22:00 to 04:00 Europe/Berlin\n"
        "cell mixing: 2 of 3 controllers stay in service, at most 1 at a time are worked on\n"
        "wave 1 (canaries): 1 controllers, soak 300 s\n"
        "  step 1: cell mixing: hall_1/mixer_1\n"
        "wave 2: 3 controllers, after approval, soak 0 s\n"
        "  step 1: cell mixing: hall_2/mixer_2; no cell: hall_2/pump_1\n"
        "  step 2: cell mixing: hall_2/mixer_3\n"
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda kept: kept["waves"][0][0].pop(), "its content has digest"),
        (lambda kept: kept["policy"]["budget"].update(max_failures=9), "its content has digest"),
        (lambda kept: kept["cells"]["mixing"].update(minimum=0), "its content has digest"),
        (lambda kept: kept.pop("cells"), "damaged"),
        (lambda kept: kept.update(waves=[[[3]]]), "damaged"),
    ],
)
def test_a_kept_plan_that_was_changed_is_refused(damage: Any, words: str) -> None:
    controllers = site(("mixing", 3))
    kept = json.loads(json.dumps(plan(controllers, controllers, Policy()).to_mapping()))
    damage(kept)
    with pytest.raises(PlanError, match=words):
        Plan.from_mapping(kept)


# Reading an inventory ------------------------------------------------------------------------------------------------


def test_a_whole_policy_is_read_and_written() -> None:
    data = {
        "canaries": ["g0/c0"],
        "waves": ["10", "12.5 %", 4],
        "cells": {"mixing": {"min_in_service": "50%", "max_unavailable": 2}},
        "cell_default": {"min_in_service": 1},
        "windows": [{"weekdays": ["Sat", "sun"], "start": "22:00", "end": "04:00", "timezone": "Europe/Berlin"}],
        "budget": {"max_failures_percent": 5, "minimum_sample": "20"},
        "soak": [60, "0.5"],
        "approve_before": [3, "2"],
        "cell_patience": 30,
    }
    policy = parse_policy(data)
    assert policy == Policy(
        canaries=("g0/c0",),
        waves=(10, "12.5%", 4),
        cells={"mixing": CellRule("50%", 2)},
        cell_default=CellRule(1),
        windows=(Window(frozenset({5, 6}), time(22), time(4), ZoneInfo("Europe/Berlin")),),
        budget=Budget(None, 5.0, 20),
        soak=(60.0, 0.5),
        approve_before=(2, 3),
        cell_patience=30.0,
    )
    assert parse_policy(json.loads(json.dumps(policy.to_mapping()))) == policy


def test_the_defaults_are_the_safe_ones() -> None:
    assert parse_policy({}) == Policy() == parse_policy(Policy().to_mapping())
    assert Policy().budget == Budget(max_failures=0)
    assert Policy().cell_default == CellRule(max_unavailable=1)
    assert parse_policy({"budget": {"minimum_sample": 3}}).budget.max_failures == 0
    assert parse_policy({"soak": 5, "approve_before": "all"}).needs_approval(1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "it is [], expected a mapping with canaries, waves"),
        ({"wave": 1}, "wave is no option (there are canaries, waves, cells, cell_default, windows, budget, soak"),
        ({"canaries": -1}, "canaries is -1, expected a count or a list of controllers as gateway/name"),
        ({"canaries": True}, "canaries is True"),
        ({"waves": []}, 'waves is [], expected counts from 1 or percentages like "25%", in a list'),
        ({"waves": "50%"}, "waves is '50%'"),
        ({"waves": ["0%"]}, "waves is ['0%']"),
        ({"waves": [0]}, "waves is [0]"),
        ({"waves": ["101%"]}, "waves is ['101%']"),
        ({"waves": [1.5]}, "waves is [1.5]"),
        ({"cells": ["mixing"]}, "cells is ['mixing'], expected a mapping"),
        ({"cells": {"mixing": 1}}, "cells.mixing is 1, expected a mapping with min_in_service, max_unavailable"),
        ({"cells": {"mixing": {}}}, "cells.mixing says nothing, expected min_in_service or max_unavailable"),
        ({"cells": {"mixing": {"min_in_service": "half"}}}, "cells.mixing.min_in_service is 'half'"),
        ({"cell_default": {"max_unavailble": 1}}, "cell_default.max_unavailble is no option"),
        ({"windows": {}}, "windows is {}, expected a list of windows"),
        ({"windows": [3]}, "windows[0] is 3, expected a mapping with weekdays, start, end, timezone"),
        ({"windows": [{"start": "22:00"}]}, "windows[0].end is missing; windows[0].timezone is missing"),
        ({"windows": [{"start": 1320}]}, 'windows[0].start is 1320, expected a time like "22:00", in quotes'),
        ({"windows": [{"weekdays": []}]}, "windows[0].weekdays is [], expected a list of mon, tue"),
        ({"windows": [{"weekdays": ["someday"]}]}, "windows[0].weekdays is ['someday']"),
        ({"windows": [{"timezone": "Europe/Nowhere"}]}, "windows[0].timezone is 'Europe/Nowhere', expected a zone"),
        ({"windows": [{"timezone": "Europe"}]}, "windows[0].timezone is 'Europe'"),
        ({"windows": [{"timezone": "/etc/passwd"}]}, "windows[0].timezone is '/etc/passwd'"),
        ({"budget": 3}, "budget is 3, expected a mapping with max_failures"),
        ({"budget": {"max_failures_percent": 101}}, "budget.max_failures_percent is 101, expected a number from 0 to"),
        ({"budget": {"minimum_sample": 0}}, "budget.minimum_sample is 0, expected a count from 1"),
        ({"soak": -1}, "soak is -1, expected seconds"),
        ({"soak": float("nan")}, "soak is nan"),
        ({"soak": []}, "soak is []"),
        ({"approve_before": [0]}, "approve_before is [0], expected a list of wave numbers, or all"),
        ({"approve_before": "none"}, "approve_before is 'none'"),
        ({"cell_patience": "a while"}, "cell_patience is 'a while', expected seconds"),
    ],
)
def test_what_is_wrong_with_a_policy_is_named(data: Any, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_policy(data)
    assert words in str(caught.value)
    assert "nothing was started" in str(caught.value)


def test_everything_wrong_with_a_policy_is_told_at_once() -> None:
    with pytest.raises(PlanError, match=r"canaries is 'x'.*waves is 0.*cells\.a says nothing.*soak is 'y'"):
        parse_policy({"canaries": "x", "waves": 0, "soak": "y", "cells": {"a": {}}})


def test_members_are_read_from_an_inventory() -> None:
    entries = [
        {"gateway": "g", "name": "a", "line": "/dev/x", "unit": 2},
        {"gateway": "g", "name": "b", "cell": "mixing", "canary": True},
        {"gateway": "h", "name": "a", "cell": None, "canary": None},
    ]
    assert parse_members(entries) == [Member("g", "a"), Member("g", "b", "mixing", True), Member("h", "a")]


def test_everything_wrong_with_members_is_told_at_once() -> None:
    entries: list[Any] = [
        {"gateway": "g", "name": "a"},
        {"gateway": "g", "name": "a"},
        {"name": "b"},
        {"gateway": "g", "name": "a/b"},
        {"gateway": "g", "name": "c", "cell": ["mixing"], "canary": "yes"},
        "d",
    ]
    with pytest.raises(PlanError) as caught:
        parse_members(entries)
    for words in (
        "controller g/a is listed 2 times",
        "controller 3 of the list: gateway is None, expected a name",
        "controller g/a/b: name is 'a/b', expected a name without /",
        "controller g/c: cell is ['mixing'], expected the name of a process cell",
        "controller g/c: canary is 'yes', expected true or false",
        "controller 6 of the list is 'd', expected a mapping",
    ):
        assert words in str(caught.value)


# Windows -------------------------------------------------------------------------------------------------------------

QUARTER = timedelta(minutes=15)
# Clocks are put forward and back in these, by an hour or by half of one, in the night or at midnight.
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu", "UTC"]


def changes(zone: ZoneInfo) -> list[datetime]:
    """Moments near which the clocks of 2017 change."""
    days = [datetime(2017, 1, 1, tzinfo=UTC) + timedelta(number) for number in range(365)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    return [day for day, before, after in zip(days, offsets, offsets[1:], strict=False) if before != after]


@st.composite
def windows(draw: st.DrawFn) -> tuple[Window, datetime]:
    """A window of whole quarters of an hour, and a moment of which half are near a change of the clocks."""
    zone = ZoneInfo(draw(st.sampled_from(ZONES)))
    clocks = st.builds(time, st.integers(0, 4) | st.integers(0, 23), st.sampled_from([0, 15, 30, 45]))
    day = draw(st.sampled_from([*changes(zone), datetime(2017, 6, 7, tzinfo=UTC)]))
    moment = day + draw(st.integers(-100, 200)) * QUARTER
    days = frozenset(draw(st.sets(st.integers(0, 6), min_size=1)))
    return Window(days, draw(clocks), draw(clocks), zone), moment


@settings(max_examples=200, deadline=None)
@given(windows())
def test_windows_follow_the_clock_on_the_wall(drawn: tuple[Window, datetime]) -> None:
    window, moment = drawn
    # Walked through quarter by quarter: what a clock on the wall shows, and when it first shows enough.
    walk = [moment + number * QUARTER for number in range(-250, 11 * 96)]
    wall = [one.astimezone(window.timezone).replace(tzinfo=None) for one in walk]

    def first(day: date, clock: time) -> int:
        wanted = datetime.combine(day, clock)
        return next((place for place, shown in enumerate(wall) if shown >= wanted), len(wall))

    is_open = [False] * len(walk)
    for number in range(1, 13):
        day = (wall[0] + timedelta(number - 1)).date()
        if day.weekday() in window.weekdays:
            closing = first(day if window.start < window.end else day + timedelta(1), window.end)
            for place in range(first(day, window.start), closing):
                is_open[place] = True
    here = walk.index(moment)
    assert [window.open_at(one) for one in walk[here : here + 200]] == is_open[here : here + 200]
    following = next((place for place in range(here, len(walk)) if is_open[place]), None)
    if following is not None:
        assert window.next_opening(moment) == walk[following]
    local = moment.astimezone(window.timezone)
    assert window.open_at(local) == is_open[here]


def berlin(*numbers: int, fold: int = 0) -> datetime:
    return datetime(*numbers, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)  # type: ignore[misc, arg-type]


def nightly(start: time, end: time, days: Iterable[int] = range(7)) -> Window:
    return Window(frozenset(days), start, end, ZoneInfo("Europe/Berlin"))


def test_a_window_across_midnight_belongs_to_the_day_on_which_it_opens() -> None:
    window = nightly(time(22), time(4), [4])
    assert window.open_at(berlin(2026, 6, 5, 22))  # a Friday
    assert window.open_at(berlin(2026, 6, 6, 3, 59))
    assert not window.open_at(berlin(2026, 6, 6, 4))
    assert not window.open_at(berlin(2026, 6, 5, 3))
    assert not window.open_at(berlin(2026, 6, 6, 23))
    assert window.next_opening(berlin(2026, 6, 6, 4)) == berlin(2026, 6, 12, 22)


def test_a_window_that_ends_when_it_starts_is_open_all_day() -> None:
    window = nightly(time(6), time(6), [0])
    assert window.open_at(berlin(2026, 6, 1, 6))
    assert window.open_at(berlin(2026, 6, 2, 5, 59))
    assert not window.open_at(berlin(2026, 6, 2, 6))


def test_a_window_within_the_skipped_hour_does_not_open() -> None:
    window = nightly(time(2, 15), time(2, 45))
    assert window.next_opening(berlin(2026, 3, 28, 12)) == berlin(2026, 3, 30, 2, 15)


def test_a_window_from_within_the_skipped_hour_opens_after_it() -> None:
    window = nightly(time(2, 30), time(4))
    assert window.next_opening(berlin(2026, 3, 29, 0)) == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_an_hour_that_comes_twice_counts_once() -> None:
    window = nightly(time(2), time(2, 30))
    assert window.open_at(berlin(2026, 10, 25, 2, 15))
    assert not window.open_at(berlin(2026, 10, 25, 2, 15, fold=1))
    # Though the clock shows the same at both, the second moment is an hour later.
    assert window.next_opening(berlin(2026, 10, 25, 2, 15, fold=1)) == berlin(2026, 10, 26, 2)


def test_a_weekly_window_in_the_skipped_hour_waits_for_the_next_week() -> None:
    window = nightly(time(2), time(3), [6])
    assert window.next_opening(berlin(2026, 3, 23, 12)) == berlin(2026, 4, 5, 2)


# Running -------------------------------------------------------------------------------------------------------------


def rollout(controllers: Sequence[Member], **policy: Any) -> Rollout:
    return Rollout(plan(controllers, controllers, Policy(**{"canaries": 0, **policy})))


def ids(members: Iterable[Member]) -> list[str]:
    return [member.id for member in members]


def record(going: Rollout, status: Status, *identities: str, at: datetime = MONDAY) -> None:
    for identity in identities:
        going.record(identity, status, at)


def test_a_step_is_narrowed_to_what_its_cell_can_spare_and_the_rest_goes_with_the_next() -> None:
    controllers = site(("mixing", 4), ("pressing", 4), gateways=1)
    going = rollout(controllers, cell_default=CellRule(max_unavailable=2))
    everything = set(ids(controllers))
    assert sizes(going.plan) == [[4, 4]]
    first = going.decide(MONDAY, everything - {"g0/c3"})
    assert (first.action, first.step, ids(first.members)) == (Action.START, 1, ["g0/c0", "g0/c4", "g0/c5"])
    assert "1 more when their cells can spare them" in first.reason
    record(going, Status.DONE, *ids(first.members))
    second = going.decide(MONDAY, everything - {"g0/c3"})
    # c3, which is out of service anyway, takes nothing from its cell.
    assert (second.step, ids(second.members)) == (2, ["g0/c1", "g0/c3", "g0/c6", "g0/c7"])
    record(going, Status.DONE, *ids(second.members))
    third = going.decide(MONDAY, everything)
    assert (third.action, third.step, ids(third.members)) == (Action.START, 2, ["g0/c2"])


def test_what_several_steps_left_out_goes_together() -> None:
    controllers = site(("mixing", 4), ("pressing", 4), gateways=1)
    going = rollout(controllers, cell_default=CellRule(max_unavailable=2))
    left = ["g0/c1", "g0/c7"]
    assert [[member.id for member in step if member.id in left] for step in going.plan.waves[0]] == [
        [one] for one in left
    ]
    record(going, Status.DONE, *(one for one in ids(controllers) if one not in left))
    assert ids(going.decide(MONDAY, ids(controllers)).members) == left


def test_what_is_skipped_leaves_the_rest_of_its_step_as_planned() -> None:
    controllers = site(("mixing", 4), gateways=1)
    going = rollout(controllers, cell_default=CellRule(max_unavailable=2))
    record(going, Status.SKIPPED, "g0/c0")
    first = going.decide(MONDAY, ids(controllers))
    assert (first.step, ids(first.members)) == (1, ["g0/c1"])


def test_a_cell_below_its_minimum_gives_nothing_and_stops_the_rollout_in_the_end() -> None:
    controllers = site(("mixing", 4), ("pressing", 2), gateways=1)
    going = rollout(controllers, cell_default=CellRule(max_unavailable=1))
    weak = set(ids(controllers)) - {"g0/c0", "g0/c1"}
    # Others go on meanwhile, also those of later steps.
    for expected in (["g0/c4"], ["g0/c5"]):
        decision = going.decide(MONDAY, weak)
        assert ids(decision.members) == expected
        record(going, Status.DONE, *expected)
    end = going.decide(MONDAY, weak)
    assert (end.action, end.wave) == (Action.STOP, 1)
    assert (
        "cell mixing: measured in service 2 of 4, needs 3, so that g0/c0, g0/c1, g0/c2, g0/c3 cannot be" in end.reason
    )
    assert "(out of service: g0/c0, g0/c1)" in end.reason
    assert "bring these back" in end.reason


def test_a_cell_is_waited_for_as_long_as_the_policy_says() -> None:
    controllers = site(("mixing", 2), gateways=1)
    going = rollout(controllers, cell_patience=60.0)
    until = MONDAY + timedelta(seconds=60)
    first = going.decide(MONDAY, [])
    assert (first.action, first.until) == (Action.WAIT, until)
    later = going.decide(MONDAY + timedelta(seconds=59), {"g0/c0"})
    assert ids(later.members) == ["g0/c1"], "out of service, and the cell has its minimum"
    going = rollout(controllers, cell_patience=60.0)
    going.decide(MONDAY, [])
    assert going.decide(MONDAY + timedelta(seconds=59), []).until == until
    assert going.decide(until, []).action is Action.STOP
    # Once a step has started, patience begins anew.
    assert going.decide(until, {"g0/c0"}).action is Action.START
    record(going, Status.DONE, "g0/c1")
    assert going.decide(until, []).until == until + timedelta(seconds=60)


def test_a_controller_that_is_not_measured_is_not_in_service() -> None:
    controllers = site(("mixing", 2), gateways=2)
    going = rollout(controllers)
    assert going.decide(MONDAY, []).action is Action.STOP


def test_what_is_done_is_left_out_and_what_failed_is_tried_again_only_when_asked() -> None:
    controllers = site((None, 4), gateways=1)
    going = rollout(controllers, budget=Budget(2))
    record(going, Status.UNCHANGED, "g0/c0")
    record(going, Status.FAILED, "g0/c1")
    record(going, Status.UNREACHABLE, "g0/c2")
    assert ids(going.decide(MONDAY, []).members) == ["g0/c3"]
    record(going, Status.DONE, "g0/c3")
    end = going.decide(MONDAY, [])
    assert (end.action, end.reason) == (
        Action.FINISHED,
        "4 controllers: 1 done, 1 unchanged, 1 failed, 1 unreachable",
    )
    assert going.retry() == ["g0/c1", "g0/c2"]
    assert ids(going.decide(MONDAY, []).members) == ["g0/c1", "g0/c2"]


def test_the_first_failure_too_many_stops_and_is_named() -> None:
    going = rollout(site((None, 4), gateways=1), waves=(2, 2), budget=Budget(1))
    record(going, Status.FAILED, "g0/c0")
    assert going.decide(MONDAY, []).action is Action.START
    record(going, Status.UNREACHABLE, "g0/c1")
    end = going.decide(MONDAY, [])
    assert end.action is Action.STOP
    assert "2 of 2 attempted controllers failed (g0/c0 failed, g0/c1 unreachable), expected at most 1 fai" in end.reason
    # Also where it was the last one: what ends beyond its budget has not succeeded.
    record(going, Status.DONE, "g0/c2", "g0/c3")
    assert going.decide(MONDAY, []).action is Action.STOP


@pytest.mark.parametrize(
    ("budget", "failures", "attempted", "exceeded"),
    [
        (Budget(), 0, 9, False),
        (Budget(), 1, 9, True),
        (Budget(None, 10.0, 10), 9, 9, False),
        (Budget(None, 10.0, 10), 1, 10, False),
        (Budget(None, 10.0, 10), 2, 10, True),
        (Budget(2, 10.0, 10), 3, 9, True),
        (Budget(None, 0.0), 1, 1, True),
        (Budget(None, 100.0), 9, 9, False),
    ],
)
def test_the_budget(budget: Budget, failures: int, attempted: int, exceeded: bool) -> None:
    assert budget.exceeded(failures, attempted) is exceeded


def test_a_wave_proves_itself_is_approved_and_meets_a_window() -> None:
    window = Window(frozenset(range(7)), time(18), time(20), ZoneInfo("UTC"))
    going = rollout(
        site((None, 3), gateways=1), waves=(1,), windows=(window,), soak=(7200.0, 0.0), approve_before="all"
    )
    first = going.decide(MONDAY, [])
    assert (first.action, first.wave) == (Action.APPROVE, 1)
    going.approved.add(1)
    evening = MONDAY.replace(hour=18)
    closed = going.decide(MONDAY, [])
    assert (closed.action, closed.until) == (Action.WAIT, evening)
    assert "no maintenance window is open (mon, tue, wed, thu, fri, sat, sun 18:00 to 20:00 UTC)" in closed.reason
    assert going.decide(evening, []).action is Action.START
    # An hour told in another zone is the same hour.
    assert going.decide(berlin(2026, 6, 1, 20), []).action is Action.START
    done = evening + timedelta(minutes=5)
    record(going, Status.DONE, "g0/c0", at=done)
    soaking = going.decide(done, [])
    assert (soaking.action, soaking.until) == (Action.WAIT, done + timedelta(hours=2))
    assert going.decide(done + timedelta(hours=2), []).action is Action.APPROVE
    going.approved |= {2, 3}
    assert going.decide(done + timedelta(hours=2), []).until == evening + timedelta(days=1)
    record(going, Status.DONE, "g0/c1", at=evening + timedelta(days=1))
    assert going.decide(evening + timedelta(days=1), []).wave == 3


def test_the_last_wave_proves_itself_before_the_rollout_has_finished() -> None:
    going = rollout(site((None, 1), gateways=1), soak=(60.0,))
    record(going, Status.DONE, "g0/c0")
    assert going.decide(MONDAY, []).until == MONDAY + timedelta(seconds=60)
    assert going.decide(MONDAY + timedelta(seconds=60), []).action is Action.FINISHED


def test_soak_and_patience_are_elapsed_time_whatever_the_clock_is_put_to() -> None:
    going = rollout(site((None, 1), gateways=1), soak=(3600.0,))
    record(going, Status.DONE, "g0/c0", at=berlin(2026, 10, 25, 2, 30))
    assert going.decide(berlin(2026, 10, 25, 2, 45), []).until == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert going.decide(berlin(2026, 10, 25, 2, 30, fold=1), []).action is Action.FINISHED
    short = rollout(site(("mixing", 2)), cell_patience=3600.0).decide(berlin(2026, 10, 25, 2, 30), [])
    assert short.until == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def test_a_wave_in_which_nothing_was_deployed_has_nothing_to_prove() -> None:
    going = rollout(site((None, 2), gateways=1), waves=(1,), soak=(60.0,))
    record(going, Status.UNCHANGED, "g0/c0")
    assert going.decide(MONDAY, []).action is Action.START


def test_pause_and_stop() -> None:
    going = rollout(site((None, 2), gateways=1), waves=(1,))
    paused = going.decide(MONDAY, [], Request.PAUSE)
    assert (paused.action, paused.until) == (Action.WAIT, None)
    stopped = going.decide(MONDAY, [], Request.STOP)
    assert (stopped.action, stopped.reason) == (Action.STOP, "stopped by an operator; 2 controllers: 2 pending")
    record(going, Status.DONE, "g0/c0", "g0/c1")
    assert going.decide(MONDAY, [], Request.PAUSE).action is Action.FINISHED


def test_an_abort_undoes_the_wave_backwards_as_its_cells_can_spare_it() -> None:
    controllers = site(("mixing", 3), (None, 2), gateways=1)
    going = rollout(controllers, waves=(1, 4))
    everything = set(ids(controllers))
    record(going, Status.DONE, *ids(going.plan.waves[0][0]))
    order = ["g0/c4", "g0/c1", "g0/c3", "g0/c2"]
    assert {*order} == {member.id for step in going.plan.waves[1] for member in step}
    for number, identity in enumerate(order):
        record(going, Status.DONE, identity, at=MONDAY + timedelta(seconds=number))
    now = MONDAY + timedelta(minutes=1)
    first = going.decide(now, everything, Request.ABORT)
    assert (first.action, first.wave) == (Action.ROLL_BACK, 2)
    assert ids(first.members) == ["g0/c2", "g0/c3", "g0/c4"]
    record(going, Status.UNDONE, *ids(first.members))
    assert ids(going.decide(now, everything, Request.ABORT).members) == ["g0/c1"]
    record(going, Status.UNDONE, "g0/c1")
    end = going.decide(now, everything, Request.ABORT)
    assert end.action is Action.STOP
    assert "1 done, 4 undone" in end.reason


def test_an_abort_puts_back_what_the_new_firmware_put_out_of_service() -> None:
    controllers = site(("mixing", 3), gateways=1)
    going = rollout(controllers, cell_default=CellRule(min_in_service=1))
    record(going, Status.DONE, "g0/c0", "g0/c1", "g0/c2")
    assert ids(going.decide(MONDAY, [], Request.ABORT).members) == ["g0/c2", "g0/c1", "g0/c0"]
    held = going.decide(MONDAY, ["g0/c1"], Request.ABORT)
    assert ids(held.members) == ["g0/c2", "g0/c0"]
    record(going, Status.FAILED, "g0/c2", "g0/c0")
    end = going.decide(MONDAY, ["g0/c1"], Request.ABORT)
    assert end.action is Action.STOP
    assert "not all rolled back: cell mixing: measured in service 1 of 3, needs 1, so that g0/c1 cannot" in end.reason


def test_an_aborted_rollout_goes_on_only_when_asked_to_try_again() -> None:
    going = rollout(site((None, 3), gateways=1), waves=(1, 2))
    record(going, Status.UNDONE, "g0/c0")
    # The request is gone, as after a restart, yet the next wave must not start on what nobody proved.
    end = going.decide(MONDAY, [])
    assert (end.action, end.members) == (Action.STOP, ())
    assert "aborted by an operator; 3 controllers: 2 pending, 1 undone; retry it" in end.reason
    assert going.retry() == ["g0/c0"]
    again = going.decide(MONDAY, [])
    assert (again.wave, ids(again.members)) == (1, ["g0/c0"])


def test_an_abort_before_anything_began_undoes_nothing() -> None:
    going = rollout(site((None, 2)))
    assert going.decide(MONDAY, [], Request.ABORT).action is Action.STOP


def test_who_is_no_member_cannot_be_recorded() -> None:
    with pytest.raises(PlanError, match=r"controller g0/zzz is no member of this rollout \(plan [0-9a-f]{12}\)"):
        rollout(site((None, 2))).record("g0/zzz", Status.DONE, MONDAY)

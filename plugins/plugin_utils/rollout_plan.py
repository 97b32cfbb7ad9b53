# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts: which controllers are worked on at the same time, and what may be done next. Pure: no I/O, no clock.

``plan`` divides a rollout's members into waves and each wave into steps, so that no process cell has more members in a
step than it can spare. ``Rollout`` holds how far it came and decides, from what was measured on the devices, what to
do now. Moments are aware datetimes, durations are seconds, waves and steps count from 1.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError

_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

T = TypeVar("T")

Share = int | str  # a count, or a percentage such as "25%"


class PlanError(CoreError):
    """A rollout that cannot be planned, or a plan or progress that cannot be used."""


# What a rollout is made of -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A controller; names are unique only per gateway. ``cell`` is its process cell, None where nothing depends on it.

    ``canary`` is a wish of the inventory; in a plan it says that the member belongs to the wave of canaries.
    """

    gateway: str
    name: str
    cell: str | None = None
    canary: bool = False

    @property
    def id(self) -> str:
        """``gateway/name``, unique in the inventory."""
        return f"{self.gateway}/{self.name}"


@dataclass(frozen=True)
class CellRule:
    """What a cell can do without; percentages are of all its controllers. Where both are given both hold.

    A percentage of ``min_in_service`` is rounded up, one of ``max_unavailable`` down.
    """

    min_in_service: Share | None = None
    max_unavailable: Share | None = None

    def minimum(self, size: int) -> int:
        """How many of ``size`` controllers must stay in service."""
        least = 0 if self.min_in_service is None else _portion(self.min_in_service, size, math.ceil)
        most = size if self.max_unavailable is None else _portion(self.max_unavailable, size, math.floor)
        return max(least, size - most)

    def __str__(self) -> str:
        return ", ".join(f"{name} {share}" for name, share in asdict(self).items() if share is not None)


@dataclass(frozen=True)
class Window:
    """A maintenance window that opens on ``weekdays`` (0 = Monday) at ``start`` by the clock of ``timezone``.

    It closes at the next ``end``, on the day after where that is not later than ``start``. It opens and closes at the
    first moment at which the clock shows that time, or has been put forward past it: an hour that comes twice counts
    once, and a window within a skipped hour does not open on that day.
    """

    weekdays: frozenset[int]
    start: time
    end: time
    timezone: ZoneInfo

    def open_at(self, moment: datetime) -> bool:
        """Whether ``moment`` lies within the window."""
        yesterday = moment.astimezone(self.timezone).date() - timedelta(1)
        return any(opening <= moment < closing for opening, closing in self._openings(yesterday, 2))

    def next_opening(self, moment: datetime) -> datetime:
        """``moment`` where the window is open, else when it opens next, in UTC."""
        if self.open_at(moment):
            return moment
        # Two weeks, since a window of one hour a week may fall into the hour that is skipped.
        for opening, closing in self._openings(moment.astimezone(self.timezone).date(), 15):
            if moment < opening < closing:
                return opening
        raise PlanError(f"maintenance window {self} never opens; give it a weekday")

    def _openings(self, first: date, days: int) -> Iterator[tuple[datetime, datetime]]:
        """When it opens and closes, for each of the days on which it opens."""
        for day in (first + timedelta(number) for number in range(days)):
            if day.weekday() in self.weekdays:
                last = day if self.end > self.start else day + timedelta(1)
                yield self._first(day, self.start), self._first(last, self.end)

    def _first(self, day: date, clock: time) -> datetime:
        """When the clock first shows this time or, put forward, a later one.

        In UTC, since datetimes of the same zone compare by their clocks, which show an hour twice in autumn.
        """
        wanted = datetime.combine(day, clock, self.timezone)
        second, sooner = int(wanted.timestamp()), int(wanted.replace(fold=1).timestamp())
        if sooner < second:  # so the clock skips it, and the jump lies between these two
            second = bisect_left(range(second), wanted.replace(tzinfo=None), sooner, key=self._clock)
        return datetime.fromtimestamp(second, UTC)

    def _clock(self, second: int) -> datetime:
        return datetime.fromtimestamp(second, self.timezone).replace(tzinfo=None)

    def __str__(self) -> str:
        days = ", ".join(_WEEKDAYS[day] for day in sorted(self.weekdays))
        return f"{days} {self.start:%H:%M} to {self.end:%H:%M} {self.timezone.key}"

    def to_mapping(self) -> dict[str, Any]:
        """As an inventory says it."""
        return {
            "weekdays": [_WEEKDAYS[day] for day in sorted(self.weekdays)],
            "start": f"{self.start:%H:%M}",
            "end": f"{self.end:%H:%M}",
            "timezone": self.timezone.key,
        }


@dataclass(frozen=True)
class Budget:
    """How many failures a rollout survives, over all waves and gateways.

    The percentage is of the controllers attempted so far, and counts once these are ``minimum_sample``.
    """

    max_failures: int | None = 0
    max_failures_percent: float | None = None
    minimum_sample: int = 1

    def exceeded(self, failures: int, attempted: int) -> bool:
        """Whether that many failures of that many attempts are too many."""
        if self.max_failures is not None and failures > self.max_failures:
            return True
        percent = self.max_failures_percent
        return percent is not None and attempted >= self.minimum_sample and failures * 100 > percent * attempted

    def __str__(self) -> str:
        limits = []
        if self.max_failures is not None:
            limits.append(f"at most {self.max_failures} failed")
        if self.max_failures_percent is not None:
            limits.append(f"at most {self.max_failures_percent:g} % of {self.minimum_sample} or more attempted failed")
        return ", ".join(limits)


@dataclass(frozen=True)
class Policy:
    """How a rollout goes.

    - ``canaries``: how many, chosen over as many cells and then gateways as possible, or the ids of controllers. Those
      that the inventory flags are canaries in any case. Canaries are the first wave.
    - ``waves``: sizes of the others, percentages of all members rounded down (but to no less than one), the last one
      repeated until no member is left.
    - ``cells``: the rules of cells by name; the others follow ``cell_default``.
    - ``windows``: steps start only while one of these is open, at any time without any. What has begun is finished.
    - ``soak``: seconds between the last deployment of a wave and what follows, one for each wave, the last repeated.
    - ``approve_before``: numbers of waves that start only when approved, or ``all``.
    - ``cell_patience``: seconds that a cell may be short of controllers before the rollout stops.
    """

    canaries: int | tuple[str, ...] = 1
    waves: tuple[Share, ...] = ("100%",)
    cells: Mapping[str, CellRule] = field(default_factory=dict)
    cell_default: CellRule = CellRule(max_unavailable=1)
    windows: tuple[Window, ...] = ()
    budget: Budget = Budget()
    soak: tuple[float, ...] = (0.0,)
    approve_before: tuple[int, ...] | str = ()
    cell_patience: float = 0.0

    def soak_of(self, wave: int) -> float:
        """Seconds that the wave has to prove itself."""
        return self.soak[min(wave, len(self.soak)) - 1]

    def needs_approval(self, wave: int) -> bool:
        """Whether the wave starts only when approved."""
        return self.approve_before == "all" or wave in self.approve_before

    def opening(self, moment: datetime) -> datetime:
        """``moment`` where a step may start then, else the moment from which it may."""
        return min((window.next_opening(moment) for window in self.windows), default=moment)

    def to_mapping(self) -> dict[str, Any]:
        """What ``parse_policy`` makes this policy from."""
        return {
            "canaries": self.canaries if isinstance(self.canaries, int) else list(self.canaries),
            "waves": list(self.waves),
            "cells": {name: asdict(rule) for name, rule in self.cells.items()},
            "cell_default": asdict(self.cell_default),
            "windows": [window.to_mapping() for window in self.windows],
            "budget": asdict(self.budget),
            "soak": list(self.soak),
            "approve_before": "all" if self.approve_before == "all" else list(self.approve_before),
            "cell_patience": self.cell_patience,
        }


def _portion(share: Share, total: int, rounded: Callable[[Fraction], int]) -> int:
    """A count as it is, a percentage of ``total`` rounded."""
    if isinstance(share, int):
        return share
    return rounded(Fraction(share.removesuffix("%")) * total / 100)


# Reading an inventory ------------------------------------------------------------------------------------------------


def parse_members(entries: Iterable[Mapping[str, Any]]) -> list[Member]:
    """The controllers of ``entries``: gateway, name and optionally cell and canary; other keys are of no interest here.

    PlanError lists everything that is wrong with them.
    """
    problems: list[str] = []
    members = []
    for number, entry in enumerate(entries, 1):
        place = f"controller {number} of the list"
        if not isinstance(entry, Mapping):
            problems.append(f"{place} is {entry!r}, expected a mapping")
            continue
        gateway, name, cell, canary = (entry.get(key) for key in ("gateway", "name", "cell", "canary"))
        if gateway and name:
            place = f"controller {gateway}/{name}"
        found = {
            "gateway": (gateway, "a name", isinstance(gateway, str) and gateway),
            "name": (name, "a name without /", isinstance(name, str) and name and "/" not in name),
            "cell": (cell, "the name of a process cell", cell is None or (isinstance(cell, str) and cell)),
            "canary": (canary, "true or false", canary is None or isinstance(canary, bool)),
        }
        wrong = [f"{place}: {key} is {value!r}, expected {what}" for key, (value, what, ok) in found.items() if not ok]
        problems += wrong
        if not wrong:
            members.append(Member(str(gateway), str(name), cell, bool(canary)))
    _complain("controllers of the rollout", problems + _duplicates(members))
    return members


def parse_policy(data: Mapping[str, Any]) -> Policy:
    """The policy that an inventory describes with the names of Policy's fields; what is not given has its default.

    PlanError lists everything that is wrong with it.
    """
    problems: list[str] = []
    given = _Options("", data, vars(Policy()), problems)
    cells = given.take("cells", "a mapping of cells to their rules", _mapping)
    windows = given.take("windows", "a list of windows", _list)
    default = given.take("cell_default", "a rule", lambda value: _rule("cell_default", value, problems))
    budget = given.take("budget", "a budget", lambda value: _budget(value, problems))
    opened = (_window(f"windows[{number}]", entry, problems) for number, entry in enumerate(windows))
    policy = Policy(
        canaries=given.take("canaries", "a count or a list of controllers as gateway/name", _canaries),
        waves=given.take("waves", 'counts from 1 or percentages like "25%", in a list', _wave_sizes),
        cells={str(name): _rule(f"cells.{name}", rule, problems) for name, rule in cells.items()},
        cell_default=default,
        windows=tuple(window for window in opened if window is not None),
        budget=budget,
        soak=given.take("soak", "seconds, or a list with the seconds of each wave", _soaks),
        approve_before=given.take("approve_before", "a list of wave numbers, or all", _approvals),
        cell_patience=given.take("cell_patience", "seconds", _seconds),
    )
    _complain("policy of the rollout", problems)
    return policy


class _Options:
    """The options of one mapping, by their names in ``defaults``; what is wrong with them goes to ``problems``."""

    def __init__(self, place: str, data: object, defaults: Mapping[str, Any], problems: list[str]) -> None:
        self._place, self._defaults, self._problems = place, defaults, problems
        self._data: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        known = ", ".join(defaults)
        if not isinstance(data, Mapping):
            problems.append(f"{place or 'it'} is {data!r}, expected a mapping with {known}")
        unknown = [key for key in self._data if key not in defaults]
        problems += [f"{self._named(key)} is no option (there are {known})" for key in unknown]

    def take(self, key: str, expected: str, convert: Callable[[Any], T]) -> T:
        """The converted value; the default where it is missing or ``convert`` raises ValueError."""
        value = self._data.get(key)
        default: T = self._defaults[key]
        if value is None:
            return default
        try:
            return convert(value)
        except ValueError:
            self._problems.append(f"{self._named(key)} is {value!r}, expected {expected}")
            return default

    def _named(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else str(key)


def _rule(place: str, data: object, problems: list[str]) -> CellRule:
    before = len(problems)
    given = _Options(place, data, vars(CellRule()), problems)
    expected = 'a count or a percentage like "50%"'
    rule = CellRule(
        given.take("min_in_service", expected, _share),
        given.take("max_unavailable", expected, _share),
    )
    if rule == CellRule() and len(problems) == before:
        problems.append(f"{place} says nothing, expected min_in_service or max_unavailable")
    return rule


def _budget(data: object, problems: list[str]) -> Budget:
    given = _Options("budget", data, vars(Budget()), problems)
    percent = given.take("max_failures_percent", "a number from 0 to 100", _percent)
    count = given.take("max_failures", "a count", _count)
    # Who gives a percentage alone means that alone.
    alone = percent is not None and isinstance(data, Mapping) and data.get("max_failures") is None
    sample = given.take("minimum_sample", "a count from 1", lambda value: _count(value, 1))
    return Budget(None if alone else count, percent, sample)


def _window(place: str, data: object, problems: list[str]) -> Window | None:
    before = len(problems)
    required = ("start", "end", "timezone")
    given = _Options(place, data, {"weekdays": frozenset(range(7)), **dict.fromkeys(required)}, problems)
    if isinstance(data, Mapping):
        problems += [f"{place}.{key} is missing" for key in required if data.get(key) is None]
    clock = 'a time like "22:00", in quotes since YAML takes it for a number'
    window = Window(
        given.take("weekdays", f"a list of {', '.join(_WEEKDAYS)}", _weekdays),
        given.take("start", clock, _clock),
        given.take("end", clock, _clock),
        given.take("timezone", "a zone of the IANA database that the control node's tzdata knows", _timezone),
    )
    return None if len(problems) > before else window


def _count(value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < least:
        raise ValueError(value)
    return int(value)


def _share(value: Any, least: int = 0) -> Share:
    text = str(value)
    if not text.endswith("%"):
        return _count(value, least)
    number = text.removesuffix("%").strip()
    if not number.replace(".", "", 1).isdecimal() or not least <= math.ceil(Fraction(number)) <= 100:
        raise ValueError(value)
    return f"{number}%"


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not 0 <= float(value) < math.inf:
        raise ValueError(value)
    return float(value)


def _percent(value: Any) -> float:
    number = _seconds(value)
    if number > 100:
        raise ValueError(value)
    return number


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(value)
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(value)
    return value


def _some(value: Any) -> Sequence[Any]:
    if not _list(value):
        raise ValueError(value)
    return _list(value)


def _canaries(value: Any) -> int | tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else _count(value)


def _wave_sizes(value: Any) -> tuple[Share, ...]:
    return tuple(_share(one, 1) for one in _some(value))


def _soaks(value: Any) -> tuple[float, ...]:
    return tuple(map(_seconds, _some(value) if isinstance(value, list | tuple) else [value]))


def _approvals(value: Any) -> tuple[int, ...] | str:
    return "all" if value == "all" else tuple(sorted({_count(one, 1) for one in _list(value)}))


def _weekdays(value: Any) -> frozenset[int]:
    return frozenset(_WEEKDAYS.index(str(one).lower()) for one in _some(value))


def _clock(value: Any) -> time:
    return datetime.strptime(value if isinstance(value, str) else "", "%H:%M").time()


def _timezone(value: Any) -> ZoneInfo:
    try:
        return ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, OSError) as error:  # OSError where it is a directory of zones, such as Europe
        raise ValueError(value) from error


def _duplicates(members: Iterable[Member]) -> list[str]:
    times = Counter(member.id for member in members)
    return [f"controller {one} is listed {count} times" for one, count in times.items() if count > 1]


def _complain(subject: str, problems: Sequence[str]) -> None:
    if problems:
        raise PlanError(f"{subject}: {'; '.join(problems)}. Correct the inventory; nothing was started")


# Planning ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A process cell: the ids of all its controllers, in the rollout or not, and how many must stay in service."""

    name: str
    controllers: tuple[str, ...]
    minimum: int

    @property
    def spare(self) -> int:
        """How many controllers it can do without when all are in service."""
        return len(self.controllers) - self.minimum


Step = tuple[Member, ...]
Wave = tuple[Step, ...]


@dataclass(frozen=True)
class Plan:
    """Waves of steps of members, and the cells that these belong to, by name.

    The members of a step are worked on at the same time.
    """

    waves: tuple[Wave, ...]
    cells: Mapping[str, Cell]
    policy: Policy

    @cached_property
    def members(self) -> dict[str, Member]:
        """All members by id, in the order of the plan."""
        return {member.id: member for wave in self.waves for step in wave for member in step}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, the same for the same plan."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def to_mapping(self) -> dict[str, Any]:
        """All of it for a JSON file."""
        return {**self._content(), "digest": self.digest}

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_mapping`` wrote; PlanError where it is damaged or was edited."""
        try:
            cells = {
                name: Cell(name, tuple(cell["controllers"]), cell["minimum"]) for name, cell in data["cells"].items()
            }
            cell_of = {one: cell.name for cell in cells.values() for one in cell.controllers}
            plan = cls(
                tuple(
                    tuple(
                        tuple(_member(one, cell_of, data["canaries"] and number == 0) for one in step) for step in wave
                    )
                    for number, wave in enumerate(data["waves"])
                ),
                cells,
                parse_policy(data["policy"]),
            )
            intact = plan.digest == data["digest"]
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"plan of the rollout: damaged ({error!r}); {_REPLAN}") from None
        if not intact:
            raise PlanError(
                f"plan of the rollout: its content has digest {plan.digest}, it says {data['digest']}; {_REPLAN}"
            )
        return plan

    def _content(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "canaries": any(member.canary for member in self.members.values()),
            "waves": [[[member.id for member in step] for step in wave] for wave in self.waves],
            "cells": {
                name: {"controllers": list(cell.controllers), "minimum": cell.minimum}
                for name, cell in self.cells.items()
            },
            "policy": self.policy.to_mapping(),
        }


_REPLAN = "restore the file, or begin a rollout under a new id"


def _member(identity: str, cell_of: Mapping[str, str], canary: bool) -> Member:
    gateway, _slash, name = identity.rpartition("/")
    return Member(gateway, name, cell_of.get(identity), canary)


def plan(members: Collection[Member], controllers: Collection[Member], policy: Policy) -> Plan:
    """Waves and steps for ``members``, which are those of all the inventory's ``controllers`` that are to be changed.

    Each wave takes the fewest steps that any choice among the members left to it takes. The order of the arguments does
    not matter. PlanError lists every reason why there is no plan.
    """
    size_of = {one.id: one for one in controllers}
    cells, problems = _cells(members, controllers, policy)
    problems += _duplicates(controllers) or _duplicates(members)
    problems += [
        f"controller {one.id} is not in the inventory, or in another cell there"
        for one in members
        if (known := size_of.get(one.id)) is None or known.cell != one.cell
    ]
    if not isinstance(policy.canaries, int):
        problems += [f"canary {one} is no controller of the inventory" for one in policy.canaries if one not in size_of]
    _complain("no plan for the rollout", problems)

    first = {member.id for member in _choose_canaries(members, policy.canaries)}
    waves = [[replace(member, canary=True) for member in members if member.id in first]] if first else []
    left = _evenly([replace(member, canary=False) for member in members if member.id not in first], cells)
    sizes = [max(1, _portion(share, len(members), math.floor)) for share in policy.waves]
    begin = 0
    while begin < len(left):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        waves.append(left[begin : begin + size])
        begin += size
    return Plan(tuple(_steps(wave, cells) for wave in waves), cells, policy)


def _cells(
    members: Iterable[Member], controllers: Iterable[Member], policy: Policy
) -> tuple[dict[str, Cell], list[str]]:
    """The cells of ``members`` by name, and what is wrong with them and the rules."""
    labelled: dict[str, list[str]] = defaultdict(list)
    for one in controllers:
        if one.cell is not None:
            labelled[one.cell].append(one.id)
    known = ", ".join(sorted(labelled)) or "none"
    problems = [
        f"cells.{name}: no controller of the inventory is in such a cell (there are {known})"
        for name in policy.cells
        if name not in labelled
    ]
    cells = {}
    for name in sorted({member.cell for member in members if member.cell is not None} & labelled.keys()):
        rule = policy.cells.get(name, policy.cell_default)
        size = len(labelled[name])
        cell = cells[name] = Cell(name, tuple(sorted(labelled[name])), rule.minimum(size))
        if cell.spare < 1:
            problems.append(
                f"cell {name}: {rule} of {size} controllers means that {cell.minimum} must stay in service, "
                "so that none can be spared; lower min_in_service or raise max_unavailable"
            )
    return cells, problems


def _choose_canaries(members: Iterable[Member], wanted: int | tuple[str, ...]) -> list[Member]:
    """Those flagged or named, and as many more as it takes: each from a cell, and then gateway, with the fewest."""
    named = wanted if isinstance(wanted, tuple) else ()
    chosen = [member for member in members if member.canary or member.id in named]
    others = _sorted(member for member in members if not (member.canary or member.id in named))
    cells = Counter(member.cell or member.id for member in chosen)
    gateways = Counter(member.gateway for member in chosen)
    queue = [(0, 0, place) for place in range(len(others))]
    while queue and isinstance(wanted, int) and len(chosen) < wanted:
        *known, place = heapq.heappop(queue)
        member = others[place]
        cell, gateway = member.cell or member.id, member.gateway
        if known == [cells[cell], gateways[gateway]]:
            chosen.append(member)
            cells[cell] += 1
            gateways[gateway] += 1
        else:  # the counts only grow, so that an entry is put right when it comes up
            heapq.heappush(queue, (cells[cell], gateways[gateway], place))
    return chosen


def _evenly(members: Iterable[Member], cells: Mapping[str, Cell]) -> list[Member]:
    """All members in such an order that every stretch of it takes the fewest steps.

    In each round every cell gives what it can spare, until it has no more. The cells with the most rounds come first in
    each, so that between two turns of a cell all others that are left have theirs.
    """
    groups: dict[str | None, list[Member]] = defaultdict(list)
    for member in members:
        groups[member.cell].append(member)
    keyed = []
    for name, group in groups.items():
        turn = len(group) if name is None else cells[name].spare
        rounds = math.ceil(len(group) / turn)
        keyed += [
            ((place // turn, -rounds, name or "", place), member) for place, member in enumerate(_over_gateways(group))
        ]
    return [member for _key, member in sorted(keyed, key=lambda pair: pair[0])]


def _over_gateways(members: Iterable[Member]) -> list[Member]:
    """One of each gateway in turn, since gateways work in parallel."""
    seen: Counter[str] = Counter()
    keyed = []
    for member in _sorted(members):
        keyed.append((seen[member.gateway], member))
        seen[member.gateway] += 1
    return [member for _turn, member in sorted(keyed, key=lambda pair: pair[0])]


def _steps(members: Iterable[Member], cells: Mapping[str, Cell]) -> Wave:
    """The fewest steps for these members."""
    steps: dict[int, list[Member]] = defaultdict(list)
    before: Counter[str] = Counter()
    for member in members:
        number = 0
        if member.cell is not None:
            number = before[member.cell] // cells[member.cell].spare
            before[member.cell] += 1
        steps[number].append(member)
    return tuple(tuple(_sorted(steps[number])) for number in range(len(steps)))


def _sorted(members: Iterable[Member]) -> list[Member]:
    return sorted(members, key=lambda member: (member.gateway, member.name))


def describe(plan: Plan) -> str:
    """The plan as text: what holds for all of it, then a block for each wave with a line for each step."""
    policy = plan.policy
    gateways = len({member.gateway for member in plan.members.values()})
    lines = [
        f"rollout of {len(plan.members)} controllers on {gateways} gateways in {len(plan.waves)} waves, "
        f"{sum(map(len, plan.waves))} steps (plan {plan.digest[:12]})",
        f"budget: {policy.budget}",
        f"windows: {'; '.join(map(str, policy.windows)) or 'always'}",
    ]
    lines += [
        f"cell {cell.name}: {cell.minimum} of {len(cell.controllers)} controllers stay in service, "
        f"at most {cell.spare} at a time are worked on"
        for cell in plan.cells.values()
    ]
    for number, wave in enumerate(plan.waves, 1):
        kind = " (canaries)" if wave[0][0].canary else ""
        approval = "after approval, " if policy.needs_approval(number) else ""
        lines.append(
            f"wave {number}{kind}: {sum(map(len, wave))} controllers, {approval}soak {policy.soak_of(number):g} s"
        )
        lines += [f"  step {place}: {_by_cell(step)}" for place, step in enumerate(wave, 1)]
    return "\n".join(lines) + "\n"


def _by_cell(step: Step) -> str:
    names: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for member in step:
        names["no cell" if member.cell is None else f"cell {member.cell}"][member.gateway].append(member.name)
    return "; ".join(
        f"{cell}: " + ", ".join(f"{gateway}/{name}" for gateway, named in gateways.items() for name in named)
        for cell, gateways in sorted(names.items())
    )


# Running -------------------------------------------------------------------------------------------------------------


class Status(StrEnum):
    """What became of a member."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    UNCHANGED = "unchanged"
    FAILED = "failed"  # whether it was rolled back or not
    UNREACHABLE = "unreachable"
    SKIPPED = "skipped"  # left out by decision: neither attempted nor to be begun
    UNDONE = "undone"  # deployed, and rolled back because the rollout was aborted


_FAILURES = (Status.FAILED, Status.UNREACHABLE)
_ATTEMPTED = (Status.DONE, Status.UNCHANGED, Status.UNDONE, *_FAILURES)


class Request(StrEnum):
    """What an operator asks for. It holds until it is taken back."""

    NONE = "none"
    PAUSE = "pause"
    STOP = "stop"
    ABORT = "abort"


class Action(StrEnum):
    """What to do. After ``stop`` and ``finished`` there is nothing more to do."""

    START = "start"
    WAIT = "wait"
    APPROVE = "approve"
    ROLL_BACK = "roll_back"
    STOP = "stop"
    FINISHED = "finished"


@dataclass(frozen=True)
class Decision:
    """What to do now, and why.

    - ``start``: work on exactly these members, as part of that wave and step.
    - ``wait``: ask again when something changes, at ``until`` at the latest where it is given.
    - ``approve``: somebody has to approve that wave.
    - ``roll_back``: put back these members of that wave, in this order.
    - ``stop``: begin nothing more; ``finished``: every member was attempted and the budget holds.
    """

    action: Action
    reason: str
    wave: int = 0
    step: int = 0
    members: tuple[Member, ...] = ()
    until: datetime | None = None


class Rollout:
    """How far a rollout came, and what to do next.

    ``status`` is each member's by id; ``since`` is when it was recorded, without those that are pending, in the order
    in which they were recorded. ``approved`` are numbers of waves. ``short_since`` is when a cell was first found short
    of the controllers that the next step needs, None while none is.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.status = dict.fromkeys(plan.members, Status.PENDING)
        self.since: dict[str, datetime] = {}
        self.approved: set[int] = set()
        self.short_since: datetime | None = None

    def record(self, identity: str, status: Status, moment: datetime) -> None:
        """Note what became of a member; PlanError where it is none."""
        if identity not in self.status:
            raise PlanError(f"controller {identity} is no member of this rollout (plan {self.plan.digest[:12]})")
        self.status[identity] = status
        self.since.pop(identity, None)
        if status is not Status.PENDING:
            self.since[identity] = moment.astimezone(UTC)

    def retry(self) -> list[str]:
        """Have every member attempted again that failed, was unreachable or was rolled back by an abort; their ids.

        The budget forgets them.
        """
        again = [one for one, status in self.status.items() if status in (*_FAILURES, Status.UNDONE)]
        for identity in again:
            self.status[identity] = Status.PENDING
            self.since.pop(identity, None)
        return again

    @property
    def over_budget(self) -> bool:
        """Whether too many have failed for anything to be begun."""
        return self.plan.policy.budget.exceeded(len(self._failures()), self._attempted())

    def _failures(self) -> list[str]:
        return [one for one, status in self.status.items() if status in _FAILURES]

    def _attempted(self) -> int:
        return sum(status in _ATTEMPTED for status in self.status.values())

    def decide(self, now: datetime, in_service: Collection[str], request: Request = Request.NONE) -> Decision:
        """What to do now.

        ``in_service`` are the ids of all controllers with a cell, members or not, that were just measured to be healthy
        and in service. One that was not measured is not among them.
        """
        policy, now = self.plan.policy, now.astimezone(UTC)
        running = [one for one, status in self.status.items() if status is Status.RUNNING]
        if running:
            return Decision(Action.WAIT, f"{len(running)} controllers are being worked on: {_listed(running)}")
        measured = frozenset(in_service)
        if request is Request.ABORT:
            return self._abort(now, measured)
        if Status.UNDONE in self.status.values():
            # Later waves rest on what earlier ones proved, and what was rolled back proves nothing.
            return Decision(
                Action.STOP, f"aborted by an operator; {self._counts()}; retry it, or begin a rollout under a new id"
            )
        if self.over_budget:
            failures = self._failures()
            named = _listed([f"{one} {self.status[one]}" for one in failures])
            return Decision(
                Action.STOP,
                f"failure budget exceeded: {len(failures)} of {self._attempted()} attempted controllers failed "
                f"({named}), expected {policy.budget}; see to them before another rollout",
            )
        if request is Request.STOP:
            return Decision(Action.STOP, f"stopped by an operator; {self._counts()}")
        number = next((number for number, wave in enumerate(self.plan.waves, 1) if self._pending(wave)), None)
        soaked = self._soaked(len(self.plan.waves) if number is None else number - 1)
        if number is None:
            if soaked is not None and now < soaked:
                return Decision(Action.WAIT, "the last wave has to prove itself", len(self.plan.waves), until=soaked)
            return Decision(Action.FINISHED, self._counts())
        if request is Request.PAUSE:
            return Decision(Action.WAIT, "paused by an operator", number)
        if soaked is not None and now < soaked:
            return Decision(Action.WAIT, f"wave {number - 1} has to prove itself", number, until=soaked)
        if policy.needs_approval(number) and number not in self.approved:
            return Decision(Action.APPROVE, f"wave {number} needs approval; {self._counts()}", number)
        opening = policy.opening(now)
        if opening > now:
            windows = "; ".join(map(str, policy.windows))
            return Decision(Action.WAIT, f"no maintenance window is open ({windows})", number, until=opening)
        return self._start(now, number, measured)

    def _start(self, now: datetime, number: int, in_service: Collection[str]) -> Decision:
        """The next step of the wave with what cells can spare now; what an earlier step left out goes with it."""
        wave = self.plan.waves[number - 1]
        pending = self._pending(wave)
        spared = self._spared(pending, in_service)
        if not spared:
            return self._short(now, number, pending, in_service)
        self.short_since = None
        step_of = {member.id: place for place, step in enumerate(wave, 1) for member in step}
        begun = {step_of[one] for one in step_of if self.status[one] not in (Status.PENDING, Status.SKIPPED)}
        fresh = {step_of[member.id] for member in pending} - begun
        first = step_of[spared[0].id]
        place = min((place for place in fresh if place >= first), default=len(wave))
        members = tuple(member for member in spared if step_of[member.id] <= place)
        late = sum(step_of[member.id] <= place for member in pending) - len(members)
        reason = f"wave {number}, step {place}" + (f"; {late} more when their cells can spare them" if late else "")
        return Decision(Action.START, reason, number, place, members)

    def _abort(self, now: datetime, in_service: Collection[str]) -> Decision:
        """Undo the wave that was begun last, the members that ended last first."""
        begun = [number for number, wave in enumerate(self.plan.waves, 1) if self._ended(wave, *_ATTEMPTED)]
        number = begun[-1] if begun else 0
        members = self._ended(self.plan.waves[number - 1], Status.DONE)[::-1] if begun else []
        if not members:
            undone = sum(status is Status.UNDONE for status in self.status.values())
            return Decision(Action.STOP, f"aborted by an operator, {undone} controllers rolled back; {self._counts()}")
        # Where the firmware itself put controllers out of service, rolling these back is the way to have them again.
        spared = self._spared(members, in_service, repair=True)
        if spared:
            self.short_since = None
            return Decision(Action.ROLL_BACK, f"wave {number} is rolled back", number, members=tuple(spared))
        return self._short(now, number, members, in_service, "aborted by an operator, but not all rolled back: ")

    def _spared(self, members: Iterable[Member], in_service: Collection[str], repair: bool = False) -> list[Member]:
        """Those of ``members``, in their order, that their cells can spare now.

        One that is out of service takes nothing from its cell. It is spared where the cell has its minimum, or always
        where working on it is to ``repair`` the cell.
        """
        room = {
            name: sum(one in in_service for one in cell.controllers) - cell.minimum
            for name, cell in self.plan.cells.items()
        }
        spared = []
        for member in members:
            if member.cell is not None:
                if member.id in in_service:
                    if room[member.cell] < 1:
                        continue
                    room[member.cell] -= 1
                elif room[member.cell] < 0 and not repair:
                    continue
            spared.append(member)
        return spared

    def _short(
        self, now: datetime, number: int, members: Iterable[Member], in_service: Collection[str], what: str = ""
    ) -> Decision:
        """Nothing can be spared: wait for the cells for a while, then stop."""
        held: dict[str, list[str]] = defaultdict(list)
        for member in members:
            if member.cell is not None:
                held[member.cell].append(member.id)
        reasons = []
        for name, waiting in held.items():
            cell = self.plan.cells[name]
            out = [one for one in cell.controllers if one not in in_service]
            size = len(cell.controllers)
            reasons.append(
                f"cell {name}: measured in service {size - len(out)} of {size}, needs {cell.minimum}, so that "
                f"{_listed(waiting)} cannot be worked on (out of service: {_listed(out)})"
            )
        if self.short_since is None:
            self.short_since = now
        reason = what + "; ".join(reasons)
        until = self.short_since + timedelta(seconds=self.plan.policy.cell_patience)
        if now < until:
            return Decision(Action.WAIT, reason, number, until=until)
        return Decision(Action.STOP, f"{reason}; bring these back into service, then run the rollout again", number)

    def _pending(self, steps: Iterable[Step]) -> list[Member]:
        return [member for step in steps for member in step if self.status[member.id] is Status.PENDING]

    def _ended(self, wave: Wave, *status: Status) -> list[Member]:
        """The wave's members that ended like that, in the order in which they did."""
        within = {member.id: member for step in wave for member in step if self.status[member.id] in status}
        order = sorted(self.since.items(), key=lambda item: item[1])
        return [within[one] for one, _moment in order if one in within]

    def _soaked(self, number: int) -> datetime | None:
        """When the wave has proved itself, None where nothing was deployed in it."""
        deployed = self._ended(self.plan.waves[number - 1], Status.DONE) if number else []
        if not deployed:
            return None
        return self.since[deployed[-1].id] + timedelta(seconds=self.plan.policy.soak_of(number))

    def _counts(self) -> str:
        counts = Counter(self.status.values())
        return f"{len(self.status)} controllers: " + ", ".join(
            f"{counts[status]} {status}" for status in Status if counts[status]
        )


def _listed(names: Sequence[str], most: int = 10) -> str:
    """The names, of many only the first."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

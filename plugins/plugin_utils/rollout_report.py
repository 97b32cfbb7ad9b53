# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollout as one HTML file that needs nothing else: no network, no script.

All that it shows comes from inventories, gateways and devices, so all of it is escaped, and a value that is not what it
should be is left out rather than trusted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import Action, Plan, Status
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_run import Result, Story, story
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutError, RolloutState
from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATE = Path(__file__).with_name("rollout_report.html.j2")
_SCALE = 1000  # what a time line is wide, in the units of its drawing
_NARROWEST = 4
_LONGEST = 1e8  # seconds; what is longer, or no number, is nonsense

Event = Mapping[str, Any]
Results = Mapping[str, Sequence[Result]]


def write(state: RolloutState, results: Results) -> Path:
    """Put the report of a rollout beside its plan, in place of an older one; its path.

    ``results`` are those of ``rollout_run.Run``. RolloutError where it cannot be written.
    """
    page = render(state.plan(), state.events(), results, datetime.now(UTC))
    path = state.path / "report.html"
    try:
        # Half a surrogate pair is text for JSON, but not for UTF-8.
        write_atomically(path, page.encode(errors="xmlcharrefreplace"))
    except OSError as error:
        raise RolloutError(f"{path}: {error.strerror}; check its permissions and the space that is left") from None
    return path


def render(kept: Mapping[str, Any], events: Sequence[Event], results: Results, moment: datetime) -> str:
    """The report as of ``moment``.

    ``kept`` and ``events`` are what RolloutState has of the rollout, ``results`` what Run says of its members. Pure.
    """
    plan = Plan.from_mapping(kept["plan"])
    told = story(plan, events)
    ends = [event for event in events if event["event"] in ("begun", "resumed", "ended")]
    closed = ends[-1] if ends and ends[-1]["event"] == "ended" else None
    begun = _moment(kept["created"])
    until = _moment(closed["time"]) if closed else moment
    member_results = {f"{gateway}/{one['name']}": one for gateway, named in results.items() for one in named}
    failed = [identity for identity in plan.members if member_results[identity]["failed"]]
    reasons: dict[str, list[str]] = defaultdict(list)
    for identity in failed:
        reasons[member_results[identity]["msg"]].append(identity)
    not_attempted = (Status.PENDING, Status.RUNNING, Status.SKIPPED)
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"time": _clock, "duration": _duration}
    return environment.get_template(_TEMPLATE.name).render(
        kept=kept,
        plan=plan,
        verdict=_verdict(closed, told, moment, failed),
        begun=begun,
        until=until,
        closed=closed is not None,
        runs=[event for event in events if event["event"] in ("begun", "resumed")],
        requests=[event for event in events if event["event"] == "request"],
        failed=failed,
        attempted=sum(status not in not_attempted for status in told.rollout.status.values()),
        counts=_counts(told.rollout.status.values()),
        reasons=reasons,
        waves=list(_waves(told, events, member_results, _Scale(begun, until))),
        scale=_SCALE,
        events=[(event["time"], event["event"], _words(event)) for event in events],
    )


@dataclass(frozen=True)
class _Verdict:
    kind: str
    title: str
    reason: str


def _verdict(closed: Event | None, told: Story, moment: datetime, failed: Sequence[str]) -> _Verdict:
    if closed is not None and closed["failed"]:
        return _Verdict("bad", "Stopped", closed["reason"])
    if closed is not None:
        title = f"Finished, but {len(failed)} failed" if failed else "Finished"
        return _Verdict("warn" if failed else "good", title, closed["reason"])
    whole = {one for cell in told.rollout.plan.cells.values() for one in cell.controllers}
    decision = told.rollout.decide(moment, whole, told.request)
    title = "Waits for approval" if decision.action is Action.APPROVE else "Not ended"
    return _Verdict("warn", title, decision.reason)


# What was tried ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Attempt:
    """One attempt at a member, between the step that began it and the note of its result."""

    begun: datetime
    ended: datetime
    undo: bool
    result: Event

    @property
    def kind(self) -> str:
        if self.outcome in ("interrupted", "running"):
            return "open"
        return "bad" if self.result.get("failed") else "undo" if self.undo else "good"

    @property
    def step(self) -> tuple[datetime, datetime, bool]:
        return self.begun, self.ended, self.undo

    @property
    def outcome(self) -> str:
        return str(self.result["outcome"]).replace("_", " ")

    @property
    def seconds(self) -> float | None:
        """How long the transaction took, as the gateway measured it."""
        value = self.result.get("seconds")
        return float(value) if isinstance(value, int | float) and 0 <= value < _LONGEST else None

    @property
    def span(self) -> tuple[datetime, datetime]:
        """When it was worked on. The result is noted when the whole step has ended; a transaction's id tells its
        beginning by the gateway's clock, which is believed within these bounds."""
        if self.seconds is None:
            return self.begun, self.ended
        length = min(timedelta(seconds=self.seconds), self.ended - self.begun)
        try:
            stamp = datetime.strptime(str(self.result.get("transaction"))[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            stamp = self.begun
        start = max(self.begun, min(stamp, self.ended - length))
        return start, start + length

    @property
    def firmware(self) -> list[tuple[str, str]]:
        """Version and the begin of the digest before, and afterwards where that differs, as far as they are known."""
        known = [_firmware(self.result.get("before")), _firmware(self.result.get("after"))]
        return [one for one in dict.fromkeys(known) if any(one)]


_LOST = {"outcome": "interrupted", "message": "the run on the control node ended before this did; the gateway goes on"}
_UNDER_WAY = {"outcome": "running", "message": "being worked on"}


def _attempts(plan: Plan, events: Iterable[Event], until: datetime) -> dict[str, list[_Attempt]]:
    """All attempts at each member, oldest first."""
    tried: dict[str, list[_Attempt]] = {identity: [] for identity in plan.members}
    at_work: dict[str, tuple[datetime, bool]] = {}
    for event in events:
        moment = _moment(event["time"])
        if event["event"] == "step":
            at_work |= dict.fromkeys(event["members"], (moment, bool(event["undo"])))
        elif event["event"] == "result":
            begun, undo = at_work.pop(event["member"], (moment, False))
            tried[event["member"]].append(_Attempt(begun, moment, undo, event))
        elif event["event"] == "resumed":
            for identity, (begun, undo) in at_work.items():
                tried[identity].append(_Attempt(begun, moment, undo, _LOST))
            at_work = {}
    for identity, (begun, undo) in at_work.items():
        tried[identity].append(_Attempt(begun, until, undo, _UNDER_WAY))
    return tried


def _waves(
    told: Story, events: Sequence[Event], member_results: Mapping[str, Result], scale: _Scale
) -> Iterator[dict[str, Any]]:
    """What the report says of each wave, with a row for each of its members."""
    plan, status = told.rollout.plan, told.rollout.status
    tried = _attempts(plan, events, scale.ended)
    for number, wave in enumerate(plan.waves, 1):
        members = [member for step in wave for member in step]
        attempts = [attempt for member in members for attempt in tried[member.id]]
        begun = min((one.begun for one in attempts), default=scale.begun)
        ended = max((one.ended for one in attempts), default=scale.ended)
        approvals = [event for event in events if event["event"] == "approved" and event["wave"] == number]
        soak = plan.policy.soak_of(number)
        marks = [
            scale.mark("undo" if undo else "work", *span) for *span, undo in sorted({one.step for one in attempts})
        ]
        deployed = [told.rollout.since[member.id] for member in members if status[member.id] is Status.DONE]
        if soak and deployed:
            proven = min(max(deployed) + timedelta(seconds=soak), scale.ended)
            marks.insert(0, scale.mark("soak", max(deployed), proven))
        marks += [scale.mark("approved", _moment(event["time"]), _moment(event["time"])) for event in approvals]
        within = _Scale(begun, ended)
        yield {
            "number": number,
            "canaries": members[0].canary,
            "steps": len(wave),
            "needs_approval": plan.policy.needs_approval(number),
            "approvals": approvals,
            "was_begun": bool(attempts),
            "begun": begun,
            "ended": ended,
            "soak": soak,
            "counts": _counts(status[member.id] for member in members),
            "marks": marks,
            "rows": [
                {
                    "member": member,
                    "status": status[member.id],
                    "message": member_results[member.id]["msg"],
                    "attempts": tried[member.id],
                    "marks": [within.mark(one.kind, *one.span) for one in tried[member.id] if one.outcome != "skipped"],
                }
                for member in members
            ],
        }


# Drawing -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mark:
    kind: str
    place: float
    width: float


@dataclass(frozen=True)
class _Scale:
    """From moments to places on a time line."""

    begun: datetime
    ended: datetime

    def mark(self, kind: str, begun: datetime, ended: datetime) -> _Mark:
        """Wide enough to be seen, and within the line."""
        width = max(self._length(begun, ended), _NARROWEST)
        place = max(0.0, min(self._length(self.begun, begun), _SCALE - width))
        return _Mark(kind, round(place, 1), round(min(width, _SCALE), 1))

    def _length(self, begun: datetime, ended: datetime) -> float:
        whole = (self.ended - self.begun).total_seconds()
        return _SCALE * (ended - begun).total_seconds() / whole if whole > 0 else 0.0


# Words ---------------------------------------------------------------------------------------------------------------


def _words(event: Event) -> str:
    """What an event tells beside its time and kind."""
    where = ""
    if "wave" in event:
        where = f"wave {event['wave']}" + (f", step {event['step']}" if event.get("step") else "")
    said = [
        where,
        "rolled back" if event.get("undo") else "",
        ", ".join(event.get("members", ())),
        event.get("member", ""),
        event.get("outcome", ""),
        event.get("request", ""),
        "what failed is tried again" if event.get("retry") else "",
        event.get("reason", ""),
        event.get("message", ""),
        f"by {event['who']}" if "who" in event else "",
    ]
    if event["event"] == "short":
        said.append("a cell is short of controllers" if event["since"] else "all cells have what they need")
    return ": ".join(str(one) for one in said if one)


def _firmware(value: object) -> tuple[str, str]:
    told = value if isinstance(value, Mapping) else {}
    return str(told.get("version") or ""), str(told.get("digest") or "")[:12]


def _counts(members: Iterable[Status]) -> list[tuple[Status, int]]:
    """How many there are of each status."""
    counts = Counter(members)
    return [(status, counts[status]) for status in Status if counts[status]]


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _clock(moment: datetime | str) -> str:
    moment = _moment(moment) if isinstance(moment, str) else moment
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _duration(value: float | timedelta) -> str:
    """With its units, the two largest."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    named = [(days, "d"), (hour, "h"), (minute, "min"), (second, "s")]
    first = next(place for place, (number, _unit) in enumerate(named) if number)
    return " ".join(f"{number} {unit}" for number, unit in named[first : first + 2] if number)

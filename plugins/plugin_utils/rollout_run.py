# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Driving a rollout: what the disk says has happened, what the plan says comes next, and how the two meet.

Every call may come from another process, even from another run than the one before: all it knows comes from the
rollout's events. The plan and its rules are in rollout_plan, the disk in rollout_state.
"""

from __future__ import annotations

import datetime
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import (
    Action,
    Decision,
    Member,
    Plan,
    Request,
    Rollout,
    Status,
    parse_members,
    parse_policy,
    plan,
)
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutError, RolloutState, who

_POLL = 1.0
# How old a measurement may be when something starts on the strength of it, in seconds.
_FRESH = 10.0
_REMIND = 60.0

_STATUS = {
    "deployed": Status.DONE,
    "restored": Status.DONE,
    "read": Status.DONE,
    "unchanged": Status.UNCHANGED,
    "skipped": Status.PENDING,
    "unreachable": Status.UNREACHABLE,
}
# What a result of the module firmware has that a person may want to know afterwards.
_KEPT = ("outcome", "failed", "changed", "before", "after", "seconds", "transaction", "set")

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Next:
    """What the playbook has to do: ``work`` on or ``measure`` these controllers of gateways, ask for ``approval``, or
    ``end``.

    ``gateways`` have a part in what comes: in the measurement, or in the work that it may lead to. ``undo``: the
    members go back to the set of before. ``approval`` is who approved the wave, where that was needed.
    """

    do: str
    reason: str
    controllers: Mapping[str, Collection[str]] = field(default_factory=dict)
    undo: bool = False
    wave: int = 0
    failed: bool = False
    approval: str = ""
    gateways: Collection[str] = ()


def draw_up(entries: Iterable[Mapping[str, Any]], pending: Collection[str], policy: Any) -> Plan:
    """A plan for the controllers ``pending`` (gateway/name), out of ``entries``: all of the inventory.

    An entry has gateway, name, and where it has them cell and canary.
    """
    controllers = parse_members(entries)
    return plan([one for one in controllers if one.id in pending], controllers, parse_policy(policy))


def begin(state: RolloutState, what: str, planned: Plan) -> None:
    """Write a rollout of ``what`` down."""
    state.create({"what": what, "plan": planned.to_mapping()})
    state.append("begun", who=who(), driver=_driver())


def go_on(state: RolloutState, what: str, retry: bool = False) -> Plan:
    """Take up a rollout that another run began; with ``retry`` what failed is tried again.

    RolloutError where it is a rollout of something else, or that other run still drives it.
    """
    kept = state.plan()
    if kept["what"] != what:
        raise RolloutError(
            f"rollout {state.id} is one of {kept['what']}, not of {what}; give the same version, or another id"
        )
    events = state.events()
    driver = next((one["driver"] for one in reversed(events) if "driver" in one), None)
    ended = bool(events) and events[-1]["event"] == "ended"
    if driver and not ended and driver != _driver() and _lives(driver):
        raise RolloutError(
            f"rollout {state.id}: another run drives it (pid {driver['pid']} on {driver['host']}); wait for it, or "
            "end it"
        )
    state.append("resumed", who=who(), driver=_driver(), retry=retry)
    return Plan.from_mapping(kept["plan"])


def _driver() -> dict[str, Any]:
    """The run of ansible-playbook that this process works for."""
    pid = os.getppid()
    return {"host": os.uname().nodename, "pid": pid, "started": _started(pid)}


def _started(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _lives(driver: Mapping[str, Any]) -> bool:
    elsewhere = driver["host"] != os.uname().nodename
    return not elsewhere and bool(driver["started"]) and _started(int(driver["pid"])) == driver["started"]


@dataclass
class Story:
    """What the events tell: how far the rollout came, what an operator asks for, and each member's last result."""

    rollout: Rollout
    request: Request = Request.NONE
    undoing: bool = False
    at_work: tuple[str, ...] = ()
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    approvals: dict[int, str] = field(default_factory=dict)


def story(planned: Plan, events: Iterable[Mapping[str, Any]]) -> Story:
    """Retell the events."""
    told = Story(Rollout(planned))
    rollout = told.rollout
    for event in events:
        moment = datetime.datetime.fromisoformat(event["time"])
        kind = event["event"]
        if kind == "step":
            told.at_work, told.undoing = tuple(event["members"]), event["undo"]
            for member in told.at_work:
                rollout.record(member, Status.RUNNING, moment)
        elif kind == "result":
            identity = event["member"]
            told.results[identity] = dict(event)
            told.at_work = tuple(one for one in told.at_work if one != identity)
            rollout.record(identity, _status(event, told.undoing), moment)
        elif kind == "failed":
            rollout.record(event["member"], Status.FAILED, moment)
        elif kind == "approved":
            rollout.approved.add(event["wave"])
            told.approvals[event["wave"]] = event["who"]
        elif kind == "short":
            rollout.short_since = event["since"] and datetime.datetime.fromisoformat(event["since"])
        elif kind == "request":
            told.request = Request.NONE if event["request"] == "resume" else Request(event["request"])
        elif kind == "resumed":
            # What a run that died had begun: the gateways finish or undo it, and the module sees what became of it.
            # What had failed by then has failed: only a retry has it flashed again.
            for member in told.at_work:
                if rollout.status[member] is not Status.FAILED:
                    rollout.record(member, Status.DONE if told.undoing else Status.PENDING, moment)
            told.at_work = ()
            if event["retry"]:
                rollout.retry()
        elif kind == "ended" and told.request is not Request.PAUSE:
            told.request = Request.NONE  # it has been heard
    return told


def _status(result: Result, undone: bool) -> Status:
    status = _STATUS.get(str(result["outcome"]), Status.FAILED)
    if result["failed"] and status is not Status.UNREACHABLE:
        status = Status.FAILED
    if undone:
        return {Status.DONE: Status.UNDONE, Status.UNCHANGED: Status.UNDONE, Status.PENDING: Status.DONE}.get(
            status, status
        )
    return status


def begins_no_more(planned: Plan, state: RolloutState) -> bool:
    """Whether nothing of the step under way may begin any more: an operator wants it, or too many have failed."""
    told = story(planned, state.events())
    if told.undoing:
        return False
    return told.request is not Request.NONE or told.rollout.over_budget


class Run:
    """One run's part in a rollout. ``say`` shows a line to whoever watches."""

    def __init__(self, state: RolloutState, say: Callable[[str], None]) -> None:
        self.state = state
        self.plan = Plan.from_mapping(state.plan()["plan"])
        self.say = say

    def note(self, results: Mapping[str, Result]) -> None:
        """Write down what became of the members at work. ``results`` are the module's, by gateway.

        A gateway that could not be reached has ``unreachable``, one whose module failed as a whole ``msg``.
        """
        told = story(self.plan, self.state.events())
        for identity in told.at_work:
            gateway, _slash, name = identity.rpartition("/")
            result = results.get(gateway) or {}
            found = next((one for one in result.get("controllers") or () if one["name"] == name), None)
            if found is None:
                lost = bool(result.get("unreachable"))
                reason = result.get("msg") or "the module ended without an answer"
                found = {"outcome": "unreachable" if lost else "failed", "failed": True, "msg": reason}
            kept = {key: found[key] for key in _KEPT if key in found}
            kept.setdefault("outcome", "failed")
            self.state.append("result", member=identity, message=str(found.get("msg", "")), **kept)

    def next(
        self,
        measured: Mapping[str, Result] | None,
        approved: Collection[int] | str = (),
        approval_deadline: float = 0.0,
    ) -> Next:
        """What comes now. Waits for windows, soak, pauses and approvals.

        ``measured`` are the results of firmware_info where the controllers were asked just now, else None; by gateway,
        of all that can begin to work now.
        """
        began = time.monotonic()
        said = ("", -_REMIND)
        while True:
            told = story(self.plan, self.state.events())
            # As if all cells were whole: whether anything else forbids to go on.
            decision = story(self.plan, self.state.events()).rollout.decide(_now(), self._all(), told.request)
            if decision.action in (Action.START, Action.ROLL_BACK, Action.FINISHED):
                proven = self._to_prove(told, decision)
                if (proven or decision.members) and (measured is None or time.monotonic() - began > _FRESH):
                    return self._measure(told, decision, proven)
                if measured is not None and self._note_regressions(proven, measured):
                    continue
                decision = self._decide(told, measured or {})
                if decision.action is Action.WAIT:  # a cell is short of controllers, and patience is allowed
                    measured = None
                elif measured is not None and any(member.gateway not in measured for member in decision.members):
                    return self._measure(told, decision, proven)
            if decision.action is Action.APPROVE:
                if approved == "all" or decision.wave in approved:
                    self.approve(decision.wave)
                    continue
                if time.monotonic() - began >= approval_deadline:
                    return Next("approval", decision.reason, wave=decision.wave)
            elif decision.action is not Action.WAIT:
                return self._go(decision)
            if decision.reason != said[0] or time.monotonic() - said[1] > _REMIND:
                until = f" (until {decision.until:%Y-%m-%d %H:%M:%S} UTC)" if decision.until else ""
                self.say(f"  rollout {self.state.id}: {decision.reason}{until}")
                said = (decision.reason, time.monotonic())
            time.sleep(_POLL)

    def approve(self, wave: int) -> None:
        """Somebody at this control node approves a wave."""
        self.state.append("approved", wave=wave, who=who())

    def judge(self, request: str) -> int | None:
        """The wave that an operator's request approves, None for any other; RolloutError where it cannot be met."""
        what = str(self.state.plan()["what"])
        if request == "abort" and what.startswith("set "):
            # Undoing is going to the set of before the last deployment, which may be the very one that it goes to.
            raise RolloutError(
                f"rollout {self.state.id} goes to {what}, which abort cannot undo; ask for stop, and roll back to the "
                "set that you want: rollback.yml -e controllers_rollback_set=ID"
            )
        wave = self.wait_for_approval() if request == "approve" else None
        if request == "approve" and wave is None:
            raise RolloutError(f"rollout {self.state.id}: no wave waits for an approval")
        return wave

    def wait_for_approval(self) -> int | None:
        """The wave that waits for an approval now."""
        told = story(self.plan, self.state.events())
        decision = told.rollout.decide(_now(), self._all(), told.request)
        return decision.wave if decision.action is Action.APPROVE else None

    def results(self) -> dict[str, list[dict[str, Any]]]:
        """By gateway, what became of each member, in words."""
        told = story(self.plan, self.state.events())
        by_gateway: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for member in self.plan.members.values():
            status = told.rollout.status[member.id]
            result = told.results.get(member.id, {})
            message = str(result.get("message", "")) if status is not Status.PENDING else ""
            by_gateway[member.gateway].append(
                {
                    "name": member.name,
                    "status": str(status),
                    "failed": status in (Status.FAILED, Status.UNREACHABLE),
                    "msg": message or "not begun",
                    **{key: result[key] for key in _KEPT if key in result and key != "failed"},
                }
            )
        return dict(by_gateway)

    def _decide(self, told: Story, measured: Mapping[str, Result]) -> Decision:
        before = told.rollout.short_since
        decision = told.rollout.decide(_now(), in_service(measured), told.request)
        since = told.rollout.short_since
        if since != before:
            self.state.append("short", since=since and since.isoformat())
        return decision

    def _go(self, decision: Decision) -> Next:
        if decision.action in (Action.START, Action.ROLL_BACK):
            undo = decision.action is Action.ROLL_BACK
            members = [member.id for member in decision.members]
            self.state.append("step", wave=decision.wave, step=decision.step, undo=undo, members=members)
            self.say(f"  rollout {self.state.id}: {decision.reason}: {', '.join(members)}")
            approval = story(self.plan, self.state.events()).approvals.get(decision.wave, "")
            return Next("work", decision.reason, _by_gateway(decision.members), undo, decision.wave, approval=approval)
        failed = decision.action is not Action.FINISHED
        self.state.append("ended", failed=failed, reason=decision.reason)
        return Next("end", decision.reason, failed=failed)

    def _to_prove(self, told: Story, decision: Decision) -> list[str]:
        """Ids of what the last wave deployed, where that has just had its time to prove itself."""
        wave = len(self.plan.waves) if decision.action is Action.FINISHED else decision.wave - 1
        begun = any(
            told.rollout.status[member.id] is not Status.PENDING
            for step in (self.plan.waves[decision.wave - 1] if decision.action is not Action.FINISHED else ())
            for member in step
        )
        if begun or wave < 1:
            return []
        members = [member.id for step in self.plan.waves[wave - 1] for member in step]
        return [one for one in members if told.rollout.status[one] is Status.DONE]

    def _measure(self, told: Story, decision: Decision, proven: Iterable[str]) -> Next:
        """What the last wave deployed, and all controllers of the cells that what is left of this one takes from."""
        wave = self.plan.waves[decision.wave - 1] if decision.members else ()
        left = [one for step in wave for one in step if told.rollout.status[one.id] is Status.PENDING]
        begun = [*left, *decision.members]
        cells = {member.cell for member in begun if member.cell is not None}
        wanted: dict[str, list[str]] = defaultdict(list)
        for identity in sorted({*proven, *(one for cell in cells for one in self.plan.cells[cell].controllers)}):
            gateway, _slash, name = identity.rpartition("/")
            wanted[gateway].append(name)
        return Next("measure", "", dict(wanted), gateways=sorted({*wanted, *(member.gateway for member in begun)}))

    def _note_regressions(self, proven: Iterable[str], measured: Mapping[str, Result]) -> bool:
        """Whether something that was deployed is not healthy any more; it has failed then."""
        lost = sorted(set(proven) - in_service(measured))
        for identity in lost:
            gateway, _slash, name = identity.rpartition("/")
            answers = (measured.get(gateway) or {}).get("controllers") or ()
            found = next((one for one in answers if one["name"] == name), {"msg": "its gateway did not answer"})
            reason = str(found["msg"] or "; ".join(found["health"]) or "a transaction is open")
            message = f"was deployed, but did not stay healthy through the soak: {reason}"
            self.state.append("result", member=identity, outcome="regressed", failed=True, message=message)
        return bool(lost)

    def _all(self) -> set[str]:
        return {one for cell in self.plan.cells.values() for one in cell.controllers}


def in_service(measured: Mapping[str, Result]) -> set[str]:
    """Ids of the controllers that answered, are healthy, and have no transaction open, by firmware_info's results."""
    return {
        f"{gateway}/{one['name']}"
        for gateway, result in measured.items()
        for one in result.get("controllers") or ()
        if not one["failed"] and one["healthy"] and not one["open_transaction"]
    }


def _by_gateway(members: Iterable[Member]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for member in members:
        found[member.gateway].append(member.name)
    return dict(found)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)

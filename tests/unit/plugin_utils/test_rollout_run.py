# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollout as its events tell it: what comes next, what another run takes up, and what a damaged disk means."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import rollout_run
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import Plan, Status
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_run import Run, begins_no_more, story
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutError, RolloutState

ENTRIES = [{"gateway": gateway, "name": name, "cell": "mixing"} for gateway in ("a", "b") for name in ("one", "two")]
IDS = [f"{entry['gateway']}/{entry['name']}" for entry in ENTRIES]
POLICY = {"canaries": 1, "cells": {"mixing": {"max_unavailable": 2}}}
DEPLOYED = {"outcome": "deployed", "failed": False, "changed": True, "msg": "proven on the device"}
BACK = {"outcome": "rolled_back", "failed": True, "changed": True, "msg": "silent after its start"}


@pytest.fixture
def state(tmp_path: Path) -> RolloutState:
    state = RolloutState(tmp_path, "test")
    rollout_run.begin(state, "1.1.0", rollout_run.draw_up(ENTRIES, IDS, POLICY))
    return state


def healthy(*away: str) -> dict[str, Any]:
    """What firmware_info says of all controllers; those in ``away`` do not answer."""
    return {
        gateway: {
            "controllers": [
                {"name": entry["name"], "failed": True, "msg": "silent"}
                if f"{gateway}/{entry['name']}" in away
                else {"name": entry["name"], "failed": False, "msg": "", "healthy": True, "open_transaction": None}
                for entry in ENTRIES
                if entry["gateway"] == gateway
            ]
        }
        for gateway in ("a", "b")
    }


def results(members: Mapping[str, Collection[str]], result: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        gateway: {"controllers": [{"name": name, **(result or DEPLOYED)} for name in names]}
        for gateway, names in members.items()
    }


def run(state: RolloutState) -> Run:
    return Run(state, lambda _line: None)


def go(state: RolloutState, **how: Any) -> list[list[str]]:
    """Play the playbook's part to the end; the members of each step."""
    steps = []
    following = run(state).next(healthy(), **how)
    while following.do != "end":
        if following.do == "work":
            steps.append([f"{gateway}/{name}" for gateway, names in following.controllers.items() for name in names])
            run(state).note(results(following.controllers))
        following = run(state).next(healthy() if following.do == "measure" else None, **how)
    assert not following.failed
    return steps


def test_the_waves_go_through(state: RolloutState) -> None:
    assert go(state) == [["a/one"], ["a/two", "b/one"], ["b/two"]]
    assert {one["status"] for found in run(state).results().values() for one in found} == {"done"}


def test_what_is_measured_are_the_cell_and_what_was_deployed(state: RolloutState) -> None:
    run(state).note(results(run(state).next(healthy()).controllers))
    following = run(state).next(None)
    assert following.do == "measure"
    assert following.controllers == {"a": ["one", "two"], "b": ["one", "two"]}


def test_failures_stop_it_and_are_tried_again_on_request(state: RolloutState) -> None:
    run(state).note(results(run(state).next(healthy()).controllers, BACK))
    following = run(state).next(None)
    assert following.failed and "1 of 1 attempted controllers failed (a/one failed)" in following.reason
    rollout_run.go_on(state, "1.1.0")
    assert run(state).next(healthy()).failed, "the budget has not forgotten it"
    rollout_run.go_on(state, "1.1.0", retry=True)
    assert go(state) == [["a/one"], ["a/two", "b/one"], ["b/two"]]


def test_a_failure_told_while_others_are_at_work_lets_nothing_more_begin(state: RolloutState) -> None:
    planned = Plan.from_mapping(state.plan()["plan"])
    run(state).next(healthy())
    assert not begins_no_more(planned, state)
    state.append("failed", member="a/one", message="silent")
    assert begins_no_more(planned, state)


@pytest.mark.parametrize("request_", ["pause", "stop", "abort"])
def test_an_operator_lets_nothing_more_begin(state: RolloutState, request_: str) -> None:
    planned = Plan.from_mapping(state.plan()["plan"])
    run(state).next(healthy())
    state.append("request", request=request_)
    assert begins_no_more(planned, state)
    state.append("request", request="resume")
    assert not begins_no_more(planned, state)


def test_what_was_not_begun_comes_again(state: RolloutState) -> None:
    members = run(state).next(healthy()).controllers
    run(state).note(results(members, {"outcome": "skipped", "failed": False, "msg": "not begun"}))
    assert run(state).next(healthy()).controllers == members


def test_abort_goes_back_in_reverse(state: RolloutState) -> None:
    run(state).note(results(run(state).next(healthy()).controllers))
    run(state).note(results(run(state).next(healthy()).controllers))
    state.append("request", request="abort")
    following = run(state).next(healthy())
    assert following.undo and list(following.controllers) == ["b", "a"]
    run(state).note(results(following.controllers))
    ended = run(state).next(None)
    assert ended.failed and "2 controllers rolled back" in ended.reason
    assert [one["status"] for one in run(state).results()["a"]] == ["done", "undone"]
    rollout_run.go_on(state, "1.1.0")
    assert "2 undone" in run(state).next(healthy()).reason
    rollout_run.go_on(state, "1.1.0", retry=True)
    assert go(state) == [["a/two", "b/one"], ["b/two"]]


def test_an_abort_that_died_half_way_is_finished(state: RolloutState) -> None:
    run(state).note(results(run(state).next(healthy()).controllers))
    state.append("request", request="abort")
    assert run(state).next(healthy()).undo
    rollout_run.go_on(state, "1.1.0")
    assert run(state).next(healthy()).undo


def test_a_lost_gateway_and_a_module_without_an_answer_are_failures(state: RolloutState) -> None:
    run(state).note(results(run(state).next(healthy()).controllers))
    run(state).next(healthy())
    run(state).note({"a": {"unreachable": True, "msg": "no route"}, "b": {"failed": True, "msg": "no python"}})
    found = {one["name"]: one for one in run(state).results()["a"]}
    assert (found["two"]["status"], found["two"]["msg"]) == ("unreachable", "no route")
    assert run(state).results()["b"][0]["msg"] == "no python"


def test_another_run_takes_up_what_one_that_died_had_begun(state: RolloutState) -> None:
    run(state).next(healthy())
    planned = rollout_run.go_on(state, "1.1.0")
    assert set(story(planned, state.events()).rollout.status.values()) == {Status.PENDING}
    assert go(state) == [["a/one"], ["a/two", "b/one"], ["b/two"]]


def test_two_runs_do_not_drive_it_at_once(state: RolloutState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_run.os, "getppid", lambda: 1)
    with pytest.raises(RolloutError, match="another run drives it"):
        rollout_run.go_on(state, "1.1.0")


def test_it_goes_on_only_as_what_it_was(state: RolloutState) -> None:
    with pytest.raises(RolloutError, match=r"is one of 1\.1\.0, not of 1\.0\.0"):
        rollout_run.go_on(state, "1.0.0")
    with pytest.raises(RolloutError, match="exists"):
        rollout_run.begin(state, "1.1.0", Plan.from_mapping(state.plan()["plan"]))


def test_unknown_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="there are none"):
        RolloutState(tmp_path, "other").plan()
    with pytest.raises(RolloutError, match="expected letters"):
        RolloutState(tmp_path, "../other")


def test_an_edited_plan_is_refused(state: RolloutState) -> None:
    path = state.path / "plan.json"
    data = json.loads(path.read_text())
    data["plan"]["cells"]["mixing"]["minimum"] = 0
    path.write_text(json.dumps(data))
    with pytest.raises(CoreError, match="digest"):
        rollout_run.go_on(state, "1.1.0")


def test_a_line_cut_off_by_a_power_loss_is_no_event(state: RolloutState) -> None:
    before = state.events()
    with open(state.path / "events.jsonl", "a") as stream:
        stream.write('{"time": "2026-11-25T02:15:00Z", "event": "st')
    assert state.events() == before
    state.append("request", request="pause")
    assert [event["event"] for event in state.events()] == [*(event["event"] for event in before), "request"]


def test_what_had_failed_when_the_run_died_is_not_flashed_again(state: RolloutState) -> None:
    run(state).next(healthy())
    state.append("failed", member="a/one", message="silent")
    planned = rollout_run.go_on(state, "1.1.0")
    assert story(planned, state.events()).rollout.status["a/one"] is Status.FAILED
    assert run(state).next(healthy()).failed, "the budget counts it"
    rollout_run.go_on(state, "1.1.0", retry=True)
    assert go(state) == [["a/one"], ["a/two", "b/one"], ["b/two"]]


def test_going_to_a_set_cannot_be_aborted(state: RolloutState, tmp_path: Path) -> None:
    assert run(state).judge("abort") is None
    back = RolloutState(tmp_path, "back")
    rollout_run.begin(back, "set previous", rollout_run.draw_up(ENTRIES, IDS, POLICY))
    with pytest.raises(RolloutError, match=r"back goes to set previous, which abort cannot undo; ask for stop"):
        run(back).judge("abort")
    assert run(back).judge("stop") is None
    with pytest.raises(RolloutError, match="no wave waits"):
        run(back).judge("approve")

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the control node writes down where a gateway fails as a whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit, rollout_run
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutState
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_watch import FirmwareActionModule
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.watched_action import WatchedActionModule

ENTRIES = [{"gateway": gateway, "name": name} for gateway in ("a", "b") for name in ("one", "two")]
CONTROLLERS = [{"name": "one", "line": "/dev/line", "unit": 2}, {"name": "two", "line": "/dev/line", "unit": 3}]


class Firmware(FirmwareActionModule):
    """Of a task on gateway a, as far as these tests need one."""

    def __init__(self, log: Path, rollout: dict[str, Any] | None = None, check: bool = False) -> None:
        arguments = {"controllers": CONTROLLERS, "profiles": {}, **({"rollout": rollout} if rollout else {})}
        self._task: Any = SimpleNamespace(
            args=arguments, action="multi_sonicator.ops.firmware", check_mode=check, no_log=False
        )
        self._templar: Any = SimpleNamespace(template=lambda value: value)
        self._play_context: Any = SimpleNamespace(remote_user="deployer")
        self._variables = {"inventory_hostname": "a", audit.VARIABLE: str(log)}

    def _profiles(self, *_unused: Any) -> dict[str, Any]:
        return {}

    def go(self) -> dict[str, Any]:
        return self.run(task_vars=self._variables)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ActionBase, "run", lambda *_unused, **_more: {})
    return tmp_path / "audit.jsonl"


@pytest.fixture
def rollout(tmp_path: Path) -> RolloutState:
    """One whose step, with all controllers, has begun."""
    state = RolloutState(tmp_path / "rollouts", "test")
    ids = [f"{one['gateway']}/{one['name']}" for one in ENTRIES]
    rollout_run.begin(state, "1.1.0", rollout_run.draw_up(ENTRIES, ids, {"canaries": 0}))
    state.append("step", wave=1, step=1, undo=False, members=ids)
    return state


def answers(monkeypatch: pytest.MonkeyPatch, result: dict[str, Any] | None) -> None:
    """What the module returns; without it the connection is lost."""

    def run(*_unused: Any) -> dict[str, Any]:
        if result is None:
            raise AnsibleConnectionFailure("no route to host")
        return result

    monkeypatch.setattr(WatchedActionModule, "_run_module", run)


def failed(state: RolloutState) -> list[tuple[str, str]]:
    return [(one["member"], one["message"]) for one in state.events() if one["event"] == "failed"]


def test_a_gateway_out_of_reach_is_in_the_audit_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, None)
    with pytest.raises(AnsibleConnectionFailure):
        Firmware(log, check=True).go()
    assert not log.exists()
    with pytest.raises(AnsibleConnectionFailure):
        Firmware(log).go()
    told = [one for one in audit.read(log) if one["where"]["controller"]]
    assert [(one["where"]["controller"], one["result"]) for one in told] == [("one", "failed"), ("two", "failed")]
    assert told[0]["message"] == "out of reach, what was begun may go on there: no route to host"


@pytest.mark.parametrize("result", [None, {"failed": True, "msg": "no route to host"}])
def test_a_gateway_that_fails_as_a_whole_tells_the_rollout_at_once(
    log: Path, rollout: RolloutState, monkeypatch: pytest.MonkeyPatch, result: dict[str, Any] | None
) -> None:
    answers(monkeypatch, result)
    rollout.append("failed", member="a/one", message="silent")
    try:
        Firmware(log, {"directory": rollout.path.parent, "id": rollout.id}).go()
    except AnsibleConnectionFailure:
        assert result is None
    assert failed(rollout) == [("a/one", "silent"), ("a/two", "no route to host")]


def test_controllers_that_fail_are_told_one_by_one(
    log: Path, rollout: RolloutState, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, {"failed": True, "msg": "one: silent", "controllers": []})
    Firmware(log, {"directory": rollout.path.parent, "id": rollout.id}).go()
    assert failed(rollout) == []

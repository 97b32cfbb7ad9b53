# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of the module firmware: watches a run, and stops it when the rollout has to stop."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import Plan, Status
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_run import begins_no_more, story
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutState
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.watched_action import WatchedActionModule


class FirmwareActionModule(WatchedActionModule):
    """Tells the rollout of failures when they happen, and has the gateway begin no more when that is the end of it."""

    _rollout: RolloutState | None = None
    _mark = 0
    _stopped = False

    def _run_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        rollout = arguments.pop("rollout", None)
        if rollout:
            self._rollout = RolloutState(str(rollout["directory"]), str(rollout["id"]))
            self._plan = Plan.from_mapping(self._rollout.plan()["plan"])
        host = str(task_vars.get("inventory_hostname", ""))
        try:
            result = super()._run_module(arguments, task_vars)
        except AnsibleConnectionFailure as error:
            self._failed_as_a_whole(host, str(error))
            raise
        if result.get("failed") and "controllers" not in result:
            self._failed_as_a_whole(host, str(result.get("msg", "")))
        return result

    def _failed_as_a_whole(self, host: str, message: str) -> None:
        """Tell the rollout now: other gateways are at work, and would begin all that is theirs until the step ends."""
        if not self._rollout:
            return
        told = story(self._plan, self._rollout.events())
        for member in told.at_work:
            if member.rpartition("/")[0] == host and told.rollout.status[member] is not Status.FAILED:
                self._rollout.append("failed", member=member, message=message)

    def _told(self, host: str, entry: Mapping[str, Any]) -> None:
        super()._told(host, entry)
        if self._rollout and entry.get("failed"):
            self._rollout.append("failed", member=f"{host}/{entry['controller']}", message=entry.get("message", ""))

    def _between_looks(self, progress: str) -> None:
        if not self._rollout or self._stopped or self._rollout.mark() == self._mark:
            return
        self._mark = self._rollout.mark()
        if begins_no_more(self._plan, self._rollout):
            self._command(f"touch {shlex.quote(f'{progress}.stop')}")
            self._stopped = True

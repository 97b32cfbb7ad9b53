# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of the module discovery_info: what a controller may be comes from the profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit, controller_action

_CANDIDATES = ("multi_sonicator_io", "multi_sonicator_io_observed")


class ActionModule(controller_action.ActionModule):
    """Sends the candidates' profiles along, and records which controllers were reset."""

    @property
    def _looks_only(self) -> bool:
        return not self._task.args.get("identify_programmers")

    def _profiles(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        candidates = arguments.get("candidates") or _CANDIDATES
        named = {"controllers": [{"profile": name} for name in candidates], "profiles": arguments.get("profiles")}
        found = super()._profiles(named, task_vars)
        return {name: found[name] for name in candidates}

    def _record(
        self, log: audit.AuditLog, arguments: Mapping[str, Any], result: dict[str, Any], task_vars: Mapping[str, Any]
    ) -> None:
        """A programmer that was asked has read a chip, as far as the audit log is concerned."""
        reset = [
            {**one, "msg": f"reset by its programmer {one['programmer']}"}
            for one in result.get("controllers", ())
            if one["programmer"]
        ]
        if reset:
            super()._record(log, {**arguments, "read_chip": True}, {"controllers": reset}, task_vars)

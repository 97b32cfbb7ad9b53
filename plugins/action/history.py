# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module history, all of it: the repository lies on the control node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.history import Change, History

_OPTIONS: dict[str, dict[str, Any]] = {
    "operation": {"type": "str", "choices": ["record", "show"], "default": "show"},
    "directory": {"type": "str", "required": True},
    "sets": {"type": "dict", "default": {}},
    "reason": {"type": "str", "default": ""},
    "rollout": {"type": "str", "default": ""},
    "since": {"type": "str", "default": ""},
    "up_to": {"type": "str", "default": ""},
    "gateways": {"type": "list", "elements": "str", "default": []},
    "controllers": {"type": "list", "elements": "str", "default": []},
}


class ActionModule(ActionBase):
    """Records, or shows what was recorded."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self._variables = task_vars or {}
        _validated, options = self.validate_argument_spec(_OPTIONS)
        try:
            changes = self._record(options) if options["operation"] == "record" else self._show(options)
        except CoreError as error:
            raise AnsibleActionFail(str(error)) from None
        result["changed"] = bool(changes) and options["operation"] == "record"
        result["changes"] = [{**asdict(one), "what": list(one.what)} for one in changes]
        result["msg"] = "\n".join(_line(one) for one in changes) or "no changes"
        return result

    def _record(self, options: Mapping[str, Any]) -> list[Change]:
        audited = audit.read(audit.log_of(self._variables, self._templar.template).path)
        return History(options["directory"]).record(
            options["sets"], options["reason"], options["rollout"], self._task.check_mode, audited
        )

    @staticmethod
    def _show(options: Mapping[str, Any]) -> list[Change]:
        limits = (options["since"], options["up_to"], options["gateways"], options["controllers"])
        return History(options["directory"]).changes(*limits)


def _line(change: Change) -> str:
    when = f"{change.time}  {change.who}  " if change.commit else ""
    named = {"rollout": change.rollout, "audit record": change.audit}
    reasons = [change.reason, *(f"{name} {value}" for name, value in named.items() if value)]
    why = "".join(f", {text}" for text in reasons if text)
    return f"{when}{change.gateway}/{change.controller}: {'; '.join(change.what)}{why}"

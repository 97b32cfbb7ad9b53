# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module audit_event, all of it: the log lies on the control node."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.events import Event
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit


class ActionModule(ActionBase):
    """Adds a record."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _validated, options = self.validate_argument_spec(
            {
                "what": {"type": "str", "required": True},
                "message": {"type": "str", "required": True},
                "result": {"type": "str", "choices": ["changed", "failed", "refused"], "default": "changed"},
                "gateway": {"type": "str", "default": variables.get("inventory_hostname")},
            }
        )
        gateway = options.pop("gateway")
        result["changed"] = True
        if not self._task.check_mode:
            try:
                record = audit.log_of(variables, self._templar.template).append(Event(**options), gateway=gateway)
            except CoreError as error:
                raise AnsibleActionFail(str(error)) from None
            result["seq"] = record["seq"]
        return result

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of the module validation_info: an inventory that other modules refuse is a finding here."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import controller_action


class ActionModule(controller_action.ActionModule):
    """Looks at the gateway even where its controllers are not described well enough to be asked."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task on one gateway."""
        refused = ""
        try:
            result = super().run(tmp, task_vars)
        except AnsibleActionFail as error:
            refused = str(error).removesuffix(". Correct the inventory; nothing was sent")
            self._task.args = {**self._task.args, "controllers": []}
            result = super().run(tmp, task_vars)
        if "findings" not in result:
            return result
        if refused:
            finding = {
                "check": "inventory",
                "severity": "error",
                "subject": "controllers",
                "found": refused,
                "expected": "controllers that can be asked",
                "remedy": "correct them in the inventory",
            }
            result["findings"] = [finding, *(one for one in result["findings"] if one["check"] != "inventory")]
        gateway = str((task_vars or {}).get("inventory_hostname", ""))
        result["findings"] = [{"gateway": gateway, **one} for one in result["findings"]]
        return result

    def _run_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        return super()._run_module({**arguments, "control_time": time.time()}, task_vars)

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of the module approval: what the gateway asks for is written where people find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import approval_files, controller_action


class ActionModule(controller_action.ActionModule):
    """Writes a request down, unless in check mode."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task on one gateway."""
        result = super().run(tmp, task_vars)
        request = result.get("request")
        if result.get("failed") or not request:
            return result
        directory = Path(self._local(self._task.args["approvals"]))
        host = str((task_vars or {}).get("inventory_hostname", ""))
        try:
            put = approval_files.place if self._task.check_mode else approval_files.write
            result["file"] = str(put(directory, host, request))
        except CoreError as error:
            return {**result, "failed": True, "changed": False, "msg": str(error)}
        return result

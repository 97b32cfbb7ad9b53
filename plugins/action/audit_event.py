# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module audit_event, all of it: the log lies on the control node."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.events import Event
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction


class ActionModule(ControlNodeAction):
    """Adds a record."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "what": {"type": "str", "required": True},
        "message": {"type": "str", "required": True},
        "result": {"type": "str", "choices": ["changed", "failed", "refused"], "default": "changed"},
        "gateway": {"type": "str", "default": ""},
    }

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """Add it."""
        gateway = options.pop("gateway")
        if "gateway" not in self._task.args:  # one that is given as empty is none
            gateway = self._variables.get("inventory_hostname")
        if self._task.check_mode:
            return {"changed": True}
        record = self._audit_log().append(Event(**options), gateway=gateway)
        return {"changed": True, "seq": record["seq"]}

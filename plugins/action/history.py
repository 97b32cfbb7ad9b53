# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module history, all of it: the repository lies on the control node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.history import Change, History


class ActionModule(ControlNodeAction):
    """Records, or shows what was recorded."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
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

    def _record(self, options: Mapping[str, Any]) -> dict[str, Any]:
        audited = audit.read(self._audit_log().path)
        changes = History(options["directory"]).record(
            options["sets"], options["reason"], options["rollout"], self._task.check_mode, audited
        )
        return {"changed": bool(changes), **_told(changes)}

    def _show(self, options: Mapping[str, Any]) -> dict[str, Any]:
        limits = (options["since"], options["up_to"], options["gateways"], options["controllers"])
        return {"changed": False, **_told(History(options["directory"]).changes(*limits))}


def _told(changes: Sequence[Change]) -> dict[str, Any]:
    return {
        "changes": [{**asdict(one), "what": list(one.what)} for one in changes],
        "msg": "\n".join(_line(one) for one in changes) or "no changes",
    }


def _line(change: Change) -> str:
    when = f"{change.time}  {change.who}  " if change.commit else ""
    named = {"rollout": change.rollout, "audit record": change.audit}
    reasons = [change.reason, *(f"{name} {value}" for name, value in named.items() if value)]
    why = "".join(f", {text}" for text in reasons if text)
    return f"{when}{change.gateway}/{change.controller}: {'; '.join(change.what)}{why}"

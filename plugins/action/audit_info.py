# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module audit_info, all of it: the log lies on the control node."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction


class ActionModule(ControlNodeAction):
    """Reads and verifies the audit log."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "log": {"type": "path"},
        "public_key": {"type": "path"},
        "kept": {"type": "list", "elements": "path", "default": []},
        "since": {"type": "str"},
        "until": {"type": "str"},
        "gateway": {"type": "str"},
        "controller": {"type": "str"},
        "rollout": {"type": "str"},
        "events": {"type": "list", "elements": "str", "default": []},
        "limit": {"type": "int"},
        "verify": {"type": "bool", "default": True},
    }

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """Read and verify it."""
        place = options.pop("log") or self._audit_log().path
        public_key, kept, is_verified = (options.pop(name) for name in ("public_key", "kept", "verify"))
        findings = audit.verify(place, public_key, kept) if is_verified else []
        records = audit.read(place, **options)
        told = [{**asdict(finding), "text": str(finding)} for finding in findings]
        return {"changed": False, "records": records, "findings": told}

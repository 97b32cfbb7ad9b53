# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module audit_info, all of it: the log lies on the control node."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit

ARGUMENTS: dict[str, dict[str, Any]] = {
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


class ActionModule(ActionBase):
    """Reads and verifies the audit log."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(ARGUMENTS)
        place = options.pop("log") or self._templar.template((task_vars or {}).get(audit.VARIABLE, audit.DEFAULT_LOG))
        public_key, kept, is_verified = (options.pop(name) for name in ("public_key", "kept", "verify"))
        try:
            findings = audit.verify(place, public_key, kept) if is_verified else []
            records = audit.read(place, **options)
        except CoreError as error:
            raise AnsibleActionFail(str(error)) from None
        told = [{**asdict(finding), "text": str(finding)} for finding in findings]
        return {**result, "changed": False, "records": records, "findings": told}

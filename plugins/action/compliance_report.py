# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module compliance_report, all of which runs on the control node."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import compliance_report

_OPTIONS: dict[str, dict[str, Any]] = {
    "directory": {"type": "str", "required": True},
    "hosts": {"type": "dict", "required": True},
    "waivers": {"type": "dict", "default": {}},
}


class ActionModule(ActionBase):
    """Makes the report; in check mode it is not written."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _unused, options = self.validate_argument_spec(_OPTIONS)
        try:
            report = compliance_report.make(options["hosts"], options["waivers"], datetime.now(UTC))
            told = {host["name"]: compliance_report.counts(host["controls"]) for host in report["hosts"]}
            lines = [
                f"{name}: " + ", ".join(f"{count} {verdict}" for verdict, count in found)
                for name, found in told.items()
            ]
            if not self._task.check_mode:
                page, data = compliance_report.write(report, Path(options["directory"]).expanduser())
                result |= {"html": str(page), "json": str(data)}
                lines.append(f"Report: {page}")
        except CoreError as error:
            raise AnsibleActionFail(str(error)) from None
        failed = {
            host["name"]: [control["id"] for control in host["controls"] if control["verdict"] == "fail"]
            for host in report["hosts"]
        }
        return result | {"changed": False, "failed_controls": failed, "msg": "\n".join(lines) + "\n"}

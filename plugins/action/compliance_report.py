# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module compliance_report, all of which runs on the control node."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import compliance_report
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction


class ActionModule(ControlNodeAction):
    """Makes the report; in check mode it is not written."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "directory": {"type": "str", "required": True},
        "hosts": {"type": "dict", "required": True},
        "waivers": {"type": "dict", "default": {}},
    }

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """Make it."""
        report = compliance_report.make(options["hosts"], options["waivers"], datetime.now(UTC))
        told = {host["name"]: compliance_report.counts(host["controls"]) for host in report["hosts"]}
        lines = [
            f"{name}: " + ", ".join(f"{count} {verdict}" for verdict, count in found) for name, found in told.items()
        ]
        files: dict[str, str] = {}
        if not self._task.check_mode:
            page, data = compliance_report.write(report, Path(options["directory"]).expanduser())
            files = {"html": str(page), "json": str(data)}
            lines.append(f"Report: {page}")
        failed = {
            host["name"]: [control["id"] for control in host["controls"] if control["verdict"] == "fail"]
            for host in report["hosts"]
        }
        return {"changed": False, "failed_controls": failed, "msg": "\n".join(lines) + "\n", **files}

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module drift, all of it: inventory and history lie on the control node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import inventory_files
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.drift import Drift, find, found_settings, put_back
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.history import History

_OPTIONS: dict[str, dict[str, Any]] = {
    "operation": {"type": "str", "choices": ["find", "accept"], "default": "find"},
    "sets": {"type": "dict", "default": {}},
    "compared": {"type": "dict", "default": {}},
    "controllers": {"type": "dict", "default": {}},
    "history": {"type": "str", "default": ""},
    "drift": {"type": "list", "elements": "dict", "default": []},
}


class ActionModule(ActionBase):
    """Finds drift, or accepts it."""

    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(_OPTIONS)
        try:
            if options["operation"] == "find":
                result.update(self._find(options))
            else:
                result.update(self._accept(options, task_vars or {}))
        except CoreError as error:
            raise AnsibleActionFail(str(error)) from None
        return result

    @staticmethod
    def _find(options: Mapping[str, Any]) -> dict[str, Any]:
        sets = options["sets"]
        names = [(gateway, str(one["controller"])) for gateway, some in sets.items() for one in some]
        recorded = History(options["history"]).last(names) if options["history"] else {}
        drift = [
            one
            for gateway, some in sets.items()
            for one in find(
                gateway,
                some,
                options["compared"].get(gateway) or (),
                {name: content for (place, name), content in recorded.items() if place == gateway},
            )
        ]
        return {
            "changed": False,
            "drift": [asdict(one) for one in drift],
            "put_back": put_back(drift, options["controllers"]),
            "msg": "\n".join(map(str, drift)) or "no drift",
        }

    def _accept(self, options: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        settings = found_settings(Drift(**one) for one in options["drift"])
        inventories = [Path(place) for place in task_vars.get("ansible_inventory_sources") or ()]
        edits = inventory_files.edits(inventories, Path(self._loader.get_basedir()), settings)
        if not self._task.check_mode:
            for edit in edits:
                edit.write()
        verb = "would change" if self._task.check_mode else "changed"
        return {
            "changed": bool(edits),
            "files": [str(edit.path) for edit in edits],
            "diff": [
                {
                    "before_header": str(edit.path),
                    "after_header": str(edit.path),
                    "before": edit.before,
                    "after": edit.after,
                }
                for edit in edits
            ],
            "msg": "\n".join(f"{verb} {edit.path}" for edit in edits) or "nothing to write",
        }

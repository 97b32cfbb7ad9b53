# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module drift, all of it: inventory and history lie on the control node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import inventory_files
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.drift import Drift, find, found_settings, put_back
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.history import History


class ActionModule(ControlNodeAction):
    """Finds drift, or accepts it."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "operation": {"type": "str", "choices": ["find", "accept"], "default": "find"},
        "sets": {"type": "dict", "default": {}},
        "compared": {"type": "dict", "default": {}},
        "controllers": {"type": "dict", "default": {}},
        "history": {"type": "str", "default": ""},
        "drift": {"type": "list", "elements": "dict", "default": []},
    }

    def _find(self, options: Mapping[str, Any]) -> dict[str, Any]:
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

    def _accept(self, options: Mapping[str, Any]) -> dict[str, Any]:
        settings = found_settings(Drift(**one) for one in options["drift"])
        inventories = [Path(place) for place in self._variables.get("ansible_inventory_sources") or ()]
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

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module release_bundle, all of it: it works on the control node."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import age, write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.firmware_source import fetch

_TIMESTAMP = "metadata/timestamp.json"


class ActionModule(ControlNodeAction):
    """Brings the directory to what the repository has."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "path": {"type": "path", "required": True},
        "repository": {"type": "str", "required": True},
        "trusted_root": {"type": "path", "required": True},
        "repository_cache": {"type": "path", "default": "~/.cache/multi_sonicator"},
    }
    REMEDY = "correct permissions or free space"

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """Bring it."""
        location, bundle = options["repository"], self._path(options["path"])
        root = self._path(options["trusted_root"])
        fetched = fetch(
            location if "://" in location else str(self._path(location)),
            root,
            self._path(options["repository_cache"]),
            None,
        )
        wanted = {name: text.encode() for name, text in fetched.files.items()} | {"root.json": root.read_bytes()}
        there = {
            str(file.relative_to(bundle)): file.read_bytes()
            for pattern in ("metadata/*", "targets/*/*", "root.json")
            for file in bundle.glob(pattern)
        }
        if there != wanted and not self._task.check_mode:
            _bring(bundle, there, wanted)
        return {
            "changed": there != wanted,
            "diff": {"before": "\n".join(sorted(there)) + "\n", "after": "\n".join(sorted(wanted)) + "\n"},
            "releases": sorted(fetched.releases),
            "expires": fetched.expires,
            "hours_left": -age(fetched.expires) // 3600,
        }


def _bring(bundle: Path, there: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    """Write what differs, the timestamp last, so that a stick pulled out too early holds the bundle of before."""
    for name in sorted(wanted, key=lambda name: name == _TIMESTAMP):
        if there.get(name) != wanted[name]:
            write_atomically(bundle / name, wanted[name])
    for name in there.keys() - wanted.keys():
        (bundle / name).unlink()

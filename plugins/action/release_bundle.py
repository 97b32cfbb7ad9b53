# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module release_bundle, all of it: it works on the control node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import age, write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.firmware_source import fetch

_OPTIONS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "repository": {"type": "str", "required": True},
    "trusted_root": {"type": "path", "required": True},
    "repository_cache": {"type": "path", "default": "~/.cache/multi_sonicator"},
}
_TIMESTAMP = "metadata/timestamp.json"


class ActionModule(ActionBase):
    """Brings the directory to what the repository has."""

    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(_OPTIONS)
        location, bundle = options["repository"], self._path(options["path"])
        root = self._path(options["trusted_root"])
        try:
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
        except CoreError as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            raise AnsibleActionFail(f"{error.filename}: {error.strerror}; correct permissions or free space") from None
        return {
            **result,
            "changed": there != wanted,
            "diff": {"before": "\n".join(sorted(there)) + "\n", "after": "\n".join(sorted(wanted)) + "\n"},
            "releases": sorted(fetched.releases),
            "expires": fetched.expires,
            "hours_left": -age(fetched.expires) // 3600,
        }

    def _path(self, path: str) -> Path:
        """A path on the control node; a relative one is the playbook's."""
        return Path(self._loader.path_dwim(path))


def _bring(bundle: Path, there: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    """Write what differs, the timestamp last, so that a stick pulled out too early holds the bundle of before."""
    for name in sorted(wanted, key=lambda name: name == _TIMESTAMP):
        if there.get(name) != wanted[name]:
            write_atomically(bundle / name, wanted[name])
    for name in there.keys() - wanted.keys():
        (bundle / name).unlink()

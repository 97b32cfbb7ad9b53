# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module release_verifier, all of it: it works on the control node."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.verifier import build

_OPTIONS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "wheels": {"type": "path", "default": "~/.cache/multi_sonicator/wheels"},
    "download": {"type": "bool", "default": True},
}


class ActionModule(ActionBase):
    """Makes the file where it is not what it should be."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(_OPTIONS)
        path = Path(self._loader.path_dwim(options["path"]))
        try:
            made = build(Path(self._loader.path_dwim(options["wheels"])), options["download"])
        except (CoreError, OSError) as error:
            raise AnsibleActionFail(str(error)) from None
        changed = not path.is_file() or path.read_bytes() != made
        if changed and not self._task.check_mode:
            write_atomically(path, made)
        return {**result, "changed": changed, "sha256": hashlib.sha256(made).hexdigest()}

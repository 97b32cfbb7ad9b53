# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module release_verifier, all of it: it works on the control node."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.verifier import build


class ActionModule(ControlNodeAction):
    """Makes the file where it is not what it should be."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "path": {"type": "path", "required": True},
        "wheels": {"type": "path", "default": "~/.cache/multi_sonicator/wheels"},
        "download": {"type": "bool", "default": True},
    }

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """Make it."""
        path = self._path(options["path"])
        try:
            made = build(self._path(options["wheels"]), options["download"])
        except OSError as error:
            raise AnsibleActionFail(str(error)) from None
        changed = not path.is_file() or path.read_bytes() != made
        if changed and not self._task.check_mode:
            write_atomically(path, made)
        return {"changed": changed, "sha256": hashlib.sha256(made).hexdigest()}

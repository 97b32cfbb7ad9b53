# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of the site's SSH authority have in common: they work on the control node, on its register."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.ssh_authority import DEFAULT_REGISTER, SshAuthority


class SshAuthorityAction(ActionBase):
    """One task on the register; a module says its ``OPTIONS`` beside the register, and what it does with them."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {}
    RULES: ClassVar[dict[str, Any]] = {}
    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = False
    authority: SshAuthority

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        register = {"register": {"type": "path", "default": DEFAULT_REGISTER}}
        _validated, options = self.validate_argument_spec({**self.OPTIONS, **register}, **self.RULES)  # type: ignore[no-untyped-call]
        paths = {name for name, option in {**self.OPTIONS, **register}.items() if option["type"] == "path"}
        options = {name: self._path(value) if name in paths and value else value for name, value in options.items()}
        log = audit.log_of(task_vars or {}, self._templar.template)
        self.authority = SshAuthority(options["register"], log)
        try:
            return {**result, **self.work(options)}
        except CoreError as error:
            raise AnsibleActionFail(str(error)) from None  # type: ignore[no-untyped-call]

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """What the module does and returns."""
        raise NotImplementedError

    def _path(self, path: str) -> Path:
        """A path on the control node; a relative one is the playbook's."""
        return Path(self._loader.path_dwim(path))

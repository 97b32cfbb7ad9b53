# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules have in common that do all their work on the control node: nothing is sent to a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit


class ControlNodeAction(ActionBase):
    """One task; a module says its ``OPTIONS``, the ``RULES`` between them (required_if …), and its ``work``.

    One that does one of several things has an option ``operation`` in place of ``work``: that named find is done by the
    method ``_find``, which takes and returns the same.
    """

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {}
    RULES: ClassVar[dict[str, Any]] = {}
    # What a person can do about a file that cannot be read or written. Where it is not said, OSErrors are not expected.
    REMEDY: ClassVar[str] = ""
    _requires_connection = False
    _variables: dict[str, Any]

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self._variables = task_vars or {}
        _validated, options = self.validate_argument_spec(self.OPTIONS, **self.RULES)  # type: ignore[no-untyped-call]
        try:
            return {**result, **self.work(options)}
        except CoreError as error:
            raise AnsibleActionFail(str(error)) from None  # type: ignore[no-untyped-call]
        except OSError as error:
            if not self.REMEDY:
                raise
            raise AnsibleActionFail(f"{error.filename}: {error.strerror}; {self.REMEDY}") from None  # type: ignore[no-untyped-call]

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """What the module does and returns."""
        result: dict[str, Any] = getattr(self, f"_{options['operation']}")(options)
        return result

    def _path(self, path: str) -> Path:
        """A path on the control node; a relative one is the playbook's."""
        return Path(self._loader.path_dwim(path))

    def _audit_log(self) -> audit.AuditLog:
        """The log that the inventory names."""
        return audit.log_of(self._variables, self._templar.template)

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of the site's SSH authority have in common: they work on the control node, on its register."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.ssh_authority import (
    DEFAULT_REGISTER,
    AuthorityError,
    SshAuthority,
)


class SshAuthorityAction(ControlNodeAction):
    """One task on the register; a module's options end with those given here."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {"register": {"type": "path", "default": DEFAULT_REGISTER}}

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """Have the module work on the register, with its paths as those on the control node."""
        for name, option in self.OPTIONS.items():
            if option["type"] == "path" and options[name] is not None:
                if not options[name]:
                    raise AuthorityError(f"{name} is empty: expected the path of a file on the control node")
                options[name] = self._path(options[name])
        return self.work_on(SshAuthority(options["register"], self._audit_log()), options)

    @abstractmethod
    def work_on(self, authority: SshAuthority, options: dict[str, Any]) -> dict[str, Any]:
        """What the module does and returns."""

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ssh_authority, all of it: it works on the control node."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.ssh_authority import SshAuthority, ensure_key
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.ssh_authority_action import SshAuthorityAction


class ActionModule(SshAuthorityAction):
    """Has the site's CA there."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "ca_key": {"type": "path", "required": True},
        "host_ca_key": {"type": "path"},
        **SshAuthorityAction.OPTIONS,
    }

    def work_on(self, authority: SshAuthority, options: dict[str, Any]) -> dict[str, Any]:
        """Make what is missing."""
        check_mode = self._task.check_mode
        public_key, changed = ensure_key(options["ca_key"], check_mode)
        answer: dict[str, Any] = {"public_key": public_key}
        if options["host_ca_key"]:
            answer["host_public_key"], made = ensure_key(options["host_ca_key"], check_mode)
            changed |= made
        changed |= authority.ensure_krl(options["ca_key"], check_mode)
        return {"changed": changed, "krl": str(authority.krl), **answer}

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ssh_certificate_info, all of it: it works on the control node."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.ssh_authority import SshAuthority
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.ssh_authority_action import SshAuthorityAction


class ActionModule(SshAuthorityAction):
    """Tells which certificates were issued."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {"identity": {"type": "str"}, **SshAuthorityAction.OPTIONS}

    def work_on(self, authority: SshAuthority, options: dict[str, Any]) -> dict[str, Any]:
        """Look."""
        told = ("serial", "kind", "identity", "principals", "issued", "valid_to", "issuer", "status", "public_key")
        found = [
            {name: one[name] for name in told}
            for one in authority.certificates()
            if options["identity"] in (None, one["identity"])
        ]
        return {"changed": False, "certificates": found}

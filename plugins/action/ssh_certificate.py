# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ssh_certificate, all of it: it works on the control node."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.ssh_authority import SshAuthority
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.ssh_authority_action import SshAuthorityAction


class ActionModule(SshAuthorityAction):
    """Issues a certificate, or revokes some."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "state": {"type": "str", "choices": ["present", "revoked"], "default": "present"},
        "ca_key": {"type": "path", "required": True},
        "kind": {"type": "str", "choices": ["user", "host"], "default": "user"},
        "identity": {"type": "str"},
        "principals": {"type": "list", "elements": "str", "default": []},
        "public_key": {"type": "str", "no_log": False},
        "public_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
        "serial": {"type": "int"},
        "minutes": {"type": "int", "default": 480},
        "until": {"type": "int", "default": -1},
        "path": {"type": "path"},
        "reason": {"type": "str", "default": ""},
        **SshAuthorityAction.OPTIONS,
    }
    RULES: ClassVar[dict[str, Any]] = {"required_if": [("state", "present", ["identity", "principals", "public_key"])]}

    def work_on(self, authority: SshAuthority, options: dict[str, Any]) -> dict[str, Any]:
        """Issue or revoke."""
        if options["state"] == "revoked":
            whose, changed = authority.revoke(options["ca_key"], options, options["reason"], self._task.check_mode)
            return {"changed": changed, "identities": whose, "krl": str(authority.krl)}
        record, changed = authority.issue(options["ca_key"], options, self._task.check_mode)
        path = options["path"]
        if path:
            text = record["certificate"].encode()
            differs = not path.exists() or path.read_bytes() != text
            changed |= differs
            if differs and not self._task.check_mode:
                try:
                    write_atomically(path, text)
                except OSError as error:
                    raise AnsibleActionFail(f"{path}: {error.strerror}; correct permissions or free space") from None
        told = ("serial", "certificate", "valid_to", "principals")
        return {"changed": changed, **{name: record[name] for name in told}}

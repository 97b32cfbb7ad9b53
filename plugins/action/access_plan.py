# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module access_plan, all of it: it works on the control node."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import people as access
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.people import Account, PeopleProblem


class ActionModule(ControlNodeAction):
    """Checks people and commands, and says what becomes of them on a gateway."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "people": {"type": "list", "elements": "dict", "required": True},
        "kept": {"type": "list", "elements": "str", "default": []},
        "commands": {"type": "list", "elements": "dict", "default": []},
        "authority": {"type": "str", "default": ""},
        "connection": {"type": "str"},
        "accounts": {"type": "dict", "default": {}},
        "locked": {"type": "list", "elements": "str", "default": []},
    }

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """Check, and say."""
        connection, locked = options["connection"], set(options["locked"])
        accounts = [
            Account(name, int(fields[1]), fields[4], fields[5], name in locked)
            for name, fields in options["accounts"].items()
        ]
        try:
            people = access.check_people(options["people"], options["kept"])
            rules = access.check_commands(options["commands"])
            # The account of this run is somebody's own, or is kept without being named.
            kept = set(options["kept"]) | ({connection} - {str(one.get("name")) for one in options["people"]})
            if connection is not None:
                access.check_accounts(accounts, people, kept, connection)
        except PeopleProblem as problem:
            host = self._variables.get("inventory_hostname")
            raise AnsibleActionFail(
                "\n".join(f"{host}: {line}" for line in str(problem).splitlines())
                + "\nCorrect it in the inventory; nothing was changed."
            ) from None
        return {
            "changed": False,
            "people": [
                {
                    "name": person.name,
                    "role": person.role,
                    "group": person.group,
                    "principal": person.principal,
                    "end": person.end,
                    "public_keys": list(person.keys),
                    "authorized_keys": access.authorized_keys(person, options["authority"]),
                }
                for person in people
            ],
            "rules": rules,
            "kept": sorted(kept & {account.name for account in accounts}),
            "strangers": [asdict(account) for account in access.strangers(accounts, people, kept)],
        }

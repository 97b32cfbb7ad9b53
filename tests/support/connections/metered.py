# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A local connection that tells apart what the control node and what the gateway behind it would use of the CPU.

With local connections all that Ansible runs on a gateway is a child of its own. Each command is written as a line of
JSON into the file that the environment variable METER names, with the seconds of CPU that it used (``gateway``), and
those that the worker has used for itself by its begin and its end (``before``, ``after``).
"""

from __future__ import annotations

import json
import os
import resource
import time

from ansible.plugins.connection.local import Connection as LocalConnection

DOCUMENTATION = """
name: metered
short_description: Local, with its use of the CPU
version_added: 0.1.0
description: Runs commands on the control node and writes down what they use of the CPU.
extends_documentation_fragment: [connection_pipelining]
options:
  become_success_timeout: {type: int, default: 10, description: As the connection local has it.}
  become_strip_preamble: {type: bool, default: true, description: As the connection local has it.}
"""


def _used(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


class Connection(LocalConnection):
    """Connection plugin."""

    transport = "metered"

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run it."""
        entry = {"pid": os.getpid(), "time": time.monotonic(), "command": cmd, "before": _used(resource.RUSAGE_SELF)}
        children = _used(resource.RUSAGE_CHILDREN)
        try:
            return super().exec_command(cmd, in_data, sudoable)
        finally:
            entry |= {
                "after": _used(resource.RUSAGE_SELF),
                "gateway": _used(resource.RUSAGE_CHILDREN) - children,
            }
            with open(os.environ["METER"], "a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the result of every task as one line of JSON into the file that the environment variable RECORD names.

SIMULATORS holds the control sockets of the simulated lines, separated by colons. What they counted since the last task
ended is written along with the result; with several hosts at work at a time only the sum of it means anything.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: recorder
type: notification
short_description: Record results for tests
version_added: 0.1.0
description: Writes the result of every task as a line of JSON.
"""


COUNTERS = ("requests", "writes", "programmer_bytes", "programmer_opened")


def ask(control: str, command: str) -> dict[str, Any]:
    """A simulated line's answer to a command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(control)
        connection.sendall(command.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionError(f"no answer to {command}")
            answer += piece
    state: dict[str, Any] = json.loads(answer)
    return state


def traffic() -> dict[str, int]:
    """What all simulated lines and programmers saw since this was called last."""
    total = dict.fromkeys(COUNTERS, 0)
    for control in filter(None, os.environ.get("SIMULATORS", "").split(":")):
        state = ask(control, "line state")
        total["requests"] += state["requests"]
        total["writes"] += state["write_requests"]
        for board in state["boards"].values():
            programmer = board.get("programmer") or {}
            total["programmer_bytes"] += programmer.get("rx_bytes", 0) + programmer.get("tx_bytes", 0)
            total["programmer_opened"] += programmer.get("opened", 0)
        ask(control, "line counters_reset")
    return total


class CallbackModule(CallbackBase):
    """Callback plugin."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "recorder"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._started: dict[str, float] = {}

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._started[host.get_name()] = time.monotonic()

    def _record(self, status: str, result: Any) -> None:
        host = result._host.get_name()
        entry = {
            "host": host,
            "task": result._task.get_name(),
            "action": result._task.action,
            "status": status,
            "seconds": time.monotonic() - self._started[host],
            "result": result._result,
            "traffic": traffic(),
        }
        with open(os.environ["RECORD"], "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, default=str) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._record("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._record("failed", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._record("skipped", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._record("unreachable", result)

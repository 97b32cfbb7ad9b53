# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units of systemd that are to run, now and from each boot on, or not at all: one list, one question for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .controls import Host
from .errors import CoreError

_PROPERTIES = "LoadState,UnitFileState,ActiveState"
_RUNS = ("active", "activating", "reloading")


class UnitRefused(CoreError):
    """A unit that cannot come to its state; no other was touched."""


@dataclass(frozen=True)
class Change:
    """What systemctl is told of a unit (``enable``, ``start``, ``restart``, ``disable``, ``stop``), in that order."""

    unit: str
    verbs: Sequence[str]


def plan(host: Host, names: Sequence[str], run: bool, restart: bool = False, check: bool = False) -> list[Change]:
    """What has to change for all units to run, or with ``run`` false for none to.

    ``restart``: also those that run already are started anew. With ``check`` units may be missing that something else
    would have brought. Where no systemd is at work, as in an image that is being made, none can be started or stopped.
    UnitRefused names the first that can not run.
    """
    told = host.must(["systemctl", "show", f"--property={_PROPERTIES}", "--", *names]).strip()
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in told.split("\n\n")] if told else []
    changes = []
    for name, state in zip(names, blocks or [_on_disk(host, name, run) for name in names], strict=True):
        there, active = state["LoadState"] != "not-found", state["ActiveState"] in _RUNS
        if run and not check and state["LoadState"] != "loaded":
            raise UnitRefused(f"{name}: {_REASONS.get(state['LoadState'], 'systemd cannot load it')}")
        wanted = {
            "enable": run and (not there or state["UnitFileState"] == "disabled"),
            "start": run and not active,
            "restart": run and active and restart,
            "disable": not run and there and state["UnitFileState"].startswith("enabled"),
            "stop": not run and active,
        }
        if verbs := [verb for verb, due in wanted.items() if due]:
            changes.append(Change(name, verbs))
    return changes


def _on_disk(host: Host, name: str, run: bool) -> dict[str, str]:
    """What systemctl would say, as far as files tell; that it runs already where it is to, and else does not."""
    enabled = host.run(["systemctl", "is-enabled", "--", name]).stdout.strip()
    return {
        "LoadState": "loaded" if enabled and enabled != "not-found" else "not-found",
        "UnitFileState": enabled,
        "ActiveState": "active" if run else "inactive",
    }


_REASONS = {
    "not-found": "systemd knows no such unit; write its file before",
    "masked": "is masked, so that nothing starts it; unmask it if that is not meant any more",
}


def apply(host: Host, changes: Sequence[Change]) -> None:
    """Do it, one unit after the other. ControlError where systemd does not."""
    for change in changes:
        for verb in change.verbs:
            host.must(["systemctl", verb, "--", change.unit])

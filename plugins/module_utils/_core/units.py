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
    would have brought. UnitRefused names the first that can not run.
    """
    told = host.must(["systemctl", "show", f"--property={_PROPERTIES}", "--", *names])
    changes = []
    for name, block in zip(names, told.strip().split("\n\n"), strict=True):
        state = dict(line.split("=", 1) for line in block.splitlines())
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


_REASONS = {
    "not-found": "systemd knows no such unit; write its file before",
    "masked": "is masked, so that nothing starts it; unmask it if that is not meant any more",
}


def apply(host: Host, changes: Sequence[Change]) -> None:
    """Do it, one unit after the other. ControlError where systemd does not."""
    for change in changes:
        for verb in change.verbs:
            host.must(["systemctl", verb, "--", change.unit])

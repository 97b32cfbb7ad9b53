# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gateways for tests of the core: real controllers of the inventory's shape on simulated lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _core import image
from _core.change import Policy, Target
from _core.gateway import Gateway, Result, parse_controllers
from _core.operations import change_firmware
from _core.store import Store
from support.profiles import mapping
from support.virtual import VirtualLine, firmware

FLASH = 32768
# A profile's soak is meant for production; what it shows in half a second is enough for a test.
QUICK = Policy(soak=0.5, boot_deadline=2.0)


def target(version: str) -> Target:
    """A released image of tests/firmware as a target."""
    return Target(version, flash_of(version), version=version)


def flash_of(version: str) -> bytes:
    """The content of a released image."""
    path = firmware(version)
    return image.parse_hex(path.read_text(), path.name, FLASH)


def entries(line: VirtualLine, **more: Any) -> list[dict[str, Any]]:
    """The boards of a simulated line as an inventory describes them."""
    return [
        {
            "name": board.name,
            "line": str(line.line),
            "unit": board.unit,
            "programmer": str(line.programmer(board.name)) if board.programmer else None,
            "profile": "multi_sonicator_io",
            **more,
        }
        for board in line.boards.values()
    ]


def gateway(state: Path, controllers: list[dict[str, Any]], profile: str = "multi_sonicator_io") -> Gateway:
    """The gateway of these controllers, keeping its state in ``state``."""
    state.mkdir(parents=True, exist_ok=True)
    return Gateway(parse_controllers(controllers, {profile: mapping(profile)}), Store(state / "state"), str(state))


def deploy(site: Gateway, version: str, policy: Policy = QUICK, check: bool = False) -> dict[str, Result]:
    """Bring all controllers of the gateway to a release; results by controller."""
    wanted = target(version)
    targets = {controller.name: wanted for controller in site.controllers}
    return {result["name"]: result for result in change_firmware(site, targets, policy, 1, check)}

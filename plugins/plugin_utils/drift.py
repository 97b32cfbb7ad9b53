# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drift: what of controllers is not as the inventory says, or where that is silent, as it was recorded last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

INVENTORY, HISTORY = "inventory", "history"
# Of a set; what firmware a controller should run is deploy.yml's to find.
_FIRMWARE = ("version", "flash", "eeprom")


@dataclass(frozen=True)
class Drift:
    """A value that is not as it should be. ``source`` says what has the expected one.

    A ``setting`` can be put back or accepted; version, flash and EEPROM can only be told.
    """

    gateway: str
    controller: str
    point: str
    found: Any
    expected: Any
    source: str
    setting: bool = True

    def __str__(self) -> str:
        says = "the inventory says" if self.source == INVENTORY else "last recorded was"
        found, expected = (str(value)[:24] for value in (self.found, self.expected))
        return f"{self.gateway}/{self.controller}: {self.point} is {found}, {says} {expected}"


def find(
    gateway: str,
    sets: Iterable[Mapping[str, Any]],
    compared: Iterable[Mapping[str, Any]],
    recorded: Mapping[str, Mapping[str, Any]],
) -> Iterator[Drift]:
    """The drift of a gateway's controllers.

    ``sets`` are those of snapshots taken just now, ``compared`` what registers in check mode says of the inventory's
    settings, ``recorded`` by controller what the history says. A controller that could not be compared has none: what
    the inventory says of it is not known, and the history is not to be taken for it.
    """
    wanted = {str(one["name"]): one for one in compared if "written" in one}
    for one in sets:
        controller = str(one["controller"])
        if controller not in wanted:
            continue
        inventory = wanted[controller]
        for point in inventory["written"]:
            before, after = inventory["before"], inventory["after"]
            if point in before:  # else nobody can read it
                yield Drift(gateway, controller, point, before[point], after[point], INVENTORY)
        last = recorded.get(controller, {})
        known = set(inventory["after"])
        for point, expected in (last.get("settings") or {}).items():
            found = one["settings"].get(point)
            if point not in known and point in one["settings"] and found != expected:
                yield Drift(gateway, controller, point, found, expected, HISTORY)
        now = {"version": one["version"], **(one["images"] or {})}
        for what in _FIRMWARE:
            if what in now and last.get(what) not in (None, now[what]):
                yield Drift(gateway, controller, what, now[what], last[what], HISTORY, setting=False)


def found_settings(drift: Iterable[Drift]) -> dict[str, dict[str, dict[str, Any]]]:
    """By gateway and controller what settings are now that have drifted."""
    return _by_controller(drift, "found")


def put_back(
    drift: Iterable[Drift], controllers: Mapping[str, Iterable[Mapping[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """The ``controllers`` by gateway with settings as they should be; only gateways where something has drifted."""
    expected = _by_controller(drift, "expected")
    return {
        gateway: [
            {**one, "settings": {**(one.get("settings") or {}), **expected[gateway].get(str(one["name"]), {})}}
            for one in controllers[gateway]
        ]
        for gateway in expected
    }


def _by_controller(drift: Iterable[Drift], value: str) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for one in drift:
        if one.setting:
            found.setdefault(one.gateway, {}).setdefault(one.controller, {})[one.point] = getattr(one, value)
    return found

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is in a recovery drill, by the results of those before."""

from __future__ import annotations

from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.recovery_drill import due, due_gateway

CONTROLLERS = {"hall": [{"name": "mixer"}, {"name": "press"}], "yard": [{"name": "mill"}]}


def result(kind: str, **problems: list[str]) -> dict[str, Any]:
    """A drill of what is named, `GATEWAY__CONTROLLER` or a gateway, with these problems."""
    return {kind: {name.replace("__", "/"): {"problems": said} for name, said in problems.items()}}


def names(known: list[dict[str, Any]], sample: int) -> list[str]:
    return [one["name"] for entries in due(known, CONTROLLERS, sample).values() for one in entries]


def test_those_that_never_had_a_drill_come_first() -> None:
    known = [result("controllers", hall__mixer=[])]
    assert names(known, 2) == ["press", "mill"]
    assert sorted(names(known, 0)) == ["mill", "mixer", "press"]


def test_what_does_not_come_back_keeps_nobody_out() -> None:
    known: list[dict[str, Any]] = []
    seen = []
    for _drill in range(6):
        [name] = names(known, 1)
        seen.append(name)
        gateway = "yard" if name == "mill" else "hall"
        known.append(result("controllers", **{f"{gateway}__{name}": ["is damaged"] if name == "mixer" else []}))
    assert seen == ["mixer", "press", "mill"] * 2
    assert due_gateway([result("gateways", hall=["is gone"])], ["hall", "yard"]) == "yard"


def test_of_one_drill_the_unproven_is_the_first() -> None:
    assert names([result("controllers", hall__mixer=[], hall__press=["is damaged"], yard__mill=[])], 1) == ["press"]

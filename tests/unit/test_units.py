# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units of a host: told once what they need, and nothing where all is as it should be. On hosts: tests/hosts."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest
from _core.controls import Host
from _core.units import UnitRefused, apply, plan

KEEPER, TIMER, BROKEN, MASKED, NONE = (
    "keeper.service",
    "backup.timer",
    "broken.service",
    "masked.service",
    "none.service",
)


class Systemd(Host):
    """Answers as systemctl does, and does what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.units = {
            KEEPER: ["loaded", "enabled", "active"],
            TIMER: ["loaded", "disabled", "inactive"],
            BROKEN: ["bad-setting", "disabled", "inactive"],
            MASKED: ["masked", "masked", "inactive"],
        }

    def run(self, argv: Sequence[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        names = argv[argv.index("--") + 1 :]
        states = [self.units.get(name, ["not-found", "", "inactive"]) for name in names]
        if argv[1] == "show":
            keys = argv[2].partition("=")[2].split(",")
            blocks = ["\n".join(f"{key}={value}" for key, value in zip(keys, one, strict=True)) for one in states]
            return subprocess.CompletedProcess(argv, 0, "\n\n".join(blocks) + "\n", "")
        where, value = {
            "enable": (1, "enabled"),
            "disable": (1, "disabled"),
            "start": (2, "active"),
            "restart": (2, "active"),
            "stop": (2, "inactive"),
        }[argv[1]]
        states[0][where] = value
        return subprocess.CompletedProcess(argv, 0, "", "")


def told(host: Host, *names: str, run: bool = True, restart: bool = False) -> list[tuple[str, list[str]]]:
    """What is done, each unit with the words that systemctl gets; and that nothing is left to do then."""
    changes = plan(host, names, run, restart)
    apply(host, changes)
    assert plan(host, names, run) == []
    return [(change.unit, list(change.verbs)) for change in changes]


def test_what_does_not_run_is_started_and_enabled() -> None:
    assert told(Systemd(), KEEPER, TIMER) == [(TIMER, ["enable", "start"])]


def test_what_runs_is_started_anew_where_that_is_asked_for() -> None:
    assert told(Systemd(), KEEPER, TIMER, restart=True) == [(KEEPER, ["restart"]), (TIMER, ["enable", "start"])]


def test_what_is_to_go_is_stopped_and_what_there_is_not_is_no_trouble() -> None:
    assert told(Systemd(), NONE, TIMER, KEEPER, run=False) == [(KEEPER, ["disable", "stop"])]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (NONE, "none.service: systemd knows no such unit; write its file before"),
        (MASKED, "masked.service: is masked"),
        (BROKEN, "broken.service: systemd cannot load it"),
    ],
)
def test_one_that_cannot_run_keeps_the_others_as_they_are(name: str, reason: str) -> None:
    host = Systemd()
    with pytest.raises(UnitRefused) as refused:
        plan(host, [TIMER, name], run=True)
    assert reason in str(refused.value)
    assert host.units[TIMER] == ["loaded", "disabled", "inactive"]


def test_check_mode_takes_what_others_would_have_brought_by_then() -> None:
    assert [change.unit for change in plan(Systemd(), [NONE, KEEPER], run=True, check=True)] == [NONE]

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/threats.md leaves no threat open: each has tests that are there, or the reason why it cannot apply."""

from __future__ import annotations

import pathlib
import re

ATTACKS = 12
THREATS = 18


def rows(top: pathlib.Path) -> list[list[str]]:
    lines = (top / "docs/threats.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] not in ("attack", "threat")]


def test_each_threat_has_a_test_that_is_there(top: pathlib.Path) -> None:
    there = {
        name
        for file in (top / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    found = rows(top)
    assert len([row for row in found if row[0].startswith("THREAT.")]) == THREATS
    assert len(found) == ATTACKS + THREATS
    for threat, reason, tests in found:
        named = re.findall(r"`(test_\w+)`", tests)
        assert named or reason.startswith(("cannot apply: ", "not claimed: ")), threat
        assert set(named) <= there, threat

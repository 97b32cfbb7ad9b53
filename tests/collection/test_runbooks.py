# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever follows a runbook at night types nothing that has not been run as it stands there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import runbooks

TESTS = Path(__file__).resolve().parents[1]
TOP = TESTS.parent
PLAYBOOKS = {path.name for path in (TOP / "playbooks").glob("*.yml")}
PROGRAMS = ("ansible", "ssh", "sudo", "systemctl", "journalctl", "msctl", "restic", "-e ")


def run_by_tests() -> Iterator[tuple[str, int]]:
    """The runbook and step of each call that runs one."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("follow", "command"):
                match node.args:
                    case [ast.Constant(str() as runbook), ast.Constant(int() as step), *_]:
                        yield runbook, step


def test_each_command_is_run_by_a_test() -> None:
    commands = {(name, step): text for name in runbooks.names() for step, text in enumerate(runbooks.text(name)[1])}
    assert len(runbooks.names()) >= 6
    run = set(run_by_tests())
    assert {step: commands[step] for step in commands.keys() - run} == {}, "in no test"


@pytest.mark.parametrize("name", runbooks.names())
def test_commands_stand_in_blocks_alone(name: str) -> None:
    """Where the tests find them, and people can copy them."""
    said, _commands = runbooks.text(name)
    spans = re.findall(r"`([^`]+)`", said)
    assert [one for one in spans if one.startswith(PROGRAMS) or one.split()[0] in PLAYBOOKS] == []


@pytest.mark.parametrize("name", runbooks.names())
def test_complaints_are_those_of_the_programs(name: str) -> None:
    """What a runbook quotes, up to what is another each time: the ellipsis, and names of its site."""
    sources = [*TOP.glob("plugins/**/*.py"), *TOP.glob("roles/*/tasks/*.yml")]
    known = "\n".join(path.read_text() for path in sources)
    said, _commands = runbooks.text(name)
    items = re.findall(r"^- (.*?`): ", said, re.MULTILINE)
    quoted = [one for item in items for one in re.findall("`(.+?)`", item)]
    assert quoted
    pieces = {piece.strip() for one in quoted for piece in re.split("…|vault|spare_a|hall_a", one)} - {""}
    assert {one for one in pieces if one not in known} == set()

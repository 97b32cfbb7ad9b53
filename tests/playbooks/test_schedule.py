# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that systemd or Ansible could not take are refused by the name of their entry, before anything is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.ansible import COLLECTION, Control

GOOD = {"name": "drill", "playbook": f"{COLLECTION}.recovery_drill", "calendar": "monthly"}
BAD: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "name of other letters": ([{**GOOD, "name": "my drill"}], ("entry my drill: expected a name", "underscores")),
    "name too long": ([{**GOOD, "name": "x" * 33}], ("1 to 32",)),
    "name with a newline": ([{**GOOD, "name": "drill\n"}], ("expected a name",)),
    "twice": ([GOOD, {**GOOD, "calendar": "daily"}], ("entry drill: there are several of this name",)),
    "calendar": (
        [GOOD, {**GOOD, "name": "other", "calendar": "at night"}],
        ("entry other: calendar 'at night'", "OnCalendar", "'Sat 03:00'"),
    ),
    "calendar with more lines": ([{**GOOD, "calendar": "daily\nUnit=x"}], ("entry drill: calendar 'daily\nUnit=x'",)),
    "delay": ([{**GOOD, "random_delay": "soon"}], ("entry drill: random_delay 'soon'", "time span")),
    "timeout": ([{**GOOD, "timeout": "3 moons"}], ("entry drill: timeout '3 moons'", "'6h'")),
    "playbook an option": ([{**GOOD, "playbook": "--version"}], ("entry drill: playbook '--version'",)),
    "no calendar": ([{"name": "drill", "playbook": "x.yml"}], ("missing required arguments: calendar",)),
    "none": ([], ("expected at least one", "schedule_state=absent")),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the role says of each, all of them in one play."""
    tasks = []
    for name, (runs, _says) in BAD.items():
        call = {
            "name": "Call the role",
            "ansible.builtin.include_role": {"name": f"{COLLECTION}.schedule"},
            "vars": {"schedule_runs": runs},
        }
        told = {"name": name, "ansible.builtin.debug": {"msg": "{{ ansible_failed_result.msg }}"}}
        tasks.append({"name": "Try", "block": [call], "rescue": [told]})
    play = {"name": "Refusals", "hosts": "localhost", "gather_facts": False, "connection": "local", "tasks": tasks}
    control = Control(tmp_path_factory.mktemp("schedule"))
    path = control.directory / "refusals.yml"
    path.write_text(yaml.safe_dump([play], sort_keys=False))
    before = units()
    python = f"ansible_python_interpreter={sys.executable}"
    run = control.run("ansible-playbook", "-i", "localhost,", "-e", python, str(path)).require()
    assert units() == before
    return {event["task"]: event["result"]["msg"] for event in run.events if event["task"] in BAD}


def units() -> list[str]:
    return sorted(path.name for path in Path("/etc/systemd/system").glob("multi-sonicator-run-*"))


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_run_is_refused(said: dict[str, str], name: str) -> None:
    _runs, says = BAD[name]
    told = said.get(name, "it was admitted")
    assert [words for words in says if words not in told] == [], told
    assert "nothing was changed" in told or "missing" in told

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""tools/check_argument_specs.py finds what it is there to find."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

SPECS = """
argument_specs:
  main:
    short_description: Main
    options:
      thing_port: {type: int, default: 8080}
      thing_hosts: {type: list, elements: str, default: [a, b]}
      thing_name: {type: str, required: true}
  other:
    short_description: Other
    options:
      thing_password: {type: str, default: "{{ thing_name }}"}
"""
DEFAULTS = """
thing_port: 8080
thing_hosts: [a, b]
thing_password: "{{ thing_name }}"
"""


@pytest.fixture
def role(tmp_path: pathlib.Path) -> pathlib.Path:
    role = tmp_path / "roles/thing"
    for path, text in {
        "meta/argument_specs.yml": SPECS,
        "defaults/main.yml": DEFAULTS,
        "tasks/main.yml": "[]",
        "tasks/other.yml": "[]",
    }.items():
        (role / path).parent.mkdir(parents=True, exist_ok=True)
        (role / path).write_text(text)
    return role


def check(role: pathlib.Path, top: pathlib.Path) -> tuple[int, str]:
    command = [sys.executable, top / "tools/check_argument_specs.py", role.parent]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_what_agrees_passes(role: pathlib.Path, top: pathlib.Path) -> None:
    assert check(role, top) == (0, "1 roles, 0 differences between argument specs and defaults\n")


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("defaults/main.yml", "8080", "8081", "thing_port of entry point main has the default 8080"),
        ("defaults/main.yml", "8080", "'8080'", "defaults/main.yml has '8080'"),
        ("defaults/main.yml", "[a, b]", "[a]", "thing_hosts"),
        ("defaults/main.yml", "thing_port: 8080", "", "which defaults/main.yml lacks"),
        (
            "defaults/main.yml",
            "thing_port:",
            "thing_new: !unsafe x\nthing_port:",
            "thing_new of defaults/main.yml is no",
        ),
        (
            "defaults/main.yml",
            "thing_port:",
            "thing_name: x\nthing_port:",
            "thing_name of entry point main has no default",
        ),
        ("meta/argument_specs.yml", "  main:", "  first:", "lack the entry point main"),
        ("meta/argument_specs.yml", "  other:", "  third:", "entry point third has no tasks/third.yml"),
    ],
)
def test_what_differs_fails(path: str, old: str, new: str, message: str, role: pathlib.Path, top: pathlib.Path) -> None:
    text = (role / path).read_text()
    assert old in text
    (role / path).write_text(text.replace(old, new))
    code, said = check(role, top)
    assert code == 1
    assert message in said


def test_a_role_without_specs_fails(role: pathlib.Path, top: pathlib.Path) -> None:
    (role / "meta/argument_specs.yml").unlink()
    assert check(role, top)[0] == 1

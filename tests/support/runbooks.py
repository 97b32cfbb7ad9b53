# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of the runbooks, for tests to run them as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

RUNBOOKS = Path(__file__).resolve().parents[2] / "docs/runbooks"
_BLOCK = re.compile(r"^ *```console\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_NOTHING = "(?!)"


def names() -> list[str]:
    return sorted(path.stem for path in RUNBOOKS.glob("*.md"))


def text(name: str) -> tuple[str, list[str]]:
    """What a runbook says beside its commands, and the commands, a line each, in their order."""
    said = (RUNBOOKS / f"{name}.md").read_text()
    return _BLOCK.sub("", said), [line.strip() for block in _BLOCK.findall(said) for line in block.splitlines()]


def command(name: str, step: int, instead: Mapping[str, str] | None = None) -> list[str]:
    """A command of a runbook, counted from 0, as words, with names of the site ``instead`` of those in the text.

    AssertionError where a name that is to be replaced stands in none of the runbook's commands.
    """
    _said, commands = text(name)
    names = instead or {}
    for old in names:
        assert re.search(_word(old), "\n".join(commands)), f"{name}.md has no {old} in its commands"
    pattern = re.compile("|".join(map(_word, names)) or _NOTHING)
    return [pattern.sub(lambda hit: names[hit[0]], word) for word in shlex.split(commands[step])]


def _word(name: str) -> str:
    return rf"(?<!\w){re.escape(name)}(?!\w)"

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of the runbooks, for tests to run them as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

RUNBOOKS = Path(__file__).resolve().parents[2] / "docs/runbooks"


def commands(name: str, instead: Mapping[str, str]) -> list[list[str]]:
    """All commands of a runbook in their order, as words, with names of the site ``instead`` of those in the text.

    AssertionError where a name that is to be replaced stands nowhere in them.
    """
    text = (RUNBOOKS / f"{name}.md").read_text()
    blocks = re.findall(r"^ *```console\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    found = [shlex.split(line) for block in blocks for line in block.splitlines()]
    told = " ".join(word for command in found for word in command)
    for old in instead:
        assert re.search(_word(old), told), f"{name}.md has no {old} in its commands"
    pattern = re.compile("|".join(map(_word, instead)))
    return [[pattern.sub(lambda hit: instead[hit[0]], word) for word in command] for command in found]


def _word(name: str) -> str:
    return rf"(?<!\w){re.escape(name)}(?!\w)"

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's profiles for tests of the core, read without the control node's library."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import yaml
from _core.profile import Profile

DIRECTORY = Path(__file__).parents[2] / "plugins/plugin_utils/profiles"


def mapping(name: str = "multi_sonicator_io") -> dict[str, Any]:
    """The content of a profile's file, free to be changed."""
    data: dict[str, Any] = json.loads(_json(name))
    return data


@functools.cache  # PyYAML takes some 50 ms, and thousands of transactions ask
def _json(name: str) -> str:
    return json.dumps(yaml.safe_load((DIRECTORY / f"{name}.yml").read_text()))


def profile(name: str = "multi_sonicator_io") -> Profile:
    """One of the collection's profiles."""
    return Profile.from_mapping(mapping(name))

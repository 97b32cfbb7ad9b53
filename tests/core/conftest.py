# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the core have in common: one simulated board that is prepared, and looking at what was touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cuts import Lane


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    """A line with one board that has release 1.0.0 and settings other than the defaults."""
    one = Lane(tmp_path / "lane")
    try:
        one.prepare("1.0.0")
        yield one
    finally:
        one.close()

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of this directory share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ansible import VirtualSite
from support.virtual import Board


@pytest.fixture
def site(tmp_path: Path) -> Iterator[VirtualSite]:
    """One gateway with the controller press alone on its line."""
    with VirtualSite(tmp_path, {"gateway": [[Board("press")]]}) as running:
        yield running


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[VirtualSite]:
    """One gateway with the controllers mixer (unit 2) and press (unit 3) on one line."""
    with VirtualSite(tmp_path, {"gateway": [[Board("mixer", 2), Board("press", 3)]]}) as running:
        yield running

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bare Debian hosts for the tests of this directory, which are skipped where there can be none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fleet as hosts
import pytest
from support.hosts import CONTROLLERS

# Fetches a small file of the mirror as apt does.
FETCH = (
    "read _ mirror suite _ </etc/apt/sources.list;"
    " /usr/lib/apt/apt-helper download-file $mirror/dists/$suite/InRelease /tmp/InRelease"
)


@pytest.fixture(scope="session")
def machine() -> None:
    """A machine that can have hosts."""
    if reason := hosts.available():
        pytest.skip(reason)


@pytest.fixture
def place(machine: None) -> Iterator[Path]:
    """A directory for a fleet that ends with the test; its path is short, as those of sockets have to be."""
    directory = Path(tempfile.mkdtemp(prefix="fleet-"))
    yield directory / "site"
    hosts.Fleet(directory / "site").down()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def fleet(machine: None) -> Iterator[hosts.Fleet]:
    """Four hosts, two of each release; gateway1 has two controllers on one line."""
    directory = Path(tempfile.mkdtemp(prefix="fleet-"))
    site = hosts.Fleet(directory / "site")
    try:
        site.up(
            [
                hosts.Host("gateway1", "bookworm", CONTROLLERS),
                hosts.Host("gateway2", "trixie"),
                hosts.Host("gateway3", "bookworm"),
                hosts.Host("gateway4", "trixie"),
            ]
        )
        yield site
    finally:
        site.down()
        shutil.rmtree(directory)

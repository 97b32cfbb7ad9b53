# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
# Where those of the checkout lie (tools/setup.sh).
COLLECTIONS = TOP / ".venv/collections/ansible_collections"


@pytest.fixture(scope="session")
def top() -> pathlib.Path:
    return TOP


def run(*command: str, cwd: pathlib.Path, **variables: str) -> str:
    """The output of a program of the environment, on which no setting of checkout or user has an effect."""
    (cwd / "ansible.cfg").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(cwd / ".ansible"), **variables}
    program = pathlib.Path(sys.executable).parent / command[0]
    done = subprocess.run(
        [program, *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The collection's artifact, built from the checkout as it lies there."""
    directory = tmp_path_factory.mktemp("artifact")
    run("ansible-galaxy", "collection", "build", str(TOP), "--output-path", str(directory), cwd=directory)
    (built,) = directory.glob("multi_sonicator-ops-*.tar.gz")
    return built


@pytest.fixture(scope="session")
def installed(artifact: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A collections path where nothing is but the installed artifact and what it depends on."""
    path = tmp_path_factory.mktemp("collections")
    (path / "ansible_collections").mkdir()
    (path / "ansible_collections/community").symlink_to(COLLECTIONS / "community")
    run(
        "ansible-galaxy", "collection", "install", str(artifact), "--offline", "--collections-path", str(path), cwd=path
    )
    return path


@pytest.fixture(scope="session")
def ansible_doc(installed: pathlib.Path) -> Callable[..., str]:
    """``ansible-doc`` of the installed artifact."""

    def call(*arguments: str) -> str:
        return run("ansible-doc", *arguments, cwd=installed, ANSIBLE_COLLECTIONS_PATH=str(installed))

    return call

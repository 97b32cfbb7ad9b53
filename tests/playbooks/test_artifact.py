# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The built collection, installed where nothing else is, with nothing but what runs at a site."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.ansible import COLLECTION, Control, VirtualSite
from support.site import flash_of
from support.virtual import REPOSITORY, Board

NEEDED = {"meta", "plugins", "roles", "playbooks"}
LARGEST = 20_000_000


def test_deploy_from_the_artifact(tmp_path: Path) -> None:
    workshop = Control(tmp_path / "workshop")
    # From the checkout itself, but not into it.
    build = ("collection", "build", str(REPOSITORY), "--output-path", str(tmp_path))
    workshop.run("ansible-galaxy", *build).require()
    [artifact] = tmp_path.glob("multi_sonicator-ops-*.tar.gz")
    assert artifact.stat().st_size < LARGEST

    collections = tmp_path / "installed"
    install = ("collection", "install", "--offline", "--no-deps", "-p", str(collections), str(artifact))
    workshop.environment["ANSIBLE_COLLECTIONS_PATH"] = str(collections)
    workshop.run("ansible-galaxy", *install).require()
    place = collections.joinpath("ansible_collections", *COLLECTION.split("."))
    found = {path.name for path in place.iterdir()}
    assert found >= NEEDED and not found & {"tests", "molecule", "tools", ".git"}
    for path in place.iterdir():
        if path.name not in NEEDED:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    directory = tmp_path / "site"
    directory.mkdir()
    with VirtualSite(directory, {"gateway": [[Board("press")]]}, collections) as site:
        site.controllers["gateway"][0]["settings"] = {"sonicator1_amplitude": 61}
        site.play("configure")
        assert site.play("deploy", firmware_version="1.1.0").changed
        assert site.flash("press").rstrip(b"\xff") == flash_of("1.1.0")
        assert site.register("press", 0x0101) == 61

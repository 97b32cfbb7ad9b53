# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the control node alone has is kept in two places, its authority apart from all else, and comes back."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.ansible import VirtualSite
from support.runbooks import command
from support.virtual import Board

INVENTORY, KEY = "gateways: {hosts: {hall_a: {}}}\n", "canary of the authority's key\n"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
PASSWORDS = {"control_node": "canary.of-the-site", "authority": "canary.of-the-safe"}


@pytest.fixture
def kept(tmp_path: Path) -> dict[str, Any]:
    """The variables of a control node that has an inventory and an authority."""
    home = tmp_path / "home"
    for name, text, mode in (("site/hosts.yml", INVENTORY, 0o644), ("ca/ca.key", KEY, 0o600)):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(text)
        (home / name).chmod(mode)

    def entry(name: str, directory: str) -> dict[str, Any]:
        targets = [
            {"name": place, "repository": str(tmp_path / place / name), "password": PASSWORDS[name]}
            for place in ("vault", "stick")
        ]
        return {"name": name, "files": [str(home / directory)], "targets": targets}

    return {"backup_control_sets": [entry("control_node", "site"), entry("authority", "ca")]}


def test_the_control_node_comes_back(tmp_path: Path, kept: dict[str, Any]) -> None:
    with VirtualSite(tmp_path / "x", {"gateway": [[Board("press")]]}) as site:
        site.play("backup_control_node", check=True, **kept)
        assert not (tmp_path / "vault").exists()
        metrics = tmp_path / "metrics"
        output = site.play("backup_control_node", backup_control_metrics_directory=str(metrics), **kept).output
        for name in PASSWORDS:
            told = (metrics / f"multi_sonicator_backup_{name}.prom").read_text()
            assert f'multi_sonicator_backup_target_failed{{set="{name}",target="vault"}} 0.0' in told
        stored = b"".join(path.read_bytes() for path in tmp_path.glob("vault/**/*") if path.is_file())
        assert b"canary" not in stored and "canary" not in output and len(stored) > 1000

        lost = tmp_path / "home"
        lost.rename(tmp_path / "lost")
        into = tmp_path / "back"
        variables = tmp_path / "from_the_safe.yml"
        variables.write_text(yaml.safe_dump(kept))
        names = {"from_the_safe.yml": str(variables), "/srv/back": str(into), "hosts.yml": str(site.inventory)}
        site.write_inventory()
        assert "hosts.yml" in site.control.run(*command("restore_control_node", 0, names)).output
        assert not into.exists(), "check mode writes nothing"
        run = site.control.run(*command("restore_control_node", 1, names))
        assert run.code == 0, run.output
        assert "canary" not in run.output and "control_node: set " in run.output
        top = into / str(lost).lstrip("/")
        assert (top / "site/hosts.yml").read_text() == INVENTORY
        assert (top / "ca/ca.key").read_text() == KEY
        assert (top / "ca/ca.key").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in into.iterdir()] == [top.relative_to(into).parts[0]]
        site.play("snapshot")
        run = site.control.run(*command("restore_control_node", 2, names))
        assert run.code == 0 and "The audit log is whole up to record" in run.output, run.output
        assert "press" in site.control.run(*command("restore_control_node", 3, names)).require().output
        run = site.control.run(*command("restore_control_node", 4, {**names, "safe": "stick"}))
        assert run.code == 0 and "control_node: set " in run.output, run.output

        (top / "site/hosts.yml").write_text("since\n")
        told = {"scope": "control_node", "recovery_into": str(into)}
        refused = " ".join(site.play("restore", code=2, **told, **kept).output.split())
        assert "site/hosts.yml: not as in set" in refused and "nothing was written" in refused
        assert (top / "site/hosts.yml").read_text() == "since\n"
        site.play("restore", **told, recovery_replace=True, **kept)
        assert (top / "site/hosts.yml").read_text() == INVENTORY

        (tmp_path / "lost").rename(lost)
        entry = kept["backup_control_sets"][0]
        away = [
            {**entry["targets"][0], "repository": "rest:http://127.0.0.1:1/", "environment": {"KEY": "canary.of-s3"}}
        ]
        site.control.environment["ANSIBLE_VERBOSITY"] = "1"
        for playbook, more in (("backup_control_node", {}), ("restore", told)):
            run = site.play(playbook, code=2, **more, backup_control_sets=[{**entry, "targets": away}])
            assert "the target cannot be reached" in " ".join(run.output.split()) and "canary" not in run.output
        wrong = [{**entry, "files": [*entry["files"], str(tmp_path / "nowhere")]}]
        refused = site.play("backup_control_node", code=2, backup_control_sets=wrong).output
        assert "nowhere: not there; correct files, nothing was stored" in " ".join(refused.split())


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can be somebody else")
def test_nobody_else_reads_what_is_kept(kept: dict[str, Any], open_place: Path) -> None:
    """Where the directory itself lets everybody in: backups, what belongs to them, and what comes back."""
    with VirtualSite(open_place / "x", {"gateway": [[Board("press")]]}) as site:
        for entry in kept["backup_control_sets"]:
            for target in entry["targets"]:
                target["repository"] = str(open_place / target["name"] / entry["name"])
        state, into = open_place / "state", open_place / "back"
        site.play("backup_control_node", backup_control_directory=str(state), **kept)
        site.play("restore", scope="control_node", recovery_into=str(into), **kept)
        for place in (open_place / "vault", open_place / "stick", state, into):
            files = [path for path in place.rglob("*") if path.is_file()]
            assert files, place
            found = subprocess.run(
                [*NOBODY, "find", str(place), "-type", "f", "-readable"], capture_output=True, text=True, check=False
            )
            assert found.stdout == "", f"{place} is to be read by everybody"


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that everybody can enter, other than pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        place.joinpath("x").mkdir()
        assert subprocess.run([*NOBODY, "ls", name], check=False, capture_output=True).returncode == 0
        yield place

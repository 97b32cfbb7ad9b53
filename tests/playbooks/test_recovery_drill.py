# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""recovery_drill.yml brings controllers back from real backups onto other boards, and finds what would not come."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _core import backup
from _core.restic import Restic, Target
from support.ansible import VirtualSite
from support.backups import PASSWORD, QUESTIONS, RECOVERY, Backups
from support.runbooks import command
from support.virtual import Board

GATEWAYS = {"gateway_a": [[Board("press_1"), Board("press_2", 3)]], "gateway_b": [[Board("mixer_1")]]}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[VirtualSite]:
    with VirtualSite(tmp_path, GATEWAYS) as running:
        running.variables |= {
            "recovery_drill_sample": 1,
            "recovery_drill_soak": 0.3,
            "recovery_drill_metrics_directory": str(tmp_path / "metrics"),
        }
        yield running


def results(site: VirtualSite) -> list[dict[str, Any]]:
    place = site.control.directory / ".local/state/multi_sonicator/drills"
    return [json.loads(path.read_text()) for path in sorted(place.glob("*.json"))]


def test_what_is_backed_up_comes_back_and_what_would_not_is_found(
    site: VirtualSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "QUESTIONS", QUESTIONS)
    kept = Backups(site)
    site.play("snapshot", controllers_read_chip=True)
    sets = {gateway: kept.take(gateway) for gateway in site.controllers}

    site.write_inventory()
    names = {"hosts.yml": str(site.inventory)}
    status = site.play("status").messages[-1]
    assert "gateway_b: no backup" not in status and "last drill: never" in status
    planned = site.control.run(*command("drill", 0, names)).require()
    assert results(site) == [] and "press_1" in planned.output and "press_2" not in planned.output
    run = site.control.run(*command("drill", 1, names)).require()
    assert [set(one["controllers"]) for one in results(site)] == [{"gateway_a/press_1"}]
    run = site.control.run(*command("drill", 2, names)).require()
    assert {name: run.traffic[name] for name in ("requests", "programmer_opened")} == {
        "requests": 0,
        "programmer_opened": 0,
    }, "no controller of the site has any part in it"
    _sample, result = results(site)
    assert (result["outcome"], result["problems"]) == ("passed", [])
    assert set(result["controllers"]) == {"gateway_a/press_1", "gateway_a/press_2", "gateway_b/mixer_1"}
    for identity, proof in result["controllers"].items():
        assert proof["set"] == sets[identity.partition("/")[0]] and proof["targets"] == ["vault", "hall"]
        assert 0 <= proof["age"] < 300
    assert "3 controllers, recovery time " in run.output and PASSWORD not in run.output
    assert not Path("/tmp", f"drill.{result['id']}").exists()

    status = site.play("status").messages[-1].splitlines()
    assert status[0] == f"gateway_a: set {sets['gateway_a']}"
    assert status[1].startswith("  vault: 0 h ago, 1 kept since 20")
    assert status[3] == "  3-2-1-1-0: lacks a second place, a copy that nobody can take away (append_only)"
    targets = site.variables["backup_targets"]
    site.variables["backup_targets"] = [{**one, "place": one["name"]} for one in targets]
    assert "lacks a copy that" in site.play("status").messages[-1]
    site.variables["backup_targets"] = targets
    assert status[-1] == f"last drill: {result['ended']} passed, 3 controllers in {int(result['seconds'])} s"

    medium = site.directory / "stick"
    site.play("backup_copy", check=True, backup_medium=str(medium))
    assert not medium.exists()
    assert PASSWORD not in site.play("backup_copy", backup_medium=str(medium)).output
    for gateway, kept_set in sets.items():
        copied = Restic(Target("stick", str(medium / gateway), RECOVERY), site.directory / "cache").sets()
        assert [one.set_id for one in copied] == [kept_set], "the recovery password opens it, too"
    assert not site.play("backup_copy", backup_medium=str(medium)).result("backup_copy", "gateway_a")["changed"]

    # One target is damaged where nobody would look before it is needed, and a chip was never read.
    for pack in kept.place("gateway_a", "hall").joinpath("data").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            data = bytearray(pack.read_bytes())
            data[len(data) // 2] ^= 1
            pack.write_bytes(data)
    (site.state("gateway_b", "controllers", "mixer_1", "record.yml")).unlink()
    for path in site.state("gateway_b", "controllers", "mixer_1", "sets").glob("*.yml"):
        path.unlink()
    kept.take("gateway_b")
    run = site.control.run(*command("drill", 12, names)).require(2)
    _sample, _all, result = results(site)
    assert result["outcome"] == "failed"
    boards = Path("/tmp", f"drill.{result['id']}")
    assert f"the boards are in {boards}" in run.output
    assert {path.name for path in boards.rglob("flash.bin")} == {"flash.bin"}
    shutil.rmtree(boards)
    damaged_1, damaged_2, unread = result["problems"]
    assert damaged_1.startswith("gateway_a/press_1: backup target hall: restic restore ended with")
    assert damaged_2.startswith("gateway_a/press_2: backup target hall: restic restore ended with")
    assert unread.startswith("gateway_b/mixer_1: ") and "holds no image, since its chip was never read" in unread
    metrics = (site.directory / "metrics/multi_sonicator_recovery_drill.prom").read_text()
    assert "multi_sonicator_recovery_drill_last_run_failed 1.0" in metrics
    proven = [line for line in metrics.splitlines() if line.startswith("multi_sonicator_recovery_drill_verified_set")]
    assert len(proven) == 3 and all(float(line.rpartition(" ")[2]) > 1.7e9 for line in proven), "by the drill before"

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks by their full names: each once, each in check mode, each twice; and what they leave alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.ansible import COLLECTION, UNTOUCHED, Run, VirtualSite
from support.site import flash_of
from support.virtual import Board

PLAYBOOKS = ("status", "configure", "snapshot", "deploy", "restore", "rollback")
MODULE = {
    "status": "firmware_info",
    "configure": "registers",
    "snapshot": "snapshot",
    "deploy": "firmware",
    "restore": "restore",
    "rollback": "firmware",
}
# What a rollout asks of controllers before each step.
BESIDE = ("Measure the controllers that the next step rests on", "Ask what they are set to now")
AMPLITUDE = 0x0101


def content(directory: Path) -> dict[str, bytes]:
    """All files below a directory but locks."""
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file() and "lock" not in path.name}


def together(site: VirtualSite, *steps: str | dict[str, Any]) -> str:
    """A playbook of several: the collection's by their names, and plays."""
    plays = [
        {"name": f"Play {step}", "ansible.builtin.import_playbook": f"{COLLECTION}.{step}"}
        if isinstance(step, str)
        else {"name": "In between", "hosts": "gateways", "gather_facts": False, **step}
        for step in steps
    ]
    path = site.control.directory / "together.yml"
    path.write_text(yaml.safe_dump(plays, sort_keys=False))
    return str(path)


def tasks_of(*runs: Run) -> list[Mapping[str, Any]]:
    """What the runs' playbooks did to controllers, in order; they ask how they are beside it, and for the history."""
    return [
        event
        for run in runs
        for event in run.events
        if event["action"] in {f"{COLLECTION}.{module}" for module in MODULE.values()}
        and event["task"].split(" : ")[-1] not in BESIDE
        and event["status"] != "skipped"
    ]


@pytest.mark.smoke
def test_each_playbook_does_its_work(site: VirtualSite) -> None:
    [press] = site.controllers["gateway"]
    press["settings"] = {"sonicator1_amplitude": 61}

    table = site.play("status").messages[-1].splitlines()
    assert table[1].split() == ["gateway", "press", "line", "2", "-", "1.0.0", "ok", "never", "by", "this", "gateway"]

    assert site.play("configure").messages == ["press: wrote sonicator1_amplitude\n"]
    assert site.register("press", AMPLITUDE) == 61

    assert site.play("snapshot").changed
    assert len(list(site.state("gateway").glob("controllers/press/sets/*.yml"))) == 1

    site.play("deploy", firmware_version="1.1.0")
    assert site.flash("press").rstrip(b"\xff") == flash_of("1.1.0")
    assert site.register("press", AMPLITUDE) == 61

    press["settings"] = {"sonicator1_amplitude": 77}
    site.play("configure")
    site.play("restore")
    assert site.register("press", AMPLITUDE) == 61

    site.play("rollback")
    assert site.flash("press").rstrip(b"\xff") == flash_of("1.0.0")
    assert site.register("press", AMPLITUDE) == 61


def test_a_deployment_waits_for_a_backup_and_the_way_back_for_none(site: VirtualSite) -> None:
    """On a gateway that is to keep backups and has nothing that could take one."""
    site.play("deploy", firmware_version="1.1.0")
    site.variables["backup_targets"] = [{"name": "vault", "repository": "/nowhere"}]
    run = site.play("deploy", code=2, firmware_version="1.2.0")
    assert run.traffic["programmer_opened"] == 0
    assert site.flash("press").rstrip(b"\xff") == flash_of("1.1.0")
    site.play("rollback")
    assert site.flash("press").rstrip(b"\xff") == flash_of("1.0.0")


def test_check_mode_writes_nothing(site: VirtualSite) -> None:
    """Each playbook has something to do, says so, and does not do it."""
    [press] = site.controllers["gateway"]
    away = {"tasks": [site.task("registers", {"values": {"sonicator1_amplitude": 91}})]}
    site.play(together(site, "snapshot", "deploy", away), firmware_version="1.1.0")
    press["settings"] = {"sonicator1_amplitude": 61}
    flash, kept = site.flash("press"), content(site.state("gateway"))

    run = site.play(together(site, *PLAYBOOKS), check=True, firmware_version="1.0.0")

    events = tasks_of(run)
    assert [event["action"] for event in events] == [f"{COLLECTION}.{MODULE[name]}" for name in PLAYBOOKS]
    for name, event in zip(PLAYBOOKS, events, strict=True):
        assert event["result"]["changed"] == (name != "status"), name
        assert event["traffic"] == {**UNTOUCHED, "requests": event["traffic"]["requests"]}, name
        assert event["traffic"]["requests"] > 0, name
    said = [event["result"]["controllers"][0] for event in events]
    assert [one.get("outcome") for one in said] == [None, None, None, "would_deploy", None, "would_deploy"]
    assert {key: run.traffic[key] for key in UNTOUCHED} == UNTOUCHED
    assert (site.flash("press"), site.register("press", AMPLITUDE)) == (flash, 91)
    assert content(site.state("gateway")) == kept
    for expected in ("-        sonicator1_amplitude: 91\n+        sonicator1_amplitude: 61", "-        version: 1.1.0"):
        assert expected in run.output, "the difference is shown"


def test_second_run_changes_nothing(site: VirtualSite) -> None:
    [press] = site.controllers["gateway"]
    press["settings"] = {"sonicator1_amplitude": 61}
    # Which set a rollback is to go to is known when the deploy has kept it.
    once = together(site, "snapshot", "snapshot", "configure", "configure", "restore", "restore", "deploy")
    first = site.play(once, firmware_version="1.1.0")
    kept = first.controllers("firmware")["press"]["set"]
    second = site.play(
        together(site, "deploy", "rollback", "rollback", "status", "status"),
        firmware_version="1.1.0",
        controllers_rollback_set=kept,
    )

    # A deploy or rollback that has something to do looks first, and then does it; one that has nothing only looks.
    turns = {"deploy": 3, "rollback": 3}
    names = ("snapshot", "configure", "restore", "deploy", "rollback", "status")
    events = tasks_of(first, second)
    assert [event["action"] for event in events] == [
        f"{COLLECTION}.{MODULE[name]}" for name in names for _turn in range(turns.get(name, 2))
    ]
    for name in names:
        *_looks, event, again = [events.pop(0) for _turn in range(turns.get(name, 2))]
        assert event["result"]["changed"] == (name != "status"), name
        assert not again["result"]["changed"], name
        assert again["traffic"] == {**UNTOUCHED, "requests": again["traffic"]["requests"]}, name
    assert site.flash("press").rstrip(b"\xff") == flash_of("1.0.0")


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[VirtualSite]:
    """Two gateways: mixer_1 and mixer_2 on one line and press_1 on another, and press_2 without a programmer."""
    gateways = {
        "gateway_a": [[Board("mixer_1", 2), Board("mixer_2", 3)], [Board("press_1")]],
        "gateway_b": [[Board("press_2", programmer=False)]],
    }
    with VirtualSite(tmp_path, gateways) as running:
        yield running


def test_target_and_names_limit_a_run(wide: VirtualSite) -> None:
    run = wide.play("deploy", target="gateway_a", controllers_only=["press_1"], firmware_version="1.1.0")
    assert set(run.controllers("firmware")) == {"press_1"}
    flashes = {name: wide.flash(name).rstrip(b"\xff") for name in ("mixer_1", "mixer_2", "press_1")}
    old, new = flash_of("1.0.0"), flash_of("1.1.0")
    assert flashes == {"mixer_1": old, "mixer_2": old, "press_1": new}

    run = wide.play("deploy", code=2, controllers_only=["press_1", "pres_2"], firmware_version="1.0.0")
    assert (
        "controllers_only names pres_2, but the gateways of this play have mixer_1, mixer_2, press_1, press_2"
        in run.output
    )
    assert run.traffic["requests"] == 0


def test_status_shows_what_is_wrong(wide: VirtualSite) -> None:
    wide.command("mixer_2", "silent", "on")
    wide.controllers["gateway_a"][2]["firmware_version"] = "1.1.0"
    wide.controllers["gateway_b"].append({**wide.controllers["gateway_b"][0], "name": "twin"})
    run = wide.play("status", code=2, controllers_firmware_version="1.0.0")
    rows = [row.split(maxsplit=7) for row in run.messages[-1].splitlines()]
    assert rows[0] == ["GATEWAY", "CONTROLLER", "LINE", "UNIT", "WANTED", "FOUND", "HEALTH", "LAST CHANGE"]
    assert [row[:7] for row in rows[1:4]] == [
        ["gateway_a", "mixer_1", "line", "2", "1.0.0", "1.0.0", "ok"],
        ["gateway_a", "mixer_2", "line", "3", "1.0.0", "?", "unknown"],
        ["gateway_a", "press_1", "line", "2", "1.1.0", "1.0.0", "ok"],
    ]
    assert "unit 3" in rows[2][7] and "found silence" in rows[2][7]
    assert rows[4][:2] == ["gateway_b", "-"] and "press_2 and twin both claim unit 2" in rows[4][7]


def test_production_goes_on(pair: VirtualSite) -> None:
    """Units that run on the neighbour while everything is done to the controller beside it."""
    start = {"values": {"sonicator1_start_stop": 1}, "allow": ["sonicator1_start_stop"]}
    mixer = pair.controllers["gateway"][0]
    with pair.talking("mixer"):
        pair.tasks(pair.task("registers", {**start, "controllers": [mixer]}))
        run = pair.play("deploy", code=2, firmware_version="1.1.0", controllers_max_failures=2)
        pair.play("status")
        pair.play("snapshot")
        running, stops, silence_stops = (pair.register("mixer", address) for address in (0x0001, 0x000B, 0x000C))
    outcomes = {name: one["outcome"] for name, one in run.controllers("firmware").items()}
    assert outcomes == {"mixer": "refused", "press": "deployed"}
    assert "mixer" in run.messages[-1] and "not at rest" in run.messages[-1]
    assert (running, stops, silence_stops) == (1, 0, 0)
    assert pair.flash("press").rstrip(b"\xff") == flash_of("1.1.0")


def test_neighbours_are_talked_to_in_a_limited_run(pair: VirtualSite) -> None:
    """Nobody but the run itself talks to the neighbour while the named controller is flashed."""
    mixer, _press = pair.controllers["gateway"]
    start = {"values": {"sonicator1_start_stop": 1}, "allow": ["sonicator1_start_stop"], "controllers": [mixer]}
    named = {"firmware_version": "1.1.0", "controllers_only": ["press"]}
    with pair.talking("mixer"):
        pair.tasks(pair.task("registers", start))
        child = pair.control.start("ansible-playbook", *pair.arguments("deploy", False, named))
        pair.command("press", "hold_after_pages", 3)
        pair.wait_for(child, lambda: pair.command("press", "state")["programmer"]["holding"])
    pair.command("mixer", "counters_reset")
    time.sleep(3)
    state, silence_stops = pair.command("mixer", "state"), pair.register("mixer", 0x000C)
    with pair.talking("mixer"):
        pair.command("press", "release")
        output, _errors = child.communicate(timeout=120)
    assert child.returncode == 0, output
    assert state["requests"] > 5 and state["longest_gap_ms"] < 1000
    assert silence_stops == 0, "its units were stopped for silence"

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts over several gateways: waves, cells, stop rules, an operator's word, and a control node that dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutState
from support.ansible import COLLECTION, Run, VirtualSite
from support.site import flash_of
from support.virtual import Board

NAMES = ("mixer_1", "mixer_2", "press_1", "press_2")


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[VirtualSite]:
    """Two gateways: mixer_1 and mixer_2 on one line and press_1 on another, and press_2."""
    gateways = {
        "gateway_a": [[Board("mixer_1", 2), Board("mixer_2", 3)], [Board("press_1")]],
        "gateway_b": [[Board("press_2")]],
    }
    with VirtualSite(tmp_path, gateways) as site:
        site.variables["controllers_rollout_id"] = "test"
        yield site


def cells(site: VirtualSite, **cell_of: str) -> None:
    for controllers in site.controllers.values():
        for one in controllers:
            if one["name"] in cell_of:
                one["cell"] = cell_of[one["name"]]


def rollouts(site: VirtualSite) -> Path:
    return site.control.directory / ".local/state/multi_sonicator/rollouts"


def events(site: VirtualSite) -> list[dict[str, Any]]:
    path = rollouts(site) / "test/events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps(site: VirtualSite) -> list[list[str]]:
    return [event["members"] for event in events(site) if event["event"] == "step"]


def on(site: VirtualSite, version: str) -> set[str]:
    return {name for name in NAMES if site.flash(name).rstrip(b"\xff") == flash_of(version)}


def deploy(site: VirtualSite, code: int = 0, **variables: Any) -> Run:
    return site.play("deploy", code=code, firmware_version="1.1.0", **variables)


def transactions(site: VirtualSite, name: str) -> int:
    gateway = next(one for one, controllers in site.controllers.items() if name in [c["name"] for c in controllers])
    return len(list(site.state(gateway, "controllers", name, "history").glob("*.jsonl")))


def ask(site: VirtualSite, request: str = "") -> None:
    """An operator's word from another terminal, or just a look."""
    directory = site.control.directory
    record = site.control.environment.pop("RECORD")
    try:
        words = [f"{COLLECTION}.rollout", "-e", "rollout_id=test"]
        words += ["-e", f"rollout_request={request}"] if request else []
        child = site.control.start("ansible-playbook", "-i", "localhost,", *words)
        output, _errors = child.communicate(timeout=60)
    finally:
        site.control.environment["RECORD"] = record
    assert child.returncode == 0, f"{directory}: {output}"


def test_a_cell_keeps_what_it_needs(plant: VirtualSite) -> None:
    cells(plant, mixer_1="mixing", mixer_2="mixing", press_1="pressing", press_2="pressing")
    check = plant.play("deploy", check=True, firmware_version="1.1.0", controllers_canaries=0)
    assert "cell mixing: 1 of 2 controllers stay in service" in check.output
    assert not (plant.control.directory / ".local").exists()
    deploy(plant, controllers_canaries=0)
    assert steps(plant) == [["gateway_a/mixer_1", "gateway_a/press_1"], ["gateway_a/mixer_2", "gateway_b/press_2"]]
    assert on(plant, "1.1.0") == set(NAMES)


def test_a_cell_that_has_lost_a_controller_gives_no_other(plant: VirtualSite) -> None:
    """It is measured on the devices: press_2 does not answer, so that press_1 has to go on."""
    cells(plant, press_1="pressing", press_2="pressing")
    plant.command("press_2", "silent", "on")
    run = deploy(plant, code=2, controllers_only=["mixer_1", "press_1"], controllers_canaries=0)
    assert "cell pressing: measured in service 1 of 2, needs 1" in run.output
    assert on(plant, "1.1.0") == {"mixer_1"}
    assert transactions(plant, "press_1") == 0


def test_what_fails_within_the_budget_does_not_stop_the_rest(plant: VirtualSite) -> None:
    """One controller is silent, and one gateway cannot be reached at all."""
    plant.command("mixer_1", "silent", "on")
    plant.controllers["gateway_c"] = [{"name": "far", "line": "/dev/none", "unit": 2, "programmer": "/dev/none_too"}]
    plant.hosts["gateway_c"] = {
        "ansible_connection": "ssh",
        "ansible_host": "127.0.0.1",
        "ansible_port": 1,
        "ansible_ssh_common_args": "-o ConnectTimeout=2",
    }
    run = deploy(plant, code=2, controllers_max_failures=2)
    assert on(plant, "1.1.0") == {"mixer_2", "press_1", "press_2"}
    found = {event["member"]: event["outcome"] for event in events(plant) if event["event"] == "result"}
    assert found["gateway_a/mixer_1"] == "refused" and found["gateway_c/far"] == "unreachable"
    assert any("5 controllers: 3 done, 1 failed, 1 unreachable" in message for message in run.messages)


@pytest.mark.parametrize("phase", ["planned", "enter 1", "erase 1", "page 5", "leave 2", "soak", "approval"])
def test_the_control_node_dies(plant: VirtualSite, phase: str) -> None:
    """The next run with the same id goes on, and no board is flashed twice."""
    more = {
        "firmware_version": "1.1.0",
        "controllers_approve_before": [2],
        "controllers_approval_deadline": 100,
        "controllers_wave_soak": 3 if phase == "soak" else 0,
    }

    def has_come() -> bool:
        if phase == "planned":
            return bool(events(plant))
        if phase in ("soak", "approval"):
            return "result" in str(events(plant))
        return bool(plant.command("mixer_1", "state")["programmer"]["holding"])

    if phase not in ("planned", "soak", "approval"):
        plant.command("mixer_1", "hold_at", *phase.split())
    child = plant.control.start("ansible-playbook", *plant.arguments("deploy", False, more))
    try:
        plant.wait_for(child, has_come)
        os.killpg(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
        plant.command("mixer_1", "release")
    if phase == "soak":
        report = rollouts(plant) / "test" / "report.html"
        assert not report.exists()
        ask(plant)
        assert "mixer_1" in report.read_text()
    deploy(plant, controllers_approved=["2"])
    assert on(plant, "1.1.0") == set(NAMES)
    assert [transactions(plant, name) for name in NAMES] == [1, 1, 1, 1]
    assert [event["who"] for event in events(plant) if event["event"] == "approved"]
    assert not list(plant.state("gateway_a").glob("controllers/*/journal.jsonl"))


def test_abort_undoes_the_wave(plant: VirtualSite) -> None:
    """Asked for while the first of two on a line is at a page: it is finished and undone, the second never begun."""
    more = {"firmware_version": "1.1.0", "controllers_only": ["mixer_1", "mixer_2"], "controllers_canaries": 0}
    child = plant.control.start("ansible-playbook", *plant.arguments("deploy", False, more))
    plant.command("mixer_1", "hold_at", "page", 5)
    plant.wait_for(child, lambda: plant.command("mixer_1", "state")["programmer"]["holding"])
    # Not by the playbook: avrdude waits for its programmer for some seconds only.
    RolloutState(rollouts(plant), "test").append("request", request="abort", who="an operator")
    plant.wait_for(child, lambda: bool(list(plant.state("gateway_a", "progress").glob("*.stop"))))
    plant.command("mixer_1", "release")
    output, _errors = child.communicate(timeout=120)
    assert child.returncode == 2, output
    assert on(plant, "1.0.0") == set(NAMES)
    assert transactions(plant, "mixer_1") == 2 and transactions(plant, "mixer_2") == 0
    assert "aborted by an operator, 1 controllers rolled back" in output
    assert [event["undo"] for event in events(plant) if event["event"] == "step"] == [False, True]


def test_a_wave_that_nobody_approves_is_not_begun(plant: VirtualSite) -> None:
    run = deploy(plant, code=2, controllers_approve_before=[2])
    assert "wave 2 needs approval" in run.output
    assert on(plant, "1.1.0") == {"mixer_1"}
    ask(plant, "approve")
    deploy(plant)
    assert on(plant, "1.1.0") == set(NAMES)


def test_who_did_what_is_recorded(plant: VirtualSite) -> None:
    """The start, the approval with who gave it, each controller, and the end; and nothing in the log is altered."""
    deploy(plant, code=2, controllers_approve_before=[2])
    ask(plant, "approve")
    deploy(plant)
    path = plant.control.directory / ".local/state/multi_sonicator/audit.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    of_rollout = [record for record in records if record["rollout"] == "test"]
    assert [record["what"] for record in of_rollout if record["what"] != "flash"] == [
        "rollout_start", "rollout_stop", "approval", "rollout_resume", "rollout_end",
    ]  # fmt: skip
    flashes = {record["where"]["controller"]: record for record in of_rollout if record["what"] == "flash"}
    assert set(flashes) == set(NAMES)
    for name, record in flashes.items():
        assert record["after"]["version"] == "1.1.0" and record["before"]["version"] == "1.0.0"
        assert record["image"] == record["after"]["digest"]
        assert bool(record["approval"]) == (name != "mixer_1")
    assert plant.play("audit_verify").code == 0
    assert (rollouts(plant) / "test/report.html").exists()


def test_a_rollout_goes_on_only_as_what_it_was(plant: VirtualSite) -> None:
    deploy(plant, code=2, controllers_approve_before=[2])
    run = plant.play("deploy", code=2, firmware_version="1.0.0")
    assert "rollout test is one of 1.1.0, not of 1.0.0" in run.output
    assert on(plant, "1.1.0") == {"mixer_1"}


def test_a_release_that_falls_ill_in_the_soak_goes_no_further(plant: VirtualSite) -> None:
    child = plant.control.start(
        "ansible-playbook",
        *plant.arguments("deploy", False, {"firmware_version": "1.1.0", "controllers_wave_soak": 4}),
    )
    plant.wait_for(child, lambda: transactions(plant, "mixer_1") == 1)
    plant.command("mixer_1", "silent", "on")
    output, _errors = child.communicate(timeout=120)
    assert child.returncode == 2, output
    assert "did not stay healthy through the soak" in output
    assert on(plant, "1.1.0") == {"mixer_1"}

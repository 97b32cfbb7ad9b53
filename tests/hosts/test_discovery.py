# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gateways that nobody has described yet: what is plugged in becomes an inventory, and is checked before production."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fleet as hosts
import pytest
import yaml
from support.hosts import LINE, HostSite

FLEET = [
    hosts.Host(
        "hall",
        "bookworm",
        [
            {"name": "mixer_1", "line": LINE, "unit": 2, "programmer": "/dev/ttyACM0"},
            {"name": "mixer_2", "line": LINE, "unit": 3, "programmer": "/dev/ttyACM1"},
            {"name": "press", "line": "/dev/ttyUSB5", "unit": 9, "programmer": "/dev/ttyACM5"},
        ],
    ),
    hosts.Host("yard", "trixie", [{"name": "mill", "line": "/dev/ttyUSB0", "unit": 2}]),
]


class Site(HostSite):
    """Two hosts with the packages a gateway needs, and an inventory that knows of no controller."""

    def __init__(self) -> None:
        super().__init__()
        self.inventory = self.place / "site/hosts.json"
        self.environment["ANSIBLE_CALLBACK_RESULT_FORMAT"] = "yaml"

    def up(self) -> None:
        self.fleet.up(FLEET)
        described = json.loads(self.fleet.inventory.read_text())
        for host in described["gateways"]["hosts"].values():
            del host["controllers"]
        self.inventory.parent.mkdir()
        self.inventory.write_text(json.dumps(described))
        packages = "avrdude python3-serial python3-yaml"
        for name in self.fleet.hosts:
            self.fleet.ssh(
                name, f"sudo apt-get -qq update && sudo apt-get -qq --no-install-recommends install {packages}"
            )

    def found(self, host: str) -> dict[str, Any]:
        """What discover.yml wrote about a host."""
        content: dict[str, Any] = yaml.safe_load((self.place / f"site/discovered/{host}.yml").read_text())
        return content

    def take_over(self) -> None:
        """The inventory takes what was found."""
        shutil.copytree(self.place / "site/discovered", self.place / "site/host_vars", dirs_exist_ok=True)

    def device(self, host: str, port: str) -> str:
        return os.path.basename(self.fleet.ssh(host, "readlink -f", port).stdout.strip())


@pytest.fixture(scope="module")
def site(machine: None) -> Iterator[Site]:
    with Site() as one:
        one.up()
        one.play(
            "discover",
            *("-e", '{"discover_units": ["2", "1-10"], "discover_scan": true, "discover_identify_programmers": true}'),
        )
        one.take_over()
        yield one


def test_what_is_plugged_in_becomes_the_inventory(site: Site) -> None:
    for name, host in site.fleet.hosts.items():
        expected = {
            (
                site.device(name, one["line"]),
                one["unit"],
                one.get("programmer") and site.device(name, one["programmer"]),
            )
            for one in host.controllers
        }
        found = {
            (
                site.device(name, one["line"]),
                one["unit"],
                one.get("programmer") and site.device(name, one["programmer"]),
            )
            for one in site.found(name)["controllers"]
        }
        assert found == expected
        assert all(one["line"].startswith("/dev/serial/by-") for one in site.found(name)["controllers"])
    assert {"name": "line_a10k7qz1", "serial": "A10K7QZ1"} in site.found("hall")["gateway_ports"]
    assert len(site.found("hall")["gateway_ports"]) == 5


def test_the_collection_works_with_what_was_found(site: Site) -> None:
    output = site.play("status")
    for name in site.fleet.hosts:
        for one in site.found(name)["controllers"]:
            assert re.search(rf"{name} +{one['name']} .* {one['unit']} .* 1\.0\.0 +ok", output), output


def test_looking_again_writes_nothing_and_replaces_nothing_unasked(site: Site) -> None:
    scan: dict[str, Any] = {"discover_scan": True, "discover_units": ["1-10"]}
    before = (site.place / "site/discovered/yard.yml").read_text()
    assert "changed=0" in site.play("discover", "--limit", "yard", **scan)
    output = site.play("discover", "--limit", "yard", code=2)
    assert "-  unit: 2" in output, "the difference is shown"
    assert "says something else than what was found now, and stays as it is" in output
    assert (site.place / "site/discovered/yard.yml").read_text() == before
    site.play("discover", "--limit", "yard", discover_replace=True)
    assert "controllers" not in site.found("yard")
    (site.place / "site/discovered/yard.yml").write_text(before)


def test_a_sound_gateway_passes_and_nothing_is_written(site: Site) -> None:
    report = site.place / "validation.json"
    writes = [site.fleet.control("hall", name, "state")["write_requests"] for name in ("mixer_1", "mixer_2", "press")]
    assert "changed=0" in site.play("validate", "--check", "--limit", "yard")
    site.play("validate", validation_report=str(report))
    findings = json.loads(report.read_text())
    assert set(findings) == {"hall", "yard"}
    asked = [one for one in findings["hall"] if one["check"] == "controllers"]
    assert [one["severity"] for one in asked] == ["ok", "ok", "ok"]
    assert {one["gateway"] for one in findings["yard"]} == {"yard"}
    for one in (*findings["hall"], *findings["yard"]):
        assert set(one) == {"gateway", "check", "severity", "subject", "found", "expected", "remedy"}
        assert one["severity"] in ("ok", "not_applicable") or one["remedy"], one
    for name, count in zip(("mixer_1", "mixer_2", "press"), writes, strict=True):
        assert site.fleet.control("hall", name, "state")["write_requests"] == count


def test_what_is_wrong_is_found_on_all_gateways(site: Site) -> None:
    report = site.place / "validation.json"
    site.fleet.ssh(
        "yard", "sudo install -d -m 0777 /var/lib/multi_sonicator && sudo install -m 0644 /dev/null /tmp/open.key"
    )
    site.fleet.unplug("hall", LINE)
    try:
        output = site.play(
            "validate",
            code=2,
            validation_report=str(report),
            validation_names=["name.nowhere.example"],
            validation_keys=["/tmp/open.key"],
            validation_packages=["avrdude", "no-such-package"],
        )
    finally:
        site.fleet.plug("hall", LINE)
        site.fleet.ssh("yard", "sudo rmdir /var/lib/multi_sonicator")
    errors = {
        host: {one["subject"] for one in findings if one["severity"] == "error"}
        for host, findings in json.loads(report.read_text()).items()
    }
    everywhere = {"package no-such-package", "name name.nowhere.example"}
    assert errors["hall"] >= {f"line {LINE}", *everywhere}
    assert errors["yard"] >= {"directory /var/lib/multi_sonicator", "key /tmp/open.key", *everywhere}
    assert "check the cable and the name in the inventory" in output


def test_a_bad_inventory_is_told_and_reaches_no_shell(site: Site) -> None:
    bad = "x; touch /tmp/canary $(touch /tmp/canary) `touch /tmp/canary` \u202e"
    report = site.place / "validation.json"
    site.play(
        "validate",
        code=2,
        controllers=[
            {"name": bad, "line": LINE, "unit": 2},
            {"name": "a", "line": f"/dev/{bad}", "unit": 2},
            {"name": "b", "line": LINE, "unit": 2, "programmer": bad},
        ],
        validation_report=str(report),
        **{
            f"validation_{what}": [bad]
            for what in ("names", "packages", "services", "certificates", "keys", "directories")
        },
    )
    for findings in json.loads(report.read_text()).values():
        checks = {one["check"] for one in findings if one["severity"] == "error"}
        assert checks >= {"inventory", "names", "packages", "services", "certificates", "permissions"}
    site.play("discover", code=2, discover_ports=[bad], discover_directory=str(site.place / "never"))
    for name in site.fleet.hosts:
        assert site.fleet.ssh(name, "ls /tmp/canary", check=False).stdout == ""
    assert not Path("/tmp/canary").exists()
    assert not (site.place / "never").exists()


def test_a_gateway_out_of_reach_is_one_finding_and_the_others_are_looked_at(site: Site) -> None:
    report = site.place / "validation.json"
    inventory = json.loads(site.inventory.read_text())
    inventory["gateways"]["hosts"]["yard"]["ansible_port"] = 9
    lost = site.place / "site/lost.json"
    lost.write_text(json.dumps(inventory))
    whole, site.inventory = site.inventory, lost
    try:
        output = site.play("validate", code=2, validation_report=str(report))
    finally:
        site.inventory = whole
    findings = json.loads(report.read_text())
    assert [(one["check"], one["severity"]) for one in findings["yard"]] == [("connection", "error")]
    assert findings["yard"][0]["found"] in output
    assert "yard: 1 errors: gateway" in output
    assert [one["severity"] for one in findings["hall"] if one["check"] == "controllers"] == ["ok", "ok", "ok"]

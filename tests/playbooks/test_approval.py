# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two persons approve what one may not do alone: asked for, signed by the real ssh-keygen, enforced by the gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.ansible import UNTOUCHED, Run, VirtualSite
from support.approvals import People
from support.site import flash_of

EMERGENCY_STOP = 0x0011
CLEAR = {"controllers_values": {"emergency_stop": 0}, "controllers_allow": ["emergency_stop"]}
STOP = {"controllers_values": {"emergency_stop": 1}, "controllers_allow": ["emergency_stop"]}


class Office:
    """A site whose gateway has alice, bob and carol as approvers, and the place where they sign."""

    def __init__(self, site: VirtualSite) -> None:
        self.site = site
        self.people = People(site.directory / "people")
        self.requests = site.directory / "approvals"
        self.approvers = site.directory / "gateway/etc/approvers"
        persons = [{"name": name, "keys": [f"{self.people.public(name)} laptop"]} for name in ("alice", "bob", "carol")]
        site.variables |= {
            "controllers_approvals": str(self.requests),
            "controllers_approvers_file": str(site.directory / "{{ inventory_hostname }}/etc/approvers"),
            "controllers_approvers": persons,
        }
        self.play = site.play

    def ask(self, **variables: object) -> Path:
        """Ask for approval; the request's file."""
        before = set(self.requests.glob("*.json"))
        assert self.play("approve", approval_action="request", approval_reason="Mended", **variables).changed
        [path] = set(self.requests.glob("*.json")) - before
        return path

    def sign(self, path: Path, *names: str) -> None:
        for name in names:
            path.with_name(f"{path.name}.{name}.sig").write_text(self.people.sign(name, path.read_bytes()))

    def approvals(self) -> list[tuple[str, str]]:
        """What was done and who approved it, as the audit log has it."""
        log = self.site.control.directory / ".local/state/multi_sonicator/audit.jsonl"
        records = map(json.loads, log.read_text().splitlines())
        return [(record["what"], record["approval"]) for record in records if record["approval"]]


@pytest.fixture
def office(site: VirtualSite) -> Office:
    one = Office(site)
    assert site.play("approve", check=True, approval_action="approvers").changed and not one.approvers.exists()
    site.play("approve", approval_action="approvers")
    return one


def refused(run: Run, *says: str) -> None:
    """It ended because somebody's approval was missing, and nothing was done."""
    assert run.traffic | UNTOUCHED == run.traffic, run.output
    said = " ".join(run.messages)
    assert [words for words in says if words not in said] == [], said


def test_a_stop_is_released_by_two(office: Office) -> None:
    office.play("configure", **STOP)
    for check in (False, True):
        refused(office.play("configure", check=check, code=2, **CLEAR), "press: writing emergency_stop = 0 needs")
    assert not office.play("approve", approval_action="approvers").changed
    request = office.ask(**CLEAR)
    office.sign(request, "alice")
    refused(office.play("configure", code=2, **CLEAR), "has 1 (alice)", f"-f KEY < {request}")
    shown = office.play("approve")
    assert f"{request}: registers of press, Mended: signed by alice, 1 missing" in " ".join(shown.messages)
    assert office.site.register("press", EMERGENCY_STOP) == 1

    office.sign(request, "bob")
    looked = office.play("configure", check=True, **CLEAR)
    assert looked.changed and looked.traffic | UNTOUCHED == looked.traffic
    [done] = office.play("configure", **CLEAR).controllers("registers").values()
    assert (done["approval"]["by"], done["approval"]["reason"]) == (["alice", "bob"], "Mended")
    assert office.site.register("press", EMERGENCY_STOP) == 0
    assert not office.play("configure", **CLEAR).changed
    [(what, approval)] = office.approvals()
    assert what == "emergency" and approval.startswith("alice and bob: Mended (request ")

    office.play("configure", **STOP)
    refused(office.play("configure", code=2, **CLEAR), "was used for it already")
    assert office.site.register("press", EMERGENCY_STOP) == 1


def test_an_unsigned_image_is_flashed_by_two(office: Office) -> None:
    new = {"firmware_version": "1.1.0"}
    before = office.site.flash("press")
    office.sign(office.ask(firmware_version="1.0.0"), "alice", "bob")
    refused(office.play("deploy", code=2, **new), "is for another image and version of controller press")
    assert office.site.flash("press") == before

    request = office.ask(**new)
    office.sign(request, "alice", "bob")
    [done] = office.play("deploy", **new).controllers("firmware").values()
    assert done["outcome"] == "deployed" and done["approval"]["by"] == ["alice", "bob"]
    assert office.site.flash("press").rstrip(b"\xff") == flash_of("1.1.0")
    assert not office.play("deploy", **new).changed
    assert [what for what, _approval in office.approvals()] == ["flash"]
    office.play("rollback")
    assert office.site.flash("press").rstrip(b"\xff") == flash_of("1.0.0")
    refused(office.play("deploy", code=2, **new), f"{request} was used for it already")


def test_bad_orders_are_refused(office: Office) -> None:
    cases = {
        "nothing to approve": ({"approval_action": "request", "approval_reason": "x", **STOP}, "nothing of this needs"),
        "no reason": ({"approval_action": "request", **CLEAR}, "no reason is given"),
        "too long": (
            {"approval_action": "request", "approval_reason": "x", "controllers_approval_hours": 25, **CLEAR},
            "cannot count for 25 h",
        ),
        "unknown action": ({"approval_action": "aprove"}, "aprove"),
        "one approver": (
            {"approval_action": "approvers", "controllers_approvers": [{"name": "alice", "keys": []}]},
            "names alice; expected 2 persons or more",
        ),
        "no key": (
            {
                "approval_action": "approvers",
                "controllers_approvers": [{"name": "a", "keys": ["$(id)"]}, {"name": "b", "keys": ["x\ny"]}],
            },
            "public keys of ssh without options",
        ),
    }
    before = office.approvers.read_bytes()
    for name, (variables, says) in cases.items():
        run = office.play("approve", code=2, **variables)
        assert says in run.output.replace("\n", " "), name
        assert run.traffic | UNTOUCHED == run.traffic, name
    assert office.approvers.read_bytes() == before
    assert not office.requests.exists()

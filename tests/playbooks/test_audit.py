# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log as a playbook sees it: read by audit_info, verified by audit_verify."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.events import Event
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.audit import AuditLog
from support.ansible import COLLECTION, Control, Run

DEFAULT = ".local/state/multi_sonicator/audit.jsonl"


class Node(Control):
    """A control node whose inventory says where its log lies, with something in it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.log = AuditLog(directory / "elsewhere/audit.jsonl")
        for number, controller in enumerate(("mixer", "press", "mixer"), 1):
            after = {"version": f"1.{number}.0"}
            self.log.append(Event("flash", controller, "/dev/ttyS1", 2, after=after), gateway="gateway", rollout="r1")
        self.log.append(Event("emergency", "press", "/dev/ttyS1", 3, result="changed"), gateway="gateway")
        self.inventory = directory / "hosts.yml"
        variables = {"multi_sonicator_audit_log": "{{ place }}/audit.jsonl", "place": str(self.log.path.parent)}
        self.inventory.write_text(yaml.safe_dump({"all": {"vars": variables, "hosts": {"gateway": {}}}}))

    def verify(self, code: int = 0, **variables: Any) -> Run:
        """Run the playbook audit_verify."""
        words = ["-i", str(self.inventory), f"{COLLECTION}.audit_verify", "-e", json.dumps(variables)]
        return self.run("ansible-playbook", *words).require(code)

    def tasks(self, *options: Mapping[str, Any], check: bool = False) -> Run:
        """A play of the module audit_info on a gateway that cannot be reached."""
        module = f"{COLLECTION}.audit_info"
        tasks = [{"name": str(number), module: each, "ignore_errors": True} for number, each in enumerate(options)]
        play = self.directory / "play.yml"
        play.write_text(yaml.safe_dump([{"name": "Play", "hosts": "gateway", "gather_facts": False, "tasks": tasks}]))
        words = ["-i", str(self.inventory), str(play), *(["--check"] if check else [])]
        return self.run("ansible-playbook", *words).require()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def results(run: Run) -> list[Mapping[str, Any]]:
    return [event["result"] for event in run.events]


def test_records_are_read_on_the_control_node(node: Node) -> None:
    own = node.directory / DEFAULT
    AuditLog(own).prepare()
    options: list[dict[str, Any]] = [
        {},
        {"controller": "mixer", "rollout": "r1", "gateway": "gateway"},
        {"events": ["emergency"], "since": "2020-01-01", "until": "2999-12-31", "verify": False},
        {"limit": 0},
        {"log": f"~/{DEFAULT}"},
    ]
    run = node.tasks(*options, check=True)
    everything, *chosen = results(run)
    assert not run.changed and all(result["findings"] == [] for result in results(run))
    assert [record["seq"] for record in everything["records"]] == [1, 2, 3, 4, 5]
    assert [[record["seq"] for record in result["records"]] for result in chosen] == [[2, 4], [5], [], [1]]
    found = json.loads(node.run("ansible-doc", "--json", f"{COLLECTION}.audit_info").require().output)
    documented = found[f"{COLLECTION}.audit_info"]["return"]
    assert sorted(documented["records"]["contains"]) == sorted(everything["records"][0])
    node.log.path.write_bytes(b"")
    [emptied] = results(node.tasks({}))
    assert sorted(documented["findings"]["contains"]) == sorted(emptied["findings"][0])


def test_without_the_variable_the_log_lies_in_the_home(node: Node) -> None:
    node.inventory.write_text(yaml.safe_dump({"all": {"hosts": {"gateway": {}}}}))
    AuditLog(node.directory / DEFAULT).prepare()
    [result] = results(node.tasks({}))
    assert [record["what"] for record in result["records"]] == ["log_start"]


def test_bad_options_are_named(node: Node) -> None:
    options: list[dict[str, Any]] = [{"since": "soon"}, {"public_key": "/nowhere"}, {"log": "/nowhere"}, {"seq": 1}]
    messages = [result["msg"] for result in results(node.tasks(*options))]
    expected = ("since is 'soon'", "public key /nowhere: No such file", "/nowhere: not there", "seq")
    for says, message in zip(expected, messages, strict=True):
        assert says in message


@pytest.mark.smoke
def test_a_whole_log_is_verified_and_an_altered_one_named(node: Node, tmp_path: Path) -> None:
    kept = {name: shutil.copy(f"{node.log.path}.{name}", tmp_path) for name in ("pub", "head")}
    variables = {"multi_sonicator_audit_public_key": kept["pub"], "multi_sonicator_audit_kept": [kept["head"]]}
    [said] = node.verify(**variables).messages
    assert said.startswith("The audit log is whole up to record 5 of ")
    lines = node.log.path.read_bytes().splitlines(keepends=True)
    node.log.path.write_bytes(b"".join([lines[0], lines[1].replace(b"1.1.0", b"9.9.9"), lines[3], lines[4]]))
    for options in (variables, {}):
        [said] = node.verify(2, **options).messages
        offset = len(lines[0])
        assert said.splitlines() == [
            f"audit.jsonl: line 2, byte {offset}, record 2: edited: its content does not have its hash",
            f"audit.jsonl: line 3, byte {offset + len(lines[1])}, record 4: missing: missing before it: record 3",
        ]


def test_a_public_key_that_cannot_be_known_is_not_the_one_beside_the_log(node: Node) -> None:
    """The playbook's host is no gateway of the inventory, so that it has no inventory_dir."""
    unknown = {"multi_sonicator_audit_public_key": "{{ inventory_dir }}/audit.jsonl.pub"}
    assert "'inventory_dir' is undefined" in node.verify(2, **unknown).output
    inventory = yaml.safe_load(node.inventory.read_text())
    variable = {"multi_sonicator_audit_public_key": "{{ ansible_inventory_sources | first | dirname }}/audit.jsonl.pub"}
    inventory["all"]["vars"] |= variable
    node.inventory.write_text(yaml.safe_dump(inventory))
    assert f"{node.inventory.parent}/audit.jsonl.pub: No such file" in node.verify(2).output
    shutil.copy(f"{node.log.path}.pub", node.inventory.parent)
    node.verify()

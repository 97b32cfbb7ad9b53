# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module gateway_runtime on a simulated site, and what the role gateway refuses before it changes anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from support.ansible import COLLECTION, UNTOUCHED, Control, VirtualSite

LINE = "http://x\nTrusted: yes"
SAID = "{{ ansible_failed_result.results | default([ansible_failed_result]) | map(attribute='msg') | join(' ') }}"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a port's name with a line's end": (
        {"gateway_ports": [{"name": "x\n", "serial": "A"}]},
        "gateway_ports",
    ),
    "a serial number that is a rule": (
        {"gateway_ports": [{"name": "x", "serial": 'A", RUN+="/bin/sh'}]},
        "gateway_ports",
    ),
    "a port without a place": ({"gateway_ports": [{"name": "x"}]}, "gateway_ports"),
    "a port with two places": ({"gateway_ports": [{"name": "x", "serial": "A", "path": "B"}]}, "gateway_ports"),
    "two ports of one name": (
        {"gateway_ports": [{"name": "x", "serial": "A"}, {"name": "x", "serial": "B"}]},
        "gateway_ports",
    ),
    "a directory that is two words": ({"gateway_state_directory": "/srv/a b"}, "gateway_state_directory"),
    "a directory of the system": ({"gateway_state_directory": "/var"}, "gateway_state_directory"),
    "a way up": ({"gateway_state_directory": "/var/lib/../etc"}, "gateway_state_directory"),
    "a time that is a setting": ({"gateway_snapshot_calendar": "daily\nUnit=x"}, "gateway_snapshot_calendar"),
    "a server that is a section": ({"gateway_time_servers": ["a\n[x]"]}, "gateway_time_servers"),
    "a source that is two lines": (
        {"gateway_apt_sources": [{"uris": [LINE], "suites": ["./"]}]},
        "gateway_apt_sources",
    ),
    "a state of no choice": ({"gateway_state": "gone"}, "gateway_state"),
}


def test_the_role_refuses_what_would_end_up_as_something_else(tmp_path: Path) -> None:
    """All of it in one play in check mode, so that what is admitted by mistake does no harm."""
    tasks: list[dict[str, Any]] = []
    for name, (variables, _says) in BAD.items():
        call = {"name": "Call the role", "ansible.builtin.include_role": {"name": f"{COLLECTION}.gateway"}}
        told = {"name": name, "ansible.builtin.debug": {"msg": SAID}}
        tasks.append({"name": "Try", "block": [{**call, "vars": variables}], "rescue": [told]})
    play = {"name": "Refusals", "hosts": "localhost", "gather_facts": False, "connection": "local", "tasks": tasks}
    control = Control(tmp_path)
    path = control.directory / "refusals.yml"
    path.write_text(yaml.safe_dump([play], sort_keys=False))
    python = f"ansible_python_interpreter={sys.executable}"
    run = control.run("ansible-playbook", "--check", "-i", "localhost,", "-e", python, str(path)).require()
    said = {event["task"]: event["result"]["msg"] for event in run.events if event["task"] in BAD}
    assert sorted(said) == sorted(BAD)
    for name, (_variables, says) in BAD.items():
        assert says in said[name], name


def test_the_runtime_comes_and_goes(pair: VirtualSite) -> None:
    places = {
        "directory": str(pair.directory / "lib"),
        "configuration": str(pair.directory / "etc/gateway.json"),
        "command": str(pair.directory / "msctl"),
    }

    def task(name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        words = pair.task("gateway_runtime", {**places, **options}, check_mode=check)
        return {"name": name, **words, "ignore_errors": True}

    start = {"values": {"sonicator1_start_stop": 1}, "allow": ["sonicator1_start_stop"], "only": ["mixer"]}
    with pair.talking("mixer", "press"):
        run = pair.tasks(
            task("check", check=True),
            task("install"),
            task("again"),
            task("less", only=["mixer"]),
            task("all"),
            pair.task("registers", start),
            task("refused", state="absent"),
            task("refused in check mode", check=True, state="absent"),
            task("would stop", check=True, state="absent", drain="stop"),
        )
        msctl = [sys.executable, "-I", places["command"], f"--configuration={places['configuration']}"]
        read = subprocess.run([*msctl, "read", "mixer", "active_count"], capture_output=True, text=True, check=True)
        assert read.stdout == "active_count = 1\n"
        gone = pair.tasks(
            task("stop and remove", state="absent", drain="stop"),
            task("nothing there", state="absent"),
        )
    found = {event["task"]: event["result"] for event in [*run.events, *gone.events]}
    changed = {name: result["changed"] for name, result in found.items()}
    assert changed == {
        "check": True,
        "install": True,
        "again": False,
        "less": True,
        "all": True,
        "Task 6": True,
        "refused": False,
        "refused in check mode": False,
        "would stop": True,
        "stop and remove": True,
        "nothing there": False,
    }
    assert found["check"]["version"] == found["again"]["version"] == found["install"]["diff"]["after"]["version"]
    assert json.loads(found["less"]["diff"]["after"]["configuration"])["controllers"][0]["name"] == "mixer"
    assert len(json.loads(found["less"]["diff"]["after"]["configuration"])["controllers"]) == 1
    for name in ("refused", "refused in check mode"):
        assert "mixer: units run (active_count is 1" in found[name]["msg"]
    for event in run.events:
        if event["task"] != "Task 6":
            assert {key: event["traffic"][key] for key in UNTOUCHED} == UNTOUCHED, event["task"]
    assert [one["msg"] for one in found["stop and remove"]["controllers"]] == ["stopped", "at rest"]
    assert found["nothing there"]["controllers"] == []
    assert not any(Path(place).exists() for place in places.values())

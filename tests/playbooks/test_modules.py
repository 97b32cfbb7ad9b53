# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module in check mode, for real and once more, watched at the devices; and its results as documented."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.ansible import COLLECTION, UNTOUCHED, Control, Run, VirtualSite
from support.site import flash_of

MODULES = ("firmware", "firmware_info", "registers", "registers_info", "restore", "snapshot")
ELSEWHERE = {
    "approval": "playbooks/test_approval.py",
    "backup_set": "hosts/test_recovery.py",
    "gateway_runtime": "playbooks/test_gateway.py",
    "validation_info": "core/test_validation.py",
}
TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict}
# Settings after a start of the reference firmware.
AMPLITUDE = 50


@pytest.fixture(scope="session")
def documentation(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What ansible-doc tells of the controllers that each module returns, where nothing has to be approved."""
    names = [f"{COLLECTION}.{name}" for name in MODULES]
    run = Control(tmp_path_factory.mktemp("documentation")).run("ansible-doc", "--json", *names).require()
    found = json.loads(run.output)
    contains = {name: found[f"{COLLECTION}.{name}"]["return"]["controllers"]["contains"] for name in MODULES}
    return {name: {key: about for key, about in keys.items() if key != "approval"} for name, keys in contains.items()}


def require_documented(contains: Mapping[str, Any], found: Iterable[Mapping[str, Any]], where: str = "") -> None:
    """The documented keys are those that came back, in sum, each with a value of its type."""
    found = list(found)
    keys = {key for one in found for key in one}
    assert sorted(keys) == sorted(contains), f"returned and documented differ {where}"
    for key, about in contains.items():
        values = [one[key] for one in found if one.get(key) is not None]
        assert values, f"{where}{key} never had a value here"
        for value in values:
            assert isinstance(value, TYPES[about["type"]]), f"{where}{key} is {value!r}, documented as {about['type']}"
        if "contains" in about:
            require_documented(about["contains"], values, f"{where}{key}.")


def results(run: Run, module: str) -> list[Mapping[str, Any]]:
    """All that a run's tasks with this module said of controllers."""
    events = [event for event in run.events if event["action"] == f"{COLLECTION}.{module}"]
    return [one for event in events for one in event["result"]["controllers"]]


def touched(run: Run, task: str) -> Mapping[str, int]:
    """What a task did beyond reading; it must have read."""
    traffic = dict(run.event(task)["traffic"])
    assert traffic.pop("requests") > 0
    return traffic


def test_registers(pair: VirtualSite, documentation: Mapping[str, Any]) -> None:
    mixer, press = pair.controllers["gateway"]
    mixer["settings"] = {"sonicator1_amplitude": 61}
    press["settings"] = {"sonicator1_amplitude": 72, "start_inhibit_mask": ["sonicator4"]}
    wanted = {"values": {"sonicator2_amplitude": 33}}
    start = {"values": {"sonicator1_start_stop": 1}, "allow": ["sonicator1_start_stop"]}
    with pair.talking("mixer", "press"):
        run = pair.tasks(
            {"name": "check", **pair.task("registers", wanted), "check_mode": True},
            {"name": "write", **pair.task("registers", wanted)},
            {"name": "again", **pair.task("registers", wanted)},
            {"name": "start", **pair.task("registers", start)},
        )
        running = [pair.register(name, 0x0001) for name in ("mixer", "press")]
    check, write, again, start_result = (run.event(task)["result"] for task in ("check", "write", "again", "start"))
    assert check["changed"] and touched(run, "check") == UNTOUCHED
    expected = {
        "mixer": {"sonicator1_amplitude": 61, "sonicator2_amplitude": 33},
        "press": {"sonicator1_amplitude": 72, "sonicator2_amplitude": 33, "start_inhibit_mask": ["sonicator4"]},
    }
    before = {
        "mixer": {"sonicator1_amplitude": AMPLITUDE, "sonicator2_amplitude": AMPLITUDE},
        "press": {"sonicator1_amplitude": AMPLITUDE, "sonicator2_amplitude": AMPLITUDE, "start_inhibit_mask": []},
    }
    assert check["diff"] == write["diff"] == {"before": before, "after": expected}
    assert write["changed"] and touched(run, "write") == {**UNTOUCHED, "writes": 5}
    assert not again["changed"] and touched(run, "again") == UNTOUCHED
    assert again["diff"] == {"before": expected, "after": expected}
    assert start_result["changed"] and running == [1, 1], "a unit of each runs"
    for name in expected:
        assert [pair.register(name, address) for address in (0x0101, 0x0121)] == list(expected[name].values())[:2]
    assert pair.register("press", 0x0013) == 0b1000
    require_documented(documentation["registers"], results(run, "registers"))


def test_registers_info(pair: VirtualSite, documentation: Mapping[str, Any]) -> None:
    some = {"points": ["sonicator1_amplitude", "system_status"], "registers": [{"address": 0x0100, "count": 2}]}
    run = pair.tasks(
        {"name": "some", **pair.task("registers_info", some)},
        {"name": "all", **pair.task("registers_info")},
        {"name": "check", **pair.task("registers_info"), "check_mode": True},
        # With the line's other controller silent.
        {
            "name": "silent",
            **pair.task("registers_info", {"controllers": [{**pair.controllers["gateway"][0], "unit": 9}]}),
            "ignore_errors": True,
        },
    )
    read = run.event("some")["result"]["controllers"]
    assert [one["points"] for one in read] == [{"sonicator1_amplitude": AMPLITUDE, "system_status": ["ok"]}] * 2
    assert [one["units"] for one in read] == [{"sonicator1_amplitude": "%"}] * 2
    assert [one["registers"] for one in read] == [{"0x0100": 0, "0x0101": AMPLITUDE}] * 2
    everything = run.event("all")["result"]["controllers"]
    assert all(len(one["points"]) > 50 and one["points"]["firmware_version"] == 0x0100 for one in everything)
    assert run.event("check")["result"]["controllers"][0]["points"].keys() == everything[0]["points"].keys()
    assert run.traffic["requests"] > 0 and run.traffic | UNTOUCHED == run.traffic
    require_documented(documentation["registers_info"], results(run, "registers_info"))


def test_firmware_info(site: VirtualSite, documentation: Mapping[str, Any]) -> None:
    chip = {"read_chip": True}
    run = site.tasks(
        {"name": "before", **site.task("firmware_info")},
        {"name": "check", **site.task("firmware_info", chip), "check_mode": True},
        {"name": "read", **site.task("firmware_info", chip)},
        {"name": "after", **site.task("firmware_info")},
    )
    for task in ("before", "check", "after"):
        assert touched(run, task) == UNTOUCHED, task
    assert run.event("read")["traffic"]["programmer_opened"] == 1
    assert not run.changed
    [before], [check], [read], [after] = (
        run.event(name)["result"]["controllers"] for name in ("before", "check", "read", "after")
    )
    digest = hashlib.sha256(flash_of("1.0.0")).hexdigest()
    assert (before["version"], before["healthy"], before["at_rest"], before["last_reading"]) == (
        "1.0.0",
        True,
        True,
        None,
    )
    assert (check["outcome"], check["last_reading"]) == ("would_read", None)
    assert (read["outcome"], read["last_reading"]["flash"], read["last_reading"]["signature"]) == (
        "read",
        digest,
        "1E9502",
    )
    assert after["last_reading"]["eeprom"] == hashlib.sha256(site.memory("press", "eeprom.bin")).hexdigest()
    assert after["last_reading"]["current"] and after["last_transaction"]["outcome"] == "read"
    assert after["last_reading"]["fuses"]["lfuse"] == {
        "value": "0xFF",
        "programmed": [],
        "wanted": "0xFF",
        "accepted": True,
    }
    # An open transaction is another test's; a silent controller has none of these values.
    expected = dict(documentation["firmware_info"])
    assert after["open_transaction"] is None and expected.pop("open_transaction")["type"] == "str"
    found = [
        {key: value for key, value in one.items() if key != "open_transaction"} for one in results(run, "firmware_info")
    ]
    require_documented(expected, found)


def test_snapshot(site: VirtualSite, documentation: Mapping[str, Any]) -> None:
    chip = {"read_chip": True}
    start = {"values": {"sonicator1_start_stop": 1}, "allow": ["sonicator1_start_stop"]}
    with site.talking("press"):
        run = site.tasks(
            {"name": "check", **site.task("snapshot"), "check_mode": True},
            {"name": "keep", **site.task("snapshot")},
            {"name": "again", **site.task("snapshot")},
            {"name": "check chip", **site.task("snapshot", chip), "check_mode": True},
            {"name": "chip", **site.task("snapshot", chip)},
            {"name": "chip again", **site.task("snapshot", chip)},
            {"name": "after", **site.task("snapshot")},
            {"name": "start", **site.task("registers", start)},
            {"name": "running", **site.task("snapshot", chip), "ignore_errors": True},
        )
        still_running = site.register("press", 0x0001)
    found = {event["task"]: event["result"]["controllers"][0] for event in run.events}
    for task in ("check", "keep", "again", "check chip", "after", "running"):
        assert touched(run, task) == UNTOUCHED, task
    assert {task: one["changed"] for task, one in found.items()} == {
        "check": True, "keep": True, "again": False, "check chip": False, "chip": True, "chip again": False,
        "after": False, "start": True, "running": False,
    }  # fmt: skip
    assert found["again"]["set"] == found["keep"]["set"] != found["chip"]["set"] == found["after"]["set"]
    assert found["keep"]["content"]["images"] is None
    assert found["chip"]["content"]["images"]["flash"] == hashlib.sha256(flash_of("1.0.0")).hexdigest()
    assert (found["running"]["outcome"], still_running) == ("refused", 1)
    kept = sorted(path.stem for path in site.state("gateway", "controllers", "press", "sets").glob("*.yml"))
    assert kept == [found["keep"]["set"], found["chip"]["set"]], "what check mode tells of is not kept"
    expected = dict(documentation["snapshot"])
    # A transaction that was refused before it began has no id.
    assert expected.pop("transaction")["returned"] == "when O(read_chip) failed"
    require_documented(
        expected, ({k: v for k, v in one.items() if k != "transaction"} for one in results(run, "snapshot"))
    )


def test_restore(site: VirtualSite, documentation: Mapping[str, Any]) -> None:
    away = {"values": {"sonicator1_amplitude": 91, "global_enable": 0}, "allow": ["global_enable"]}
    run = site.tasks(
        {"name": "keep", **site.task("snapshot")},
        {"name": "away", **site.task("registers", away)},
        {"name": "check", **site.task("restore"), "check_mode": True},
        {"name": "restore", **site.task("restore")},
        {"name": "again", **site.task("restore")},
        {
            "name": "flash",
            **site.task(
                "firmware",
                {"version": "1.1.0", "releases": "{{ controllers_releases }}", "allow_unsigned": True, "soak": 0},
            ),
        },
        {"name": "elsewhere", **site.task("restore", {"set": "previous"})},
    )
    check, restore, again, elsewhere = (
        run.event(name)["result"] for name in ("check", "restore", "again", "elsewhere")
    )
    assert check["changed"] and touched(run, "check") == UNTOUCHED
    assert restore["changed"] and touched(run, "restore") == {**UNTOUCHED, "writes": 2}
    assert not again["changed"] and touched(run, "again") == UNTOUCHED
    assert check["diff"] == restore["diff"]
    shown = {side: restore["diff"][side]["press"] for side in ("before", "after")}
    assert (shown["before"]["sonicator1_amplitude"], shown["before"]["global_enable"]) == (91, 0)
    assert (shown["after"]["sonicator1_amplitude"], shown["after"]["global_enable"]) == (AMPLITUDE, 1)
    assert (site.register("press", 0x0101), site.register("press", 0x0010)) == (AMPLITUDE, 1)
    assert not elsewhere["changed"]
    assert "firmware is 1.1.0, the set's is 1.0.0" in elsewhere["controllers"][0]["differs"]
    require_documented(documentation["restore"], results(run, "restore"))


def test_firmware(pair: VirtualSite, documentation: Mapping[str, Any]) -> None:
    mixer, press = pair.controllers["gateway"]
    quick = {"soak": 0.2, "boot_deadline": 2}
    unsigned = {"releases": "{{ controllers_releases }}", "allow_unsigned": True}
    release = {"version": "1.1.0", **unsigned, "controllers": [press], **quick}
    kept = {"set": "{{ kept.controllers[0].set }}", "controllers": [press], **quick}
    dead = {**release, "controllers": [{**mixer, "unit": 9}, press], "version": "1.0.0"}
    run = pair.tasks(
        {"name": "settings", **pair.task("registers", {"values": {"sonicator1_amplitude": 64}})},
        {"name": "check", **pair.task("firmware", release), "check_mode": True},
        {"name": "deploy", **pair.task("firmware", release), "register": "kept"},
        {"name": "again", **pair.task("firmware", release)},
        {"name": "check back", **pair.task("firmware", kept), "check_mode": True},
        {"name": "back", **pair.task("firmware", kept)},
        {"name": "back again", **pair.task("firmware", kept)},
        {"name": "after a failure", **pair.task("firmware", dead), "ignore_errors": True},
    )
    found = {event["task"]: event["result"] for event in run.events if event["action"] == f"{COLLECTION}.firmware"}
    assert {task: (result["controllers"][-1]["outcome"], result["changed"]) for task, result in found.items()} == {
        "check": ("would_deploy", True), "deploy": ("deployed", True), "again": ("unchanged", False),
        "check back": ("would_deploy", True), "back": ("deployed", True), "back again": ("unchanged", False),
        "after a failure": ("skipped", False),
    }  # fmt: skip
    for task in ("check", "again", "check back", "back again", "after a failure"):
        assert touched(run, task) == UNTOUCHED, task
    old, new = (
        {"version": version, "digest": hashlib.sha256(flash_of(version)).hexdigest()} for version in ("1.0.0", "1.1.0")
    )
    unread = {**old, "digest": None}
    assert found["check"]["diff"] == {"before": {"press": unread}, "after": {"press": new}}
    assert found["deploy"]["diff"] == {"before": {"press": unread}, "after": {"press": new}}
    assert found["back"]["diff"] == found["check back"]["diff"] == {"before": {"press": new}, "after": {"press": old}}
    assert pair.flash("press").rstrip(b"\xff") == flash_of("1.0.0")
    assert pair.register("press", 0x0101) == 64
    assert pair.line("press").state("mixer")["programmer"]["opened"] == 0
    require_documented(documentation["firmware"], results(run, "firmware"))


def test_every_module_has_these_tests() -> None:
    """Every one that works on controllers; some have a file of tests of their own."""
    modules = Path(__file__).parents[2].glob("plugins/modules/*.py")
    found = {path.stem for path in modules if "ops._controllers\n" in path.read_text()}
    assert all((Path(__file__).parents[1] / place).exists() for place in ELSEWHERE.values())
    found -= ELSEWHERE.keys()
    assert found == set(MODULES) == {name.removeprefix("test_") for name in globals() if name[5:] in found}

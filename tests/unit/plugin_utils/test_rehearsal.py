# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which result of a rehearsal admits a rollout: of exactly this, passed, in time, and with the signature of its key."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import rehearsal
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rehearsal import (
    RehearsalError,
    Site,
    differences,
    require,
    write_result,
)
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import PlanError

IMAGE = {"hall/mixer": "aa", "hall/press": "aa", "yard/pump": "bb"}
PASSED = {"act": "rollout", "problems": []}


def controller(name: str, unit: int, line: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "unit": unit, "line": line, "programmer": f"/dev/isp_{name}", "profile": "io", **more}


def site() -> Site:
    """Two controllers on one line of the hall, and one in the yard that has a version of its own."""
    return Site(
        controllers={
            "hall": [
                controller("mixer", 2, "/dev/line_1", cell="mixing", settings={"amplitude": 60}),
                controller("press", 3, "/dev/line_1"),
            ],
            "yard": [controller("pump", 2, "tcp://pump:502", firmware_version="1.0.0"), {**controller("fan", 3, "/x")}],
        },
        versions={"hall": "1.1.0", "yard": "1.1.0"},
        profiles={"io": "d1"},
        policy={"canaries": 1, "windows": [{"start": "22:00", "end": "04:00", "timezone": "UTC"}]},
    )


SITE = replace(site(), only=("mixer", "press", "pump"))


def one(where: Site, gateway: str = "hall", place: int = 0) -> Any:
    return where.controllers[gateway][place]


def say(key: str, value: Any) -> Callable[[Site], Site]:
    def change(where: Site) -> Site:
        one(where)[key] = value
        return where

    return change


def add(where: Site) -> Site:
    return replace(where, controllers={**where.controllers, "shed": [controller("saw", 2, "/dev/line_1")]})


def remove(where: Site) -> Site:
    return replace(where, controllers={"hall": where.controllers["hall"]})


CHANGES: dict[str, tuple[Callable[[Site], Site], list[str]]] = {
    "unit": (say("unit", 7), ["controllers changed: hall/mixer: unit: 7, rehearsed was 2"]),
    "cell": (say("cell", "drying"), ["controllers changed: hall/mixer: cell: drying, rehearsed was mixing"]),
    "canary": (say("canary", True), ["controllers changed: hall/mixer: canary: true, rehearsed was false"]),
    "settings": (
        say("settings", {"amplitude": 80}),
        ['controllers changed: hall/mixer: settings: {"amplitude": 80}, rehearsed was {"amplitude": 60}'],
    ),
    "board": (
        say("hardware_revision", "C"),
        ["controllers changed: hall/mixer: hardware_revision: C, rehearsed was null"],
    ),
    "profile": (
        lambda where: replace(where, profiles={"io": "d2"}),
        [
            f"controllers changed: {name}: profile: io d2, rehearsed was io d1"
            for name in ("hall/mixer", "hall/press", "yard/pump", "yard/fan")
        ],
    ),
    "line": (
        say("line", "/dev/line_2"),
        [
            'controllers changed: hall/mixer: shares a line with: [], rehearsed was ["press"]',
            'controllers changed: hall/press: shares a line with: [], rehearsed was ["mixer"]',
        ],
    ),
    "programmer": (
        say("programmer", None),
        [
            "controllers changed: hall/mixer: has a programmer: false, rehearsed was true",
            "another release: hall/mixer gets None, rehearsed was 1.1.0",
        ],
    ),
    "new": (add, ["controllers changed: shed/saw was not rehearsed"]),
    "gone": (
        remove,
        [f"controllers changed: {name} was rehearsed, and is not there now" for name in ("yard/pump", "yard/fan")],
    ),
    "policy": (
        lambda where: replace(where, policy={**where.policy, "canaries": 2}),
        ["policy changed: canaries: 2, rehearsed was 1"],
    ),
    "cells": (
        lambda where: replace(where, policy={**where.policy, "cells": {"mixing": {"max_unavailable": 2}}}),
        [
            'policy changed: cells: {"mixing": {"min_in_service": null, "max_unavailable": 2}}, rehearsed was {}',
        ],
    ),
    "choice": (
        lambda where: replace(where, only=("mixer", "pump")),
        [
            "another release: hall/press gets None, rehearsed was 1.1.0",
            'policy changed: only: ["mixer", "pump"], rehearsed was ["mixer", "press", "pump"]',
        ],
    ),
    "version": (
        lambda where: replace(where, versions={"hall": "1.2.0", "yard": "1.1.0"}),
        [f"another release: {name} gets 1.2.0, rehearsed was 1.1.0" for name in ("hall/mixer", "hall/press")],
    ),
    "override": (
        lambda where: replace(where, override="1.1.0"),
        ["another release: yard/pump gets 1.1.0, rehearsed was 1.0.0"],
    ),
    "ports": (
        lambda where: replace(
            where,
            controllers={
                "hall": [
                    {**entry, "line": "/dev/ttyUSB0", "programmer": "/dev/ttyACM0"}
                    for entry in where.controllers["hall"]
                ][::-1],
                "yard": where.controllers["yard"],
            },
        ),
        [],
    ),
    "windows": (lambda where: replace(where, policy={**where.policy, "windows": []}), []),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_difference_is_named(what: str) -> None:
    change, expected = CHANGES[what]
    found = differences(SITE.subject(IMAGE), change(copy.deepcopy(SITE)).subject(IMAGE))
    assert sorted(found) == sorted(expected)


def test_another_image_of_the_same_version_is_named() -> None:
    """As far as the gateways tell which they would take."""
    rehearsed = SITE.subject(IMAGE)
    assert differences(rehearsed, SITE.subject({"hall/press": "cc"})) == [
        "another image: hall/press gets the flash cc, rehearsed was aa"
    ]
    assert differences(rehearsed, SITE.subject({"hall/press": "aa"})) == []
    assert differences(SITE.subject({}), SITE.subject({"hall/press": "aa"}))


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(PlanError, match="canarys is no option"):
        replace(SITE, policy={"canarys": 1}).subject({})


class Results:
    """A directory of results and their key."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.key = directory / "results", directory / "keys/signing.key"

    def write(self, name: str, where: Site = SITE, valid_for: float = 1, *problems: str) -> Path:
        acts = [{**PASSED, "problems": list(problems)}]
        write_result(self.directory, self.key, name, "2026-11-25T02:00:00Z", where.subject(IMAGE), acts, valid_for)
        return self.directory / f"{name}.json"

    def require(self, where: Site = SITE, images: Mapping[str, str] | None = None) -> dict[str, Any]:
        subject = where.subject(images or IMAGE)
        return require(subject, self.directory, self.key.with_suffix(".pub"), "ansible-playbook X")


@pytest.fixture
def kept(tmp_path: Path) -> Results:
    return Results(tmp_path)


def test_a_passed_result_of_exactly_this_admits_it(kept: Results) -> None:
    kept.write("1")
    kept.write("2")
    found = kept.require()
    assert found["id"] == "2" and found["outcome"] == "passed" and found["digest"] == rehearsal.digest(found["subject"])
    assert kept.key.stat().st_mode & 0o777 == 0o600
    kept.write("3", SITE, 1, "press silent after it")
    kept.write("4", replace(SITE, override="1.2.0"))
    assert kept.require()["id"] == "2"


def test_what_does_not_admit_it_says_why_and_what_to_do(kept: Results) -> None:
    with pytest.raises(RehearsalError, match=r"no rehearsal: .* has no result.*Rehearse it: ansible-playbook X"):
        kept.require()
    kept.write("1", SITE, -1)
    with pytest.raises(RehearsalError, match=r"1\.json: expired at 20\d\d-.*\nRehearse it: ansible-playbook X"):
        kept.require()
    kept.write("2", SITE, 1, "press silent after it")
    with pytest.raises(RehearsalError, match=r"2\.json: the rehearsal failed: rollout: press silent after it\n"):
        kept.require()
    kept.write("3", CHANGES["cells"][0](SITE))
    with pytest.raises(RehearsalError, match=r"3\.json: policy changed: cells"):
        kept.require()


def test_the_nearest_come_first_and_not_all_are_told(kept: Results) -> None:
    kept.write("1", CHANGES["policy"][0](SITE))
    for number in range(2, 6):
        kept.write(str(number), remove(replace(SITE, override="9.9.9", profiles={"io": "d9"})))
    with pytest.raises(RehearsalError) as refused:
        kept.require()
    told = [Path(line.partition(":")[0]).stem for line in str(refused.value).splitlines()[1:-1]]
    assert told == ["1", "5", "4"]


def test_no_edit_of_a_result_is_taken(kept: Results) -> None:
    """Of 300 random bytes, each replaced, dropped, or doubled."""
    path = kept.write("1")
    content = path.read_bytes()
    chance = random.Random(7)
    for _turn in range(100):
        place = chance.randrange(len(content) - 1)
        byte = content[place : place + 1]
        for new in (bytes([byte[0] ^ chance.randrange(1, 256)]), b"", byte * 2):
            path.write_bytes(content[:place] + new + content[place + 1 :])
            with pytest.raises(RehearsalError, match=r"1\.json: bad signature"):
                kept.require()
    path.write_bytes(content)
    assert kept.require()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"signature": 7}', b'{"signature": "zz", "outcome": "passed"}', b"\xff"]
)
def test_what_is_no_result_is_passed_over(kept: Results, content: bytes) -> None:
    kept.write("1")
    (kept.directory / "2.json").write_bytes(content)
    assert kept.require()["id"] == "1"
    (kept.directory / "1.json").unlink()
    with pytest.raises(RehearsalError, match=r"2\.json: bad signature"):
        kept.require()


def test_another_key_signs_nothing(kept: Results, tmp_path: Path) -> None:
    path = kept.write("1")
    stranger = Results(tmp_path / "stranger")
    forged = stranger.write("1", replace(SITE, override="1.2.0"))
    path.write_bytes(forged.read_bytes())
    with pytest.raises(RehearsalError, match=r"bad signature.*signing\.pub"):
        kept.require(replace(SITE, override="1.2.0"))
    kept.key.with_suffix(".pub").unlink()
    with pytest.raises(RehearsalError, match=r"public key .*signing\.pub: No such file.*nothing was begun"):
        kept.require()


def test_a_result_that_cannot_be_kept_is_named(kept: Results) -> None:
    kept.write("1")
    kept.key.write_text("no key")
    with pytest.raises(RehearsalError, match=r"signing\.key: no readable key; restore it"):
        kept.write("2")
    kept.key.unlink()
    kept.directory = kept.directory / "1.json"
    with pytest.raises(RehearsalError, match=r"1\.json: (File exists|Not a directory)"):
        kept.write("2")

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input: an error that says which controller, release or file, what is wrong, and no write on any wire.

The cases of a group are tasks of one play, each watched at the simulated devices by itself.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from support.ansible import UNTOUCHED, VirtualSite
from support.profiles import mapping
from support.virtual import firmware

MIXER, PRESS = 0, 1


@dataclass
class Case:
    """One task and what its error has to say. ``change`` goes into the controller press, ``options`` into the task."""

    name: str
    module: str
    says: tuple[str, ...]
    change: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    # Whether a controller had to be asked to find out.
    asks: bool = False
    # Without the controller mixer, which nothing is wrong with, so that it would be brought to the release.
    alone: bool = False
    fails: bool = True


def release(version: str = "1.1.0", **more: Any) -> dict[str, Any]:
    """The firmware module's options for a release, with something wrong in it."""
    releases = [VirtualSite.release(version, **more)]
    return {"version": version, "releases": releases, "allow_unsigned": True, "soak": 0, "max_failures": 3}


def record(kind: int, address: int, data: bytes) -> str:
    body = bytes((len(data), address >> 8, address & 0xFF, kind)) + data
    return f":{body.hex().upper()}{-sum(body) & 0xFF:02X}\n"


GOOD = firmware("1.1.0").read_text().splitlines(keepends=True)
IMAGES = {
    "broken.hex": "".join([*GOOD[:3], GOOD[3].rstrip()[:-2] + "00\n", *GOOD[4:]]),
    "cut.hex": "".join(GOOD[:-1]),
    "large.hex": record(4, 0, b"\0\0") + record(0, 0x8000, b"\1\2") + record(1, 0, b""),
}


def image(name: str) -> dict[str, Any]:
    """The same for a release with one of these images and its true digest."""
    digest = hashlib.sha256(IMAGES[name].encode()).hexdigest()
    return release(image=f"{{{{ images }}}}/{name}", sha256=digest)


NO_SET = "20200101T000000Z-aaaaaa"
IMAGE_CASES = [
    Case("digest mismatch", "firmware", ("release 1.1.0", "digest mismatch", "0000"), {}, release(sha256="0" * 64)),
    Case("broken hex", "firmware", ("press", "broken.hex, line 4: checksum"), {}, image("broken.hex")),
    Case("hex cut off", "firmware", ("press", "cut.hex: no end record"), {}, image("cut.hex")),
    Case("image too large", "firmware", ("press", "large.hex", "too large", "0x7FFF"), {}, image("large.hex")),
    Case("another part", "firmware", ("press: release 1.1.0 is for part m328p",), {}, release(part="m328p")),
    Case("no file", "firmware", ("release 1.1.0", "gone.hex"), {}, release(image="gone.hex")),
    Case("no release", "firmware", ("press: there is no release 3.0.0",), {}, {**release(), "version": "3.0.0"}),
    Case("no version", "firmware", ("press: no firmware version is wanted",), {}, {**release(), "version": None}),
    Case("no digest", "firmware", ("release 1.1.0: sha256 is missing",), {}, release(sha256="")),
    Case("unsigned", "firmware", ("without a signature is refused",), {}, {**release(), "allow_unsigned": False}),
    Case("unknown key", "firmware", ("release 1.1.0: unknown option prt", "mean part?"), {}, release(prt="m32")),
]
PORT_CASES = [
    Case("no programmer", "firmware", ("press: no programmer",), {"programmer": None}, release()),
    Case(
        "programmer gone",
        "firmware",
        ("press", "/dev/isp_gone"),
        {"programmer": "/dev/isp_gone"},
        release(),
        asks=True,
        alone=True,
    ),
    Case(
        "programmer twice", "firmware", ("mixer and press both claim programmer",), {"programmer": "MIXER"}, release()
    ),
    Case("line gone", "registers", ("press", "/dev/line_gone"), {"line": "/dev/line_gone"}),
    Case(
        "line held",
        "registers",
        ("mixer", "press", "PID {holder}", "hold_line"),
        {},
        {"values": {"sonicator1_amplitude": 44}},
    ),
    Case("same unit", "registers", ("mixer and press both claim unit 2 on line",), {"unit": 2}),
    Case(
        "unit silent",
        "registers",
        ("press", "unit 9"),
        {"unit": 9, "settings": {"sonicator1_amplitude": 44}},
        asks=True,
    ),
    Case("flashing silent", "firmware", ("press", "does not answer"), {"unit": 9}, release("1.0.0"), asks=True),
]
CONTROLLER_CASES = [
    Case(
        "unknown option",
        "registers_info",
        ("controller press: unknown option programer", "mean programmer?"),
        {"programer": "x"},
    ),
    Case("no line", "registers_info", ("controller press: line is missing",), {"line": None}),
    Case("no number", "registers_info", ("controller press: unit is 'two'",), {"unit": "two"}),
    Case("unit of nobody", "registers_info", ("controller press: unit 248", "1 to 247"), {"unit": 248}),
    Case("same name", "registers", ("controller mixer is listed 2 times",), {"name": "mixer"}),
    Case(
        "settings no mapping",
        "registers",
        ("controller press: settings is ['amplitude'], expected a mapping",),
        {"settings": ["amplitude"]},
    ),
]
VALUE_CASES = [
    Case("unknown point", "registers", ("press", "sonicator1_amplitud"), {"settings": {"sonicator1_amplitud": 50}}),
    Case("unknown point to read", "registers_info", ("press", "temperature"), {}, {"points": ["temperature"]}),
    Case(
        "too high",
        "registers",
        ("press", "sonicator2_amplitude", "101", "100"),
        {"settings": {"sonicator1_amplitude": 60, "sonicator2_amplitude": 101}},
    ),
    Case(
        "no value",
        "registers",
        ("press", "sonicator1_amplitude", "loud"),
        {"settings": {"sonicator1_amplitude": "loud"}},
    ),
    Case(
        "unknown bit",
        "registers",
        ("press", "start_inhibit_mask", "sonicator7"),
        {"settings": {"start_inhibit_mask": ["sonicator7"]}},
    ),
    Case("read-only", "registers", ("press: sonicator1_power is read-only",), {"settings": {"sonicator1_power": 1}}),
    Case(
        "command",
        "registers",
        ("press: sonicator1_start_stop is of class command", "allow"),
        {},
        {"values": {"sonicator1_start_stop": 1}},
    ),
    Case(
        "emergency",
        "registers",
        ("press: emergency_stop is of class emergency",),
        {},
        {"values": {"emergency_stop": 1}},
    ),
]
SET_CASES = [
    Case(
        "no set kept",
        "restore",
        ("press: controller press: no set is kept",),
        {},
        {"state_directory": "{{ images }}/none"},
    ),
    Case("unknown set", "restore", ("press: controller press: no set " + NO_SET, "there are 2"), {}, {"set": NO_SET}),
    Case("unknown set for the flash", "firmware", ("press: controller press: no set " + NO_SET,), {}, {"set": NO_SET}),
    Case("set without an image", "firmware", ("press", "holds no image"), {}, {"set": "latest"}),
]
PROFILE_CASES = [
    Case(
        "unknown profile",
        "registers",
        ("profile multi_sonicator_oi not found", "did you mean"),
        {"profile": "multi_sonicator_oi"},
    ),
    Case("against the schema", "registers", ("wrong.yml: points.uptime.type", "rule: enum"), {"profile": "wrong"}),
    Case(
        "fingerprint",
        "registers",
        ("press", "is not what profile other describes", "active_count"),
        {"profile": "other", "settings": {"sonicator1_amplitude": 44}},
        asks=True,
    ),
    Case(
        "flashing another",
        "firmware",
        ("press", "is not what profile other describes"),
        {"profile": "other"},
        release("1.0.0"),
        asks=True,
    ),
    Case("own profile", "registers_info", (), {"profile": "site"}, {"points": ["uptime"]}, asks=True, fails=False),
]
GROUPS = {
    "images": IMAGE_CASES,
    "ports": PORT_CASES,
    "controllers": CONTROLLER_CASES,
    "values": VALUE_CASES,
    "sets": SET_CASES,
    "profiles": PROFILE_CASES,
}


HOLDER = """
import fcntl, os, sys, time
line = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
fcntl.flock(line, fcntl.LOCK_EX)
print("holding", flush=True)
sys.stdin.read()
"""


def write_profiles(site: VirtualSite) -> None:
    """The site's own profiles, beside its inventory."""
    directory = site.inventory.parent / "profiles"
    directory.mkdir(parents=True)
    own = mapping()
    for name in ("site", "other", "wrong"):
        profile = copy.deepcopy(own)
        profile["name"] = name
        if name == "other":
            profile["identity"]["fingerprint"].append({"point": "active_count", "min": 1, "max": 4})
        if name == "wrong":
            profile["points"]["uptime"]["type"] = "uint12"
        (directory / f"{name}.yml").write_text(yaml.safe_dump(profile, sort_keys=False))


def task(site: VirtualSite, case: Case) -> dict[str, Any]:
    controllers = copy.deepcopy(site.controllers["gateway"])
    controllers[PRESS] |= case.change
    if case.change.get("programmer") == "MIXER":
        controllers[PRESS]["programmer"] = controllers[MIXER]["programmer"]
    controllers[PRESS] = {key: value for key, value in controllers[PRESS].items() if value is not None}
    options = {key: value for key, value in case.options.items() if value is not None}
    if case.alone:
        del controllers[MIXER]
    called = site.task(case.module, {"controllers": controllers, **options})
    return {"name": case.name, **called, "ignore_errors": True}


@contextlib.contextmanager
def line_held(site: VirtualSite) -> Iterator[int]:
    """Somebody else has the line's lock; the id of his process."""
    script = site.directory / "hold_line.py"
    script.write_text(HOLDER)
    command = [sys.executable, str(script), str(site.line("press").line)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        if holder.stdout is None or holder.stdin is None or holder.stdout.readline() != b"holding\n":
            raise AssertionError("the line is not held")
        yield holder.pid
        holder.stdin.close()


def problems(case: Case, event: Mapping[str, Any], holder: int = 0) -> Iterator[str]:
    """What is not as the case wants it."""
    message, traffic = str(event["result"].get("msg")), event["traffic"]
    if event["status"] != ("failed" if case.fails else "ok"):
        yield f"ended with {event['status']}"
    for words in case.says:
        if words.format(holder=holder) not in message:
            yield f"does not say {words.format(holder=holder)!r}"
    if traffic != {**UNTOUCHED, "requests": traffic["requests"]} or bool(traffic["requests"]) != case.asks:
        yield f"there was {traffic}"


@pytest.mark.parametrize("group", GROUPS)
def test_bad_input(pair: VirtualSite, group: str) -> None:
    write_profiles(pair)
    for name, text in IMAGES.items():
        (pair.directory / name).write_text(text)
    pair.variables["images"] = str(pair.directory)
    if group == "sets":
        pair.tasks(pair.task("snapshot"))
    cases = [case for case in GROUPS[group] if case.name != "line held"]
    flashes = pair.flash("mixer"), pair.flash("press")
    run = pair.tasks(*(task(pair, case) for case in cases))
    assert "Traceback" not in run.output
    assert flashes == (pair.flash("mixer"), pair.flash("press"))
    found = [
        f"{case.name}: {problem}, but: {run.event(case.name)['result'].get('msg')}"
        for case in cases
        for problem in problems(case, run.event(case.name))
    ]
    assert not found, "\n".join(found)


def test_line_held_by_somebody_else(pair: VirtualSite) -> None:
    [case] = [case for case in PORT_CASES if case.name == "line held"]
    with line_held(pair) as holder:
        run = pair.tasks(task(pair, case))
    assert not list(problems(case, run.event(case.name), holder)), run.output

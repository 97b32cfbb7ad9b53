# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles on the control node: found, read, refused with a reason, and the collection's own against the facts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import MissingPackage, ProfileError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.profile import Profile
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import profiles

OWN = ["multi_sonicator_io", "multi_sonicator_io_observed"]

PUMP = """
schema: 1
name: pump
description: A pump with one of everything.
function_codes: [3, 6, 16]
readable: [[0, 0x1F], [0x100, 0x12F]]
largest_block: 20
timing:
  {baudrate: 9600, parity: E, stopbits: 1, request_gap: 0.005, response_timeout: 0.2, longest_silence: 1.0,
   boot_time: 2}
points:
  state: {address: 0, type: bits, access: ro, class: telemetry, bits: {ready: 0, alarm: 3}, description: State.}
  mode: {address: 1, type: enum, access: rw, class: command, symbols: {idle: 0, run: 7}, description: Mode.}
  version: {address: 2, type: uint16, access: ro, class: telemetry, description: Version.}
  uptime: {address: 3, type: uint32, access: ro, class: telemetry, word_order: big, unit: s, description: Uptime.}
  speed:
    {address: 5, type: uint16, access: rw, class: setting, restore_order: 1, min: 10, max: 50, step: 0.5, scale: 0.1,
     unit: "1/s", description: Speed.}
  trim: {address: 6, type: int16, access: rw, class: setting, min: -5, max: 5, description: Trim.}
  flow:
    {address: 8, type: float32, access: rw, class: setting, word_order: little, min: 0, step: 0.3, description: Flow.}
  serial: {address: 0x10, type: string, access: ro, class: telemetry, length: 4, description: Serial number.}
  stop: {address: 0x200, type: uint16, access: wo, class: emergency, stop_values: [1], min: 0, max: 1,
     description: Stop.}
groups:
  valve:
    count: 3
    address: 0x100
    stride: 0x10
    points:
      open: {address: 0, type: uint16, access: rw, class: command, min: 0, max: 1, description: Open.}
      position: {address: 1, type: int32, access: ro, class: telemetry, word_order: big, description: Position.}
identity:
  version: [{point: version, shift: 8, mask: 0xFF}, {point: version, mask: 0xFF}]
  uptime: uptime
  fingerprint: [{point: serial, equals: "P-1"}, {address: 0x60, exception: 2}]
health:
  soak: 3
  conditions: [{point: state, set: [ready]}, {point: state, clear: [alarm]}, {point: mode, steady: true}]
drain:
  permitted: [{point: mode, in: [idle, run]}]
  inhibit: [{point: valve1_open, value: 0}]
  stop: [{point: mode, value: idle}, {point: stop, value: 1}, {point: flow, value: 0.6}]
  at_rest: [{point: speed, max: 10}, {point: trim, equals: 0}, {point: state, equals: []}]
part:
  avrdude: m328p
  signature: "1E950F"
  flash: 32768
  flash_page: 128
  eeprom: 1024
  fuses: {lfuse: {wanted: 0xFF, accepted: [0xFF]}, hfuse: {wanted: 0xD9, accepted: [0xD9]}}
  eesave: {fuse: hfuse, bit: 3}
  programmer: {type: stk500v1, baudrate: 19200}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "pump.yml").write_text(PUMP)
    return tmp_path


def refused(site: Path, content: str | dict[str, Any]) -> str:
    """What the loader says about a pump profile with this content."""
    path = site / "profiles" / "pump.yml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ProfileError) as caught:
        profiles.load_profile("pump", [site])
    return str(caught.value)


def pump() -> dict[str, Any]:
    content = yaml.safe_load(PUMP)
    assert isinstance(content, dict)
    return content


def put(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The content with another value at a dotted path; ``...`` takes away what is there."""
    *steps, last = (int(key) if key.isdigit() else key for key in path.split("."))
    place: Any = content
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    elif isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return content


# Finding


def test_a_profile_with_one_of_everything_is_accepted(site: Path) -> None:
    loaded = profiles.load_profile("pump", [site])
    assert loaded == yaml.safe_load(PUMP)
    json.dumps(loaded)
    assert Profile.from_mapping(loaded).points["valve3_position"].address == 0x121


def test_a_site_comes_before_the_collection(site: Path, tmp_path: Path) -> None:
    own = (profiles.OWN_PROFILES / "multi_sonicator_io.yml").read_text()
    changed = own.replace("boot_time: 3.0", "boot_time: 9.0")
    (site / "profiles" / "multi_sonicator_io.yml").write_text(changed)
    assert profiles.load_profile("multi_sonicator_io", [tmp_path / "other", site])["timing"]["boot_time"] == 9.0
    assert profiles.load_profile("multi_sonicator_io")["timing"]["boot_time"] == 3.0


def test_what_was_checked_is_taken_as_long_as_the_file_is_the_same(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = profiles.load_profile("pump", [site], tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(profiles, "_checked", None)
        assert profiles.load_profile("pump", [site], tmp_path) == checked
    file = site / "profiles/pump.yml"
    file.write_text(f"{file.read_text()}\nname: again\n")
    with pytest.raises(ProfileError, match="duplicate key"):
        profiles.load_profile("pump", [site], tmp_path)


def test_a_path_is_taken_from_the_inventory_or_as_it_is(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert profiles.load_profile("profiles/pump.yml", [site])["name"] == "pump"
    assert profiles.load_profile(site / "profiles" / "pump.yml")["name"] == "pump"
    monkeypatch.chdir(site / "profiles")
    assert profiles.load_profile("pump.yml")["name"] == "pump"


def test_an_unknown_name_tells_where_was_searched_and_what_is_there(site: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        profiles.load_profile("multi_sonicator_oi", [site])
    text = str(caught.value)
    for part in (f"{site}/profiles/multi_sonicator_oi.yml", *OWN, "pump", "did you mean 'multi_sonicator_io'?"):
        assert part in text


def test_an_unknown_path_tells_where_was_searched(site: Path) -> None:
    with pytest.raises(ProfileError, match=f"profile other/pump.yml not found, searched {site}/other/pump.yml, other"):
        profiles.load_profile("other/pump.yml", [site])


def test_without_jsonschema_its_package_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_MISSING", ImportError("No module named 'jsonschema'"))
    with pytest.raises(MissingPackage, match=r"python3-jsonschema.*pip"):
        profiles.load_profile("pump", [site])


# Reading


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "None is not of type 'object'"),
        ("- 1\n", "[1] is not of type 'object'"),
        ("a: [1\n", "rule: YAML; line"),
        ("a: 1\n---\nb: 2\n", "rule: YAML; line"),
        ("a: \t\x01\n", "(rule: YAML)"),
        ("a: !!python/name:os.system x\n", "could not determine a constructor"),
        ("a: &x [*x]\n", "an alias contains itself (rule: YAML; line 1)"),
        ("a: 010\n", "'010' is ambiguous as a number"),
        ("a: 1:30\n", "'1:30' is ambiguous as a number"),
        ("a: .inf\n", "'.inf' is not a finite number"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "a.b: is there twice, first on line 2 (rule: duplicate key; line 4)"),
        ("a: {on: 1}\n", "a.on: a name must be text, YAML takes this for bool"),
        ("a: {1: 1}\n", "a.1: a name must be text, YAML takes this for int"),
        ("a:\n  ? [b]\n  : 1\n", "a.a list or mapping: a name must be text"),
    ],
)
def test_what_is_no_clean_yaml_is_refused(site: Path, text: str, words: str) -> None:
    message = refused(site, text)
    assert words in message
    assert message.startswith(f"{site}/profiles/pump.yml: ")


def test_numbers_may_be_written_for_people(site: Path) -> None:
    text = (
        PUMP.replace("flash: 32768", "flash: 32_768")
        .replace("eeprom: 1024", "eeprom: 0x0400")
        .replace("min: -5", "min: -0x5")
    )
    (site / "profiles" / "pump.yml").write_text(text)
    assert profiles.load_profile("pump", [site]) == pump()


def test_a_file_that_cannot_be_read_is_named(site: Path) -> None:
    (site / "profiles" / "pump.yml").write_bytes(b"name: \xff\n")
    with pytest.raises(ProfileError, match=r"pump\.yml: cannot be read: .*expected a YAML file in UTF-8"):
        profiles.load_profile("pump", [site])


# Schema


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("points.speed.max", "abc", "points.speed.max: 'abc' is not of type 'number' (rule: type; line "),
        ("points.speed.max", "1e3", "points.speed.max: '1e3' is not of type 'number'; write it without quotes"),
        ("points.speed.address", 5.0, "points.speed.address: 5.0 is not of type 'integer'"),
        ("points.speed.address", True, "points.speed.address: True is not of type 'integer'"),
        (
            "points.speed.address",
            65536,
            "points.speed.address: 65536 is greater than the maximum of 65535 (rule: maximum",
        ),
        ("points.speed.address", ..., "points.speed: 'address' is missing (rule: required"),
        ("points.speed.adress", 5, "points.speed.adress: is unknown here (known: access, address, "),
        ("points.speed.adress", 5, "did you mean 'address'?"),
        ("points.Speed", {}, "points.Speed: 'Speed' does not fit, expected lower-case letters"),
        ("points.speed.type", "uint8", "points.speed.type: 'uint8' is not one of ['uint16', "),
        ("points.speed.unit", "", "points.speed.unit: must not be empty"),
        ("points.speed.bits", {"a": 1}, "points.speed.bits: does not belong to a point of type uint16"),
        ("points.mode.min", 1, "points.mode.min: does not belong to a point of type enum"),
        ("points.uptime.word_order", ..., "points.uptime: 'word_order' is missing"),
        ("points.state.bits", ..., "points.state: 'bits' is missing"),
        ("points.state.bits", {}, "points.state.bits: must not be empty"),
        ("points.mode.symbols", ..., "points.mode: 'symbols' is missing"),
        ("points.serial.length", ..., "points.serial: 'length' is missing"),
        ("schema", 2, "pump.yml: schema: 2 found, expected 1 (rule: const"),
        ("largest_block", 126, "largest_block: 126 is greater than the maximum of 125"),
        ("largest_block", 0, "largest_block: 0 is less than the minimum of 1"),
        ("readable", [], "readable: must not be empty"),
        ("readable.0", [1], "readable[0]: [1] is too short"),
        ("function_codes", [3, 4], "function_codes[1]: 4 is not one of [3, 6, 16]"),
        ("timing.baudrate", 9601, "timing.baudrate: 9601 is not one of [1200, "),
        ("timing.parity", False, "timing.parity: False is not one of ['N', 'E', 'O']"),
        ("health", ..., "pump.yml: 'health' is missing; nothing may be flashed without it (rule: dependentRequired"),
        ("part.fuses.lock", {}, "part.fuses.lock: 'lock' is not one of ['lfuse', 'hfuse', 'efuse']"),
        ("part.signature", "1e950f", "part.signature: '1e950f' does not fit, expected six hexadecimal digits"),
        ("health.conditions.0", 3, "health.conditions[0]: 3 is not of type 'object'"),
        ("health.conditions.0", {}, "health.conditions[0]: has nothing, expected one of: point with equals; "),
        (
            "health.conditions.0",
            {"point": "mode", "exeption": 2},
            "health.conditions[0]: has point, exeption, expected ",
        ),
        ("health.conditions.0", {"point": "mode", "equals": 1, "min": 2}, "has point, equals, min, expected one of"),
        ("health.conditions.0", {"address": 1, "exception": 0}, "health.conditions[0].exception: 0 is less than"),
        ("health.conditions.0", {"point": "mode", "steady": False}, "conditions[0].steady: False found, expected True"),
        ("drain.stop", [], "drain.stop: must not be empty"),
    ],
)
def test_what_breaks_the_schema_is_named_with_point_and_rule(site: Path, path: str, value: Any, words: str) -> None:
    message = refused(site, put(pump(), path, value))
    assert words in message
    assert message.startswith(f"{site}/profiles/pump.yml: ")


def test_all_errors_are_told_at_once_in_the_order_of_the_file(site: Path) -> None:
    content = put(put(put(pump(), "part.flash", "big"), "points.speed.max", "abc"), "points.speed.min", None)
    lines = refused(site, content).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["points.speed.min", "points.speed.max", "part.flash"]
    numbers = [int(line.rsplit("line ", 1)[1].rstrip(")")) for line in lines]
    text = (site / "profiles" / "pump.yml").read_text().splitlines()
    assert [text[number - 1].strip() for number in numbers] == ["min: null", "max: abc", "flash: big"]


# Meaning


def point(**changes: Any) -> dict[str, Any]:
    base = {"address": 0x18, "type": "uint16", "access": "rw", "class": "setting", "description": "A point."}
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("name", "pomp", "name: 'pomp' is not the name of the file, 'pump'"),
        # ranges
        ("readable.0", [9, 0], "readable[0]: 0x0009 to 0x0000 runs backwards"),
        ("readable.1", [0x1F, 0x12F], "readable[1]: 0x001F to 0x012F does not lie behind the range before it"),
        # addresses
        ("points.x", point(address=5), "points.x.address: x shares 0x0005 with speed (rule: overlap"),
        ("points.x", point(address=4), "points.x.address: x shares 0x0004 with uptime"),
        ("points.x", point(address=0x101), "points.valve1_open"),
        ("points.x", point(address=0x30), "points.x.address: x at 0x0030 is in no readable range (rule: readable"),
        (
            "points.x",
            point(address=0x1F, type="int32", word_order="big"),
            "x at 0x001F to 0x0020 is in no readable range",
        ),
        ("points.x", point(address=0xFFFF, type="int32", word_order="big"), "x would end at 0x10000, behind 0xFFFF"),
        (
            "points.x",
            point(address=0x15, type="string", length=21),
            "points.x: takes 21 registers, the largest block has 20",
        ),
        ("points.valve2_open", point(), "makes a second point 'valve2_open', first at points.valve2_open"),
        ("groups.valve.stride", 2, "groups.valve.stride: 0x0002 is less than the 0x0003 registers of a member"),
        ("groups.valve.count", 4, "groups.valve.points.open.address: valve4_open at 0x0130 is in no readable range"),
        # access and class
        (
            "points.speed.class",
            "telemetry",
            "points.speed.class: 'telemetry' does not go with access rw, expected setting",
        ),
        ("points.version.class", "setting", "'setting' does not go with access ro, expected telemetry"),
        ("points.version.restore_order", 3, "points.version.restore_order: a point with access ro cannot be restored"),
        ("points.stop.restore_order", 3, "no snapshot may put back an emergency point"),
        ("points.stop.stop_values", [2], "points.stop.stop_values[0]: 2 is not between min 0 and max 1"),
        ("points.mode.stop_values", ["idle"], "points.mode.stop_values"),
        ("drain.stop.0", {"point": "stop", "value": 0}, "draining may write an emergency point but to stop"),
        ("function_codes", [6, 16], "points.state.access: ro needs function code 3, the profile has 6, 16"),
        ("function_codes", [3], "points.mode.access: rw needs function code 6 or 16, the profile has 3"),
        (
            "function_codes",
            [3, 6],
            "points.flow.access: writing 2 registers needs function code 16, the profile has 3, 6",
        ),
        # numbers
        ("points.speed.min", 60, "points.speed.min: 60 is greater than max 50"),
        ("points.speed.max", 50.3, "points.speed.max: 50.3 is not reached from min 10 in steps of 0.5 (rule: step"),
        ("points.speed.step", 0.25, "points.speed.step: 0.25 is no multiple of scale 0.1"),
        ("points.speed.scale", 0, "points.speed.scale: 0 makes every value the same"),
        ("points.speed.offset", 20, "points.speed.min: 10 would be -100 in the registers, uint16 holds 0 to 65535"),
        ("points.trim.min", -0.5, "points.trim.min: -0.5 would be -0.5 in the registers, int16 holds whole numbers"),
        # symbols
        ("points.state.bits.warm", 3, "points.state.bits.warm: bit 3 is already 'alarm'"),
        ("points.state.bits.bit_4", 5, "points.state.bits.bit_4: is how an unknown bit is shown, and this is bit 5"),
        ("points.mode.symbols.go", 7, "points.mode.symbols.go: value 7 is already 'run'"),
        # timing
        ("timing.longest_silence", 0.2, "timing.longest_silence: 0.2 s does not leave time for one unanswered request"),
        # identity
        ("identity.uptime", "version", "identity.uptime: 'version' is not a number with the unit s"),
        (
            "identity.uptime",
            "uptimes",
            "identity.uptime: 'uptimes' is no point of this profile; did you mean 'uptime'?",
        ),
        ("identity.version.0.point", "nothing_like_it", "identity.version[0].point: 'nothing_like_it' is no point"),
        (
            "identity.version.0.point",
            "speed",
            "identity.version[0].point: 'speed' is not uint16 or uint32 without scale",
        ),
        ("identity.version.0.shift", 16, "identity.version[0].shift: 16 leaves nothing of 16 bits"),
        ("identity.version.0.mask", 0x10000, "identity.version[0].mask: 0x10000 is wider than the point's 16 bits"),
        (
            "identity.fingerprint.0",
            {"point": "mode", "steady": True},
            "a fingerprint is read once, steady says nothing",
        ),
        # conditions
        ("identity.fingerprint.1.address", 0x110, "identity.fingerprint[1].address: 0x0110 is in a readable range"),
        (
            "identity.fingerprint.0.equals",
            5,
            "identity.fingerprint[0].equals: expected ASCII text of at most 8 characters",
        ),
        (
            "health.conditions.0.point",
            "stat",
            "health.conditions[0].point: 'stat' is no point of this profile; did you",
        ),
        ("health.conditions.0.point", "stop", "health.conditions[0].point: 'stop' cannot be read (rule: access"),
        ("health.conditions.0.point", "mode", "health.conditions[0].set: 'mode' has no bits, it is enum"),
        (
            "health.conditions.0.set",
            ["reddy"],
            "health.conditions[0].set: expected a list of ready, alarm, found reddy",
        ),
        ("drain.at_rest.0.point", "mode", "drain.at_rest[0].max: 'mode' is no number, it is enum"),
        ("drain.at_rest.0.min", 11, "drain.at_rest[0].min: 11 is greater than max 10"),
        ("drain.at_rest.1.equals", "x", "drain.at_rest[1].equals: expected a number, found 'x'"),
        ("drain.at_rest.2.equals", "ready", "drain.at_rest[2].equals: expected a list of ready, alarm, found ready"),
        ("drain.permitted.0.in.2", "walk", "drain.permitted[0].in[2]: expected one of idle, run, found 'walk'"),
        ("drain.permitted.0.in.2", ["run"], "drain.permitted[0].in[2]: expected one of idle, run, found ['run']"),
        # writes
        ("drain.stop.0.point", "modus", "drain.stop[0].point: 'modus' is no point of this profile"),
        ("drain.stop.0", {"point": "version", "value": 0}, "drain.stop[0].point: 'version' cannot be written"),
        ("drain.stop.0.value", "halt", "drain.stop[0].value: expected one of idle, run, found 'halt'"),
        ("drain.stop.1.value", 2, "drain.stop[1].value: 2 is not between min 0 and max 1"),
        ("drain.stop.2.value", 0.5, "drain.stop[2].value: 0.5 is not on a step of 0.3 from 0"),
        ("drain.stop.2.value", -1, "drain.stop[2].value: -1 is not between min 0 and max none"),
        # part
        ("part.fuses.hfuse.wanted", 0xD1, "part.fuses.hfuse.wanted: 0xD1 is not among the accepted: 0xD9"),
        ("part.eesave.fuse", "efuse", "part.eesave.fuse: 'efuse' has no policy under fuses"),
        ("part.flash", 32700, "part.flash: 32700 is no multiple of flash_page 128"),
        ("part.avrdude", "m32", "part.signature: 1E950F found, m32 has 1E9502 (rule: part known"),
    ],
)
def test_what_contradicts_itself_is_named_with_point_and_rule(site: Path, path: str, value: Any, words: str) -> None:
    message = refused(site, put(pump(), path, value))
    if path == "points.x" and words.startswith("points.valve"):
        words = "groups.valve.points.position.address: valve1_position shares 0x0101 with x"
    assert words in message


def test_fuses_of_a_known_part_are_checked_against_it(site: Path) -> None:
    content = put(pump(), "part.avrdude", "m32")
    content["part"]["fuses"]["efuse"] = {"wanted": 0xFF, "accepted": [0xFF]}
    content["part"]["eesave"]["bit"] = 2
    message = refused(site, content)
    assert "part.fuses: efuse, hfuse, lfuse found, m32 has hfuse, lfuse" in message
    assert "part.eesave: fuse hfuse bit 2 found, m32 has fuse hfuse bit 3" in message


def test_a_device_that_is_never_flashed_needs_no_part(site: Path) -> None:
    content = pump()
    for key in ("part", "health", "drain", "groups"):
        del content[key]
    (site / "profiles" / "pump.yml").write_text(yaml.safe_dump(content))
    assert Profile.from_mapping(profiles.load_profile("pump", [site])).part is None


def test_the_schema_is_a_schema_and_explains_everything() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(profiles.SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)

    def objects(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, dict):
            yield part
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from objects(inner)

    for part in objects(schema):
        if part.get("type") == "object" and "oneOf" not in part:
            assert "additionalProperties" in part, part.get("title")
        if "title" in part and "type" in part:
            assert "description" in part, part["title"]


# The collection's own profiles


@pytest.fixture(params=OWN)
def own(request: pytest.FixtureRequest) -> dict[str, Any]:
    return profiles.load_profile(request.param)


def test_the_collections_profiles_are_all_tested() -> None:
    assert sorted(path.stem for path in profiles.OWN_PROFILES.glob("*.yml")) == OWN


def test_a_gateway_and_the_control_node_see_the_same_points(own: dict[str, Any]) -> None:
    expanded = profiles.expanded_points(own)
    points = Profile.from_mapping(own).points
    assert {name: (entry["address"], profiles.registers(entry)) for name, entry in expanded.items()} == {
        name: (item.address, item.length) for name, item in points.items()
    }


def test_settings_are_restored_with_the_start_inhibit_last(own: dict[str, Any]) -> None:
    names = [item.name for item in Profile.from_mapping(own).restorable]
    assert names == [*(f"sonicator{n}_amplitude" for n in (1, 2, 3, 4)), "global_enable", "start_inhibit_mask"]


def test_a_producing_controller_may_be_healthy(own: dict[str, Any]) -> None:
    profile = Profile.from_mapping(own)
    values: dict[str, Any] = {"system_status": ["ok"], "watchdog_status": 1, "active_count": 2}
    assert not [test for test in profile.health if test.violation(values.get(test.point, 0))]
    assert [test for test in profile.drain.at_rest if test.violation(values.get(test.point, []))]


def test_the_map_is_the_documented_one() -> None:
    expected = {
        "system_status": 0x00,
        "active_count": 0x01,
        "active_mask": 0x02,
        "watchdog_status": 0x03,
        "comm_errors": 0x04,
        "prev_active_mask": 0x05,
        "last_shutdown_reason": 0x06,
        "firmware_version": 0x07,
        "firmware_patch": 0x08,
        "uptime": 0x09,
        "starts": 0x0A,
        "stops": 0x0B,
        "silence_stops": 0x0C,
        "global_enable": 0x10,
        "emergency_stop": 0x11,
        "system_reset": 0x12,
        "start_inhibit_mask": 0x13,
    }
    unit = {
        "start_stop": 0x00,
        "amplitude": 0x01,
        "overload_reset": 0x02,
        "power": 0x10,
        "frequency": 0x11,
        "status_flags": 0x12,
        "amplitude_actual": 0x13,
        "prev_state": 0x14,
        "persisted_amplitude": 0x15,
        "last_fault_code": 0x16,
        "last_state_timestamp_lo": 0x17,
    }
    for number, first in enumerate([0x100, 0x120, 0x140, 0x160], start=1):
        expected |= {f"sonicator{number}_{name}": first + offset for name, offset in unit.items()}
    points = profiles.expanded_points(profiles.load_profile("multi_sonicator_io"))
    assert {name: entry["address"] for name, entry in points.items()} == expected


def test_the_observed_map_is_shifted_as_observed() -> None:
    documented = profiles.expanded_points(profiles.load_profile("multi_sonicator_io"))
    observed = profiles.expanded_points(profiles.load_profile("multi_sonicator_io_observed"))
    for name, entry in observed.items():
        address = entry["address"]
        if name.endswith(("power", "frequency", "status_flags", "amplitude_actual")):
            assert address == documented[name]["address"] + 0x20 - 1, name
        elif name.startswith("sonicator"):
            assert address == documented[name]["address"] + 0x20, name
        elif name == "amplitude":
            assert (address, entry["class"], "restore_order" in entry) == (0x11, "emergency", False)
        elif address > 0x11:
            assert address == documented[name]["address"] + 1, name
        else:
            assert address == documented[name]["address"], name
    kept = {key: value for key, value in documented.items() if key in observed}
    for name, entry in kept.items():
        assert {**entry, "address": 0} == {**observed[name], "address": 0}, name


def test_what_the_observed_firmware_cannot_do_is_in_its_profile() -> None:
    observed = profiles.load_profile("multi_sonicator_io_observed")
    assert observed["function_codes"] == [3, 6]
    assert observed["largest_block"] == 61
    assert observed["timing"]["request_gap"] > 0.030
    assert set(observed["identity"]) == {"fingerprint"}


@pytest.mark.parametrize(("described", "found"), [OWN, OWN[::-1]])
def test_the_fingerprints_tell_the_two_maps_apart(described: str, found: str) -> None:
    """A board at its power-up defaults, as one profile describes it, is never taken for the other."""
    board = Profile.from_mapping(profiles.load_profile(found))
    content = {board.points[name].address: value for name, value in POWER_UP[found].items()}
    holes = {test.address for test in board.fingerprint if test.test == "exception"}

    def violations(profile: Profile) -> list[str]:
        reasons = []
        for test in profile.fingerprint:
            if test.test == "exception":
                reasons += [] if test.address in holes else [f"0x{test.address:04X} answers"]
            else:
                item = profile.points[test.point]
                reason = test.violation(item.decode([content.get(item.address, 0)]))
                reasons += [reason] if reason else []
        return reasons

    assert not violations(board)
    assert violations(Profile.from_mapping(profiles.load_profile(described)))


POWER_UP = {
    "multi_sonicator_io": {"global_enable": 1, **{f"sonicator{n}_amplitude": 20 for n in (1, 2, 3, 4)}},
    "multi_sonicator_io_observed": {
        "global_enable": 1,
        "amplitude": 80,
        **{f"sonicator{n}_amplitude": 80 for n in (1, 2, 3, 4)},
    },
}


def test_power_is_calibrated_as_documented(own: dict[str, Any]) -> None:
    power = Profile.from_mapping(own).points["sonicator1_power"]
    assert power.decode([272]) == pytest.approx(272 * 5 / 1023 / 0.00544, abs=1e-6)


# The register reference


@pytest.fixture(scope="module")
def reference() -> Any:
    path = Path(__file__).parents[3] / "tools" / "register_reference.py"
    spec = importlib.util.spec_from_file_location("register_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_register_reference_is_up_to_date(reference: Any) -> None:
    assert reference.main(["--check"]) == 0


def test_the_reference_names_every_register(reference: Any) -> None:
    for name in OWN:
        loaded = profiles.load_profile(name)
        text = reference.page(loaded)
        entries = {**loaded["points"], **loaded["groups"]["sonicator"]["points"]}
        assert all(f"| `{point}` |" in text for point in entries)


def test_a_reference_is_checked_written_and_cleared_of_orphans(
    reference: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "docs"
    assert reference.main(["--check", "--output", str(place)]) == 1
    assert "multi_sonicator_io.md: out of date, run register_reference.py" in capsys.readouterr().err
    assert not place.exists()
    assert reference.main(["--output", str(place)]) == 0
    (place / "gone.md").write_text("A profile that is no more.")
    assert reference.main(["--check", "--output", str(place)]) == 1
    assert "gone.md: belongs to no profile" in capsys.readouterr().err
    assert reference.main(["--output", str(place)]) == 0
    assert "gone.md: removed" in capsys.readouterr().out
    assert reference.main(["--check", "--output", str(place)]) == 0
    assert sorted(path.stem for path in place.iterdir()) == OWN


def test_a_site_makes_the_reference_of_its_own_profile(site: Path, reference: Any) -> None:
    path = site / "profiles" / "pump.yml"
    path.write_text(PUMP.replace('unit: "1/s",', 'unit: "1/s", offset: -2,').replace("run: 7", "run: 0x700"))
    assert reference.main([str(path), "--output", str(site)]) == 0
    text = (site / "pump.md").read_text()
    for line in (
        "| 0x0005 | `speed` | uint16 * 0.1 - 2 | rw | setting | from 10 to 50 in steps of 0.5 | 1/s | 1 | Speed. |",
        "| 0x0008 | `flow` | float32, low word first | rw | setting | from 0 in steps of 0.3 |",
        "| 0x0010 | `serial` | string, 4 registers | ro |",
        "| command | idle, run |  |  | Mode. Values: 0x0000 idle, 0x0700 run. |",
        "| valve3 | 0x0120 |",
        "| +0x01 | `position` | int32, high word first | ro |",
        "- Version: `(version >> 8) & 0xFF . (version >> 0) & 0xFF`",
        "- Uptime: `uptime`",
        "- `mode` stays the same",
        "- `mode` is one of idle, run",
        "- `speed` is at most 10",
        "- `state` is empty",
    ):
        assert line in text, line


def test_the_reference_of_a_device_without_part_ends_with_its_identity(reference: Any) -> None:
    content = pump()
    for key in ("part", "health", "drain", "groups"):
        del content[key]
    del content["identity"]["version"], content["identity"]["uptime"]
    text = reference.page(content)
    assert "- Version: none\n- Uptime: none\n" in text
    assert "## Health" not in text and "## Drain" not in text and "## Part" not in text
    content = put(pump(), "drain.permitted", [])
    assert "may be touched only while" not in reference.page(content)


def test_the_reference_needs_no_installed_collection() -> None:
    path = Path(__file__).parents[3] / "tools" / "register_reference.py"
    result = subprocess.run([sys.executable, "-I", path, "--check"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")

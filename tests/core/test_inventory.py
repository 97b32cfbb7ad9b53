# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an inventory may not say, and releases that do not fit: told in one message, before anything is sent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from _core.gateway import InventoryError, parse_controllers
from _core.operations import read_registers
from _core.targets import from_releases
from support import site
from support.profiles import mapping
from support.virtual import firmware

PROFILES = {name: mapping(name) for name in ("multi_sonicator_io", "multi_sonicator_io_observed")}


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "line": "/dev/line_1", "unit": 2, "profile": "multi_sonicator_io", **more}


def refusal(*entries: dict[str, Any]) -> str:
    with pytest.raises(InventoryError) as caught:
        parse_controllers(entries, PROFILES)
    assert "Correct the inventory; nothing was sent" in str(caught.value)
    return str(caught.value)


@pytest.fixture
def links(tmp_path: Path) -> list[str]:
    """Two names of one port, as udev gives them."""
    port = tmp_path / "ttyUSB0"
    port.touch()
    names = [tmp_path / name for name in ("by-id", "by-path")]
    for name in names:
        name.symlink_to(port)
    return [str(name) for name in names]


def test_two_controllers_with_the_same_unit(links: list[str]) -> None:
    text = refusal(entry("a", line=links[0]), entry("b", line=links[1]))
    assert f"controllers a and b both claim unit 2 on line {links[1]}" in text
    assert "controllers a and b both claim unit 2" in refusal(entry("a"), entry("b"))


def test_one_programmer_claimed_twice(links: list[str]) -> None:
    text = refusal(entry("a", programmer=links[0]), entry("b", unit=3, programmer=links[1]))
    assert f"controllers a and b both claim programmer {links[1]}" in text


@pytest.mark.parametrize("port", ["/dev/line\0", "/dev/line\n1", "/dev/\udc80"])
def test_a_port_that_can_be_no_path(port: str) -> None:
    assert f"controller a: line is {port!r}, expected the path of a port" in refusal(entry("a", line=port))
    assert f"programmer is {port!r}" in refusal(entry("a", programmer=port))


def test_a_programmer_that_is_a_line(links: list[str]) -> None:
    text = refusal(entry("a", line=links[0]), entry("b", line="/dev/line_2", programmer=links[1]))
    assert "controller b has programmer" in text
    assert "which is a line" in text


def test_all_that_is_wrong_is_told_at_once() -> None:
    text = refusal(
        entry("a", unit=0),
        entry("a", unit=3),
        entry("bad name", unit=4),
        entry("c", unit=248),
        entry("d", unit=5, profile="unknown"),
    )
    assert "controller a: unit 0 is outside of 1 to 247" in text
    assert "controller a is listed 2 times" in text
    assert "controller 'bad name'" in text
    assert "controller c: unit 248" in text
    assert "controller d: profile unknown was not given" in text


def test_one_line_has_one_baud_rate() -> None:
    slow = mapping("multi_sonicator_io")
    slow["timing"]["baudrate"] = 9600
    with pytest.raises(InventoryError, match="controllers a and b share line /dev/line_1, but not baud rate"):
        parse_controllers(
            [entry("a"), entry("b", unit=3, profile="slow")], {**PROFILES, "slow": {**slow, "name": "slow"}}
        )


def test_a_network_line_is_no_path() -> None:
    assert len(parse_controllers([entry("a", line="tcp://10.0.0.5:502")], PROFILES)) == 1


def test_a_missing_line_fails_its_controllers_only(tmp_path: Path) -> None:
    line = str(tmp_path / "no_such_port")
    gateway = site.gateway(tmp_path, [entry("a", line=line), entry("b", line=line, unit=3)])
    results = read_registers(gateway, ["uptime"], [])
    assert [result["failed"] for result in results] == [True, True]
    assert f"line {line}" in results[0]["msg"]


# Releases


def release(version: str = "1.1.0", **more: Any) -> dict[str, Any]:
    text = firmware("1.1.0").read_text()
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"version": version, "image": f"firmware-{version}.hex", "sha256": digest, "content": text, **more}


def test_a_controllers_own_version_goes_first(tmp_path: Path) -> None:
    gateway = site.gateway(tmp_path, [entry("a"), entry("b", unit=3, firmware_version="2.0.0")])
    targets = from_releases(gateway, [release(), release("2.0.0")], "1.1.0", allow_unsigned=True)
    assert [targets[name].version for name in "ab"] == ["1.1.0", "2.0.0"]
    assert targets["a"].flash == site.flash_of("1.1.0")


@pytest.mark.parametrize(
    ("offered", "wanted", "reason"),
    [
        ([], "1.1.0", r"there is no release 1\.1\.0 \(there are none\)"),
        ([release()], "9.9.9", r"there is no release 9\.9\.9 \(there are 1\.1\.0\)"),
        ([release()], None, "no firmware version is wanted"),
        ([release(sha256="0" * 64)], "1.1.0", "digest mismatch, expected sha256 0000"),
        ([release(part="m328p")], "1.1.0", "is for part m328p, the controller has m32"),
        ([release(content="")], "1.1.0", "digest mismatch"),
    ],
    ids=["none", "unknown", "not wanted", "digest", "part", "empty"],
)
def test_a_release_that_does_not_fit(
    tmp_path: Path, offered: list[dict[str, Any]], wanted: str | None, reason: str
) -> None:
    gateway = site.gateway(tmp_path, [entry("a")])
    with pytest.raises(InventoryError, match=rf"controller a: .*{reason}.*Nothing was sent"):
        from_releases(gateway, offered, wanted, allow_unsigned=True)


def test_a_profile_without_part_cannot_be_flashed(tmp_path: Path) -> None:
    data = mapping("multi_sonicator_io")
    del data["part"]
    controllers = parse_controllers([entry("a", programmer="/dev/isp")], {"multi_sonicator_io": data})
    gateway = site.gateway(tmp_path, [])
    gateway.controllers = controllers
    with pytest.raises(InventoryError, match="describes no part, so nothing can be flashed"):
        from_releases(gateway, [release()], "1.1.0", allow_unsigned=True)

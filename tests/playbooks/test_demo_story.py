# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's story with its own inventory: configure, deploy, the same again, a release that never answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ansible import COLLECTION, RELEASES, UNTOUCHED, Run, VirtualSite
from support.site import flash_of
from support.virtual import REPOSITORY, Board, firmware

INVENTORY = REPOSITORY / "inventories/demo"
GATEWAYS = {
    "gateway_a": [[Board("mixer_1", 2), Board("mixer_2", 3)], [Board("press_1", 2)]],
    "gateway_b": [[Board("press_2", 2)]],
}
CONTROLLERS = ("mixer_1", "mixer_2", "press_1", "press_2")
# By the host variables of the inventory: the amplitudes of sonicator 1 and 2.
AMPLITUDES = {"mixer_1": [60, 65], "mixer_2": [70, 50], "press_1": [80, 50], "press_2": [85, 50]}


class DemoSite(VirtualSite):
    """The simulated lines where the demo's inventory looks for them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "boards", GATEWAYS)
        self.root = directory / "root"
        for gateway, lines in GATEWAYS.items():
            # As the role virtual_controller makes them.
            ports = self.root / gateway / "dev"
            ports.mkdir(parents=True)
            (self.root / gateway / "control").mkdir()
            for number, boards in enumerate(lines, 1):
                line = self.lines[f"{gateway}/line_{number}"]
                (ports / f"line_{number}").symlink_to(line.line)
                for board in boards:
                    (ports / f"isp_{board.name}").symlink_to(line.programmer(board.name))

    def demo(self, playbook: str, *, code: int = 0, **variables: str) -> Run:
        extra = {"virtual_site_root": str(self.root), "controllers_soak": "0.3", **variables}
        words = [word for name, value in extra.items() for word in ("-e", f"{name}={value}")]
        return self.control.run("ansible-playbook", "-i", str(INVENTORY), f"{COLLECTION}.{playbook}", *words).require(
            code
        )

    def require(self, version: str) -> None:
        """AssertionError unless all controllers are on this release with their settings."""
        for name in CONTROLLERS:
            assert self.flash(name).rstrip(b"\xff") == flash_of(version), name
            assert [self.register(name, address) for address in (0x0101, 0x0121)] == AMPLITUDES[name], name
            assert self.register(name, 0x0013) == 0, "starts are allowed"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[DemoSite]:
    tmp_path.joinpath("boards").mkdir()
    with DemoSite(tmp_path) as running:
        yield running


def table(run: Run) -> list[list[str]]:
    return [row.split(maxsplit=7) for row in run.messages[-1].splitlines()]


def test_demo_story(demo: DemoSite) -> None:
    for version in RELEASES:
        assert demo.demo("release", version=version, image=str(firmware(version))).changed
    assert demo.demo("trust").changed
    assert not demo.demo("trust").changed
    assert [row[:7] for row in table(demo.demo("status"))[1:]] == [
        ["gateway_a", "mixer_1", "line_1", "2", "1.1.0", "1.0.0", "ok"],
        ["gateway_a", "mixer_2", "line_1", "3", "1.1.0", "1.0.0", "ok"],
        ["gateway_a", "press_1", "line_2", "2", "1.1.0", "1.0.0", "ok"],
        ["gateway_b", "press_2", "line_1", "2", "1.1.0", "1.0.0", "ok"],
    ]
    assert demo.demo("configure").changed
    demo.require("1.0.0")

    run = demo.demo("deploy")
    assert {name: one["outcome"] for name, one in run.controllers("firmware").items()} == dict.fromkeys(
        CONTROLLERS, "deployed"
    )
    said = [line for line in "\n".join(run.messages).splitlines() if "proven" in line]
    assert sorted(line.partition("/")[2] for line in said) == [
        f"{name}: 1.0.0 → 1.1.0, proven on the device" for name in CONTROLLERS
    ]
    demo.require("1.1.0")

    run = demo.demo("deploy")
    assert not run.changed
    assert run.traffic == {**UNTOUCHED, "requests": run.traffic["requests"]}

    run = demo.demo("deploy", code=2, firmware_version="1.2.0")
    found = run.controllers("firmware")
    assert {name: one["outcome"] for name, one in found.items()} == {
        "mixer_1": "rolled_back", "mixer_2": "would_deploy", "press_1": "would_deploy", "press_2": "would_deploy",
    }, "the canary fails, and nothing else is begun"  # fmt: skip
    lines = [line for message in run.messages for line in message.splitlines()]
    [line] = [line for line in lines if "did not come up" in line]
    assert line.startswith("mixer_1: 1.2.0 did not come up") and "silent" in line and "back on 1.1.0" in line
    assert {line for line in lines if line.endswith("not begun")} == {f"{name}: not begun" for name in CONTROLLERS[1:]}
    assert any("failure budget exceeded: 1 of 1" in line for line in lines)
    demo.require("1.1.0")

    rows = table(demo.demo("status"))[1:]
    assert [row[4:7] for row in rows] == [["1.1.0", "1.1.0", "ok"]] * 4
    assert [row[7].split()[0] for row in rows] == ["rolled_back", "deployed", "deployed", "deployed"]

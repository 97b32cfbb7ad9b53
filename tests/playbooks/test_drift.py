# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody set at a controller is found by drift.yml, and accepted into the inventory or put back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from _core.line import open_bus
from support.ansible import UNTOUCHED, Run, VirtualSite
from support.virtual import Board

AMPLITUDE = {1: 0x0101, 2: 0x0121}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[VirtualSite]:
    """One controller with a setting in the inventory, and two whose settings only the history knows."""
    gateways = {"gateway_a": [[Board("press_1"), Board("press_2", 3)]], "gateway_b": [[Board("mixer_1")]]}
    with VirtualSite(tmp_path, gateways) as site:
        site.controllers["gateway_a"][0]["settings"] = {"sonicator1_amplitude": 60}
        site.play("configure")
        site.play("snapshot")
        yield site


def set_at_the_panel(site: VirtualSite, controller: str, sonicator: int, value: int) -> None:
    line = site.line(controller)
    bus = open_bus(str(line.line))
    try:
        bus.write(line.boards[controller].unit, AMPLITUDE[sonicator], [value])
    finally:
        bus.close()


def amplitudes(site: VirtualSite, controller: str) -> list[int]:
    return [site.register(controller, address) for address in AMPLITUDE.values()]


def found(run: Run) -> list[dict[str, Any]]:
    drift: list[dict[str, Any]] = run.event("Find what is otherwise than it should be")["result"]["drift"]
    return drift


def test_drift_is_told_and_put_back(site: VirtualSite) -> None:
    assert "no drift" in site.play("drift", controllers_drift="fail").output
    usual = amplitudes(site, "press_1")
    set_at_the_panel(site, "press_1", 1, 33)
    set_at_the_panel(site, "press_1", 2, 34)
    set_at_the_panel(site, "mixer_1", 1, 35)

    for how, code in (("show", 0), ("fail", 2)):
        shown = site.play("drift", code=code, controllers_drift=how)
        assert not shown.changed and amplitudes(site, "press_1") == [33, 34]
        told = {(one["controller"], one["point"], one["found"], one["source"]) for one in found(shown)}
        assert told == {
            ("press_1", "sonicator1_amplitude", 33, "inventory"),
            ("press_1", "sonicator2_amplitude", 34, "history"),
            ("mixer_1", "sonicator1_amplitude", 35, "history"),
        }
    assert "gateway_a/press_1: sonicator1_amplitude is 33, the inventory says 60" in shown.output

    site.play("drift", check=True, controllers_drift="put_back")
    assert amplitudes(site, "press_1") == [33, 34]
    site.play("drift", controllers_drift="put_back")
    assert amplitudes(site, "press_1") == usual
    assert "no drift" in site.play("drift", controllers_drift="fail").output


def test_drift_is_accepted_into_the_inventory(site: VirtualSite) -> None:
    set_at_the_panel(site, "press_1", 1, 33)
    set_at_the_panel(site, "mixer_1", 1, 35)
    before = (site.inventory / "hosts.yml").read_text()
    checked = site.play("drift", check=True, controllers_drift="accept")
    assert (site.inventory / "hosts.yml").read_text() == before
    assert "-" in checked.output and "sonicator1_amplitude: 33" in checked.output

    accepted = site.play("drift", controllers_drift="accept", controllers_reason="works better")
    assert {key: accepted.traffic[key] for key in UNTOUCHED} == UNTOUCHED
    after = yaml.safe_load((site.inventory / "hosts.yml").read_text())["gateways"]["hosts"]
    assert after["gateway_a"]["controllers"][0]["settings"] == {"sonicator1_amplitude": 33}
    assert after["gateway_b"]["controllers"][0]["settings"] == {"sonicator1_amplitude": 35}
    assert len((site.inventory / "hosts.yml").read_text().splitlines()) == len(before.splitlines()) + 1
    newest = site.play("history").result("history")["changes"][:2]
    assert {(one["controller"], one["reason"], one["audit"]) for one in newest} == {
        (name, "works better", "") for name in ("press_1", "mixer_1")
    }

    for gateway, host in after.items():
        site.controllers[gateway] = host["controllers"]
    assert "no drift" in site.play("drift", controllers_drift="fail").output


def test_what_cannot_be_accepted_is_said_with_what_to_write(site: VirtualSite) -> None:
    set_at_the_panel(site, "press_1", 1, 33)
    site.variables["of_press_1"] = site.controllers["gateway_a"]
    site.hosts["gateway_a"] = {"controllers": "{{ of_press_1 }}"}
    refused = site.play("drift", code=2, controllers_drift="accept")
    said = refused.event("Accept it into the inventory")["result"]["msg"]
    assert "gateway_a, controller press_1: listed in no file" in said
    assert "write by hand: settings: {sonicator1_amplitude: 33}" in said and "Nothing was written" in said


def test_who_does_not_answer_is_named_and_the_others_are_compared(site: VirtualSite) -> None:
    site.command("press_2", "power", "off")
    set_at_the_panel(site, "press_1", 1, 33)
    shown = site.play("drift", code=2)
    assert [one["controller"] for one in found(shown)] == ["press_1"]
    assert any("press_2: " in message for message in shown.messages)
    site.play("drift", code=2, controllers_drift="put_back")
    assert amplitudes(site, "press_1")[0] == 60, "the others of the gateway are put back"


def test_what_cannot_be_compared_is_no_agreement(site: VirtualSite) -> None:
    """A setting that the profile does not know: what the inventory says of that gateway cannot be judged."""
    site.controllers["gateway_a"][0]["settings"]["sonicator1_amplitud"] = 60
    set_at_the_panel(site, "press_1", 1, 33)
    shown = site.play("drift", code=2)
    assert found(shown) == []
    assert any("sonicator1_amplitud" in message for message in shown.messages)
    assert site.play("drift", code=2, controllers_drift="accept").traffic["programmer_opened"] == 0
    assert "sonicator1_amplitude: 33" not in (site.inventory / "hosts.yml").read_text()


def test_other_firmware_is_told(site: VirtualSite) -> None:
    """As after a laptop: deploy.yml would have recorded it."""
    site.play("deploy", firmware_version="1.1.0", controllers_only=["mixer_1"], controllers_history="")
    [one] = [one for one in found(site.play("drift")) if one["point"] == "version"]
    assert (one["controller"], one["found"], one["expected"], one["setting"]) == ("mixer_1", "1.1.0", "1.0.0", False)
    site.play("drift", controllers_drift="put_back")
    site.play("drift", controllers_drift="accept")
    assert "no drift" in site.play("drift").output

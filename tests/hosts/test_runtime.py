# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway's services under systemd: whatever is done to them, controllers hear from somebody, and they come back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import fleet as hosts
import pytest
from support.hosts import CONTROLLERS, LINE, PROGRAMS, HostSite

pytestmark = pytest.mark.timing

KEEPER = "multi-sonicator-keeper.service"
LONGEST_GAP_MS = 500
# What a firmware bears before it stops its units.
LONGEST_SILENCE_MS = 1000
PATIENCE = 20.0


class Gateway(HostSite):
    """One host that the role has made a gateway, with two controllers on one line."""

    name = "gateway"

    def start_units(self) -> None:
        """One of each controller."""
        point = "sonicator1_start_stop"
        arguments = {"controllers": CONTROLLERS, "values": {point: 1}, "allow": [point]}
        module = ("-m", "multi_sonicator.ops.registers", "-a", json.dumps(arguments))
        self.run(str(PROGRAMS / "ansible"), "-i", str(self.inventory), "gateways", *module)

    def ssh(self, command: str, code: int = 0) -> str:
        done = self.fleet.ssh(self.name, command, check=False)
        assert done.returncode == code, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return f"{done.stdout}{done.stderr}".strip()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.fleet.ssh(self.name, "msctl status --json", check=False).stdout)
        return found

    def wait_until_all(self, state: str) -> None:
        until = time.monotonic() + PATIENCE
        while self.fleet.ssh(self.name, f"msctl status | grep -c '  {state} '", check=False).stdout.strip() != "2":
            assert time.monotonic() < until, self.ssh("msctl status; true")
            time.sleep(0.1)

    def forget(self) -> None:
        self.fleet.control(self.name, LINE, "counters_reset")

    def longest_gap(self) -> int:
        """Longest time since the last ``forget`` for which a board heard nothing, in ms; no board was written to."""
        boards = [self.fleet.control(self.name, one["name"], "state") for one in CONTROLLERS]
        assert [board["write_requests"] for board in boards] == [0, 0]
        return max(int(board["longest_gap_ms"]) for board in boards)

    def main_pid(self) -> str:
        return self.ssh(f"systemctl show --value -p MainPID {KEEPER}")


@pytest.fixture(scope="module")
def gateway(machine: None) -> Iterator[Gateway]:
    with Gateway() as one:
        one.fleet.up([hosts.Host(Gateway.name, "bookworm", CONTROLLERS)])
        one.play("provision")
        one.wait_until_all("answers")
        yield one


def test_a_new_configuration_comes_in_without_a_silence(gateway: Gateway) -> None:
    controllers = [{**CONTROLLERS[0], "settings": {"sonicator1_amplitude": 60}}, CONTROLLERS[1]]
    before = gateway.main_pid()
    gateway.forget()
    gateway.play("provision", gateway_controllers=controllers)
    time.sleep(1)
    assert gateway.main_pid() != before
    assert gateway.longest_gap() <= LONGEST_GAP_MS
    assert gateway.ssh(f"systemctl show --value -p NRestarts {KEEPER}") == "0"
    assert gateway.status()["pid"] == int(gateway.main_pid())
    gateway.play("provision")


def test_another_unit_comes_in_without_a_silence(gateway: Gateway) -> None:
    gateway.ssh(f"sudo sed -i s/^Nice=.*/Nice=0/ /etc/systemd/system/{KEEPER}; sudo systemctl daemon-reload")
    before = gateway.main_pid()
    gateway.forget()
    assert "Restart the line keeper without a silence" in gateway.play("provision")
    time.sleep(1)
    assert gateway.main_pid() != before
    assert gateway.longest_gap() <= LONGEST_GAP_MS
    assert gateway.ssh(f"ps -o ni= -p {gateway.main_pid()}").strip() == "-10"


def test_a_configuration_that_cannot_be_used_leaves_the_keeper_as_it_is(gateway: Gateway) -> None:
    configuration = "/etc/multi_sonicator/gateway.json"
    gateway.ssh(f"sudo cp {configuration} /tmp; echo broken | sudo tee {configuration}")
    before = gateway.main_pid()
    gateway.forget()
    gateway.ssh(f"sudo systemctl reload {KEEPER}", code=1)
    gateway.ssh(f"sudo cp /tmp/gateway.json {configuration}")
    assert gateway.main_pid() == before
    assert gateway.longest_gap() <= LONGEST_GAP_MS
    assert "damaged" in gateway.ssh(f"sudo journalctl --no-pager -u {KEEPER} -n 20")


@pytest.mark.parametrize("handed_over", [False, True])
def test_a_keeper_that_is_killed_is_back_before_units_stop(gateway: Gateway, handed_over: bool) -> None:
    if handed_over:
        gateway.ssh(f"sudo systemctl reload {KEEPER}")
    before = gateway.main_pid()
    gateway.forget()
    gateway.ssh(f"sudo kill -9 {before}")
    time.sleep(2)
    gateway.wait_until_all("answers")
    assert gateway.main_pid() not in (before, "0")
    gap = gateway.longest_gap()
    print(f"silence after the kill: {gap} ms")
    assert gap < LONGEST_SILENCE_MS


def test_a_line_that_is_pulled_and_put_back_is_used_again(gateway: Gateway) -> None:
    before = gateway.main_pid()
    gateway.fleet.unplug(gateway.name, LINE)
    gateway.wait_until_all("unreachable")
    assert "check the cable" in gateway.ssh("msctl status", code=1)
    gateway.fleet.plug(gateway.name, LINE)
    gateway.wait_until_all("answers")
    assert gateway.main_pid() == before


def test_what_an_ordinary_user_may_do(gateway: Gateway) -> None:
    assert "mixer_1" in gateway.ssh("msctl status")
    assert "multi-sonicator" in gateway.ssh("sudo msctl lines")
    assert "join the group dialout" in gateway.ssh("msctl read mixer_1 active_count", code=1)
    assert gateway.ssh("sudo msctl read mixer_1 active_count") == "active_count = 0"


def test_stop_all_stops_units_and_says_who_wanted_it(gateway: Gateway) -> None:
    gateway.start_units()
    assert gateway.ssh("sudo msctl read mixer_2 active_mask") == 'active_mask = ["sonicator1"]'
    gateway.ssh("sudo msctl stop-all --yes")
    assert gateway.ssh("sudo msctl read mixer_2 active_mask") == "active_mask = []"
    said = gateway.ssh("sudo journalctl --no-pager -t multi_sonicator -o cat -n 2").splitlines()
    assert {json.loads(line)["what"] for line in said} == {"emergency"}
    assert all(f"msctl by {hosts.USER}" in line for line in said)


def test_the_services_come_back_after_a_reboot(gateway: Gateway) -> None:
    gateway.fleet.reboot(gateway.name)
    gateway.wait_until_all("answers")
    assert gateway.ssh(f"systemctl is-active {KEEPER} multi-sonicator-snapshot.timer").split() == ["active", "active"]

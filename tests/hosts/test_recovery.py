# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was lost comes back from a gateway's backups: settings, controllers, the gateway itself, and the whole site."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from support.backup_site import BOARDS, GATEWAY, SPARE, START, VAULT, BackupSite
from support.hosts import LINE, changes
from support.runbooks import command

POINT = "sonicator1_amplitude"
# Production on the gateway's line, until it is told to end.
ENOUGH = "/run/enough"
PRODUCTION = f"""
import pathlib, sys, time
sys.path.insert(0, "/usr/local/lib/multi_sonicator/current")
from _core.device import Device
from _core.gateway import open_line
from _core.settings import load
[mixer] = [one for one in load().controllers if one.name == "mixer_1"]
device = Device(mixer.name, mixer.unit, mixer.profile, open_line([mixer]))
device.write("sonicator1_start_stop", 1)
while not pathlib.Path("{ENOUGH}").exists():
    device.read(["active_mask"])
    time.sleep(0.1)
device.write("sonicator1_start_stop", 0)
"""


@pytest.fixture(scope="module")
def site(machine: None) -> Iterator[BackupSite]:
    with BackupSite() as made:
        made.up()
        made.play("backup", backup_now=True)
        yield made


def test_a_controller_comes_back(site: BackupSite) -> None:
    read = f"sudo msctl read --json mixer_1 {POINT}"
    kept = json.loads(site.fleet.ssh(GATEWAY, read).stdout)
    taken = site.status["set"]

    names = {"hall_a": GATEWAY, "press_1": "mixer_1"}
    register = {**names, "sonicator1_amplitude": POINT}
    other = [{**BOARDS[0], "settings": {POINT: kept[POINT] - 20}}, *BOARDS[1:]]

    def alter() -> None:
        site.follow("restore_register", 6, names, controllers=other)
        assert json.loads(site.fleet.ssh(GATEWAY, read).stdout) != kept

    def proven(output: str, target: str) -> None:
        assert f"set {taken} of" in output and f"from {target}" in output
        assert f"mixer_1: put back {POINT}" in output
        assert "recovery time" in output and "recovery point" in output
        assert json.loads(site.fleet.ssh(GATEWAY, read).stdout) == kept

    alter()
    shown = site.follow("restore_register", 0, register)
    assert f"set {taken} of" in shown and "from vault" in shown
    assert json.loads(site.fleet.ssh(GATEWAY, read).stdout) != kept
    proven(site.follow("restore_register", 1, register), "vault")
    alter()
    proven(site.follow("restore_register", 4, {**register, "ID": taken}), "vault")
    alter()
    proven(site.follow("restore_register", 5, {**register, "vault": "hall"}), "hall")
    history = str(site.place / ".local/state/multi_sonicator/history")
    assert b"from backup set" in site.run("git", "-C", history, "log", "-1")
    assert "mixer_1: settings are those of the set" in site.follow("restore_register", 2, names)
    assert "mixer_1" in site.follow("restore_register", 3, names)

    site.follow("restore_controller", 8, names)
    site.fleet.ssh(GATEWAY, START)
    assert "its chip as it was read at" in site.follow("restore_controller", 0, names)
    assert "mixer_1: " in site.follow("restore_controller", 1, names)
    assert "mixer_1: " in site.follow("restore_controller", 2, names)
    assert "1.0.0" in site.follow("restore_controller", 3, names)
    assert "usb-Arduino" in site.follow("restore_controller", 7, names)

    # It answers, and what was last read of it says otherwise.
    [eeprom] = site.fleet.directory.glob(f"*/{GATEWAY}/*/boards/mixer_1/eeprom.bin")
    site.fleet.control(GATEWAY, "mixer_1", "power", "off")
    with eeprom.open("r+b") as stream:
        stream.seek(100)
        stream.write(b"altered")
    site.fleet.control(GATEWAY, "mixer_1", "power", "on")
    site.follow("restore_controller", 1, names)
    assert b"altered" not in eeprom.read_bytes()

    site.fleet.ssh(GATEWAY, f"sudo systemd-run -q --unit=production python3 -c {shlex.quote(PRODUCTION)}")
    assert "not at rest" in " ".join(site.follow("restore_controller", 1, names, code=2).split())
    end = threading.Timer(8, site.fleet.ssh, (GATEWAY, f"sudo touch {ENOUGH}"))
    end.start()
    assert "mixer_1: " in site.follow("restore_controller", 4, names)
    assert end.finished.is_set()
    assert site.fleet.ssh(GATEWAY, "systemctl is-failed production", check=False).stdout == "inactive\n"

    site.fleet.control(GATEWAY, "mixer_1", "power", "off")
    for scope in ("settings", "controller"):
        output = site.play("restore", code=2, recovery_controllers=["mixer_1", "mixer_2"], scope=scope)
        assert "mixer_1: " in output and "mixer_2: " in output, "each is told, whatever becomes of the other"
    site.fleet.control(GATEWAY, "mixer_1", "power", "on")

    refused = site.play("restore", code=2, scope="settings", recovery_controllers=["mixer_9"])
    assert "expected names of mixer_1, mixer_2" in refused
    refused = site.play("restore", code=2, scope="register", recovery_controllers=["mixer_1"])
    assert "recovery_registers is empty and the scope is register" in " ".join(refused.split())
    swapped = [{**BOARDS[0], "unit": 3}, {**BOARDS[1], "unit": 2}, *BOARDS[2:]]
    refused = site.play("restore", code=2, scope="settings", recovery_controllers=["mixer_1"], controllers=swapped)
    assert "is of another board: unit 2 there, 3 here" in " ".join(refused.split())


def test_the_server_is_hardened_as_gateways_are(site: BackupSite) -> None:
    """Gateways store there on, and nobody else comes in by their accounts."""
    control_node = re.sub(r"[0-9]+$", "1", site.fleet.address(VAULT))
    peers = [
        {"port": port, "protocol": "tcp", "peers": ["gateways", SPARE, control_node], "comment": "backups"}
        for port in (22, 8000)
    ]
    people = [{"name": "vera", "role": "viewer"}]
    site.follow("restore_site", 5, {"backup_servers": VAULT}, hardening_firewall_allow=peers)
    site.follow("restore_site", 6, {"backup_servers": VAULT}, access_people=people)
    site.follow("restore_control_node", 5, {}, access_people=people)
    site.fleet.ssh(GATEWAY, START)
    told = site.status
    assert not told["failed"] and told["problems"] == []
    assert {told["targets"][name]["set"] for name in ("vault", "hall")} == {told["set"]}


def test_a_gateway_comes_back_from_bare_debian(site: BackupSite) -> None:
    """With a new disk, the same name and new keys: one command, whose plan is shown before."""
    record = "sudo cat /var/lib/multi_sonicator/controllers/mixer_1/record.yml"
    site.follow("drill", 10, {"hall_a": GATEWAY, "press_1": "mixer_1"})
    known = site.fleet.ssh(GATEWAY, record).stdout
    site.fleet.ssh(GATEWAY, START)
    kept = site.status["set"]
    hosts_known = site.fleet.known_hosts.read_text()
    site.fleet.reinstall(GATEWAY)
    site.fleet.known_hosts.write_text(hosts_known)
    assert "IDENTIFICATION HAS CHANGED" in site.fleet.ssh(GATEWAY, "true", check=False).stderr
    forget = command("restore_gateway", 0, {"192.0.2.11": site.fleet.address(GATEWAY)})
    site.run(*forget, "-f", str(site.fleet.known_hosts))
    program, *confirm = site.fleet.ssh_command(GATEWAY)
    site.run(program, "-o", "StrictHostKeyChecking=accept-new", *confirm, "true")
    assert site.fleet.ssh(GATEWAY, "ls /var/lib/multi_sonicator", check=False).stdout == ""

    names = {"hall_a": GATEWAY, "backup_servers": VAULT}
    assert LINE in site.follow("restore_gateway", 1, names)
    site.follow("restore_gateway", 2, names)
    assert site.fleet.ssh(GATEWAY, "ls /var/lib/multi_sonicator", check=False).stdout == ""
    began = time.monotonic()
    targets = site.variables["backup_targets"]
    site.variables["backup_targets"] = [{"name": "burnt", "repository": "rest:http://127.0.0.1:1/"}, *targets]
    output = site.follow("restore_gateway", 3, names)
    site.variables["backup_targets"] = targets
    assert "backup target burnt: " in output and "from vault" in output
    assert time.monotonic() - began < 600
    assert f"set {kept} of" in output
    figures = re.search(r"recovery time (\d+) s, recovery point (\d+) s before", output)
    assert figures is not None and int(figures[1]) > 0
    assert site.fleet.ssh(GATEWAY, record).stdout == known
    assert site.fleet.ssh(GATEWAY, f"sudo ls /var/lib/multi_sonicator/recovered/{kept}").stdout.count("packages") == 1
    for board in BOARDS:
        assert f"{board['name']}: " in output
    assert site.fleet.ssh(GATEWAY, "msctl status").stdout.count("answers") == len(BOARDS)
    assert "in vault and hall" in site.follow("restore_gateway", 4, names)
    assert not site.status["failed"]
    output = site.follow("restore_gateway", 5, {**names, "vault": "hall"}, recovery_set=kept)
    assert "from hall" in output and set(changes(output).values()) == {0}


def test_the_whole_site_comes_back(site: BackupSite) -> None:
    """The same for all gateways, with the boards that are new; what was not lost is left as it is."""
    names = {"gateways": GATEWAY, "hall_a": GATEWAY, "backup_servers": VAULT}
    assert LINE in site.follow("restore_site", 0, names)
    site.variables["recovery_controllers"] = ["mixer_1"]
    site.follow("restore_site", 1, names)
    site.fleet.control(GATEWAY, "mixer_1", "power", "off")
    assert "mixer_1: " in site.follow("restore_site", 2, names, code=2)
    site.fleet.control(GATEWAY, "mixer_1", "power", "on")
    output = site.follow("restore_site", 4, names)
    assert "mixer_1: " in output and "recovery time" in output and "LAST CHANGE" in output
    assert site.follow("restore_site", 3, names)
    assert (site.secrets(GATEWAY), site.secrets(VAULT)) == (["/etc/multi_sonicator/backup.json"], [])
    del site.variables["recovery_controllers"]


@contextlib.contextmanager
def variables_beside_the_inventory(site: BackupSite, more: Mapping[str, Any]) -> Iterator[None]:
    """For a drill, which takes nothing from -e that could lead to the site itself."""
    given, beside = site.variables, site.inventory.parent / "group_vars"
    beside.mkdir()
    (beside / "all.json").write_text(json.dumps({**given, **more}))
    site.variables = {"target": GATEWAY}
    try:
        yield
    finally:
        site.variables = given
        shutil.rmtree(beside)


def test_a_gateway_comes_back_on_a_spare_host_in_a_drill(site: BackupSite) -> None:
    """The drill finds what the inventory does not bring back, and leaves a bare host. The gateway has no part in it."""
    by_hand = "/etc/udev/rules.d/99-by-hand.rules"
    site.fleet.ssh(GATEWAY, f"echo '# a quick help' | sudo tee {by_hand}")
    site.fleet.ssh(GATEWAY, START)
    kept = site.status["set"]
    drill: dict[str, Any] = {
        "recovery_drill_targets": [{"name": "vault", "server": VAULT, "by": "rest"}],
        "recovery_drill_sample": 1,
        "recovery_drill_soak": 0.3,
    }
    for wrong, reason in ((VAULT, "vault1 has /etc/multi_sonicator: expected bare Debian"), (GATEWAY, "is no gateway")):
        assert reason in " ".join(site.play("recovery_drill", code=2, recovery_drill_spare=wrong, **drill).split())
    modules = "sudo journalctl --identifier=sudo | grep -c BECOME-SUCCESS"
    before = site.fleet.ssh(GATEWAY, modules).stdout
    drills = site.place / ".local/state/multi_sonicator/drills"
    with variables_beside_the_inventory(site, drill):
        elsewhere = site.inventory.parent / f"host_vars/{SPARE}.json"
        elsewhere.parent.mkdir()
        elsewhere.write_text('{"ansible_port": 1}')
        site.follow("drill", 3, {"spare_a": SPARE}, code=2)
        [path] = drills.glob("*.json")
        result = json.loads(path.read_text())
        assert len(result["problems"]) == 1, result["problems"]
        assert f"{GATEWAY}: {SPARE} cannot be reached: " in result["problems"][0]
        proofs = result["controllers"].values()
        assert [one["problems"] for one in proofs] == [[]], "controllers have their drill all the same"
        path.unlink()
        shutil.rmtree(elsewhere.parent)
        output = " ".join(site.follow("drill", 3, {"spare_a": SPARE}, code=2).split())
    assert site.fleet.ssh(GATEWAY, modules).stdout == before, "the gateway itself has no part in it"
    assert f"gateway {GATEWAY} in " in output and "recovery time " in output and "canary" not in output

    [path] = drills.glob("*.json")
    result = json.loads(path.read_text())
    assert result["problems"] == [f"{GATEWAY}: {by_hand} is missing"], "all else is what it was"
    proof = result["gateways"][GATEWAY]
    assert (proof["set"], proof["targets"]) == (kept, ["vault"]) and 0 < proof["seconds"] < 600
    assert [one["problems"] for one in result["controllers"].values()] == [[]]
    left = "ls -d /etc/multi_sonicator /var/lib/multi_sonicator /etc/systemd/system/multi-sonicator-* 2>/dev/null"
    assert site.fleet.ssh(SPARE, left, check=False).stdout == ""
    # As if one had been cut off.
    site.fleet.ssh(SPARE, "echo key | sudo install -D -m 600 /dev/stdin /etc/multi_sonicator/backup.json")
    site.follow("drill", 11, {"spare_a": SPARE})
    assert site.fleet.ssh(SPARE, left, check=False).stdout == ""
    assert site.secrets(SPARE) == []
    site.fleet.ssh(GATEWAY, f"sudo rm {by_hand}")

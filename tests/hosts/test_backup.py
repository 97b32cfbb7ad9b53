# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway keeps backups on another host, in one place that only takes, and in one that is reached by SFTP."""

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

import fleet as hosts
import pytest
from support.ansible import VirtualSite
from support.hosts import CONTROLLERS, LINE, PASSPHRASE, HostSite, changes
from support.runbooks import command

GATEWAY, VAULT, SPARE = "gateway1", "vault1", "spare1"
BOARDS = [
    *CONTROLLERS,
    *({"name": f"mixer_{number}", "line": LINE, "unit": number + 1} for number in (3, 4)),
]
PASSWORD = "canary.of-the-repository"
RECOVERY = "canary.of-the-recovery"
REST = "canary.of-the-gateway"
POINT = "sonicator1_amplitude"
BEFORE = ["certificates.json", "gateway.json", "tls"]
UNIT = "multi-sonicator-backup.service"
START = f"sudo systemctl start {UNIT}"
LOCK = "/var/lib/multi_sonicator/backup/lock"
STATUS = "/var/lib/multi_sonicator/backup/status.json"
METRICS = "/var/lib/multi_sonicator/metrics/multi_sonicator_backup.prom"
# A program on the gateway that works with the targets as the backup's own does.
AT_TARGET = """
import dataclasses, json, sys
from pathlib import Path
sys.path.insert(0, "/usr/local/lib/multi_sonicator/current")
from _core.backup import Configuration
from _core.backup_set import verified
from _core.restic import Restic
configuration = Configuration.load()
target = {one.name: one for one in configuration.targets}[sys.argv[1]]
restic = configuration.restic(target)
"""
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
def site(machine: None) -> Iterator[HostSite]:
    with HostSite(
        target=GATEWAY,
        backup_servers=VAULT,
        backup_server_gateways=[GATEWAY],
        backup_targets=[
            {"name": "vault", "server": VAULT, "by": "rest"},
            {"name": "hall", "server": VAULT, "by": "sftp"},
        ],
        backup_calendar="2099-01-01",  # one at midnight came between two steps of a test
        backup_password=PASSWORD,
        backup_recovery_password=RECOVERY,
        backup_rest_password=REST,
        certificates_ca_passphrase=PASSPHRASE,
        certificates_names=["{{ inventory_hostname }}", "{{ ansible_host }}"],
    ) as made:
        made.fleet.up(
            [hosts.Host(GATEWAY, "bookworm", BOARDS), hosts.Host(VAULT, "trixie"), hosts.Host(SPARE, "bookworm")]
        )
        made.play("provision")
        service = {"name": "backup", "usage": "server", "reload": "multi-sonicator-backup-server.service"}
        made.play("certificates", target=VAULT, certificates_services=[service])
        made.play("certificates")
        yield made


def at_target(site: HostSite, name: str, script: str, check: bool = True) -> str:
    """What a script prints on the gateway that has one of its targets as ``restic``."""
    text = f"{AT_TARGET}{script}"
    done = site.fleet.ssh(GATEWAY, f"sudo python3 -c {shlex.quote(text)} {name} 2>&1", check=check)
    return str(done.stdout)


def status(site: HostSite) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(site.fleet.ssh(GATEWAY, f"cat {STATUS}").stdout)
    return told


def metric(site: HostSite, name: str) -> float:
    lines = site.fleet.ssh(GATEWAY, f"cat {METRICS}").stdout.splitlines()
    return float({line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines}[f"multi_sonicator_backup_{name}"])


def test_check_mode_on_hosts_that_have_nothing_of_it(site: HostSite) -> None:
    output = site.play("backup", "--check", "--diff")
    assert "canary" not in output
    assert site.fleet.ssh(VAULT, "ls /srv").stdout == ""
    assert site.fleet.ssh(GATEWAY, "ls /etc/multi_sonicator").stdout.split() == BEFORE


def test_a_backup_is_in_both_places(site: HostSite) -> None:
    output = site.play("backup", "--diff", backup_now=True)
    assert "canary" not in output
    told = status(site)
    assert not told["failed"] and told["problems"] == []
    assert f"set {told['set']} in vault and hall" in output
    for name in ("vault", "hall"):
        assert at_target(site, name, "print(*(one.set_id for one in restic.sets()))").split() == [told["set"]]
        assert metric(site, f'last_success_timestamp_seconds{{target="{name}"}}') > 1.7e9
    assert metric(site, "last_run_failed") == 0


def test_a_second_run_changes_nothing(site: HostSite) -> None:
    assert set(changes(site.play("backup")).values()) == {0}


def test_what_comes_back_is_what_the_controllers_are(site: HostSite) -> None:
    fetched = """
manifest_id = json.loads(Path(configuration.directory / "status.json").read_text())["set"]
place = Path("/root/fetched")
restic.fetch(restic.find(manifest_id), place)
manifest = verified(place, manifest_id)
print(json.dumps({"files": list(manifest.files), "controllers": dict(manifest.controllers)}))
import shutil, yaml
read = lambda name: yaml.safe_load((place / "controllers" / name / "set.yml").read_text())
print(json.dumps({name: read(name)["settings"] for name in manifest.controllers}))
print((place / "gateway/packages").read_text().count("python3-serial="))
print("multi-sonicator" in (place / "gateway/warnings").read_text() + (place / "gateway/services.json").read_text())
shutil.rmtree(place)
"""
    told, settings, packages, asked = at_target(site, "vault", fetched).splitlines()
    manifest = json.loads(told)
    assert set(manifest["controllers"]) == {one["name"] for one in BOARDS}
    for name in manifest["controllers"]:
        kept = json.loads(settings)[name]
        names = " ".join(kept)
        now = json.loads(site.fleet.ssh(GATEWAY, f"sudo msctl read --json {name} {names}").stdout)
        assert now == kept and len(kept) > 5
    assert "files/etc/multi_sonicator/tls/ca.crt" in manifest["files"]
    assert any(path.startswith("files/etc/ssh/ssh_host_") for path in manifest["files"])
    assert not any("backup.json" in path or "multi_sonicator/backup/" in path for path in manifest["files"])
    assert (packages, asked) == ("1", "True")


def test_a_controller_comes_back(site: HostSite) -> None:
    read = f"sudo msctl read --json mixer_1 {POINT}"
    kept = json.loads(site.fleet.ssh(GATEWAY, read).stdout)
    taken = status(site)["set"]

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


def test_a_gateway_that_was_taken_over_deletes_nothing(site: HostSite) -> None:
    before = at_target(site, "vault", "print(len(restic.sets()))")
    overwritten = at_target(
        site,
        "vault",
        """
import base64, ssl, urllib.request
user, _at, place = target.repository.removeprefix("rest:https://").rpartition("@")
url, known = "https://" + place, base64.b64encode(user.encode()).decode()
context = ssl.create_default_context(cafile=target.options[1])
for verb in ("DELETE", "POST"):
    for path in ("config", "snapshots/" + restic.find("latest").snapshot):
        request = urllib.request.Request(url + path, b"x", {"Authorization": "Basic " + known}, method=verb)
        try:
            print(urllib.request.urlopen(request, context=context).status)
        except urllib.error.HTTPError as error:
            print(error.code)
""",
    )
    assert overwritten.split() == ["403"] * 4, overwritten
    other = """
other = dataclasses.replace(target, repository=target.repository.replace("/gateway1/", "/other/"))
Restic(other, Path("/root/x"))._run("init")
"""
    elsewhere = at_target(site, "vault", other, check=False)
    assert "the target refuses it" in elsewhere, elsewhere
    assert at_target(site, "vault", "print(len(restic.sets()))") == before
    assert at_target(site, "vault", "restic.check('100%')") == ""


def test_the_server_removes_what_is_old_and_refuses_to_when_dates_are_forged(site: HostSite) -> None:
    before = at_target(site, "vault", "print(len(restic.sets()))")
    stored = (
        "restic._run('backup', '--host', 'gateway1', '--tag', 'multi_sonicator,set:x', '--time', {!r}, '/etc/hostname')"
    )
    at_target(site, "vault", stored.format("2020-01-01 00:00:00"))
    assert changes(site.play("backup_prune"))[VAULT] > 0
    assert at_target(site, "vault", "print(len(restic.sets()))") == before
    assert set(changes(site.play("backup_prune")).values()) == {0}
    newcomer = {"backup_server_gateways": [SPARE, GATEWAY], "backup_rest_password": REST}
    at_target(site, "vault", stored.format("2020-01-01 00:00:00"))
    output = site.play("backup_prune", code=2, **newcomer)
    assert f"nothing was removed of {SPARE}: " in " ".join(output.split()) and changes(output)[VAULT] > 0
    assert at_target(site, "vault", "print(len(restic.sets()))") == before, "one that has nothing is no reason"
    at_target(site, "vault", stored.format("2040-01-01 00:00:00"))
    refused = " ".join(site.play("backup_prune", code=2).split())
    assert "is dated 2040-01-01" in refused and "nothing was removed" in refused
    forged = at_target(site, "vault", "print(restic.find('x').snapshot)").strip()
    assert "the target refuses it" in at_target(site, "vault", f"restic._run('forget', '{forged}')", check=False)
    site.fleet.ssh(VAULT, f"sudo rm /srv/multi_sonicator_backup/rest/{GATEWAY}/snapshots/{forged}")


def test_the_server_is_hardened_as_gateways_are(site: HostSite) -> None:
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
    told = status(site)
    assert not told["failed"] and told["problems"] == []
    assert {told["targets"][name]["set"] for name in ("vault", "hall")} == {told["set"]}


def test_the_recovery_password_opens_it(site: HostSite) -> None:
    for name in ("vault", "hall"):
        lost = f"print(len(Restic(dataclasses.replace(target, password={RECOVERY!r}), Path('/root/x')).sets()))"
        assert int(at_target(site, name, lost)) >= 1
        wrong = "Restic(dataclasses.replace(target, password='x'), Path('/root/x')).sets()"
        assert "the password is not one of this repository's" in at_target(site, name, wrong, check=False)


def test_a_copy_that_is_damaged_is_set_aside(site: HostSite) -> None:
    site.fleet.ssh(
        VAULT, f"sudo find /srv/multi_sonicator_backup/rest/{GATEWAY}/data -type f -exec truncate -s 9 {{}} +"
    )
    assert "restic check ended with" in at_target(site, "vault", "restic.check('100%')", check=False)
    names = {"vault_1": VAULT, "hall_a": GATEWAY, "backup_servers": VAULT}
    site.follow("drill", 8, names)
    output = site.follow("drill", 9, names)
    told = status(site)
    assert f"set {told['set']} in vault and hall" in output
    assert (
        at_target(site, "vault", "restic.check('100%'); print(*(one.set_id for one in restic.sets()))")
        == told["set"] + "\n"
    )


def test_a_target_that_is_away_is_told_until_it_is_back(site: HostSite) -> None:
    site.fleet.ssh(VAULT, "sudo systemctl stop multi-sonicator-backup-server")
    site.fleet.ssh(GATEWAY, START, check=False)
    told = status(site)
    assert told["failed"] and "backup target vault" in told["targets"]["vault"]["error"]
    assert told["targets"]["hall"]["set"] == told["set"] and told["targets"]["vault"]["set"] != told["set"]
    assert "backup target vault" in site.fleet.ssh(GATEWAY, f"sudo journalctl -u {UNIT}").stdout
    assert metric(site, 'target_failed{target="vault"}') == 1
    site.fleet.ssh(VAULT, "sudo systemctl start multi-sonicator-backup-server")
    site.fleet.ssh(GATEWAY, START)
    assert not status(site)["failed"]
    assert metric(site, 'target_failed{target="vault"}') == 0
    assert metric(site, 'failures_total{target="vault"}') == 1


def test_a_run_that_came_to_nothing_says_why(site: HostSite) -> None:
    """Not what the last one that came to something had to say."""
    site.fleet.ssh(GATEWAY, f"sudo systemd-run --unit=other flock {LOCK} sleep 300")
    assert "another backup is being taken" in site.play("backup", code=2, backup_now=True)
    site.fleet.ssh(GATEWAY, "sudo systemctl stop other")
    refused = site.play("backup", code=2, backup_targets=[{"name": "nowhere", "server": VAULT}])
    assert "backup_targets entry nowhere: expected either repository, or server with by" in " ".join(refused.split())


def test_a_gateway_comes_back_from_bare_debian(site: HostSite) -> None:
    """With a new disk, the same name and new keys: one command, whose plan is shown before."""
    record = "sudo cat /var/lib/multi_sonicator/controllers/mixer_1/record.yml"
    site.follow("drill", 10, {"hall_a": GATEWAY, "press_1": "mixer_1"})
    known = site.fleet.ssh(GATEWAY, record).stdout
    site.fleet.ssh(GATEWAY, START)
    kept = status(site)["set"]
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
    assert not status(site)["failed"]
    output = site.follow("restore_gateway", 5, {**names, "vault": "hall"}, recovery_set=kept)
    assert "from hall" in output and set(changes(output).values()) == {0}


def test_the_whole_site_comes_back(site: HostSite) -> None:
    """The same for all gateways, with the boards that are new; what was not lost is left as it is."""
    names = {"gateways": GATEWAY, "hall_a": GATEWAY, "backup_servers": VAULT}
    assert LINE in site.follow("restore_site", 0, names)
    site.variables["recovery_controllers"] = ["mixer_1"]
    site.follow("restore_site", 1, names)
    output = site.follow("restore_site", 2, names)
    assert "mixer_1: " in output and "recovery time" in output and "LAST CHANGE" in output
    assert site.follow("restore_site", 3, names)
    assert "recovery time" in site.follow("restore_site", 4, names)
    del site.variables["recovery_controllers"]


@contextlib.contextmanager
def variables_beside_the_inventory(site: HostSite, more: Mapping[str, Any]) -> Iterator[None]:
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


def test_a_gateway_comes_back_on_a_spare_host_in_a_drill(site: HostSite) -> None:
    """The drill finds what the inventory does not bring back, and leaves a bare host. The gateway has no part in it."""
    by_hand = "/etc/udev/rules.d/99-by-hand.rules"
    site.fleet.ssh(GATEWAY, f"echo '# a quick help' | sudo tee {by_hand}")
    site.fleet.ssh(GATEWAY, START)
    kept = status(site)["set"]
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
    assert site.fleet.ssh(SPARE, "sudo grep -rl 'canary[.]of' /etc /var /srv /tmp /run", check=False).stdout == ""
    site.fleet.ssh(GATEWAY, f"sudo rm {by_hand}")


def test_a_deployment_takes_one_first(site: HostSite) -> None:
    """Where there is something to do; and begins nothing where no target gets it."""

    def to(version: str) -> dict[str, Any]:
        releases = [VirtualSite.release("1.0.0"), VirtualSite.release("1.1.0")]
        unsigned = {"controllers_releases": releases, "controllers_allow_unsigned": True}
        return {"firmware_version": version, "controllers_soak": 0.5, **unsigned}

    before = status(site)["set"]
    names = {"hall_a": GATEWAY, "press_1": "mixer_1"}
    site.follow("restore_controller", 5, names, **to("1.0.0"))
    site.follow("restore_controller", 6, names)
    site.play("deploy", "--check", **to("1.1.0"))
    assert status(site)["set"] == before
    site.play("deploy", **to("1.1.0"))
    first = status(site)["set"]
    assert first != before
    site.fleet.ssh(VAULT, "sudo systemctl stop multi-sonicator-backup-server")
    output = " ".join(site.play("deploy", **to("1.0.0")).split())
    assert "the backup is not whole: backup: backup target vault" in output and "mixer_1: " in output
    assert status(site)["targets"]["hall"]["set"] != first
    site.fleet.ssh(VAULT, "sudo systemctl start multi-sonicator-backup-server")
    site.fleet.ssh(GATEWAY, f"sudo systemd-run --unit=other flock {LOCK} sleep 300")
    output = " ".join(site.play("deploy", code=2, **to("1.1.0")).split())
    assert f"{GATEWAY}: backup: another backup is being taken" in output and "Nothing was begun" in output
    assert "backup target vault" not in output, "that was the run before"
    assert "mixer_1: " not in output
    assert "mixer_1: " in site.play("deploy", backup_before_deployment=False, **to("1.1.0"))
    site.fleet.ssh(GATEWAY, "sudo systemctl stop other")
    site.fleet.ssh(GATEWAY, START)


def test_secrets_are_for_root_alone(site: HostSite) -> None:
    look = "grep -rl 'canary[.]of' /etc /var /srv /tmp /run 2>/dev/null"
    for host in (GATEWAY, VAULT):
        assert site.fleet.ssh(host, look, check=False).stdout == ""
    assert site.fleet.ssh(GATEWAY, f"sudo {look}", check=False).stdout.split() == ["/etc/multi_sonicator/backup.json"]
    assert site.fleet.ssh(VAULT, f"sudo {look}", check=False).stdout == ""


def test_who_is_no_longer_in_the_list_stores_nothing(site: HostSite) -> None:
    keys = "ls /srv/multi_sonicator_backup/sftp"
    assert ".pub" in site.fleet.ssh(VAULT, keys).stdout
    site.play("backup", backup_server_gateways=[], backup_require_targets=False)
    assert ".pub" not in site.fleet.ssh(VAULT, keys).stdout
    site.fleet.ssh(GATEWAY, START, check=False)
    told = status(site)["targets"]
    assert told["vault"]["error"] and told["hall"]["error"]


def test_undone(site: HostSite) -> None:
    site.play("backup", backup_state="absent", backup_server_state="absent")
    assert "backup" not in site.fleet.ssh(GATEWAY, "ls /etc/multi_sonicator").stdout
    assert "multi-sonicator-backup" not in site.fleet.ssh(GATEWAY, "systemctl list-unit-files").stdout
    assert (
        site.fleet.ssh(VAULT, "systemctl is-active multi-sonicator-backup-server", check=False).stdout == "inactive\n"
    )
    assert "rest" in site.fleet.ssh(VAULT, "sudo ls /srv/multi_sonicator_backup").stdout
    assert set(changes(site.play("backup", backup_state="absent", backup_server_state="absent")).values()) == {0}

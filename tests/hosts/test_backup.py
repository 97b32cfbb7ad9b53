# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway keeps backups on another host, in one place that only takes, and in one that is reached by SFTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.ansible import VirtualSite
from support.backup_site import BOARDS, GATEWAY, RECOVERY, REST, SPARE, START, UNIT, VAULT, BackupSite
from support.hosts import changes

BEFORE = ["certificates.json", "gateway.json", "tls"]
LOCK = "/var/lib/multi_sonicator/backup/lock"
METRICS = "/var/lib/multi_sonicator/metrics/multi_sonicator_backup.prom"


@pytest.fixture(scope="module")
def site(machine: None) -> Iterator[BackupSite]:
    with BackupSite() as made:
        made.up()
        yield made


def metric(site: BackupSite, name: str) -> float:
    lines = site.fleet.ssh(GATEWAY, f"cat {METRICS}").stdout.splitlines()
    return float({line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines}[f"multi_sonicator_backup_{name}"])


def test_check_mode_on_hosts_that_have_nothing_of_it(site: BackupSite) -> None:
    output = site.play("backup", "--check", "--diff")
    assert "canary" not in output
    assert site.fleet.ssh(VAULT, "ls /srv").stdout == ""
    assert site.fleet.ssh(GATEWAY, "ls /etc/multi_sonicator").stdout.split() == BEFORE


def test_a_backup_is_in_both_places(site: BackupSite) -> None:
    output = site.play("backup", "--diff", backup_now=True)
    assert "canary" not in output
    told = site.status
    assert not told["failed"] and told["problems"] == []
    assert f"set {told['set']} in vault and hall" in output
    for name in ("vault", "hall"):
        assert site.at_target(name, "print(*(one.set_id for one in restic.sets()))").split() == [told["set"]]
        assert metric(site, f'last_success_timestamp_seconds{{target="{name}"}}') > 1.7e9
    assert metric(site, "last_run_failed") == 0


def test_a_second_run_changes_nothing(site: BackupSite) -> None:
    assert set(changes(site.play("backup")).values()) == {0}


def test_what_comes_back_is_what_the_controllers_are(site: BackupSite) -> None:
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
    told, settings, packages, asked = site.at_target("vault", fetched).splitlines()
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


def test_a_gateway_that_was_taken_over_deletes_nothing(site: BackupSite) -> None:
    before = site.at_target("vault", "print(len(restic.sets()))")
    overwritten = site.at_target(
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
    elsewhere = site.at_target("vault", other, check=False)
    assert "the target refuses it" in elsewhere, elsewhere
    assert site.at_target("vault", "print(len(restic.sets()))") == before
    assert site.at_target("vault", "restic.check('100%')") == ""


def test_the_server_removes_what_is_old_and_refuses_to_when_dates_are_forged(site: BackupSite) -> None:
    before = site.at_target("vault", "print(len(restic.sets()))")
    stored = (
        "restic._run('backup', '--host', 'gateway1', '--tag', 'multi_sonicator,set:x', '--time', {!r}, '/etc/hostname')"
    )
    site.at_target("vault", stored.format("2020-01-01 00:00:00"))
    assert changes(site.play("backup_prune"))[VAULT] > 0
    assert site.at_target("vault", "print(len(restic.sets()))") == before
    assert set(changes(site.play("backup_prune")).values()) == {0}
    newcomer = {"backup_server_gateways": [SPARE, GATEWAY], "backup_rest_password": REST}
    site.at_target("vault", stored.format("2020-01-01 00:00:00"))
    output = site.play("backup_prune", code=2, **newcomer)
    assert f"nothing was removed of {SPARE}: " in " ".join(output.split()) and changes(output)[VAULT] > 0
    assert site.at_target("vault", "print(len(restic.sets()))") == before, "one that has nothing is no reason"
    site.at_target("vault", stored.format("2040-01-01 00:00:00"))
    refused = " ".join(site.play("backup_prune", code=2).split())
    assert "is dated 2040-01-01" in refused and "nothing was removed" in refused
    forged = site.at_target("vault", "print(restic.find('x').snapshot)").strip()
    assert "the target refuses it" in site.at_target("vault", f"restic._run('forget', '{forged}')", check=False)
    site.fleet.ssh(VAULT, f"sudo rm /srv/multi_sonicator_backup/rest/{GATEWAY}/snapshots/{forged}")


def test_the_recovery_password_opens_it(site: BackupSite) -> None:
    for name in ("vault", "hall"):
        lost = f"print(len(Restic(dataclasses.replace(target, password={RECOVERY!r}), Path('/root/x')).sets()))"
        assert int(site.at_target(name, lost)) >= 1
        wrong = "Restic(dataclasses.replace(target, password='x'), Path('/root/x')).sets()"
        assert "the password is not one of this repository's" in site.at_target(name, wrong, check=False)


def test_a_copy_that_is_damaged_is_set_aside(site: BackupSite) -> None:
    packs = f"/srv/multi_sonicator_backup/rest/{GATEWAY}/data"
    damage = "dd if=/dev/zero of={} bs=1 seek=50 count=8 conv=notrunc status=none"
    site.fleet.ssh(VAULT, f"sudo find {packs} -type f -exec {damage} ';'")
    assert "restic check ended with" in site.at_target("vault", "restic.check('100%')", check=False)
    names = {"vault_1": VAULT, "hall_a": GATEWAY, "backup_servers": VAULT}
    site.follow("drill", 8, names)
    output = site.follow("drill", 9, names)
    kept = site.status["set"]
    assert f"set {kept} in vault and hall" in output
    found = site.at_target("vault", "restic.check('100%'); print(*(one.set_id for one in restic.sets()))")
    assert found.split() == [kept]


def test_a_target_that_is_away_is_told_until_it_is_back(site: BackupSite) -> None:
    site.fleet.ssh(VAULT, "sudo systemctl stop multi-sonicator-backup-server")
    site.fleet.ssh(GATEWAY, START, check=False)
    told = site.status
    assert told["failed"] and "backup target vault" in told["targets"]["vault"]["error"]
    assert told["targets"]["hall"]["set"] == told["set"] and told["targets"]["vault"]["set"] != told["set"]
    assert "backup target vault" in site.fleet.ssh(GATEWAY, f"sudo journalctl -u {UNIT}").stdout
    assert metric(site, 'target_failed{target="vault"}') == 1
    site.fleet.ssh(VAULT, "sudo systemctl start multi-sonicator-backup-server")
    site.fleet.ssh(GATEWAY, START)
    assert not site.status["failed"]
    assert metric(site, 'target_failed{target="vault"}') == 0
    assert metric(site, 'failures_total{target="vault"}') == 1


def test_a_run_that_came_to_nothing_says_why(site: BackupSite) -> None:
    """Not what the last one that came to something had to say."""
    site.fleet.ssh(GATEWAY, f"sudo systemd-run --unit=other flock {LOCK} sleep 300")
    assert "another backup is being taken" in site.play("backup", code=2, backup_now=True)
    site.fleet.ssh(GATEWAY, "sudo systemctl stop other")
    refused = site.play("backup", code=2, backup_targets=[{"name": "nowhere", "server": VAULT}])
    assert "backup_targets entry nowhere: expected either repository, or server with by" in " ".join(refused.split())


def test_a_deployment_takes_one_first(site: BackupSite) -> None:
    """Where there is something to do; and begins nothing where no target gets it."""

    def to(version: str) -> dict[str, Any]:
        releases = [VirtualSite.release("1.0.0"), VirtualSite.release("1.1.0")]
        unsigned = {"controllers_releases": releases, "controllers_allow_unsigned": True}
        return {"firmware_version": version, "controllers_soak": 0.5, **unsigned}

    before = site.status["set"]
    names = {"hall_a": GATEWAY, "press_1": "mixer_1"}
    site.follow("restore_controller", 5, names, **to("1.0.0"))
    site.follow("restore_controller", 6, names)
    site.play("deploy", "--check", **to("1.1.0"))
    assert site.status["set"] == before
    site.play("deploy", **to("1.1.0"))
    first = site.status["set"]
    assert first != before
    site.fleet.ssh(VAULT, "sudo systemctl stop multi-sonicator-backup-server")
    output = " ".join(site.play("deploy", **to("1.0.0")).split())
    assert "the backup is not whole: backup: backup target vault" in output and "mixer_1: " in output
    assert site.status["targets"]["hall"]["set"] != first
    site.fleet.ssh(VAULT, "sudo systemctl start multi-sonicator-backup-server")
    site.fleet.ssh(GATEWAY, f"sudo systemd-run --unit=other flock {LOCK} sleep 300")
    output = " ".join(site.play("deploy", code=2, **to("1.1.0")).split())
    assert f"{GATEWAY}: backup: another backup is being taken" in output and "Nothing was begun" in output
    assert "backup target vault" not in output, "that was the run before"
    assert "mixer_1: " not in output
    assert "mixer_1: " in site.play("deploy", backup_before_deployment=False, **to("1.1.0"))
    site.fleet.ssh(GATEWAY, "sudo systemctl stop other")
    site.fleet.ssh(GATEWAY, START)


def test_secrets_are_for_root_alone(site: BackupSite) -> None:
    assert site.secrets(GATEWAY, root=False) == site.secrets(VAULT, root=False) == []
    assert (site.secrets(GATEWAY), site.secrets(VAULT)) == (["/etc/multi_sonicator/backup.json"], [])


def test_who_is_no_longer_in_the_list_stores_nothing(site: BackupSite) -> None:
    keys = "ls /srv/multi_sonicator_backup/sftp"
    assert ".pub" in site.fleet.ssh(VAULT, keys).stdout
    site.play("backup", backup_server_gateways=[], backup_require_targets=False)
    assert ".pub" not in site.fleet.ssh(VAULT, keys).stdout
    site.fleet.ssh(GATEWAY, START, check=False)
    told = site.status["targets"]
    assert told["vault"]["error"] and told["hall"]["error"]


def test_undone(site: BackupSite) -> None:
    site.play("backup", backup_state="absent", backup_server_state="absent")
    assert "backup" not in site.fleet.ssh(GATEWAY, "ls /etc/multi_sonicator").stdout
    assert "multi-sonicator-backup" not in site.fleet.ssh(GATEWAY, "systemctl list-unit-files").stdout
    assert (
        site.fleet.ssh(VAULT, "systemctl is-active multi-sonicator-backup-server", check=False).stdout == "inactive\n"
    )
    assert "rest" in site.fleet.ssh(VAULT, "sudo ls /srv/multi_sonicator_backup").stdout
    assert set(changes(site.play("backup", backup_state="absent", backup_server_state="absent")).values()) == {0}

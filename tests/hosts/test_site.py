# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From bare Debian hosts to gateways in production with one command, although one reboots meanwhile, and back."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator

import fleet as hosts
import pytest
from support.hosts import CONTROLLERS, PASSPHRASE, ProductionSite, changes

REPOSITORY = "/srv/backups of this gateway"
INTERRUPTED = (
    "find /var/lib/apt/lists -type f -delete; touch /var/lib/apt/lists;"
    " sed /^$/q /var/lib/dpkg/status >/var/lib/dpkg/updates/0001"
)


@pytest.fixture(scope="module")
def site(machine: None) -> Iterator[ProductionSite]:
    with ProductionSite() as made:
        made.variables |= {
            "backup_targets": [{"name": "disk", "repository": REPOSITORY}],
            "backup_password": "canary.of-the-repository",
            "backup_recovery_password": "canary.of-the-recovery",
            "backup_calendar": "2099-01-01",  # not while a test runs
        }
        made.fleet.up([hosts.Host("gateway1", "bookworm", CONTROLLERS), hosts.Host("gateway2", "trixie", CONTROLLERS)])
        yield made


def erases(site: ProductionSite) -> list[int]:
    """How often each board was written."""
    states = [site.fleet.control(host, one["name"], "state") for host in site.fleet.hosts for one in CONTROLLERS]
    return [state["programmer"]["erases"] for state in states]


def test_a_reboot_during_provisioning_is_survived_by_running_again(site: ProductionSite) -> None:
    with subprocess.Popen(
        site.command("site"), cwd=site.place, env=site.environment, stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            assert run.stdout is not None
            for line in run.stdout:
                if "Install Debian's packages" in line:
                    break
            time.sleep(3)
            site.fleet.reboot("gateway2")
            output = run.stdout.read()
        except BaseException:
            run.kill()  # one that nobody reads waits for ever
            raise
    # Whenever it was: lists that are there by their date alone, and a package that dpkg was at.
    site.fleet.ssh("gateway2", f"sudo sh -c {shlex.quote(INTERRUPTED)}")
    assert run.returncode != 0 and "gateway2" in output, output

    output = site.play("site")
    assert all(number > 0 for number in changes(output).values())
    assert erases(site) == [1, 1, 1, 1]
    for host in site.fleet.hosts:
        told = site.fleet.ssh(host, "msctl status").stdout
        assert told.count("answers") == 2 and told.count("1.1.0") == 2


def test_a_second_run_changes_nothing(site: ProductionSite) -> None:
    assert set(changes(site.play("site")).values()) == {0}
    assert erases(site) == [1, 1, 1, 1]


def test_each_has_kept_a_backup_on_its_own_disk_before_its_controllers_were_changed(site: ProductionSite) -> None:
    look = "sudo cat /var/lib/multi_sonicator/backup/status.json"
    for host in site.fleet.hosts:
        told = json.loads(site.fleet.ssh(host, look).stdout)
        assert (told["failed"], told["problems"]) == (False, [])
        assert set(told["targets"]) == {"disk"} and told["targets"]["disk"]["set"] == told["set"]


def test_people_do_with_the_runtime_what_their_roles_may(site: ProductionSite) -> None:
    for host in site.fleet.hosts:
        assert site.as_person("vera", host, "sudo -n msctl status").count("1.1.0") == 2
        assert "not allowed" in site.as_person("vera", host, "sudo -n msctl stop-all --yes", code=1)
        read = site.as_person("otto", host, "sudo -n msctl read mixer_1 sonicator1_amplitude")
        assert "sonicator1_amplitude" in read
        assert "mixer_2" in site.as_person("otto", host, "sudo -n msctl snapshot")
        assert site.as_person("otto", host, "sudo -n msctl stop-all --yes").count("mixer") == 2


def test_secrets_are_nowhere(site: ProductionSite) -> None:
    output = site.play("certificates", "-vvv", "--diff")
    assert PASSPHRASE not in output
    # Written so that it does not find itself where sudo logs it.
    look = f"sudo grep -rl '{PASSPHRASE[:-1]}[{PASSPHRASE[-1]}]' /etc /home /root /var /run/multi_sonicator /tmp"
    for host in site.fleet.hosts:
        assert site.fleet.ssh(host, look, check=False).stdout == ""
    log = (site.place / "audit.jsonl").read_text()
    assert "1.1.0" in log and PASSPHRASE not in log


def test_a_host_is_taken_back_only_when_it_is_named(site: ProductionSite) -> None:
    output = site.play("decommission", code=2)
    assert "nothing was changed" in output
    site.play("decommission", "--check", "--limit", "gateway1")
    assert site.fleet.ssh("gateway1", "msctl status").returncode == 0

    stored = site.fleet.ssh("gateway1", f"sudo ls '{REPOSITORY}/snapshots'").stdout.split()
    assert stored
    site.play("decommission", "--limit", "gateway1", decommission_confirm="gateway1")
    left = site.fleet.ssh(
        "gateway1",
        "ls -d /etc/multi_sonicator /var/lib/multi_sonicator /usr/local/lib/multi_sonicator /usr/local/bin/msctl;"
        " sudo find /etc -name '*multi?sonicator*'; systemctl list-unit-files 'multi-sonicator*' --no-legend;"
        " getent passwd multi-sonicator vera otto ms-breakglass; getent group | grep ^ms-; sudo nft list tables",
        check=False,
    )
    assert left.stdout == ""
    assert site.fleet.ssh("gateway1", f"sudo ls '{REPOSITORY}/snapshots'").stdout.split() == stored, "they stay"
    assert set(changes(site.play("decommission", "--limit", "gateway1", decommission_confirm="gateway1")).values()) == {
        0
    }
    # The neighbour goes on.
    assert site.fleet.ssh("gateway2", "msctl status").returncode == 0

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A control node of Debian's own packages runs playbooks by itself: as an ordinary user, with nobody there."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fleet as hosts
import pytest
from _core import backup
from support.ansible import VirtualSite
from support.backups import PASSWORD as KEY
from support.backups import QUESTIONS, Backups
from support.hosts import PROGRAMS, TOP, HostSite, changes
from support.runbooks import command
from support.virtual import Board

NODE, HOME = "control", f"/home/{hosts.USER}"
PACKAGES = (
    "ansible-core",
    "avrdude",
    "gcc",
    "libc6-dev",
    "libsimavr-dev",
    "python3-jsonschema",
    "python3-prometheus-client",
    "python3-serial",
    "python3-yaml",
    "restic",
)
PASSWORD = "canary.of the % $HOME safe"
BACKUP, BROKEN = "multi-sonicator-run-backup", "multi-sonicator-run-broken"
UNITS, VARIABLES = "/etc/systemd/system", "/etc/multi_sonicator_schedule"
METRICS = "/var/lib/metrics"
INVENTORY = {"gateways": {"hosts": {"hall_a": {"controllers": [{"name": "press", "line": "/dev/none", "unit": 2}]}}}}
BROKEN_PLAYBOOK = """
- name: Fail
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Become root
      ansible.builtin.command:
        argv: [sudo, "-n", "true"]
      register: sudo
      failed_when: false

    - name: Give up
      ansible.builtin.fail:
        msg: "there is no luck today: {{ sudo.stderr }}"
"""
SETS = [
    {
        "name": "control_node",
        "files": ["~/site"],
        "targets": [{"name": "safe", "repository": f"{HOME}/safe", "password": PASSWORD}],
    }
]
RUNS: list[dict[str, Any]] = [
    {
        "name": "backup",
        "playbook": "multi_sonicator.ops.backup_control_node",
        "calendar": "daily",
        "random_delay": "1h",
        "variables": {"backup_control_sets": SETS},
    },
    {"name": "broken", "playbook": "broken.yml", "calendar": "*-*-1 03:00", "timeout": 600},
]


class Node(HostSite):
    """A control node with the collection as people install it, a site's inventory, and an account to work with."""

    def up(self) -> None:
        self.fleet.up([hosts.Host(NODE, "trixie")])
        site = self.place / "site"
        galaxy = (str(PROGRAMS / "ansible-galaxy"), "collection")
        self.run(*galaxy, "build", "--output-path", str(self.place / "artifact"), str(TOP))
        (artifact,) = (self.place / "artifact").glob("*.tar.gz")
        place = ("-p", str(site / "collections"))
        self.run(*galaxy, "install", "--force", "--offline", "--no-deps", str(artifact), *place)
        (site / "ansible.cfg").write_text("[defaults]\ncollections_path = collections\n")
        (site / "hosts.yml").write_text(json.dumps(INVENTORY))
        (site / "broken.yml").write_text(BROKEN_PLAYBOOK)
        packed = self.run("tar", "-C", str(self.place), "-c", "--owner=0", "--group=0", "site")
        self.run(*self.fleet.ssh_command(NODE), "tar -x --no-same-owner", stdin=packed)
        install = "sudo DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install"
        self.ask(f"sudo apt-get -q update && {install} {' '.join(PACKAGES)}")

    def ask(self, command: str, code: int = 0) -> str:
        """What a command of the account prints; AssertionError where it ends with another exit code."""
        done = self.fleet.ssh(NODE, f"{command} 2>&1", check=False)
        assert done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}"
        return str(done.stdout)

    def schedule(self, *arguments: str, code: int = 0, **variables: Any) -> str:
        """Runs the playbook there, as its user does."""
        told = json.dumps(variables).encode()
        self.run(*self.fleet.ssh_command(NODE), "umask 077 && cat >variables.json", stdin=told)
        words = [*command("drill", 4), *arguments, "-e", "@../variables.json"]
        return self.ask(f"cd site && {shlex.join(words)}", code)

    def there(self) -> set[str]:
        """What there is of runs, by systemd and on the disk."""
        listed = "systemctl list-units --all --plain --no-legend 'multi-sonicator-run-*' | cut -d' ' -f1"
        places = f"{UNITS} /var/lib/systemd/timers {METRICS} {VARIABLES}"
        return set(self.ask(f"{listed}; sudo find {places} -name '*multi?sonicator?run*' || true").split()) - {"find:"}


@pytest.fixture(scope="module")
def node(machine: None) -> Iterator[Node]:
    with Node() as made:
        made.up()
        yield made


def test_check_mode_on_a_host_that_has_nothing_of_it(node: Node) -> None:
    """With the defaults: the drill and the backup of the control node."""
    output = node.schedule("--check", "--diff")
    assert "OnCalendar=monthly" in output and "multi_sonicator.ops.recovery_drill" in output
    assert node.ask(f"ls {UNITS}").count("multi-sonicator") == 0
    node.ask(f"ls {VARIABLES}", code=2)
    assert node.ask("sudo find /tmp -maxdepth 1 -name 'tmp.*' -o -maxdepth 1 -name 'ansible-local-*'") == ""


def test_what_could_not_begin_is_refused(node: Node) -> None:
    wrong = {"name": "wrong", "playbook": "multi_sonicator.ops.recovery_dril", "calendar": "daily"}
    refused = " ".join(node.schedule(code=2, schedule_runs=[*RUNS, wrong]).split())
    assert "entry wrong: multi_sonicator.ops.recovery_dril cannot begin as ops in /home/ops/site" in refused
    assert "could not be found" in refused and "entry backup" not in refused
    nobody = " ".join(node.schedule(code=2, schedule_user="otto").split())
    assert "as otto" in nobody and "user otto does not exist" in nobody
    gone = " ".join(node.schedule(code=2, schedule_inventory=["/srv/gone.yml"]).split())
    assert "/srv/gone.yml" in gone and "No inventory was parsed" in gone
    assert node.there() == set()


def test_runs_come_by_themselves(node: Node) -> None:
    output = node.schedule("--diff", schedule_runs=RUNS, schedule_metrics_directory=METRICS)
    assert "canary" not in output and "OnCalendar=daily" in output
    again = node.schedule(schedule_runs=RUNS, schedule_metrics_directory=METRICS)
    assert changes(again) == {"localhost": 0}
    for unit in (BACKUP, BROKEN):
        assert node.ask(f"systemctl is-enabled {unit}.timer; systemctl is-active {unit}.timer") == "enabled\nactive\n"
    shown = node.ask(f"systemctl show {BACKUP}.timer -p Persistent,RandomizedDelayUSec,NextElapseUSecRealtime")
    assert "Persistent=yes" in shown and "RandomizedDelayUSec=1h" in shown
    assert node.ask(f"systemctl show {BROKEN}.service -p TimeoutStartUSec") == "TimeoutStartUSec=10min\n"
    assert node.ask(f"sudo systemd-analyze verify --man=no {UNITS}/multi-sonicator-run-*") == ""


def test_a_run_does_what_its_playbook_says(node: Node) -> None:
    node.ask(f"sudo mkdir {METRICS}")
    look = f"while systemctl is-active -q {BACKUP} || systemctl is-active {BACKUP} | grep -q activating"
    seen = node.ask(f"sudo systemctl start --no-block {BACKUP}; {look}; do ps -eo args; done")
    assert "multi_sonicator.ops.backup_control_node" in seen and "canary" not in seen
    assert node.ask(f"systemctl show {BACKUP} -p Result,User,NoNewPrivileges").splitlines() == [
        "Result=success",
        "User=ops",
        "NoNewPrivileges=yes",
    ], node.ask(f"sudo journalctl -u {BACKUP} -o cat")
    told = node.ask(f"RESTIC_PASSWORD={shlex.quote(PASSWORD)} restic -r safe ls latest")
    assert "/hosts.yml" in told
    assert node.ask("stat -c %U safe/config") == "ops\n"
    metrics = node.ask(f"cat {METRICS}/multi_sonicator_run_backup.prom")
    assert 'last_failed{run="backup"} 0\n' in metrics and 'last_timestamp_seconds{run="backup"} 1' in metrics


def test_a_drill_is_held_with_nobody_there(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a backup that a gateway has taken of a board, as an ordinary user under systemd."""
    monkeypatch.setattr(backup, "QUESTIONS", QUESTIONS)
    with VirtualSite(tmp_path, {"hall_a": [[Board("press")]]}) as site:
        site.play("snapshot", controllers_read_chip=True)
        kept = Backups(site)
        taken = kept.take("hall_a")
        packed = node.run("tar", "-C", str(kept.place("hall_a", "vault")), "-c", "--owner=0", "--group=0", ".")
    node.run(*node.fleet.ssh_command(NODE), "mkdir vault && tar -C vault -x --no-same-owner", stdin=packed)
    variables = {
        "backup_targets": [{"name": "vault", "repository": f"{HOME}/vault"}],
        "backup_password": KEY,
        "recovery_drill_soak": 0.3,
    }
    drill = {"name": "drill", "playbook": "multi_sonicator.ops.recovery_drill", "calendar": "monthly"}
    node.schedule(schedule_runs=[*RUNS, {**drill, "variables": variables}], schedule_metrics_directory=METRICS)
    said = "sudo journalctl -o cat -u multi-sonicator-run-drill"
    node.ask(f"sudo systemctl start multi-sonicator-run-drill || {{ {said}; false; }}")
    result = json.loads(node.ask("cat .local/state/multi_sonicator/drills/*.json"))
    assert (result["outcome"], result["controllers"]["hall_a/press"]["set"]) == ("passed", taken)
    assert "1 controllers, recovery time " in " ".join(node.ask(said).split())
    node.schedule(schedule_runs=RUNS, schedule_metrics_directory=METRICS)


def test_a_run_that_fails_is_seen(node: Node) -> None:
    node.ask(f"sudo systemctl start {BROKEN}", code=1)
    names = {"multi-sonicator-run-recovery_drill": BROKEN}
    assert f"{BROKEN}.timer" in node.ask(shlex.join(command("drill", 5)))
    failed = node.ask(shlex.join(command("drill", 6)))
    assert f"{BROKEN}.service" in failed and BACKUP not in failed
    told = node.ask(shlex.join(command("drill", 7, names)))
    assert "there is no luck today" in told and "no new privileges" in told
    assert 'last_failed{run="broken"} 1\n' in node.ask(f"cat {METRICS}/multi_sonicator_run_broken.prom")


def test_what_was_missed_is_made_up_for(node: Node) -> None:
    """The first of the month passed while the control node was without power."""
    runs = f"sudo journalctl --unit={BROKEN} --output=cat | grep -c 'no luck today' || true"
    before = int(node.ask(runs))
    node.ask(f"sudo touch --date='40 days ago' /var/lib/systemd/timers/stamp-{BROKEN}.timer")
    node.fleet.reboot(NODE)
    deadline = time.monotonic() + 60
    while int(node.ask(runs)) == before:
        assert time.monotonic() < deadline, node.ask(f"systemctl status --no-pager {BROKEN}.timer", code=0)
        time.sleep(1)
    assert f"{BROKEN}.service" in node.ask("systemctl list-units --failed --plain --no-legend")


def test_nobody_else_gets_to_know_what_is_secret(node: Node) -> None:
    assert "canary" in node.ask(f"cat {VARIABLES}/backup.json")
    node.ask(f"sudo -u nobody cat {VARIABLES}/backup.json", code=1)
    # Whatever wrote it: the modules of this playbook and of the run log what they are told.
    node.ask("sudo journalctl --sync")
    journal = node.ask("sudo journalctl --all --output=export")
    # The word alone is an option of controllers, too.
    assert "ansible-multi_sonicator.ops.files" in journal and "canary.of" not in journal
    shown = node.ask(f"systemctl cat {BACKUP}.service {BACKUP}.timer; systemctl show {BACKUP}.service")
    assert "backup.json" in shown and "canary" not in shown


def test_a_run_that_is_no_longer_in_the_list_is_gone(node: Node) -> None:
    before = node.there()
    runs, metrics = RUNS[:1], METRICS
    told = node.schedule("--check", schedule_runs=runs, schedule_metrics_directory=metrics)
    assert changes(told)["localhost"] > 0 and node.there() == before
    node.schedule(schedule_runs=runs, schedule_metrics_directory=metrics)
    assert {one for one in before if "broken" not in one} == node.there()
    assert node.ask(f"ls {VARIABLES}") == "backup.json\n"
    assert node.ask("systemctl list-units --failed --plain --no-legend") == ""
    assert changes(node.schedule(schedule_runs=runs, schedule_metrics_directory=metrics)) == {"localhost": 0}


def test_nothing_is_left(node: Node) -> None:
    before = node.there()
    gone: dict[str, Any] = {"schedule_state": "absent", "schedule_metrics_directory": METRICS}
    assert changes(node.schedule("--check", "--diff", **gone))["localhost"] > 0 and node.there() == before
    output = node.schedule("--diff", **gone)
    assert changes(output)["localhost"] > 0 and "canary" not in output
    assert node.there() == set()
    node.ask(f"ls {VARIABLES}", code=2)
    assert "safe" in node.ask("ls"), "what runs have brought stays"
    assert changes(node.schedule(**gone)) == {"localhost": 0}

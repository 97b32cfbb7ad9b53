# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""People on real hosts: what each can do over ssh, what is revoked is refused at once, and no bad name gets in."""

from __future__ import annotations

import json
import re
import resource
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fleet as hosts
import pytest
from support.hosts import HostSite

ROLES = ("viewer", "operator", "engineer")
PEOPLE = {"vera": "viewer", "otto": "operator", "enno": "engineer", "rita": "operator"}

# What is tried over ssh, and the lowest role that may; None for nobody but administrators.
ACTIONS: dict[str, str | None] = {
    "msctl status": "viewer",
    "msctl status --json": "viewer",
    "msctl lines": "viewer",
    "journalctl --no-pager -u multi-sonicator-keeper": "viewer",
    "journalctl --no-pager -r -n 5 -u multi-sonicator-keeper": "viewer",
    "msctl read press_1 sonicator1_amplitude": "operator",
    "msctl snapshot": "operator",
    "msctl snapshot press_1 press_2": "operator",
    "msctl stop-all --yes": "operator",
    "systemctl reload multi-sonicator-keeper.service": "operator",
    "journalctl --no-pager -b -n 3": "engineer",
    "systemctl --no-pager status ssh": "engineer",
    "ss -tln": "engineer",
    "sshd -T": "engineer",
    "cat /etc/shadow": None,
    "sh": None,
    "msctl": None,
    "msctl stop-all": None,
    "msctl 'status; id'": None,
    "msctl read press_1 ../../etc/shadow": None,
    "systemctl restart multi-sonicator-keeper.service": None,
    "systemctl reload multi-sonicator-keeper.service ssh.service": None,
    # A pager, and one line too many, would give a shell.
    "journalctl -u multi-sonicator-keeper": None,
    "journalctl --no-pager -u multi-sonicator-keeper --file=/etc/shadow": None,
    "-u ops msctl status": None,
    "LD_PRELOAD=/tmp/x.so msctl status": None,
}

MSCTL = "#!/bin/sh\necho msctl $*\n"
KEEPER = "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/true\n"


class Site(HostSite):
    """Two hosts whose people come from an inventory."""

    def __init__(self) -> None:
        super().__init__()
        self.variables |= {
            "access_ca_key": str(self.place / "ca"),
            "access_host_ca_key": str(self.place / "host_ca"),
            "access_register": str(self.place / "certificates.jsonl"),
            "access_known_hosts": str(self.place / "known_hosts"),
            "access_guard_seconds": 30,
            "access_people": [{"name": name, "role": role} for name, role in PEOPLE.items()],
        }
        # Somebody with a key alone.
        public = self.key("paul").with_suffix(".pub").read_text()
        self.variables["access_people"].append({"name": "paul", "role": "engineer", "keys": [public]})
        self.output = ""

    def key(self, name: str) -> Path:
        """The private key of a person, made when it is first asked for."""
        path = self.place / name
        if not path.exists():
            self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
        return path

    def access(self, *arguments: str, code: int = 0, **variables: Any) -> str:
        """Runs access.yml on all hosts; what it printed, however it broke its lines."""
        output = self.play("access", *arguments, code=code, **variables)
        self.output += output
        return " ".join(output.split())

    def issue(self, name: str) -> None:
        public = f"{self.key(name)}.pub"
        # A number that is given with -e is a string.
        self.access("-e", "access_hours=8", access_action="issue", access_person=name, access_public_key_file=public)

    def ssh_command(self, name: str, host: str, command: str, account: str | None = None) -> list[str]:
        options = ("BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={self.place}/known_hosts")
        return [
            *("ssh", "-F", "none", "-i", str(self.key(name))),
            *(word for option in (*options, "StrictHostKeyChecking=yes") for word in ("-o", option)),
            f"{account or name}@{self.fleet.address(host)}",
            command,
        ]

    def ssh(self, *words: str) -> subprocess.CompletedProcess[str]:
        """As a person, with a certificate if they have one; the CA says which hosts are the right ones."""
        return subprocess.run(self.ssh_command(*words), capture_output=True, text=True, timeout=60, check=False)

    def root(self, host: str, command: str) -> str:
        return self.fleet.ssh(host, f"sudo sh -c {shlex.quote(command)}", check=False).stdout


@pytest.fixture(scope="module")
def site(machine: None) -> Iterator[Site]:
    """Both releases, with people who have certificates, and stand-ins for what they may use."""
    with Site() as made:
        made.fleet.up([hosts.Host("gw1"), hosts.Host("gw2", "trixie")])
        for host in ("gw1", "gw2"):
            for path, text in (
                ("/usr/local/bin/msctl", MSCTL),
                ("/etc/systemd/system/multi-sonicator-keeper.service", KEEPER),
            ):
                write = f"sudo install -m 755 /dev/stdin {path}"
                made.run(*made.fleet.ssh_command(host), write, stdin=text.encode())
            made.fleet.ssh(host, "sudo systemctl start multi-sonicator-keeper.service")
        made.access("-vvvv", "--diff")
        for name in PEOPLE:
            made.issue(name)
        yield made


@pytest.mark.parametrize(("host", "name"), [("gw1", "vera"), ("gw1", "otto"), ("gw2", "enno"), ("gw2", "vera")])
def test_people_can_do_what_their_role_may_and_nothing_else(site: Site, host: str, name: str) -> None:
    begin = site.root(host, "date +@%s.%N").strip()
    told = site.ssh(
        name, host, "".join(f"sudo -n {action} >out 2>&1; echo $? $(tail -n 1 out)\n" for action in ACTIONS)
    )
    outcomes = told.stdout.splitlines()
    journal = site.root(host, f"journalctl --no-pager -q -t sudo -o cat --since {begin}").splitlines()
    refused = [line for line in journal if line.split()[0] == name and "not allowed" in line]
    expected = []
    for (action, lowest), outcome in zip(ACTIONS.items(), outcomes, strict=True):
        if lowest is not None and ROLES.index(PEOPLE[name]) >= ROLES.index(lowest):
            assert outcome.split()[0] == "0", (action, outcome)
        else:
            assert "not allowed" in outcome, (action, outcome)
            expected.append(action)
    assert len(expected) >= 12
    assert len(refused) == len(expected), (expected, refused)


def test_what_may_be_run_starts_nothing_else(site: Site) -> None:
    # As if msctl had a hole: without NOEXEC this would be a shell for root.
    site.root("gw1", "cp /usr/local/bin/msctl /root/kept; printf '#!/bin/sh\\n/usr/bin/id\\n' >/usr/local/bin/msctl")
    try:
        done = site.ssh("vera", "gw1", "sudo -n msctl status")
    finally:
        site.root("gw1", "cp /root/kept /usr/local/bin/msctl")
    assert "uid=0" not in done.stdout
    assert done.returncode != 0


def test_nobody_comes_in_by_another_name_or_adds_a_key(site: Site) -> None:
    assert site.ssh("vera", "gw1", "id", "otto").returncode == 255
    assert site.ssh("vera", "gw1", "id", "root").returncode == 255
    key = site.key("friend").with_suffix(".pub").read_text().strip()
    done = site.ssh("vera", "gw1", f"mkdir -p -m 700 .ssh && echo '{key}' >.ssh/authorized_keys")
    assert done.returncode == 0
    assert site.ssh("friend", "gw1", "id", "vera").returncode == 255


def working_time() -> float:
    """Seconds that the processes we have started have worked."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_revoked_certificate_is_refused_within_a_minute_and_its_session_ends(site: Site) -> None:
    with subprocess.Popen(site.ssh_command("rita", "gw2", "echo in; sleep 300"), stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"in\n"
        begin = working_time()
        site.access(access_action="revoke", access_person="rita", access_reason="laptop lost")
        assert session.wait(10) != 0
        for host in ("gw1", "gw2"):
            assert site.ssh("rita", host, "id").returncode == 255
        assert working_time() - begin < 30, "a busy machine may take longer, a minute is enough for the others"
    assert site.ssh("otto", "gw2", "id").returncode == 0, "of others nothing is revoked"
    assert "revoked" in site.root("gw2", "journalctl --no-pager -q -t sshd -t sshd-session --grep revoked")
    assert "this public key was revoked" in site.access(
        code=2, access_action="issue", access_person="rita", access_public_key_file=f"{site.key('rita')}.pub"
    )
    events = [json.loads(line) for line in (site.place / "audit.jsonl").read_text().splitlines()]
    assert events[-1]["what"] == "ssh_revocation"
    assert events[-1]["message"].endswith("laptop lost")
    number = re.findall(r"Certificate (\d+) of otto", site.output)[-1]
    site.access("-e", f"access_serial={number}", access_action="revoke", access_reason="issued by mistake")
    assert site.ssh("otto", "gw2", "id").returncode == 255


def test_a_person_who_is_taken_out_is_locked_out(site: Site) -> None:
    assert site.ssh("paul", "gw1", "id").returncode == 0
    site.variables["access_people"] = [one for one in site.variables["access_people"] if one["name"] != "paul"]
    assert "(item=paul)" in site.access("--check")
    assert site.ssh("paul", "gw1", "id").returncode == 0, "check mode has told it, and done nothing"
    with subprocess.Popen(site.ssh_command("paul", "gw1", "echo in; sleep 300"), stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"in\n"
        site.access()
        assert session.wait(10) != 0
    assert site.ssh("paul", "gw1", "id").returncode == 255


BAD_PEOPLE: Sequence[Mapping[str, Any]] = [
    {"name": "x; touch /tmp/pwned", "role": "viewer"},
    {"name": "$(touch /tmp/pwned)", "role": "viewer"},
    {"name": "../../tmp/pwned", "role": "viewer"},
    {"name": "root", "role": "viewer"},
    {"name": "www-data", "role": "administrator"},
    {"name": "alice ALL=(ALL) NOPASSWD: ALL", "role": "viewer"},
    {"name": "ålice\u202e", "role": "viewer"},
    {"name": "{{ lookup('pipe', 'touch /tmp/pwned') }}", "role": "viewer"},
    {"name": "alice", "role": "viewer", "keys": ['command="touch /tmp/pwned" ssh-ed25519 AAAA']},
]


def test_bad_people_and_commands_are_refused_and_nothing_is_written(site: Site) -> None:
    state = "cat /etc/passwd /etc/group /etc/sudoers.d/* /etc/ssh/sshd_config.d/*; ls -lR /etc/ssh/multi_sonicator /tmp"
    before = site.root("gw1", state)
    # Strings that an inventory's file would mark as unsafe; here they come from another tool as they are.
    text = site.access(code=2, access_people=[{**one, "name": unsafe(one["name"])} for one in BAD_PEOPLE])
    for number, _one in enumerate(BAD_PEOPLE, 1):
        if number != 5:  # an account of the system is judged when the others are right
            assert f"person {number} (" in text
    assert "Correct it in the inventory; nothing was changed." in text
    assert "www-data: is an account of the system here" in site.access(code=2, access_people=[BAD_PEOPLE[4]])
    commands = [{"role": "viewer", "command": "/bin/*"}, {"role": "viewer", "command": "/bin/ls", "pattern": ".*"}]
    assert "command 2 (" in site.access(code=2, access_commands=commands)
    assert "ca_key is empty: expected the path of a file" in site.access(code=2, access_ca_key="")
    assert site.root("gw1", state) == before
    assert not Path("/tmp/pwned").exists()


def unsafe(text: str) -> Any:
    return {"__ansible_unsafe": text}


def test_the_account_of_the_run_is_not_locked_out(site: Site) -> None:
    people = [*site.variables["access_people"], {"name": "ops", "state": "absent"}]
    assert "ops: this run came in by this account and would lock itself out" in site.access(
        code=2, access_people=people
    )
    people[-1] = {"name": "ops", "role": "engineer"}
    assert "ops: this run came in by this account, which as engineer could become root no more" in site.access(
        code=2, access_people=people
    )
    site.fleet.ssh("gw1", "true")


def test_breaking_the_glass(site: Site) -> None:
    public = {"access_public_key_file": f"{site.key('fire')}.pub"}
    assert site.ssh("fire", "gw1", "id", "ms-breakglass").returncode == 255
    assert "access_reason" in site.access(code=2, access_action="break_glass", **public)
    assert "1 to 24 as access_break_glass_hours" in site.access(
        code=2, access_action="break_glass", access_reason="fire in the hall", access_break_glass_hours=25, **public
    )
    hours = ("-e", "access_break_glass_hours=4")
    site.access("--limit=gw1", *hours, access_action="break_glass", access_reason="fire in the hall", **public)
    assert site.ssh("fire", "gw1", "sudo -n id -u", "ms-breakglass").stdout == "0\n"
    alarms = site.root("gw1", "journalctl --no-pager -q -p alert..alert -t multi-sonicator-alarm -o cat").splitlines()
    assert alarms[0] == "account for emergencies opened for 4 h: fire in the hall"
    assert alarms[1].startswith("the account for emergencies is in use: sshd, from ")
    assert "multi-sonicator-break-glass.timer" in site.root("gw1", "systemctl list-timers --no-pager")
    site.access("--limit=gw1")
    assert site.ssh("fire", "gw1", "id", "ms-breakglass").returncode == 0, "applying the data ends no emergency"

    # What the timer starts.
    site.root("gw1", "systemctl start multi-sonicator-break-glass.service")

    assert site.ssh("fire", "gw1", "id", "ms-breakglass").returncode == 255
    assert site.root("gw1", "getent shadow ms-breakglass").endswith(":1:\n")
    events = [json.loads(line) for line in (site.place / "audit.jsonl").read_text().splitlines()]
    told = [event for event in events if event["what"] == "break_glass"]
    assert [(event["where"]["gateway"], event["message"]) for event in told] == [("gw1", alarms[0])]


def test_private_keys_of_the_authority_stay_where_they_are(site: Site) -> None:
    text = site.output + "".join((site.place / name).read_text() for name in ("audit.jsonl", "certificates.jsonl"))
    for name in ("ca", "host_ca"):
        path = site.place / name
        assert path.stat().st_mode & 0o777 == 0o600
        # A line from the middle: the first ones of all keys are alike.
        canary = path.read_text().splitlines()[3]
        assert canary not in text
        for host in ("gw1", "gw2"):
            places = "/etc /home /root /usr/local /var /tmp /run/log"
            # Written so that it does not find itself where sudo logs it.
            pattern = f"{canary[:-1]}[{canary[-1]}]"
            look = f"grep -rl '{pattern}' {places}; journalctl --no-pager | grep -c '{pattern}'"
            assert site.root(host, look) == "0\n"


SETTINGS, OTHER = (f"/etc/ssh/sshd_config.d/{name}.conf" for name in ("40-multi-sonicator-access", "30-other"))
GUARD = "multi-sonicator-access-guard.timer"


def test_a_run_that_was_cut_off_is_begun_anew(site: Site) -> None:
    def state() -> tuple[bool, str, int]:
        """Whether settings have host certificates and are on trial, and how often sshd has read some."""
        return (
            "HostCertificate" in site.root("gw2", f"cat {SETTINGS}"),
            site.root("gw2", f"systemctl is-active {GUARD}").strip(),
            int(site.root("gw2", "journalctl --no-pager -q -t sshd | grep -c 'SIGHUP; restarting'")),
        )

    certificates, guard, read = state()
    assert (certificates, guard) == (True, "inactive")
    # As if cut off between the two: the settings are there, the clock runs, sshd has not read them.
    site.root("gw2", f"echo Nonsense >{OTHER}")
    without = ("--limit=gw2", "-e", "access_certificates=false", "-e", "access_guard_seconds=600")
    site.access(*without, code=2)
    site.root("gw2", f"rm {OTHER}")
    assert state() == (False, "active", read)

    site.access(*without)

    # Once to take them back, once to have them anew.
    assert state() == (False, "inactive", read + 2)

    # As if cut off before the clock was set.
    site.root("gw2", "echo >>/etc/ssh/multi_sonicator/sshd.conf")
    site.access(*without)
    assert state() == (False, "inactive", read + 3)
    site.access("--limit=gw2")


def test_taking_back_that_is_cut_off_leaves_the_host_open(site: Site) -> None:
    site.root("gw2", "mv /usr/sbin/groupdel /usr/sbin/groupdel.kept")
    site.access("--limit=gw2", code=2, access_state="absent")
    # One group fewer would lock the next run out, if sshd still asked for it.
    site.root("gw2", "mv /usr/sbin/groupdel.kept /usr/sbin/groupdel; groupdel ms-automation")
    assert site.fleet.ssh("gw2", "id -un").stdout == "ops\n"
    site.access("--limit=gw2")


def test_settings_that_cut_the_run_off_are_taken_back(site: Site) -> None:
    inside = ["nsenter", "-t", str(site.fleet.leader("gw2")), "-m", "-p", "-n", "-u", "-i"]

    def settings() -> str:
        return subprocess.run([*inside, "cat", SETTINGS], capture_output=True, text=True, check=True).stdout

    before = settings()
    # As if something else of sshd's contradicted: with the settings read anew, nobody of ours may come in.
    site.root("gw2", f"echo DenyUsers ops >{OTHER}")
    text = site.access("--limit=gw2", code=2, access_certificates=False, access_guard_seconds=30)
    assert "the gateway takes back the former settings within 30 s" in text
    deadline = time.monotonic() + 60
    while settings() != before:
        assert time.monotonic() < deadline
        time.sleep(1)

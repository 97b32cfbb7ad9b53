# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hardened hosts: what lynis says before and after, who is let back in, and that production does not notice."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import fleet as hosts
import pytest
import yaml
from support.hosts import TOP, HostSite

NAMES = ("bookworm", "trixie")
LINE = "/dev/ttyUSB0"
GUARD_SECONDS = 20

INSTALL = (
    "sudo apt-get -q update && sudo DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install lynis"
    # Its own timer is none of the host's.
    " && sudo systemctl disable --now lynis.timer"
)
# Debian 12's package has no content for Debian 12, Debian 13's has.
INSTALL_OPENSCAP = "sudo DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install openscap-scanner"
GUIDE = (
    "cd /tmp && apt-get -q download ssg-debian >&2"
    " && dpkg-deb --fsys-tarfile ssg-debian_*.deb | tar -xO --wildcards '*/ssg-debian12-ds.xml'"
)
AUDIT = "sudo lynis audit system --quick --quiet --no-colors >/dev/null 2>&1; sudo cat /var/log/lynis-report.dat"


class Site(HostSite):
    """One host of each release, one of them with a controller and the gateway's services."""

    def __init__(self) -> None:
        super().__init__()
        self.environment["ANSIBLE_TIMEOUT"] = "5"

    def on_each(self, command: str) -> dict[str, str]:
        with ThreadPoolExecutor() as pool:
            answers = pool.map(lambda name: self.fleet.ssh(name, command).stdout, NAMES)
            return dict(zip(NAMES, answers, strict=True))


def index(report: str) -> int:
    (found,) = re.findall(r"^hardening_index=(\d+)$", report, re.MULTILINE)
    return int(found)


@pytest.fixture(scope="module")
def site(machine: None) -> Iterator[Site]:
    with Site() as made:
        controllers = [{"name": "press_1", "line": LINE, "unit": 2}]
        made.fleet.up([hosts.Host("bookworm", "bookworm", controllers), hosts.Host("trixie", "trixie")])
        yield made


@pytest.fixture(scope="module")
def before(site: Site) -> dict[str, str]:
    """What lynis says of the bare hosts."""
    site.on_each(INSTALL)
    site.fleet.ssh("bookworm", INSTALL_OPENSCAP)
    guide = site.run(*site.fleet.ssh_command("trixie"), GUIDE)
    site.run(*site.fleet.ssh_command("bookworm"), "cat >guide.xml", stdin=guide)
    return site.on_each(AUDIT)


@pytest.fixture(scope="module")
def keeper(site: Site, before: dict[str, str]) -> str:
    """The process that keeps the line spoken to, since when, and the port, before the host is hardened."""
    site.play("provision")
    return who_keeps(site)


def who_keeps(site: Site) -> str:
    look = "systemctl show -p MainPID,ActiveEnterTimestampMonotonic multi-sonicator-keeper; stat -c %t:%T,%i " + LINE
    return site.fleet.ssh("bookworm", look).stdout


@pytest.fixture(scope="module")
def hardened(site: Site, keeper: str) -> Site:
    site.play("harden")
    return site


def test_the_line_is_kept_by_the_same_process(hardened: Site, keeper: str) -> None:
    assert who_keeps(hardened) == keeper
    assert "MainPID=0" not in keeper


def test_lynis_finds_what_is_explained_and_nothing_else(
    hardened: Site, before: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    after = hardened.on_each(AUDIT)
    told = {name: (index(before[name]), index(after[name])) for name in NAMES}
    with capsys.disabled():
        print(f"\nlynis, hardening index before and after: {told}")
    explained = yaml.safe_load((TOP / "roles/hardening/files/lynis.yml").read_text())
    suggested = {
        name for report in after.values() for name in re.findall(r"^suggestion\[\]=([^|]+)\|", report, re.MULTILINE)
    }
    warned = [line for report in after.values() for line in report.splitlines() if line.startswith("warning[]")]
    assert suggested <= set(explained), suggested - set(explained)
    assert warned == []
    assert all(points >= 80 and points > bare for bare, points in told.values())


@pytest.mark.parametrize("profile", ["standard", "anssi_bp28_minimal"])
def test_openscap_finds_what_is_explained_and_nothing_else(hardened: Site, profile: str) -> None:
    scan = f"sudo oscap xccdf eval --progress --profile xccdf_org.ssgproject.content_profile_{profile} guide.xml; true"
    told = re.findall(
        r"^xccdf_org\.ssgproject\.content_rule_(\w+):(\w+)$", hardened.fleet.ssh("bookworm", scan).stdout, re.M
    )
    explained = yaml.safe_load((TOP / "roles/hardening/files/openscap.yml").read_text())[profile]
    assert [verdict for _rule, verdict in told].count("pass") > 10
    assert {rule for rule, verdict in told if verdict not in ("pass", "notapplicable", "notchecked")} == set(explained)


def test_who_is_locked_out_is_let_in_again(hardened: Site) -> None:
    """Rules that name nobody who is there, and a host key that the control node does not know."""
    rules = (
        "sudo nft list table inet multi_sonicator; sudo cat /etc/ssh/sshd_config.d/10-multi-sonicator-hardening.conf"
    )
    before = hardened.on_each(rules)
    begun = time.monotonic()
    hardened.play(
        "harden",
        code=2,
        hardening_management_peers=["192.0.2.1"],
        hardening_ssh_max_sessions=3,
        hardening_guard_seconds=GUARD_SECONDS,
    )
    deadline = begun + 10 * GUARD_SECONDS
    while time.monotonic() < deadline:
        if all(hardened.fleet.ssh(name, "true", check=False).returncode == 0 for name in NAMES):
            break
        time.sleep(1)
    assert hardened.on_each(rules) == before
    told = hardened.on_each(
        "sudo journalctl -t multi-sonicator-hardening -o cat; ls /etc/systemd/system | grep hardening-guard || true"
    )
    assert set(told.values()) == {"nobody confirmed the new rules: taken back\n"}
    # Nothing is left that a later run would stumble over. What -e says is text.
    hardened.play("harden", hardening_guard_seconds="120", hardening_ssh_forwarding="false", hardening_usb_storage="no")
    assert hardened.on_each(rules) == before


def test_bad_rules_are_refused_before_anything_changes(hardened: Site) -> None:
    rules = "sudo sha256sum /etc/multi_sonicator/firewall.nft"
    before = hardened.on_each(rules)
    for variables, says in (
        ({"hardening_controls": {"ssh_root": False}}, "name ssh_root, but the controls are"),
        ({"hardening_firewall_allow": [{"port": 0, "peers": []}]}, "expected 1 to 65535"),
        (
            {"hardening_firewall_allow": [{"port": 1, "peers": [], "comment": '"; accept #'}]},
            "a comment of hardening_firewall",
        ),
        ({"hardening_firewall_allow": [{"port": 1, "peers": ["0.0.0.0/0 } accept #"]}]}, "expected a host or group"),
        (
            {"hardening_usb_allow": ["0403:6001 with-interface 03:00:00"]},
            "hardening_usb_allow: expected VENDOR:PRODUCT",
        ),
        ({"hardening_sysctl": {"kernel.x=1\nkernel.y": 1}}, "hardening_sysctl: expected names"),
        ({"hardening_state_directory": "/srv/state/** rw, /**"}, "expected what gateway_state_directory may be"),
        ({"hardening_umask": "999"}, "hardening_umask 999: expected three octal digits"),
    ):
        assert says in " ".join(hardened.play("harden", code=2, **variables).replace("\\n", " ").split())
    assert hardened.on_each(rules) == before


def test_the_tag_undo_takes_all_back_and_puts_nothing(hardened: Site) -> None:
    ours = (
        "sudo ls /var/lib/multi_sonicator/hardening.json /etc/ssh/sshd_config.d/10-multi-sonicator-hardening.conf"
        " /etc/apparmor.d/multi-sonicator /usr/sbin/apparmor_parser 2>/dev/null | wc -l"
    )
    assert hardened.fleet.ssh("trixie", ours).stdout == "4\n"
    assert "Put the controls in place" not in hardened.play("harden", "--tags=undo", "--limit=trixie")
    assert hardened.fleet.ssh("trixie", ours).stdout == "0\n"

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of a fleet: what they are, what they can reach, and their serial ports."""

from __future__ import annotations

import os
import re
import subprocess

import fleet as hosts
import pytest
from _core import rtu
from support.hosts import LINE, PROGRAMMER

from .conftest import FETCH

EVERY = ("gateway1", "gateway2", "gateway3", "gateway4")

# Sends a request and prints the answer, both in hexadecimal.
ASK = """
import os, select, sys, termios, time, tty
port = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
tty.setraw(port)
os.write(port, bytes.fromhex(sys.argv[2]))
answer, until = b"", time.monotonic() + 2
while len(answer) < int(sys.argv[3]) and select.select([port], [], [], max(0, until - time.monotonic()))[0]:
    answer += os.read(port, 256)
print(answer.hex())
"""

# Says when the port is open, and how reading from it ends.
HOLD = """
import os, sys
port = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
print("open", flush=True)
try:
    print(os.read(port, 1))
except OSError as error:
    print(error.strerror)
"""


def python(fleet: hosts.Fleet, name: str, script: str, *arguments: object) -> subprocess.Popen[str]:
    """Runs a Python script on a host, as root."""
    command = [*fleet.ssh_command(name), "sudo", "python3", "-", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(script)
    process.stdin.close()
    return process


def version(fleet: hosts.Fleet, unit: int) -> int:
    """What the controller itself says, asked on gateway1."""
    request = rtu.read_request(unit, 0x0007, 1)
    with python(fleet, "gateway1", ASK, LINE, request.frame.hex(), request.answer_length) as asking:
        assert asking.stdout is not None
        return request.parse(bytes.fromhex(asking.stdout.read()), LINE)[0]


def names(fleet: hosts.Fleet) -> set[str]:
    """All names of serial ports on gateway1."""
    return set(fleet.ssh("gateway1", "ls -d /dev/tty[UA]* /dev/serial/*/*", check=False).stdout.split())


def names_of(fleet: hosts.Fleet, port: str) -> set[str]:
    """Those of one port."""
    found = fleet.ssh("gateway1", f"find -L /dev/tty[UA]* /dev/serial -samefile {port}").stdout
    return set(found.split())


@pytest.mark.parametrize("name", EVERY)
def test_systemd_is_running_on_a_bare_debian(fleet: hosts.Fleet, name: str) -> None:
    look = (
        "systemctl is-system-running --wait; systemctl list-units --failed --plain --no-legend;"
        " . /etc/os-release; echo $VERSION_CODENAME; hostname; ls -A /opt /srv /usr/local/lib; command -v avrdude"
    )
    found = fleet.ssh(name, look, check=False).stdout
    assert found.split() == [
        *("running", fleet.hosts[name].release, name),
        *(
            "/opt:",
            "/srv:",
            "/usr/local/lib:",
            f"python{'3.11' if fleet.hosts[name].release == 'bookworm' else '3.13'}",
        ),
    ]


def test_hosts_have_identities_of_their_own(fleet: hosts.Fleet) -> None:
    fingerprint = "cat /etc/machine-id /proc/sys/kernel/random/boot_id /etc/ssh/ssh_host_ed25519_key.pub"
    every = [line for name in EVERY for line in fleet.ssh(name, fingerprint).stdout.splitlines()]
    assert len(every) == len(set(every)) == 3 * len(EVERY)


def test_hosts_reach_each_other_and_the_package_proxy_and_nothing_else(fleet: hosts.Fleet) -> None:
    other = fleet.address("gateway2")
    assert fleet.ssh("gateway1", f"head -c 4 </dev/tcp/{other}/22; ip route show default").stdout == "SSH-"
    fleet.ssh("gateway1", FETCH)


def test_ports_look_like_a_usb_adapters(fleet: hosts.Fleet) -> None:
    assert names(fleet) == names_of(fleet, LINE) | names_of(fleet, PROGRAMMER) | names_of(fleet, "/dev/ttyACM0")
    for port, device in ((LINE, "ttyUSB0"), (PROGRAMMER, "ttyACM1"), ("/dev/ttyACM0", "ttyACM0")):
        found = names_of(fleet, port)
        assert {port, f"/dev/{device}"} <= found
        assert sorted(re.sub("[^/]*$", "", name) for name in found) == [
            "/dev/",
            "/dev/serial/by-id/",
            "/dev/serial/by-path/",
        ]
        assert fleet.ssh("gateway1", f"stat -L -c '%F %U:%G %a' {port}").stdout == (
            "character special file root:dialout 660\n"
        )


def test_a_port_is_pulled_out_and_put_in_again(fleet: hosts.Fleet) -> None:
    before, of_line = names(fleet), names_of(fleet, LINE)
    with python(fleet, "gateway1", HOLD, LINE) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == "open\n"
        fleet.unplug("gateway1", LINE)
        assert holding.stdout.readline() in ("b''\n", "Input/output error\n")
    assert names(fleet) == before - of_line
    fleet.plug("gateway1", LINE)
    assert names(fleet) == before
    assert version(fleet, 3) == 0x0100


def test_boards_run_on_while_their_host_reboots(fleet: hosts.Fleet) -> None:
    before, of_programmer = names(fleet), names_of(fleet, PROGRAMMER)
    boot = "cat /proc/sys/kernel/random/boot_id"
    first_boot = fleet.ssh("gateway1", boot).stdout
    # What only a host that was not really rebooted would still have.
    fleet.ssh("gateway1", "sudo nft add table inet lost && sudo sysctl -q net.ipv4.tcp_syncookies=2 && touch kept")
    fleet.unplug("gateway1", PROGRAMMER)
    boards = [fleet.control("gateway1", name, "state")["boots"] for name in ("mixer_1", "mixer_2")]

    fleet.reboot("gateway1")

    assert fleet.ssh("gateway1", boot).stdout != first_boot
    look = "ls kept; sudo nft list tables; sudo sysctl -n net.ipv4.tcp_syncookies"
    assert fleet.ssh("gateway1", look).stdout.split() == ["kept", "1"]
    assert names(fleet) == before - of_programmer, "what is not plugged in does not come back by itself"
    fleet.plug("gateway1", PROGRAMMER)
    assert names(fleet) == before
    assert version(fleet, 2) == 0x0100
    assert [fleet.control("gateway1", name, "state")["boots"] for name in ("mixer_1", "mixer_2")] == boards


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (hosts.Host("gateway", "potato"), "release 'potato': expected one of bookworm, trixie"),
        (hosts.Host("Gate way"), "host name 'Gate way': expected small letters"),
        (
            hosts.Host("gateway", controllers=[{"name": "press", "unit": 2, "line": "/tmp/line"}]),
            "host gateway: line /tmp/line: expected a port in /dev",
        ),
    ],
    ids=["release", "name", "port"],
)
def test_bad_descriptions_are_refused_before_anything_is_made(machine: None, tmp_path, host, message) -> None:
    with pytest.raises(hosts.FleetError, match=re.escape(message)):
        hosts.Fleet(tmp_path / "site").up([host])
    assert not (tmp_path / "site").exists()


def test_an_ordinary_user_is_told_why_there_are_no_hosts(machine: None) -> None:
    os.seteuid(65534)
    try:
        assert hosts.available() == "a fleet of hosts needs root"
    finally:
        os.seteuid(0)

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet leaves nothing behind, however it ended, and does not disturb another one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fleet as hosts
import pytest
from support.hosts import CONTROLLERS

from .conftest import FETCH

HOSTS = [hosts.Host("gateway1", "bookworm", CONTROLLERS), hosts.Host("gateway2", "trixie")]
UP = """
import sys
sys.path.insert(0, sys.argv[1])
import fleet, pathlib
fleet.Fleet(pathlib.Path(sys.argv[2])).up([fleet.Host("gateway1"), fleet.Host("gateway2", "trixie")])
"""


def traces(place: Path) -> list[str]:
    """All that this machine has of the fleet in a directory: files, processes, mounts, cgroups and links."""
    found = [str(path) for path in place.parent.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = [(process / file).read_bytes() for file in ("cmdline", "environ", "mountinfo")]
            if any(str(place).encode() in text for text in words):
                found.append(f"process {process.name}: {words[0]!r}")
    cgroup = hosts.Fleet(place)._processes
    found += [str(cgroup)] if cgroup.exists() else []
    return found + [link["ifname"] for link in hosts.links() if link.get("ifalias") == str(place)]


def ports_of(bridge: str) -> list[str]:
    """Links that are or were the bridge's."""
    return [link["ifname"] for link in hosts.links() if link["ifname"].startswith((f"vb-{bridge}-", bridge))]


def processes_of(place: Path) -> list[int]:
    cgroup = hosts.Fleet(place)._processes
    return [int(word) for file in cgroup.rglob("cgroup.procs") for word in hosts.read(file).split()]


def running(process: int) -> bool:
    """A process that has ended stays for its parent to see."""
    return hosts.read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()[:1] not in ([], ["Z"])


def test_nothing_is_left(place: Path) -> None:
    fleet = hosts.Fleet(place)
    assert traces(place) == []
    fleet.up(HOSTS)
    ansible = Path(sys.executable).with_name("ansible")
    subprocess.run([ansible, "-i", fleet.inventory, "gateways", "-m", "ping"], capture_output=True, check=True)
    processes, bridge = processes_of(place), fleet._bridge()
    assert len(traces(place)) > 5
    assert len(processes) > 20
    assert bridge is not None
    assert len(ports_of(bridge)) == 3

    fleet.down()

    assert traces(place) == []
    assert [process for process in processes if running(process)] == []
    assert ports_of(bridge) == []
    fleet.down()
    assert traces(place) == []


@pytest.mark.parametrize("seconds", [0.2, 1.2])
def test_nothing_is_left_of_an_up_that_was_killed(place: Path, seconds: float) -> None:
    hosts.build("bookworm"), hosts.build("trixie")
    command = [sys.executable, "-c", UP, str(hosts.TOP / "molecule"), str(place)]
    with subprocess.Popen(command, start_new_session=True) as up:
        time.sleep(seconds)
        os.killpg(up.pid, signal.SIGKILL)
    hosts.Fleet(place).down()
    assert traces(place) == []


def test_up_after_a_crash_begins_anew(place: Path) -> None:
    fleet = hosts.Fleet(place)
    fleet.up(HOSTS)
    first, second = fleet.leader("gateway1"), fleet.leader("gateway2")
    fleet.ssh("gateway1", "sudo touch /left_over")
    keeper = int(hosts.read(fleet._cgroup("gateway1") / "cgroup.procs").split()[0])
    os.kill(keeper, signal.SIGKILL)

    fleet.up(HOSTS)

    assert fleet.leader("gateway1") != first
    assert fleet.leader("gateway2") == second, "the one that is well stays"
    assert fleet.ssh("gateway1", "ls /left_over", check=False).stdout == ""
    assert fleet.control("gateway1", "mixer_1", "state")["mcu"] == "running"


def test_two_fleets_at_once(fleet: hosts.Fleet, place: Path) -> None:
    other = hosts.Fleet(place)
    other.up([hosts.Host("gateway1", "bookworm", CONTROLLERS)])
    assert not other._network().overlaps(fleet._network())
    for one in (fleet, other):
        one.ssh("gateway1", FETCH)
    other.control("gateway1", "mixer_1", "power", "off")
    assert fleet.control("gateway1", "mixer_1", "state")["mcu"] == "running"
    reach = f"timeout 1 bash -c '</dev/tcp/{fleet.address('gateway1')}/22'"
    assert other.ssh("gateway1", reach, check=False).returncode != 0

    other.down()

    assert traces(place) == []
    assert fleet.ssh("gateway1", "hostname").stdout == "gateway1\n"

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts over ssh whose connection to a gateway is lost while a controller is being written."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _core.line import open_bus
from support.ansible import UNTOUCHED, VirtualSite
from support.site import flash_of
from support.sshd import INSTALLED, Sshd
from support.virtual import Board

pytestmark = pytest.mark.skipif(not INSTALLED, reason="no sshd: install openssh-server")

VERSION = {"firmware_version": "1.1.0"}
AMPLITUDE, START_INHIBIT = 0x0101, 0x0013


class RemoteSite(VirtualSite):
    """A simulated site whose gateways are reached over ssh, each through a server of its own; a board at each."""

    def __init__(self, directory: Path, *gateways: str) -> None:
        super().__init__(directory, {gateway: [[Board(f"press_{gateway}")]] for gateway in gateways})
        self.servers = {gateway: Sshd(directory / f"ssh_{gateway}", self.control.directory) for gateway in gateways}
        self.hosts = {gateway: server.variables for gateway, server in self.servers.items()}
        self.variables["controllers_rollout_id"] = "test"

    def give_up_after(self, seconds: float) -> None:
        """How long the next runs try to reach a gateway again that they have lost."""
        self.control.environment["ANSIBLE_CALLBACKS_ENABLED"] += ",impatient"
        self.control.environment["RECONNECT_DEADLINE"] = str(seconds)

    def set_amplitude(self, controller: str, percent: int) -> None:
        line = self.line(controller)
        bus = open_bus(str(line.line))
        try:
            bus.write(line.boards[controller].unit, AMPLITUDE, [percent])
        finally:
            bus.close()

    @contextlib.contextmanager
    def deploying(self, **variables: Any) -> Iterator[subprocess.Popen[str]]:
        child = self.control.start("ansible-playbook", *self.arguments("deploy", False, VERSION | variables))
        try:
            yield child
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    @contextlib.contextmanager
    def writing(self, child: subprocess.Popen[str], controller: str) -> Iterator[None]:
        """Within, the controller stays at a page of the writing; for some seconds at most, avrdude waits no longer."""
        self.command(controller, "hold_after_pages", 9)
        try:
            self.wait_for(child, lambda: self.command(controller, "state")["programmer"]["holding"])
            yield
        finally:
            self.command(controller, "release")

    def transactions(self, gateway: str) -> int:
        """How many have ended."""
        return len(list(self.state(gateway, "controllers", f"press_{gateway}", "history").glob("*.jsonl")))

    def outcomes(self) -> list[str]:
        """What became of each controller in turn, in all runs of the rollout."""
        path = self.control.directory / ".local/state/multi_sonicator/rollouts/test/events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()]
        return [f"{event['member']}: {event['outcome']}" for event in events if event["event"] == "result"]

    def require_deployed(self, gateway: str) -> None:
        """The release comes to be on the board, flashed once, with the settings of before, and not drained."""
        controller = f"press_{gateway}"
        deadline = time.monotonic() + 30
        while not self.transactions(gateway):
            assert time.monotonic() < deadline, f"the transaction on gateway {gateway} does not end"
            time.sleep(0.1)
        assert self.transactions(gateway) == 1
        assert not self.state(gateway, "controllers", controller, "journal.jsonl").exists()
        assert self.flash(controller).rstrip(b"\xff") == flash_of("1.1.0")
        assert (self.register(controller, AMPLITUDE), self.register(controller, START_INHIBIT)) == (61, 0)


@contextlib.contextmanager
def remote_site(directory: Path, *gateways: str) -> Iterator[RemoteSite]:
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(RemoteSite(directory, *gateways))
        for gateway, server in site.servers.items():
            stack.enter_context(server)
            site.set_amplitude(f"press_{gateway}", 61)
        yield site


def test_the_run_comes_back_to_a_gateway(tmp_path: Path) -> None:
    """The connection is killed while it is idle, within a look, and at the command that follows the run's end."""
    with remote_site(tmp_path, "a") as site, site.deploying() as child:
        server = site.servers["a"]
        with site.writing(child, "press_a"):
            server.cut()
            server.cut_at("flock", "rm -f /")
            site.wait_for(child, lambda: len(server.cuts) < 2)
        output, _errors = child.communicate(timeout=120)
        assert child.returncode == 0, output
        assert server.cuts == []
        assert site.outcomes() == ["a/press_a: deployed"]
        site.require_deployed("a")


def test_a_gateway_goes_on_without_a_connection(tmp_path: Path) -> None:
    """It cannot be reached for the rest of the run and counts as that; the next run finds its controller done."""
    with remote_site(tmp_path, "a") as site:
        site.give_up_after(3)
        with site.deploying() as child:
            with site.writing(child, "press_a"):
                site.servers["a"].stop()
            output, _errors = child.communicate(timeout=120)
        assert child.returncode == 2, output
        assert "out of reach for 3 s" in output and "failure budget exceeded" in output
        site.require_deployed("a")
        site.servers["a"].start()
        run = site.play("deploy", **VERSION, controllers_rollout_retry=True)
        assert run.traffic | UNTOUCHED == run.traffic
        assert site.outcomes() == ["a/press_a: unreachable", "a/press_a: unchanged"]
        site.require_deployed("a")


def test_a_lost_gateway_stops_the_others_only_over_the_budget(tmp_path: Path) -> None:
    """The first of two is lost without a word, as with a pulled cable; only what ssh itself asks finds that out."""
    with remote_site(tmp_path, "a", "b") as site:
        keep_alive = "-o ServerAliveInterval=1 -o ServerAliveCountMax=4"
        site.hosts["a"] |= {"ansible_ssh_extra_args": keep_alive, "ansible_ssh_timeout": 4}
        site.give_up_after(1)
        with site.deploying(controllers_max_failures=1) as child:
            with site.writing(child, "press_a"):
                site.servers["a"].freeze()
            output, _errors = child.communicate(timeout=120)
        assert child.returncode == 2, output
        assert "2 controllers: 1 done, 1 unreachable" in output
        assert site.outcomes() == ["a/press_a: unreachable", "b/press_b: deployed"]
        for gateway in ("a", "b"):
            site.require_deployed(gateway)

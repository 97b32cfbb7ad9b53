# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deploy that is killed; the next run brings the controller to its release, with the settings of before."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from support.ansible import UNTOUCHED, VirtualSite
from support.cuts import kill
from support.site import flash_of


@pytest.mark.parametrize("what", ["the module", "the whole run", "the control node", "everything"])
def test_next_run_recovers(site: VirtualSite, what: str) -> None:
    site.controllers["gateway"][0]["settings"] = {"sonicator1_amplitude": 61}
    site.play("configure")
    child = site.control.start("ansible-playbook", *site.arguments("deploy", False, {"firmware_version": "1.1.0"}))
    try:
        site.command("press", "hold_after_pages", 9)
        site.wait_for(child, lambda: site.command("press", "state")["programmer"]["holding"])
        if what == "the module":
            [module] = set(runs(site, "AnsiballZ_firmware")) - set(runs(site, "async_wrapper"))
            os.kill(module, signal.SIGKILL)
        elif what == "the whole run":
            # With the wrapper that would have told of its end: only the lock it no longer holds does.
            kill_run(site)
        else:
            os.kill(child.pid, signal.SIGKILL)
            if what == "everything":
                kill_run(site)
        if what in ("the module", "the whole run"):
            output, _unused = child.communicate(timeout=60)
            assert child.returncode == 2, output
            assert "press" in output or "run again" in output
    finally:
        site.command("press", "release")
        if child.poll() is None:
            kill(child.pid)
        child.wait()
    run = site.play("deploy", firmware_version="1.1.0")
    outcome = run.controllers("firmware")["press"]["outcome"]
    if what == "the control node":
        # The run went on without it, and the next one waited for its end.
        assert outcome == "unchanged"
        assert len(list(site.state("gateway", "controllers", "press", "history").iterdir())) == 1
    else:
        assert outcome == "deployed"
    assert site.flash("press").rstrip(b"\xff") == flash_of("1.1.0")
    assert (site.register("press", 0x0101), site.register("press", 0x0013)) == (61, 0)
    assert not site.state("gateway", "controllers", "press", "journal.jsonl").exists()
    again = site.play("deploy", firmware_version="1.1.0")
    assert not again.changed and again.traffic | UNTOUCHED == again.traffic


def runs(site: VirtualSite, words: str) -> list[int]:
    """Processes of this site's control node with ``words`` on their command line, detached ones too."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if str(site.control.directory) in command and words in command and "/python" in command.split("\0")[0]:
                found.append(int(entry.name))
    return found


def kill_run(site: VirtualSite) -> None:
    """The module with the wrapper that detached it, and the avrdude that it started."""
    for pid in runs(site, "async_wrapper"):
        kill(pid)

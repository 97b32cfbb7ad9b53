# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deploy that is killed; the next run brings the controller to its release, with the settings of before."""

from __future__ import annotations

import os
import signal

import pytest
from support.ansible import UNTOUCHED, VirtualSite
from support.cuts import descendants, kill
from support.site import flash_of


@pytest.mark.parametrize("what", ["the module", "the control node", "everything"])
def test_next_run_recovers(site: VirtualSite, what: str) -> None:
    site.controllers["gateway"][0]["settings"] = {"sonicator1_amplitude": 61}
    site.play("configure")
    child = site.control.start("ansible-playbook", *site.arguments("deploy", False, {"firmware_version": "1.1.0"}))
    try:
        site.command("press", "hold_after_pages", 9)
        site.wait_for(child, lambda: site.command("press", "state")["programmer"]["holding"])
        if what == "the module":
            [module] = [pid for pid in descendants(child.pid) if is_module(pid)]
            os.kill(module, signal.SIGKILL)
            output, _unused = child.communicate(timeout=60)
            assert child.returncode == 2, output
        elif what == "everything":
            kill(child.pid)
        else:
            os.kill(child.pid, signal.SIGKILL)
    finally:
        site.command("press", "release")
        if what == "everything" and child.poll() is None:
            kill(child.pid)
        child.wait()
    run = site.play("deploy", firmware_version="1.1.0")
    assert run.controllers("firmware")["press"]["outcome"] in ("deployed", "unchanged")
    assert site.flash("press").rstrip(b"\xff") == flash_of("1.1.0")
    assert (site.register("press", 0x0101), site.register("press", 0x0013)) == (61, 0)
    assert not site.state("gateway", "controllers", "press", "journal.jsonl").exists()
    again = site.play("deploy", firmware_version="1.1.0")
    assert not again.changed and again.traffic | UNTOUCHED == again.traffic


def is_module(pid: int) -> bool:
    """Whether this is the Python that runs the module, not a shell around it."""
    with open(f"/proc/{pid}/cmdline", "rb") as stream:
        words = stream.read().split(b"\0")
    return b"/python" in words[0] and b"AnsiballZ_firmware" in words[1]

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deploy shows while it runs."""

from __future__ import annotations

import os
import re

from support.ansible import VirtualSite


def phases(output: str) -> list[str]:
    return re.findall(r"^  gateway press: (.*)$", output, re.MULTILINE)


def test_phases_are_shown_while_they_last(site: VirtualSite) -> None:
    """The programmer freezes at a page: by then all that came before is shown, and nothing of what comes after."""
    child = site.control.start("ansible-playbook", *site.arguments("deploy", False, {"firmware_version": "1.1.0"}))
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    os.set_blocking(descriptor, False)
    output = ""

    def has_shown_the_writing() -> bool:
        nonlocal output
        try:
            output += os.read(descriptor, 65536).decode()
        except BlockingIOError:
            return False
        return any(line.startswith("writing flash") for line in phases(output))

    site.command("press", "hold_at", "page", 9)
    site.wait_for(child, has_shown_the_writing)
    assert site.command("press", "state")["programmer"]["holding"]
    shown = phases(output)
    assert shown.index("begun") < shown.index("reading the chip") < shown.index("writing"), output
    assert "deployed" not in shown
    site.command("press", "release")
    os.set_blocking(descriptor, True)
    output += child.communicate(timeout=60)[0]
    assert child.returncode == 0, output
    assert phases(output)[-1] == "deployed"
    assert not list(site.state("gateway", "progress").iterdir()), "nothing is left on the gateway"

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""16 bare hosts with two controllers each: how long one command takes until all are in production, and to run again.

Hosts and boards run on this machine too, so that the clock tells more of it than of the collection. Needs root.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from ratios import Result, import_path, report

import_path()

import fleet as hosts  # noqa: E402
from support.hosts import CONTROLLERS, ProductionSite, changes  # noqa: E402

HOSTS = 16


def run(site: ProductionSite, name: str) -> tuple[float, dict[str, int]]:
    """Seconds by the clock of a run of everything, and what it changed on each host."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    program, *words = site.command("provision")
    place = words.index("multi_sonicator.ops.provision") + 1
    words[place:place] = ["multi_sonicator.ops.harden", "multi_sonicator.ops.deploy"]
    output = site.run(program, *words, errors=subprocess.STDOUT).decode()
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    changed = changes(output)
    print(f"{name}: {wall:.0f} s, {used:.1f} s of CPU on the control node, {sum(changed.values())} changes", flush=True)
    return wall, changed


def main() -> int:
    if reason := hosts.available():
        print(f"left out: {reason}")
        return 0
    with ProductionSite() as site:
        site.environment["ANSIBLE_FORKS"] = str(HOSTS)
        releases = ("bookworm", "trixie")
        site.fleet.up([hosts.Host(f"gateway{number:02}", releases[number % 2], CONTROLLERS) for number in range(HOSTS)])
        first, _changed = run(site, f"provision, harden and deploy of {HOSTS} hosts")
        second, changed = run(site, "the same again")
    return report(
        [
            Result("site: second run / first run", second / first, 0.25),
            Result("site: changes of the second run", sum(changed.values()), 0),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

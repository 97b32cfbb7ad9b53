# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a simulated site's gateways, taken by the program that gateways run, in repositories of restic."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from _core import backup, settings
from _core.backup import Configuration
from _core.restic import Target
from support.ansible import VirtualSite
from support.profiles import mapping

PASSWORD, RECOVERY = "canary.of-the-repository", "canary.of-the-recovery"
# Of what a gateway is asked that which this machine knows, whether it is one or not.
QUESTIONS = {name: question for name, question in backup.QUESTIONS.items() if question[0] in ("cat", "uname")}


class Backups:
    """Of a site's gateways, each in two places of its own. The site's variables say where."""

    def __init__(self, site: VirtualSite) -> None:
        self.site = site
        place = site.directory / "targets"
        site.variables |= {
            "backup_targets": [
                {"name": "vault", "repository": f"{place}/vault/{{{{ inventory_hostname }}}}"},
                {"name": "hall", "repository": f"{place}/hall/{{{{ inventory_hostname }}}}", "offsite": True},
            ],
            "backup_state_directory": str(site.directory / "{{ inventory_hostname }}/state"),
            "backup_password": PASSWORD,
            "backup_recovery_password": RECOVERY,
        }
        for gateway in site.controllers:
            for target in self.targets(gateway):
                self.configuration(gateway).restic(target).create()

    def place(self, gateway: str, name: str) -> Path:
        return self.site.directory / "targets" / name / gateway

    def targets(self, gateway: str) -> list[Target]:
        return [Target(name, str(self.place(gateway, name)), PASSWORD, RECOVERY) for name in ("vault", "hall")]

    def configuration(self, gateway: str) -> Configuration:
        place = self.site.state(gateway, "backup")
        return Configuration(gateway, place, [], [], self.targets(gateway), None, 3600.0, {})

    def write_configuration(self, gateway: str) -> Path:
        """A file that says of a gateway's backups what its own says."""
        told = asdict(self.configuration(gateway))
        path = self.site.directory / f"{gateway}.backup.json"
        path.write_text(json.dumps(told, default=str))
        return path

    def take(self, gateway: str) -> str:
        """Take one; its id."""
        entries = [{"profile": "multi_sonicator_io", **one} for one in self.site.controllers[gateway]]
        places = {
            "state_directory": str(self.site.state(gateway)),
            "lock_directory": str(self.site.directory / gateway),
        }
        file = self.site.directory / f"{gateway}.json"
        file.write_bytes(
            settings.dump({"controllers": entries, "profiles": {"multi_sonicator_io": mapping()}, **places})
        )
        taken = backup.run(settings.load(file), self.configuration(gateway))
        if taken.problems:
            raise AssertionError("\n".join(taken.problems))
        return taken.manifest.id

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site of hosts with a gateway that keeps backups on another, in one place that only takes, and in one by SFTP."""

from __future__ import annotations

import json
import shlex
from typing import Any

import fleet as hosts

from .hosts import CONTROLLERS, LINE, PASSPHRASE, HostSite

GATEWAY, VAULT, SPARE = "gateway1", "vault1", "spare1"
BOARDS = [
    *CONTROLLERS,
    *({"name": f"mixer_{number}", "line": LINE, "unit": number + 1} for number in (3, 4)),
]
PASSWORD = "canary.of-the-repository"
RECOVERY = "canary.of-the-recovery"
REST = "canary.of-the-gateway"
UNIT = "multi-sonicator-backup.service"
START = f"sudo systemctl start {UNIT}"
# A program on the gateway that works with the targets as the backup's own does.
AT_TARGET = """
import dataclasses, json, sys
from pathlib import Path
sys.path.insert(0, "/usr/local/lib/multi_sonicator/current")
from _core.backup import Configuration
from _core.backup_set import verified
from _core.restic import Restic
configuration = Configuration.load()
target = {one.name: one for one in configuration.targets}[sys.argv[1]]
restic = configuration.restic(target)
"""


class BackupSite(HostSite):
    """The gateway with four controllers, the server of its backups, and a host that is spare."""

    def __init__(self) -> None:
        super().__init__(
            target=GATEWAY,
            backup_servers=VAULT,
            backup_server_gateways=[GATEWAY],
            backup_targets=[
                {"name": "vault", "server": VAULT, "by": "rest"},
                {"name": "hall", "server": VAULT, "by": "sftp"},
            ],
            backup_calendar="2099-01-01",  # one at midnight came between two steps of a test
            backup_password=PASSWORD,
            backup_recovery_password=RECOVERY,
            backup_rest_password=REST,
            certificates_ca_passphrase=PASSPHRASE,
            certificates_names=["{{ inventory_hostname }}", "{{ ansible_host }}"],
        )

    def up(self) -> None:
        """With all that backups need, and without any."""
        self.fleet.up(
            [hosts.Host(GATEWAY, "bookworm", BOARDS), hosts.Host(VAULT, "trixie"), hosts.Host(SPARE, "bookworm")]
        )
        self.play("provision")
        service = {"name": "backup", "usage": "server", "reload": "multi-sonicator-backup-server.service"}
        self.play("certificates", target=VAULT, certificates_services=[service])
        self.play("certificates")

    def at_target(self, name: str, script: str, check: bool = True) -> str:
        """What a script prints on the gateway that has one of its targets as ``restic``."""
        text = f"{AT_TARGET}{script}"
        done = self.fleet.ssh(GATEWAY, f"sudo python3 -c {shlex.quote(text)} {name} 2>&1", check=check)
        return str(done.stdout)

    @property
    def status(self) -> dict[str, Any]:
        """What the gateway says of its last run."""
        told: dict[str, Any] = json.loads(
            self.fleet.ssh(GATEWAY, "cat /var/lib/multi_sonicator/backup/status.json").stdout
        )
        return told

    def secrets(self, host: str, root: bool = True) -> list[str]:
        """The files of a host that hold one, and that root, or an ordinary user, can read."""
        look = f"{'sudo ' if root else ''}grep -rl 'canary[.]of' /etc /var /srv /tmp /run"
        return str(self.fleet.ssh(host, look, check=False).stdout).split()

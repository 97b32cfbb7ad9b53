# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site of hosts that boot in containers, and the collection's playbooks run against it as its users do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fleet as hosts

from .releases import Publisher, verifier
from .runbooks import command
from .virtual import CACHE

LINE = "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A10K7QZ1-if00-port0"
PROGRAMMER = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:3.2:1.0"
CONTROLLERS = [
    {"name": "mixer_1", "line": LINE, "unit": 2, "programmer": PROGRAMMER},
    {"name": "mixer_2", "line": LINE, "unit": 3, "programmer": "/dev/ttyACM0"},
]
PEOPLE = {"vera": "viewer", "otto": "operator"}
PASSPHRASE = "canary-passphrase-of-the-site"

TOP = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent


class HostSite:
    """Hosts of a fleet below a directory of their own, which is removed with them. ``variables`` go with each run."""

    def __init__(self, **variables: Any) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="fleet-"))  # short, as the paths of sockets have to be
        self.fleet = hosts.Fleet(self.place / "fleet")
        self.inventory = self.fleet.inventory
        self.variables: dict[str, Any] = {"multi_sonicator_audit_log": str(self.place / "audit.jsonl"), **variables}
        self.environment = {
            **os.environ,
            "HOME": str(self.place),
            "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".venv/collections"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOLOR": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.fleet.down()
        shutil.rmtree(self.place)

    def command(self, playbook: str, *arguments: str, **variables: Any) -> list[str]:
        """What runs a playbook of the collection on all hosts. Secrets do not show in the list of processes."""
        file = self.place / "variables.json"
        file.write_text(json.dumps(self.variables | variables))
        return [
            *(str(PROGRAMS / "ansible-playbook"), "-i", str(self.inventory), f"multi_sonicator.ops.{playbook}"),
            *("-e", f"@{file}", *arguments),
        ]

    def play(self, playbook: str, *arguments: str, code: int = 0, **variables: Any) -> str:
        """Runs it; all that it printed. AssertionError where it ends with another exit code."""
        return self.run(*self.command(playbook, *arguments, **variables), code=code, errors=subprocess.STDOUT).decode()

    def follow(self, runbook: str, step: int, names: Mapping[str, str], code: int = 0, **variables: Any) -> str:
        """Runs one command of a runbook, with this site's ``names`` for those in it; what it printed."""
        program, *arguments = command(runbook, step, {"hosts.yml": str(self.inventory), **names})
        if program == "ssh":
            host, *words = arguments
            return str(self.fleet.ssh(host, *words).stdout)
        file = self.place / "variables.json"
        file.write_text(json.dumps(self.variables | variables))
        playbook = (str(PROGRAMS / program), "-e", f"@{file}", *arguments)
        return self.run(*playbook, code=code, errors=subprocess.STDOUT).decode()

    def run(self, *command: str, code: int = 0, stdin: bytes | None = None, errors: int = subprocess.PIPE) -> bytes:
        """Runs a command on the control node; what it printed."""
        done = subprocess.run(
            command,
            input=stdin,
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            check=False,
        )
        if done.returncode != code:  # the end of what it said, where the reason is
            said = (done.stdout + (done.stderr or b"")).decode(errors="replace")[-8000:]
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}, expected {code}\n{said}")
        return done.stdout


class ProductionSite(HostSite):
    """One that knows all that site.yml takes: signed releases, people, a service with a certificate."""

    def __init__(self) -> None:
        super().__init__()
        publisher = Publisher(self.place / "publisher")
        publisher.publish("1.1.0")
        verifier()  # so that its wheels are there
        for name in PEOPLE:
            self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.place / name))
        self.variables |= {
            "controllers_repository": str(publisher.repository.directory),
            "controllers_trusted_root": str(publisher.root),
            "controllers_firmware_version": "1.1.0",
            "controllers_soak": 0.5,
            "firmware_trust_wheels": str(CACHE / "wheels"),
            "access_people": [
                {"name": name, "role": role, "keys": [(self.place / f"{name}.pub").read_text().strip()]}
                for name, role in PEOPLE.items()
            ],
            "certificates_ca_passphrase": PASSPHRASE,
            "certificates_services": [{"name": "metrics", "usage": "server"}],
        }

    def as_person(self, name: str, host: str, command: str, code: int = 0) -> str:
        """What a person gets to see of a command over ssh; the authority says that the host is the right one."""
        known = f"UserKnownHostsFile={self.place}/.config/multi_sonicator/known_hosts"
        options = ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", known)
        words = [word for option in options for word in ("-o", option)]
        person = f"{name}@{self.fleet.address(host)}"
        ssh = ("ssh", "-F", "none", "-i", str(self.place / name), *words, person, command)
        return self.run(*ssh, code=code, errors=subprocess.STDOUT).decode()


def changes(output: str) -> dict[str, int]:
    """How many tasks changed something on each host, by the recap of a run."""
    return {
        host: int(number) for host, number in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", output, re.MULTILINE)
    }

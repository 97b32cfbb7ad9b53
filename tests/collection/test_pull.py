# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role pull: what it gives systemd, and that the command of the service does what the gateway is to do.

Runs in a mount namespace of its own, where the directory of units is empty, and systemd is not running.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

UNITS = ("multi-sonicator-pull.service", "multi-sonicator-pull.timer")
PROGRAMS = pathlib.Path(sys.executable).parent


class Gateway:
    """A gateway with an inventory of two, a repository that holds it, and a collection to run."""

    def __init__(self, directory: pathlib.Path, top: pathlib.Path) -> None:
        self.directory = directory
        self.units = directory / "units"
        self.checkout = directory / "checkout"
        self.repository = directory / "repository"
        self.units.mkdir()
        (directory / "ansible.cfg").touch()
        self.environment = {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(top / ".venv/collections"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "SYSTEMD_OFFLINE": "1",
        }
        inventory = self.repository / "inventories/my_site/hosts.yml"
        inventory.parent.mkdir(parents=True)
        hosts = {
            name: {"controllers": [{"name": f"press_{name}", "line": "/dev/none", "unit": 2}]}
            for name in ("one", "two")
        }
        variables = {"ansible_become": True, "ansible_python_interpreter": sys.executable}
        inventory.write_text(json.dumps({"gateways": {"hosts": hosts, "vars": variables}}))
        (self.repository / "controllers.yml").write_text((top / "docs/examples/controllers.yml").read_text())
        for command in ("init -q -b main", "add .", "-c user.name=n -c user.email=e commit -q -m one"):
            self.run("git", "-C", str(self.repository), *command.split())
        self.variables = {
            "pull_repository": f"file://{self.repository}",
            "pull_inventory": "inventories/my_site/hosts.yml",
            "pull_directory": str(self.checkout),
            "pull_program": str(PROGRAMS / "ansible-pull"),
            "pull_variables": {"playbook": "status", "controllers_state_directory": f"{directory}/100 % $HOME"},
        }

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def play(self, *arguments: str) -> tuple[int, str]:
        """Number of changes of the playbook on the gateway one, and the output."""
        inventory = self.repository / "inventories/my_site/hosts.yml"
        command = ["ansible-playbook", "-i", str(inventory), "-c", "local", "-l", "one", "multi_sonicator.ops.pull"]
        command += ["-e", json.dumps({"ansible_become": False, **self.variables}), *arguments]
        alone = f"mount --bind {shlex.quote(str(self.units))} /etc/systemd/system && exec {shlex.join(command)}"
        output = self.run("unshare", "--map-root-user", "--mount", "sh", "-c", alone)
        found = re.search(r"changed=(\d+)", output)
        assert found, output
        return int(found[1]), output

    def there(self) -> list[str]:
        return sorted(str(path.relative_to(self.units)) for path in self.units.rglob("*") if not path.is_dir())

    def service(self) -> list[str]:
        """The command of the service as systemd reads it."""
        text = (self.units / UNITS[0]).read_text()
        found = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", text, re.MULTILINE)
        assert found, text
        return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(found[1].replace("\\\n", " "))]


@pytest.fixture
def gateway(tmp_path: pathlib.Path, top: pathlib.Path) -> Gateway:
    return Gateway(tmp_path, top)


def test_the_life_of_the_timer(gateway: Gateway) -> None:
    changes, told = gateway.play("--check", "--diff")
    assert changes > 0 and '"--verify-commit"' in told
    assert gateway.there() == [] and not gateway.checkout.exists()

    gateway.variables["pull_verify_commit"] = False
    assert gateway.play()[0] > 0
    assert gateway.there() == [*UNITS, f"timers.target.wants/{UNITS[1]}"]
    gateway.run("systemd-analyze", "verify", "--man=no", *(str(gateway.units / unit) for unit in UNITS))
    assert gateway.play()[0] == 0

    # Nobody has signed the commit.
    output = gateway.run(*gateway.service(), "--verify-commit", code=2)
    assert "Failed to verify GPG signature" in output and "PLAY" not in output
    # What looks like a variable of systemd's or one of its specifiers is neither.
    assert f"{gateway.directory}/100 % $HOME" in " ".join(gateway.service())
    output = gateway.run(*gateway.service())
    assert "press_one" in output and "press_two" not in output

    gateway.variables["pull_state"] = "absent"
    assert gateway.play()[0] > 0
    assert gateway.there() == [] and not gateway.checkout.exists()


def test_a_gateway_without_a_usable_ansible_is_left_alone(gateway: Gateway) -> None:
    gateway.variables["pull_program"] = "/opt/none/ansible-pull"
    with pytest.raises(AssertionError, match=r"of ansible-core 2\.18 or newer, found none, nothing was changed"):
        gateway.play()
    assert gateway.there() == [] and not gateway.checkout.exists()

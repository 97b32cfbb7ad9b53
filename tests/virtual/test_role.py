# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role virtual_controller: check mode on a virgin host, start, nothing to do, change, stop, absent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.virtual import REPOSITORY, firmware
from virtual.master import Master

PLAYBOOK = REPOSITORY / "playbooks" / "virtual_site.yml"


class Site:
    def __init__(self, directory: Path) -> None:
        self.directory = directory / "site"
        self.inventory = directory / "hosts.json"
        ports = self.directory / "dev"
        self.controllers: list[dict[str, Any]] = [
            {"name": "mixer_1", "line": f"{ports}/line_1", "unit": 2, "programmer": f"{ports}/isp_1"},
            {"name": "mixer_2", "line": f"{ports}/line_1", "unit": 3},
            {"name": "press_1", "line": f"{ports}/line_2", "unit": 2, "programmer": f"{ports}/isp_2"},
        ]
        self.variables: dict[str, Any] = {"virtual_controller_firmware": str(firmware("1.0.0"))}

    def play(self, *arguments: str, fails: bool = False) -> tuple[int, str]:
        """Number of changes, and the output."""
        host = self.variables | {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "controllers": self.controllers,
            "virtual_controller_directory": str(self.directory),
        }
        self.inventory.write_text(json.dumps({"gateways": {"hosts": {"gateway": host}}}))
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [str(program), "-i", str(self.inventory), str(PLAYBOOK), *arguments]
        environment = os.environ | {"ANSIBLE_PIPELINING": "1"}
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment)
        output = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, output
        assert "WARNING" not in output
        recap = re.search(r"changed=(\d+)", output)
        assert recap, output
        return int(recap[1]), output

    def running(self) -> list[str]:
        program = self.directory / "program" / "virtual_line"
        if not program.exists():
            return []
        return sorted(subprocess.check_output([program, "--list", self.directory / "control"], text=True).split())


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("role"))
    yield made
    program = made.directory / "program" / "virtual_line"
    for name in made.running():
        subprocess.run([program, "--stop", made.directory / "control" / f"{name}.pid"], check=True)


def test_the_life_of_a_virtual_site(site: Site) -> None:
    changes, _unused = site.play("--check", "--diff")
    assert changes > 0 and not site.directory.exists()

    assert site.play()[0] == changes
    assert site.running() == ["line_1", "line_2"]
    for line, units in (("line_1", (2, 3)), ("line_2", (2,))):
        with Master(site.directory / "dev" / line) as master:
            for unit in units:
                assert master.read(7, 1, unit) == [0x0100]
    assert (site.directory / "dev" / "isp_1").is_symlink()
    assert (site.directory / "boards" / "mixer_2" / "eeprom.bin").read_bytes()[0] == 3

    before = (site.directory / "control" / "line_1.pid").read_text()
    assert site.play()[0] == 0
    assert (site.directory / "control" / "line_1.pid").read_text() == before

    # One line less, and a fault on the other: only what changes is restarted.
    removed = site.controllers.pop()
    site.variables["virtual_controller_faults"] = {"mixer_2": ["silent on"]}
    site.play()
    assert site.running() == ["line_1"]
    with Master(site.directory / "dev" / "line_1") as master:
        assert master.answers(2) and not master.answers(3)
    site.controllers.append(removed)

    assert site.play("-e", "virtual_site_state=stopped")[0] == 1
    assert site.running() == []
    assert not (site.directory / "dev" / "line_1").exists()
    assert site.play("-e", "virtual_site_state=absent")[0] == 1
    assert sorted(path.name for path in site.directory.iterdir()) == ["dev"]


def test_a_line_that_cannot_be_simulated(site: Site) -> None:
    site.controllers[0]["line"] = "tcp://10.0.0.5:502"
    _unused, output = site.play(fails=True)
    assert "expected controllers with lines that are absolute paths" in output and "tcp://10.0.0.5:502" in output
    assert not site.directory.exists()

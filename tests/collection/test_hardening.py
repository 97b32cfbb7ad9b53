# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controls of the role hardening as data: complete, referenced, and the same in the documentation."""

from __future__ import annotations

import pathlib
import re
import subprocess
from typing import Any

import jinja2
import pytest
import yaml

FORMS = {"cis": r"\d+(\.\d+)+( to \d+(\.\d+)+)?", "iec": r"(CR|HDR) [1-7]\.\d+", "nist": r"[A-Z]{2}-\d+(\(\d+\))?"}


def controls(top: pathlib.Path) -> list[dict[str, Any]]:
    """In the order of the role."""
    files = top / "roles/hardening/vars/main"
    data = {key: value for path in files.glob("*.yml") for key, value in yaml.safe_load(path.read_text()).items()}
    return [control for name in re.findall(r"_hardening_\w+", data["_hardening_all"]) for control in data[name]]


def table(top: pathlib.Path) -> str:
    """The documentation's table."""
    rows = [
        "| control | what for | CIS | IEC 62443-4-2 | NIST SP 800-82r3 | a container |",
        "|---|---|---|---|---|---|",
    ]
    for one in controls(top):
        references = " | ".join(one["references"][standard] for standard in FORMS)
        shown = "cannot show it" if "container" in one else "shows it"
        rows.append(f"| `{one['id']}` | {one['title']} | {references} | {shown} |")
    return "\n".join(rows)


def test_the_documentation_has_every_control_as_it_is(top: pathlib.Path) -> None:
    assert table(top) in (top / "docs/hardening.md").read_text(), table(top)


def test_every_control_has_a_name_of_its_own(top: pathlib.Path) -> None:
    names = [control["id"] for control in controls(top)]
    assert len(names) == len(set(names)) >= 25


@pytest.mark.parametrize("standard", FORMS)
def test_references_are_of_the_form_of_their_standard(standard: str, top: pathlib.Path) -> None:
    references = {control["id"]: control["references"][standard].split(", ") for control in controls(top)}
    wrong = {
        name: places for name, places in references.items() for one in places if not re.fullmatch(FORMS[standard], one)
    }
    assert wrong == {}


def test_what_a_control_installs_is_configured_before_it_runs(top: pathlib.Path) -> None:
    """Packages come without a start of their services: usbguard would cut off the serial adapters."""
    tasks = yaml.safe_load((top / "roles/hardening/tasks/present.yml").read_text())
    (install,) = [task["vars"] for task in tasks if task.get("vars", {}).get("packages_names")]
    assert install["packages_policy_rc_d"] == 101


def test_nothing_of_the_role_restarts_the_keeper_or_the_host(top: pathlib.Path) -> None:
    commands = [argv for control in controls(top) for argv in control.get("activate", [])]
    units = [unit for control in controls(top) if isinstance(control.get("units"), dict) for unit in control["units"]]
    assert not [one for one in [*units, *map(" ".join, commands)] if "keeper" in one or "reboot" in one]


@pytest.mark.parametrize("mode", ["complain", "enforce"])
def test_apparmor_lets_the_services_lock_what_they_lock(mode: str, top: pathlib.Path) -> None:
    """A port is locked by itself, a controller by a file: refused either, the keeper talks to nobody."""
    source = (top / "roles/hardening/templates/apparmor.j2").read_text()
    text = (
        jinja2.Environment(trim_blocks=True)
        .from_string(source)
        .render(hardening_apparmor_mode=mode, hardening_state_directory="/srv/state")
    )
    profiles = dict(re.findall(r"^profile (\S+) (.*?)^}", text, re.MULTILINE | re.DOTALL))
    assert sorted(profiles) == ["multi-sonicator-keeper", "multi-sonicator-msctl"]
    assert {("complain" in rules) for rules in profiles.values()} == {mode == "complain"}
    for rules in profiles.values():
        locked = {
            path for path, permissions in re.findall(r"^  (\S+) (\w+),$", rules, re.MULTILINE) if "k" in permissions
        }
        assert locked >= {"/dev/tty*", "/dev/pts/*", "/run/lock/**"}
        assert locked & {"/srv/state/controllers/*/lock", "/srv/state/**"}
        assert "/usr/bin/python3* mrix," in rules
    assert "/{usr/,}bin/systemctl Ux," in profiles["multi-sonicator-keeper"]
    assert "signal (send) set=(hup) peer=unconfined," in profiles["multi-sonicator-keeper"]


@pytest.mark.parametrize(
    ("ours", "active", "left"),
    [(False, False, ["1", "1"]), (True, False, ["0", "0"]), (False, True, ["0", "0"])],
    ids=["taken back", "put in place", "somebody else's"],
)
def test_without_usbguard_ports_let_in_what_is_plugged_in(
    ours: bool, active: bool, left: list[str], top: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The daemon leaves them closed: an adapter that is plugged in again would stay dead until a reboot."""
    ports = [tmp_path / f"sys/bus/usb/devices/usb{number}/authorized_default" for number in (1, 2)]
    for port in ports:
        port.parent.mkdir(parents=True)
        port.write_text("0\n")
    if ours:
        rules = tmp_path / "etc/usbguard/rules.d/10-multi-sonicator.conf"
        rules.parent.mkdir(parents=True)
        rules.touch()
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\nexit {0 if active else 3}\n")
    systemctl.chmod(0o755)
    told = yaml.safe_load((top / "roles/hardening/vars/main/kernel.yml").read_text())["_hardening_usb_open"]
    command = told.replace("/sys/bus", f"{tmp_path}/sys/bus").replace("/etc/usbguard", f"{tmp_path}/etc/usbguard")
    subprocess.run(["sh", "-c", command], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert [port.read_text().strip() for port in ports] == left

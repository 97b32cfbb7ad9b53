# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the checks before production find, and what no inventory can make them do."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from _core import validation
from _core.device import Device
from _core.line import open_bus
from _core.validation import (
    Finding,
    Wishes,
    check_certificates,
    check_clock,
    check_inventory,
    check_names,
    check_packages,
    check_permissions,
    check_services,
    check_storage,
    validate,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import site
from support.cuts import Lane
from support.profiles import mapping, profile
from support.virtual import Board, VirtualLine

PROFILES = {name: mapping(name) for name in ("multi_sonicator_io", "multi_sonicator_io_observed")}
PROGRAMS = {"dpkg-query", "systemctl", "timedatectl", "systemd-detect-virt", "openssl", "visudo"}


def entry(name: str = "press", line: str = "/dev/nothing", **more: Any) -> dict[str, Any]:
    return {"name": name, "line": line, "unit": 2, "programmer": None, "profile": "multi_sonicator_io", **more}


def of(check: str, findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.check == check]


def test_a_controller_as_it_should_be(lane: Lane) -> None:
    findings = validate(site.entries(lane.virtual), PROFILES, Wishes(str(lane.state), str(lane.directory)))
    assert [one.severity for one in of("inventory", findings)] == ["ok"]
    (asked,) = of("controllers", findings)
    assert (asked.severity, asked.remedy) == ("ok", "")
    assert "healthy, firmware 1.0.0" in asked.found
    assert lane.control("state")["write_requests"] == 0
    assert lane.control("state")["programmer"]["opened"] == 0


def test_controllers_that_are_not_what_the_inventory_says(tmp_path: Path) -> None:
    boards = [Board("ill", 2), Board("strange", 3), Board("silent", 4), Board("old", 5)]
    with VirtualLine(tmp_path / "line", boards) as line:
        line.control("silent", "silent", "on")
        with contextlib.closing(open_bus(str(line.line))) as bus:
            Device("ill", 2, profile(), bus).write("emergency_stop", 1)
        entries = site.entries(line, firmware_version="1.0.0")
        entries[1]["profile"] = "multi_sonicator_io_observed"
        entries[3]["firmware_version"] = "1.1.0"
        findings = of("controllers", validate(entries, PROFILES, Wishes(str(tmp_path / "state"), str(tmp_path))))
    told = {one.subject.split()[1]: (one.severity, one.found, one.remedy) for one in findings}
    assert told["ill"][0] == "error"
    assert "system_status" in told["ill"][1]
    assert told["strange"][0] == "error"
    assert "discover.yml" in told["strange"][2]
    assert told["silent"][0] == "error"
    assert "found silence" in told["silent"][1]
    assert told["old"] == ("warning", "firmware 1.0.0", "bring it with deploy.yml")


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([entry("a"), entry("b")], "controllers a and b both claim unit 2 on line /dev/nothing"),
        (
            [entry("a", programmer="/dev/isp"), entry("b", unit=3, programmer="/dev/isp")],
            "controllers a and b both claim programmer /dev/isp",
        ),
        ([entry("a", programmer="/dev/nothing")], "which is a line"),
        ([entry("a"), entry("a", unit=3)], "controller a is listed 2 times"),
        ([entry("a", unit=0)], "unit 0 is outside of 1 to 247"),
        ([entry("a", profile="unheard_of")], "profile unheard_of was not given"),
        ([entry("$(reboot)")], "a name has letters, digits"),
        ([entry("a", line="ttyUSB0")], "line 'ttyUSB0' can be no port"),
        ([entry("a", programmer="tcp://host:502")], "programmer 'tcp://host:502' can be no port"),
    ],
)
def test_contradictions_are_errors_and_nobody_is_asked(entries: list[dict[str, Any]], problem: str) -> None:
    findings, controllers = check_inventory(entries, PROFILES)
    assert controllers == []
    assert any(problem in one.found for one in findings), findings
    assert {one.severity for one in findings} == {"error"}


def test_ports_are_there_and_have_names_that_last(lane: Lane) -> None:
    (sound,) = validation.check_ports([entry(line=str(lane.virtual.line))])
    assert sound.severity == "ok"
    (missing,) = validation.check_ports([entry(line="/dev/serial/by-id/nothing")])
    assert (missing.severity, missing.remedy) == ("error", "check the cable and the name in the inventory")


def certificate(path: Path, days: int) -> str:
    command = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=gateway", "-days", str(days)]
    subprocess.run([*command, "-keyout", f"{path}.key", "-out", path], check=True, capture_output=True)
    return str(path)


def test_certificates_last(tmp_path: Path) -> None:
    paths = [certificate(tmp_path / f"{days}.crt", days) for days in (300, 10)]
    (tmp_path / "text").write_text("no certificate")
    paths += [str(tmp_path / "text"), str(tmp_path / "missing"), "relative.crt", "/nul\0.crt"]
    assert [one.severity for one in check_certificates(Wishes(certificates=paths))] == [
        "ok", "warning", "error", "error", "error", "error"
    ]  # fmt: skip
    found = next(iter(check_certificates(Wishes(certificates=paths[1:2]))))
    assert found.found in ("ends in 10 days", "ends in 9 days")
    assert "certificates.yml" in found.remedy


def test_nobody_else_reads_keys_or_writes_directories(tmp_path: Path) -> None:
    key, directory = tmp_path / "key", tmp_path / "state"
    key.touch(0o600)
    directory.mkdir(0o755)
    wishes = Wishes(directories=[str(directory), str(tmp_path / "missing")], keys=[str(key)])

    def severities() -> dict[str, str]:
        return {os.path.basename(one.subject): one.severity for one in check_permissions(wishes)}

    assert severities() | {"key": "ok", "state": "ok", "missing": "not_applicable"} == severities()
    key.chmod(0o644)
    directory.chmod(0o777)
    assert severities() | {"key": "error", "state": "error"} == severities()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_a_key_is_its_services_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As certificates_services has it: such a key taken away from its owner would stop the service."""
    key, told = tmp_path / "web.key", tmp_path / "certificates.json"
    key.touch(0o600)
    os.chown(key, pwd.getpwnam("daemon").pw_uid, -1)
    monkeypatch.setattr(validation, "_CERTIFICATES", str(told))

    def found() -> Finding:
        return next(one for one in check_permissions(Wishes(keys=[str(key)])) if one.subject == f"key {key}")

    for content in (None, "damaged", "[]", json.dumps({"directory": str(tmp_path), "services": [{"name": "web"}]})):
        if content is not None:
            told.write_text(content)
        assert (found().severity, found().remedy) == ("error", "chown root and chmod 0600")
    for owner, severity in (("daemon", "ok"), ("bin", "error"), ("nobody-has-this", "error"), ("nul\0", "error")):
        told.write_text(json.dumps({"directory": str(tmp_path), "services": [{"name": "web", "owner": owner}]}))
        assert found().severity == severity, owner
    told.write_text(json.dumps({"directory": str(tmp_path), "services": [{"name": "web", "owner": "daemon"}]}))
    key.chmod(0o604)
    assert (found().severity, found().remedy) == ("error", "chown daemon and chmod 0600")


def test_a_clock_that_is_off_is_an_error() -> None:
    for offset, severity in ((0, "ok"), (-3600, "error"), (3600, "error")):
        wishes = Wishes(control_time=time.time() - offset)
        assert [one.severity for one in check_clock(wishes) if one.subject == "time"] == [severity]


def test_names_that_do_not_resolve_and_a_resolver_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, _port: None) -> list[Any]:
        if name == "slow":
            time.sleep(5)
        if name == "unknown":
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(validation, "_RESOLVE", 0.3)
    names = ["https://repository.example:8443/path", "unknown", "slow", "a b"]
    found = {one.subject: (one.severity, one.found) for one in check_names(Wishes(names=names))}
    assert found == {
        "'a b'": ("error", "refused"),
        "name repository.example:8443": ("ok", "is 192.0.2.1"),
        "name unknown": ("error", "[Errno -2] Name or service not known"),
        "name slow": ("error", "no answer within 0.3 s"),
    }


def test_packages_services_and_room(tmp_path: Path) -> None:
    packages = list(check_packages(Wishes(packages=["dpkg", "no-such-package", "--version"])))
    assert [one.severity for one in packages] == ["error", "ok", "error"]
    (service,) = [one for one in check_services(Wishes(services=["no-such.service"])) if "no-such" in one.subject]
    assert service.severity == "not_applicable"
    place = str(tmp_path / "not" / "there")
    severities = [next(iter(check_storage(Wishes(place, disk=least)))).severity for least in (0, 1e12)]
    assert severities == ["ok", "error"]


WORDS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["$(touch /tmp/canary)", "`reboot`", "; reboot", "--help", "-o=x", "/dev/$(id)", "/dev/a b", "\udcff", "/nul\0"]
    ),
)
ENTRIES = st.builds(
    lambda name, line, unit, programmer, kind: entry(name, line, unit=unit, programmer=programmer, profile=kind),
    WORDS,
    WORDS,
    st.integers(-1, 300),
    st.none() | WORDS,
    st.sampled_from(["multi_sonicator_io", "nothing"]),
)
LISTS = st.lists(WORDS, max_size=3)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(ENTRIES, max_size=4), LISTS, LISTS, LISTS, LISTS, WORDS)
@example([entry("ok", "/dev/x", programmer="/dev/y")], ["ssh.service"], ["sudo"], ["localhost"], ["/etc/x.crt"], "/var")
def test_no_inventory_reaches_a_shell_or_breaks_a_check(
    monkeypatch: pytest.MonkeyPatch,
    entries: list[dict[str, Any]],
    services: list[str],
    packages: list[str],
    names: list[str],
    certificates: list[str],
    directory: str,
) -> None:
    commands = []

    def run(command: tuple[str, ...], **options: Any) -> subprocess.CompletedProcess[str]:
        assert not options.get("shell")
        assert set(options["env"]) == {"PATH", "LC_ALL"}
        for argument in command:
            os.fsencode(argument)  # as the real one does: it may raise ValueError
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_anything: [(0, 0, 0, "", ("192.0.2.1", 0))])
    wishes = Wishes(
        directory, services=services, packages=packages, names=names, certificates=certificates,
        directories=[directory], keys=certificates,
    )  # fmt: skip
    findings = validate(entries, PROFILES, wishes)
    assert {one.severity for one in findings} <= set(validation.SEVERITIES)
    assert {command[0] for command in commands} <= PROGRAMS
    for command in commands:
        # What the inventory says is never an option: it stands behind -- or begins with a slash.
        fixed = command[: command.index("--")] if "--" in command else command
        given_words = {*services, *packages, *names, *certificates, directory} - {""}
        assert all(word.startswith("/") for word in given_words & set(fixed[1:]))
    bad = [one for one in entries if not one["name"].isascii() or not 1 <= one["unit"] <= 247]
    assert sum(one.severity == "error" for one in of("inventory", findings)) >= len(bad)
    if bad:
        assert of("controllers", findings) == [], "nobody is asked where something is wrong"

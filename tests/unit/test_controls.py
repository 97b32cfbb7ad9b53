# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls on a host whose file system is a directory and whose programs are a table."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from _core import hardening
from _core.controls import ControlError, Host, judge
from _core.hardening import RECORD, Hardening
from hypothesis import given, settings
from hypothesis import strategies as st

SSHD = "/etc/ssh/sshd_config.d/10-multi-sonicator-hardening.conf"


class FakeHost(Host):
    """Answers by the first words of a command; what it does not know succeeds and prints nothing."""

    def __init__(self, root: Path, answers: dict[str, tuple[int, str]] | None = None, container: bool = False) -> None:
        super().__init__(str(root))
        self.container = container
        self.answers = answers or {}
        self.ran: list[str] = []

    def run(self, argv: Sequence[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = " ".join(argv)
        self.ran.append(command)
        code, out = next((answer for start, answer in self.answers.items() if command.startswith(start)), (0, ""))
        return subprocess.CompletedProcess(argv, code, out, out if code else "")


def control(**settings: Any) -> dict[str, Any]:
    return {"id": "one", "title": "One", "references": {"cis": "1"}, **settings}


def harden(host: Host, *controls: dict[str, Any]) -> bool:
    """One run of the module; whether it changed anything."""
    run = Hardening(host)
    changes = run.plan(controls)
    if changes or run.pending:
        run.apply(changes)
    return bool(changes)


def tree(root: Path) -> Iterator[tuple[str, str, bytes]]:
    for path in sorted(root.rglob("*")):
        yield str(path), oct(path.stat().st_mode), path.read_bytes() if path.is_file() else b""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "etc/login.defs": "# UMASK of all\nUMASK\t\t022\nPASS_MAX_DAYS 99999\n",
        "etc/issue": "Debian\n",
        "proc/sys/net/ipv4/ip_forward": "1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "etc/issue").chmod(0o664)
    return tmp_path


EVERYTHING = control(
    files=[
        {"path": "/etc/issue", "content": "Keep out\n"},
        {"path": "/etc/new/deep/file", "content": "1\n", "mode": "0600"},
    ],
    lines=[
        {"path": "/etc/login.defs", "key": "UMASK", "value": "027"},
        {"path": "/etc/login.defs", "key": "PASS_MIN_DAYS", "value": "1"},
    ],
    modes={"/etc/login.defs": "0600", "/etc/not_there": "0600"},
    sysctl={"net.ipv4.ip_forward": 0, "-net.not.there": 1},
    sshd={"PermitRootLogin": "no"},
)


def test_everything_is_put_once_and_taken_back_to_the_byte(root: Path) -> None:
    before = list(tree(root))
    host = FakeHost(root)
    assert harden(host, EVERYTHING)
    assert (root / "etc/login.defs").read_text() == "# UMASK of all\nUMASK 027\nPASS_MAX_DAYS 99999\nPASS_MIN_DAYS 1\n"
    assert (root / "etc/login.defs").stat().st_mode & 0o777 == 0o600
    assert (root / "proc/sys/net/ipv4/ip_forward").read_text() == "0\n"
    assert "systemctl try-reload-or-restart ssh.service" in host.ran
    assert not harden(host, EVERYTHING)
    assert harden(host)
    Hardening(host).end()
    assert list(tree(root)) == before


@settings(max_examples=25, deadline=None)
@given(
    text=st.lists(st.sampled_from(["UMASK 022", "# UMASK 1", "", "UMASKS 7", " UMASK 077", "X y"])),
    value=st.sampled_from(["027", "077"]),
)
def test_a_line_comes_and_goes_without_a_trace(
    tmp_path_factory: pytest.TempPathFactory, text: list[str], value: str
) -> None:
    root = tmp_path_factory.mktemp("host")
    path = root / "etc/login.defs"
    path.parent.mkdir()
    path.write_text("".join(f"{line}\n" for line in text))
    before = path.read_text()
    host = FakeHost(root)
    harden(host, control(lines=[{"path": "/etc/login.defs", "key": "UMASK", "value": value}]))
    first = next(line for line in path.read_text().splitlines() if line.split()[:1] == ["UMASK"])
    assert first.split() == ["UMASK", value]
    harden(host)
    assert path.read_text() == before


def test_what_is_wanted_no_longer_is_taken_back_by_the_next_run(root: Path) -> None:
    host = FakeHost(root)
    harden(host, EVERYTHING)
    harden(host, control(files=[{"path": "/etc/issue", "content": "Other\n"}]))
    assert (root / "etc/issue").read_text() == "Other\n"
    assert "UMASK\t\t022" in (root / "etc/login.defs").read_text()
    assert not (root / SSHD[1:]).exists()
    harden(host)
    assert (root / "etc/issue").read_text() == "Debian\n"
    assert (root / "etc/issue").stat().st_mode & 0o777 == 0o664


def test_a_configuration_that_sshd_refuses_does_not_stay(root: Path) -> None:
    host = FakeHost(root, {"sshd -t": (255, "Bad configuration option")})
    with pytest.raises(ControlError, match=r"file .*10-multi-sonicator-hardening.conf: sshd -t refuses it: Bad config"):
        harden(host, EVERYTHING)
    assert not (root / SSHD[1:]).exists()
    assert (root / "etc/issue").read_text() == "Keep out\n", "the others are put all the same"


def test_what_is_validated_aside_is_not_even_tried_in_its_place(root: Path) -> None:
    host = FakeHost(root, {"visudo": (1, "syntax error")})
    with pytest.raises(ControlError, match="syntax error"):
        harden(host, control(files=[{"path": "/etc/sudoers.d/x", "content": "?", "validate": ["visudo", "%s"]}]))
    assert not [path for path in (root / "etc").rglob("*") if "sudoers" in path.name]


def test_a_command_that_failed_is_owed_until_it_succeeds(root: Path) -> None:
    wanted = control(files=[{"path": "/etc/x", "content": "1\n"}], activate=[["reload", "x"]])
    with pytest.raises(ControlError, match="reload x: exit code 1"):
        harden(FakeHost(root, {"reload": (1, "no")}), wanted)
    host = FakeHost(root)
    assert Hardening(host).pending == [["reload", "x"]]
    harden(host, wanted)
    assert "reload x" in host.ran
    assert Hardening(host).pending == []


def test_a_damaged_record_is_refused(root: Path) -> None:
    (root / RECORD[1:]).parent.mkdir(parents=True)
    (root / RECORD[1:]).write_text("{")
    with pytest.raises(ControlError, match=r"hardening.json: .*nothing can be taken back"):
        Hardening(FakeHost(root))


def test_packages_stay_that_others_need(root: Path) -> None:
    host = FakeHost(root, {"apt-get --quiet --simulate": (0, "Purg aide [1]\nPurg theirs [2]\n")})
    Hardening(host).apply([], installed=["aide"])
    run = Hardening(host)
    run.end()
    assert run.warnings == ["aide stay installed: theirs would go with them"]
    assert not any(command.startswith("apt-get --quiet --yes") for command in host.ran)


def verdicts(host: Host, wanted: dict[str, Any]) -> tuple[str, list[str]]:
    (found,) = judge(host, [wanted])
    return found["verdict"], [finding["verdict"] for finding in found["findings"]]


def test_looking_tells_what_is_in_force_and_changes_nothing(root: Path) -> None:
    before = list(tree(root))
    host = FakeHost(root, {"sshd -T": (0, "permitrootlogin no\nhostkey /a\nhostkey /b\n")})
    wanted = control(
        sshd={"PermitRootLogin": "no", "HostKey": ["/a", "/b"]}, sysctl={"net.ipv4.ip_forward": 0, "-no.such": 1}
    )
    assert verdicts(host, wanted) == ("fail", ["fail", "not_applicable", "pass", "pass"])
    assert list(tree(root)) == before


def test_what_a_container_can_not_show_does_not_pass(root: Path) -> None:
    """Even where the value happens to be right, as kernel.dmesg_restrict is by default."""
    wanted = control(
        sysctl={"net.ipv4.ip_forward": 1}, files=[{"path": "/etc/issue", "content": "Debian\n", "mode": "0664"}]
    )
    hidden = {**wanted, "container": "its kernel is the machine's"}
    assert verdicts(FakeHost(root, container=True), wanted) == ("pass", ["pass", "pass"])
    assert verdicts(FakeHost(root, container=True), hidden) == ("cannot_tell", ["pass", "cannot_tell"])
    assert verdicts(FakeHost(root), hidden) == ("pass", ["pass", "pass"])
    (root / "etc/issue").write_text("Other\n")
    assert verdicts(FakeHost(root, container=True), hidden)[0] == "fail"


def test_a_control_without_anything_to_apply_to_is_not_passed(root: Path) -> None:
    host = FakeHost(root, {"systemctl show": (0, "LoadState=not-found\nUnitFileState=\nActiveState=inactive\n")})
    assert verdicts(host, control(units={"cups.service": "masked"}))[0] == "not_applicable"


def test_other_rules_than_those_of_the_file_are_seen(root: Path) -> None:
    host = FakeHost(root, {"sh -c nft": (0, "policy accept"), "unshare": (0, "policy drop")})
    assert verdicts(host, control(firewall="/etc/rules.nft"))[0] == "fail"


def test_the_guard_is_armed_before_anything_that_can_cut_off(root: Path) -> None:
    class Watching(FakeHost):
        def run(self, argv: Sequence[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
            if "enable" in argv and f"{hardening.GUARD_UNIT}.timer" in argv:
                assert not self.path(SSHD).exists()
                self.script = self.path(hardening.GUARD_SCRIPT).read_text()
            return super().run(argv, stdin)

    host = Watching(root)
    run = Hardening(host)
    assert run.apply(run.plan([EVERYTHING]), guard_seconds=7)
    assert f"rm -f {SSHD}" in host.script.splitlines()
    assert "OnActiveSec=7" in (root / f"etc/systemd/system/{hardening.GUARD_UNIT}.timer").read_text()
    assert json.loads((root / RECORD[1:]).read_text())["settings"]

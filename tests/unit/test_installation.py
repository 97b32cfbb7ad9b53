# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime of a gateway on disk: what is installed runs, is noticed when it was altered, and goes away whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from _core import installation
from _core.installation import Installation


def runtime(top: Path, content: bytes = b"{}\n") -> Installation:
    return Installation(
        top / "lib", {"msctl": "msctl"}, {top / "bin/msctl": "msctl"}, top / "etc/ours/gateway.json", content
    )


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "etc").mkdir()
    return tmp_path


def test_what_is_installed_runs_by_its_link(top: Path) -> None:
    one = runtime(top)
    assert one.found == {"version": None, "configuration": None}
    one.install()
    assert one.found == one.wanted
    help_text = subprocess.run(
        [sys.executable, "-I", str(top / "bin/msctl"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "stop-all" in help_text
    assert (top / "lib/current/msctl").stat().st_mode & 0o777 == 0o755
    assert (top / "etc/ours/gateway.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("damage", ["altered", "missing", "additional", "link"])
def test_damage_is_noticed_and_mended(top: Path, damage: str) -> None:
    one = runtime(top)
    one.install()
    place = top / "lib/current/_core"
    if damage == "altered":
        (place / "rtu.py").write_text("# nothing\n")
    elif damage == "missing":
        (place / "rtu.py").unlink()
    elif damage == "additional":
        (place / "another.py").write_text("# nothing\n")
    else:
        (top / "bin/msctl").unlink()
    assert one.found["version"] is None
    one.install()
    assert one.found == one.wanted


def test_a_new_version_leaves_the_one_that_runs(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = []
    for number in range(3):
        files = {"__init__.py": b"", "msctl.py": f"# {number}\n".encode()}
        monkeypatch.setattr(installation, "sources", lambda files=files: files)
        one = runtime(top)
        assert one.found["version"] == (versions[-1] if versions else None)
        one.install()
        versions.append(one.version)
    assert sorted(path.name for path in (top / "lib").iterdir()) == sorted(["current", *versions[1:]])
    assert (top / "lib/current").resolve().name == versions[2]


def test_a_configuration_alone_is_a_difference(top: Path) -> None:
    runtime(top).install()
    other = runtime(top, b'{"controllers": []}\n')
    assert other.found["version"] == other.wanted["version"]
    assert other.found != other.wanted
    other.install()
    assert other.found == other.wanted


def test_removing_leaves_nothing_but_what_is_not_ours(top: Path) -> None:
    one = runtime(top)
    one.install()
    (top / "bin/other").symlink_to("/bin/true")
    one.remove()
    assert sorted(str(path.relative_to(top)) for path in top.rglob("*")) == ["bin", "bin/other", "etc"]
    (top / "bin/msctl").symlink_to("/bin/true")
    one.remove()
    assert (top / "bin/msctl").is_symlink()

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a host: brought as a list or not at all, and never readable by whom they are not for."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from _core import files
from _core.files import FileRefused, plan


def bring(wanted: Sequence[Mapping[str, Any]], present: bool = True) -> list[str]:
    """Bring them there; the names of those that were changed."""
    changes = plan(wanted, present)
    for change in changes:
        change.apply()
    return [change.path.name for change in changes]


def test_a_list_is_brought_once(tmp_path: Path) -> None:
    wanted = [
        {"path": str(tmp_path / "etc/app"), "mode": "0750"},
        {"path": str(tmp_path / "etc/app/app.conf"), "content": "port = 1\n"},
        {"path": str(tmp_path / "etc/app/app.json"), "content": {"ports": [1, 2]}, "mode": "600"},
    ]
    assert bring(wanted) == ["app", "app.conf", "app.json"]
    assert bring(wanted) == []
    assert (tmp_path / "etc/app").stat().st_mode & 0o7777 == 0o750
    assert (tmp_path / "etc/app/app.conf").read_text() == "port = 1\n"
    assert (tmp_path / "etc/app/app.json").read_text() == '{\n  "ports": [\n    1,\n    2\n  ]\n}\n'
    assert (tmp_path / "etc/app/app.json").stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("altered", ["content", "mode", "gone", "link"])
def test_what_was_altered_is_mended(tmp_path: Path, altered: str) -> None:
    path = tmp_path / "app.conf"
    wanted = [{"path": str(path), "content": "port = 1\n"}]
    bring(wanted)
    if altered == "content":
        path.write_text("port = 2\n")
    elif altered == "mode":
        path.chmod(0o666)
    else:
        path.unlink()
    if altered == "link":
        (tmp_path / "other").write_text("theirs\n")
        path.symlink_to(tmp_path / "other")
    assert bring(wanted) == ["app.conf"]
    assert not path.is_symlink()
    assert (path.read_text(), path.stat().st_mode & 0o7777) == ("port = 1\n", 0o644)
    assert altered != "link" or (tmp_path / "other").read_text() == "theirs\n"


def test_what_belongs_to_a_list_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/kept").touch()
    wanted = [
        {"path": str(tmp_path / "ours")},
        {"path": str(tmp_path / "ours/app.conf"), "content": ""},
        {"path": str(tmp_path / "one.conf"), "content": ""},
    ]
    bring(wanted)
    (tmp_path / "ours/written").touch()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    assert bring([*wanted, {"path": str(tmp_path / "link")}], present=False) == ["link", "one.conf", "ours"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]
    assert (tmp_path / "theirs/kept").exists()
    assert bring(wanted, present=False) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"path": "there", "content": ""}, "there: expected a file, found a directory; move it away"),
        ({"path": "file"}, "file: expected a directory, found a file; move it away"),
        ({"path": "nowhere/app.conf", "content": ""}, "nowhere is no directory; name it before the files in it"),
        ({"path": "x", "content": "", "mode": "u=rw"}, "mode u=rw: expected octal digits as a string, such as '0644'"),
        ({"path": "x", "content": "", "owner": "nobody2"}, "there is no account nobody2; make it before"),
        ({"path": "x", "content": "", "group": "nogroup2"}, "there is no group nogroup2; make it before"),
        ({"path": "pipe", "content": ""}, "pipe: neither a file nor a directory; move it away"),
        (
            {"path": "x", "content": "no\n", "validate": ["grep", "yes", "%s"]},
            "x: grep refuses it: ; nothing was changed",
        ),
    ],
)
def test_one_that_cannot_be_leaves_the_others_as_they_were(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileRefused) as refused:
        plan([{"path": str(tmp_path / "first"), "content": ""}, {**wrong, "path": str(tmp_path / wrong["path"])}])
    assert message in str(refused.value)
    assert not (tmp_path / "first").exists()


def test_check_mode_takes_what_others_would_have_made_by_then(tmp_path: Path) -> None:
    wanted = [{"path": str(tmp_path / "later/x"), "content": "", "owner": "nobody2", "validate": ["nobody2", "%s"]}]
    assert [change.path.name for change in plan(wanted, check=True)] == ["x"]
    with pytest.raises(FileRefused, match="refuses it"):
        plan([{**wanted[0], "validate": ["false"]}], check=True)


def test_what_is_validated_is_the_new_content(tmp_path: Path) -> None:
    one = {"path": str(tmp_path / "x"), "content": "yes\n", "validate": ["grep", "yes", "%s"]}
    assert bring([one]) == ["x"]


def test_nobody_reads_a_secret_before_it_has_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under an umask that forbids nothing, too, and whatever a file of before let them."""
    path, modes = tmp_path / "key", []
    path.write_text("old\n")
    path.chmod(0o666)
    write, sync = os.replace, os.fsync

    def noted(descriptor: int) -> None:
        modes.append(os.fstat(descriptor).st_mode & 0o7777)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda new, old: (modes.append(os.stat(new).st_mode & 0o7777), write(new, old)))
    before = os.umask(0)
    try:
        bring([{"path": str(path), "content": "canary\n", "mode": "0600"}])
    finally:
        os.umask(before)
    assert modes[:2] == [0o600, 0o600]


def test_a_difference_shows_no_secret_and_no_removed_content(tmp_path: Path) -> None:
    secret = {"path": str(tmp_path / "key"), "content": "canary\n", "mode": "0600"}
    (change,) = plan([secret])
    assert change.diff()["after"] == f"file of {_me()}, mode 0600\n"
    bring([secret])
    (change,) = plan([{**secret, "content": "other\n", "mode": "0644"}])
    assert "canary" not in str(change.diff())
    (change,) = plan([secret], present=False)
    assert (change.diff()["before"], change.diff()["after"]) == (f"file of {_me()}, mode 0600\n", "")


def test_a_difference_shows_content_and_attributes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xffold\n")
    (tmp_path / "x").chmod(0o644)
    (change,) = plan([{"path": str(tmp_path / "x"), "content": "new\n", "mode": "0640"}])
    assert change.diff() == {
        "before_header": str(tmp_path / "x"),
        "after_header": str(tmp_path / "x"),
        "before": f"file of {_me()}, mode 0644\n\\xffold\n",
        "after": f"file of {_me()}, mode 0640\nnew\n",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")
def test_files_are_given_away(tmp_path: Path) -> None:
    wanted = [
        {"path": str(tmp_path / "d"), "owner": "nobody", "group": "nogroup", "mode": "2755"},
        {"path": str(tmp_path / "d/x"), "content": "", "owner": "nobody", "group": "nogroup", "mode": "0400"},
    ]
    assert bring(wanted) == ["d", "x"]
    assert bring(wanted) == []
    assert (tmp_path / "d/x").owner() == "nobody"
    assert (tmp_path / "d").group() == "nogroup"
    # As they are where nothing else is said.
    assert bring([{"path": one["path"], "mode": one["mode"], "content": one.get("content")} for one in wanted]) == []
    number = 54321
    os.chown(tmp_path / "d/x", number, number)
    assert files.plan([{"path": str(tmp_path / "d/x"), "content": "", "mode": "0400"}]) == []


def _me() -> str:
    return f"{pwd.getpwuid(os.geteuid()).pw_name}:{grp.getgrgid(os.getegid()).gr_name}"

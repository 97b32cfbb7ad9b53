# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of settings: one commit a change that says what, who and why, readable by git itself, without secrets."""

from __future__ import annotations

import datetime
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.history import History, HistoryError


def content(controller: str = "press_1", version: str = "1.0.0", **settings: Any) -> dict[str, Any]:
    """A set as a snapshot returns it."""
    return {
        "id": "20261126T100000Z-abcdef",
        "controller": controller,
        "taken": "2026-11-26T10:00:00Z",
        "profile": {"name": "multi_sonicator_io", "digest": "1f" * 32},
        "version": version,
        "settings": {"sonicator1_amplitude": 60, "start_inhibit_mask": [], **settings},
        "images": {
            "flash": "aa" * 32,
            "eeprom": "bb" * 32,
            "fuses": {"lfuse": 255},
            "signature": "1E9502",
            "read": "x",
        },
    }


def git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


def test_each_change_is_a_commit_that_says_what_and_why(history: History) -> None:
    history.record({"gateway_a": [content(), content("press_2")]}, "commissioned")
    history.record({"gateway_a": [content(sonicator1_amplitude=50), content("press_2")]}, "less\nnoise", "r-1")
    assert git(history.directory, "log", "--format=%s").splitlines() == [
        "gateway_a/press_1: sonicator1_amplitude: 60 → 50",
        "gateway_a/press_2: first recorded",
        "gateway_a/press_1: first recorded",
    ]
    newest = history.changes()[0]
    assert (newest.gateway, newest.controller, newest.reason, newest.rollout) == (
        "gateway_a", "press_1", "less noise", "r-1",
    )  # fmt: skip
    assert newest.what == ("sonicator1_amplitude: 60 → 50",)
    assert "@" in newest.who and newest.time.startswith("20") and len(newest.commit) == 40
    kept = yaml.safe_load((history.directory / "gateway_a/press_1.yml").read_text())
    assert kept["settings"]["sonicator1_amplitude"] == 50 and kept["version"] == "1.0.0"
    assert git(history.directory, "status", "--porcelain") == ""


def test_what_says_the_same_is_no_change(history: History) -> None:
    assert len(history.record({"gateway_a": [content()]}, "")) == 1
    later = content() | {"id": "other", "taken": "2026-11-27T10:00:00Z"}
    later["images"] = {**later["images"], "read": "2026-11-27T09:00:00Z"}
    assert history.record({"gateway_a": [later]}, "again") == []
    assert len(history.changes()) == 1


def test_check_mode_tells_and_writes_nothing(history: History) -> None:
    assert [one.what for one in history.record({"gateway_a": [content()]}, "", check=True)] == [("first recorded",)]
    assert not history.directory.exists()
    history.record({"gateway_a": [content()]}, "")
    [told] = history.record({"gateway_a": [content(version="1.1.0")]}, "", check=True)
    assert told.what == ("version: 1.0.0 → 1.1.0",) and told.commit == ""
    assert len(history.changes()) == 1
    assert git(history.directory, "status", "--porcelain") == ""


def test_what_was_changed_between_two_dates(history: History) -> None:
    history.record({"gateway_a": [content()]}, "")
    history.record({"gateway_b": [content("mixer_1")]}, "")
    assert [one.gateway for one in history.changes()] == ["gateway_b", "gateway_a"]
    assert [one.controller for one in history.changes(gateways=["gateway_a"])] == ["press_1"]
    assert [one.controller for one in history.changes(controllers=["mixer_1"])] == ["mixer_1"]
    assert history.changes(up_to="2026-01-01") == []
    today = datetime.date.today().isoformat()
    assert len(history.changes(since=today, up_to=today)) == 2
    assert history.changes(since=f"{today}T23:59:59.999") == [] == history.changes(up_to=f"{today}T00:00")
    assert history.changes(since="2100-01-01") == []
    with pytest.raises(HistoryError, match="since is '1 hour ago', expected a moment such as 2026-11-01"):
        history.changes(since="1 hour ago")


def test_many_changes_make_a_short_subject_and_a_whole_body(history: History) -> None:
    history.record({"gateway_a": [content()]}, "")
    many = {f"sonicator{number}_amplitude": 20 + number for number in range(1, 5)}
    history.record({"gateway_a": [content(**many, start_inhibit_mask=["sonicator1"])]}, "")
    assert git(history.directory, "log", "-1", "--format=%s") == "gateway_a/press_1: 5 changes\n"
    assert "start_inhibit_mask: [] → ['sonicator1']" in history.changes()[0].what


def test_no_secret_comes_into_it(history: History) -> None:
    history.record({"gateway_a": [content(api_password="canary-1")]}, "token=canary-2")
    everything = git(history.directory, "log", "--patch")
    assert "canary" not in everything
    assert (history.directory.stat().st_mode & 0o077) == 0


@pytest.mark.parametrize("name", ["../press", "a/b", "", ".git", "-x", "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(history: History, name: str) -> None:
    with pytest.raises(HistoryError, match="cannot be the name of a file"):
        history.record({name: [content()]}, "")
    with pytest.raises(HistoryError, match="cannot be the name of a file"):
        history.record({"gateway_a": [content(name)]}, "")
    assert history.changes() == []


def test_a_run_that_was_cut_off_is_made_up_for(history: History) -> None:
    """Between the file and its commit."""
    history.record({"gateway_a": [content()]}, "")
    path = history.directory / "gateway_a/press_1.yml"
    path.write_text(path.read_text().replace("60", "50"))
    git(history.directory, "add", ".")
    [change] = history.record({"gateway_a": [content(sonicator1_amplitude=50)]}, "again")
    assert change.what == ("sonicator1_amplitude: 60 → 50",)
    assert history.changes()[0].reason == "again"
    assert git(history.directory, "status", "--porcelain") == ""


def test_a_file_that_was_left_behind_by_its_commit_follows(history: History) -> None:
    history.record({"gateway_a": [content()]}, "")
    path = history.directory / "gateway_a/press_1.yml"
    path.unlink()
    assert history.record({"gateway_a": [content()]}, "again") == []
    assert yaml.safe_load(path.read_text())["settings"]["sonicator1_amplitude"] == 60


def test_a_change_names_its_audit_record(history: History) -> None:
    def record(seq: int, controller: str, after: datetime.timedelta, what: str = "flash") -> dict[str, Any]:
        moment = datetime.datetime.now(datetime.UTC) + after
        where = {"gateway": "gateway_a", "controller": controller, "line": None, "unit": None}
        return {"seq": seq, "time": moment.isoformat(), "where": where, "what": what}

    hour = datetime.timedelta(hours=1)
    sets = [content(), content("press_2")]
    history.record({"gateway_a": sets}, "", audited=[record(3, "press_1", -hour), record(4, "press_1", -hour)])
    assert {one.controller: one.audit for one in history.changes()} == {"press_1": "4", "press_2": ""}
    older = [record(4, "press_1", -hour), record(5, "press_2", hour), record(6, "press_1", hour, "snapshot")]
    thinner = [content(sonicator1_amplitude=50), content("press_2", sonicator1_amplitude=50)]
    told = history.record({"gateway_a": thinner}, "", audited=older)
    assert {one.controller: one.audit for one in told} == {"press_1": "", "press_2": "5"}, "nobody here changed press_1"
    thicker = [content("press_2", sonicator1_amplitude=70)]
    [again] = history.record({"gateway_a": thicker}, "", audited=older)
    assert again.audit == "", "that record is of the change before, though of the same second"


def test_two_runs_at_once_lose_nothing(history: History) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(history.record, {f"gateway_{number}": [content()]}, "") for number in range(8)]
    assert [len(run.result()) for run in runs] == [1] * 8
    assert {one.gateway for one in history.changes()} == {f"gateway_{number}" for number in range(8)}


def test_a_repository_that_is_damaged_says_so(history: History) -> None:
    history.record({"gateway_a": [content()]}, "")
    (history.directory / ".git/HEAD").write_text("nonsense")
    with pytest.raises(HistoryError, match=r"history .*: git .*; mend that, then run again"):
        history.record({"gateway_a": [content(sonicator1_amplitude=50)]}, "")

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run tells its watcher, and how the watcher stops it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _core import progress as module
from _core.programmer import _activity
from _core.progress import Progress


@pytest.fixture
def progress(tmp_path: Path) -> Iterator[Progress]:
    one = Progress(tmp_path / "progress" / "run.jsonl")
    yield one
    one.close()


def told(progress: Progress) -> list[dict[str, Any]]:
    assert progress.path
    return [json.loads(line) for line in progress.path.read_text().splitlines()]


def test_steps_are_told_in_their_order(progress: Progress) -> None:
    progress.tell("press", "begin")
    progress.tell("press", "failed", failed=True, message="silent")
    assert told(progress) == [
        {"controller": "press", "phase": "begin"},
        {"controller": "press", "phase": "failed", "failed": True, "message": "silent"},
    ]


def test_percents_are_told_as_often_as_somebody_reads(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    for percent in range(0, 101, 2):
        progress.tell_percent("press", "writing flash", percent)
        now += 0.5
    assert [entry["percent"] for entry in told(progress)] == list(range(0, 101, 10))
    progress.tell_percent("press", "verifying flash", 0)
    progress.tell_percent("mixer", "writing flash", 4)
    assert [(entry["controller"], entry["phase"]) for entry in told(progress)[-2:]] == [
        ("press", "verifying flash"),
        ("mixer", "writing flash"),
    ]


def test_the_lock_tells_that_the_run_lives(progress: Progress) -> None:
    def alive() -> bool:
        assert progress.path
        return subprocess.run(["flock", "--nonblock", progress.path, "true"], check=False).returncode == 1

    assert alive()
    progress.close()
    assert not alive()


def test_the_watcher_may_stop_it(progress: Progress) -> None:
    assert not progress.stop_wanted()
    assert progress.path
    progress.path.with_name("run.jsonl.stop").touch()
    assert progress.stop_wanted()


def test_leftovers_of_other_days_are_removed(tmp_path: Path) -> None:
    for name, age in (("old.jsonl", 2 * 86400), ("young.jsonl", 60)):
        (tmp_path / name).touch()
        moment = os.stat(tmp_path / name).st_mtime - age
        os.utime(tmp_path / name, (moment, moment))
    Progress(tmp_path / "run.jsonl").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.jsonl", "young.jsonl"]


def test_without_a_watcher_nothing_is_told() -> None:
    nobody = Progress()
    nobody.tell("press", "begin")
    nobody.tell_percent("press", "writing flash", 50)
    assert not nobody.stop_wanted()
    nobody.close()


OUTPUT = b"""avrdude: AVR device initialized and ready to accept instructions
avrdude: reading input file scratch/flash for flash
avrdude: writing 3004 bytes flash ...

Writing | ################################################## | 100% 0.32s

avrdude: verifying flash memory against scratch/flash

Reading | ############"""


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (OUTPUT, ("verifying flash", 24)),
        (OUTPUT[: OUTPUT.index(b"####") + 3], ("writing flash", 6)),
        (OUTPUT[: OUTPUT.index(b"Writing")], ("writing flash", 0)),
        (OUTPUT[: OUTPUT.index(b"avrdude: writing")], ("", 0)),
        (b"avrdude: reading eeprom memory ...\n\nReading | #", ("reading eeprom", 2)),
        # From version 7.2 on
        (b"Reading flash memory ...\nReading | ## ", ("reading flash", 4)),
        (b"Writing 1024 bytes to eeprom\nWriting | ###", ("writing eeprom", 6)),
    ],
)
def test_what_avrdude_is_doing(output: bytes, expected: tuple[str, int]) -> None:
    assert _activity(output) == expected

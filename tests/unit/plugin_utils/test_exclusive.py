# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one process of a run has made is there for the others, and not longer than it is good for."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.exclusive import made_once


def _make(directory: Path) -> int:
    def make() -> dict[str, int]:
        time.sleep(0.2)
        return {"made by": os.getpid()}

    made: dict[str, int] = made_once(directory, "a subject", make)
    return made["made by"]


def test_one_of_many_processes_makes_it(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        assert len(set(pool.map(_make, [tmp_path] * 8))) == 1


def test_another_subject_is_made_by_itself(tmp_path: Path) -> None:
    assert [made_once(tmp_path, subject, lambda one=subject: one) for subject in ("a", "b", "a")] == ["a", "b", "a"]


@pytest.mark.parametrize(("age", "made"), [(30, "first"), (90, "second"), (-90, "second")])
def test_what_is_too_old_or_from_the_future_is_made_anew(tmp_path: Path, age: int, made: str) -> None:
    made_once(tmp_path, "a", lambda: "first", 60)
    (kept,) = tmp_path.glob("*/result.json")
    moment = time.time() - age
    os.utime(kept, (moment, moment))
    assert made_once(tmp_path, "a", lambda: "second", 60) == made


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="out of reach"):
        made_once(tmp_path, "a", _fail)
    assert made_once(tmp_path, "a", lambda: "there") == "there"


def _fail() -> None:
    raise OSError("out of reach")

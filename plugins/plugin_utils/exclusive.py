# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the processes of a run share: a directory that one at a time works in, and what one has made for all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keep others out of the directory, after waiting for whoever is in there. OSError where it cannot be opened."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def made_once(directory: Path, subject: str, make: Callable[[], Any], lasting: float = float("inf")) -> Any:
    """What ``make`` returns, of types that JSON has, made once for all processes that share ``directory``.

    ``subject`` is text that differs wherever the result would. After ``lasting`` seconds it is made anew. Others wait
    for who makes it; what ``make`` raises is passed on to its caller alone.
    """
    place = directory / f"made-{hashlib.sha256(subject.encode()).hexdigest()}"
    place.mkdir(exist_ok=True)
    kept = place / "result.json"
    with exclusive(place):
        if kept.exists() and 0 <= time.time() - kept.stat().st_mtime < lasting:
            return json.loads(kept.read_bytes())
        made = make()
        new = kept.with_suffix(".new")
        new.write_text(json.dumps(made), encoding="utf-8")
        new.replace(kept)
    return made

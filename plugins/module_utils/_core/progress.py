# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run is doing right now, for whoever watches it, and the watcher's word that it should begin nothing more.

One file a run, a line of JSON a step; a lock on it says that the run lives. Beside it ``FILE.stop`` is the watcher's.
Nothing rests on these files: the truth is in the journals.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from . import lock

_PERCENT_STEP = 10
_PERCENT_PAUSE = 1.0
_LEFTOVER = 86400.0


class Progress:
    """The progress of one run in the file ``path``; without a path nobody watches."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path else None
        self._told: dict[str, tuple[str, int, float]] = {}
        self._fd = -1
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._sweep(self.path.parent)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            lock.try_lock(self._fd)

    def tell(self, controller: str, phase: str, **more: Any) -> None:
        """Tell that ``controller`` enters a phase; ``more`` says what else is known of it."""
        self._told[controller] = (phase, 0, time.monotonic())
        self._write(controller=controller, phase=phase, **more)

    def tell_percent(self, controller: str, phase: str, percent: int) -> None:
        """Tell how far a phase is, in percent; not more often than somebody would read."""
        told, before, when = self._told.get(controller, ("", 0, 0.0))
        far = percent - before >= _PERCENT_STEP and time.monotonic() - when >= _PERCENT_PAUSE
        if phase != told or far:
            self._told[controller] = (phase, percent, time.monotonic())
            self._write(controller=controller, phase=phase, percent=percent)

    def stop_wanted(self) -> bool:
        """Whether the watcher wants nothing more to be begun."""
        return self.path is not None and self.path.with_name(f"{self.path.name}.stop").exists()

    def close(self) -> None:
        """No more to tell. The file is left to the watcher."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, **entry: Any) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # a full disk is for the journal to complain about
                os.write(self._fd, json.dumps(entry).encode() + b"\n")

    def _sweep(self, directory: Path) -> None:
        """Remove what runs have left whose watcher died before them."""
        for path in directory.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER:
                    path.unlink()

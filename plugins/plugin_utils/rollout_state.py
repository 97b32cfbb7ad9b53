# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the control node knows of a rollout, on disk, so that it survives the control node's death.

::

    <directory>/<id>/plan.json       what was planned, never changed afterwards
    <directory>/<id>/events.jsonl    what has happened since, one line an event, on disk before it counts

Several processes write events: Ansible's workers, and an operator who asks for a pause from another terminal.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import now, write_atomically

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class RolloutError(CoreError):
    """A rollout that is not known, is another than the one asked for, or cannot be written down."""


def who() -> str:
    """The person at the control node, as an audit record names them."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class RolloutState:
    """The rollout ``rollout_id`` below ``directory``."""

    def __init__(self, directory: str | Path, rollout_id: str) -> None:
        if not _ID.fullmatch(rollout_id):
            raise RolloutError(
                f"rollout id {rollout_id!r}: expected letters, digits, dot, dash and underscore, at most 64"
            )
        self.id = rollout_id
        self.path = Path(directory).expanduser() / rollout_id
        self._plan = self.path / "plan.json"
        self._events = self.path / "events.jsonl"

    @property
    def exists(self) -> bool:
        return self._plan.exists()

    def create(self, plan: Mapping[str, Any]) -> None:
        """Write the plan down; from then on the rollout exists."""
        if self.exists:
            raise RolloutError(f"rollout {self.id}: exists in {self.path}; choose another id, or go on with this one")
        data = json.dumps({"id": self.id, "created": now(), "who": who(), **plan}, indent=1).encode()
        with self._told():
            write_atomically(self._plan, data)

    def plan(self) -> dict[str, Any]:
        """What ``create`` was given, with id, created and who."""
        try:
            data: dict[str, Any] = json.loads(self._plan.read_bytes())
        except FileNotFoundError:
            known = ", ".join(known_rollouts(self.path.parent)) or "none"
            raise RolloutError(f"rollout {self.id}: not in {self.path.parent} (there are {known})") from None
        except ValueError as error:
            raise RolloutError(f"{self._plan}: damaged ({error}); restore it from its backup") from None
        return data

    def append(self, event: str, **data: Any) -> None:
        """Add an event; it is on the disk when this returns."""
        line = json.dumps({"time": now(), "event": event, **data}).encode() + b"\n"
        with self._told(), open(self._events, "a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            end = stream.seek(0, os.SEEK_END)
            if end:
                stream.seek(end - 1)
                if stream.read(1) != b"\n":
                    line = b"\n" + line  # what a power cut left of the last line announces nothing that has begun
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first; a line cut off by a power loss is none."""
        try:
            data = self._events.read_bytes()
        except FileNotFoundError:
            return []
        events = []
        for line in data.splitlines():
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        return events

    def mark(self) -> int:
        """Grows with every event; cheap to ask."""
        try:
            return self._events.stat().st_size
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RolloutError(
                f"{error.filename or self.path}: {error.strerror}; check its permissions and the space that is left"
            ) from None


def known_rollouts(directory: str | Path) -> list[str]:
    """Ids of the rollouts below ``directory``."""
    return sorted(path.parent.name for path in Path(directory).expanduser().glob("*/plan.json"))

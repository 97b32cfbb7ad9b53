# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What controllers were set to, as a git repository that people can read: one commit a change, with who and why.

::

    <gateway>/<controller>.yml    firmware version, profile, settings, and digests of flash and EEPROM when last read

Git's own tools work on it. What a commit is about is in trailers, so that ``git log`` can look for it too.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.events import redact
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import dump_yaml, write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.exclusive import exclusive
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import who

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_DEADLINE = 120.0
_FIELD, _RECORD = "\x1f", "\x1e"
_SUBJECT = 72
_TRAILERS = ("Gateway", "Controller", "Reason", "Rollout")


class HistoryError(CoreError):
    """A history that cannot be read or written."""


@dataclass(frozen=True)
class Change:
    """What a controller was changed from and to; ``what`` has a line a value. ``commit`` is empty before it is made."""

    gateway: str
    controller: str
    what: tuple[str, ...]
    reason: str = ""
    rollout: str = ""
    commit: str = ""
    time: str = ""
    who: str = ""


class History:
    """The repository in ``directory``, which is made when something is recorded first."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).expanduser()

    def record(
        self,
        gateway: str,
        sets: Iterable[Mapping[str, Any]],
        reason: str,
        rollout: str = "",
        check: bool = False,
    ) -> list[Change]:
        """Commit what of a gateway's controllers is another than at the last time. ``sets`` are those of snapshots.

        With ``check`` nothing is written. Both names become paths, and are refused where they would lead elsewhere.
        """
        if check and not self._exists:
            return [_change(gateway, one, {}, _readable(one), reason, rollout) for one in sets]
        self._make_directory()
        changes = []
        with exclusive(self.directory):
            if not (self.directory / ".git").exists():
                self._git("init", "--quiet", "--initial-branch=main")
            for one in sets:
                path = self._path(gateway, str(one["controller"]))
                before, after = self._committed(path), _readable(one)
                if before == after:
                    continue
                change = _change(gateway, one, before, after, reason, rollout)
                changes.append(change)
                if not check:
                    write_atomically(self.directory / path, dump_yaml(after))
                    self._git("add", "--", path)
                    self._git("commit", "--quiet", "--file=-", "--", path, text=_message(change))
        return changes

    def changes(
        self, since: str = "", up_to: str = "", gateways: Sequence[str] = (), controllers: Sequence[str] = ()
    ) -> list[Change]:
        """What was changed between two moments in ISO 8601, newest first. Days are local, and belong to it whole."""
        first, last = _moment(since, "since"), _moment(up_to, "up_to", end=True)
        if not self._exists:
            return []
        keys = [f"%(trailers:key={name},valueonly,separator=%x20)" for name in _TRAILERS]
        form = _FIELD.join(["%H", "%aI", "%an", *keys, "%b"]) + _RECORD
        output = self._git("log", f"--format={form}")
        found = [self._parsed(text.strip("\n").split(_FIELD)) for text in output.split(_RECORD) if text.strip()]
        return [
            one
            for one in found
            if (not gateways or one.gateway in gateways)
            and (not controllers or one.controller in controllers)
            and (first is None or datetime.datetime.fromisoformat(one.time) >= first)
            and (last is None or datetime.datetime.fromisoformat(one.time) <= last)
        ]

    @staticmethod
    def _parsed(fields: Sequence[str]) -> Change:
        commit, time, name, gateway, controller, reason, rollout, body = fields
        what = tuple(line for line in body.split("\n\n")[0].splitlines() if line)
        return Change(gateway, controller, what, reason, rollout, commit, time, name)

    @property
    def _exists(self) -> bool:
        return (self.directory / ".git" / "HEAD").exists() and bool(self._git("for-each-ref", "--count=1"))

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HistoryError(f"history {self.directory}: {error.strerror}; name another directory") from None

    @staticmethod
    def _path(gateway: str, controller: str) -> str:
        for name in (gateway, controller):
            if not _NAME.fullmatch(name):
                raise HistoryError(
                    f"history: {name!r} cannot be the name of a file; letters, digits, dots, dashes and underscores can"
                )
        return f"{gateway}/{controller}.yml"

    def _committed(self, path: str) -> dict[str, Any]:
        """What the newest commit says of a controller; empty where it says nothing."""
        if not self._exists or not self._git("ls-tree", "--name-only", "HEAD", "--", path):
            return {}
        data = yaml.safe_load(self._git("show", f"HEAD:{path}"))
        return data if isinstance(data, dict) else {}

    def _git(self, *arguments: str, text: str = "") -> str:
        name, _at, host = who().partition("@")
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.directory),  # nobody's settings but the repository's own
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            **{f"GIT_{role}_NAME": who() for role in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{role}_EMAIL": f"{name}@{host}" for role in ("AUTHOR", "COMMITTER")},
        }
        try:
            done = subprocess.run(
                ["git", "-C", str(self.directory), *arguments],
                input=text,
                capture_output=True,
                text=True,
                env=environment,
                timeout=_DEADLINE,
                check=True,
            )
        except FileNotFoundError:
            raise HistoryError(
                "the program git is missing on the control node; install the Debian package git"
            ) from None
        except subprocess.CalledProcessError as error:
            said = " ".join(str(error.stderr or error.stdout).split())
            raise HistoryError(
                f"history {self.directory}: git {arguments[0]}: {said}; mend that, then run again"
            ) from None
        except subprocess.TimeoutExpired:
            raise HistoryError(f"history {self.directory}: git {arguments[0]} was not done in time") from None
        return done.stdout


def _moment(text: str, name: str, end: bool = False) -> datetime.datetime | None:
    """The moment that ``text`` says; of a day without a time its beginning, or its ``end``."""
    if not text:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        expected = "expected a moment such as 2026-11-01 or 2026-11-01T14:30"
        raise HistoryError(f"history: {name} is {text!r}, {expected}") from None
    if end and len(text) == len("2026-11-01"):
        moment += datetime.timedelta(days=1, microseconds=-1)
    return moment.astimezone()


def _readable(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a set people want to compare: no times, which say nothing of the controller."""
    images = content.get("images") or {}
    told = {
        "version": content["version"],
        "profile": dict(content["profile"]),
        "settings": dict(content["settings"]),
        **{memory: images[memory] for memory in ("flash", "eeprom") if memory in images},
        **({"fuses": dict(images["fuses"])} if "fuses" in images else {}),
    }
    readable: dict[str, Any] = redact(told)
    return readable


def _change(
    gateway: str,
    content: Mapping[str, Any],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    reason: str,
    rollout: str,
) -> Change:
    what = tuple(_differences(before, after)) if before else ("first recorded",)
    said = (" ".join(str(redact(text)).split()) for text in (reason, rollout))
    return Change(gateway, str(content["controller"]), what, *said)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, "" if key == "settings" else f"{key} ")
        elif old != new:
            yield f"{prefix}{key}: {_short(old)} → {_short(new)}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"


def _message(change: Change) -> str:
    place = f"{change.gateway}/{change.controller}"
    subject = f"{place}: {'; '.join(change.what)}"
    if len(subject) > _SUBJECT:
        subject = f"{place}: {len(change.what)} changes"
    values = (change.gateway, change.controller, change.reason, change.rollout)
    trailers = [f"{name}: {value}" for name, value in zip(_TRAILERS, values, strict=True) if value]
    return "\n".join([subject, "", *change.what, "", *trailers, ""])

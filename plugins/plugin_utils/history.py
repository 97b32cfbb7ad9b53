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
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import dump_yaml
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.exclusive import exclusive
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import who

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_DEADLINE = 120.0
_FIELD, _RECORD = "\x1f", "\x1e"
_SUBJECT = 72
_TRAILERS = ("Gateway", "Controller", "Reason", "Rollout", "Audit")


class HistoryError(CoreError):
    """A history that cannot be read or written."""


@dataclass(frozen=True)
class Change:
    """What a controller was changed from and to; ``what`` has a line a value. ``commit`` is empty before it is made.

    ``audit`` is the number of the audit log's record of it.
    """

    gateway: str
    controller: str
    what: tuple[str, ...]
    reason: str = ""
    rollout: str = ""
    audit: str = ""
    commit: str = ""
    time: str = ""
    who: str = ""


class History:
    """The repository in ``directory``, which is made when something is recorded first."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).expanduser()

    def record(
        self,
        sets: Mapping[str, Iterable[Mapping[str, Any]]],
        reason: str,
        rollout: str = "",
        check: bool = False,
        audited: Iterable[Mapping[str, Any]] = (),
    ) -> list[Change]:
        """Commit what of controllers is another than at the last time. ``sets`` are those of snapshots, by gateway.

        Of the records ``audited``, of an audit log, a commit names the newest one of its controller, unless that is
        older than the controller's last commit: then somebody else made the change. With ``check`` nothing is written.
        The names of gateway and controller become paths, and are refused where they would lead elsewhere.
        """
        found = {
            self._path(gateway, str(one["controller"])): (gateway, one)
            for gateway, some in sets.items()
            for one in some
        }
        if check and not self._exists:
            return [_change(gateway, one, {}, reason, rollout) for gateway, one in found.values()]
        self._make_directory()
        with exclusive(self.directory):
            if not (self.directory / ".git").exists():
                self._git("init", "--quiet", "--initial-branch=main")
            committed = self._committed(found)
            changed = {path: which for path, which in found.items() if committed[path] != _readable(which[1])}
            records = self._records(audited) if changed else {}
            changes = {
                path: _change(gateway, one, committed[path], reason, rollout, records.get(path, ""))
                for path, (gateway, one) in changed.items()
            }
            if not check:
                files = {path: dump_yaml(_readable(one)).decode() for path, (_gateway, one) in changed.items()}
                self._commit({path: (_message(change), files[path]) for path, change in changes.items()})
                if found:  # also those whose commit another run did not outlive
                    self._git("checkout", "--quiet", "--force", "HEAD", "--", *found)
        return list(changes.values())

    def last(self, controllers: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
        """What was recorded last of controllers, each a gateway and a name; those that are not known are left out."""
        paths = {self._path(*one): one for one in controllers}
        return {paths[path]: content for path, content in self._committed(paths).items() if content}

    def _records(self, audited: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """By path the number of the audit record that tells of a change since the last commit."""
        last: dict[str, datetime.datetime] = {}
        told: dict[str, int] = {}
        for change in self.changes():
            path = f"{change.gateway}/{change.controller}.yml"
            last.setdefault(path, datetime.datetime.fromisoformat(change.time))
            told[path] = max(told.get(path, 0), int(change.audit or 0))
        found = {}
        for record in audited:
            if record["what"] == "snapshot":  # which changes nothing, but finds what has changed
                continue
            path = f"{record['where']['gateway']}/{record['where']['controller']}.yml"
            # Git keeps whole seconds, in which a record may have been told of already.
            new = path not in last or datetime.datetime.fromisoformat(record["time"]) >= last[path]
            if new and record["seq"] > told.get(path, 0):
                found[path] = str(record["seq"])
        return found

    def _commit(self, commits: Mapping[str, tuple[str, str]]) -> None:
        """A commit a path, with its message and the file's new content; all of them with one process, or none."""
        if not commits:
            return
        branch = self._git("symbolic-ref", "HEAD").strip()
        parent = f"from {branch}^0\n" if self._exists else ""
        stream = ""
        for path, (message, content) in commits.items():
            stream += f"commit {branch}\ncommitter {who()} <{who()}> now\n{_data(message)}{parent}"
            stream += f"M 100644 inline {path}\n{_data(content)}"
            parent = ""  # each follows the one before
        self._git("fast-import", "--quiet", "--date-format=now", text=stream)

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
        commit, time, name, gateway, controller, reason, rollout, audit, body = fields
        what = tuple(line for line in body.split("\n\n")[0].splitlines() if line)
        return Change(gateway, controller, what, reason, rollout, audit, commit, time, name)

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

    def _committed(self, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What the newest commits say of controllers; nothing where they do not know one."""
        names = list(paths)
        if not self._exists:
            return {path: {} for path in names}
        output = self._git("cat-file", "--batch", text="".join(f"HEAD:{path}\n" for path in names)).encode()
        found: dict[str, dict[str, Any]] = {}
        for path in names:
            head, _end, output = output.partition(b"\n")
            if head.endswith(b" missing"):
                found[path] = {}
                continue
            size = int(head.rpartition(b" ")[2])
            data = yaml.safe_load(output[:size])
            found[path] = data if isinstance(data, dict) else {}
            output = output[size + 1 :]
        return found

    def _git(self, *arguments: str, text: str = "") -> str:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.directory),  # nobody's settings but the repository's own
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            **{f"GIT_{role}_{part}": who() for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")},
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
    gateway: str, content: Mapping[str, Any], before: Mapping[str, Any], reason: str, rollout: str, audit: str = ""
) -> Change:
    what = tuple(_differences(before, _readable(content))) if before else ("first recorded",)
    why, of = (" ".join(str(redact(text)).split()) for text in (reason, rollout))
    return Change(gateway, str(content["controller"]), what, why, of, audit)


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
    values = (change.gateway, change.controller, change.reason, change.rollout, change.audit)
    trailers = [f"{name}: {value}" for name, value in zip(_TRAILERS, values, strict=True) if value]
    return "\n".join([subject, "", *change.what, "", *trailers, ""])


def _data(text: str) -> str:
    """A text as git fast-import takes it."""
    return f"data {len(text.encode())}\n{text}\n"

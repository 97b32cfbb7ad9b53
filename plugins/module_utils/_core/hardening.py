# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls put in place on one host, and taken back.

How each setting was before is kept in a record, and a setting that is wanted no longer is put back as it was. What can
cut the control node off is taken back by a guard on the host, unless it is confirmed over a connection of after that.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .controls import CHANGING, ControlError, Host, Setting, State, settings
from .errors import CoreError
from .store import write_atomically

RECORD = "/var/lib/multi_sonicator/hardening.json"
GUARD_UNIT = "multi-sonicator-hardening-guard"
GUARD_SCRIPT = "/var/lib/multi_sonicator/hardening-guard.sh"

_NO_SUCH_UNIT = 5  # systemctl's exit code; what is not there has nothing to be told


@dataclass(frozen=True)
class Change:
    """One setting from what was found to what it is to be. ``back`` is the way back to what was before the controls."""

    setting: Setting
    found: State
    wanted: State
    back: bool = False


class Hardening:
    """What the controls have changed on a host, and how it was before. ControlError where its record is damaged."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._path = host.path(RECORD)
        self.warnings: list[str] = []
        self._record: dict[str, Any] = {"settings": {}, "packages": [], "directories": [], "pending": []}
        try:
            self._record |= json.loads(self._path.read_text())
        except FileNotFoundError:
            pass
        except ValueError as error:
            raise ControlError(f"{RECORD}: {error}; nothing can be taken back without it, restore it") from None

    @property
    def pending(self) -> list[list[str]]:
        """Commands that an earlier run owed after its changes, and failed to do."""
        return list(self._record["pending"])

    @property
    def packages(self) -> list[str]:
        """Packages that were brought for the controls."""
        return list(self._record["packages"])

    def plan(self, controls: Sequence[Mapping[str, Any]]) -> list[Change]:
        """What would change: what is taken back, then what is put. Looks only."""
        wanted = {one.key: one for one in settings(self._host, controls) if one.kind in CHANGING}
        order = list(CHANGING)
        back = []
        for key, kept in self._record["settings"].items():
            if key not in wanted:
                kind, _space, name = key.partition(" ")
                setting = Setting(kept["control"], kind, name, kept["before"], kept["activate"])
                back.append(Change(setting, CHANGING[kind].look(self._host, name, None), kept["before"], back=True))
        back.sort(key=lambda change: -order.index(change.setting.kind))
        put = []
        for setting in sorted(wanted.values(), key=lambda one: order.index(one.kind)):
            kind_of = CHANGING[setting.kind]
            found = kind_of.look(self._host, setting.name, setting.wanted)
            if kind_of.fits(found, setting.wanted) is False and not self._is_hidden(setting, found):
                put.append(Change(setting, found, setting.wanted))
        return back + put

    def _is_hidden(self, setting: Setting, found: State) -> bool:
        """Whether a container lets nothing be done: its kernel is the machine's, and a unit may be unable to start."""
        if not (self._host.container and setting.may_fail):
            return False
        if setting.kind == "unit" and found is not None:
            return bool(found["start"] == setting.wanted["start"])
        return setting.kind in ("sysctl", "once")

    def apply(self, changes: Sequence[Change], installed: Iterable[str] = (), guard_seconds: float = 0) -> bool:
        """Make the changes of a plan and remember what was before; whether the guard is armed, until :func:`confirm`.

        ``installed`` are packages that were brought for it. ControlError names all settings that cannot be put.
        """
        kept = self._record["settings"]
        for change in changes:
            if not change.back and change.setting.key not in kept:
                activate = [list(argv) for argv in change.setting.activate]
                kept[change.setting.key] = {
                    "control": change.setting.control,
                    "before": change.found,
                    "activate": activate,
                }
        self._remember_directories(RECORD)
        self._record["packages"] = sorted({*self._record["packages"], *installed})
        before = self.pending
        strict = [argv for one in changes if not self._is_lenient(one) for argv in one.setting.activate]
        self._record["pending"] = _unique([*before, *strict])
        self._save()
        guarded = [change for change in changes if change.setting.guarded] if guard_seconds else []
        if guarded:
            _arm(self._host, guarded, guard_seconds)
        back = [change for change in changes if change.back]
        for change in back:
            self._take_back(change)
        self._follow(back)
        for change in back:
            del kept[change.setting.key]
        put = [change for change in changes if not change.back]
        others = [change for change in put if change.setting.kind != "unit"]
        problems = [problem for change in others if (problem := self._put(change))]
        self._follow(others, before)
        units = [change for change in put if change.setting.kind == "unit"]
        problems += [problem for change in units if (problem := self._put(change))]
        self._record["pending"] = []
        self._save()
        if problems:
            raise ControlError("\n".join(problems))
        return bool(guarded)

    def end(self) -> None:
        """Take away the packages that were brought, directories and the record, once all settings are taken back."""
        names = self.packages
        if names:
            told = self._host.must(["apt-get", "--quiet", "--simulate", "purge", "--", *names])
            others = sorted({*re.findall(r"^(?:Remv|Purg) (\S+)", told, re.MULTILINE)} - {*names})
            if others:
                self.warnings.append(f"{' '.join(names)} stay installed: {' '.join(others)} would go with them")
            else:
                self._host.must(["apt-get", "--quiet", "--yes", "purge", "--", *names])
        self._path.unlink(missing_ok=True)
        for directory in sorted(self._record["directories"], key=len, reverse=True):
            try:
                self._host.path(directory).rmdir()
            except OSError:  # somebody has put something there, or taken it away
                continue

    def _put(self, change: Change) -> str | None:
        """What went wrong, if anything did."""
        setting = change.setting
        validate = [str(word) for word in setting.validate]
        try:
            if "%s" in validate:
                self._validate_aside(change, validate)
            elif setting.kind == "file":
                self._remember_directories(setting.name)
            CHANGING[setting.kind].put(self._host, setting.name, change.wanted)
            if validate and "%s" not in validate:
                done = self._host.run(validate)
                if done.returncode:
                    CHANGING[setting.kind].put(self._host, setting.name, change.found)
                    raise ControlError(f"{shlex.join(validate)} refuses it: {(done.stderr or done.stdout).strip()}")
        except (OSError, CoreError) as error:
            if not self._is_lenient(change):
                return f"control {setting.control or 'of several'}: {setting.key}: {error}"
        return None

    def _validate_aside(self, change: Change, validate: Sequence[str]) -> None:
        """Before it is in its place, where it would count at once."""
        self._remember_directories(change.setting.name)
        aside = self._host.path(RECORD).with_name("hardening.new")
        write_atomically(aside, change.wanted["content"].encode())
        try:
            self._host.must([str(aside) if word == "%s" else word for word in validate])
        finally:
            aside.unlink()

    def _take_back(self, change: Change) -> None:
        if change.found == change.wanted:
            return
        try:
            CHANGING[change.setting.kind].put(self._host, change.setting.name, change.wanted)
        except (OSError, CoreError) as error:
            self.warnings.append(f"{change.setting.key}: not taken back: {error}")

    def _follow(self, changes: Sequence[Change], owed: Sequence[Sequence[str]] = ()) -> None:
        """Let services know of what has changed."""
        if any(change.setting.name.startswith("/etc/systemd/system/") for change in changes):
            self._host.must(["systemctl", "daemon-reload"])
        argvs = [*owed, *(argv for change in changes for argv in change.setting.activate)]
        tolerated = {tuple(argv) for one in changes if self._is_lenient(one) for argv in one.setting.activate}
        for argv in _unique(argvs):
            done = self._host.run(argv)
            if done.returncode in (0, _NO_SUCH_UNIT if argv[0] == "systemctl" else 0):
                continue
            problem = f"{shlex.join(argv)}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()}"
            if tuple(argv) not in tolerated:
                raise ControlError(problem)
            self.warnings.append(problem)

    def _is_lenient(self, change: Change) -> bool:
        return change.back or (change.setting.may_fail and self._host.container)

    def _remember_directories(self, name: str) -> None:
        missing = [str(one) for one in Path(name).parents if not self._host.path(str(one)).exists()]
        if missing:
            self._record["directories"] += missing
            self._save()

    def _save(self) -> None:
        # What is kept may be the text of a file that not everybody may read.
        write_atomically(self._path, json.dumps(self._record, indent=1).encode())
        self._path.chmod(0o600)


def _unique(argvs: Iterable[Sequence[str]]) -> list[list[str]]:
    return [list(argv) for argv in dict.fromkeys(tuple(argv) for argv in argvs)]


# ---- the guard


_GUARD_UNITS = {
    "service": "[Unit]\nDescription=Take back a hardening that was not confirmed\n\n"
    f"[Service]\nType=oneshot\nExecStart=/bin/sh {GUARD_SCRIPT}\n",
    # Counted anew after a reboot, so that one in between does not make the change stay.
    "timer": "[Unit]\nDescription=Wait for a hardening to be confirmed\n\n"
    "[Timer]\nOnActiveSec={seconds}\nAccuracySec=1\n\n[Install]\nWantedBy=timers.target\n",
}


def _arm(host: Host, changes: Sequence[Change], seconds: float) -> None:
    """Have systemd take the changes back after ``seconds``, whatever becomes of the connection."""
    write_atomically(host.path(GUARD_SCRIPT), _guard_script(changes).encode(errors="surrogateescape"))
    host.path(GUARD_SCRIPT).chmod(0o600)
    for suffix, text in _GUARD_UNITS.items():
        path = host.path(f"/etc/systemd/system/{GUARD_UNIT}.{suffix}")
        write_atomically(path, text.replace("{seconds}", f"{seconds:g}").encode())
    host.must(["systemctl", "daemon-reload"])
    host.must(["systemctl", "enable", "--now", f"{GUARD_UNIT}.timer"])


def _guard_script(changes: Sequence[Change]) -> str:
    lines = ["# Takes back what was changed last, since nobody confirmed it.", "set -u"]
    for change in reversed(changes):
        if change.setting.kind == "unit" and not (change.found and change.found["active"]):
            lines.append(f"systemctl disable --now {shlex.quote(change.setting.name)}")
    for change in changes:
        if change.setting.kind == "file":
            lines += _file_back(shlex.quote(change.setting.name), change.found)
    lines.append("systemctl daemon-reload")
    lines += [shlex.join(argv) for argv in _unique(argv for one in changes for argv in one.setting.activate)]
    lines.append("logger -t multi-sonicator-hardening -p auth.alert 'nobody confirmed the new rules: taken back'")
    return "\n".join([*lines, *_disarm_lines(), ""])


def _file_back(path: str, found: State) -> list[str]:
    if found is None:
        return [f"rm -f {path}"]
    packed = base64.b64encode(found["content"].encode(errors="surrogateescape")).decode()
    return [f"echo {packed} | base64 -d >{path}", f"chmod {found['mode']} {path}"]


def _disarm_lines() -> list[str]:
    units = " ".join(f"/etc/systemd/system/{GUARD_UNIT}.{suffix}" for suffix in _GUARD_UNITS)
    return [f"systemctl disable --now {GUARD_UNIT}.timer", f"rm -f {units} {GUARD_SCRIPT}", "systemctl daemon-reload"]


def confirm(host: Host) -> bool:
    """Let the change stay; whether a guard was armed. From a connection that was made after the change."""
    if not host.path(GUARD_SCRIPT).exists():
        return False
    for line in _disarm_lines():
        host.must(["sh", "-c", line])
    return True


def take_back_unconfirmed(host: Host) -> bool:
    """What an earlier run changed and nobody confirmed is not what to begin with; whether there was any."""
    if not host.path(GUARD_SCRIPT).exists():
        return False
    host.must(["sh", str(host.path(GUARD_SCRIPT))])
    return True

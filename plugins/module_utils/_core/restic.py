# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One backup target: a repository of restic, which encrypts, deduplicates and checks, and knows where things lie.

restic waits long for a server that does not answer and leaves its children behind when it is ended, so the deadline
and the end of all of them are ours. Its exit codes tell little before 0.17: what it says on its standard error counts.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .backup_set import BackupError
from .child import tied
from .errors import MissingPackage
from .events import redact

_TAG = "multi_sonicator"
_SET = "set:"
_UNREACHABLE = "the target cannot be reached; mend that, the next run makes up for it"
_AWAY = "connect the medium and mount it; the next run makes up for it"
_WRONG_PASSWORD = "the password is not one of this repository's; correct it"
_NO_REPOSITORY = "there is no repository; the role backup makes it"
_LOCKED = "somebody else works on it; wait for it, then run again"
# What restic says, and what it means for whoever has to mend it.
_REMEDIES = (
    ("wrong password", _WRONG_PASSWORD),
    ("connection refused", _UNREACHABLE),
    ("no route to host", _UNREACHABLE),
    ("no such host", _UNREACHABLE),
    ("i/o timeout", _UNREACHABLE),
    ("does not exist", _NO_REPOSITORY),
    ("no such file", _NO_REPOSITORY),
    ("no space left", "the target's disk is full; free space there"),
    ("403 forbidden", "the target refuses it"),
    ("401 unauthorized", "the target does not know this gateway, or its password was changed there"),
    ("already locked", _LOCKED),
    ("ciphertext verification failed", "what is stored there is damaged; take another target's copy"),
)
_LONGEST_REASON = 300


class TargetError(BackupError):
    """A target that cannot be reached or used; names it, what restic said, and the remedy."""


@dataclass(frozen=True)
class Snapshot:
    """A set that a target has: restic's own id for it, and which set of which host, taken when (ISO 8601)."""

    snapshot: str
    set_id: str
    host: str
    time: str

    @property
    def moment(self) -> str:
        """The same, as everything else is told: UTC, in whole seconds."""
        return datetime.datetime.fromisoformat(self.time).astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Target:
    """A repository, in restic's words, its password, and another one that the site keeps elsewhere.

    ``environment`` is what its backend needs, such as AWS_ACCESS_KEY_ID; ``options`` are restic's global ones, such as
    the certificate of a server. ``append_only``: whether the target refuses to forget. ``deadline`` is for everything
    that is done with it at a time, in seconds. ``mount``: where the medium is mounted that it lies on; without it the
    backups would fill the disk below.
    """

    name: str
    repository: str
    password: str = field(repr=False)
    recovery_password: str = field(default="", repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Sequence[str] = ()
    append_only: bool = False
    deadline: float = 3600.0
    mount: str = ""


class Restic:
    """A target at work; ``cache`` is a directory that restic keeps metadata in."""

    def __init__(self, target: Target, cache: Path) -> None:
        self.target = target
        self._cache = cache
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self) -> list[str]:
        """Make the repository unless there is one, and have both passwords open it; what was done, in words.

        A password that does not, such as one that was changed in the inventory, is added by the other one.
        """
        ways = {"password": self}
        if self.target.recovery_password:
            recovery = replace(self.target, password=self.target.recovery_password)
            ways["recovery password"] = Restic(recovery, self._cache)
        done = []
        refused: dict[str, TargetError] = {}
        for name, way in ways.items():
            try:
                way._run("cat", "config")
            except TargetError as error:
                if _WRONG_PASSWORD in str(error):
                    refused[name] = error
                elif _NO_REPOSITORY in str(error):
                    way._run("init")
                    done.append(f"made the repository of backup target {self.target.name}")
                else:
                    raise
        opening = next((way for name, way in ways.items() if name not in refused), None)
        for name, reason in refused.items():
            if opening is None:
                raise reason
            opening._admit(ways[name].target.password)
            done.append(f"gave backup target {self.target.name} its {name}")
        return done

    def keep(self, directory: Path, set_id: str, host: str) -> None:
        """Store what lies in ``directory`` as the set ``set_id``."""
        self._run("backup", "--host", host, "--tag", f"{_TAG},{_SET}{set_id}", ".", working_directory=directory)

    def sets(self, host: str | None = None) -> list[Snapshot]:
        """The sets that are there, of one host or of all, oldest first."""
        narrowed = ("--host", host) if host else ()
        answer = self._run("snapshots", "--json", "--tag", _TAG, *narrowed)
        found = [
            Snapshot(one["id"], tag.removeprefix(_SET), one["hostname"], one["time"])
            for one in json.loads(answer or "null") or ()
            for tag in one.get("tags") or ()
            if tag.startswith(_SET)
        ]
        return sorted(found, key=lambda one: one.time)

    def find(self, set_id: str, host: str | None = None) -> Snapshot:
        """The set ``set_id``, or the newest for ``latest``, of one host or of all; TargetError names what is there.

        One that a clock which had jumped has dated into the future is the newest only where there is no other.
        """
        known = self.sets(host)
        found = [one for one in known if set_id in (one.set_id, "latest")]
        if set_id == "latest":
            tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
            found = [one for one in found if one.time < tomorrow.isoformat()] or found
        if not found:
            names = ", ".join(one.set_id for one in known[-5:]) or "none"
            raise TargetError(f"backup target {self.target.name}: no set {set_id} (the newest are: {names})")
        return found[-1]

    def fetch(self, wanted: Snapshot, directory: Path) -> None:
        """Write a set's files into ``directory``; restic compares what it reads with what was stored."""
        self._run("restore", wanted.snapshot, "--target", str(directory), "--verify")

    def copy(self, source: Restic, wanted: Snapshot) -> None:
        """Store a set of another target here too."""
        known = {
            "RESTIC_FROM_REPOSITORY": source.target.repository,
            "RESTIC_FROM_PASSWORD": source.target.password,
            **source.target.environment,
        }
        self._run("copy", *source.target.options, wanted.snapshot, more=known)

    def forget(self, host: str, keep: Mapping[str, int]) -> None:
        """Remove a host's sets beyond those to ``keep``: so many of the last, and one each of so many days, weeks, …"""
        limits = [word for period, count in keep.items() for word in (f"--keep-{period}", str(count))]
        # By host alone: the tag is another one for each set.
        self._run("forget", "--host", host, "--tag", _TAG, "--group-by", "host", *limits, "--prune")

    def check(self, read: str = "") -> None:
        """Have restic prove that everything is there; with ``read`` (``1/10``, ``5%``) that so much of it is intact."""
        self._run("check", *(("--read-data-subset", read) if read else ()))

    def _admit(self, password: str) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self._cache) as file:
            file.write(password)
            file.flush()
            self._run("key", "add", "--new-password-file", file.name)

    def _run(
        self, *arguments: str, working_directory: Path | None = None, more: Mapping[str, str] | None = None
    ) -> str:
        try:
            return self._once(*arguments, working_directory=working_directory, more=more)
        except TargetError as error:
            if _LOCKED not in str(error):
                raise
        # restic heeds the locks of those who died, as in a power cut, until it is told to remove them. One of somebody
        # who lives stays, and is met again.
        self._once("unlock")
        return self._once(*arguments, working_directory=working_directory, more=more)

    def _once(
        self, *arguments: str, working_directory: Path | None = None, more: Mapping[str, str] | None = None
    ) -> str:
        target = self.target
        if target.mount and not os.path.ismount(target.mount):
            raise TargetError(f"backup target {target.name}: nothing is mounted at {target.mount}; {_AWAY}")
        command = ["restic", "--cache-dir", str(self._cache), "--quiet", *target.options, *arguments]
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C.UTF-8",
            "HOME": str(self._cache),
            "RESTIC_REPOSITORY": target.repository,
            "RESTIC_PASSWORD": target.password,
            **(more or {}),
            **target.environment,
        }
        if shutil.which("restic", path=environment["PATH"]) is None:
            raise MissingPackage("the program restic is missing; install the Debian package restic")
        child = subprocess.Popen(  # pylint: disable=ansible-bad-function  # the core knows no AnsibleModule
            tied(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=working_directory,
            env=environment,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        try:
            output, said = child.communicate(timeout=target.deadline)
        except subprocess.TimeoutExpired:
            raise TargetError(
                f"backup target {target.name}: restic {arguments[0]} was not done after {target.deadline:g} s and was "
                "ended; see whether the target can be reached"
            ) from None
        finally:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):  # what it started, such as ssh, ends with it
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if child.returncode:
            raise self._failure(arguments[0], child.returncode, said)
        return output

    def _failure(self, verb: str, code: int, said: str) -> TargetError:
        lines = said.splitlines() or ["without a word"]
        # What is fatal, or else what went wrong first; traces of calls may follow.
        reason = next((line for line in lines if line.startswith("Fatal")), lines[0])
        words = str(redact(reason))  # a repository's address may hold a password
        remedy = next((text for word, text in _REMEDIES if word in said.lower()), _UNREACHABLE)
        place = f"backup target {self.target.name}: restic {verb} ended with exit code {code}"
        return TargetError(f"{place}: {words[:_LONGEST_REASON]}; {remedy}")

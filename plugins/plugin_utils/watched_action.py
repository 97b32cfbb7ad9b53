# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of a module that takes long: it runs detached on the gateway and is watched while it does.

The run outlives a lost connection and a killed control node. Once a second one command through the connection reads
what the run has told since, whether it lives, and its result. See _core.progress for the files.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.controller_action import ActionModule

_POLL = 1.0
_LONGEST_RUN = 7 * 86400
# How long a gateway may be out of reach while its run goes on, and how long a run takes to lock its progress at most.
_RECONNECT_DEADLINE = 120.0
_START_DEADLINE = 60.0
_SHOWN = {
    "begin": "begun",
    "drain": "no new starts, waiting for rest",
    "read": "reading the chip",
    "fuses": "writing its fuses",
    "write": "writing",
    "boot": "waiting for its start",
    "health": "watching its health",
    "restore": "putting settings back",
    "back": "going back to the previous image",
}
_LATER = ("saved", "written", "compare", "release")
# What separates the parts of a gateway's answer, and what shows that it is whole.
_PART, _END = "\x01", "\x02"
# Of what Ansible puts into a result and alone can read; all else is as plain as a module of ours makes it.
_TYPED = "__ansible_type"
_T = TypeVar("_T")


class WatchedActionModule(ActionModule):
    """Runs the module detached, shows its progress, and returns its result."""

    def _run_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        if self._task.check_mode:
            return super()._run_module(arguments, task_vars)
        state_directory = str(arguments.get("state_directory") or "/var/lib/multi_sonicator")
        progress = posixpath.join(state_directory, "progress", f"{secrets.token_hex(8)}.jsonl")
        self._task.async_val = _LONGEST_RUN
        try:
            job: dict[str, Any] = self._execute_module(
                module_args={**arguments, "progress_file": progress}, task_vars=task_vars, wrap_async=True
            )
        finally:
            self._task.async_val = 0  # else the task's executor would wait for it too
        if job.get("failed") or "results_file" not in job:
            return job
        results_file = str(job["results_file"])
        result = self._watch(results_file, progress, str(task_vars.get("inventory_hostname", "")))
        if result is not None:
            if _TYPED in json.dumps(result):
                status = {"jid": str(job["ansible_job_id"]), "_async_dir": posixpath.dirname(results_file)}
                result = self._in_reach(
                    lambda: self._execute_module("ansible.legacy.async_status", module_args=status, task_vars=task_vars)
                )
            for key in ("ansible_job_id", "finished", "started", "results_file"):
                result.pop(key, None)
        else:
            result = {
                "failed": True,
                "changed": True,
                "msg": "the run on the gateway ended without an answer: somebody killed it, or the gateway was "
                "restarted; run again, that finishes or undoes what was begun",
            }
        with contextlib.suppress(AnsibleConnectionFailure):
            self._command(f"rm -f {' '.join(map(shlex.quote, (results_file, progress, f'{progress}.stop')))}")
        return dict(result)

    def _watch(self, results_file: str, progress: str, host: str) -> dict[str, Any] | None:
        """Until the run has ended; its result, if it has left one."""
        read = 0
        seen_alive = False
        seen_dead = 0
        started = time.monotonic()
        while True:
            look = self._look(results_file, progress, read)
            read += len(look.told.encode())
            for entry in look.entries:
                self._told(host, entry)
            if look.result is not None:
                return look.result
            seen_alive = seen_alive or look.alive
            # Between its end and its result, and before its beginning, a run holds no lock either.
            lately = not seen_alive and time.monotonic() - started < _START_DEADLINE
            seen_dead = 0 if look.alive or lately else seen_dead + 1
            if seen_dead > 3:
                return None
            self._between_looks(progress)
            time.sleep(_POLL)

    def _look(self, results_file: str, progress: str, read: int) -> _Look:
        results, file = shlex.quote(results_file), shlex.quote(progress)
        result, told, alive = self._command(
            f"cat {results} 2>/dev/null; printf '{_PART}'; tail -c +{read + 1} {file} 2>/dev/null; printf '{_PART}'; "
            f"[ -e {file} ] && ! flock -n {file} true && echo alive"
        ).split(_PART)
        return _Look(_ended(result), told[: told.rfind("\n") + 1], bool(alive.strip()))

    def _command(self, script: str) -> str:
        """What a script prints on the gateway."""
        command = shlex.quote(f"{script}; printf '{_END}'")

        def run() -> str:
            done: dict[str, Any] = self._low_level_execute_command(f"sh -c {command}")  # type: ignore[no-untyped-call]
            output, end, _unused = str(done["stdout"]).rpartition(_END)
            if not end:
                raise AnsibleConnectionFailure(f"the gateway's answer was cut off: {done['stdout']}{done['stderr']}")
            # ssh and sudo may give a command a terminal, which ends lines otherwise: bytes would not add up.
            return output.replace("\r\n", "\n")

        return self._in_reach(run)

    def _in_reach(self, act: Callable[[], _T]) -> _T:
        """What ``act`` comes to; tried again while the gateway is out of reach, until a deadline."""
        outage = time.monotonic()
        while True:
            try:
                return act()
            except AnsibleConnectionFailure as error:
                if time.monotonic() - outage > _RECONNECT_DEADLINE:
                    raise AnsibleConnectionFailure(
                        f"the gateway has been out of reach for {_RECONNECT_DEADLINE:g} s and goes on with what it has "
                        f"begun; run again to see what became of it. {error.message}"
                    ) from None
                self._display.vvv(
                    f"the connection was lost, the run goes on without it; trying again: {self._task.name}"
                )
                time.sleep(_POLL)
                self._connection.reset()

    def cleanup(self, force: bool = False) -> None:
        """Remove what the action has left; where that is out of reach now its result counts all the same."""
        with contextlib.suppress(AnsibleConnectionFailure):
            super().cleanup(force)  # type: ignore[no-untyped-call]

    def _told(self, host: str, entry: Mapping[str, Any]) -> None:
        """Show one line of progress."""
        phase = str(entry["phase"])
        if phase in _LATER:
            return
        text = _SHOWN.get(phase, phase)
        if "percent" in entry:
            text += f" {entry['percent']} %"
        if entry.get("failed"):
            text += f": {entry.get('message', '')}"
        self._display.display(f"  {host} {entry['controller']}: {text}")

    def _between_looks(self, progress: str) -> None:
        """For who has more to do with a run than to watch it."""


@dataclass(frozen=True)
class _Look:
    result: dict[str, Any] | None
    told: str
    alive: bool

    @property
    def entries(self) -> Iterator[dict[str, Any]]:
        for line in self.told.splitlines():
            yield json.loads(line)


def _ended(text: str) -> dict[str, Any] | None:
    """The result in the file of that name, which holds a note that the run has started until then."""
    try:
        data: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return None if "started" in data and not data.get("finished") else data

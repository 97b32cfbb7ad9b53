# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of the module files: what the host lacks of the control node's files is sent to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Runs the module with digests in place of the control node's files, and once more with what the host lacks."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task on one host."""
        super().run(tmp, task_vars)
        files = self._task.args.get("files")
        if not isinstance(files, list) or not all(isinstance(one, Mapping) for one in files):
            return self._bring(files, task_vars)  # the module's to complain about
        sources = {str(one.get("path")): self._source(one) for one in files if one.get("src") and "content" not in one}
        try:
            known = [_by_digest(one, sources.get(str(one.get("path")))) for one in files]
            result = self._bring(known, task_vars)
            lacking = [path for path in result.get("lacking") or () if path in sources]
            if lacking:
                sent = {path: self._send(sources[path], number) for number, path in enumerate(lacking)}
                result = self._bring(
                    [{**one, "src": sent[one["path"]]} if one["path"] in sent else one for one in known], task_vars
                )
        finally:
            for source in sources.values():
                self._loader.cleanup_tmp_file(str(source))
        return result

    def _bring(self, files: Any, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_args={**self._task.args, "files": files}, task_vars=task_vars
        )
        return result

    def _source(self, one: Mapping[str, Any]) -> Path:
        """The file, or what is in it where a vault keeps that."""
        try:
            return Path(self._loader.get_real_file(self._find_needle("files", str(one["src"]))))
        except AnsibleError as error:
            reason = str(getattr(error, "message", "") or error).splitlines()[0]
            raise AnsibleActionFail(f"{one.get('path')}: {reason}") from None

    def _send(self, source: Path, number: int) -> str:
        """Where the host has it now, in a directory that goes with the task."""
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        place: str = shell.join_path(shell.tmpdir, f"file{number}")
        self._transfer_file(str(source), place)
        self._fixup_perms2((shell.tmpdir, place))
        return place


def _by_digest(one: Mapping[str, Any], source: Path | None) -> dict[str, Any]:
    if source is None:
        return dict(one)
    digest = one.get("sha256") or hashlib.sha256(source.read_bytes()).hexdigest()
    return {**{name: value for name, value in one.items() if name != "src"}, "sha256": digest}

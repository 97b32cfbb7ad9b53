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
        files, absent = self._task.args.get("files"), self._task.args.get("state") == "absent"
        if absent or not isinstance(files, list) or not all(isinstance(one, Mapping) for one in files):
            return self._bring(files, task_vars)  # which needs no content, or is the module's to complain about
        sources: dict[str, Path] = {}
        try:
            known = [self._by_digest(one, sources) for one in files]
            result = self._bring(known, task_vars)
            if lacking := result.get("lacking"):
                sent = {digest: {"src": self._send(sources[digest], digest)} for digest in lacking}
                result = self._bring([one | sent.get(str(one.get("sha256")), {}) for one in known], task_vars)
        finally:
            for source in sources.values():
                self._loader.cleanup_tmp_file(str(source))
        return result

    def _bring(self, files: Any, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_args={**self._task.args, "files": files}, task_vars=task_vars
        )
        return result

    def _by_digest(self, one: Mapping[str, Any], sources: dict[str, Path]) -> dict[str, Any]:
        """The entry with the digest of its file, which goes to ``sources``, in place of the file."""
        if one.get("sha256") and not one.get("src") and one.get("content") is None:
            raise AnsibleActionFail(f"{one.get('path')}: sha256 is given, and neither src nor content that it is of")
        if not one.get("src") or one.get("content") is not None:
            return dict(one)
        source = self._source(one)
        digest = str(one.get("sha256") or hashlib.sha256(source.read_bytes()).hexdigest())
        sources[digest] = source
        return {**{name: value for name, value in one.items() if name != "src"}, "sha256": digest}

    def _source(self, one: Mapping[str, Any]) -> Path:
        """The file, or what is in it where a vault keeps that."""
        try:
            return Path(self._loader.get_real_file(self._find_needle("files", str(one["src"]))))
        except AnsibleError as error:
            reason = str(getattr(error, "message", "") or error).splitlines()[0]
            raise AnsibleActionFail(f"{one.get('path')}: {reason}") from None

    def _send(self, source: Path, name: str) -> str:
        """Where the host has it now, in a directory that goes with the task."""
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        place: str = shell.join_path(shell.tmpdir, name)
        self._transfer_file(str(source), place)
        self._fixup_perms2((shell.tmpdir, place))
        return place

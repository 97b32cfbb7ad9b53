# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of every module: profiles and images are found, checked and sent along once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core import image
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.profiles import load_profile

_DEFAULT_PROFILE = "multi_sonicator_io"


class ActionModule(ActionBase):
    """Resolves what the task names, then runs the module of the same name."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task on one gateway."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            arguments["profiles"] = self._profiles(arguments, task_vars or {})
            if arguments.get("releases"):
                arguments["releases"] = self._releases(arguments)
        except CoreError as error:
            raise AnsibleActionFail(str(error)) from None  # type: ignore[no-untyped-call]
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        # The arguments hold whole profiles and images: of no use to a reader, and a burden to callbacks and logs.
        result.pop("invocation", None)
        return result

    def _profiles(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        """The profiles that the task's controllers name, checked; those given as data come on top."""
        inventories = [task_vars.get("inventory_dir"), *task_vars.get("ansible_inventory_sources", [])]
        search = [Path(place) if Path(place).is_dir() else Path(place).parent for place in inventories if place]
        search.append(Path(self._loader.get_basedir()))
        controllers = arguments.get("controllers") or []
        if not isinstance(controllers, list):
            raise CoreError(f"controllers: expected a list of controllers, found {type(controllers).__name__}")
        names = {str(entry.get("profile") or _DEFAULT_PROFILE) for entry in controllers if isinstance(entry, Mapping)}
        given = dict(arguments.get("profiles") or {})
        return {name: given[name] if name in given else load_profile(name, search) for name in sorted(names)}

    def _releases(self, arguments: Mapping[str, Any]) -> list[Any]:
        """The releases, those that the task asks for with the text of their images."""
        wanted = {
            str(entry.get("firmware_version") or arguments.get("version"))
            for entry in arguments["controllers"]
            if isinstance(entry, Mapping)
        }
        return [
            self._with_content(release) if str(release.get("version")) in wanted else release
            for release in arguments["releases"]
        ]

    def _with_content(self, release: Mapping[str, Any]) -> dict[str, Any]:
        if release.get("content"):
            return dict(release)
        path = Path(self._find_needle("files", str(release["image"])))  # type: ignore[no-untyped-call]
        data = path.read_bytes()
        image.verify(data, str(release["sha256"]), f"release {release['version']}: {path}")
        return {**release, "image": str(path), "content": data.decode("ascii", "replace")}

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of every module: profiles and images are found, checked and sent along once."""

from __future__ import annotations

import difflib
import gc
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core import image
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.release import path_of
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import CONTROLLER, RELEASE
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import approval_files, audit
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.exclusive import made_once
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.firmware_source import fetch
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.profiles import load_profile

_DEFAULT_PROFILE = "multi_sonicator_io"
_DEFAULT_PRODUCT = "multi_sonicator_io"
_DEFAULT_CACHE = "~/.cache/multi_sonicator"
# Seconds for which what was fetched for one gateway is good for others: they verify it again, and nothing that was
# published or revoked meanwhile is long in coming.
_OFFER_LASTS = 60.0

# Ansible forks a process for each task of each gateway. What is in memory by now they would all go through in search of
# garbage, and so copy.
gc.freeze()


class ActionModule(ActionBase):
    """Resolves what the task names, then runs the module of the same name."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task on one gateway."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            _require_well_formed("controllers", "controller", "name", arguments.get("controllers"), CONTROLLER)
            _require_well_formed("releases", "release", "version", arguments.get("releases"), RELEASE)
            arguments["profiles"] = self._profiles(arguments, task_vars or {})
            if arguments.get("repository"):
                arguments["offered"] = self._offered(arguments)
            elif arguments.get("releases"):
                arguments["releases"] = self._releases(arguments)
            if arguments.get("approvals"):
                arguments["approved"] = approval_files.collect(Path(self._local(arguments["approvals"])))
            log = audit.log_of(task_vars or {}, self._templar.template)
            if not self._task.check_mode and not self._looks_only:
                log.prepare()  # what cannot be recorded must not be done
        except CoreError as error:
            raise AnsibleActionFail(str(error)) from None  # type: ignore[no-untyped-call]
        try:
            result.update(self._run_module(dict(arguments), task_vars or {}))
        except AnsibleConnectionFailure as error:
            if not self._task.check_mode:
                lost = {"failed": True, "msg": f"out of reach, what was begun may go on there: {error}"}
                self._record(log, arguments, lost, task_vars or {})
            raise
        if not self._task.check_mode:
            self._record(log, arguments, result, task_vars or {})
        # The arguments hold whole profiles and images: of no use to a reader, and a burden to callbacks and logs.
        result.pop("invocation", None)
        return result

    @property
    def _looks_only(self) -> bool:
        return str(self._task.action).endswith("_info") and not self._task.args.get("read_chip")

    def _record(
        self, log: audit.AuditLog, arguments: Mapping[str, Any], result: dict[str, Any], task_vars: Mapping[str, Any]
    ) -> None:
        """Tell the audit log what was done."""
        rollout = arguments.get("rollout") or {}
        task = audit.Task(
            module=str(self._task.action).rpartition(".")[2],
            gateway=str(task_vars.get("inventory_hostname", "")),
            arguments=arguments,
            remote_user=str(self._play_context.remote_user or "") or None,
            approval=rollout.get("approval") or None,
            rollout=rollout.get("id"),
            no_log=bool(self._task.no_log),
        )
        try:
            audit.record_results(log, task, result)
        except CoreError as error:
            result["failed"] = True
            result["msg"] = f"done, but not recorded: {error}\n{result.get('msg', '')}".strip()

    def _run_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Run the module on the gateway and return its result."""
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return result

    def _profiles(self, arguments: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        """The profiles that the task's controllers name, checked; those given as data come on top."""
        given = dict(arguments.get("profiles") or {})
        return find_profiles(arguments.get("controllers") or [], task_vars, self._loader.get_basedir(), given)

    def _offered(self, arguments: Mapping[str, Any]) -> dict[str, str]:
        """The files of the repository that the gateway needs to verify the releases that the task asks for."""
        if not arguments.get("trusted_root"):
            raise CoreError(
                "trusted_root is missing; give the root.json that the publisher of the repository handed out"
            )
        location = str(arguments["repository"])
        product = str(arguments.get("product") or _DEFAULT_PRODUCT)
        source = (
            location if "://" in location else self._local(location),
            self._local(arguments["trusted_root"]),
            self._local(arguments.get("repository_cache") or _DEFAULT_CACHE),
        )
        wanted = sorted(path_of(product, version) for version in self._wanted_versions(arguments))
        files: dict[str, str] = made_once(
            _of_this_run(),
            f"releases {source} {wanted}",
            lambda: fetch(source[0], Path(source[1]), Path(source[2]), wanted).files,
            _OFFER_LASTS,
        )
        return files

    def _local(self, path: object) -> str:
        """A path on the control node; a relative one is the playbook's."""
        return str(self._loader.path_dwim(str(path)))

    @staticmethod
    def _wanted_versions(arguments: Mapping[str, Any]) -> set[str]:
        """The versions that the task's controllers are to be brought to."""
        only = arguments.get("only")
        return {
            str(version)
            for entry in arguments.get("controllers") or []
            if (only is None or entry.get("name") in only)
            and (version := entry.get("firmware_version") or arguments.get("version"))
        }

    def _releases(self, arguments: Mapping[str, Any]) -> list[Any]:
        """The releases, those that the task asks for with the text of their images."""
        wanted = self._wanted_versions(arguments)
        return [
            self._with_content(release) if str(release.get("version")) in wanted else release
            for release in arguments["releases"]
        ]

    def _with_content(self, release: Mapping[str, Any]) -> dict[str, Any]:
        if release.get("content"):
            return dict(release)
        name = f"release {release['version']}"
        try:
            path = Path(self._find_needle("files", str(release["image"])))  # type: ignore[no-untyped-call]
            data = path.read_bytes()
        except (AnsibleError, OSError) as error:
            reason = getattr(error, "message", "") or str(error)
            raise CoreError(f"{name}: {reason.splitlines()[0]}; nothing was sent") from None
        image.verify(data, str(release["sha256"]), f"{name}: {path}")
        return {**release, "image": str(path), "content": data.decode("ascii", "replace")}


def _of_this_run() -> Path:
    """A directory that all processes of this run have, and nobody else."""
    return Path(constants.DEFAULT_LOCAL_TMP)  # type: ignore[attr-defined]


def _require_well_formed(option: str, kind: str, key: str, entries: Any, spec: Mapping[str, Mapping[str, Any]]) -> None:
    """CoreError with all that is wrong with the names of a list's entries; Ansible itself would not say with which.

    What is missing altogether is the module's to complain about.
    """
    if entries is None:
        return
    if not isinstance(entries, list):
        raise CoreError(f"{option} is {entries!r}, expected a list; nothing was sent")
    problems = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            problems.append(f"{kind} {number} of the list is {entry!r}, expected a mapping")
            continue
        name = f"{kind} {entry[key]}" if entry.get(key) else f"{kind} {number} of the list"
        problems += [f"{name}: unknown option {found}{_nearest(found, spec)}" for found in entry if found not in spec]
        required = [option for option, rule in spec.items() if rule.get("required")]
        problems += [f"{name}: {option} is missing" for option in required if entry.get(option) in (None, "")]
        problems += [
            f"{name}: {option} is {entry[option]!r}, expected a whole number"
            for option, rule in spec.items()
            if rule["type"] == "int" and entry.get(option) and not str(entry[option]).strip().isdecimal()
        ]
        problems += [
            f"{name}: {option} is {entry[option]!r}, expected a mapping"
            for option, rule in spec.items()
            if rule["type"] == "dict" and entry.get(option) and not isinstance(entry[option], Mapping)
        ]
    if problems:
        raise CoreError("; ".join(problems) + ". Correct the inventory; nothing was sent")


def _nearest(word: object, known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (there are {', '.join(known)})"


def controllers_of(gateway: str, variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The controllers of a gateway as the modules take them: complete with defaults, and without what is not said."""
    spec = {"controllers": {"type": "list", "elements": "dict", "required": True, "options": CONTROLLER}}
    validator = ArgumentSpecValidator(spec)  # type: ignore[no-untyped-call]
    checked = validator.validate({"controllers": variables.get("controllers")})  # type: ignore[no-untyped-call]
    if checked.error_messages:
        raise CoreError(
            f"gateway {gateway}: {'; '.join(checked.error_messages)}. Correct the inventory; nothing was begun"
        )
    return [
        {key: value for key, value in one.items() if value is not None}
        for one in checked.validated_parameters["controllers"]
    ]


def find_profiles(
    controllers: Iterable[Mapping[str, Any]],
    variables: Mapping[str, Any],
    basedir: str,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The profiles that controllers name, checked: those ``given``, others from beside inventories and playbook."""
    inventories = [variables.get("inventory_dir"), *variables.get("ansible_inventory_sources", [])]
    search = [Path(place) if Path(place).is_dir() else Path(place).parent for place in inventories if place]
    # Of an inventory that is a directory Ansible takes every file for a part, so that profiles lie beside it.
    search += [Path(place).parent for place in inventories if place and Path(place).is_dir()]
    search.append(Path(basedir))
    names = {str(entry.get("profile") or _DEFAULT_PROFILE) for entry in controllers}
    given = given or {}
    return {
        name: given[name] if name in given else load_profile(name, search, _of_this_run()) for name in sorted(names)
    }

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module firmware_repository, all of it: it works on the control node, where the keys are."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.firmware_repository import (
    EXPIRY,
    ROLES,
    Change,
    FirmwareRepository,
    FirmwareRepositoryError,
    Role,
    generate_key,
    load_public_key,
    load_signer,
    load_signer_uri,
)

_SIGNER: dict[str, dict[str, Any]] = {
    "uri": {"type": "str", "required": True},
    "public": {"type": "path", "required": True},
    "secret": {"type": "str", "no_log": True},
}
_ROLE: dict[str, dict[str, Any]] = {
    "keys": {"type": "list", "elements": "path", "required": True, "no_log": False},
    "threshold": {"type": "int", "default": 1},
}


class ActionModule(ControlNodeAction):
    """Works out a change of the repository, and writes it unless in check mode."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "directory": {"type": "path", "required": True},
        "action": {
            "type": "str",
            "choices": ["create", "publish", "sign", "revoke", "refresh", "rotate"],
            "required": True,
        },
        "keys": {"type": "list", "elements": "path", "default": [], "no_log": False},
        "passphrase": {"type": "str", "no_log": True},
        "signers": {"type": "list", "elements": "dict", "default": [], "options": _SIGNER},
        "generate_keys": {"type": "path", "no_log": False},
        "roles": {
            "type": "dict",
            "default": {},
            "options": {role: {"type": "dict", "options": _ROLE} for role in ROLES},
        },
        "expiry": {
            "type": "dict",
            "default": {},
            "options": {role: {"type": "int", "default": days} for role, days in EXPIRY.items()},
        },
        "product": {"type": "str", "default": "multi_sonicator_io"},
        "version": {"type": "str"},
        "image": {"type": "path"},
        "counter": {"type": "int"},
        "part": {"type": "str", "default": "m32"},
        "hardware_revisions": {"type": "list", "elements": "str", "default": []},
        "profile": {"type": "str", "default": "multi_sonicator_io"},
        "profile_min_version": {"type": "int", "default": 1},
        "profile_max_version": {"type": "int"},
        "fuses": {"type": "dict", "default": {}},
        "notes": {"type": "str", "default": ""},
    }
    RULES: ClassVar[dict[str, Any]] = {
        "required_if": [("action", "publish", ("version", "image")), ("action", "revoke", ("version",))]
    }
    REMEDY = "correct its permissions"

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """Work it out, and write it."""
        repository = FirmwareRepository(self._path(options["directory"]))
        with contextlib.nullcontext() if self._task.check_mode else repository.exclusive():
            change = self._change(repository, options)
            if not self._task.check_mode:
                change.apply()
        return {
            "changed": change.changed,
            "diff": {"before": change.before, "after": change.after},
            "repository": change.after,
            "waiting": change.waiting,
        }

    def _change(self, repository: FirmwareRepository, options: Mapping[str, Any]) -> Change:
        action = options["action"]
        if action == "create":
            return self._create(repository, options)
        if not repository.exists:
            raise FirmwareRepositoryError(f"{repository.directory}: no repository there; make one with action create")
        signers = self._signers(options)
        if action == "publish":
            return repository.publish(self._image(options["image"]), _manifest(options), signers)
        if action == "revoke":
            return repository.revoke(options["product"], options["version"], signers)
        if action == "rotate":
            return repository.rotate(self._roles(options), signers)
        return repository.sign(signers) if action == "sign" else repository.refresh(signers)

    def _create(self, repository: FirmwareRepository, options: Mapping[str, Any]) -> Change:
        if repository.exists:
            there = repository.describe()
            return Change(there, there)
        roles = self._roles(options)
        signers = self._signers(options)
        lacking = [role for role in ROLES if role not in roles]
        if lacking and not options["generate_keys"]:
            raise FirmwareRepositoryError(
                f"{repository.directory}: nobody signs for {', '.join(lacking)}; name roles, or give generate_keys"
            )
        with self._generated(options, lacking) as made:
            for role in lacking:
                signer = load_signer(made / f"{role}.pem", options["passphrase"])
                roles[role] = Role([signer.public_key])
                signers.append(signer)
            return repository.create(roles, options["expiry"], signers)

    @contextlib.contextmanager
    def _generated(self, options: Mapping[str, Any], roles: list[str]) -> Iterator[Path]:
        """The directory with a key for each of ``roles``; in check mode a place where they are forgotten."""
        with tempfile.TemporaryDirectory() as forgotten:
            directory = Path(forgotten) if self._task.check_mode else self._path(options["generate_keys"] or forgotten)
            for role in roles:
                if not (directory / f"{role}.pem").exists():
                    generate_key(directory / f"{role}.pem", options["passphrase"])
            yield directory

    def _signers(self, options: Mapping[str, Any]) -> list[Any]:
        files = [load_signer(self._path(key), options["passphrase"]) for key in options["keys"]]
        others = [load_signer_uri(one["uri"], self._path(one["public"]), one["secret"]) for one in options["signers"]]
        return [*files, *others]

    def _roles(self, options: Mapping[str, Any]) -> dict[str, Role]:
        return {
            name: Role([load_public_key(self._path(key)) for key in role["keys"]], role["threshold"])
            for name, role in options["roles"].items()
            if role
        }

    def _image(self, path: str) -> bytes:
        return self._path(path).read_bytes()


def _manifest(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is signed with the image."""
    told = ("product", "version", "counter", "part", "hardware_revisions", "fuses", "notes")
    profile = {
        "name": options["profile"],
        "min_version": options["profile_min_version"],
        "max_version": options["profile_max_version"],
    }
    return {**{name: options[name] for name in told}, "profile": profile}

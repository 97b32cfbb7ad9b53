# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed releases for tests: a publisher with throw-away keys, and the two who verify what he publishes."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.trust import ROOT, VERIFIER, Trust
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.firmware_repository import (
    ROLES,
    FirmwareRepository,
    Role,
    generate_key,
    load_public_key,
    load_signer,
)
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.firmware_source import fetch
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.verifier import build
from support.virtual import CACHE, firmware

PRODUCT = "multi_sonicator_io"
# What every manifest of a test says that is about something else.
MANIFEST: dict[str, Any] = {
    "product": PRODUCT,
    "part": "m32",
    "hardware_revisions": [],
    "profile": {"name": PRODUCT, "min_version": 1, "max_version": None},
    "fuses": {},
    "notes": "",
}


def path(version: str) -> str:
    return f"{PRODUCT}/{version}.hex"


def verifier() -> bytes:
    """The verifier of the gateways; its wheels are fetched once."""
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "wheels.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build(CACHE / "wheels")


class Publisher:
    """A repository below ``directory`` with one key for each role, or as many as ``keys`` says, signing all at once."""

    def __init__(
        self,
        directory: Path,
        keys: Mapping[str, int] | None = None,
        thresholds: Mapping[str, int] | None = None,
        expiry: Mapping[str, int] | None = None,
    ) -> None:
        self.keys = directory / "keys"
        self.repository = FirmwareRepository(directory / "repository")
        roles = {}
        for role in ROLES:
            names = [f"{role}_{number}" for number in range(1, (keys or {}).get(role, 1) + 1)]
            for name in names:
                self.new_key(name)
            roles[role] = self.role(*names, threshold=(thresholds or {}).get(role, 1))
        self.repository.create(roles, expiry or {}, self.signers()).apply()

    def new_key(self, name: str) -> None:
        generate_key(self.keys / f"{name}.pem")

    def role(self, *names: str, threshold: int = 1) -> Role:
        return Role([load_public_key(self.keys / f"{name}.pub") for name in names], threshold)

    def signers(self, *names: str) -> list[Any]:
        """Those with these names; all of them without."""
        paths = [self.keys / f"{name}.pem" for name in names] or sorted(self.keys.glob("*.pem"))
        return [load_signer(one) for one in paths]

    @property
    def root(self) -> Path:
        """The root of trust that he hands out."""
        return self.repository.directory / "metadata" / "1.root.json"

    def publish(self, version: str, image: Path | None = None, keys: Sequence[str] = (), **more: Any) -> None:
        data = (image or firmware(version)).read_bytes()
        change = self.repository.publish(data, {**MANIFEST, "version": version, **more}, self.signers(*keys))
        if change.waiting and not keys:
            raise AssertionError(change.waiting)
        change.apply()

    def copy(self, directory: Path) -> Path:
        """The repository as it is now, for somebody to do something to it."""
        shutil.copytree(self.repository.directory, directory)
        return directory


class ControlNode:
    """The verification on the control node."""

    def __init__(self, directory: Path, root: Path) -> None:
        self.root = directory / "control_root.json"
        self.cache = directory / "control_cache"
        self.root.write_bytes(root.read_bytes())

    def take(self, repository: Path, version: str) -> str:
        """The verified image of a release, or the error."""
        fetched = fetch(str(repository), self.root, self.cache, [path(version)])
        return fetched.files[fetched.releases[path(version)].file]


class GatewayNode:
    """The verification on a gateway, of everything that somebody carried there unseen."""

    def __init__(self, directory: Path, root: Path) -> None:
        place = directory / "gateway_trust"
        place.mkdir()
        (place / ROOT).write_bytes(root.read_bytes())
        (place / VERIFIER).write_bytes(verifier())
        self.trust = Trust(place, directory / "gateway_state", deadline=30)

    def take(self, repository: Path, version: str) -> str:
        return self.trust.verify(carry(repository, version), [path(version)]).images[path(version)]


def carry(repository: Path, *versions: str) -> dict[str, str]:
    """All metadata of a repository and the images of these versions, as who verifies nothing would send them."""
    images = [file for version in versions for file in repository.glob(f"targets/*/*.{version}.hex")]
    files = [*repository.glob("metadata/*.json"), *images]
    return {str(file.relative_to(repository)): file.read_text() for file in files}

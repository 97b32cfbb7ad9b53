# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each controller should run: a release by its version, or a kept set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import image, snapshot
from .change import Target
from .errors import CoreError
from .gateway import Controller, Gateway


def from_releases(gateway: Gateway, releases: Iterable[Mapping[str, Any]], version: str | None) -> dict[str, Target]:
    """A target for each controller: its own ``firmware_version``, or else ``version``.

    A release has version, image (its file's name), sha256 of that file, content (its text) and optionally part.
    InventoryError lists every controller whose release is unknown, damaged or for another part.
    """
    known = {str(release["version"]): release for release in releases}

    def target(controller: Controller) -> Target:
        wanted = controller.firmware_version or version
        if wanted is None:
            raise CoreError("no firmware version is wanted; give one for all, or firmware_version in the inventory")
        if wanted not in known:
            raise CoreError(f"there is no release {wanted} (there are {', '.join(sorted(known)) or 'none'})")
        return Target(wanted, _flash(controller, known[wanted]), version=wanted)

    return gateway.prepare(target)


def from_sets(gateway: Gateway, wanted: str) -> dict[str, Target]:
    """A target for each controller from its own set ``wanted``: an id, ``latest`` or ``previous``."""

    def target(controller: Controller) -> Target:
        chosen = snapshot.find(gateway.store, controller.name, wanted)
        images = chosen["images"]
        if not images:
            raise CoreError(f"set {chosen['id']} holds no image, since its chip was never read; choose another")
        for name, value in chosen["settings"].items():
            controller.profile.point(name).encode(value)
        return Target(
            f"set {chosen['id']}",
            gateway.store.get(images["flash"]),
            version=chosen["version"],
            eeprom=gateway.store.get(images["eeprom"]),
            settings=chosen["settings"],
            set=chosen["id"],
        )

    return gateway.prepare(target)


def _flash(controller: Controller, release: Mapping[str, Any]) -> bytes:
    part = controller.profile.part
    if part is None:
        raise CoreError(f"profile {controller.profile.name} describes no part, so nothing can be flashed")
    if release.get("part") not in (None, part.avrdude):
        raise CoreError(
            f"release {release['version']} is for part {release['part']}, the controller has {part.avrdude}"
        )
    name = f"release {release['version']}: {release['image']}"
    text = str(release.get("content") or "")
    image.verify(text.encode("ascii", "replace"), str(release["sha256"]), name)
    return image.parse_hex(text, name, part.flash)

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each controller should run: a signed release, an unsigned one, or a kept set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import image, snapshot
from .change import Target
from .errors import CoreError
from .gateway import Controller, Gateway
from .profile import Part
from .release import Release, path_of
from .trust import Trust, TrustError, Verified


def from_repository(
    gateway: Gateway,
    trust: Trust,
    files: Mapping[str, str],
    product: str,
    version: str | None,
    allow_downgrade: bool,
    check: bool,
) -> dict[str, Target]:
    """A target for each controller: the release of its own ``firmware_version``, or else of ``version``.

    ``files`` is what a firmware repository offers, by name; the gateway verifies it itself. Raises TrustError where
    it does not hold, and InventoryError with every controller that its release is not for.
    """
    wanted = gateway.prepare(lambda controller: path_of(product, _wanted(controller, version)))
    verified = trust.verify(files, wanted.values(), check)

    def target(controller: Controller) -> Target:
        release = verified.releases[wanted[controller.name]]
        part = _part(controller)
        profile = controller.profile
        release.require_fit(profile.name, profile.profile_version, part, controller.hardware_revision)
        flash = _signed_flash(release, verified, part)
        if not allow_downgrade:
            _require_no_downgrade(gateway, trust, controller, release)
        return Target(release.version, flash, version=release.version, fuses=release.fuses)

    targets = gateway.prepare(target)
    if not check:
        counters = {
            target.digest: verified.releases[wanted[name]].counter for name, target in targets.items() if target.digest
        }
        trust.remember(product, counters)
    return targets


def from_releases(
    gateway: Gateway, releases: Iterable[Mapping[str, Any]], version: str | None, allow_unsigned: bool
) -> dict[str, Target]:
    """A target for each controller as above, from images that nobody has signed; TrustError unless they are allowed.

    A release has version, image (its file's name), sha256 of that file, content (its text) and optionally part.
    InventoryError lists every controller whose release is unknown, damaged or for another part.
    """
    if not allow_unsigned:
        raise TrustError(
            "a release without a signature is refused; name the site's firmware repository (repository and "
            "trusted_root), or set allow_unsigned where a forged image does no harm. Nothing was sent"
        )
    known = {str(release["version"]): release for release in releases}

    def target(controller: Controller) -> Target:
        wanted = _wanted(controller, version)
        if wanted not in known:
            raise CoreError(f"there is no release {wanted} (there are {', '.join(sorted(known)) or 'none'})")
        return Target(wanted, _flash(controller, known[wanted]), version=wanted, signed=False)

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
            fuses=images["fuses"],
        )

    return gateway.prepare(target)


def _wanted(controller: Controller, version: str | None) -> str:
    wanted = controller.firmware_version or version
    if wanted is None:
        raise CoreError("no firmware version is wanted; give one for all, or firmware_version in the inventory")
    return wanted


def _part(controller: Controller) -> Part:
    part = controller.profile.part
    if part is None:
        raise CoreError(f"profile {controller.profile.name} describes no part, so nothing can be flashed")
    return part


def _require_no_downgrade(gateway: Gateway, trust: Trust, controller: Controller, release: Release) -> None:
    """CoreError where the controller has a release with a higher counter, as far as this gateway deployed it."""
    record = gateway.store.record(controller.name)
    steps = gateway.store.journal(controller.name).steps
    # While the chip is being written its record tells nothing, and the transaction what was there before.
    digest = (
        steps[0]["before"]["digest"] if record.get("writing") and steps else (record.get("images") or {}).get("flash")
    )
    counter = trust.counter(release.product, digest)
    if counter is not None and release.counter < counter:
        raise CoreError(
            f"downgrade: release {release.path} has the counter {release.counter}, that deployed last has {counter}; "
            "set allow_downgrade if you mean it"
        )


def _signed_flash(release: Release, verified: Verified, part: Part) -> bytes:
    text = verified.images[release.path]
    image.verify(text.encode(), release.sha256, f"release {release.path}")
    return image.parse_hex(text, f"release {release.path}", part.flash)


def _flash(controller: Controller, release: Mapping[str, Any]) -> bytes:
    part = _part(controller)
    if release.get("part") not in (None, part.avrdude):
        raise CoreError(
            f"release {release['version']} is for part {release['part']}, the controller has {part.avrdude}"
        )
    name = f"release {release['version']}: {release['image']}"
    text = str(release.get("content") or "")
    image.verify(text.encode("ascii", "replace"), str(release["sha256"]), name)
    return image.parse_hex(text, name, part.flash)

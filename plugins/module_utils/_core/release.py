# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a firmware release: what a signature stands for, and which controllers it admits. Pure.

A firmware repository signs one manifest with each image, both under the path ``PRODUCT/VERSION.hex``::

    schema: 1
    product: multi_sonicator_io
    version: 1.1.0                  # as the firmware itself tells it
    counter: 2                      # rises with each release of the product and is never used again
    part: m32                       # avrdude's name
    hardware_revisions: [B, C]      # of the board; any when empty
    profile: {name: multi_sonicator_io, min_version: 1, max_version: null}
    sha256: ...                     # of the image file
    fuses: {hfuse: "0xD1"}          # that the chip has to have; those that the profile accepts when empty
    notes: Ramps the amplitude.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import CoreError
from .profile import Part

_PRODUCT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FUSE = re.compile(r"0x[0-9A-F]{2}")
_KEYS = ("schema", "product", "version", "counter", "part", "hardware_revisions", "profile", "sha256", "fuses", "notes")
_PROFILE_KEYS = ("name", "min_version", "max_version")


class ReleaseError(CoreError):
    """A manifest that contradicts itself, or a release that is not for this controller."""


def path_of(product: str, version: str) -> str:
    """Where a repository has the release."""
    return f"{product}/{version}.hex"


@dataclass(frozen=True)
class Release:
    """A release as its manifest describes it. ``profile_versions``: lowest and highest admitted, None for any later."""

    product: str
    version: str
    counter: int
    part: str
    hardware_revisions: tuple[str, ...]
    profile: str
    profile_versions: tuple[int, int | None]
    sha256: str
    fuses: Mapping[str, int]
    notes: str

    @property
    def path(self) -> str:
        return path_of(self.product, self.version)

    @property
    def file(self) -> str:
        """The image's file in a repository. The digest before its name keeps two contents from sharing one."""
        return f"targets/{self.product}/{self.sha256}.{self.version}.hex"

    @classmethod
    def from_manifest(cls, path: str, manifest: Any) -> Release:
        """The release that ``manifest`` describes, which a repository has under ``path``; ReleaseError lists faults."""
        problems = list(_problems(path, manifest))
        if problems:
            raise ReleaseError(f"release {path}: {'; '.join(problems)}; publish it again with a correct manifest")
        profile = manifest["profile"]
        return cls(
            product=manifest["product"],
            version=manifest["version"],
            counter=manifest["counter"],
            part=manifest["part"],
            hardware_revisions=tuple(manifest["hardware_revisions"]),
            profile=profile["name"],
            profile_versions=(profile["min_version"], profile["max_version"]),
            sha256=manifest["sha256"],
            fuses={name: int(value, 16) for name, value in manifest["fuses"].items()},
            notes=manifest["notes"],
        )

    def manifest(self) -> dict[str, Any]:
        """The mapping that is signed."""
        lowest, highest = self.profile_versions
        return {
            "schema": 1,
            "product": self.product,
            "version": self.version,
            "counter": self.counter,
            "part": self.part,
            "hardware_revisions": list(self.hardware_revisions),
            "profile": {"name": self.profile, "min_version": lowest, "max_version": highest},
            "sha256": self.sha256,
            "fuses": {name: f"0x{value:02X}" for name, value in self.fuses.items()},
            "notes": self.notes,
        }

    def require_fit(self, profile: str, profile_version: int, part: Part, hardware_revision: str | None) -> None:
        """ReleaseError unless the release is for a controller with this profile, part and board."""
        reasons = list(self._misfits(profile, profile_version, part, hardware_revision))
        if reasons:
            raise ReleaseError(
                f"wrong target: release {self.path} {'; '.join(reasons)}; choose another or correct the inventory"
            )

    def _misfits(self, profile: str, profile_version: int, part: Part, hardware_revision: str | None) -> Iterator[str]:
        if self.part != part.avrdude:
            yield f"is for part {self.part}, the controller has {part.avrdude}"
        if self.profile != profile:
            yield f"speaks profile {self.profile}, the controller is described by {profile}"
        else:
            lowest, highest = self.profile_versions
            if profile_version < lowest or (highest is not None and profile_version > highest):
                until = "on" if highest is None else f"to {highest}"
                yield f"speaks profile {profile} from version {lowest} {until}, ours has version {profile_version}"
        if self.hardware_revisions and hardware_revision not in self.hardware_revisions:
            yield (
                f"is for hardware revision {', '.join(self.hardware_revisions)}, the inventory's hardware_revision of "
                f"the controller is {hardware_revision or 'not given'}"
            )
        for name, value in self.fuses.items():
            fuse = part.fuses.get(name)
            if fuse is None or value not in fuse.accepted:
                yield f"wants fuse {name} 0x{value:02X}, which the profile does not accept"


def _problems(path: str, manifest: Any) -> Iterator[str]:
    """Everything that keeps ``manifest`` from being one."""
    if not isinstance(manifest, dict):
        yield "carries no manifest"
        return
    if manifest.get("schema") != 1:
        yield f"has a manifest of schema {manifest.get('schema')}, this collection knows 1"
        return
    odd = [f"{key} is missing" for key in _KEYS if key not in manifest]
    odd += [f"{key} is unknown" for key in manifest if key not in _KEYS]
    if odd:
        yield from odd
        return
    for key, pattern in (("product", _PRODUCT), ("version", _VERSION), ("sha256", _SHA256)):
        if not isinstance(manifest[key], str) or not pattern.fullmatch(manifest[key]):
            yield f"{key} {manifest[key]!r} does not fit {pattern.pattern}"
    for key in ("part", "notes"):
        if not isinstance(manifest[key], str):
            yield f"{key} is {manifest[key]!r}, expected text"
    if not _whole(manifest["counter"]):
        yield f"counter is {manifest['counter']!r}, expected a whole number from 1 on"
    revisions = manifest["hardware_revisions"]
    if not isinstance(revisions, list) or not all(isinstance(one, str) and one for one in revisions):
        yield f"hardware_revisions is {revisions!r}, expected a list of names"
    fuses = manifest["fuses"]
    if not isinstance(fuses, dict) or not all(isinstance(one, str) and _FUSE.fullmatch(one) for one in fuses.values()):
        yield f"fuses is {fuses!r}, expected values such as 0xD1 by the fuses' names"
    yield from _profile_problems(manifest["profile"])
    if path_of(str(manifest["product"]), str(manifest["version"])) != path:
        yield f"its manifest is that of {manifest['product']} {manifest['version']}"


def _profile_problems(profile: Any) -> Iterator[str]:
    if not isinstance(profile, dict) or sorted(profile) != sorted(_PROFILE_KEYS):
        yield f"profile is {profile!r}, expected {', '.join(_PROFILE_KEYS)}"
        return
    lowest, highest = profile["min_version"], profile["max_version"]
    if not isinstance(profile["name"], str) or not profile["name"]:
        yield f"profile.name is {profile['name']!r}, expected the name of a device profile"
    if not _whole(lowest) or not (highest is None or (_whole(highest) and highest >= lowest)):
        yield f"the range of the profile's versions is {lowest!r} to {highest!r}"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this gateway trusts: releases that it has verified itself against the root it was provisioned with.

::

    <trust directory>/root.json       the root of trust, put there by trust.yml
    <trust directory>/verifier.pyz    The Update Framework's client in one file, since Debian has no package of it
    <state directory>/trust/metadata/  what was verified last, so that nothing older is taken again
    <state directory>/trust/known.json counters of the releases verified here, by product and digest of the flash
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CoreError
from .release import Release
from .store import write_atomically

ROOT = "root.json"
VERIFIER = "verifier.pyz"
# What the verifier reads has a limited size, so that this ends only what hangs: a weak gateway may be busy.
_DEADLINE = 180.0


class TrustError(CoreError):
    """A release that this gateway does not trust, or no root of trust to judge it by. Nothing was sent."""


@dataclass(frozen=True)
class Verified:
    """What a repository offers and this gateway has verified.

    ``images`` are texts (Intel HEX) of the releases wanted, by path. ``expires`` is the time (ISO 8601, UTC) at which
    all of it ends to be valid.
    """

    releases: Mapping[str, Release]
    images: Mapping[str, str]
    expires: str


class Trust:
    """The root of trust in ``directory``, and what has been verified with it, kept below ``state_directory``."""

    def __init__(self, directory: str | Path, state_directory: str | Path, deadline: float = _DEADLINE) -> None:
        self.directory = Path(directory)
        self.state = Path(state_directory) / "trust"
        self.deadline = deadline

    def verify(self, files: Mapping[str, str], wanted: Collection[str], check: bool = False) -> Verified:
        """The releases ``wanted`` (paths) out of ``files``, a repository's metadata and images by their names.

        With ``check`` nothing is kept. Raises TrustError, whose message names the attack that it would be.
        """
        self._require_provisioned()
        with self._cache(check) as cache:
            answer = self._run(cache, files, wanted)
        releases = {path: Release.from_manifest(path, manifest) for path, manifest in answer["manifests"].items()}
        asked = {releases[path].file for path in answer["images"]}
        unasked = {name for name in files if name.startswith("targets/")} - asked
        if unasked:
            raise TrustError(
                f"extraneous dependencies: {', '.join(sorted(unasked))} came along and no controller wants it; "
                "nothing was sent"
            )
        return Verified(releases, answer["images"], answer["expires"])

    def _require_provisioned(self) -> None:
        for name in (ROOT, VERIFIER):
            path = self.directory / name
            try:
                mode = path.stat().st_mode
            except FileNotFoundError:
                raise TrustError(
                    f"{path}: not there, so this gateway cannot tell a release from a forgery; provision it with the "
                    "playbook multi_sonicator.ops.trust (-e firmware_trust_root=...). Nothing was sent"
                ) from None
            if mode & 0o002:
                raise TrustError(
                    f"{path}: everybody may write it (mode {mode & 0o7777:04o}), expected only its owner; "
                    "see who did, and provision it again with the playbook multi_sonicator.ops.trust"
                )

    @contextlib.contextmanager
    def _cache(self, check: bool) -> Iterator[Path]:
        """The directory of what was verified before, one run at a time; with ``check`` a copy of it."""
        metadata = self.state / "metadata"
        if check:
            with tempfile.TemporaryDirectory() as directory:
                copy = Path(directory) / "metadata"
                if metadata.is_dir():
                    shutil.copytree(metadata, copy, symlinks=True)
                yield copy
            return
        metadata.mkdir(parents=True, exist_ok=True)
        with open(self.state / "lock", "w", encoding="ascii") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield metadata

    def _run(self, cache: Path, files: Mapping[str, str], wanted: Collection[str]) -> dict[str, Any]:
        request = {
            "root": str(self.directory / ROOT),
            "cache": str(cache),
            "files": dict(files),
            "wanted": sorted(set(wanted)),
        }
        # Isolated from the user's and the system's packages: the libraries are those that came in the file.
        command = [sys.executable, "-I", "-S", str(self.directory / VERIFIER)]
        try:
            ended = subprocess.run(  # pylint: disable=ansible-bad-function  # the core knows no AnsibleModule
                command,
                input=json.dumps(request),
                capture_output=True,
                text=True,
                timeout=self.deadline,
                check=False,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired:
            raise TrustError(
                f"slow retrieval: {command[-1]} was not done after {self.deadline:g} s and was ended; "
                "see what keeps this gateway busy, then run again. Nothing was sent"
            ) from None
        try:
            answer: dict[str, Any] = json.loads(ended.stdout)
        except ValueError:
            last = ended.stderr.strip().splitlines()[-1:] or ["no message"]
            raise TrustError(
                f"{command[-1]}: ended with code {ended.returncode} and no answer ({last[0]}); "
                "provision it again with the playbook multi_sonicator.ops.trust. Nothing was sent"
            ) from None
        if "untrusted" in answer:
            raise TrustError(f"{answer['untrusted']}. Nothing was sent")
        return answer

    # Which releases the digests of flashes on this gateway's controllers stand for

    def remember(self, product: str, counters: Mapping[str, int]) -> None:
        """Keep the release counters of ``product`` by digest of the flash, before any of them is written to a chip."""
        known = self._known()
        merged = {**known.get(product, {}), **counters}
        if merged != known.get(product):
            write_atomically(self.state / "known.json", json.dumps({**known, product: merged}).encode())

    def counter(self, product: str, digest: str | None) -> int | None:
        """The release counter of the flash with this digest; None where it is no release that was verified here."""
        found: int | None = self._known().get(product, {}).get(digest or "")
        return found

    def _known(self) -> dict[str, dict[str, Any]]:
        path = self.state / "known.json"
        try:
            known: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise TrustError(f"{path}: damaged; restore the state directory from its backup") from None
        return known

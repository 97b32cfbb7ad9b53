# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one verification of a firmware repository, by the whole client workflow of The Update Framework.

The control node imports this module; the verifier of the gateways (see ``verifier``) is this same file with the
libraries it needs, reading what it is offered from its standard input. It therefore imports nothing of the collection.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any

try:
    from tuf.api import exceptions
    from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp
    from tuf.ngclient import Updater, UpdaterConfig
    from tuf.ngclient.fetcher import FetcherInterface
except ImportError as error:
    TUF_MISSING: ImportError | None = error
    FetcherInterface = object  # type: ignore[misc, assignment]
else:
    TUF_MISSING = None

# What the publisher says in the targets metadata beyond the specification.
BOOKKEEPING = "x-multi-sonicator"
_PATH = re.compile(r"[a-z0-9][a-z0-9_.-]*/[0-9A-Za-z][0-9A-Za-z.+-]*\.hex")
_LARGEST_METADATA = 2_000_000


class Untrusted(Exception):
    """What a repository offers and nobody may use. The message begins with the attack that it would be."""


class Offered(FetcherInterface):
    """Files that were carried here, by their names in the repository (``metadata/timestamp.json``)."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        if url not in self._files:
            raise exceptions.DownloadHTTPError(f"{url} was not offered", 404)
        return iter([self._files[url].encode()])


def verify(
    fetcher: FetcherInterface, root: bytes, cache: str, wanted: Collection[str] | None, base: str = ""
) -> dict[str, Any]:
    """Verify a repository and the images of the releases ``wanted`` (paths such as ``product/1.1.0.hex``; None: all).

    ``root`` is the root metadata that is trusted from the start, ``cache`` the directory that holds what was verified
    before, which protects against being shown something older. Returns ``manifests`` and ``revoked`` (by path),
    ``images`` (texts of those wanted, by path) and ``expires`` (ISO 8601, UTC: when all of it ends to be valid).
    Raises Untrusted.
    """
    os.makedirs(cache, exist_ok=True)
    config = UpdaterConfig(
        root_max_length=_LARGEST_METADATA,
        snapshot_max_length=_LARGEST_METADATA,
        targets_max_length=_LARGEST_METADATA,
    )
    try:
        updater = Updater(
            cache, f"{base}metadata/", None, f"{base}targets/", fetcher=fetcher, config=config, bootstrap=root
        )
        updater.refresh()
        targets = Metadata[Targets].from_file(os.path.join(cache, "targets.json")).signed
        snapshot = Metadata[Snapshot].from_file(os.path.join(cache, "snapshot.json")).signed
        timestamp = Metadata[Timestamp].from_file(os.path.join(cache, "timestamp.json")).signed
    except (exceptions.RepositoryError, exceptions.DownloadError, ValueError) as problem:
        raise Untrusted(_in_words(problem)) from problem
    _require_releases_only(targets, snapshot)
    bookkeeping = targets.unrecognized_fields.get(BOOKKEEPING, {})
    revoked = bookkeeping.get("revoked", {})
    return {
        "manifests": {path: target.custom for path, target in targets.targets.items()},
        "revoked": revoked,
        "images": {
            path: _image(updater, path, targets, revoked) for path in (targets.targets if wanted is None else wanted)
        },
        "expires": min(one.expires for one in (targets, snapshot, timestamp)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _require_releases_only(targets: Targets, snapshot: Snapshot) -> None:
    """A repository of ours has releases and nothing else; whatever else it has could only be there to be pulled in."""
    extra = [f"delegation {name}" for name in (targets.delegations.roles or {} if targets.delegations else {})]
    if targets.delegations and targets.delegations.succinct_roles:
        extra.append("succinct delegations")
    extra += [f"metadata {name}" for name in snapshot.meta if name != "targets.json"]
    extra += [f"target {path}" for path, one in targets.targets.items() if not _PATH.fullmatch(path) or not one.custom]
    if extra:
        raise Untrusted(
            f"extraneous dependencies: the repository has {', '.join(extra)}, expected nothing but releases; "
            "have whoever signs it publish it again"
        )


def _image(updater: Updater, path: str, targets: Targets, revoked: Mapping[str, str]) -> str:
    target = updater.get_targetinfo(path)
    if target is None:
        known = ", ".join(sorted(targets.targets)) or "none"
        if path in revoked:
            raise Untrusted(f"revoked release: {path} was withdrawn at {revoked[path]} (there are {known})")
        raise Untrusted(f"wrong target: the repository has no release {path} (there are {known})")
    with tempfile.TemporaryDirectory() as directory:
        try:
            file = updater.download_target(target, os.path.join(directory, "image.hex"))
        except exceptions.LengthOrHashMismatchError as problem:
            raise Untrusted(f"arbitrary software: the image of {path} is not the signed one ({problem})") from problem
        except (exceptions.RepositoryError, exceptions.DownloadError) as problem:
            raise Untrusted(f"{_in_words(problem)} (image of {path})") from problem
        with open(file, encoding="utf-8", newline="") as stream:
            return stream.read()


def _in_words(problem: Exception) -> str:
    """The attack that ``problem`` would be, what was found, and the remedy."""
    text = str(problem) or type(problem).__name__
    if problem.__cause__ is not None and not isinstance(problem, exceptions.RepositoryError):
        text += f": {problem.__cause__}"
    if isinstance(problem, exceptions.ExpiredMetadataError):
        return (
            f"indefinite freeze: {text}; refresh the repository (action refresh) or fetch a newer bundle, "
            "and see that the clock here is right"
        )
    if isinstance(problem, exceptions.UnsignedMetadataError):
        return (
            f"arbitrary software, or compromised keys below the threshold: {text}; "
            "trust another root only if its holder confirms it"
        )
    if isinstance(problem, exceptions.BadVersionNumberError):
        # One set of metadata that contradicts itself, or one that is older than what was seen before.
        mixed = text.startswith(("Expected snapshot version", "Expected targets v"))
        attack = "mix-and-match" if mixed else "rollback"
        return f"{attack}: {text}; take the repository's newest state, all of it at once"
    if isinstance(problem, exceptions.LengthOrHashMismatchError):
        return f"mix-and-match: {text}; take the repository's newest state, all of it at once"
    if isinstance(problem, exceptions.DownloadLengthMismatchError):
        return f"endless data: {text}; the file is longer than it may be, fetch the repository again"
    if isinstance(problem, exceptions.SlowRetrievalError):
        return f"slow retrieval: {text}; it took longer than it may, try again or use another mirror"
    if "missing info" in text:
        return f"rollback: {text}; take the repository's newest state"
    return f"unusable repository: {text}"


def main() -> int:
    """Verify what standard input offers (``root`` and ``cache`` as paths, ``files``, ``wanted``), print the result."""
    request = json.load(sys.stdin)
    try:
        with open(request["root"], "rb") as stream:
            root = stream.read()
        answer = verify(Offered(request["files"]), root, request["cache"], request["wanted"])
    except Untrusted as problem:
        answer = {"untrusted": str(problem)}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetching: releases from a firmware repository, verified here, with all that a gateway needs to verify them again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.release import Release
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.exclusive import exclusive
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.firmware_repository import require_libraries
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.release_trust import Untrusted, verify

try:
    import urllib3
    from tuf.api import exceptions
    from tuf.ngclient.fetcher import FetcherInterface
    from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher
except ImportError:  # told by require_libraries
    FetcherInterface = Urllib3Fetcher = object  # type: ignore[misc, assignment]

_CHUNK = 0x10000
_SOCKET_TIMEOUT = 10
_LARGEST_ROOT = 512_000


class SourceError(CoreError):
    """A repository that cannot be reached, or offers what nobody may use; the message names the attack."""


@dataclass(frozen=True)
class Fetched:
    """Verified releases. ``files``: metadata and the images wanted, texts by their names in the repository.

    ``expires``: when all of it ends to be valid (ISO 8601, UTC).
    """

    releases: dict[str, Release]
    files: dict[str, str]
    expires: str


class _Directory(FetcherInterface):
    """Files below a directory; anything but a regular file could be read for ever."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(url)
        if not path.exists():
            raise exceptions.DownloadHTTPError(f"{path} is not there", 404)
        if not path.is_file():
            raise exceptions.DownloadError(f"{path} is not a regular file")
        return self._chunks(path)

    @staticmethod
    def _chunks(path: Path) -> Iterator[bytes]:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk


class _Web(Urllib3Fetcher):
    """A server, which gets so many seconds for everything together, however slowly it drips."""

    def __init__(self, deadline: float) -> None:
        super().__init__(socket_timeout=min(_SOCKET_TIMEOUT, max(1, int(deadline))))
        self._deadline = deadline
        self._until = time.monotonic() + deadline

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            return super()._fetch(url)
        except exceptions.SlowRetrievalError as error:
            reason = getattr(error.__cause__, "reason", None)
            if isinstance(reason, urllib3.exceptions.NewConnectionError):
                raise exceptions.DownloadError(f"{url} cannot be reached: {reason}") from None
            raise

    def _chunks(self, response: urllib3.response.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := response.read1(_CHUNK):
                if time.monotonic() > self._until:
                    raise exceptions.SlowRetrievalError(f"not done after {self._deadline:g} s")
                yield chunk
        except urllib3.exceptions.TimeoutError as error:
            raise exceptions.SlowRetrievalError(f"silent for {self.socket_timeout} s") from error
        finally:
            response.release_conn()


def fetch(
    location: str, trusted_root: Path, cache_directory: Path, wanted: Collection[str] | None, deadline: float = 120.0
) -> Fetched:
    """The releases ``wanted`` (paths such as ``product/1.1.0.hex``; None: all) of the repository at ``location``.

    ``location`` is a directory or an https URL, ``trusted_root`` the file of the root metadata to trust from the
    start. Below ``cache_directory`` lies what was verified before, by root, so that no copy of the repository can
    show an older state. ``deadline`` is in seconds, for a server. Raises SourceError.
    """
    require_libraries()
    try:
        root = trusted_root.expanduser().read_bytes()
    except OSError as error:
        raise SourceError(
            f"{trusted_root}: the root of trust cannot be read ({error.strerror}); give the root.json that the "
            "publisher of the repository handed out as trusted_root"
        ) from None
    base, fetcher = _reached(location, deadline)
    cache = cache_directory.expanduser() / hashlib.sha256(root).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache):  # several hosts are worked on at a time, and it is one reader's
        try:
            answer = verify(
                fetcher, root, str(cache / "metadata"), None if wanted is None else sorted(set(wanted)), base
            )
            releases = {path: Release.from_manifest(path, found) for path, found in answer["manifests"].items()}
            files = _metadata(fetcher, base, cache / "metadata")
        except Untrusted as problem:
            raise SourceError(f"repository {location}: {problem}. Nothing was sent") from None
        except OSError as error:
            raise SourceError(f"{error.filename or cache}: {error.strerror}; choose another repository_cache") from None
    files |= {releases[path].file: image for path, image in answer["images"].items()}
    return Fetched(releases, files, answer["expires"])


def _reached(location: str, deadline: float) -> tuple[str, Any]:
    if location.startswith("https://"):
        return f"{location.rstrip('/')}/", _Web(deadline)
    if "://" in location:
        raise SourceError(f"repository {location}: expected a directory or an https URL")
    directory = Path(location).expanduser()
    if not (directory / "metadata").is_dir():
        raise SourceError(f"repository {location}: no firmware repository there, it has no directory metadata")
    return f"{directory}/", _Directory()


def _metadata(fetcher: Any, base: str, cache: Path) -> dict[str, str]:
    """What a gateway needs to come to the same result from any root it may have been provisioned with."""
    files = {"metadata/timestamp.json": (cache / "timestamp.json").read_text(encoding="utf-8")}
    for role in ("snapshot", "targets", "root"):
        text = (cache / f"{role}.json").read_text(encoding="utf-8")
        files[f"metadata/{json.loads(text)['signed']['version']}.{role}.json"] = text
    newest = json.loads((cache / "root.json").read_bytes())["signed"]["version"]
    for version in range(1, newest):
        name = f"metadata/{version}.root.json"
        known = cache / "root_history" / f"{version}.root.json"
        if known.exists():
            files[name] = known.read_text(encoding="utf-8")
            continue
        # Older than what is trusted here; a gateway that needs it judges it itself.
        with contextlib.suppress(exceptions.DownloadError, UnicodeDecodeError):
            files[name] = fetcher.download_bytes(f"{base}{name}", _LARGEST_ROOT).decode()
    return files

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup set: a directory with all that a gateway and its controllers consist of, and a manifest that vouches for it.

::

    manifest.json                           see Manifest
    controllers/<name>/set.yml              what _core.snapshot says of the controller
    controllers/<name>/record.yml           what was last read back from its chip, absent before the first time
    controllers/<name>/history/<id>.jsonl   its ended transactions
    objects/<sha256>                        flash and EEPROM that its sets refer to
    gateway/...                             what was asked of the gateway: facts, packages, services, events
    files/...                               files of the gateway by their path

The id of a set holds the digest of its manifest, and that has the digest of every other file. What stores a set keeps
the id beside it, so that a set which is altered, incomplete, mixed from several or in another one's place is told from
a whole one before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import CoreError
from .store import write_atomically

MANIFEST = "manifest.json"
_SCHEMA = 1
_DIGITS = 16
_MOST_PROBLEMS = 10
_CHUNK = 0x100000


class BackupError(CoreError):
    """A set that is not what it should be, or that could not be taken, kept or fetched."""


@dataclass(frozen=True)
class File:
    """A file of a set: digest of its content (64 hex digits), size in bytes, permissions (0o600), and whose it was."""

    sha256: str
    size: int
    mode: int
    owner: str = "root"
    group: str = "root"

    @property
    def owners(self) -> tuple[str, str]:
        """Account and group."""
        return self.owner, self.group


_ROOT = ("root", "root")


@dataclass(frozen=True)
class Manifest:
    """What a set consists of.

    ``taken``: when, in UTC (ISO 8601). ``controllers``: by name what identifies each (line, unit, profile, version,
    signature, and the digests of its images) and what was wrong when it was asked. ``files``: by path in the set.
    """

    gateway: str
    taken: str
    controllers: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, File]

    @property
    def id(self) -> str:
        """Time and digest of the content."""
        digest = hashlib.sha256(json.dumps(self._body(), sort_keys=True).encode()).hexdigest()
        return f"{self.taken.replace('-', '').replace(':', '')}-{digest[:_DIGITS]}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def dump(self) -> bytes:
        """The content of ``manifest.json``."""
        return json.dumps({"id": self.id, **self._body()}, indent=1, sort_keys=True).encode() + b"\n"

    def _body(self) -> dict[str, Any]:
        files = {path: [file.sha256, file.size, f"{file.mode:04o}"] for path, file in self.files.items()}
        owners = {path: [file.owner, file.group] for path, file in self.files.items() if file.owners != _ROOT}
        return {
            "schema": _SCHEMA,
            "gateway": self.gateway,
            "taken": self.taken,
            "controllers": {name: dict(one) for name, one in self.controllers.items()},
            "files": files,
            # Sets from before owners were kept have none, and stay what they were.
            **({"owners": owners} if owners else {}),
        }


def seal(
    directory: Path,
    gateway: str,
    taken: str,
    controllers: Mapping[str, Mapping[str, Any]],
    owners: Mapping[str, tuple[str, str]] | None = None,
) -> Manifest:
    """Write the manifest of what lies in ``directory``; nothing may change there afterwards.

    ``owners``: whose files were, account and group by path in the set, where that was not root.
    """
    files = {path: _described(directory / path) for path in _paths(directory) if path != MANIFEST}
    for path, (owner, group) in (owners or {}).items():
        files[path] = replace(files[path], owner=owner, group=group)
    manifest = Manifest(gateway, taken, controllers, files)
    write_atomically(directory / MANIFEST, manifest.dump())
    return manifest


def verified(directory: Path, wanted: str | None = None) -> Manifest:
    """The manifest of the set in ``directory``, every file of which is what it was.

    With ``wanted`` it has to be the set of that id. BackupError tells what is wrong, before anybody uses anything.
    """
    manifest = read_manifest(directory)
    if wanted is not None and manifest.id != wanted:
        raise BackupError(f"{directory}: this is set {manifest.id}, not {wanted}; {_NOTHING}")
    there = set(_paths(directory)) - {MANIFEST}
    problems = [f"{path} is missing" for path in sorted(manifest.files.keys() - there)]
    problems += [f"{path} does not belong to it" for path in sorted(there - manifest.files.keys())]
    for path in sorted(manifest.files.keys() & there):
        kept, found = manifest.files[path], _described(directory / path)
        if (found.sha256, found.size) != (kept.sha256, kept.size):
            problems.append(f"{path} has sha256 {found.sha256}, it should have {kept.sha256}")
    if problems:
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise BackupError(
            f"set {manifest.id} in {directory} is damaged: {'; '.join(problems[:_MOST_PROBLEMS])}{more}; {_NOTHING}"
        )
    return manifest


_NOTHING = "nothing was restored; take another set, or another target's copy of this one"


def read_manifest(directory: Path) -> Manifest:
    """The manifest in ``directory``; BackupError where there is none, or it is not what its id says."""
    path = directory / MANIFEST
    try:
        _described(path)
        data = json.loads(path.read_bytes())
        manifest = Manifest(
            data["gateway"],
            data["taken"],
            data["controllers"],
            {
                name: File(sha256, size, int(mode, 8), *data.get("owners", {}).get(name, _ROOT))
                for name, (sha256, size, mode) in data["files"].items()
            },
        )
        intact = data["schema"] == _SCHEMA and manifest.dump() == path.read_bytes()
        outside = [name for name in manifest.files if name.startswith("/") or ".." in Path(name).parts]
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}; {_NOTHING}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupError(f"{path}: damaged ({error!r}); {_NOTHING}") from None
    if not intact or outside:
        raise BackupError(f"{path}: damaged, its content is not that of {data['id']}; {_NOTHING}")
    return manifest


def _paths(directory: Path) -> Iterator[str]:
    """Every file below ``directory``, by its path in it; what is neither file nor directory counts as a file."""
    for place, directories, names in os.walk(directory):
        links = [name for name in directories if (Path(place) / name).is_symlink()]
        for name in [*names, *links]:
            yield str((Path(place) / name).relative_to(directory))


def _described(path: Path) -> File:
    """Of a regular file; BackupError where it is anything else."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise BackupError(f"{path}: is no regular file, as all of a set are; {_NOTHING}")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return File(digest.hexdigest(), status.st_size, stat.S_IMODE(status.st_mode))

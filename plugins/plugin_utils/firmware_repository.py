# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing: a firmware repository of The Update Framework in a directory, changed one signed step at a time.

::

    metadata/N.root.json, N.targets.json, N.snapshot.json, timestamp.json   what is valid now
    targets/PRODUCT/SHA256.VERSION.hex                                     images
    pending/root.json, targets.json        a change that still lacks signatures; nobody but the key holders reads it

A change is worked out first and written afterwards (``Change``), the timestamp last: until then the old state is
valid. What lacks signatures of a threshold waits in ``pending``, for the next key holder to sign.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError, MissingPackage
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.image import ImageError, parse_hex
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.release import Release, path_of
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.exclusive import exclusive
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.release_trust import BOOKKEEPING

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey
    from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
    from tuf.api.serialization.json import JSONSerializer
except ImportError as error:
    _MISSING: ImportError | None = error
else:
    _MISSING = None

ROLES = ("root", "targets", "snapshot", "timestamp")
# Days. A bundle that is carried to a site is valid as long as its timestamp.
EXPIRY = {"root": 365, "targets": 90, "snapshot": 7, "timestamp": 7}
_LARGEST_FLASH = 0x10000
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class FirmwareRepositoryError(CoreError):
    """A repository or key that cannot be used as asked. Nothing was written."""


def require_libraries() -> None:
    """MissingPackage where the control node cannot sign or verify."""
    if _MISSING is not None:
        raise MissingPackage(
            f"a Python library for signed releases is missing on the control node: {_MISSING}; "
            "install tuf, securesystemslib and cryptography with pip (requirements/libraries.txt)"
        )


# Keys


def generate_key(path: Path, passphrase: str | None = None) -> None:
    """Make an ed25519 key: ``path`` (PEM, mode 0600, encrypted with a ``passphrase``) and beside it ``.pub`` (PEM)."""
    require_libraries()
    key = Ed25519PrivateKey.generate()
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FirmwareRepositoryError(f"{path}: is there already and never replaced, choose another name") from None
    with open(descriptor, "wb") as stream:
        stream.write(private)
    write_atomically(path.with_suffix(".pub"), public)


def load_public_key(path: Path) -> Key:
    """The public half of a key, from its PEM file (or from an unencrypted private one)."""
    require_libraries()
    data = _read(path, "public key")
    try:
        if b"PRIVATE KEY" in data:
            loaded: Any = serialization.load_pem_private_key(data, None).public_key()
        else:
            loaded = serialization.load_pem_public_key(data)
        key = SSlibKey.from_crypto(loaded)
    except (ValueError, TypeError) as error:
        raise FirmwareRepositoryError(f"{path}: no public key in PEM ({error})") from None
    return _verifiable(key, str(path))


def load_signer(path: Path, passphrase: str | None = None) -> Signer:
    """The signer of a private key in a PEM file."""
    require_libraries()
    data = _read(path, "key")
    mode = path.stat().st_mode
    if mode & 0o077:
        raise FirmwareRepositoryError(
            f"{path}: others may read this key (mode {mode & 0o7777:04o}), expected 0600; "
            "change its mode, and rotate the key if they have"
        )
    try:
        private: Any = serialization.load_pem_private_key(data, passphrase.encode() if passphrase else None)
        signer = CryptoSigner(private)
    except (ValueError, TypeError) as error:
        raise FirmwareRepositoryError(f"{path}: cannot be opened ({error}); check it and its passphrase") from None
    _verifiable(signer.public_key, str(path))
    return signer


def load_signer_uri(uri: str, public: Path, passphrase: str | None = None) -> Signer:
    """A signer of securesystemslib such as one of a key vault; ``public`` is the PEM file of its public key."""
    key = load_public_key(public)
    try:
        return Signer.from_priv_key_uri(uri, key, lambda _name: passphrase or "")
    except Exception as error:  # its drivers raise whatever they like
        raise FirmwareRepositoryError(f"signer {uri}: {type(error).__name__}: {error}") from None


def _verifiable(key: Key, name: str) -> Key:
    if key.scheme != "ed25519":
        raise FirmwareRepositoryError(
            f"{name}: is a key of scheme {key.scheme}, expected ed25519, which is what a gateway can verify "
            "without further packages"
        )
    return key


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FirmwareRepositoryError(f"{path}: {what} cannot be read ({error.strerror})") from None


# Changes


@dataclass(frozen=True)
class Role:
    """Who signs for a role of the repository, and how many of them have to."""

    keys: Sequence[Key]
    threshold: int = 1


@dataclass
class Change:
    """What is to be written, in this order, and removed after it. ``before`` and ``after`` describe the repository.

    ``waiting`` says which signatures are missing where the change does not become visible yet.
    """

    before: dict[str, Any]
    after: dict[str, Any]
    waiting: list[str] = field(default_factory=list)
    writes: list[tuple[Path, bytes]] = field(default_factory=list)
    removes: list[Path] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.writes or self.removes)

    def apply(self) -> None:
        """Write it. A cut in between leaves the old state valid, and the same change can be made again."""
        for path, data in self.writes:
            write_atomically(path, data)
        for path in self.removes:
            path.unlink(missing_ok=True)


class FirmwareRepository:
    """The repository in ``directory``. Each verb returns a ``Change`` and writes nothing itself."""

    def __init__(self, directory: str | Path) -> None:
        require_libraries()
        self.directory = Path(directory)

    @property
    def exists(self) -> bool:
        return self._file("timestamp.json").exists()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other publishers out from working out a change until it is written."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with exclusive(self.directory):
            yield

    # Verbs

    def create(self, roles: Mapping[str, Role], expiry: Mapping[str, int], signers: Sequence[Signer]) -> Change:
        """An empty repository. ``expiry`` gives days by role, those of EXPIRY where it does not.

        All signatures have to be given at once: there is nothing yet that could wait.
        """
        if self.exists:
            raise FirmwareRepositoryError(f"{self.directory}: holds a repository already; nothing was written")
        days = {**EXPIRY, **expiry}
        root = Root(expires=_in_days(days["root"]), unrecognized_fields={BOOKKEEPING: {"expiry_days": days}})
        _assign(root, {role: roles[role] for role in ROLES})
        targets = Targets(expires=_in_days(days["targets"]), unrecognized_fields={BOOKKEEPING: {}})
        change = self._advance(Metadata(root), Metadata(targets), signers, {}, first=True)
        if change.waiting:
            raise FirmwareRepositoryError(
                f"{self.directory}: a new repository needs all its signatures at once; {'; '.join(change.waiting)}. "
                "Begin with a threshold of 1 and raise it afterwards (action rotate), or bring the keys together"
            )
        return change

    def publish(self, image: bytes, manifest: Mapping[str, Any], signers: Sequence[Signer]) -> Change:
        """Add a release. ``manifest`` is one of ``_core.release`` without ``schema`` and ``sha256``.

        Without a counter it takes the next one. The same release once more changes nothing, or adds signatures.
        """
        before = self.describe()
        targets, fresh = self._next_targets()
        path = path_of(str(manifest.get("product")), str(manifest.get("version")))
        bookkeeping = targets.signed.unrecognized_fields[BOOKKEEPING]
        counters, revoked = bookkeeping.setdefault("counters", {}), bookkeeping.get("revoked", {})
        there = targets.signed.targets.get(path)
        highest = counters.get(manifest.get("product"), 0)
        counter = manifest.get("counter") or (there.custom["counter"] if there else highest + 1)
        release = Release.from_manifest(
            path,
            {**manifest, "schema": 1, "counter": counter, "sha256": hashlib.sha256(image).hexdigest()},
        )
        if there:
            if there.custom != release.manifest():
                raise FirmwareRepositoryError(
                    f"release {path} is published already, with another image or manifest; "
                    "a version is never used twice, give this one another. Nothing was written"
                )
            return self._unchanged(before) if fresh else self._advance(self._root(), targets, signers, before)
        if path in revoked:
            raise FirmwareRepositoryError(
                f"release {path} was revoked at {revoked[path]}; a version is never used twice, give this one another"
            )
        if release.counter <= highest:
            raise FirmwareRepositoryError(
                f"release {path}: counter {release.counter} does not rise, {release.product} is at {highest}; "
                "leave it out or give a higher one. Nothing was written"
            )
        if not fresh:
            raise self._busy()
        _require_hex(image, path)
        counters[release.product] = release.counter
        target = TargetFile.from_data(path, image, ["sha256"])
        target.unrecognized_fields["custom"] = release.manifest()
        targets.signed.targets[path] = target
        change = self._advance(self._root(), targets, signers, before)
        # Before any metadata that speaks of it.
        change.writes.insert(0, (self.directory / release.file, image))
        return change

    def revoke(self, product: str, version: str, signers: Sequence[Signer]) -> Change:
        """Withdraw a release: nobody takes it any more, and its version is never used again."""
        before = self.describe()
        targets, fresh = self._next_targets()
        path = path_of(product, version)
        revoked = targets.signed.unrecognized_fields[BOOKKEEPING].setdefault("revoked", {})
        if path in revoked:
            return self._unchanged(before) if fresh else self._advance(self._root(), targets, signers, before)
        if path not in targets.signed.targets:
            known = ", ".join(sorted(targets.signed.targets)) or "none"
            raise FirmwareRepositoryError(f"there is no release {path} to revoke (there are {known})")
        if not fresh:
            raise self._busy()
        release = Release.from_manifest(path, targets.signed.targets.pop(path).custom)
        revoked[path] = _now().strftime(_TIME)
        change = self._advance(self._root(), targets, signers, before)
        if not change.waiting:
            change.removes.append(self.directory / release.file)
        return change

    def sign(self, signers: Sequence[Signer]) -> Change:
        """Add signatures to what is pending; it becomes visible when none is missing any more."""
        before = self.describe()
        root, targets = self._pending("root"), self._pending("targets")
        if not root and not targets:
            return self._unchanged(before)
        return self._advance(root or self._root(), targets or self._current("targets"), signers, before)

    def refresh(self, signers: Sequence[Signer]) -> Change:
        """Renew snapshot and timestamp, and targets and root where one of the signers signs for them."""
        before = self.describe()
        if before["pending"]:
            raise self._busy()
        root, targets = self._root(), self._current("targets")
        ids = {signer.public_key.keyid for signer in signers}
        if ids & set(root.signed.roles["root"].keyids):
            root = self._next_root()
        if ids & set(root.signed.roles["targets"].keyids):
            targets, _fresh = self._next_targets()
        return self._advance(root, targets, signers, before)

    def rotate(self, roles: Mapping[str, Role], signers: Sequence[Signer]) -> Change:
        """Give roles other keys and thresholds, those that ``roles`` does not name keep theirs.

        The old root keys and the new ones have to sign; so have the new targets keys, where the old ones signed last.
        """
        before = self.describe()
        pending = self._pending("root")
        root = pending or self._next_root()
        unlike = {role: new for role, new in roles.items() if not _same_role(root.signed, role, new)}
        if not unlike and not pending:
            return self._unchanged(before)
        if unlike and before["pending"]:
            raise self._busy()
        _assign(root.signed, unlike)
        targets = self._pending("targets") or self._current("targets")
        if not root.signed.get_verification_result("targets", targets.signed_bytes, targets.signatures):
            targets, _fresh = self._next_targets()
        return self._advance(root, targets, signers, before)

    # Looking

    def describe(self) -> dict[str, Any]:
        """What people see of the repository: releases, revoked ones, keys, expiry, and what waits for signatures."""
        if not self.exists:
            return {}
        pending = {role: waiting for role in ("root", "targets") if (waiting := self._pending(role))}
        return _described(self._root(), self._current("targets"), self._timestamp(), pending)

    def _unchanged(self, before: dict[str, Any]) -> Change:
        return Change(before, before)

    def _busy(self) -> FirmwareRepositoryError:
        return FirmwareRepositoryError(
            f"{self.directory / 'pending'}: another change waits for signatures; finish it (action sign) or remove "
            "the files there, then begin this one. Nothing was written"
        )

    # Metadata files

    def _file(self, name: str) -> Path:
        return self.directory / "metadata" / name

    def _root(self) -> Metadata[Root]:
        versions = [int(path.name.partition(".")[0]) for path in self.directory.glob("metadata/[0-9]*.root.json")]
        root: Metadata[Root] = self._load(self._file(f"{max(versions, default=0)}.root.json"))
        return root

    def _timestamp(self) -> Metadata[Timestamp]:
        timestamp: Metadata[Timestamp] = self._load(self._file("timestamp.json"))
        return timestamp

    def _current(self, role: str) -> Any:
        """The metadata of snapshot or targets that is valid now."""
        version = self._timestamp().signed.snapshot_meta.version
        snapshot: Metadata[Snapshot] = self._load(self._file(f"{version}.snapshot.json"))
        if role == "snapshot":
            return snapshot
        return self._load(self._file(f"{snapshot.signed.meta['targets.json'].version}.targets.json"))

    def _waiting(self, role: str) -> Path:
        return self.directory / "pending" / f"{role}.json"

    def _load(self, path: Path) -> Any:
        data = _read(path, "metadata")
        try:
            return Metadata.from_bytes(data)
        except Exception as error:  # the library's own, of many kinds
            raise FirmwareRepositoryError(f"{path}: damaged ({error}); restore it from its backup") from None

    def _pending(self, role: str) -> Any:
        """The metadata that waits for signatures; None where none does."""
        if not self._waiting(role).exists():
            return None
        waiting = self._load(self._waiting(role))
        current = self._root() if role == "root" else self._current(role)
        # One that became visible when the run was cut off before it could be removed waits no longer.
        return waiting if waiting.signed.version > current.signed.version else None

    def _days(self, root: Metadata[Root], role: str) -> int:
        return int(root.signed.unrecognized_fields[BOOKKEEPING]["expiry_days"][role])

    def _next_root(self) -> Metadata[Root]:
        root = copy.deepcopy(self._root())
        root.signed.version += 1
        root.signed.expires = _in_days(self._days(root, "root"))
        root.signatures.clear()
        return root

    def _next_targets(self) -> tuple[Metadata[Targets], bool]:
        """The targets to change: those pending, or else (True) a new version of the current ones."""
        pending = self._pending("targets")
        if pending:
            return pending, False
        targets = copy.deepcopy(self._current("targets"))
        targets.signed.version += 1
        targets.signed.expires = _in_days(self._days(self._root(), "targets"))
        targets.signatures.clear()
        return targets, True

    # The way of every change

    def _advance(
        self,
        root: Metadata[Root],
        targets: Metadata[Targets],
        signers: Sequence[Signer],
        before: dict[str, Any],
        first: bool = False,
    ) -> Change:
        """Sign what is new of ``root`` and ``targets``; with all signatures it becomes visible, else it waits."""
        current = root if first else self._root()
        new_root = first or root.signed.version > current.signed.version
        new_targets = first or targets.signed.version > self._current("targets").signed.version
        roots = (current.signed, root.signed)
        if not first:
            self._require_signing(roots, signers)
        missing = []
        if new_root:
            _sign(root, "root", signers, roots)
            missing += [*_missing(current.signed, "root", root), *_missing(root.signed, "root", root)]
        if new_targets:
            _sign(targets, "targets", signers, roots)
        missing += _missing(root.signed, "targets", targets)
        snapshot = Metadata(
            Snapshot(
                version=1 if first else self._current("snapshot").signed.version + 1,
                expires=_in_days(self._days(root, "snapshot")),
                meta={"targets.json": _meta(targets)},
            )
        )
        _sign(snapshot, "snapshot", signers, roots)
        timestamp = Metadata(
            Timestamp(
                version=1 if first else self._timestamp().signed.version + 1,
                expires=_in_days(self._days(root, "timestamp")),
                snapshot_meta=_meta(snapshot),
            )
        )
        _sign(timestamp, "timestamp", signers, roots)
        missing += _missing(root.signed, "snapshot", snapshot) + _missing(root.signed, "timestamp", timestamp)
        waiting = list(dict.fromkeys(missing))
        new = {"root": root if new_root else None, "targets": targets if new_targets else None}
        if waiting:
            return self._wait(new, waiting, before)
        writes = []
        if new_targets:
            writes.append((self._file(f"{targets.signed.version}.targets.json"), _bytes(targets)))
        writes.append((self._file(f"{snapshot.signed.version}.snapshot.json"), _bytes(snapshot)))
        writes.append((self._file("timestamp.json"), _bytes(timestamp)))
        if new_root:
            # Last, since all else is signed under the old one too where its keys are there: valid throughout.
            writes.insert(0 if first else len(writes), (self._file(f"{root.signed.version}.root.json"), _bytes(root)))
        removes = [self._waiting(role) for role in ("root", "targets") if self._waiting(role).exists()]
        return Change(before, _described(root, targets, timestamp, {}), [], writes, removes)

    def _wait(self, new: Mapping[str, Any], waiting: list[str], before: dict[str, Any]) -> Change:
        """Keep what is new as pending."""
        kept = {role: metadata for role, metadata in new.items() if metadata}
        writes = [
            (path, data)
            for role, metadata in kept.items()
            if (path := self._waiting(role)) and (data := _bytes(metadata)) != (path.exists() and path.read_bytes())
        ]
        after = {**before, "pending": {role: _signed_by(metadata) for role, metadata in kept.items()}}
        return Change(before, after, waiting, writes)

    def _require_signing(self, roots: Sequence[Root], signers: Sequence[Signer]) -> None:
        for signer in signers:
            keyid = signer.public_key.keyid
            if not any(keyid in role.keyids for root in roots for role in root.roles.values()):
                raise FirmwareRepositoryError(
                    f"key {keyid[:12]} signs for no role of {self.directory}; give another, or add it (action rotate)"
                )


def _described(root: Any, targets: Any, timestamp: Any, pending: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "releases": {
            path: {"counter": target.custom["counter"], "sha256": target.custom["sha256"]}
            for path, target in sorted(targets.signed.targets.items())
        },
        "revoked": dict(targets.signed.unrecognized_fields[BOOKKEEPING].get("revoked", {})),
        "keys": {
            name: {"threshold": role.threshold, "keyids": sorted(role.keyids)}
            for name, role in sorted(root.signed.roles.items())
        },
        "versions": {one.signed.type: one.signed.version for one in (root, targets, timestamp)},
        "expires": {one.signed.type: one.signed.expires.strftime(_TIME) for one in (root, targets, timestamp)},
        "pending": {role: _signed_by(metadata) for role, metadata in pending.items()},
    }


def _signed_by(metadata: Any) -> dict[str, Any]:
    return {"version": metadata.signed.version, "signed_by": sorted(metadata.signatures)}


def _sign(metadata: Any, role: str, signers: Sequence[Signer], roots: Sequence[Root]) -> None:
    """Sign with those of ``signers`` that one of ``roots`` names for ``role``."""
    keyids = {keyid for root in roots for keyid in root.roles[role].keyids}
    for signer in signers:
        if signer.public_key.keyid in keyids:
            metadata.sign(signer, append=True)


def _missing(root: Root, role: str, metadata: Any) -> list[str]:
    """What keeps ``root`` from accepting the metadata, in words; empty where nothing does."""
    result = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    if result:
        return []
    others = ", ".join(sorted(keyid[:12] for keyid in result.unsigned))
    return [f"{role}: {len(result.signed)} of {result.threshold} signatures, not yet by {others}"]


def _assign(root: Root, roles: Mapping[str, Role]) -> None:
    for name, role in roles.items():
        if not 1 <= role.threshold <= len({key.keyid for key in role.keys}):
            raise FirmwareRepositoryError(
                f"role {name}: threshold {role.threshold} of {len(role.keys)} keys, expected one that they can meet"
            )
        for keyid in list(root.roles[name].keyids):
            root.revoke_key(keyid, name)
        for key in role.keys:
            root.add_key(key, name)
        root.roles[name].threshold = role.threshold


def _same_role(root: Root, name: str, role: Role) -> bool:
    known = root.roles[name]
    return set(known.keyids) == {key.keyid for key in role.keys} and known.threshold == role.threshold


def _require_hex(image: bytes, path: str) -> None:
    try:
        parse_hex(image.decode("ascii"), path, _LARGEST_FLASH)
    except UnicodeDecodeError:
        raise ImageError(f"{path}: not Intel HEX, it holds more than ASCII") from None


def _meta(metadata: Any) -> MetaFile:
    return MetaFile.from_data(metadata.signed.version, _bytes(metadata), ["sha256"])


def _bytes(metadata: Any) -> bytes:
    data: bytes = metadata.to_bytes(JSONSerializer(compact=False))
    return data


def _in_days(days: int) -> datetime.datetime:
    return _now() + datetime.timedelta(days=days)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)

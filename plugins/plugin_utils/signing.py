# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a control node signs with ed25519 keys of its own: JSON objects that carry their ``signature``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import write_atomically

with contextlib.suppress(ImportError):  # comes with ansible-core, which needs it itself; not where imports are checked
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


class KeyProblem(CoreError):
    """A key that cannot be read. Whoever knows what is signed with it adds the remedy."""


def own_key(place: Path) -> tuple[Ed25519PrivateKey, bool]:
    """The key in ``place``, and whether it has just been made.

    A new one has mode 0600, and its public half beside it with the suffix ``.pub``.
    """
    try:
        data = place.read_bytes()
    except FileNotFoundError:
        return _make_key(place), True
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyProblem(f"{place}: no readable key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyProblem(f"{place}: expected an ed25519 key")
    return key, False


def _make_key(place: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    new = place.with_name(f"{place.name}.new")
    new.unlink(missing_ok=True)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with open(new, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        stream.write(pem)
        stream.flush()
        os.fsync(stream.fileno())
    write_atomically(place.with_suffix(".pub"), public_pem(key.public_key()))
    os.replace(new, place)
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """A public key as its file holds it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_public_key(place: Path) -> Ed25519PublicKey:
    """The public key in the file ``place``."""
    try:
        key = serialization.load_pem_public_key(place.read_bytes())
    except OSError as error:
        raise KeyProblem(f"public key {place}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyProblem(f"public key {place}: no readable key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyProblem(f"public key {place}: expected an ed25519 key")
    return key


def canonical(data: Mapping[str, Any]) -> bytes:
    """The one line that ``data`` is written and signed as."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def signed(data: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """``data`` with its ``signature``."""
    return {**data, "signature": key.sign(canonical(data)).hex()}


def is_signed(data: Mapping[str, Any], key: Ed25519PublicKey) -> bool:
    """Whether ``signature`` is that key's, of all the rest of ``data``."""
    signature = str(data["signature"])
    try:
        raw = bytes.fromhex(signature)
        key.verify(raw, canonical({name: value for name, value in data.items() if name != "signature"}))
    except (InvalidSignature, ValueError):
        return False
    # Another notation of the same bytes is an edit too.
    return raw.hex() == signature

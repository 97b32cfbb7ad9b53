# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verifier of the gateways: ``release_trust`` and the libraries it needs in one file that Python runs as it is.

It is made of wheels that are pinned here by digest, and the same bytes come out wherever it is made.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError

# Raise them together with requirements/libraries.txt; `pip download --no-deps` and `sha256sum` give the digests.
WHEELS = {
    "securesystemslib-1.6.0-py3-none-any.whl": "1c1aa00f058f4851f038d409c8ca4a727db854a91f07ec3a0fa047bb93e43e0e",
    "tuf-7.0.1-py3-none-any.whl": "d30434bda6e079ab303fb30d1b3006d939a10ca34783b1573d61cd9b802fa45c",
    "urllib3-2.8.0-py3-none-any.whl": "0cf3cae568d36aa9576b28dfb35f11328f1cb974ca7647d9475ebb86c75ac6e3",
}
_MAIN = Path(__file__).with_name("release_trust.py")
_EPOCH = (1980, 1, 1, 0, 0, 0)


class VerifierError(CoreError):
    """Wheels that are missing or not those that are pinned. Nothing was made."""


def build(wheel_directory: Path, download: bool = True) -> bytes:
    """The verifier, a zip file. With ``download`` wheels that the directory lacks are fetched into it with pip."""
    missing = [name for name in WHEELS if not (wheel_directory / name).is_file()]
    if missing and not download:
        raise VerifierError(
            f"{wheel_directory}: lacks {', '.join(missing)}; bring them with "
            f"'pip download --no-deps {' '.join(_requirement(name) for name in missing)}' on a machine with a network"
        )
    if missing:
        _download(wheel_directory, missing)
    return pack(wheel_directory / name for name in sorted(WHEELS))


def pack(wheels: Iterable[Path]) -> bytes:
    """The verifier out of these files; VerifierError where one is not what is pinned, or holds compiled code."""
    files = {"__main__.py": _MAIN.read_bytes()}
    for wheel in wheels:
        data = wheel.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != WHEELS.get(wheel.name):
            raise VerifierError(f"{wheel}: its sha256 is {found}, expected {WHEELS.get(wheel.name)}; fetch it again")
        files |= dict(_pure(wheel.name, data))
    directories = {f"{parent}/" for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}
    packed = io.BytesIO()
    # Stored, since what a compressor makes of the same bytes differs from one zlib to the next.
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted([*files, *directories]):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = (0o40755 << 16 | 0x10) if name.endswith("/") else 0o100644 << 16
            archive.writestr(entry, files.get(name, b""))
    return packed.getvalue()


def _pure(name: str, wheel: bytes) -> Iterator[tuple[str, bytes]]:
    """The modules and licences of a wheel; VerifierError where it would not run on any gateway."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        compiled = [entry for entry in archive.namelist() if entry.endswith((".so", ".pyd", ".dll", ".dylib"))]
        if compiled or not name.endswith("-none-any.whl"):
            raise VerifierError(
                f"{name}: is compiled for one machine ({', '.join(compiled) or 'by its name'}), not for all"
            )
        for entry in archive.namelist():
            if entry.endswith((".py", "/LICENSE", "/LICENSE.txt", "/LICENSE-MIT")):
                yield entry, archive.read(entry)


def _requirement(wheel: str) -> str:
    name, version = wheel.split("-")[:2]
    return f"{name}=={version}"


def _download(directory: Path, names: Iterable[str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    lines = [f"{_requirement(name)} --hash=sha256:{WHEELS[name]}" for name in names]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as stream:
        stream.write("\n".join(lines))
        stream.flush()
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ]
        command += ["--require-hashes", "--dest", str(directory), "--requirement", stream.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise VerifierError(
            f"{directory}: the libraries of the verifier could not be fetched ({last}); put the files "
            f"{', '.join(names)} there by hand where there is no network"
        )

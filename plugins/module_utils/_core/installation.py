# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime of a gateway: the core that a module brings along, put where services and people find it.

::

    <directory>/<version>/_core/    this package, the version being the digest of its files
    <directory>/<version>/NAME      a program for each entry point
    <directory>/current             the version in use, changed in one step

A program that runs goes on with the files of its own version, whatever ``current`` has become meanwhile.
"""

from __future__ import annotations

import compileall
import contextlib
import hashlib
import os
import pkgutil
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from .store import write_atomically

CURRENT = "current"
_PROGRAM = """#!/usr/bin/python3 -I
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from _core.{module} import main

sys.exit(main())
"""


def sources() -> dict[str, bytes]:
    """The files of the core that this process came with: of a module, what it needs."""
    package = sys.modules[str(__package__)]
    names = ["__init__", *(module.name for module in pkgutil.iter_modules(package.__path__))]
    return {f"{name}.py": pkgutil.get_data(package.__name__, f"{name}.py") or b"" for name in sorted(names)}


class Installation:
    """The runtime below ``directory``, with a program for each of ``programs`` (its name: the core's module).

    ``commands`` are links by which people find programs (the link: the program's name). ``configuration`` is the file
    that the programs read, with its ``content``.
    """

    def __init__(
        self,
        directory: Path,
        programs: Mapping[str, str],
        commands: Mapping[Path, str],
        configuration: Path,
        content: bytes,
    ) -> None:
        self.directory = directory
        self.configuration = configuration
        self._content = content
        self._files = {f"_core/{name}": content for name, content in sources().items()} | {
            name: _PROGRAM.format(module=module).encode() for name, module in programs.items()
        }
        self._commands = {link: str(directory / CURRENT / name) for link, name in commands.items()}

    @property
    def wanted(self) -> dict[str, str | None]:
        """Version and configuration that this process would install, as ``found`` tells them."""
        return {"version": self.version, "configuration": self._content.decode()}

    @property
    def found(self) -> dict[str, str | None]:
        """Version and configuration in use, each None where there is none."""
        try:
            configuration = self.configuration.read_text()
        except FileNotFoundError:
            configuration = None
        return {"version": self.installed, "configuration": configuration}

    @property
    def version(self) -> str:
        """Digest of what this process would install."""
        digest = hashlib.sha256()
        for name, content in sorted(self._files.items()):
            digest.update(f"{name} {len(content)}\n".encode() + content)
        return digest.hexdigest()[:16]

    @property
    def installed(self) -> str | None:
        """The version in use; None where there is none, or where something of it was altered."""
        version = _target(self.directory / CURRENT)
        if version != self.version:
            return version
        place = self.directory / version
        found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if _is_ours(path)}
        whole = found == self._files and all(_target(link) == to for link, to in self._commands.items())
        return version if whole else None

    def install(self) -> None:
        """Put this version beside the one in use, then change over. That one is kept, since services may run it.

        The configuration comes last; programs that run read it when they are started anew.
        """
        before = self.installed
        place = self.directory / self.version
        shutil.rmtree(place, ignore_errors=True)
        for name, content in self._files.items():
            path = place / name
            write_atomically(path, content)
            path.chmod(0o644 if path.suffix == ".py" else 0o755)
        for directory in (self.directory, place, place / "_core"):
            directory.chmod(0o755)
        compileall.compile_dir(place, quiet=2)
        for link, target in {self.directory / CURRENT: self.version, **self._commands}.items():
            new = link.with_name(f".{link.name}.{os.getpid()}")
            new.unlink(missing_ok=True)
            new.symlink_to(target)
            new.replace(link)
        for other in self.directory.iterdir():
            if other.name not in (CURRENT, self.version, before):
                shutil.rmtree(other, ignore_errors=True)
        write_atomically(self.configuration, self._content)
        self.configuration.chmod(0o644)

    def remove(self) -> None:
        """Take all versions away, the links to them and the configuration."""
        self.configuration.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others keep something there
            self.configuration.parent.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)
        for link, target in self._commands.items():
            if _target(link) == target:
                link.unlink()


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None


def _is_ours(path: Path) -> bool:
    return path.is_file() and path.parent.name != "__pycache__"

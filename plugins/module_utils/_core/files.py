# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and directories of a host, brought to their state as one list: all are judged before the first is touched."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .controls import Host
from .errors import CoreError
from .store import write_atomically

_MODES = {False: "0755", True: "0644"}
_FORBIDDEN = 0o077
_NOT_INSTALLED = 127


class FileRefused(CoreError):
    """A file that cannot come to its state, or may not; nothing was changed."""


@dataclass(frozen=True)
class State:
    """What is at a path. ``content`` is None for a directory, ``owner`` and ``group`` are names."""

    content: bytes | None
    mode: str
    owner: str
    group: str

    @property
    def secret(self) -> bool:
        """Whether its owner alone may read it."""
        return not int(self.mode, 8) & _FORBIDDEN


@dataclass(frozen=True)
class Change:
    """A path whose state is another one than wanted; None where nothing is there."""

    path: Path
    found: State | None
    wanted: State | None

    def apply(self) -> None:
        """Bring the path to the state that is wanted. OSError where the system does not let it."""
        if self.wanted is None:
            if self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.path)
            else:
                self.path.unlink()
            return
        mode, owner = int(self.wanted.mode, 8), (_uid(self.wanted.owner), _gid(self.wanted.group))
        if self.wanted.content is not None:
            write_atomically(self.path, self.wanted.content, mode, owner)
            return
        if self.found is None:
            self.path.mkdir(0o700, parents=True)
        os.chown(self.path, *owner)
        self.path.chmod(mode)  # after the owner, whose change takes the group's bit away

    def diff(self) -> dict[str, str]:
        """Both sides as text, the content of a secret left out."""
        header = str(self.path)
        before, after = (self._shown(side) for side in (self.found, self.wanted))
        return {"before_header": header, "after_header": header, "before": before, "after": after}

    def _shown(self, state: State | None) -> str:
        if state is None:
            return ""
        sides = [side for side in (self.found, self.wanted) if side]
        told = f"{'directory' if state.content is None else 'file'} of {state.owner}:{state.group}, mode {state.mode}\n"
        if state.content is None or self.wanted is None or any(side.secret for side in sides):
            return told
        return told + state.content.decode(errors="backslashreplace")


def plan(files: Sequence[Mapping[str, Any]], present: bool = True, check: bool = False) -> list[Change]:
    """What has to change for all ``files`` to be there as given, or for none to be there.

    Each is ``path`` and, where it is to be there, ``content`` (text, bytes, or a mapping or list that is written as
    JSON) or ``src`` (a file that has it; a directory has neither), ``sha256`` of that, which alone is enough where
    the content is there already, ``mode`` in octal digits, ``owner`` and ``group`` by name (default: as it is, or of
    whoever runs this), ``replace`` (false: another content is to stay) and ``validate``, a command whose ``%s`` is a
    file with the content. With ``check`` accounts, directories and that command may be missing, which something else
    would have brought by now.

    FileRefused names what is wrong with the first that cannot be brought to its state.
    """
    if not present:
        return [Change(path, _look(path), None) for path in _there(files)]
    made: set[Path] = set()
    changes = []
    for one in files:
        path = Path(one["path"])
        found, wanted = _look(path), _wanted(one)
        if found is not None and (found.content is None) != (wanted.content is None):
            raise FileRefused(f"{path}: expected a {_kind(wanted)}, found a {_kind(found)}; move it away")
        if found is not None and found.content != wanted.content and not one.get("replace", True):
            raise FileRefused(f"{path}: has another content, which is not to be replaced; nothing was changed")
        if not check:
            _known(path, "account", wanted.owner, _uid)
            _known(path, "group", wanted.group, _gid)
            if wanted.content is not None and path.parent not in made and not path.parent.is_dir():
                raise FileRefused(f"{path}: {path.parent} is no directory; name it before the files in it")
        if found != wanted:
            _validate(path, wanted, one.get("validate") or (), check)
            changes.append(Change(path, found, wanted))
        if wanted.content is None:
            made |= {path, *path.parents}
    return changes


def lacking(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each ``sha256`` of a content that is known by it alone, and is not there."""
    return [str(one["sha256"]) for one in files if _by_digest(one) and _found_content(one) is None]


def _by_digest(one: Mapping[str, Any]) -> bool:
    return bool(one.get("sha256")) and one.get("content") is None and not one.get("src")


def _found_content(one: Mapping[str, Any]) -> bytes | None:
    """What is there, where it has the digest that it is to have."""
    found = _look(Path(one["path"]))
    content = found.content if found else None
    return content if content is not None and hashlib.sha256(content).hexdigest() == one["sha256"] else None


def _there(files: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Those that are there, the last one first, without what goes with a directory of them."""
    paths = [path for path in (Path(one["path"]) for one in reversed(files)) if os.path.lexists(path)]
    return [path for path in paths if not any(parent in paths for parent in path.parents)]


def _look(path: Path) -> State | None:
    """What is at ``path`` now; a link is what it leads to, and None where that is not there."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(status.st_mode):
        content = None
    elif stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    else:
        raise FileRefused(f"{path}: neither a file nor a directory; move it away")
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    return State(content, mode, *accounts(status))


def accounts(status: os.stat_result) -> tuple[str, str]:
    """Owner and group of a file by their names, or by their numbers where the host has no such account any more."""
    return _name(pwd.getpwuid, status.st_uid), _name(grp.getgrgid, status.st_gid)


def has_account(owner: str) -> bool:
    """Whether the host knows an account by this name."""
    return _knows(owner, pwd.getpwnam)


def has_group(group: str) -> bool:
    """Whether the host knows a group by this name."""
    return _knows(group, grp.getgrnam)


def _knows(name: str, entry: Callable[[str], object]) -> bool:
    try:
        entry(name)
    except KeyError:
        return False
    return True


def _wanted(one: Mapping[str, Any]) -> State:
    path, content = one["path"], one.get("content")
    if one.get("src"):
        content = Path(one["src"]).read_bytes()
    elif _by_digest(one):
        content = _found_content(one)
        if content is None:
            raise FileRefused(f"{path}: what is to be there is known by its digest alone; nothing was changed")
    mode = str(one.get("mode") or _MODES[content is not None])
    if not re.fullmatch(r"[0-7]{3,4}", mode):
        raise FileRefused(f"{path}: mode {mode}: expected octal digits as a string, such as '0644'")
    found = _look(Path(path))
    owner = one.get("owner") or (found.owner if found else _name(pwd.getpwuid, os.geteuid()))
    group = one.get("group") or (found.group if found else _name(grp.getgrgid, os.getegid()))
    if isinstance(content, (Mapping, list)):
        content = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if isinstance(content, str):
        content = content.encode()
    if one.get("sha256") and hashlib.sha256(content or b"").hexdigest() != one["sha256"]:
        raise FileRefused(f"{path}: what is to be there has not the SHA-256 {one['sha256']}; nothing was changed")
    return State(content, f"{int(mode, 8):04o}", owner, group)


def _validate(path: Path, wanted: State, command: Sequence[str], check: bool) -> None:
    if not command or wanted.content is None:
        return
    with tempfile.NamedTemporaryFile(prefix="multi-sonicator-") as aside:
        aside.write(wanted.content)
        aside.flush()
        done = Host().run([aside.name if word == "%s" else word for word in command])
    if done.returncode and not (check and done.returncode == _NOT_INSTALLED):
        raise FileRefused(
            f"{path}: {command[0]} refuses it: {(done.stderr or done.stdout).strip()}; nothing was changed"
        )


def _known(path: Path, what: str, name: str, number: Callable[[str], int]) -> None:
    try:
        number(name)
    except KeyError:
        raise FileRefused(f"{path}: there is no {what} {name}; make it before") from None


def _uid(name: str) -> int:
    return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid


def _gid(name: str) -> int:
    return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid


def _name(entry: Callable[[int], Sequence[Any]], number: int) -> str:
    with contextlib.suppress(KeyError):  # of an account that was removed
        return str(entry(number)[0])
    return str(number)


def _kind(state: State) -> str:
    return "directory" if state.content is None else "file"

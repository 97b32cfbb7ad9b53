# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway keeps about its controllers, on disk, written atomically.

::

    objects/<sha256>                     images, by the digest of their content
    controllers/<name>/record.yml        what was last read back from the chip, and when
    controllers/<name>/sets/<id>.yml     snapshots, oldest first by name
    controllers/<name>/journal.jsonl     the transaction that is under way, absent between transactions
    controllers/<name>/history/<id>.jsonl  ended ones
    approvals/<id>/<name>                what people approved, used for a controller
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import lock
from .errors import CoreError, MissingPackage, PortBusy


class StoreError(CoreError):
    """Something the gateway keeps that is missing, damaged or cannot be written."""


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(moment: str) -> int:
    """Seconds since ``moment``, a time as ``now`` gives it."""
    then = datetime.datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    return int((datetime.datetime.now(datetime.UTC) - then).total_seconds())


def write_atomically(path: Path, data: bytes, mode: int | None = None, owner: tuple[int, int] | None = None) -> None:
    """Replace ``path`` by ``data`` so that a power cut leaves the old or the new content, never a part.

    With ``mode`` nobody whom it leaves out can read the content in between either; ``owner`` is a uid and a gid.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Lines are worked on in parallel, so two threads may keep the same image at the same time.
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}.new")
    new.unlink(missing_ok=True)
    with open(new, "xb", opener=lambda name, flags: os.open(name, flags, 0o666 if mode is None else 0o600)) as stream:
        if owner is not None:
            os.fchown(stream.fileno(), *owner)
        if mode is not None:
            os.fchmod(stream.fileno(), mode)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(new, path)
    _sync_directory(path.parent)


def create_once(path: Path, data: bytes) -> bool:
    """Create ``path`` with ``data``; False where it was there already. On the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        return False
    _sync_directory(path.parent)
    _sync_directory(path.parent.parent)
    return True


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """StoreError where what is done within cannot write ``path``."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}); free space or correct permissions") from None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """StoreError where ``path`` is there, but cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror}); correct permissions, or restore the state directory from its "
            "backup"
        ) from None


def dump_yaml(data: Mapping[str, Any]) -> bytes:
    """``data`` as block-style YAML in its own order."""
    text: str = _yaml().safe_dump(dict(data), sort_keys=False, default_flow_style=None, width=120)
    return text.encode()


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingPackage("the Python library yaml is missing; install the Debian package python3-yaml") from None
    return yaml


class Journal:
    """The steps of one transaction, each on disk before the act it announces.

    Anybody may read it; who appends or closes holds the controller.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[dict[str, Any]] = _read_journal(path)

    @property
    def is_open(self) -> bool:
        """Whether a transaction is under way, or was cut off."""
        return bool(self.steps) and not self.last("end")

    def append(self, step: str, **data: Any) -> None:
        """Add a step; it is on the disk when this returns."""
        entry = {"time": now(), "step": step, **data}
        with saving(self.path):
            fresh = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b") as stream:
                # A line cut off by a power loss or a full disk announces an act that did not begin: take it back, so
                # that none is glued to it.
                stream.seek(0)
                stream.truncate(_whole_lines(stream.read()))
                stream.write(json.dumps(entry).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            if fresh:
                _sync_directory(self.path.parent)
        self.steps.append(entry)

    def last(self, step: str) -> dict[str, Any] | None:
        """The newest entry of ``step``."""
        return next((entry for entry in reversed(self.steps) if entry["step"] == step), None)

    def close(self) -> None:
        """Move the ended journal to the history."""
        if self.steps:
            target = self.path.parent / "history" / f"{self.steps[0]['transaction']}.jsonl"
            with saving(target):
                target.parent.mkdir(exist_ok=True)
                os.replace(self.path, target)
                _sync_directory(self.path.parent)
            self.steps = []


def _read_journal(path: Path) -> list[dict[str, Any]]:
    """The steps in a journal, without one that is being written, or was cut off while it was."""
    try:
        with _reading(path):
            data = path.read_bytes()
    except FileNotFoundError:
        return []
    steps = []
    for number, line in enumerate(data[: _whole_lines(data)].splitlines(), 1):
        try:
            steps.append(json.loads(line))
        except ValueError as error:
            raise StoreError(
                f"{path}: damaged in line {number} ({error}); see what the controller runs and how it is set, move the "
                "file away, and run again"
            ) from None
    return steps


def _whole_lines(data: bytes) -> int:
    """How many bytes of ``data`` are lines with an end."""
    return data.rfind(b"\n") + 1


class Store:
    """The state directory ``root`` of a gateway."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def controller(self, name: str) -> Path:
        """The directory of one controller."""
        return self.root / "controllers" / name

    def put(self, data: bytes) -> str:
        """Keep ``data``; returns its sha256 (64 hex digits)."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.root / "objects" / digest
        kept = None
        with contextlib.suppress(OSError):  # one that can't be read is no better than none
            kept = path.read_bytes()
        if kept != data:  # or one that was damaged since would stay so
            try:
                write_atomically(path, data)
            except OSError as error:
                raise StoreError(
                    f"{path}: cannot be written ({error.strerror}); free space or correct permissions"
                ) from None
        return digest

    def get(self, digest: str) -> bytes:
        """The data kept under ``digest``; StoreError where it is missing or no longer what it was."""
        path = self.root / "objects" / digest
        try:
            with _reading(path):
                data = path.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{path}: not there; restore the state directory from its backup") from None
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise StoreError(f"{path}: damaged, its sha256 is {found}; restore the state directory from its backup")
        return data

    def journal(self, name: str) -> Journal:
        """The controller's journal; without steps when no transaction is under way."""
        return Journal(self.controller(name) / "journal.jsonl")

    def record(self, name: str) -> dict[str, Any]:
        """What was last read back from the controller's chip; empty before the first time."""
        return self.load(self.controller(name) / "record.yml") or {}

    def save_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Replace the controller's record."""
        path = self.controller(name) / "record.yml"
        with saving(path):
            write_atomically(path, dump_yaml(record))

    def last_transaction(self, name: str) -> dict[str, Any]:
        """Time and outcome of the controller's newest ended transaction; empty where there was none."""
        for steps in self.ended(name):
            last = steps[-1]
            outcome = last.get("outcome", "unknown")
            return {"time": last["time"], "outcome": outcome, "transaction": steps[0]["transaction"]}
        return {}

    def ended(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """The steps of each ended transaction of the controller, newest first."""
        for path in sorted((self.controller(name) / "history").glob("*.jsonl"), reverse=True):
            yield _read_journal(path)

    def set_ids(self, name: str) -> list[str]:
        """Ids of the controller's sets, oldest first."""
        return sorted(path.stem for path in (self.controller(name) / "sets").glob("[!.]*.yml"))

    def load_set(self, name: str, set_id: str) -> dict[str, Any]:
        """One set as a mapping; StoreError names the sets there are where it is not one of them."""
        path = self.controller(name) / "sets" / f"{set_id}.yml"
        data = self.load(path)
        if data is None:
            known = ", ".join(self.set_ids(name)) or "none"
            raise StoreError(f"controller {name}: no set {set_id} in {path.parent} (there are {known})")
        return data

    def save_set(self, name: str, data: Mapping[str, Any]) -> None:
        """Keep a set under its id."""
        path = self.controller(name) / "sets" / f"{data['id']}.yml"
        with saving(path):
            write_atomically(path, dump_yaml(data))

    @staticmethod
    def load(path: Path) -> dict[str, Any] | None:
        """The mapping in a YAML file; None where it is not there, StoreError where it is damaged."""
        yaml = _yaml()
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where it is there, takes a tenth of the time
        try:
            with _reading(path):
                data = yaml.load(path.read_bytes(), Loader=loader)
        except FileNotFoundError:
            return None
        except yaml.YAMLError as error:
            raise StoreError(f"{path}: damaged ({error}); restore the state directory from its backup") from None
        if not isinstance(data, dict):
            raise StoreError(f"{path}: damaged, holds no mapping; restore the state directory from its backup")
        return data

    @contextlib.contextmanager
    def exclusive(
        self, name: str, timeout: float = 10.0, tell: Callable[[str], None] = lambda _who: None
    ) -> Iterator[None]:
        """Hold the controller, so that two runs never work on it at once; PortBusy names the other one.

        Where one has to be waited for, ``tell`` is called once with who it is.
        """
        path = self.controller(name) / "lock"
        with contextlib.ExitStack() as opened:
            with saving(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                stream = opened.enter_context(open(path, "a+b", buffering=0))
            deadline = time.monotonic() + timeout
            told = False
            while not lock.try_lock(stream.fileno()):
                stream.seek(0)
                who = f"pid {stream.read().decode('ascii', 'replace').strip() or 'unknown'}"
                if time.monotonic() > deadline:
                    raise PortBusy(
                        f"controller {name}: another run works on it ({who}); wait for it or end it, then run again"
                    )
                if not told:
                    tell(who)
                    told = True
                time.sleep(0.05)
            with contextlib.suppress(OSError):  # a full disk takes nothing from the lock but who holds it
                stream.truncate(0)
                stream.write(str(os.getpid()).encode())
            yield

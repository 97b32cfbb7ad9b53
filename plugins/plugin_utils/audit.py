# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log of a control node: what was done to controllers, by whom, and proof that nothing of it was altered.

::

    audit.jsonl               records, one a line, each with the hash of the one before; only ever appended to
    audit.jsonl.head          the newest record and the newest checkpoint, signed
    audit.jsonl.checkpoints   signed statements of how far the log had come, and when, one a line
    audit.jsonl.key, .pub     the ed25519 key, made with the log, and its public half, which belongs elsewhere too
    audit.jsonl.torn-TIME     what a power cut left of a line

The head is written before the record goes into the log, so that it says what the log must end with: a record that a cut
kept out is put back from it, and one that somebody took away is missed. Appending never refuses on account of damage,
since a log that says what happened after it is worth more than none; it goes on from the head, and ``verify`` tells.
"""

from __future__ import annotations

import bisect
import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import pwd
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.events import Event, of_results, redact
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.lock import holders, name_all
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.signing import (
    KeyProblem,
    canonical,
    is_signed,
    load_public_key,
    own_key,
    public_pem,
    signed,
)

with contextlib.suppress(ImportError):  # as in signing
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

VARIABLE = "multi_sonicator_audit_log"
DEFAULT_LOG = "~/.local/state/multi_sonicator/audit.jsonl"
CHECKPOINT_EVERY = 100

_RECORD = frozenset(
    (
        *("seq", "time", "who", "from", "where", "what", "before", "after", "image", "approval", "rollout"),
        *("result", "message", "previous", "hash"),
    )
)
_WHERE = frozenset(("gateway", "controller", "line", "unit"))
_CHECKPOINT = frozenset(("number", "seq", "hash", "time", "size", "signature"))
_HEAD = frozenset(("record", "checkpoint", "signature"))
_NOTHING = "0" * 64
_LOCK_DEADLINE = 60.0
_BLOCK = 65536

Record = dict[str, Any]


class AuditError(CoreError):
    """An audit log or key that cannot be read or written."""


@dataclass(frozen=True)
class Task:
    """A module of this collection that has run on a gateway, as ``events.of_results`` wants to know it.

    ``approval`` says who approved it, in words; ``rollout`` is the id of the rollout it belongs to. With ``no_log``
    the record says that something was done, and nothing of what.
    """

    module: str
    gateway: str
    arguments: Mapping[str, Any]
    remote_user: str | None = None
    approval: str | None = None
    rollout: str | None = None
    no_log: bool = False


@dataclass(frozen=True)
class Finding:
    """Something wrong with a log. ``line`` from 1, ``offset`` in bytes and ``seq`` are None where they say nothing.

    ``kind``: edited, missing, reordered, duplicated, inserted, rewritten, truncated, unsigned or damage.
    """

    file: str
    line: int | None
    offset: int | None
    seq: int | None
    kind: str
    message: str

    def __str__(self) -> str:
        place = [] if self.line is None else [f"line {self.line}"]
        place += [] if self.offset is None else [f"byte {self.offset}"]
        place += [] if self.seq is None else [f"record {self.seq}"]
        return f"{self.file}{': ' if place else ''}{', '.join(place)}: {self.kind}: {self.message}"


def record_results(log: AuditLog, task: Task, result: Mapping[str, Any]) -> list[Record]:
    """Record what a module did, from the whole of its ``result``; returns the new records.

    To be called after every run outside of check mode; a result in which nothing happened leaves none.
    """
    records = []
    for event in of_results(task.module, task.arguments, result):
        told = replace(event, before=None, after=None, message="(no_log)") if task.no_log else event
        approvals = [one for one in (task.approval, event.approval) if one]
        records.append(
            log.append(
                told,
                gateway=task.gateway,
                remote_user=task.remote_user,
                approval="; ".join(approvals) or None,
                rollout=task.rollout,
            )
        )
    return records


def log_of(variables: Mapping[str, Any], template: Callable[[Any], Any] = str) -> AuditLog:
    """The log that an inventory's ``variables`` name, whose expressions ``template`` resolves."""
    return AuditLog(str(template(variables.get(VARIABLE) or DEFAULT_LOG)))


# Writing


class AuditLog:
    """The log at ``path``. Any number of processes may append at a time."""

    def __init__(self, path: str | Path = DEFAULT_LOG, every: int = CHECKPOINT_EVERY) -> None:
        """``every`` so many records, and with the first one, the log signs a checkpoint."""
        self.path = Path(path).expanduser()
        self.every = every

    def prepare(self) -> None:
        """Begin the log where there is none, and mend what a cut left; AuditError where it cannot be written.

        To be called before something is done that must not happen unrecorded.
        """
        with self._open():
            pass

    def append(
        self,
        event: Event,
        *,
        gateway: str | None = None,
        remote_user: str | None = None,
        approval: str | None = None,
        rollout: str | None = None,
    ) -> Record:
        """Add a record of ``event``, redacted; it is on the disk when this returns. AuditError where it cannot be."""
        with self._open() as writer:
            return writer.append(event, gateway, remote_user, approval, rollout)

    def checkpoint(self) -> Record:
        """Sign the log as it is now; returns the checkpoint."""
        with self._open() as writer:
            return writer.checkpoint()

    @contextlib.contextmanager
    def _open(self) -> Iterator[_Writer]:
        """The log for one process alone, whole again if a cut had left it otherwise."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = _beside(self.path, "checkpoints")
            with open(self.path, "a+b", 0) as records, open(beside, "a+b", 0) as checkpoints:
                _take(records, self.path, fcntl.LOCK_EX)
                writer = _Writer(self.path, records, checkpoints, self.every)
                writer.begin()
                yield writer
        except OSError as error:
            raise AuditError(
                f"audit log {self.path}: {error.filename or self.path}: {error.strerror}; expected to write there: "
                f"correct its permissions, free space, or name another place in {VARIABLE}"
            ) from None


class _Writer:
    """An open and locked log."""

    def __init__(self, path: Path, records: FileIO, checkpoints: FileIO, every: int) -> None:
        self._path = path
        self._records = records
        self._checkpoints = checkpoints
        self._every = every
        self._key, self._key_is_new = _own_key(path)
        self._head: Record = {}

    def begin(self) -> None:
        """Bring log and checkpoints to what the head says; record what had to be mended."""
        checkpoints = _beside(self._path, "checkpoints")
        notes = [*_mend(self._records, self._path), *_mend(self._checkpoints, checkpoints)]
        line = _the_line(_content_of(_beside(self._path, "head")), _HEAD, _head_wrong)
        if line and not line.wrong and is_signed(line.data, self._key.public_key()):
            self._head = line.data
            notes += self._put_back()
            if notes:
                self._tell("repair", notes)
            return
        self._head = self._newest()
        if line or not self._key_is_new or _size(self._records) or _size(self._checkpoints):
            found = "is not signed with the log's key" if line else "is missing"
            notes.append(f"the head {found}, so that nothing proves with which record the log ended")
            self._tell("damage", notes)
        else:
            self._tell("log_start", [f"signed with {_fingerprint(self._key.public_key())}"])

    def _put_back(self) -> list[str]:
        notes = []
        for stream, key, what in (
            (self._records, "record", f"record {self._head['record']['seq']}"),
            (self._checkpoints, "checkpoint", f"checkpoint {self._head['checkpoint']['number']}"),
        ):
            line = canonical(self._head[key])
            if _last_line(stream) != line:
                _write(stream, line)
                notes.append(f"{what} was not the last one and has been put back from the head")
        return notes

    def _newest(self) -> Record:
        """What a head would say by the files alone."""
        records = _lines(_content(self._records), _RECORD, _record_wrong)
        checkpoints = _lines(_content(self._checkpoints), _CHECKPOINT, _checkpoint_wrong)
        return {
            "record": max(_whole(records), key=lambda one: one["seq"], default={"seq": 0, "hash": _NOTHING}),
            "checkpoint": max(_whole(checkpoints), key=lambda one: one["number"], default={"number": 0}),
        }

    def _tell(self, what: str, notes: Sequence[str]) -> None:
        self.append(Event(what, result="changed", message="; ".join(notes)))

    def append(
        self,
        event: Event,
        gateway: str | None = None,
        remote_user: str | None = None,
        approval: str | None = None,
        rollout: str | None = None,
    ) -> Record:
        last = self._head["record"]
        plain: Record = redact(asdict(event))
        record: Record = {
            "seq": last["seq"] + 1,
            "time": _now(),
            "who": {**_user(), "remote_user": redact(remote_user)},
            "from": {"host": socket.gethostname(), "ssh_client": os.environ.get("SSH_CLIENT")},
            "where": {"gateway": redact(gateway), **{key: plain[key] for key in ("controller", "line", "unit")}},
            **{key: plain[key] for key in ("what", "before", "after", "image", "result", "message")},
            "approval": redact(approval),
            "rollout": redact(rollout),
            "previous": last["hash"],
        }
        record["hash"] = _digest(record)
        line = canonical(record)
        due = self._head["checkpoint"]["number"] == 0 or record["seq"] % self._every == 0
        self._go_to(record, self._next_checkpoint(record, _size(self._records) + len(line)) if due else None)
        return record

    def checkpoint(self) -> Record:
        checkpoint = self._next_checkpoint(self._head["record"], _size(self._records))
        self._go_to(self._head["record"], checkpoint)
        return checkpoint

    def _next_checkpoint(self, record: Mapping[str, Any], size: int) -> Record:
        number = self._head["checkpoint"]["number"] + 1
        data = {"number": number, "seq": record["seq"], "hash": record["hash"], "time": _now(), "size": size}
        return signed(data, self._key)

    def _go_to(self, record: Record, checkpoint: Record | None) -> None:
        """Write what is new, the head first: it is what a cut in between is mended from."""
        new_record = record is not self._head["record"]
        self._head = signed({"record": record, "checkpoint": checkpoint or self._head["checkpoint"]}, self._key)
        write_atomically(_beside(self._path, "head"), canonical(self._head))
        if new_record:
            _write(self._records, canonical(record))
        if checkpoint:
            _write(self._checkpoints, canonical(checkpoint))


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def _take(stream: FileIO, path: Path, how: int) -> None:
    deadline = time.monotonic() + _LOCK_DEADLINE
    while True:
        try:
            fcntl.flock(stream, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise AuditError(
                    f"audit log {path}: held for {_LOCK_DEADLINE:.0f} s by {name_all(holders(str(path)))}; "
                    "expected it free: end that process"
                ) from None
        time.sleep(0.002)


def _mend(stream: FileIO, path: Path) -> list[str]:
    """Move what a cut left of a last line aside; returns what was done."""
    size = _size(stream)
    torn = _tail(stream, size)
    if not torn:
        return []
    aside = _beside(path, f"torn-{_now().replace(':', '').replace('-', '')}")
    write_atomically(aside, torn)
    stream.truncate(size - len(torn))
    os.fsync(stream.fileno())
    return [f"{len(torn)} bytes of a torn line of {path.name} were moved to {aside.name}"]


def _tail(stream: FileIO, end: int) -> bytes:
    """What stands between the last end of a line before ``end`` and ``end``."""
    found = b""
    while end > 0:
        begin = max(0, end - _BLOCK)
        stream.seek(begin)
        block = stream.read(end - begin)
        place = block.rfind(b"\n")
        found = block[place + 1 :] + found
        if place >= 0:
            break
        end = begin
    return found


def _last_line(stream: FileIO) -> bytes:
    """The last line of a file that ends with a whole one; nothing of an empty file."""
    size = _size(stream)
    return _tail(stream, size - 1) + b"\n" if size else b""


def _size(stream: FileIO) -> int:
    return stream.seek(0, os.SEEK_END)


def _content(stream: FileIO) -> bytes:
    stream.seek(0)
    return stream.readall()


def _write(stream: FileIO, line: bytes) -> None:
    if stream.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), stream.name)
    os.fsync(stream.fileno())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _user() -> dict[str, str | None]:
    """Who we are; the environment is asked only for whom sudo took us over from."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return {"user": user, "sudo_user": os.environ.get("SUDO_USER")}


# Keys


def _own_key(path: Path) -> tuple[Ed25519PrivateKey, bool]:
    """The log's key, and whether it has just been made."""
    try:
        return own_key(_beside(path, "key"))
    except KeyProblem as problem:
        raise AuditError(f"{problem}; restore it, or move {path.name}* away together") from None


def _fingerprint(key: Ed25519PublicKey) -> str:
    """How a log names its key: the sha256 of the public key's PEM file."""
    return f"the key whose .pub file has the sha256 {hashlib.sha256(public_pem(key)).hexdigest()}"


def _public_key(place: Path) -> Ed25519PublicKey:
    try:
        return load_public_key(place)
    except KeyProblem as problem:
        raise AuditError(f"{problem}; name the copy that was kept elsewhere") from None


# Format


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical({key: value for key, value in record.items() if key != "hash"})).hexdigest()


@dataclass(frozen=True)
class _Line:
    """A line of a file, what it holds, and what is wrong with it by itself."""

    number: int
    offset: int
    data: Record
    wrong: str | None


Check = Callable[[Record], str | None]


def _lines(content: bytes, fields: Collection[str], check: Check) -> list[_Line]:
    found = []
    offset = 0
    for number, raw in enumerate(BytesIO(content), 1):
        data, wrong = _parse(raw, fields)
        found.append(_Line(number, offset, data, wrong or check(data)))
        offset += len(raw)
    return found


def _the_line(content: bytes, fields: Collection[str], check: Check) -> _Line | None:
    """The line of a file that has one at most; more of them are none."""
    lines = _lines(content, fields, check)
    return replace(lines[0], wrong=lines[0].wrong or "expected one line") if len(lines) > 1 else next(iter(lines), None)


def _parse(raw: bytes, fields: Collection[str]) -> tuple[Record, str | None]:
    if not raw.endswith(b"\n"):
        return {}, "the line has no end"
    try:
        data = json.loads(raw.decode())
        is_canonical = isinstance(data, dict) and canonical(data) == raw
    except (ValueError, RecursionError):
        return {}, "is not JSON"
    if not isinstance(data, dict) or set(data) != set(fields):
        return {}, "has not the fields that belong there"
    return data, None if is_canonical else "is not written as it was"


def _record_wrong(data: Record) -> str | None:
    try:
        datetime.datetime.fromisoformat(data["time"])
        whole = _is_number(data["seq"]) and isinstance(data["previous"], str) and set(data["where"]) == _WHERE
    except (TypeError, ValueError):
        whole = False
    if not whole:
        return "has not the values that belong there"
    return None if _digest(data) == data["hash"] else "its content does not have its hash"


def _checkpoint_wrong(data: Record) -> str | None:
    numbers = all(_is_number(data[key]) for key in ("number", "seq", "size"))
    texts = all(isinstance(data[key], str) for key in ("hash", "signature"))
    return None if numbers and texts else "has not the values that belong there"


def _head_wrong(data: Record) -> str | None:
    record, checkpoint = data["record"], data["checkpoint"]
    whole = isinstance(record, dict) and isinstance(checkpoint, dict) and isinstance(data["signature"], str)
    if not whole or set(record) != _RECORD or set(checkpoint) != _CHECKPOINT:
        return "has not the values that belong there"
    return _record_wrong(record) or _checkpoint_wrong(checkpoint)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(lines: Iterable[_Line]) -> Iterator[Record]:
    return (line.data for line in lines if not line.wrong)


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


# Reading


def read(
    path: str | Path,
    *,
    since: str | None = None,
    until: str | None = None,
    gateway: str | None = None,
    controller: str | None = None,
    rollout: str | None = None,
    events: Collection[str] = (),
    limit: int | None = None,
) -> list[Record]:
    """The records that fit, oldest first; of more than ``limit`` the newest. What is damaged is left to ``verify``.

    ``since`` and ``until`` are dates or times as ISO 8601, in UTC where they name no zone; both are included, a date
    as ``until`` with its whole day.
    """
    earliest, latest = _bound(since, "since"), _bound(until, "until", end=True)
    wanted = {"gateway": gateway, "controller": controller}
    found = []
    for record in _whole(_lines(_contents(Path(path).expanduser())["log"], _RECORD, _record_wrong)):
        moment = datetime.datetime.fromisoformat(record["time"])
        if (
            all(value is None or record["where"][key] == value for key, value in wanted.items())
            and (rollout is None or record["rollout"] == rollout)
            and (not events or record["what"] in events)
            and (earliest is None or earliest <= moment)
            and (latest is None or moment <= latest)
        ):
            found.append(record)
    return found if limit is None else found[max(0, len(found) - limit) :]


def _bound(text: str | None, what: str, end: bool = False) -> datetime.datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise AuditError(
            f"{what} is {text!r}, expected a date or time such as 2026-11-22 or 2026-11-22T14:30:00Z"
        ) from None
    if end and len(text) <= len("2026-11-22"):
        moment += datetime.timedelta(days=1, microseconds=-1)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _contents(path: Path) -> dict[str, bytes]:
    """What log, checkpoints and head hold at one moment."""
    places = {"log": path, **{what: _beside(path, what) for what in ("checkpoints", "head")}}
    try:
        if not path.exists():
            return {what: _content_of(place) for what, place in places.items()}
        with open(path, "rb", 0) as stream:
            _take(stream, path, fcntl.LOCK_SH)
            return {what: _content_of(place) for what, place in places.items()}
    except OSError as error:
        raise AuditError(
            f"audit log {path}: {error.filename or path}: {error.strerror}; expected to read there"
        ) from None


# Verifying


def verify(path: str | Path, public_key: str | Path | None = None, kept: Sequence[str | Path] = ()) -> list[Finding]:
    """Everything that is wrong with the log at ``path``, in the order of log, checkpoints, head and ``kept``.

    ``public_key`` is its public key's file, without one that beside the log, which whoever can write there can
    replace. ``kept`` are older copies of its head or checkpoints: what they sign must still be in the log, so that a
    log put back to an earlier state as a whole is found as well.
    """
    place = Path(path).expanduser()
    contents = _contents(place)
    if not any(contents.values()) and not public_key:
        raise AuditError(f"audit log {place}: not there; name its place in {VARIABLE} if something was recorded")
    key = _public_key(Path(public_key).expanduser() if public_key else _beside(place, "pub"))
    verification = _Verification(place, contents, key)
    for copy in kept:
        verification.check_kept(Path(copy).expanduser())
    return verification.findings


class _Verification:
    """Findings of one log, filled as it is looked through."""

    def __init__(self, path: Path, contents: Mapping[str, bytes], key: Ed25519PublicKey) -> None:
        self.findings: list[Finding] = []
        self._path = path
        self._key = key
        self._size = len(contents["log"])
        self._records: dict[int, _Line] = {}
        self._damaged: set[int] = set()  # those that lines without a whole record stand for
        self._check_records(_lines(contents["log"], _RECORD, _record_wrong))
        checkpoints = _lines(contents["checkpoints"], _CHECKPOINT, _checkpoint_wrong)
        self._check_checkpoints(checkpoints)
        self._check_head(contents["head"], _last(contents["log"]), _last(contents["checkpoints"]))

    def _add(self, path: Path, line: _Line | None, seq: int | None, kind: str, message: str) -> None:
        number, offset = (line.number, line.offset) if line else (None, None)
        self.findings.append(Finding(path.name, number, offset, seq, kind, message))

    def _check_records(self, lines: Sequence[_Line]) -> None:
        whole = [line for line in lines if not line.wrong]
        in_place = {whole[index].number for index in _longest_rise([line.data["seq"] for line in whole])}
        self._records = {line.data["seq"]: line for line in whole if line.number in in_place}
        present = {line.data["seq"] for line in whole}
        expected = 1
        previous: str | None = _NOTHING
        damaged = 0  # lines since the last one in place, which stand for records that are not missing
        for line in lines:
            if line.wrong:
                self._add(self._path, line, expected + damaged, "edited", line.wrong)
                self._damaged.add(expected + damaged)
                if not damaged and line.data.get("seq") == expected:
                    expected, previous = expected + 1, None
                else:
                    damaged += 1
                continue
            record = line.data
            seq = record["seq"]
            if record["what"] == "damage":
                self._add(self._path, line, seq, "damage", str(record["message"]))
            if line.number not in in_place:
                self._check_misplaced(line, seq, expected)
                continue
            gone = any(number not in present for number in range(expected, seq))
            if gone and seq - expected > damaged:
                self._add(self._path, line, seq, "missing", f"missing before it: {_span(expected, seq - 1)}")
            elif seq == expected and not damaged and previous is not None and record["previous"] != previous:
                self._add(self._path, line, seq, "rewritten", "does not follow from the record before it")
            expected, previous, damaged = seq + 1, record["hash"], 0

    def _check_misplaced(self, line: _Line, seq: int, expected: int) -> None:
        first = self._records.setdefault(seq, line)
        if first is line:
            self._add(self._path, line, seq, "reordered", f"stands where record {expected} belongs")
            return
        same = first.data["hash"] == line.data["hash"]
        kind, what = ("duplicated", "the same") if same else ("inserted", "another")
        self._add(self._path, line, seq, kind, f"{what} record {seq} stands in line {first.number}")

    def _check_checkpoints(self, lines: Sequence[_Line]) -> None:
        path = _beside(self._path, "checkpoints")
        expected = 1
        for line in lines:
            number = None if line.wrong else line.data["number"]
            if line.wrong:
                self._add(path, line, None, "edited", line.wrong)
            elif not is_signed(line.data, self._key):
                self._add(path, line, None, "unsigned", "is not signed with the log's key")
            elif number != expected:
                self._add(path, line, None, "reordered", f"is checkpoint {number}, expected {expected} there")
            if number is not None:
                self._check_claim(path, line, line.data)
            expected = (number or expected) + 1

    def _check_claim(self, path: Path, line: _Line, claim: Mapping[str, Any]) -> None:
        """A signed statement that the log holds a record."""
        seq = claim["seq"]
        record = self._records.get(seq)
        if record is None and seq in self._damaged:
            return
        if record is None:
            size = f", which had {claim['size']} bytes then and has {self._size} now" if "size" in claim else ""
            self._add(path, line, seq, "truncated", f"signs record {seq}, which is not in the log{size}")
        elif record.data["hash"] != claim["hash"]:
            self._add(path, line, seq, "rewritten", f"signs another record {seq} than that in line {record.number}")

    def _check_head(self, content: bytes, last_record: bytes, last_checkpoint: bytes) -> None:
        path = _beside(self._path, "head")
        line = _the_line(content, _HEAD, _head_wrong)
        if line is None:
            self._add(path, None, None, "missing", "nothing proves with which record the log ends")
        elif line.wrong:
            self._add(path, line, None, "edited", line.wrong)
        elif not is_signed(line.data, self._key):
            self._add(path, line, None, "unsigned", "is not signed with the log's key")
        else:
            record, checkpoint = line.data["record"], line.data["checkpoint"]
            seq, number = record["seq"], checkpoint["number"]
            newest = max({*self._records, *self._damaged}, default=0)
            if newest < seq:
                message = f"missing at the end of the log: {_span(newest + 1, seq)}; the next one that is written"
                self._add(self._path, None, seq, "truncated", f"{message} puts record {seq} back from the head")
            elif last_record != canonical(record) and seq not in self._damaged:
                kind = "rewritten" if newest == seq else "inserted"
                self._add(self._path, None, seq, kind, f"the log ends otherwise than with the record {seq} of its head")
            if last_checkpoint != canonical(checkpoint):
                message = f"must end with checkpoint {number}, says the head"
                self._add(_beside(self._path, "checkpoints"), None, None, "truncated", message)

    def check_kept(self, path: Path) -> None:
        """A copy of a head or of checkpoints, kept elsewhere."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise AuditError(f"kept copy {path}: {error.strerror}; name a copy of a head or of checkpoints") from None
        head = _the_line(content, _HEAD, _head_wrong)
        lines = [head] if head and not head.wrong else _lines(content, _CHECKPOINT, _checkpoint_wrong)
        if not lines:
            raise AuditError(f"kept copy {path}: is empty; name a copy of a head or of checkpoints")
        for line in lines:
            if line.wrong or not is_signed(line.data, self._key):
                self._add(path, line, None, "unsigned", "is no head or checkpoint signed with the log's key")
            else:
                self._check_claim(path, line, line.data.get("record", line.data))


def _longest_rise(numbers: Sequence[int]) -> list[int]:
    """The indices of a longest rising part of ``numbers``: what is left of an order when the fewest are taken out."""
    lowest: list[int] = []  # of all rising parts with one, two … numbers, the lowest last number
    ends: list[int] = []  # and its index
    before: list[int] = []
    for index, number in enumerate(numbers):
        length = bisect.bisect_left(lowest, number)
        before.append(ends[length - 1] if length else -1)
        if lowest[length : length + 1] != [number]:
            lowest[length : length + 1] = [number]
            ends[length : length + 1] = [index]
    found = []
    index = ends[-1] if ends else -1
    while index >= 0:
        found.append(index)
        index = before[index]
    return found


def _last(content: bytes) -> bytes:
    """The last line, whole or not."""
    return content[content.rfind(b"\n", 0, max(0, len(content) - 1)) + 1 :]


def _span(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"records {first} to {last}"

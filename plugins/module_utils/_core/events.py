# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done to controllers, in words that outlive the run: the events of the audit log and of the system journal.

``of_results`` turns what a module returned into events, on the control node for the audit log and on the gateway for
its journal, so that both tell the same. ``redact`` keeps secrets out of either.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import syslog
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from .profile import Profile

REDACTED = "(redacted)"
_SECRET_KEY = re.compile(r"passw|passphrase|secret|token|vault|credential|keys?(?![a-z])|keyfile", re.IGNORECASE)
_SECRET_TEXT = (
    re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----.*?(?:-----END [^-]*-----|$)", re.DOTALL),
    re.compile(r"(?<=://)[^\s/@]+(?=@)"),
    re.compile(
        r"(?<![a-z])(?P<name>[\w-]*(?:passw(?:or)?d|passphrase|secret|token|credentials?|(?:api|private)[_-]?key)[\w-]*"
        r"[\"']?\s*[=:]\s*)(?:\"[^\"]*\"|'[^']*'|\S+)",
        re.IGNORECASE,
    ),
)
# Shorter ones would take words out of messages that have nothing to do with them.
_SHORTEST_SECRET = 4

_KINDS = {
    "firmware": "flash",
    "firmware_info": "chip_read",
    "registers": "register_write",
    "restore": "restore",
    "snapshot": "snapshot",
}
_TRUE = ("true", "yes", "on", "y", "t", "1")  # as a task's arguments may say it before the module has seen them
_DEFAULT_PROFILE = "multi_sonicator_io"
_SEND_DEADLINE = 1.0


@dataclass(frozen=True)
class Event:
    """One thing that was done, or that failed or was refused.

    ``what``: flash, rollback, register_write, emergency, restore, snapshot, chip_read, approval, rollout_start or
    another word of the caller's. ``before`` and ``after`` hold values by name, ``image`` the sha256 of the flash's
    content that was to be, as far as it is known. ``result``: an outcome of the firmware transaction, else changed,
    read or failed. ``approval`` says who approved it on the gateway, and why.
    """

    what: str
    controller: str | None = None
    line: str | None = None
    unit: int | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    image: str | None = None
    result: str | None = None
    message: str | None = None
    approval: str | None = None


def of_results(module: str, arguments: Mapping[str, Any], result: Mapping[str, Any]) -> list[Event]:
    """The events of a module of this collection that has run, not in check mode; redacted.

    ``arguments`` are the module's, with ``controllers`` and ``profiles`` as the gateway gets them; ``result`` is what
    it returned. Every controller that was changed, or failed, or was refused makes an event, and every chip that was
    read, which resets it. A module that failed as a whole did so for all controllers it was to work on.
    """
    if module not in _KINDS:
        return []
    known = set(_secrets(arguments))
    reads = str(arguments.get("read_chip")).lower() in _TRUE
    events = []
    for one in _per_controller(arguments, result):
        if reads or one.get("changed") or (one.get("failed") and module != "firmware_info"):
            event = _event("chip_read" if reads else _KINDS[module], arguments, one)
            redacted = {
                side: redact(getattr(event, side), known) for side in ("before", "after", "message", "approval")
            }
            events.append(replace(event, **redacted))
    return events


def _per_controller(arguments: Mapping[str, Any], result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "controllers" in result:
        return list(result["controllers"])
    if not result.get("failed"):
        return []
    only = arguments.get("only")
    return [
        {"failed": True, "msg": result.get("msg"), **{key: entry.get(key) for key in ("name", "line", "unit")}}
        for entry in arguments["controllers"]
        if only is None or entry["name"] in only
    ]


def _event(what: str, arguments: Mapping[str, Any], one: Mapping[str, Any]) -> Event:
    message = str(one.get("msg") or "")
    found = [f"{key} {one[key]}" for key in ("transaction", "set") if one.get(key)]
    event = Event(
        what=what,
        controller=one["name"],
        line=one.get("line"),
        unit=one.get("unit"),
        before=one.get("before"),
        after=one.get("after"),
        result=one.get("outcome") or ("failed" if one.get("failed") else "read" if what == "chip_read" else "changed"),
        message=f"{message} ({', '.join(found)})" if found else message,
        approval=_approval(one.get("approval")),
    )
    if what == "register_write":
        return _register_event(event, arguments, one)
    if what == "restore":
        return replace(event, before=_written(one, "before"), after=_written(one, "after"))
    if what == "flash":
        kind = "restore" if event.result == "restored" else "rollback" if arguments.get("set") else what
        reached = None if one.get("failed") else (event.after or {}).get("digest")
        return replace(event, what=kind, image=one.get("image") or reached)
    return event


def _approval(approval: Mapping[str, Any] | None) -> str | None:
    return f"{' and '.join(approval['by'])}: {approval['reason']} (request {approval['id']})" if approval else None


def _written(one: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Of a result's values those of the points that were written."""
    values = one.get(side) or {}
    return {name: values[name] for name in one.get("written") or () if name in values}


def _register_event(event: Event, arguments: Mapping[str, Any], one: Mapping[str, Any]) -> Event:
    entry: Mapping[str, Any] = {entry["name"]: entry for entry in arguments["controllers"]}[one["name"]]
    wanted = {**(entry.get("settings") or {}), **(arguments.get("values") or {})}
    if "written" in one:
        names = list(one["written"])
        # A point that cannot be read has nothing but what was written to it.
        after = {name: wanted[name] for name in names} | _written(one, "after")
        event = replace(event, before=_written(one, "before"), after=after)
    else:
        names = list(wanted)
        asked = ", ".join(f"{name}={value}" for name, value in wanted.items())
        event = replace(event, message=f"{event.message} (wanted: {asked})")
    points = Profile.from_mapping(arguments["profiles"][entry.get("profile") or _DEFAULT_PROFILE]).points
    if any(name in points and points[name].safety == "emergency" for name in names):
        return replace(event, what="emergency")
    return event


# Secrets


def redact(value: Any, known: Collection[str] = ()) -> Any:
    """``value`` as plain JSON data without secrets.

    Dropped are values under keys that look secret, the strings ``known`` wherever they stand, and in text what
    follows a word for a secret, passwords in addresses, and private keys.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return {
            redact(str(key), known): REDACTED if _SECRET_KEY.search(str(key)) else redact(one, known)
            for key, one in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(one, known) for one in value]
    if isinstance(value, (int, float)) and str(value) not in known:
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(value)
        return int(value)
    return _redact_text(str(value), known)


def _redact_text(text: str, known: Collection[str]) -> str:
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    for pattern in _SECRET_TEXT:
        text = pattern.sub(lambda found: (found.groupdict().get("name") or "") + REDACTED, text)
    return text.encode(errors="replace").decode()


def _secrets(data: Any, secret: bool = False) -> Iterator[str]:
    """Every string and number under a key that looks secret."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            # Profiles and the files of releases hold no secrets, and are large.
            if key not in ("profiles", "content", "offered"):
                yield from _secrets(value, secret or bool(_SECRET_KEY.search(str(key))))
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from _secrets(value, secret)
    elif secret and data is not None and not isinstance(data, bool) and len(str(data)) >= _SHORTEST_SECRET:
        yield str(data)


# The system journal


def send(events: Iterable[Event], address: str = "/dev/log") -> int:
    """Tell the system journal of ``events``, one line of JSON each; returns how many it took.

    The lines have the identifier ``multi_sonicator`` and the facility local0, so that a site can forward exactly
    these; the level is warning for a failure, else notice. A gateway without a system journal at ``address``, or one
    whose journal does not take a line for a second, gets none: what was done to controllers must not depend on it.
    """
    sent = 0
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.settimeout(_SEND_DEADLINE)
        journal.connect(address)
        for event in events:
            failed = event.result in ("failed", "refused", "rolled_back")
            level = syslog.LOG_WARNING if failed else syslog.LOG_NOTICE
            text = json.dumps(redact(asdict(event)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            head = f"<{syslog.LOG_LOCAL0 | level}>{time.strftime('%b %e %H:%M:%S')} multi_sonicator[{os.getpid()}]: "
            journal.send(f"{head}{text}".encode())
            sent += 1
    return sent

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command of people on a gateway: what its controllers do, and the emergency stop. Works without a control node."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import pwd
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from . import events, lock
from .change import Policy
from .console import complain, say
from .errors import CoreError
from .gateway import Gateway, Result, by_line
from .keeper import STATUS
from .operations import read_registers, take_snapshots
from .rest import stop_all
from .settings import PATH, load

_STALE = 5.0
_EPILOG = """\
exit codes: 0 done, and every controller answers; 1 a controller does not answer, or it failed for one;
2 wrong usage, or this gateway is not set up; 3 no permission

status and lines are for everybody; the others need the ports of the lines (group dialout) or sudo, and snapshot and
stop-all are meant for sudo."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    given = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = given.run
    try:
        return run(given)
    except CoreError as error:
        complain(f"msctl: {error}")
        return 2
    except PermissionError as error:
        complain(f"msctl: {error.filename}: {error.strerror}; try sudo msctl {given.verb}")
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="msctl",
        description="The controllers of this gateway.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--configuration", type=Path, default=PATH, metavar="FILE")
    verbs = parser.add_subparsers(dest="verb", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text)
        verb.set_defaults(run=run)
        return verb

    status = add("status", _status, "what the line keeper hears")
    status.add_argument("--json", action="store_true", help="all of it, as JSON")
    status.add_argument("--file", type=Path, default=STATUS, help=argparse.SUPPRESS)
    read = add("read", _read, "read points of a controller now")
    read.add_argument("controller")
    read.add_argument("point", nargs="+", help="names of its profile")
    read.add_argument("--json", action="store_true")
    snapshot = add("snapshot", _snapshot, "keep the settings of controllers")
    snapshot.add_argument("controller", nargs="*", help="all without a name")
    stop = add("stop-all", _stop_all, "EMERGENCY: stop all units of all controllers and keep starts out")
    stop.add_argument("--yes", action="store_true", help="do not ask")
    add("lines", _lines, "who holds each line and who has it open")
    return parser


def _status(given: argparse.Namespace) -> int:
    try:
        status = json.loads(given.file.read_bytes())
        old = time.time() - given.file.stat().st_mtime
    except FileNotFoundError:
        raise CoreError(
            f"{given.file} is not there: the line keeper does not run; see systemctl status multi-sonicator-keeper"
        ) from None
    well = old <= _STALE and all(one["state"] in ("answers", "transaction") for one in status["controllers"])
    if given.json:
        say(json.dumps(status, indent=2))
        return 0 if well else 1
    if old > _STALE:
        complain(f"the line keeper has said nothing for {old:.0f} s; what follows is of then")
    _table(
        ("CONTROLLER", "STATE", "SINCE", "FIRMWARE", "UNITS", "ALARMS", "LINE", "UNIT"),
        (
            (
                one["name"],
                one["state"],
                one["since"],
                one["version"] or "-",
                ("run" if one["running"] else "rest") if one["values"] else "-",
                "; ".join(one["alarms"]) or ("none" if one["values"] else "-"),
                one["line"],
                str(one["unit"]),
            )
            for one in status["controllers"]
        ),
    )
    for line in status["lines"]:
        if line["error"]:
            say(line["error"])
    for one in status["controllers"]:
        if one["state"] == "silent":
            say(f"{one['name']}: {one['error']}")
    return 0 if well else 1


def _read(given: argparse.Namespace) -> int:
    results = read_registers(load(given.configuration).gateway([given.controller]), given.point, [])
    values = results[0].get("points") or {}
    if given.json and values:
        say(json.dumps(values, indent=2))
    else:
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            say(f"{name} = {text} {results[0]['units'].get(name, '')}".rstrip())
    return _tell(results, told=bool(values))


def _snapshot(given: argparse.Namespace) -> int:
    gateway = load(given.configuration).gateway(given.controller or None)
    if gateway.store.root.exists() and not os.access(gateway.store.root, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(gateway.store.root))
    results = take_snapshots(gateway, False, Policy(), False)
    events.send(_events("snapshot", [one for one in results if one["changed"] or one["failed"]], "read"))
    return _tell(results)


def _stop_all(given: argparse.Namespace) -> int:
    gateway = load(given.configuration).gateway()
    if not given.yes and not _confirmed(gateway):
        complain("msctl: nothing was done")
        return 2
    results = stop_all(gateway)
    events.send(_events("emergency", results, "changed"))
    return _tell(results)


def _confirmed(gateway: Gateway) -> bool:
    names = ", ".join(one.name for one in gateway.controllers) or "none"
    if not sys.stdin.isatty():
        complain("msctl: nobody to ask here; say --yes")
        return False
    with contextlib.suppress(EOFError):
        return input(f"Stop all units of {names}? Type stop: ").strip() == "stop"
    return False


def _lines(given: argparse.Namespace) -> int:
    rows = []
    for members in by_line(load(given.configuration).controllers).values():
        line = members[0].line
        holders = {one.pid: one for one in lock.holders(line)}
        users = {one.pid: one for one in lock.openers(line)} | holders
        rows += [
            (line, "holds" if pid in holders else "open", str(pid), _owner(pid), one.command)
            for pid, one in users.items()
        ] or [(line, "free" if "://" not in line else "network", "-", "-", "-")]
    _table(("LINE", "STATE", "PID", "USER", "COMMAND"), rows)
    if os.geteuid() != 0:
        complain("of other users' programs only those that hold a line are shown; sudo shows all")
    return 0


def _events(what: str, results: Iterable[Result], done: str) -> list[events.Event]:
    return [
        events.Event(
            what=what,
            controller=one["name"],
            line=one["line"],
            unit=one["unit"],
            result="failed" if one["failed"] else done,
            message=f"{one['msg']} (msctl by {_caller()})",
        )
        for one in results
    ]


def _caller() -> str:
    """Who it is, whatever sudo has made of him since he logged in."""
    try:
        number = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        number = -1
    names = [os.environ.get("SUDO_USER"), _name(number), _name(os.getuid())]
    return next(name for name in names if name)


def _owner(pid: int) -> str:
    try:
        return _name(os.stat(f"/proc/{pid}").st_uid) or "-"
    except OSError:
        return "-"


def _name(number: int) -> str | None:
    if not 0 <= number < 0xFFFF_FFFF:
        return None
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _tell(results: Sequence[Result], told: bool = False) -> int:
    for one in results:
        if one["failed"]:
            complain(f"{one['name']} ({one['line']} unit {one['unit']}): {one['msg']}")
        elif not told:
            say(f"{one['name']}: {one['msg']}")
    return 1 if any(one["failed"] for one in results) else 0


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())

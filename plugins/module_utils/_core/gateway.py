# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All controllers of one gateway: parallel across lines, in turn on one line."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .approval import Approvals
from .device import Device
from .errors import CoreError
from .line import Bus, open_bus
from .profile import Profile
from .progress import Progress
from .store import Store

# A firmware stops its units after its longest silence, 1 s by the documentation; half of it leaves room for a retry.
KEEP_ALIVE = 0.2
_KEEP_ALIVE_SILENT = 2.0
_MISSES = 4
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Result = dict[str, Any]
T = TypeVar("T")


class InventoryError(CoreError):
    """Controllers whose description contradicts itself or one another. Nothing was sent."""


@dataclass(frozen=True)
class Controller:
    """One controller as the inventory describes it; ``line`` and ``programmer`` are ports of the gateway."""

    name: str
    line: str
    unit: int
    profile: Profile
    programmer: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    firmware_version: str | None = None
    hardware_revision: str | None = None

    @property
    def place(self) -> Result:
        """What every result says of where the controller is."""
        return {"name": self.name, "line": self.line, "unit": self.unit}


def parse_controllers(
    entries: Iterable[Mapping[str, Any]], profiles: Mapping[str, Mapping[str, Any]]
) -> list[Controller]:
    """The controllers of the inventory's ``entries``; InventoryError lists everything that is wrong with them."""
    known = {name: Profile.from_mapping(data) for name, data in profiles.items()}
    problems: list[str] = []
    controllers: list[Controller] = []
    for entry in entries:
        name = str(entry["name"])
        if not _NAME.fullmatch(name):
            problems.append(f"controller {name!r}: a name has letters, digits, dot, dash and underscore, at most 64")
            continue
        if not 1 <= entry["unit"] <= 247:
            problems.append(f"controller {name}: unit {entry['unit']} is outside of 1 to 247")
        if entry["profile"] not in known:
            problems.append(f"controller {name}: profile {entry['profile']} was not given")
            continue
        ports = {key: entry[key] for key in ("line", "programmer") if entry.get(key)}
        if wrong := [f"{key} is {port!r}" for key, port in ports.items() if not port.isprintable()]:
            problems.append(f"controller {name}: {' and '.join(wrong)}, expected the path of a port")
            continue
        controllers.append(
            Controller(
                name=name,
                line=entry["line"],
                unit=entry["unit"],
                profile=known[entry["profile"]],
                programmer=entry.get("programmer"),
                settings=entry.get("settings") or {},
                firmware_version=entry.get("firmware_version"),
                hardware_revision=entry.get("hardware_revision"),
            )
        )
    problems += _contradictions(controllers)
    if problems:
        raise InventoryError("; ".join(problems) + ". Correct the inventory; nothing was sent")
    return controllers


def _contradictions(controllers: Sequence[Controller]) -> list[str]:
    problems = [
        f"controller {name} is listed {count} times"
        for name, count in Counter(controller.name for controller in controllers).items()
        if count > 1
    ]
    places: dict[tuple[str, int], str] = {}
    programmers: dict[str, str] = {}
    modes: dict[str, tuple[tuple[int, str, int], str]] = {}
    for controller in controllers:
        name, line = controller.name, _real(controller.line)
        other = places.setdefault((line, controller.unit), name)
        if other != name:
            problems.append(
                f"controllers {other} and {name} both claim unit {controller.unit} on line {controller.line}"
            )
        if controller.programmer:
            other = programmers.setdefault(_real(controller.programmer), name)
            if other != name:
                problems.append(f"controllers {other} and {name} both claim programmer {controller.programmer}")
        timing = controller.profile.timing
        mode = (timing.baudrate, timing.parity, timing.stopbits)
        first, other = modes.setdefault(line, (mode, name))
        if first != mode:
            problems.append(
                f"controllers {other} and {name} share line {controller.line}, but not baud rate and parity"
            )
    lines = {_real(controller.line) for controller in controllers}
    problems += [
        f"controller {name} has programmer {port}, which is a line"
        for port, name in programmers.items()
        if port in lines
    ]
    return problems


def _real(port: str) -> str:
    """Two names of one port are one port: by-id and by-path links lead to the same device."""
    return port if "://" in port else os.path.realpath(port)


class Gateway:
    """The controllers of one gateway and what it keeps about them.

    ``only`` are the names of those to work on, in that order; all without it. The others share lines with them and are
    talked to. ``approvals`` are what people have approved, by default nothing.
    """

    def __init__(
        self,
        controllers: Sequence[Controller],
        store: Store,
        lock_directory: str = "/run/lock",
        only: Collection[str] | None = None,
        progress: Progress | None = None,
        approvals: Approvals | None = None,
    ) -> None:
        unknown = set(only or ()) - {controller.name for controller in controllers}
        if unknown:
            known = ", ".join(controller.name for controller in controllers) or "none"
            raise InventoryError(f"no controller {', '.join(sorted(unknown))} (there are {known}); nothing was sent")
        self.known = controllers
        place = {name: number for number, name in enumerate(only or ())}
        self.controllers = [one for one in controllers if only is None or one.name in place]
        self.controllers.sort(key=lambda one: place.get(one.name, 0))
        self.store = store
        self.lock_directory = lock_directory
        self.progress = progress or Progress()
        self.approvals = approvals or Approvals(store.root)

    def prepare(self, work: Callable[[Controller], T]) -> dict[str, T]:
        """``work`` on every controller's description, by name; InventoryError lists all that it refuses."""
        prepared: dict[str, T] = {}
        problems = []
        for controller in self.controllers:
            try:
                prepared[controller.name] = work(controller)
            except CoreError as error:
                problems.append(f"controller {controller.name}: {error}")
        if problems:
            raise InventoryError("; ".join(problems) + ". Nothing was sent")
        return prepared

    def each(self, work: Callable[[Controller, Device], Result], keep_alive: bool = False) -> list[Result]:
        """``work`` on every controller; its results in the controllers' order, a CoreError as a failed one.

        With ``keep_alive`` the other controllers of a line hear from us while one is being worked on.
        """
        lines = by_line(self.controllers)
        # Last, so that the first one tells how the line is opened.
        present = {path: [*members, *self._neighbours(path)] for path, members in lines.items()}
        results: dict[str, Result] = {}
        if lines:
            with ThreadPoolExecutor(len(lines)) as pool:
                for part in pool.map(lambda path: self._line(lines[path], present[path], work, keep_alive), lines):
                    results.update(part)
        return [results[controller.name] for controller in self.controllers]

    def _neighbours(self, path: str) -> list[Controller]:
        """Controllers of a line that are not worked on."""
        return [one for one in self.known if one not in self.controllers and _real(one.line) == path]

    def _line(
        self,
        members: Sequence[Controller],
        present: Sequence[Controller],
        work: Callable[[Controller, Device], Result],
        keep_alive: bool,
    ) -> dict[str, Result]:
        try:
            bus = open_line(present)
        except CoreError as error:
            return {controller.name: self._failure(controller, error) for controller in members}
        devices = {one.name: Device(one.name, one.unit, one.profile, bus) for one in present}
        results = {}
        try:
            with _Keeper(devices.values()) if keep_alive else _NoKeeper() as keeper:
                for controller in members:
                    keeper.busy = controller.name
                    try:
                        results[controller.name] = {**controller.place, **work(controller, devices[controller.name])}
                    except CoreError as error:
                        results[controller.name] = self._failure(controller, error)
        finally:
            bus.close()
        return results

    def _failure(self, controller: Controller, error: CoreError) -> Result:
        self.progress.tell(controller.name, "failed", failed=True, message=str(error))
        return {**controller.place, "failed": True, "changed": False, "msg": str(error)}


def by_line(controllers: Iterable[Controller]) -> dict[str, list[Controller]]:
    """The controllers of each line; two names of one port are one line."""
    lines: dict[str, list[Controller]] = {}
    for controller in controllers:
        lines.setdefault(_real(controller.line), []).append(controller)
    return lines


def open_line(members: Sequence[Controller], lock_timeout: float = 5.0) -> Bus:
    """The line of ``members`` in the manners of their profiles, as the first of them calls it.

    ``lock_timeout`` is how long a request waits for other masters, in seconds.
    """
    timings = [controller.profile.timing for controller in members]
    return open_bus(
        members[0].line,
        baudrate=timings[0].baudrate,
        parity=timings[0].parity,
        stopbits=timings[0].stopbits,
        response_timeout=max(timing.response_timeout for timing in timings),
        request_gap=max(timing.request_gap for timing in timings),
        lock_timeout=lock_timeout,
    )


class _NoKeeper:
    busy = ""

    def __enter__(self) -> _NoKeeper:
        return self

    def __exit__(self, *_error: object) -> None:
        return


class _Keeper(_NoKeeper):
    """Talks to the controllers of a line that nobody else talks to, lest their firmware takes the master for dead."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self._due = dict.fromkeys(devices, 0.0)
        self._misses = dict.fromkeys(self._due, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keep-alive", daemon=True)

    def __enter__(self) -> _Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(max(0.0, min(self._due.values()) - time.monotonic())):
            for device, due in self._due.items():
                if time.monotonic() < due:
                    continue
                if device.name != self.busy:
                    self._talk(device)
                # A silent one has nothing to lose, and waiting for it must not starve the others.
                pause = KEEP_ALIVE if self._misses[device] < _MISSES else _KEEP_ALIVE_SILENT
                self._due[device] = time.monotonic() + pause

    def _talk(self, device: Device) -> None:
        with contextlib.suppress(CoreError):  # a line that vanished may come back, and who works on it hears of it
            self._misses[device] = 0 if device.answers() else self._misses[device] + 1

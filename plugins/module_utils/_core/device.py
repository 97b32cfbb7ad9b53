# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One controller on its line: named values through the profile, every write read back."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from .errors import BadFrame, BusError, CoreError, ExceptionAnswer, NoAnswer, ProfileError
from .line import Bus
from .plan import Span, plan
from .profile import Condition, Point, Profile, Value

# Reads are tried again, since a disturbed byte is no statement about the device. Three in a row are.
READ_ATTEMPTS = 3
_POLL = 0.1
# Between attempts on a silent controller, each of which takes the line for long: the others of the line have to hear
# from us meanwhile, all of them.
_COURTESY = 0.05
T = TypeVar("T")


class DeviceError(CoreError):
    """A controller that does not do what its profile says."""


@dataclass(frozen=True)
class Identity:
    """Firmware version as text and uptime in seconds; None where the firmware tells none."""

    version: str | None
    uptime: float | None


class Device:
    """The controller ``name`` with MODBUS ``unit`` on ``bus``."""

    def __init__(self, name: str, unit: int, profile: Profile, bus: Bus) -> None:
        self.name = name
        self.unit = unit
        self.profile = profile
        self.bus = bus

    def __str__(self) -> str:
        return f"controller {self.name} ({self.bus.line} unit {self.unit})"

    def read(self, names: Collection[str]) -> dict[str, Value]:
        """Engineering values of the points ``names``, by the fewest requests the profile allows."""
        points = [self.profile.point(name) for name in names]
        for point in points:
            if not point.readable:
                raise ProfileError(f"{point.name} is write-only")
        registers = self._registers([point.span for point in points])
        return {point.name: point.decode(registers[point.span]) for point in points}

    def differences(self, wanted: Mapping[str, object]) -> dict[str, Value]:
        """What the device holds where its registers differ from the ``wanted`` values, in the order of ``wanted``."""
        points = {name: self.profile.point(name) for name in wanted}
        encoded = {name: points[name].encode(value) for name, value in wanted.items()}
        registers = self._registers([point.span for point in points.values()])
        return {
            name: points[name].decode(registers[points[name].span])
            for name, words in encoded.items()
            if registers[points[name].span] != words
        }

    def read_raw(self, spans: Iterable[Span]) -> dict[int, int]:
        """Raw registers by address."""
        spans = list(spans)
        registers = self._registers(spans)
        return {span.address + i: word for span in spans for i, word in enumerate(registers[span])}

    def _registers(self, wanted: list[Span]) -> dict[Span, list[int]]:
        memory: dict[int, int] = {}
        for span in plan(wanted, self.profile.readable, self.profile.largest_block):
            words = self._patiently(lambda span=span: self.bus.read(self.unit, span.address, span.count))  # type: ignore[misc]
            memory.update(enumerate(words, span.address))
        return {span: [memory[span.address + i] for i in range(span.count)] for span in wanted}

    def _patiently(self, request: Callable[[], T]) -> T:
        for _attempt in range(READ_ATTEMPTS - 1):
            try:
                return request()
            except (NoAnswer, BadFrame):
                time.sleep(_COURTESY)
        return request()

    def write(self, name: str, value: object) -> None:
        """Write one point and read it back; DeviceError where it does not hold what was written.

        What is a state is sent a second time when it gets lost, an emergency stop above all: twice the same value is
        the same state, but twice a command is two commands.
        """
        point = self.profile.point(name)
        if not point.writable:
            raise ProfileError(f"{name} is read-only")
        words = point.encode(value)
        answered = True
        try:
            self._send(point, words)
        except ExceptionAnswer as error:
            raise DeviceError(f"refused {name} = {value} (MODBUS exception {error.code})") from None
        except (NoAnswer, BadFrame):
            if not point.readable:
                raise
            is_state = point.safety != "command" or point.restore_order is not None
            answered = is_state
            if is_state and self._registers([point.span])[point.span] != words:
                self._send(point, words)
        if point.readable:
            found = self._registers([point.span])[point.span]
            if found != words and not answered:
                raise DeviceError(f"{name} reads {point.decode(found)} after {value} was sent, which was not answered")
            if found != words:
                raise DeviceError(
                    f"{name} reads {point.decode(found)} after {value} was written and acknowledged; "
                    "the firmware discards it, or something else writes the same register"
                )

    def _send(self, point: Point, words: list[int]) -> None:
        single = len(words) == 1 and self.profile.write_single
        self.bus.write(self.unit, point.address, words, 6 if single else 16)

    def identity(self) -> Identity:
        """Version and uptime as the firmware tells them."""
        profile = self.profile
        values = self.read(profile.version_points() | ({profile.uptime} if profile.uptime else set()))
        version = profile.version_text(values)
        # Without a version the neighbouring uptime register is a reserved zero too, not a clock.
        known = bool(profile.uptime) and (version is not None or not profile.version)
        return Identity(version, float(str(values[profile.uptime])) if known else None)

    def answers(self) -> bool:
        """Whether the controller answers one request, be it by an exception. Tried once."""
        return self._ask() is None

    def _ask(self) -> BusError | None:
        """What was wrong with the answer to one request; None where it was one, be it an exception."""
        low, _high = self.profile.readable[0]
        try:
            self.bus.read(self.unit, low, 1)
        except ExceptionAnswer:
            return None
        except BusError as error:
            return error
        return None

    def unanswered(self) -> BusError | None:
        """What comes of several requests, since one answer may get lost in noise; None as soon as one is answered.

        NoAnswer is real silence. What is no answer may come from a controller that runs: from two at a time.
        """
        found: BusError | None = None
        for _attempt in range(READ_ATTEMPTS):
            error = self._ask()
            if error is None:
                return None
            if found is None or not isinstance(error, NoAnswer):
                found = error
            time.sleep(_COURTESY)
        return found

    def is_silent(self) -> bool:
        """Whether nothing at all comes back to several requests."""
        return isinstance(self.unanswered(), NoAnswer)

    def wait_for_answer(self, seconds: float) -> bool:
        """Wait until the controller answers, at most ``seconds``; whether it did."""
        deadline = time.monotonic() + seconds
        while not self.answers():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True

    def settings(self) -> dict[str, Value]:
        """The points of a snapshot in restore order, read until two successive readings agree."""
        names = [point.name for point in self.profile.restorable]
        before = self.read(names)
        for _attempt in range(READ_ATTEMPTS):
            after = self.read(names)
            if after == before:
                return after
            before = after
        raise DeviceError("its settings keep changing while they are read; find out who writes them")

    def violations(self, conditions: Iterable[Condition], before: Mapping[str, Value] | None = None) -> list[str]:
        """What of ``conditions`` does not hold, in words. ``before`` holds earlier values for ``steady``."""
        conditions = list(conditions)
        values = self.read({condition.point for condition in conditions if condition.point})
        reasons = []
        for condition in conditions:
            if condition.point:
                reason = condition.violation(values[condition.point], (before or {}).get(condition.point))
            else:
                reason = self._exception_violation(condition)
            if reason:
                reasons.append(reason)
        return reasons

    def _exception_violation(self, condition: Condition) -> str | None:
        expected = f"register 0x{condition.address:04X} should give exception {condition.expected}"
        try:
            self._patiently(lambda: self.bus.read(self.unit, condition.address, 1))
        except ExceptionAnswer as error:
            return None if error.code == condition.expected else f"{expected}, gave {error.code}"
        return f"{expected}, but can be read"

    def require_fingerprint(self) -> None:
        """DeviceError unless the device is what the profile describes. Comes before the first write."""
        reasons = self.violations(self.profile.fingerprint)
        if reasons:
            raise DeviceError(
                f"is not what profile {self.profile.name} describes ({'; '.join(reasons)}); "
                "nothing was written, correct the controller's profile in the inventory"
            )

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller's register map and manners as data: names, units, ranges, safety classes, encode and decode.

Pure: no I/O. The mapping comes from a profile file that the control node has validated against the schema
(``plugins/plugin_utils/profile.schema.json``); what is checked here again is only what a wrong value would
turn into a wrong write.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .errors import ProfileError
from .plan import Span

Value: TypeAlias = "int | float | str | list[str]"

_STRUCT = {"uint16": ">H", "int16": ">h", "uint32": ">I", "int32": ">i", "float32": ">f", "bits": ">H", "enum": ">H"}
_LIMITS = {
    "uint16": (0, 0xFFFF),
    "int16": (-0x8000, 0x7FFF),
    "uint32": (0, 0xFFFF_FFFF),
    "int32": (-0x8000_0000, 0x7FFF_FFFF),
}


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, (str, list)) else str(value)


@dataclass(frozen=True)
class Point:
    """One named value of a controller.

    ``scale`` and ``offset`` turn raw register contents into engineering values: ``raw * scale + offset``, in ``unit``.
    ``safety`` is the profile's class: telemetry, setting, command or emergency.
    ``stop_values`` are those that stop, of class emergency: nobody has to approve them.
    ``restore_order`` is the place in a snapshot's order of restoring, None for what no snapshot holds.
    """

    name: str
    address: int
    type: str
    access: str = "ro"
    safety: str = "telemetry"
    scale: float = 1
    offset: float = 0
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    symbols: Mapping[str, int] = field(default_factory=dict)
    length: int = 1
    word_order: str = "big"
    restore_order: int | None = None
    description: str = ""
    stop_values: tuple[Any, ...] = ()

    @property
    def span(self) -> Span:
        """The registers that hold the point."""
        return Span(self.address, self.length)

    @property
    def readable(self) -> bool:
        return "r" in self.access

    @property
    def writable(self) -> bool:
        return "w" in self.access

    def needs_approval(self, value: object) -> bool:
        """Whether writing ``value``, one that the point admits, is for several people to decide: all but stopping."""
        stops = [self.encode(one) for one in self.stop_values]
        return self.safety == "emergency" and self.encode(value) not in stops

    @property
    def _linear(self) -> bool:
        return self.scale == 1 and self.offset == 0

    def decode(self, registers: Sequence[int]) -> Value:
        """The engineering value of the raw ``registers`` (each 0 to 65535; as many as the point's span)."""
        words = list(registers)
        if self.type == "string":
            return b"".join(word.to_bytes(2, "big") for word in words).rstrip(b"\0 ").decode("ascii", "replace")
        if self.length == 2 and self.word_order == "little":
            words.reverse()
        raw: int | float = struct.unpack(_STRUCT[self.type], b"".join(word.to_bytes(2, "big") for word in words))[0]
        if self.type == "float32":
            return round(raw * self.scale + self.offset, 6) if not self._linear else float(raw)
        raw = int(raw)
        if self.type == "bits":
            names = {bit: name for name, bit in self.symbols.items()}
            return [names.get(bit, f"bit_{bit}") for bit in range(16) if raw >> bit & 1]
        if self.type == "enum":
            return next((name for name, number in self.symbols.items() if number == raw), raw)
        return raw if self._linear else round(raw * self.scale + self.offset, 6)

    def encode(self, value: object) -> list[int]:
        """The registers that hold the engineering ``value``; ProfileError where the point does not admit it."""
        if self.type == "string":
            return self._encode_string(value)
        if self.type == "bits":
            return [self._encode_bits(value)]
        if self.type == "enum" and isinstance(value, str) and value in self.symbols:
            return [self.symbols[value]]
        number = self._number(value)
        raw: float = number if self._linear else (number - self.offset) / self.scale
        if self.type == "enum":
            if number not in self.symbols.values():
                raise self._refuse(value, "one of " + ", ".join(self.symbols))
            return [int(number)]
        if self.type != "float32":
            raw = round(raw)
            low, high = _LIMITS[self.type]
            if not low <= raw <= high:
                raise self._refuse(value, f"what fits into {self.type}")
        try:
            data = struct.pack(_STRUCT[self.type], raw)
        except (OverflowError, struct.error):
            raise self._refuse(value, f"what fits into {self.type}") from None
        words = [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]
        return words[::-1] if self.word_order == "little" else words

    def _number(self, value: object) -> float:
        number: float
        if isinstance(value, bool):
            if (self.minimum, self.maximum) != (0, 1):
                raise self._refuse(value, "a number")
            number = int(value)
        elif isinstance(value, (int, float)):
            number = value
        else:
            try:
                number = float(str(value)) if not str(value).strip().lstrip("+-").isdigit() else int(str(value))
            except ValueError:
                raise self._refuse(value, "a number") from None
        if not math.isfinite(number):
            raise self._refuse(value, "a finite number")
        too_low = self.minimum is not None and number < self.minimum
        if too_low or (self.maximum is not None and number > self.maximum):
            raise self._refuse(value, f"{self.minimum} to {self.maximum} {self.unit}".rstrip())
        if self.step:
            steps = (number - (self.minimum or 0)) / self.step
            if abs(steps - round(steps)) > 1e-6:
                raise self._refuse(value, f"a step of {self.step} {self.unit}".rstrip())
        elif self.type != "float32" and self._linear and number != int(number):
            raise self._refuse(value, "a whole number")
        return number

    def _encode_string(self, value: object) -> list[int]:
        try:
            data = str(value).encode("ascii")
        except UnicodeEncodeError:
            raise self._refuse(value, "ASCII text") from None
        if len(data) > 2 * self.length:
            raise self._refuse(value, f"at most {2 * self.length} characters")
        data = data.ljust(2 * self.length, b"\0")
        return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]

    def _encode_bits(self, value: object) -> int:
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            text = str(value)
            if text.isdigit() and int(text) <= 0xFFFF:
                return int(text)
        if not isinstance(value, (list, tuple)):
            raise self._refuse(value, "a list of " + ", ".join(self.symbols))
        word = 0
        bits = {f"bit_{bit}": bit for bit in range(16)} | dict(self.symbols)
        for name in value:
            if name not in bits:
                raise self._refuse(value, "a list of " + ", ".join(self.symbols))
            word |= 1 << bits[name]
        return word

    def _refuse(self, value: object, admitted: str) -> ProfileError:
        return ProfileError(f"{self.name}: {_text(value)} is not admitted, expected {admitted}")


@dataclass(frozen=True)
class Condition:
    """One thing that must hold: of a point's value, or of how a raw address answers.

    ``test`` is one of equals, range, in, set, clear, steady, exception; ``expected`` is what that test compares with.
    """

    test: str
    expected: Any
    point: str = ""
    address: int = -1

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Condition:
        """The condition of a profile's ``data``, such as ``{point: active_count, equals: 0}``."""
        point = str(data.get("point", ""))
        if "address" in data:
            return cls("exception", data["exception"], address=data["address"])
        if "min" in data or "max" in data:
            return cls("range", (data.get("min"), data.get("max")), point)
        for test in ("equals", "in", "set", "clear", "steady"):
            if test in data:
                return cls(test, data[test], point)
        raise ProfileError(
            f"condition on {point or 'nothing'} has no test; name equals, min/max, in, set, clear or steady"
        )

    def violation(self, value: Value, before: Value | None = None) -> str | None:
        """Why ``value`` does not satisfy the condition, or None. ``before`` is the earlier value for ``steady``."""
        expected = self.expected
        if self.test == "equals":
            return None if value == expected else f"{self.point} is {_text(value)}, expected {_text(expected)}"
        if self.test == "in":
            return None if value in expected else f"{self.point} is {_text(value)}, expected one of {_text(expected)}"
        if self.test == "steady":
            same = before is None or value == before
            return None if same else f"{self.point} went from {_text(before)} to {_text(value)}, expected no change"
        if self.test == "range":
            low, high = expected
            inside = (
                isinstance(value, (int, float)) and (low is None or value >= low) and (high is None or value <= high)
            )
            return None if inside else f"{self.point} is {_text(value)}, expected {low} to {high}"
        bits = value if isinstance(value, list) else []
        if self.test == "set":
            missing = [bit for bit in expected if bit not in bits]
            return f"{self.point} lacks {', '.join(missing)}" if missing else None
        present = [bit for bit in expected if bit in bits]
        return f"{self.point} shows {', '.join(present)}" if present else None


@dataclass(frozen=True)
class Timing:
    """Manners of the line; all times in seconds."""

    baudrate: int = 115200
    parity: str = "N"
    stopbits: int = 1
    request_gap: float = 0.00175
    response_timeout: float = 0.1
    longest_silence: float = 1.0
    boot_time: float = 3.0


@dataclass(frozen=True)
class Fuse:
    """What a fuse byte should be, what else is tolerated, and its bits by name (a programmed bit reads 0)."""

    wanted: int
    accepted: tuple[int, ...]
    bits: Mapping[str, int]


@dataclass(frozen=True)
class Part:
    """The microcontroller: avrdude's part name, signature (6 hex digits), memory sizes in bytes, fuses, programmer."""

    avrdude: str
    signature: str
    flash: int
    flash_page: int
    eeprom: int
    fuses: Mapping[str, Fuse]
    eesave_fuse: str
    eesave_bit: int
    programmer: str
    programmer_baudrate: int

    def keeps_eeprom(self, fuses: Mapping[str, int]) -> bool:
        """Whether a chip erase leaves the EEPROM alone under these ``fuses`` (a programmed fuse bit reads 0)."""
        return not fuses[self.eesave_fuse] >> self.eesave_bit & 1

    def fuse_violations(self, fuses: Mapping[str, int]) -> list[str]:
        """Each fuse of ``fuses``, all or some, that the policy does not accept, in words."""
        return [
            f"{name} is 0x{fuses[name]:02X}, accepted are {', '.join(f'0x{value:02X}' for value in fuse.accepted)}"
            for name, fuse in self.fuses.items()
            if name in fuses and fuses[name] not in fuse.accepted
        ]


@dataclass(frozen=True)
class Drain:
    """How to bring the units of a controller to rest: writes and conditions, by point name."""

    permitted: tuple[Condition, ...] = ()
    inhibit: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, Any] = field(default_factory=dict)
    at_rest: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Profile:
    """A whole profile, groups expanded; ``digest`` identifies its content (sha256, 12 hex digits)."""

    name: str
    profile_version: int
    digest: str
    function_codes: tuple[int, ...]
    readable: tuple[tuple[int, int], ...]
    largest_block: int
    timing: Timing
    points: Mapping[str, Point]
    version: tuple[tuple[str, int, int], ...]
    uptime: str
    fingerprint: tuple[Condition, ...]
    soak: float
    health: tuple[Condition, ...]
    drain: Drain
    part: Part | None

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Profile:
        """The profile of a validated mapping; ProfileError names what is missing from one that is not."""
        try:
            return cls._build(data)
        except KeyError as error:
            raise ProfileError(
                f"profile {data.get('name', '(unnamed)')}: {error.args[0]} is missing; "
                "give the profile by its name, so that it is validated against the schema"
            ) from None

    @classmethod
    def _build(cls, data: Mapping[str, Any]) -> Profile:
        identity = data.get("identity", {})
        health = data.get("health", {})
        drain = data.get("drain", {})
        points = {point.name: point for point in _points(data)}
        _require_asked_for(points, drain)
        canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return cls(
            name=data["name"],
            profile_version=data.get("version", 1),
            digest=hashlib.sha256(canonical.encode()).hexdigest()[:12],
            function_codes=tuple(data["function_codes"]),
            readable=tuple((low, high) for low, high in data["readable"]),
            largest_block=data["largest_block"],
            timing=Timing(**data.get("timing", {})),
            points=points,
            version=tuple(
                (part["point"], part.get("shift", 0), part.get("mask", 0xFFFF)) for part in identity.get("version", ())
            ),
            uptime=identity.get("uptime", ""),
            fingerprint=_conditions(identity.get("fingerprint")),
            soak=health.get("soak", 0),
            health=_conditions(health.get("conditions")),
            drain=Drain(
                permitted=_conditions(drain.get("permitted")),
                inhibit=_writes(drain.get("inhibit")),
                stop=_writes(drain.get("stop")),
                at_rest=_conditions(drain.get("at_rest")),
            ),
            part=_part(data["part"]) if "part" in data else None,
        )

    def point(self, name: str) -> Point:
        """The point called ``name``; ProfileError with the nearest names otherwise."""
        if name in self.points:
            return self.points[name]
        near = difflib.get_close_matches(name, self.points, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(self.points))}"
        raise ProfileError(f"profile {self.name} has no point {name}; {hint}")

    @property
    def restorable(self) -> list[Point]:
        """The points of a snapshot, in the order in which they are put back."""
        chosen = [point for point in self.points.values() if point.restore_order is not None]
        return sorted(chosen, key=lambda point: (point.restore_order or 0, point.address))

    def stops(self, name: str, value: object) -> bool:
        """Whether writing ``value`` to a point, one that it admits, can do nothing but stop."""
        point = self.point(name)
        stopping = [*point.stop_values, *(one for stop, one in self.drain.stop.items() if stop == name)]
        return point.encode(value) in [point.encode(one) for one in stopping]

    @property
    def write_single(self) -> bool:
        """Whether single registers go by function code 6; where a firmware lacks it, 16 carries them too."""
        return 6 in self.function_codes

    def version_text(self, values: Mapping[str, Value]) -> str | None:
        """The firmware version in ``values`` such as ``1.1.0``; None where the firmware tells none."""
        if not self.version:
            return None
        numbers = [int(str(values[point])) >> shift & mask for point, shift, mask in self.version]
        return ".".join(map(str, numbers)) if any(numbers) else None

    def version_points(self) -> set[str]:
        """The points that ``version_text`` needs."""
        return {point for point, _shift, _mask in self.version}


def _conditions(data: Iterable[Mapping[str, Any]] | None) -> tuple[Condition, ...]:
    return tuple(Condition.from_mapping(entry) for entry in data or ())


def _writes(data: Iterable[Mapping[str, Any]] | None) -> dict[str, Any]:
    return {entry["point"]: entry["value"] for entry in data or ()}


def _require_asked_for(points: Mapping[str, Point], drain: Mapping[str, Any]) -> None:
    """ProfileError where something would be written by the way that several people may have to approve."""
    wanted = [*_writes(drain.get("inhibit")).items(), *_writes(drain.get("stop")).items()]
    by_the_way = [name for name, value in wanted if name in points and points[name].needs_approval(value)]
    by_the_way += [one.name for one in points.values() if one.safety == "emergency" and one.restore_order is not None]
    if by_the_way:
        raise ProfileError(
            f"{by_the_way[0]} is of class emergency: neither draining nor restoring may write it but to stop; "
            "correct the profile"
        )


def _points(data: Mapping[str, Any]) -> Iterable[Point]:
    for name, entry in data.get("points", {}).items():
        yield _point(name, entry, 0)
    for prefix, group in data.get("groups", {}).items():
        for number in range(group["count"]):
            base = group["address"] + number * group["stride"]
            for name, entry in group["points"].items():
                yield _point(f"{prefix}{number + 1}_{name}", entry, base)


def _point(name: str, entry: Mapping[str, Any], base: int) -> Point:
    kind = entry["type"]
    return Point(
        name=name,
        address=base + entry["address"],
        type=kind,
        access=entry.get("access", "ro"),
        safety=entry.get("class", "telemetry"),
        scale=entry.get("scale", 1),
        offset=entry.get("offset", 0),
        unit=entry.get("unit", ""),
        minimum=entry.get("min"),
        maximum=entry.get("max"),
        step=entry.get("step"),
        symbols=dict(entry.get("bits") or entry.get("symbols") or {}),
        length=entry["length"] if kind == "string" else struct.calcsize(_STRUCT[kind]) // 2,
        word_order=entry.get("word_order", "big"),
        restore_order=entry.get("restore_order"),
        description=entry.get("description", ""),
        stop_values=tuple(entry["stop_values"]) if entry.get("class") == "emergency" else (),
    )


def _part(data: Mapping[str, Any]) -> Part:
    fuses = {
        name: Fuse(fuse["wanted"], tuple(fuse["accepted"]), fuse.get("bits", {}))
        for name, fuse in data["fuses"].items()
    }
    return Part(
        avrdude=data["avrdude"],
        signature=str(data["signature"]).upper(),
        flash=data["flash"],
        flash_page=data["flash_page"],
        eeprom=data["eeprom"],
        fuses=fuses,
        eesave_fuse=data["eesave"]["fuse"],
        eesave_bit=data["eesave"]["bit"],
        programmer=data["programmer"]["type"],
        programmer_baudrate=data["programmer"]["baudrate"],
    )

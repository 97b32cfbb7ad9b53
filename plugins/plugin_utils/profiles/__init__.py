# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Device profiles on the control node: found by name, read, and checked before a gateway sees them.

``load_profile`` is the one entry. It knows nothing of Ansible; an action plugin calls it once a run and sends the
mapping to the gateways, where ``_core.profile`` turns it into points. The collection's own profiles lie beside this
file, which is a package because Ansible's import of collections prefers a directory to a file of the same name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import MissingPackage, ProfileError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.exclusive import made_once

try:  # here and not where it is needed, so that Ansible's main process imports it once, and not each of its workers
    import jsonschema
except ImportError as error:
    _MISSING: ImportError | None = error
else:
    _MISSING = None

OWN_PROFILES = Path(__file__).parent
SCHEMA = OWN_PROFILES.parent / "profile.schema.json"

Where = tuple[Any, ...]  # keys and indices from the top of the file to a value

_REGISTERS = {"uint32": 2, "int32": 2, "float32": 2}  # all other types but string take one
_RAW_LIMITS: dict[str, tuple[float, float]] = {
    "uint16": (0, 0xFFFF),
    "int16": (-0x8000, 0x7FFF),
    "uint32": (0, 0xFFFF_FFFF),
    "int32": (-0x8000_0000, 0x7FFF_FFFF),
    "float32": (-3.4028234663852886e38, 3.4028234663852886e38),
}
_NEAR = 1e-6  # how far a quotient may be from a whole number and still count as one

# What is known of a part is not for a profile to decide: a slip in one of these costs a board.
_PARTS: dict[str, dict[str, Any]] = {
    "m32": {
        "signature": "1E9502",
        "flash": 32768,
        "flash_page": 128,
        "eeprom": 1024,
        "fuses": {"lfuse", "hfuse"},
        "eesave": {"fuse": "hfuse", "bit": 3},
    },
}


def load_profile(name_or_path: str | Path, search: Sequence[Path] = (), checked: Path | None = None) -> dict[str, Any]:
    """The checked content of a profile file.

    A name is looked for as ``profiles/NAME.yml`` in each directory of ``search`` (those of a site's inventories) and
    then among the collection's own. Anything with a ``/`` or ending in ``.yml`` or ``.yaml`` is a path; a relative one
    is tried from each directory of ``search`` and then from the working directory.
    Checking takes longer than all else a task does here; below ``checked`` it is kept for other processes of the run.
    Raises ProfileError with all that is wrong, one line each, with file, point and rule.
    """
    path = find_profile(name_or_path, search)
    if checked is None:
        return _checked(path)
    try:
        content = path.read_bytes()
    except OSError:
        return _checked(path)  # which tells why
    subject = f"profile {path} {hashlib.sha256(content).hexdigest()}"
    profile: dict[str, Any] = made_once(checked, subject, lambda: _checked(path))
    return profile


def _checked(path: Path) -> dict[str, Any]:
    source = _read(path)
    problems = _Problems(source)
    _check_schema(source.data, problems)
    problems.complain()
    profile: dict[str, Any] = source.data
    _check_meaning(profile, problems)
    if profile["name"] != path.stem:
        problems.add(
            ("name",), f"{profile['name']!r} is not the name of the file, {path.stem!r}; make them equal", "name"
        )
    problems.complain()
    return profile


def find_profile(name_or_path: str | Path, search: Sequence[Path] = ()) -> Path:
    """The file of the profile; ProfileError with the places searched and the names found there."""
    wanted = str(name_or_path)
    if "/" in wanted or wanted.endswith((".yml", ".yaml")):
        candidates = [directory / wanted for directory in search] + [Path(wanted)]
        names: set[str] = set()
    else:
        directories = [directory / "profiles" for directory in search] + [OWN_PROFILES]
        candidates = [directory / f"{wanted}.yml" for directory in directories]
        names = {path.stem for directory in directories for path in directory.glob("*.yml")}
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = ", ".join(str(candidate) for candidate in dict.fromkeys(candidates))
    known = f"; profiles found: {', '.join(sorted(names))}" if names else ""
    near = difflib.get_close_matches(wanted, names, n=1)
    raise ProfileError(
        f"profile {wanted} not found, searched {places}{known}{_did_you_mean(near)}; "
        "correct the name or put the file in the inventory's profiles directory"
    )


def expanded_points(profile: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All points of a profile by name, those of the groups member by member, with the address in the controller."""
    return {name: {**point, "address": address} for name, point, address, _where in _points(profile)}


def registers(point: Mapping[str, Any]) -> int:
    """How many registers a point takes."""
    return int(point["length"]) if point["type"] == "string" else _REGISTERS.get(point["type"], 1)


# Reading -------------------------------------------------------------------------------------------------------------


@dataclass
class _Source:
    """What a file says, and on which line it says it."""

    path: Path
    data: Any = None
    lines: dict[Where, int] = field(default_factory=dict)


class _Problems:
    """All that is wrong with a file, told at once."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._found: dict[str, int] = {}

    def add(self, where: Where, message: str, rule: str, line: int = 0) -> None:
        line = line or self._source.lines.get(where, 1)
        point = f"{_dotted(where)}: " if where else ""
        self._found.setdefault(f"{self._source.path}: {point}{message} (rule: {rule}; line {line})", line)

    def complain(self) -> None:
        if self._found:
            raise ProfileError("\n".join(sorted(self._found, key=self._found.__getitem__)))


def _dotted(where: Where) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in where)
    return text.removeprefix(".")


def _did_you_mean(near: Sequence[str]) -> str:
    return f"; did you mean {near[0]!r}?" if near else ""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without the integers that only look decimal: 010 would be 8, and 1:30 would be 90."""


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(node.value).replace("_", "")
    if re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text):
        return int(text)
    if re.fullmatch(r"[-+]?0x[0-9a-fA-F]+", text):
        return int(text, 16)
    raise yaml.constructor.ConstructorError(
        None,
        None,
        f"{node.value!r} is ambiguous as a number; write it in decimal, in hexadecimal (0x..) or in quotes",
        node.start_mark,
    )


def _fraction(loader: _Loader, node: yaml.ScalarNode) -> float:
    number = float(loader.construct_yaml_float(node))
    if not math.isfinite(number):
        raise yaml.constructor.ConstructorError(None, None, f"{node.value!r} is not a finite number", node.start_mark)
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _fraction)


def _read(path: Path) -> _Source:
    source = _Source(path)
    problems = _Problems(source)
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            if node is not None:
                source.data = _construct(loader, node, (), source, problems, ())
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"; line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise ProfileError(f"{path}: {what} (rule: YAML{line})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: cannot be read: {error}; expected a YAML file in UTF-8") from None
    problems.complain()
    return source


def _construct(
    loader: _Loader, node: yaml.Node, where: Where, source: _Source, problems: _Problems, above: tuple[yaml.Node, ...]
) -> Any:
    """The value of a YAML node. Notes the line of everything, and that no key is there twice."""
    source.lines[where] = node.start_mark.line + 1
    if node in above:
        raise yaml.constructor.ConstructorError(None, None, "an alias contains itself", node.start_mark)
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(loader, item, (*where, index), source, problems, above) for index, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    mapping: dict[str, Any] = {}
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            shown = getattr(key_node, "value", "") if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            problems.add(
                (*where, str(shown)),
                f"a name must be text, YAML takes this for {type(key).__name__}; put it in quotes or choose another",
                "name",
                line,
            )
            continue
        if key in mapping:
            problems.add((*where, key), f"is there twice, first on line {first[key]}", "duplicate key", line)
            continue
        first[key] = line
        mapping[key] = _construct(loader, value_node, (*where, key), source, problems, above)
        source.lines[(*where, key)] = line
    return mapping


# Schema --------------------------------------------------------------------------------------------------------------


def _check_schema(data: Any, problems: _Problems) -> None:
    if _MISSING is not None:
        raise MissingPackage(
            f"the Python library jsonschema (4.10 or newer) is missing on the control node: {_MISSING}; "
            "install the Debian package python3-jsonschema, or jsonschema with pip"
        )

    def whole(_checker: Any, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    # jsonschema takes 16.0 for an integer; as an address it would only fail much later.
    draft: Any = jsonschema.Draft202012Validator
    extend: Any = jsonschema.validators.extend
    validator = extend(draft, type_checker=draft.TYPE_CHECKER.redefine("integer", whole))
    for violation in validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).iter_errors(data):
        for where, message, rule in _in_words(violation, data):
            problems.add(where, message, rule)


def _in_words(error: Any, data: Any) -> Iterator[tuple[Where, str, str]]:
    """A schema error as place, message and rule."""
    where, rule, value, schema = tuple(error.absolute_path), str(error.validator), error.instance, error.schema
    if "propertyNames" in error.absolute_schema_path:
        where = (*where, value)
    if rule == "oneOf":
        yield from _of_condition(error, data)
    elif rule == "not":
        for key in where[:-1]:
            data = data[key]
        yield where, f"does not belong to a point of type {data.get('type', '(none)')}", "type of point"
    elif rule == "required":
        missing = [key for key in error.validator_value if key not in value]
        yield where, f"{', '.join(map(repr, missing))} is missing", rule
    elif rule == "dependentRequired":
        missing = [key for keys in error.validator_value.values() for key in keys if key not in value]
        yield where, f"{', '.join(map(repr, missing))} is missing; nothing may be flashed without it", rule
    elif rule == "additionalProperties":
        known = sorted(schema["properties"])
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                yield (*where, key), f"is unknown here (known: {', '.join(known)}){_did_you_mean(near)}", rule
    elif rule == "pattern":
        yield where, f"{value!r} does not fit, expected {schema['description']}", rule
    elif rule == "const":
        yield where, f"{value!r} found, expected {error.validator_value!r}", rule
    elif rule.startswith("min") and value in ("", [], {}):
        yield where, "must not be empty", rule
    elif rule == "type" and isinstance(value, str) and _looks_like_number(value):
        yield where, f"{error.message}; write it without quotes, an exponent as in 1.0e-3", rule
    else:
        yield where, error.message, rule


def _looks_like_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _of_condition(error: Any, data: Any) -> Iterator[tuple[Where, str, str]]:
    """What is wrong within the form whose keys a condition has; where there is no such form, the forms there are."""
    if not isinstance(error.instance, dict):
        return  # told by the rule `type`
    forms: list[list[Any]] = [[] for _form in error.validator_value]
    for inner in error.context:
        forms[inner.relative_schema_path[0]].append(inner)
    shape = {"required", "additionalProperties", "minProperties"}
    meant = [form for form in forms if not shape & {inner.validator for inner in form}]
    if len(meant) == 1:
        for inner in meant[0]:
            yield from _in_words(inner, data)
    else:
        titles = "; ".join(form["title"] for form in error.validator_value)
        keys = ", ".join(error.instance) or "nothing"
        yield tuple(error.absolute_path), f"has {keys}, expected one of: {titles}", "oneOf"


# Meaning -------------------------------------------------------------------------------------------------------------


def _points(profile: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], int, Where]]:
    """Every point: its full name, its entry, its address in the controller, and where the file says so."""
    for name, point in profile["points"].items():
        yield name, point, point["address"], ("points", name)
    for prefix, group in profile.get("groups", {}).items():
        for member in range(group["count"]):
            base = group["address"] + member * group["stride"]
            for name, point in group["points"].items():
                where = ("groups", prefix, "points", name)
                yield f"{prefix}{member + 1}_{name}", point, base + point["address"], where


def _entries(profile: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Where]]:
    """Every entry of a point as the file has it, those of a group once."""
    for name, point in profile["points"].items():
        yield point, ("points", name)
    for prefix, group in profile.get("groups", {}).items():
        for name, point in group["points"].items():
            yield point, ("groups", prefix, "points", name)


def _check_meaning(profile: Mapping[str, Any], problems: _Problems) -> None:
    _check_ranges(profile, problems)
    for point, where in _entries(profile):
        _check_access(point, where, profile, problems)
        _check_numbers(point, where, problems)
        _check_symbols(point, where, problems)
        for index, value in enumerate(point.get("stop_values", [])):
            _check_value(value, point, (*where, "stop_values", index), problems)
    _check_groups(profile, problems)
    _check_addresses(profile, problems)
    points = {name: point for name, point, _address, _where in _points(profile)}
    _check_timing(profile["timing"], problems)
    _check_identity(profile["identity"], points, problems)
    lists: list[tuple[Where, Sequence[Mapping[str, Any]]]] = [
        (("identity", "fingerprint"), profile["identity"]["fingerprint"]),
        (("health", "conditions"), profile.get("health", {}).get("conditions", [])),
        (("drain", "permitted"), profile.get("drain", {}).get("permitted", [])),
        (("drain", "at_rest"), profile.get("drain", {}).get("at_rest", [])),
    ]
    for where, conditions in lists:
        for index, condition in enumerate(conditions):
            _check_condition(condition, (*where, index), points, profile["readable"], problems)
    for index, condition in enumerate(profile["identity"]["fingerprint"]):
        if "steady" in condition:
            problems.add(
                ("identity", "fingerprint", index), "a fingerprint is read once, steady says nothing", "steady"
            )
    for key in ("inhibit", "stop"):
        for index, write in enumerate(profile.get("drain", {}).get(key, [])):
            _check_write(write, ("drain", key, index), points, problems)
    if "part" in profile:
        _check_part(profile["part"], problems)


def _check_ranges(profile: Mapping[str, Any], problems: _Problems) -> None:
    before = -1
    for index, (first, last) in enumerate(profile["readable"]):
        if first > last:
            problems.add(("readable", index), f"{_hex(first)} to {_hex(last)} runs backwards", "range order")
        elif first <= before:
            problems.add(
                ("readable", index),
                f"{_hex(first)} to {_hex(last)} does not lie behind the range before it, which ends at {_hex(before)}",
                "ranges ascending and disjoint",
            )
        before = max(before, last)


def _hex(number: int) -> str:
    return f"0x{number:04X}"


def _check_access(point: Mapping[str, Any], where: Where, profile: Mapping[str, Any], problems: _Problems) -> None:
    access, safety, codes = point["access"], point["class"], profile["function_codes"]
    if (access == "ro") != (safety == "telemetry"):
        expected = "telemetry" if access == "ro" else "setting, command or emergency"
        problems.add((*where, "class"), f"{safety!r} does not go with access {access}, expected {expected}", "class")
    if "restore_order" in point and access != "rw":
        problems.add((*where, "restore_order"), f"a point with access {access} cannot be restored", "restore order")
    if "restore_order" in point and safety == "emergency":
        problems.add((*where, "restore_order"), "no snapshot may put back an emergency point", "restore order")
    if access != "wo" and 3 not in codes:
        problems.add(
            (*where, "access"), f"{access} needs function code 3, the profile has {_list(codes)}", "function code"
        )
    if access != "ro":
        size = registers(point)
        if size > 1 and 16 not in codes:
            problems.add(
                (*where, "access"),
                f"writing {size} registers needs function code 16, the profile has {_list(codes)}",
                "function code",
            )
        elif not {6, 16} & set(codes):
            problems.add(
                (*where, "access"),
                f"{access} needs function code 6 or 16, the profile has {_list(codes)}",
                "function code",
            )
    if access != "wo" and registers(point) > profile["largest_block"]:
        problems.add(
            where,
            f"takes {registers(point)} registers, the largest block has {profile['largest_block']}",
            "largest block",
        )


def _list(items: Iterable[Any]) -> str:
    return ", ".join(map(str, items)) or "none"


def _whole_number(quotient: float) -> bool:
    return abs(quotient - round(quotient)) <= _NEAR


def _check_numbers(point: Mapping[str, Any], where: Where, problems: _Problems) -> None:
    if point["type"] not in _RAW_LIMITS:
        return
    low, high, step = point.get("min"), point.get("max"), point.get("step")
    if point.get("scale", 1) == 0:
        problems.add((*where, "scale"), "0 makes every value the same", "scale")
        return
    if low is not None and high is not None and low > high:
        problems.add((*where, "min"), f"{low} is greater than max {high}", "min and max")
    for key in ("min", "max"):
        if key in point:
            wrong = _not_representable(point[key], point)
            if wrong:
                problems.add((*where, key), wrong, "type")
    if step is None:
        return
    if low is not None and high is not None and low <= high and not _whole_number((high - low) / step):
        problems.add((*where, "max"), f"{high} is not reached from min {low} in steps of {step}", "step")
    if point["type"] != "float32" and not _whole_number(step / point.get("scale", 1)):
        problems.add((*where, "step"), f"{step} is no multiple of scale {point.get('scale', 1)}", "step")


def _not_representable(value: float, point: Mapping[str, Any]) -> str | None:
    """Why no content of the registers gives the number, or None."""
    raw = (value - point.get("offset", 0)) / point.get("scale", 1)
    low, high = _RAW_LIMITS[point["type"]]
    if not low <= raw <= high:
        return f"{value} would be {raw:g} in the registers, {point['type']} holds {low:g} to {high:g}"
    if point["type"] != "float32" and not _whole_number(raw):
        return f"{value} would be {raw:g} in the registers, {point['type']} holds whole numbers"
    return None


def _check_symbols(point: Mapping[str, Any], where: Where, problems: _Problems) -> None:
    for key, what in (("bits", "bit"), ("symbols", "value")):
        owner: dict[int, str] = {}
        for name, number in point.get(key, {}).items():
            if number in owner:
                problems.add((*where, key, name), f"{what} {number} is already {owner[number]!r}", "symbols unique")
            owner.setdefault(number, name)
            if key == "bits" and re.fullmatch(r"bit_[0-9]+", name) and name != f"bit_{number}":
                problems.add(
                    (*where, key, name), f"is how an unknown bit is shown, and this is bit {number}", "symbols unique"
                )


def _check_groups(profile: Mapping[str, Any], problems: _Problems) -> None:
    for prefix, group in profile.get("groups", {}).items():
        reach = max(point["address"] + registers(point) for point in group["points"].values())
        if group["count"] > 1 and reach > group["stride"]:
            problems.add(
                ("groups", prefix, "stride"),
                f"{_hex(group['stride'])} is less than the {_hex(reach)} registers of a member",
                "stride",
            )


def _check_addresses(profile: Mapping[str, Any], problems: _Problems) -> None:
    owner: dict[int, str] = {}
    places: dict[str, Where] = {}
    for name, point, address, where in _points(profile):
        if name in places:
            problems.add(where, f"makes a second point {name!r}, first at {_dotted(places[name])}", "names unique")
        places.setdefault(name, where)
        last = address + registers(point) - 1
        if last > 0xFFFF:
            problems.add((*where, "address"), f"{name} would end at 0x{last:X}, behind 0xFFFF", "address")
            continue
        clash = {owner[register]: register for register in range(last, address - 1, -1) if register in owner}
        for other, register in clash.items():
            problems.add((*where, "address"), f"{name} shares {_hex(register)} with {other}", "overlap")
        owner.update(dict.fromkeys(range(address, last + 1), name))
        if point["access"] != "wo" and not any(low <= address and last <= high for low, high in profile["readable"]):
            problems.add(
                (*where, "address"),
                f"{name} at {_hex(address)}{f' to {_hex(last)}' if last > address else ''} is in no readable range",
                "readable",
            )


def _check_timing(timing: Mapping[str, Any], problems: _Problems) -> None:
    if timing["request_gap"] + timing["response_timeout"] >= timing["longest_silence"]:
        problems.add(
            ("timing", "longest_silence"),
            f"{timing['longest_silence']} s does not leave time for one unanswered request "
            f"(request_gap {timing['request_gap']} s and response_timeout {timing['response_timeout']} s)",
            "timing",
        )


def _lookup(
    name: str, where: Where, points: Mapping[str, Mapping[str, Any]], problems: _Problems, *, readable: bool = True
) -> Mapping[str, Any] | None:
    point = points.get(name)
    if point is None:
        near = difflib.get_close_matches(name, points, n=1)
        problems.add(where, f"{name!r} is no point of this profile{_did_you_mean(near)}", "point known")
    elif readable and point["access"] == "wo":
        problems.add(where, f"{name!r} cannot be read", "access")
        return None
    return point


def _check_identity(identity: Mapping[str, Any], points: Mapping[str, Mapping[str, Any]], problems: _Problems) -> None:
    for index, number in enumerate(identity.get("version", [])):
        where: Where = ("identity", "version", index)
        point = _lookup(number["point"], (*where, "point"), points, problems)
        if point is None:
            continue
        if point["type"] not in ("uint16", "uint32") or (point.get("scale", 1), point.get("offset", 0)) != (1, 0):
            problems.add((*where, "point"), f"{number['point']!r} is not uint16 or uint32 without scale", "version")
            continue
        width = 16 * registers(point)
        if number.get("shift", 0) >= width:
            problems.add((*where, "shift"), f"{number['shift']} leaves nothing of {width} bits", "version")
        if number.get("mask", 0) >> width:
            problems.add((*where, "mask"), f"0x{number['mask']:X} is wider than the point's {width} bits", "version")
    if "uptime" in identity:
        point = _lookup(identity["uptime"], ("identity", "uptime"), points, problems)
        if point is not None and (point["type"] not in _RAW_LIMITS or point.get("unit") != "s"):
            problems.add(("identity", "uptime"), f"{identity['uptime']!r} is not a number with the unit s", "uptime")


def _check_condition(
    condition: Mapping[str, Any],
    where: Where,
    points: Mapping[str, Mapping[str, Any]],
    readable: Sequence[Sequence[int]],
    problems: _Problems,
) -> None:
    if "address" in condition:
        address = condition["address"]
        if any(low <= address <= high for low, high in readable):
            problems.add((*where, "address"), f"{_hex(address)} is in a readable range, it cannot fail", "exception")
        return
    point = _lookup(condition["point"], (*where, "point"), points, problems)
    if point is None:
        return
    for key in ("set", "clear"):
        if key in condition and point["type"] != "bits":
            problems.add((*where, key), f"{condition['point']!r} has no bits, it is {point['type']}", "type")
        elif key in condition:
            _tell(_value_wrong(condition[key], point), (*where, key), problems)
    for key in ("min", "max"):
        if key in condition and point["type"] not in _RAW_LIMITS:
            problems.add((*where, key), f"{condition['point']!r} is no number, it is {point['type']}", "type")
    if condition.get("min", -math.inf) > condition.get("max", math.inf):
        problems.add((*where, "min"), f"{condition['min']} is greater than max {condition['max']}", "min and max")
    if "equals" in condition:
        _tell(_value_wrong(condition["equals"], point), (*where, "equals"), problems)
    for index, value in enumerate(condition.get("in", [])):
        _tell(_value_wrong(value, point), (*where, "in", index), problems)


def _tell(wrong: str | None, where: Where, problems: _Problems) -> None:
    if wrong:
        problems.add(where, wrong, "value")


def _value_wrong(value: Any, point: Mapping[str, Any]) -> str | None:
    """Why the point can never have the value, or None."""
    kind = point["type"]
    if kind == "bits":
        unknown = [name for name in value if name not in point["bits"]] if isinstance(value, list) else [value]
        return f"expected a list of {_list(point['bits'])}, found {_list(unknown)}" if unknown else None
    if kind == "enum":
        known = isinstance(value, Hashable) and value in point["symbols"]
        return None if known else f"expected one of {_list(point['symbols'])}, found {value!r}"
    if kind == "string":
        fits = isinstance(value, str) and value.isascii() and len(value) <= 2 * point["length"]
        return None if fits else f"expected ASCII text of at most {2 * point['length']} characters, found {value!r}"
    if isinstance(value, (str, list)):
        return f"expected a number, found {value!r}"
    return _not_representable(value, point)


def _check_write(
    write: Mapping[str, Any], where: Where, points: Mapping[str, Mapping[str, Any]], problems: _Problems
) -> None:
    point = _lookup(write["point"], (*where, "point"), points, problems, readable=False)
    if point is None:
        return
    if point["access"] == "ro":
        problems.add((*where, "point"), f"{write['point']!r} cannot be written", "access")
    if point["class"] == "emergency" and write["value"] not in point["stop_values"]:
        problems.add((*where, "value"), "draining may write an emergency point but to stop", "class")
    _check_value(write["value"], point, (*where, "value"), problems)


def _check_value(value: Any, point: Mapping[str, Any], where: Where, problems: _Problems) -> None:
    wrong = _value_wrong(value, point)
    if wrong is None and point["type"] in _RAW_LIMITS:
        if not point.get("min", -math.inf) <= value <= point.get("max", math.inf):
            wrong = f"{value} is not between min {point.get('min', 'none')} and max {point.get('max', 'none')}"
        elif "step" in point and not _whole_number((value - point.get("min", 0)) / point["step"]):
            wrong = f"{value} is not on a step of {point['step']} from {point.get('min', 0)}"
    _tell(wrong, where, problems)


def _check_part(part: Mapping[str, Any], problems: _Problems) -> None:
    fuses = part["fuses"]
    for name, fuse in fuses.items():
        if fuse["wanted"] not in fuse["accepted"]:
            accepted = _list(f"0x{value:02X}" for value in fuse["accepted"])
            problems.add(
                ("part", "fuses", name, "wanted"),
                f"0x{fuse['wanted']:02X} is not among the accepted: {accepted}",
                "fuses",
            )
    if part["eesave"]["fuse"] not in fuses:
        problems.add(("part", "eesave", "fuse"), f"{part['eesave']['fuse']!r} has no policy under fuses", "fuses")
    if part["flash"] % part["flash_page"]:
        problems.add(("part", "flash"), f"{part['flash']} is no multiple of flash_page {part['flash_page']}", "memory")
    facts = _PARTS.get(part["avrdude"])
    if facts is None:
        return
    for key in ("signature", "flash", "flash_page", "eeprom", "eesave"):
        if part[key] != facts[key]:
            problems.add(
                ("part", key), f"{_plain(part[key])} found, {part['avrdude']} has {_plain(facts[key])}", "part known"
            )
    if set(fuses) != facts["fuses"]:
        problems.add(
            ("part", "fuses"),
            f"{_list(sorted(fuses))} found, {part['avrdude']} has {_list(sorted(facts['fuses']))}",
            "fuses",
        )


def _plain(value: Any) -> str:
    return " ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else str(value)

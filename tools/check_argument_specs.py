# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""check_argument_specs.py [ROLES DIRECTORY]: every role's argument specs say the same as its defaults.

Each default is an option of at least one entry point, documented with the same default; each option documented with a
default is there in the defaults, with the same value; a required option has none. Each entry point has its tasks file.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """Reads Ansible's own tags (!unsafe, !vault) as what they tag."""


def _untagged(loader: Loader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return None


Loader.add_multi_constructor("!", _untagged)


def _load(paths: list[pathlib.Path]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in paths:
        merged |= yaml.load(path.read_text(encoding="utf-8"), Loader) or {}
    return merged


def _files(directory: pathlib.Path, stem: str) -> list[pathlib.Path]:
    """What Ansible reads as main: main.yml, or every file below main/."""
    files = [directory / f"{stem}{suffix}" for suffix in (".yml", ".yaml")]
    return [path for path in files if path.is_file()] or sorted((directory / stem).rglob("*.y*ml"))


def _same(one: Any, other: Any) -> bool:
    """Equal in value and type, all the way down: 1 is not true."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def differences(role: pathlib.Path) -> list[str]:
    specs_files = _files(role / "meta", "argument_specs")
    if not specs_files:
        return ["has no meta/argument_specs.yml"]
    entry_points = _load(specs_files).get("argument_specs") or {}
    defaults = _load(_files(role / "defaults", "main"))
    found = []
    documented = set()
    for entry_point, spec in entry_points.items():
        if not _files(role / "tasks", entry_point):
            found.append(f"entry point {entry_point} has no tasks/{entry_point}.yml")
        for name, option in (spec.get("options") or {}).items():
            documented.add(name)
            where = f"option {name} of entry point {entry_point}"
            if "default" in option and name not in defaults:
                found.append(f"{where} has the default {option['default']!r}, which defaults/main.yml lacks")
            elif "default" in option and not _same(option["default"], defaults[name]):
                found.append(f"{where} has the default {option['default']!r}, defaults/main.yml has {defaults[name]!r}")
            elif "default" not in option and name in defaults:
                found.append(f"{where} has no default, defaults/main.yml has {defaults[name]!r}")
    if "main" not in entry_points and _files(role / "tasks", "main"):
        found.append("argument specs lack the entry point main")
    found += [
        f"{name} of defaults/main.yml is no option of any entry point" for name in defaults if name not in documented
    ]
    return found


def main(arguments: list[str]) -> int:
    roles = pathlib.Path(arguments[0]) if arguments else pathlib.Path(__file__).resolve().parent.parent / "roles"
    checked = sorted(path for path in roles.glob("*") if path.is_dir())
    found = [f"{role.name}: {difference}" for role in checked for difference in differences(role)]
    for line in found:
        print(line)
    print(f"{len(checked)} roles, {len(found)} differences between argument specs and defaults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

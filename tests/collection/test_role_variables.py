# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What -e key=value gives is a string, which argument specs check and do not convert: who reckons with it has to."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import jinja2
import pytest
import yaml
from jinja2 import nodes

CONDITIONS = ("when", "failed_when", "changed_when", "until", "that")
NUMBERS = ("int", "float")
Found = tuple[str, str]


class Loader(yaml.SafeLoader):
    """Reads what Ansible marks with a tag of its own as a string."""


Loader.add_multi_constructor("!", lambda _loader, _suffix, node: str(node.value))


def types_of(top: pathlib.Path) -> dict[str, str]:
    """Of each switch and number among the variables of all roles its type."""
    found: dict[str, str] = {}
    for path in top.glob("roles/*/meta/argument_specs.yml"):
        for entry_point in yaml.load(path.read_text(), Loader)["argument_specs"].values():
            for name, option in (entry_point.get("options") or {}).items():
                if option.get("type") in ("bool", *NUMBERS):
                    found[name] = option["type"]
    return found


def unconverted(node: nodes.Node | None, types: dict[str, str], *wanted: str) -> str:
    """The name of the variable that is used here as it was given."""
    while isinstance(node, nodes.Filter) and node.name in ("default", "d"):
        node = node.node
    return node.name if isinstance(node, nodes.Name) and types.get(node.name) in wanted else ""


def misused(tree: nodes.Node, types: dict[str, str]) -> Iterator[str]:
    """Switches that decide, and numbers that are reckoned with or compared, as they were given."""
    for one in tree.find_all((nodes.And, nodes.Or, nodes.Not, nodes.CondExpr, nodes.If, nodes.Filter)):
        decides: list[Any] = []
        if isinstance(one, nodes.And | nodes.Or):
            decides = [one.left, one.right]
        elif isinstance(one, nodes.Not):
            decides = [one.node]
        elif isinstance(one, nodes.CondExpr | nodes.If):
            decides = [one.test]
        elif isinstance(one, nodes.Filter) and one.name == "ternary":
            decides = [one.node]
        yield from filter(None, (unconverted(node, types, "bool") for node in decides))
    for one in tree.find_all((nodes.BinExpr, nodes.Compare)):
        reckoned: list[Any] = []
        if isinstance(one, nodes.Compare):
            reckoned = [one.expr, *(operand.expr for operand in one.ops if operand.op not in ("in", "notin"))]
        elif not isinstance(one, nodes.And | nodes.Or):
            reckoned = [one.left, one.right]  # type: ignore[attr-defined]
        yield from filter(None, (unconverted(node, types, "bool", *NUMBERS) for node in reckoned))


def in_text(text: str, types: dict[str, str], is_condition: bool = False) -> list[str]:
    is_bare = is_condition and not text.startswith("{{")
    tree = jinja2.Environment().parse("{{ (" + text + ") }}" if is_bare else text)
    found = list(misused(tree, types))
    if is_condition:
        found += filter(None, [unconverted(tree.body[0].nodes[0], types, "bool")])  # type: ignore[attr-defined]
    return found


def in_yaml(data: Any, types: dict[str, str], is_condition: bool = False) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from in_yaml(value, types, key in CONDITIONS)
    elif isinstance(data, list):
        for value in data:
            yield from in_yaml(value, types, is_condition)
    elif isinstance(data, str) and (is_condition or "{" in data):
        yield from in_text(data, types, is_condition)


@pytest.mark.parametrize(
    ("text", "is_condition"),
    [
        ("switch", True),
        ("switch | default(false)", True),
        ("there and not switch", True),
        ("{{ switch }}", True),
        ("number == 0", True),
        ("{{ 'a' if switch else 'b' }}", False),
        ("{{ switch | ternary('a', 'b') }}", False),
        ("{{ number * 60 }}", False),
        ("{% if switch %}a{% endif %}", False),
    ],
)
def test_what_is_looked_for_is_found(text: str, is_condition: bool) -> None:
    types = {"switch": "bool", "number": "int"}
    assert in_text(text, types, is_condition)
    for name, kind in types.items():
        text = text.replace(name, f"{name} | {kind}")
    assert not in_text(text, types, is_condition)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of patterns, which Ansible takes as they are
def test_variables_are_converted_where_they_decide(top: pathlib.Path) -> None:
    types = types_of(top)
    assert len(types) > 50
    found = []
    for place in ("playbooks", *(f"roles/*/{part}" for part in ("tasks", "handlers", "vars", "defaults", "templates"))):
        for path in sorted(file for directory in top.glob(place) for file in directory.rglob("*.*")):
            names: list[str] = []
            if path.suffix == ".yml":
                names += in_yaml(yaml.load(path.read_text(), Loader), types)
            elif path.suffix == ".j2":
                names += in_text(path.read_text(), types)
            found += [f"{path.relative_to(top)}: {name} | {types[name]}" for name in names]
    assert not found, "\n".join(["given with -e it is a string; expected:", *found])

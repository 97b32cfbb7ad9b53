# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changing settings of controllers in the files of an inventory: people wrote them, all else in them stays.

A controller is looked for where Ansible reads variables of its host: in YAML inventories, and in ``host_vars/HOST``, a
file or a directory, beside them and beside the playbook. Only the text of a value is replaced, or a line added; the new
text must then say what the old one said but for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import write_atomically

_SUFFIXES = ("", ".yml", ".yaml", ".json")
_SETTINGS = "settings"


class InventoryFileError(CoreError):
    """Settings that cannot be written into the inventory; the message says what to write by hand."""


@dataclass(frozen=True)
class Edit:
    """The new text of a file, and what it was before."""

    path: Path
    before: str
    after: str

    def write(self) -> None:
        """Bring the new text into the file, whose permissions stay; InventoryFileError where that cannot be."""
        try:
            path = self.path.resolve()  # a link stays one
            status = path.stat()
            write_atomically(path, self.after.encode(), status.st_mode & 0o7777, (status.st_uid, status.st_gid))
        except OSError as error:
            raise InventoryFileError(f"{self.path}: {error.strerror}; nothing was written there") from None


def edits(
    inventories: Iterable[Path], playbooks: Path, wanted: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[Edit]:
    """What to change so that controllers have the settings ``wanted``: by gateway and controller, names and values.

    ``inventories`` are files or directories, ``playbooks`` is another directory that may have ``host_vars``.
    Raises InventoryFileError with all that cannot be written, so that nothing needs to be.
    """
    before: dict[Path, str] = {}
    after: dict[Path, str] = {}
    problems = []
    places = list(inventories)
    for gateway, controllers in wanted.items():
        for controller, settings in controllers.items():
            try:
                path = _file_of(list(dict.fromkeys(_files(places, playbooks, gateway))), gateway, controller)
                before.setdefault(path, _text(path))
                text = after.get(path, before[path])
                for name, value in settings.items():
                    text = _with_setting(text, gateway, controller, name, value)
                after[path] = text
            except InventoryFileError as problem:
                by_hand = yaml.safe_dump(dict(settings), default_flow_style=True, width=10_000).strip()
                problems.append(f"{gateway}, controller {controller}: {problem}; write by hand: settings: {by_hand}")
    if problems:
        raise InventoryFileError("\n".join([*problems, "Nothing was written."]))
    return [Edit(path, before[path], after[path]) for path in after if after[path] != before[path]]


def _file_of(files: Sequence[Path], gateway: str, controller: str) -> Path:
    found = [path for path in files if _entries(_tree(_text(path)), gateway, controller)]
    if not found:
        looked = ", ".join(map(str, files)) or "nothing that could list it"
        raise InventoryFileError(f"listed in no file of the inventory that can be changed (looked into {looked})")
    return found[-1]  # of several files Ansible takes the last one's word


def _files(inventories: Sequence[Path], playbooks: Path, gateway: str) -> Iterator[Path]:
    """Where variables of a host may stand, in the order in which Ansible reads them."""
    for inventory in inventories:
        yield from [inventory] if inventory.is_file() else _variable_files(inventory.glob("*"))
    for directory in (*(one if one.is_dir() else one.parent for one in inventories), playbooks):
        for suffix in _SUFFIXES:
            place = directory / "host_vars" / f"{gateway}{suffix}"
            yield from [place] if place.is_file() else _variable_files(place.rglob("*"))


def _variable_files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix in _SUFFIXES and path.is_file())


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()  # with the ends of lines that it has
    except (OSError, UnicodeDecodeError):
        return ""


def _tree(text: str) -> yaml.Node | None:
    """The file's values with their places; None of what is no single YAML document, such as an encrypted file's."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None


def _entries(tree: yaml.Node | None, gateway: str, controller: str) -> list[yaml.MappingNode]:
    """The entries of a controller: of the host's own variables, or of those of the host in an inventory."""
    lists = [_value(tree, "controllers")]
    lists += [_value(_value(hosts, gateway), "controllers") for hosts in _named(tree, "hosts")]
    return [
        entry
        for one in lists
        if isinstance(one, yaml.SequenceNode)
        for entry in one.value
        if (name := _value(entry, "name")) is not None and name.value == controller
    ]


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    return _pair(node, key)[1]


def _pair(node: yaml.Node | None, key: str) -> tuple[yaml.Node, yaml.Node] | tuple[None, None]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next(((name, value) for name, value in pairs if name.value == key), (None, None))


def _named(node: yaml.Node | None, key: str) -> Iterator[yaml.Node]:
    """All values of that key, however deep."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                yield value
            yield from _named(value, key)


def _with_setting(text: str, gateway: str, controller: str, name: str, value: Any) -> str:
    tree = _tree(text)
    entries = _entries(tree, gateway, controller)
    if len(entries) != 1:
        raise InventoryFileError("listed more than once in one file")
    settings = _value(entries[0], _SETTINGS)
    key, found = _pair(settings, name)
    uses = _uses(tree)
    if any(uses[id(node)] > 1 for node in (entries[0], settings, found) if node is not None):
        raise InventoryFileError("its settings belong to others too, by an anchor")
    flow = yaml.safe_dump([value], default_flow_style=True, width=10_000).strip()[1:-1]
    if settings is None:
        new = _with_pair(text, entries[0], _SETTINGS, f"{{{name}: {flow}}}")
    elif not isinstance(settings, yaml.MappingNode):
        raise InventoryFileError("its settings are no mapping in the file, but something that makes one")
    elif key is None or found is None:
        new = _with_pair(text, settings, name, flow)
    elif "{{" in str(found.value):
        raise InventoryFileError(f"its {name} is an expression")
    else:
        new = f"{text[: text.index(':', key.end_mark.index)]}: {flow}{text[_end(text, found) :]}"
    if _plain(_tree(new)) != _plain(tree, {id(entries[0]): (name, flow)}):
        raise InventoryFileError("the file is written in a way that this cannot change")
    return new


def _with_pair(text: str, mapping: yaml.MappingNode, key: str, flow: str) -> str:
    """``text`` with one pair more at the end of a mapping in it."""
    if not mapping.value:  # {}
        return f"{text[: mapping.start_mark.index]}{{{key}: {flow}}}{text[mapping.end_mark.index :]}"
    place = _end(text, mapping.value[-1][1])
    if mapping.flow_style:
        return f"{text[:place]}, {key}: {flow}{text[place:]}"
    column = mapping.value[-1][0].start_mark.column
    line_end = text.find("\n", place)
    place = len(text) if line_end < 0 else line_end  # behind a comment
    return f"{text[:place]}\n{' ' * column}{key}: {flow}{text[place:]}"


def _end(text: str, node: yaml.Node) -> int:
    """Where a value ends. Marks of a block end where the next thing begins, behind comments that are not its own."""
    if isinstance(node, (yaml.MappingNode, yaml.SequenceNode)) and not node.flow_style:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(node, yaml.MappingNode) else last)
    return len(text[: node.end_mark.index].rstrip())


def _uses(tree: yaml.Node | None) -> Counter[int]:
    """How often each value stands in the file, by itself or by an alias."""
    found: Counter[int] = Counter()

    def look(node: yaml.Node) -> None:
        found[id(node)] += 1
        if found[id(node)] > 1:
            return
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                look(key)
                look(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                look(value)

    if tree is not None:
        look(tree)
    return found


def _plain(node: yaml.Node | None, changed: Mapping[int, tuple[str, str]] | None = None) -> Any:
    """What a file says, whatever its notation; with entries of controllers ``changed`` as they shall be."""
    if isinstance(node, yaml.MappingNode):
        pairs = {name.value: _plain(value, changed) for name, value in node.value}
        if changed and id(node) in changed:
            name, flow = changed[id(node)]
            tag, settings = pairs.get(_SETTINGS, ("tag:yaml.org,2002:map", {}))
            pairs[_SETTINGS] = (tag, {**settings, name: _plain(yaml.compose(flow, Loader=yaml.SafeLoader))})
        return (node.tag, pairs)
    if isinstance(node, yaml.SequenceNode):
        return (node.tag, [_plain(value, changed) for value in node.value])
    return (node.tag, node.value) if node is not None else None

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of controls share: how a control is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.controls import KINDS
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.hardening import Change

_FILE: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "required": True},
    "mode": {"type": "str", "default": "0644"},
    "validate": {"type": "list", "elements": "str", "default": []},
}
_LINE: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "key": {"type": "str", "required": True, "no_log": False},
    "value": {"type": "str", "required": True},
}
_ONCE: dict[str, Any] = {
    "creates": {"type": "path", "required": True},
    "argv": {"type": "list", "elements": "str", "required": True},
    "stdout": {"type": "bool", "default": False},
}
_CONTROL: dict[str, Any] = {
    "id": {"type": "str", "required": True},
    "title": {"type": "str", "required": True},
    "references": {"type": "dict", "required": True},
    "container": {"type": "str", "default": ""},
    "guarded": {"type": "bool", "default": False},
    "activate": {"type": "list", "elements": "list", "default": []},
    "files": {"type": "list", "elements": "dict", "default": [], "options": _FILE},
    "lines": {"type": "list", "elements": "dict", "default": [], "options": _LINE},
    "modes": {"type": "dict", "default": {}},
    "once": {"type": "list", "elements": "dict", "default": [], "options": _ONCE},
    "units": {"type": "dict", "default": {}},
    "sshd": {"type": "dict", "default": {}},
    "sysctl": {"type": "dict", "default": {}},
    "modules": {"type": "list", "elements": "str", "default": []},
    "packages": {"type": "list", "elements": "str", "default": []},
    "mounts": {"type": "dict", "default": {}},
    "firewall": {"type": "path"},
}
CONTROLS: dict[str, Any] = {"type": "list", "elements": "dict", "required": True, "options": _CONTROL}


def describe(changes: Sequence[Change]) -> list[dict[str, str]]:
    """What a module returns of changes."""
    return [
        {
            "what": change.setting.key,
            "control": change.setting.control,
            "before": KINDS[change.setting.kind].show(change.found),
            "after": KINDS[change.setting.kind].show(change.wanted),
        }
        for change in changes
    ]


def diff(changes: Sequence[Change]) -> list[dict[str, str]]:
    """Files as their text, everything else as a line each."""
    shown = []
    for change in changes:
        if change.setting.kind == "file":
            before, after = (side["content"] if side else "" for side in (change.found, change.wanted))
            header = change.setting.name
            shown.append({"before_header": header, "after_header": header, "before": before, "after": after})
    rest = [one for one in describe(changes) if not one["what"].startswith("file ")]
    if rest:
        before, after = ("".join(f"{one['what']}: {one[side]}\n" for one in rest) for side in ("before", "after"))
        shown.append({"before": before, "after": after})
    return shown

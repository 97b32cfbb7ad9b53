# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The face that all modules share: the list of controllers in, one result a controller out, with a diff."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, TypeVar

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core import events
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.approval import APPROVERS, Approvals
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.change import Policy
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.gateway import (
    Gateway,
    Result,
    parse_controllers,
)
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.progress import Progress
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import Store

T = TypeVar("T")
CONTROLLER: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "line": {"type": "str", "required": True},
    "unit": {"type": "int", "required": True},
    "programmer": {"type": "str"},
    "profile": {"type": "str", "default": "multi_sonicator_io"},
    "settings": {"type": "dict", "default": {}},
    "firmware_version": {"type": "str"},
    "hardware_revision": {"type": "str"},
    "cell": {"type": "str"},
    "canary": {"type": "bool", "default": False},
}

RELEASE: dict[str, dict[str, Any]] = {
    "version": {"type": "str", "required": True},
    "image": {"type": "str", "required": True},
    "sha256": {"type": "str", "required": True},
    "part": {"type": "str"},
    "content": {"type": "str"},
}

_COMMON: dict[str, Any] = {
    "controllers": {"type": "list", "elements": "dict", "required": True, "options": CONTROLLER},
    "only": {"type": "list", "elements": "str"},
    "profiles": {"type": "dict", "default": {}},
    "state_directory": {"type": "path", "default": "/var/lib/multi_sonicator"},
    "lock_directory": {"type": "path", "default": "/run/lock"},
}

DRAIN: dict[str, Any] = {
    "drain": {"type": "str", "choices": ["refuse", "wait", "stop"], "default": "refuse"},
    "drain_deadline": {"type": "float", "default": 600.0},
    "boot_deadline": {"type": "float"},
    "programmer_deadline": {"type": "float"},
}

APPROVALS: dict[str, Any] = {
    "approvals": {"type": "path"},
    "approved": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "file": {"type": "str", "required": True},
            "request": {"type": "str", "required": True},
            "signatures": {"type": "list", "elements": "str", "default": []},
        },
    },
    "approvers_file": {"type": "path", "default": APPROVERS},
}


class ControllerModule(AnsibleModule):
    """An AnsibleModule on a list of controllers. ``options`` are those beyond the common ones."""

    def __init__(self, options: dict[str, Any], **rules: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            argument_spec={**_COMMON, **options}, supports_check_mode=True, **rules
        )

    def policy(self) -> Policy:
        """What the options say of draining, deadlines and the way back."""
        known = [field.name for field in dataclasses.fields(Policy)]
        return Policy(**{name: self.params[name] for name in known if name in self.params})

    def answer(self, work: Callable[[Gateway], dict[str, Any]]) -> None:
        """End with what ``work`` on the gateway returns."""
        self.exit_json(**self._on_gateway(work))

    def _on_gateway(self, work: Callable[[Gateway], T]) -> T:
        try:
            controllers = parse_controllers(self.params["controllers"], self.params["profiles"])
            gateway = Gateway(
                controllers,
                Store(self.params["state_directory"]),
                self.params["lock_directory"],
                self.params["only"],
                Progress(self.params.get("progress_file")),
                Approvals(
                    self.params["state_directory"],
                    self.params.get("approvers_file") or APPROVERS,
                    self.params.get("approved") or (),
                ),
            )
            return work(gateway)
        except CoreError as error:
            self.fail_json(msg=str(error))
        except OSError as error:
            self.fail_json(
                msg=f"{error.filename or self.params['state_directory']}: {os.strerror(error.errno or 0)}; "
                "check its permissions and the space that is left"
            )

    def run(self, work: Callable[[Gateway], list[Result]]) -> None:
        """Do ``work`` on the gateway and end; any failed controller fails the module, in one line a controller."""
        results = self._on_gateway(work)
        answer: dict[str, Any] = {
            "changed": any(result["changed"] for result in results),
            "controllers": results,
        }
        shown = [result for result in results if "before" in result and "after" in result]
        if shown:
            answer["diff"] = {side: {result["name"]: result[side] for result in shown} for side in ("before", "after")}
        if not self.check_mode:
            events.send(events.of_results(str(self._name).rpartition(".")[2], self.params, answer))
        failed = [
            f"{result['name']} ({result['line']} unit {result['unit']}): {result['msg']}"
            for result in results
            if result["failed"]
        ]
        if failed:
            self.fail_json(msg="\n".join(failed), **answer)
        self.exit_json(**answer)

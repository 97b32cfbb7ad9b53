# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module recovery_drill, all of which runs on the control node."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.events import Event
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import age, now
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import recovery_drill, rehearsal_twin
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.controller_action import controllers_of, find_profiles
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.recovery_drill import GatewayProof, Proof


class ActionModule(ControlNodeAction):
    """One operation."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "operation": {"type": "str", "required": True, "choices": ["choose", "prepare", "judge"]},
        "gateways": {"type": "list", "elements": "str", "required": True},
        "results": {"type": "path", "required": True},
        "sample": {"type": "int", "default": 0},
        "directory": {"type": "path"},
        "drill": {"type": "dict"},
        "new": {"type": "list", "elements": "str", "default": []},
        "metrics": {"type": "str", "default": ""},
    }
    RULES: ClassVar[dict[str, Any]] = {
        "required_if": [("operation", "prepare", ["directory"]), ("operation", "judge", ["drill"])]
    }

    @staticmethod
    def _choose(options: Mapping[str, Any]) -> dict[str, Any]:
        """The gateway that is to come back."""
        known = recovery_drill.results(Path(options["results"]))
        return {"changed": False, "gateway": recovery_drill.due_gateway(known, options["gateways"])}

    def _prepare(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Choose the controllers, and make the boards that they are to come back on."""
        hostvars = self._variables["hostvars"]
        controllers = {gateway: controllers_of(gateway, hostvars[gateway]) for gateway in options["gateways"]}
        profiles = find_profiles(chain(*controllers.values()), self._variables, self._loader.get_basedir())
        chosen = recovery_drill.due(
            recovery_drill.results(Path(options["results"])), controllers, max(0, options["sample"])
        )
        rehearsal_twin.require_parts(chosen, profiles)
        began, started = time.time(), now()
        directory = Path(options["directory"]) / f"drill.{started.replace('-', '').replace(':', '')}"
        return {
            "changed": True,
            "directory": str(directory),
            "started": started,
            "began": began,
            "names": {gateway: [one["name"] for one in entries] for gateway, entries in chosen.items()},
            "controllers": controllers,
            "boards": recovery_drill.build(directory, chosen) if not self._task.check_mode else {},
        }

    def _judge(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Compare what came back with what it was, and keep the result."""
        drill, hostvars = options["drill"], self._variables["hostvars"]
        seconds = time.time() - drill["began"]
        proofs = {}
        for gateway, names in drill["names"].items():
            fetched, restored, read = (
                hostvars[gateway].get(f"_recovery_drill_{what}") or {} for what in ("fetched", "restored", "read")
            )
            for name in names:
                place = Path(drill["directory"]) / gateway
                proofs[f"{gateway}/{name}"] = _proof(place, name, fetched.get("results") or [], restored, read)
        spared = {
            gateway: _gateway_proof(held, options["new"])
            for gateway in options["gateways"]
            if (held := hostvars[gateway].get("_recovery_drill_gateway"))
        }
        results = Path(options["results"])
        result = recovery_drill.keep(results, drill["started"], seconds, proofs, spared)
        told = f"recovery drill {result['id']} {result['outcome']}"
        event = Event(
            what="recovery_drill",
            result="failed" if result["problems"] else "changed",
            message=f"{told}: {', '.join([*spared, *proofs])}",
        )
        self._audit_log().append(event)
        if options["metrics"]:
            known = recovery_drill.results(results)
            recovery_drill.measure(Path(options["metrics"]).expanduser(), known, drill["controllers"])
        oldest = max((proof.age for proof in proofs.values()), default=0)
        figures = f"recovery time {seconds:.0f} s, recovery point {oldest} s before"
        gateways = "".join(f"; gateway {name} in {one.seconds:.0f} s" for name, one in spared.items())
        return {
            "changed": True,
            "path": str(results / f"{result['id']}.json"),
            "outcome": result["outcome"],
            "problems": result["problems"],
            "msg": f"{told}: {len(proofs)} controllers, {figures}{gateways}",
        }


def _proof(
    place: Path, name: str, fetched: list[Mapping[str, Any]], restored: Mapping[str, Any], read: Mapping[str, Any]
) -> Proof:
    """What became of one controller, by what the modules said of fetching, restoring and reading it."""
    problems = [str(one["msg"]) for one in fetched if not one.get("set")]
    whole = [one for one in fetched if one.get("set")]
    if not whole:
        return Proof("", "", 0, [], problems or ["there is no backup target that it could come from"])
    [done, answer] = [_of(result, name) for result in (restored, read)]
    if done.get("failed", True):
        problems.append(str(done.get("msg") or restored.get("msg") or "nothing was told of it"))
    elif answer.get("failed", True):
        problems.append(str(answer.get("msg") or read.get("msg") or "nothing was told of it"))
    else:
        problems += recovery_drill.compare(place, name, whole[0]["set"], answer["content"])
    found = whole[0]
    # One that was away for a while has another newest one, which was verified, but nothing came back from it.
    targets = [str(one["backup_target"]) for one in whole if one["set"] == found["set"]]
    return Proof(str(found["set"]), str(found["taken"]), age(found["taken"]), targets, problems)


def _gateway_proof(held: Mapping[str, Any], new: Sequence[str]) -> GatewayProof:
    """What became of a gateway on the spare host: ``held`` is what the role noted of it."""
    found = held.get("fetched") or {}
    problems = [str(held["failure"])] if held.get("failure") else []
    if found.get("set"):
        problems += recovery_drill.unexpected(found["differences"], new)
        if (held.get("again") or {}).get("changed", True):
            problems.append("what came back from its backup did not stay")
    elif not problems:
        problems = ["its backup was not fetched"]
    taken = str(found.get("taken") or "")
    proof = (str(found.get("set") or ""), taken, age(taken) if taken else 0, [str(found.get("backup_target") or "")])
    return GatewayProof(*proof, problems, float(held.get("seconds") or 0))


def _of(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next((one for one in result.get("controllers") or () if one["name"] == name), {})

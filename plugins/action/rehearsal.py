# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module rehearsal, all of which runs on the control node."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import yaml
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.events import Event
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import now
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import rehearsal, rehearsal_twin
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.controller_action import controllers_of, find_profiles
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rehearsal import Site
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rehearsal_twin import Act, Kept
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import parse_policy
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutState


class ActionModule(ControlNodeAction):
    """One operation."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "operation": {
            "type": "str",
            "required": True,
            "choices": ["prepare", "seed", "judge", "remove", "record", "require"],
        },
        "gateways": {"type": "list", "elements": "str", "required": True},
        "only": {"type": "list", "elements": "str", "default": []},
        "version": {"type": "str", "default": ""},
        "policy": {"type": "dict", "default": {}},
        "directory": {"type": "path"},
        "firmware": {"type": "str", "default": ""},
        "fail": {"type": "str", "default": ""},
        "soak": {"type": "float"},
        "longest_soak": {"type": "float", "default": 5.0},
        "twin": {"type": "dict"},
        "flashes": {"type": "dict"},
        "act": {"type": "str", "choices": ["rollout", "failure"]},
        "acts": {"type": "list", "elements": "dict", "default": []},
        "valid_for": {"type": "float", "default": 7.0},
        "results": {"type": "path"},
        "key": {"type": "path"},
    }
    RULES: ClassVar[dict[str, Any]] = {
        "required_if": [
            ("operation", "prepare", ["directory"]),
            ("operation", "seed", ["twin"]),
            ("operation", "judge", ["twin", "act", "flashes"]),
            ("operation", "remove", ["twin"]),
            ("operation", "record", ["twin", "results", "key"]),
            ("operation", "require", ["results", "key"]),
        ]
    }

    def _prepare(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Draw up the twin, and make the directory that it is to be in."""
        site, profiles = self._site(options)
        kept = self._kept(options)
        rehearsal_twin.require_boards(site.controllers, profiles, kept, options["firmware"])
        if options["fail"] and options["fail"] not in site.chosen():
            raise CoreError(
                f"rehearsal_fail is {options['fail']}, expected one of the rollout's controllers: "
                f"{', '.join(site.chosen()) or 'none'}"
            )
        subject, longest = site.subject({}), options["longest_soak"]
        identity = rehearsal.new_id(subject)
        directory = Path(options["directory"]) / f"rehearsal.{identity}"
        controllers = rehearsal_twin.remap(directory, site.controllers)
        if not self._task.check_mode:
            rehearsal_twin.make(directory, {"inventory": site.controllers, "twin": controllers})
        return {
            "changed": True,
            "id": identity,
            "started": now(),
            "directory": str(directory),
            "controllers": controllers,
            "chosen": site.chosen(),
            "subject": subject,
            "wave_soak": [min(soak, longest) for soak in parse_policy(options["policy"]).soak],
            "soak": longest if options["soak"] is None else min(options["soak"], longest),
            "kept": {gateway: sorted(found) for gateway, found in kept.items()},
        }

    def _seed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Put the boards to where an act begins."""
        twin = json.loads(json.dumps(options["twin"]))  # Ansible's own kinds of text are none that YAML can write
        firmware = self._path(options["firmware"]) if options["firmware"] else None
        flashes = rehearsal_twin.seed(Path(twin["directory"]), twin["controllers"], self._kept(options), firmware)
        return {"changed": True, "flashes": flashes}

    def _judge(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What became of an act."""
        twin, name = options["twin"], options["act"]
        directory, hostvars = Path(twin["directory"]), self._variables["hostvars"]
        state = RolloutState(directory / "rollouts", name)
        if not state.exists:
            reasons = {str(hostvars[gateway].get("_rehearsal_failure") or "") for gateway in options["gateways"]} - {""}
            nothing = "every controller has its release already, so that there is nothing to rehearse"
            return {"changed": False, "act": {"act": name, "problems": sorted(reasons) or [nothing]}}
        before, after = (
            {gateway: hostvars[gateway].get(variable) or {} for gateway in options["gateways"]}
            for variable in ("_rehearsal_before", "_rehearsal_after")
        )
        act = Act(
            state,
            twin["chosen"],
            rehearsal_twin.seen(options["flashes"], before),
            rehearsal_twin.seen(rehearsal_twin.flashes(directory, twin["controllers"]), after),
        )
        broken = options["fail"] or act.first
        gateway, _slash, board = broken.rpartition("/")
        if broken not in act.members:
            raise CoreError(f"rehearsal_fail is {broken}, which has its release already; name one that is to get it")
        told = {"act": name, **act.told()}
        if name == "rollout":
            [line] = [one["line"] for one in twin["controllers"][gateway] if one["name"] == board]
            control = [str(directory / gateway / "program/virtual_line"), "--control", rehearsal_twin.control(line)]
            told["problems"] = act.undisturbed()
            return {
                "changed": False,
                "act": told,
                "images": act.images(),
                "broken": {"gateway": gateway, "control": [*control, board], "fault": list(rehearsal_twin.FAULT)},
            }
        told["injected"] = {
            "controller": broken,
            "fault": " ".join(rehearsal_twin.FAULT),
            "failure": act.failure(broken),
            "end": told["controllers"][broken]["msg"],
        }
        told["problems"] = act.disturbed(broken)
        return {"changed": False, "act": told}

    def _remove(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Remove the twin's directory, whose boards are not simulated any more."""
        shutil.rmtree(options["twin"]["directory"])
        return {"changed": True}

    def _record(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Sign the result, and tell the audit log of it."""
        twin, acts = options["twin"], options["acts"]
        result = rehearsal.write_result(
            Path(options["results"]),
            Path(options["key"]),
            twin["id"],
            twin["started"],
            {**twin["subject"], "images": acts[0].get("images", {})},
            [one["act"] for one in acts],
            options["valid_for"],
        )
        path = str(Path(options["results"]) / f"{result['id']}.json")
        told = f"rehearsal {result['id']} {result['outcome']}"
        event = Event(
            what="rehearsal",
            result="failed" if result["problems"] else "changed",
            message=f"{told}, digest {result['digest']}",
        )
        self._audit_log().append(event)
        until = f"counts until {result['expires']}: {path}"
        return {
            "changed": True,
            "path": path,
            "outcome": result["outcome"],
            "msg": "\n".join([f"{told}; it {until}", *result["problems"]]),
        }

    def _require(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Fail unless what the role controllers is about to do was rehearsed."""
        site, _profiles = self._site(options)
        chosen = set(site.chosen())
        found = {
            f"{gateway}/{one['name']}": one
            for gateway in options["gateways"]
            for one in (self._variables["hostvars"][gateway].get("_controllers_result") or {}).get("controllers") or ()
        }
        if all(found.get(one, {}).get("outcome") == "unchanged" for one in chosen):
            return {"changed": False, "msg": "there is nothing to do, which needs no rehearsal"}
        images = {one: result["image"] for one, result in found.items() if one in chosen and result.get("image")}
        inventories = [f"-i {place}" for place in self._variables.get("ansible_inventory_sources") or ()]
        version = [f"-e firmware_version={options['version']}"] if options["version"] else []
        command = " ".join(["ansible-playbook", "multi_sonicator.ops.rehearse", *inventories, *version])
        result = rehearsal.require(site.subject(images), Path(options["results"]), Path(options["key"]), command)
        return {"changed": False, "msg": f"rehearsed by {result['who']} at {result['ended']} ({result['id']})"}

    def _site(self, options: Mapping[str, Any]) -> tuple[Site, Mapping[str, Mapping[str, Any]]]:
        """What the inventory says, and the profiles of its controllers."""
        hostvars = self._variables["hostvars"]
        controllers = {gateway: controllers_of(gateway, hostvars[gateway]) for gateway in options["gateways"]}
        profiles = find_profiles(chain(*controllers.values()), self._variables, self._loader.get_basedir())
        versions = {
            gateway: str(hostvars[gateway].get("controllers_firmware_version") or "") for gateway in options["gateways"]
        }
        digests = {name: rehearsal.digest(data) for name, data in profiles.items()}
        return Site(controllers, versions, digests, options["policy"], options["only"], options["version"]), profiles

    def _kept(self, options: Mapping[str, Any]) -> dict[str, dict[str, Kept]]:
        """What the role's tasks have fetched from the real gateways, by gateway and controller."""
        kept: dict[str, dict[str, Kept]] = {}
        for gateway in options["gateways"]:
            fetched = self._variables["hostvars"][gateway].get("_rehearsal_fetched") or {"sets": {}, "objects": {}}
            objects = {digest: base64.b64decode(content) for digest, content in fetched["objects"].items()}
            kept[gateway] = {}
            for name, content in fetched["sets"].items():
                found = yaml.safe_load(base64.b64decode(content))
                images = found["images"] or {}
                kept[gateway][name] = Kept(
                    found, {images[memory]: objects[images[memory]] for memory in ("flash", "eeprom") if images}
                )
        return kept

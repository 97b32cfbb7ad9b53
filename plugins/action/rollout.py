# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module rollout, all of which runs on the control node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.events import Event
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import now
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit, rollout_report, rollout_run
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.control_node_action import ControlNodeAction
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.history import History
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import Plan, describe
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutState, who


class ActionModule(ControlNodeAction):
    """One operation on a rollout."""

    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "operation": {"type": "str", "required": True, "choices": ["plan", "next", "request", "show"]},
        "directory": {"type": "str", "required": True},
        "id": {"type": "str", "default": ""},
        "what": {"type": "str", "default": ""},
        "gateways": {"type": "list", "elements": "str", "default": []},
        "only": {"type": "list", "elements": "str", "default": []},
        "policy": {"type": "dict", "default": {}},
        "retry": {"type": "bool", "default": False},
        "previous": {"type": "str", "default": ""},
        "approved": {"type": "list", "elements": "str", "default": []},
        "approval_deadline": {"type": "float", "default": 0.0},
        "history": {"type": "str", "default": ""},
        "reason": {"type": "str", "default": ""},
        "request": {"type": "str", "choices": ["pause", "resume", "stop", "abort", "approve"]},
    }
    RULES: ClassVar[dict[str, Any]] = {"required_if": [("operation", "request", ["request"])]}

    def work(self, options: dict[str, Any]) -> dict[str, Any]:
        """Do it."""
        self._log = self._audit_log()  # an expression may name it, which must not fail halfway
        return super().work(options)

    def _plan(self, options: Mapping[str, Any]) -> dict[str, Any]:
        entries, pending, unchanged = [], [], {}
        for gateway in options["gateways"]:
            variables = self._variables["hostvars"][gateway]
            preview = variables.get("_controllers_result") or {}
            unchanged[gateway] = [
                {"name": one["name"], "failed": False, "msg": one["msg"]}
                for one in preview.get("controllers") or ()
                if one.get("outcome") == "unchanged"
            ]
            settled = {one["name"] for one in unchanged[gateway]}
            for one in variables.get("controllers") or ():
                labels = {key: one[key] for key in ("name", "cell", "canary") if key in one}
                entries.append({"gateway": gateway, **labels})
                chosen = one.get("programmer") and (not options["only"] or one["name"] in options["only"])
                if chosen and one["name"] not in settled:
                    pending.append(f"{gateway}/{one['name']}")
        rollout_id = options["id"] or f"{now().replace('-', '').replace(':', '')}-{options['what'].replace(' ', '-')}"
        state = RolloutState(options["directory"], rollout_id)
        answer: dict[str, Any] = {"changed": False, "id": rollout_id, "unchanged": unchanged}
        if state.exists:
            kept = Plan.from_mapping(state.plan()["plan"])
            if not self._task.check_mode:
                rollout_run.go_on(state, options["what"], options["retry"])
                self._record(state, "rollout_resume", options["what"])
            answer["unchanged"] = {
                gateway: [one for one in settled if f"{gateway}/{one['name']}" not in kept.members]
                for gateway, settled in unchanged.items()
            }
            return {**answer, "plan": describe(kept), "msg": f"rollout {rollout_id} goes on"}
        if not pending:
            return {**answer, "plan": "", "msg": "there is nothing to do"}
        drawn = rollout_run.draw_up(entries, pending, options["policy"])
        if not self._task.check_mode:
            rollout_run.begin(state, options["what"], drawn)
            self._record(state, "rollout_start", f"{options['what']}, plan {drawn.digest}")
        told = f"rollout {rollout_id} of {len(drawn.members)} controllers"
        return {**answer, "plan": describe(drawn), "msg": told}

    def _next(self, options: Mapping[str, Any]) -> dict[str, Any]:
        run = rollout_run.Run(RolloutState(options["directory"], options["id"]), self._display.display)
        gateways, hostvars = options["gateways"], self._variables.get("hostvars", {})
        if options["previous"] == "work":
            results = {gateway: hostvars[gateway].get("_controllers_result") or {} for gateway in gateways}
            run.note(results)
            if options["history"]:
                self._keep_history(options, results)
        measured = None
        if options["previous"] == "measure":
            measured = {gateway: hostvars[gateway].get("_controllers_status") or {} for gateway in gateways}
        approved = options["approved"]
        waves = "all" if "all" in approved else [int(wave) for wave in approved]
        step = run.next(measured, waves, options["approval_deadline"])
        if step.do == "end":
            self._record(run.state, "rollout_end", step.reason, "failed" if step.failed else "changed")
        elif step.do == "approval":
            self._record(run.state, "rollout_stop", step.reason)
        answer = {
            "changed": False,
            "id": options["id"],
            "do": step.do,
            "controllers": {gateway: list(names) for gateway, names in step.controllers.items()},
            "gateways": list(step.gateways),
            "undo": step.undo,
            "wave": step.wave,
            "approval": step.approval,
            "msg": step.reason,
            "failed_rollout": step.failed,
        }
        if step.do in ("end", "approval"):
            answer["results"] = run.results()
            answer["report"] = str(rollout_report.write(run.state, answer["results"]))
        return answer

    def _keep_history(self, options: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Record what controllers run and are set to now. What cannot be recorded is at the next snapshot."""
        sets = {
            gateway: [one["content"] for one in result.get("controllers") or () if "content" in one]
            for gateway, result in results.items()
        }
        try:
            audited = audit.read(self._log.path, rollout=options["id"])
            History(options["history"]).record(sets, options["reason"], options["id"], audited=audited)
        except CoreError as error:
            self._display.warning(f"the rollout goes on, but {error}")

    def _request(self, options: Mapping[str, Any]) -> dict[str, Any]:
        state = RolloutState(options["directory"], options["id"])
        run = rollout_run.Run(state, self._display.display)
        request = options["request"]
        wave = run.judge(request)
        if not self._task.check_mode:
            if wave is not None:
                run.approve(wave)
                self._record(state, "approval", f"wave {wave}")
            else:
                state.append("request", request=request, who=who())
                self._record(state, "request", request)
        told = f"wave {wave} approved" if wave is not None else f"{request} asked for"
        return {"changed": True, "msg": f"rollout {state.id}: {told} by {who()}"}

    def _record(self, state: RolloutState, what: str, message: str, result: str = "changed") -> None:
        self._log.append(Event(what=what, result=result, message=message), rollout=state.id)

    def _show(self, options: Mapping[str, Any]) -> dict[str, Any]:
        state = RolloutState(options["directory"], options["id"])
        run = rollout_run.Run(state, self._display.display)
        answer = {
            "changed": False,
            "plan": describe(run.plan),
            "results": run.results(),
            "events": state.events(),
            "msg": f"rollout {state.id} of {state.plan()['what']}",
        }
        if not self._task.check_mode:
            # The run that drove it may have been killed before it wrote one.
            answer["report"] = str(rollout_report.write(state, answer["results"]))
        return answer

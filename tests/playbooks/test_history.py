# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""snapshot.yml writes down what controllers were set to, and history.yml tells who changed what, and why."""

from __future__ import annotations

from pathlib import Path

from support.ansible import VirtualSite
from support.virtual import Board


def test_what_was_changed_is_told(tmp_path: Path) -> None:
    gateways = {"gateway_a": [[Board("press_1"), Board("press_2", 3)]], "gateway_b": [[Board("mixer_1")]]}
    with VirtualSite(tmp_path, gateways) as site:
        kept = site.control.directory / ".local/state/multi_sonicator/history"
        assert "no changes" in site.play("history").output
        site.play("snapshot", check=True)
        assert not kept.exists(), "check mode writes nothing"
        first = site.play("snapshot", controllers_reason="commissioned")
        assert len(first.result("history")["changes"]) == 3
        assert not site.play("snapshot").result("history")["changed"]

        thicker = {"controllers_only": ["press_1"], "controllers_reason": "thicker parts"}
        changed = site.play("configure", controllers_values={"sonicator1_amplitude": 61}, **thicker)
        [change] = changed.result("history")["changes"]
        assert (change["gateway"], change["controller"], change["reason"]) == ("gateway_a", "press_1", "thicker parts")
        [what] = change["what"]
        assert what.startswith("sonicator1_amplitude: ") and what.endswith(" → 61")

        site.command("press_2", "power", "off")
        assert not site.play("snapshot", code=2).result("history")["changed"], "a silent one is left as it was"
        site.play("configure", controllers_values={"sonicator1_amplitude": 61}, **thicker)

        shown = site.play("history").result("history")["msg"].splitlines()
        assert len(shown) == 4 and "gateway_a/press_1: sonicator1_amplitude: " in shown[0]
        assert ", thicker parts, audit record " in shown[0] and "@" in shown[0]
        assert (
            site.play("history", history_controllers=["mixer_1"])
            .result("history")["msg"]
            .endswith("first recorded, commissioned")
        )

        for playbook, what in (("deploy", "version: 1.0.0 → 1.1.0"), ("rollback", "version: 1.1.0 → 1.0.0")):
            site.play(playbook, **(thicker if playbook == "rollback" else thicker | {"firmware_version": "1.1.0"}))
            newest = site.play("history").result("history")["changes"][0]
            assert newest["controller"] == "press_1" and what in newest["what"], newest
            assert newest["rollout"] and newest["audit"] and newest["reason"] == "thicker parts", newest
        assert site.play("history", history_until="2026-01-01").result("history")["msg"] == "no changes"
        assert "expected a moment such as 2026-11-01" in site.play("history", code=2, history_since="last week").output

        site.write_inventory()
        nowhere = {"firmware_version": "1.1.0", "controllers_only": ["press_1"], "controllers_history": "/dev/null/x"}
        run = site.control.run("ansible-playbook", *site.arguments("deploy", False, nowhere))
        assert run.code == 0, "a history that cannot be written stops no rollout"
        assert "the rollout goes on, but history /dev/null/x" in " ".join(run.output.split())

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables that a role does not admit are refused before anything is asked."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml
from support.ansible import COLLECTION, Control
from support.virtual import REPOSITORY

ROLE = REPOSITORY / "roles/controllers"
ENTRY_POINTS = ("approve", "configure", "deploy", "drift", "main", "restore", "rollback", "snapshot", "status")
# What a rollout takes for releases only; rollback has one to a set.
FOR_RELEASES = {
    f"controllers_{name}"
    for name in (
        "allow_downgrade",
        "allow_unsigned",
        "firmware_version",
        "product",
        "rehearsal_key",
        "rehearsal_results",
        "releases",
        "repository",
        "repository_cache",
        "require_rehearsal",
        "trust_directory",
        "trusted_root",
        "version_override",
    )
}
BAD = {
    "drain of no choice": (
        "deploy",
        {"controllers_drain": "force"},
        ("controllers_drain", "refuse, wait, stop", "force"),
    ),
    "deadline no number": ("rollback", {"controllers_drain_deadline": "soon"}, ("controllers_drain_deadline", "float")),
    "failures no number": ("deploy", {"controllers_max_failures": "some"}, ("controllers_max_failures", "int")),
    "rollback no answer": ("deploy", {"controllers_rollback": "perhaps"}, ("controllers_rollback", "bool")),
    "read_chip no answer": ("snapshot", {"controllers_read_chip": "perhaps"}, ("controllers_read_chip", "bool")),
    "controllers missing": ("status", {"controllers": None}, ("missing required arguments: controllers",)),
    "controllers no list": ("configure", {"controllers": {"press": {"unit": 2}}}, ("controllers", "list")),
    "controller without a name": (
        "restore",
        {"controllers": [{"line": "/dev/null", "unit": 2}]},
        ("controller 1 of the list: name is missing",),
    ),
    "release a string": ("deploy", {"controllers_releases": ["1.1.0"]}, ("controllers_releases", "dict")),
    "target nowhere": (
        "backup/main",
        {"backup_targets": [{"name": "vault", "server": "vault_1"}]},
        ("backup_targets entry vault", "expected either repository, or server"),
    ),
    "target below nobody knows what": (
        "backup/main",
        {"backup_targets": [{"name": "disk", "repository": "backups"}]},
        ("backup_targets entry disk", "a path from /"),
    ),
    "target that systemd reads otherwise": (
        "backup/main",
        {"backup_targets": [{"name": "disk", "repository": "/media/disk\nExecStart=/bin/sh"}]},
        ("backup_targets on disks", "nothing was changed"),
    ),
    "period that restic does not know": (
        "backup/main",
        {"backup_kept": {"fortnightly": 1}},
        ("backup_kept", "hourly", "nothing was changed"),
    ),
}


def test_bad_variables_are_refused(tmp_path: Path) -> None:
    """All of them in one play, of a host that has none of the site's variables."""
    tasks: list[dict[str, Any]] = []
    for name, (entry_point, variables, _says) in BAD.items():
        role, _slash, file = entry_point.rpartition("/")
        include = {"name": f"{COLLECTION}.{role or 'controllers'}", "tasks_from": file}
        given = {"controllers": [{"name": "press", "line": "/dev/null", "unit": 2}], **variables}
        of_items = "ansible_failed_result.results | default([]) | map(attribute='msg') | join"
        told = {
            "name": name,
            "ansible.builtin.debug": {"msg": f"{{{{ ansible_failed_result.msg }}}} {{{{ {of_items} }}}}"},
        }
        call = {
            "name": "Call the role",
            "ansible.builtin.include_role": include,
            "vars": {key: value for key, value in given.items() if value is not None},
        }
        tasks.append({"name": "Try", "block": [call], "rescue": [told]})
    play = {"name": "Refusals", "hosts": "localhost", "gather_facts": False, "connection": "local", "tasks": tasks}
    control = Control(tmp_path)
    path = control.directory / "refusals.yml"
    path.write_text(yaml.safe_dump([play], sort_keys=False))
    run = control.run(
        "ansible-playbook", "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}", str(path)
    )
    run.require()
    said = {event["task"]: event["result"]["msg"] for event in run.events if event["task"] in BAD}
    found = [
        f"{name}: {said.get(name, 'it was admitted')}"
        for name, (_entry_point, _variables, says) in BAD.items()
        if not all(words in said.get(name, "") for words in says)
    ]
    assert not found, "\n".join(found)


def test_every_entry_point_is_specified() -> None:
    spec = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]
    assert sorted(spec) == list(ENTRY_POINTS)
    for name, entry_point in spec.items():
        assert entry_point["options"]["controllers"]["required"], name
        assert entry_point["short_description"], name


def test_an_entry_point_takes_what_its_tasks_use() -> None:
    """Directly, or by way of the role's own variables; the status table also by its template."""
    spec = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]
    variables = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    table = (ROLE / "templates/status.txt.j2").read_text()
    for name in ENTRY_POINTS:
        source = "status" if name == "main" else name
        text = tasks(f"{source}.yml", set()) + (table if source == "status" else "")
        for _turn in variables:
            text += "".join(str(value) for key, value in variables.items() if key in text and str(value) not in text)
        used = {option for option in defaults if mentions(text, option)}
        if name == "rollback":
            used -= FOR_RELEASES
        assert used | {"controllers"} == set(spec[name]["options"]), name


def tasks(file: str, seen: set[str]) -> str:
    """The text of a file of tasks and of all that it includes, as tasks or as a role of its own."""
    if file in seen:
        return ""
    seen.add(file)
    text = (ROLE / "tasks" / file).read_text()
    named = [
        name for line in re.findall(r"(?:include|import)_tasks: (.*)", text) for name in re.findall(r"\w+\.yml", line)
    ]
    named += [f"{name}.yml" for name in re.findall(rf"name: {COLLECTION}\.controllers\n\s+tasks_from: (\w+)", text)]
    return text + "".join(tasks(one, seen) for one in named)


def mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w]){name}(?!\w)", text) is not None

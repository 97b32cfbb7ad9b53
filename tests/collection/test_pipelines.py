# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pipelines, AWX objects and the execution environment of docs/examples: each is held against what will read it."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from collection.conftest import TOP, run
from support.ansible import VirtualSite
from support.virtual import Board

EXAMPLES = TOP / "docs/examples"
GITHUB = EXAMPLES / "pipelines/github/workflows/rollout.yml"
SECRETS = EXAMPLES / "pipelines/github/actions/secrets/action.yml"
GITLAB = EXAMPLES / "pipelines/gitlab/gitlab-ci.yml"
ENVIRONMENT = EXAMPLES / "awx/execution-environment.yml"
OBJECTS = EXAMPLES / "awx/objects.yml"
AWX = TOP / ".venv/collections/ansible_collections/awx/awx/plugins/modules"
STAGES = ["lint", "test", "rehearse", "approve", "deploy", "verify", "report"]
PROGRAMS = pathlib.Path(sys.executable).parent
ROLE = re.compile(r"^\s+name: multi_sonicator\.ops\.(\w+)$", re.MULTILINE)
CALL = re.compile(r"^\s*(ansible-playbook(?:.*\\\n)*.*)$", re.MULTILINE)


def load(path: pathlib.Path) -> Any:
    return yaml.safe_load(path.read_text())


def github_scripts() -> dict[str, str]:
    """What each job of the GitHub workflow runs."""
    jobs = load(GITHUB)["jobs"]
    return {name: "\n".join(step["run"] for step in job["steps"] if "run" in step) for name, job in jobs.items()}


def gitlab_scripts() -> dict[str, str]:
    """What each job of the GitLab pipeline runs."""
    return {name: "\n".join(job["script"]) for name, job in load(GITLAB).items() if name in STAGES}


# The pipelines


@pytest.mark.parametrize(
    ("path", "schema", "options"),
    [
        (GITHUB, "vendor.github-workflows", ()),
        (SECRETS, "vendor.github-actions", ()),
        (GITLAB, "vendor.gitlab-ci", ("--data-transform", "gitlab-ci")),
    ],
)
def test_a_pipeline_is_what_its_schema_admits(
    path: pathlib.Path, schema: str, options: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    run("check-jsonschema", "--builtin-schema", schema, *options, str(path), cwd=tmp_path)


def test_every_job_waits_for_the_one_before() -> None:
    jobs = load(GITHUB)["jobs"]
    assert list(jobs) == STAGES
    needed = [job.get("needs", []) for job in jobs.values()]
    assert needed == [[], "lint", "test", "rehearse", "approve", "deploy", ["deploy", "verify"]]
    # Who looks only may look though what is looked at has failed. Nothing else may begin after a failure.
    assert {name for name, job in jobs.items() if "always()" in job.get("if", "")} == {"verify", "report"}

    pipeline = load(GITLAB)
    assert pipeline["stages"] == STAGES
    assert {name: pipeline[name]["stage"] for name in STAGES} == {name: name for name in STAGES}
    always = {name for name in STAGES for rule in pipeline[name].get("rules", []) if rule.get("when") == "always"}
    assert always == {"verify", "report"}
    assert not any(job.get("allow_failure") for job in pipeline.values() if isinstance(job, dict))


def test_a_rollout_is_approved_by_a_person_and_never_meets_another_one() -> None:
    workflow, pipeline = load(GITHUB), load(GITLAB)
    assert workflow["jobs"]["approve"]["environment"] == "${{ inputs.site }}-approval"
    assert "rollout-{0}" in workflow["concurrency"]["group"]
    assert workflow["concurrency"]["cancel-in-progress"] == "${{ !inputs.site }}"

    (rule,) = pipeline["approve"]["rules"]
    assert (rule["when"], rule["allow_failure"]) == ("manual", False)
    assert (pipeline[".site"]["resource_group"], pipeline[".site"]["interruptible"]) == ("$SITE", False)
    assert {name for name in STAGES if pipeline[name].get("extends") == ".site"} == set(STAGES) - {"lint", "approve"}


def test_a_pipeline_may_do_no_more_than_it_must() -> None:
    workflow = load(GITHUB)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions", {}) == {}, name
        secrets = "secrets." in json.dumps(job)
        assert secrets == (name in ("test", "rehearse", "deploy", "verify")), name
        assert not secrets or job["environment"] == "${{ inputs.site }}", name
        for step in job["steps"]:
            # What is typed or kept secret never becomes part of a script.
            assert "${{" not in step.get("run", ""), name
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"] == {"persist-credentials": False}, name


def test_both_pipelines_do_the_same() -> None:
    for name in ("test", "rehearse", "deploy", "verify", "report"):
        assert github_scripts()[name].split() == gitlab_scripts()[name].split(), name


def test_a_rollout_of_a_pipeline_was_rehearsed_and_goes_by_its_id() -> None:
    (words,) = calls(gitlab_scripts()["deploy"])
    variables = extra_variables(words)
    assert variables["controllers_require_rehearsal"] is True
    assert variables["controllers_approved"] == ["all"]
    assert variables["controllers_rollout_id"] == "$ROLLOUT"


def test_linters_are_those_that_the_collection_is_linted_with() -> None:
    ours = (TOP / "requirements/dev.txt").read_text().splitlines()
    for script in (github_scripts()["lint"], gitlab_scripts()["lint"]):
        pinned = re.findall(r"[\w-]+==\S+", script)
        assert len(pinned) == 2 and set(pinned) <= set(ours)


@pytest.mark.parametrize(
    ("name", "value", "admitted"),
    [
        ("FIRMWARE_VERSION", "", True),
        ("FIRMWARE_VERSION", "1.1.0-rc.1+b2", True),
        ("FIRMWARE_VERSION", "1.1.0 controllers_allow_unsigned=true", False),
        ("FIRMWARE_VERSION", "{{ lookup('pipe', 'id') }}", False),
        ("FIRMWARE_VERSION", "1.1.0\n", False),
        ("ROLLOUT", "github-123", True),
        ("ROLLOUT", "../../etc", False),
        ("ROLLOUT", "", False),
        ("ROLLOUT", "a/b", False),
    ],
)
def test_what_a_person_types_is_looked_at(name: str, value: str, admitted: bool) -> None:
    given = {"SITE": "my_site", "RETRY": "false", "DRAIN": "refuse", "ROLLOUT": "github-1", "FIRMWARE_VERSION": ""}
    checks = [load(GITHUB)["jobs"]["lint"]["steps"][0]["run"], *load(GITLAB)[".site"]["before_script"]]
    for check in checks:
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", check], env={**given, name: value}, check=False)
        assert (done.returncode == 0) == admitted, check


def test_secrets_go_into_files_for_their_owner_alone(tmp_path: pathlib.Path) -> None:
    (step,) = load(SECRETS)["runs"]["steps"]
    given = {"VAULT_PASSWORD": "a 'b' $c\\n%s", "TRUSTED_ROOT_TEXT": '{"signed": 1}\n'}
    assert set(step["env"]) == set(given)
    places = {"RUNNER_TEMP": str(tmp_path), "GITHUB_ENV": str(tmp_path / "env")}
    subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], env={**os.environ, **given, **places}, check=True)
    told = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    for variable, content in zip(("ANSIBLE_VAULT_PASSWORD_FILE", "TRUSTED_ROOT"), given.values(), strict=True):
        path = pathlib.Path(told[variable])
        assert path.read_text() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_jobs_around_a_rollout_run(tmp_path: pathlib.Path) -> None:
    """On a virtual site, as a runner does: what would be done, how it is after a rollout, and the report."""
    with VirtualSite(tmp_path, {"gateway": [[Board("press")]]}) as site:
        home = site.control.directory
        site.write_inventory()
        (home / "inventories").mkdir()
        (home / "inventories/my_site").symlink_to(site.inventory)
        typed = {"SITE": "my_site", "FIRMWARE_VERSION": "1.1.0", "DRAIN": "refuse", "ROLLOUT": "ci-1", "RETRY": "false"}
        environment = {**site.control.environment, **typed, "TRUSTED_ROOT": ""}
        environment["PATH"] = f"{PROGRAMS}:{environment['PATH']}"

        def job(name: str) -> str:
            command = ["bash", "-eo", "pipefail", "-c", github_scripts()[name]]
            done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        before = site.flash("press")
        assert "1.1.0" in job("test")
        assert site.flash("press") == before
        site.play("deploy", firmware_version="1.1.0", controllers_rollout_id=typed["ROLLOUT"])
        assert "press" in job("verify")
        job("report")
        reported = {str(path.relative_to(home / "report")) for path in (home / "report").rglob("*") if path.is_file()}
    assert {
        "ci-1/plan.json",
        "ci-1/events.jsonl",
        "ci-1/report.html",
        "audit.jsonl",
        "audit.jsonl.head",
        "audit.jsonl.pub",
    } <= reported
    assert "audit.jsonl.key" not in reported


# The commands that pipelines and pages name


def calls(text: str) -> list[list[str]]:
    """The words of each call of ansible-playbook in a script or a page."""
    found = (call.replace("\\\n", " ") for call in CALL.findall(text))
    return [shlex.split(call, comments=True) for call in found]


def extra_variables(words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option, value in itertools.pairwise(words):
        if option == "-e":
            found |= json.loads(value) if value.startswith("{") else dict([value.split("=", 1)])
    return found


def known_variables(playbook: str) -> set[str]:
    """What a playbook of the collection takes: what it mentions, and the options of the roles that it calls."""
    text = (TOP / f"playbooks/{playbook}.yml").read_text()
    names = {name for expression in re.findall(r"{{(.*?)}}", text) for name in re.findall(r"\b[a-z]\w+", expression)}
    return names.union(*(role_variables(role, set()) for role in ROLE.findall(text)))


def role_variables(role: str, seen: set[str]) -> set[str]:
    """The options of a role and of those that it includes."""
    if role in seen:
        return set()
    seen.add(role)
    specs = load(TOP / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    names = {option for entry_point in specs.values() for option in entry_point["options"]}
    tasks = "".join(path.read_text() for path in (TOP / f"roles/{role}/tasks").glob("*.yml"))
    return names.union(*(role_variables(included, seen) for included in ROLE.findall(tasks)))


def named_calls() -> Iterator[tuple[str, list[str]]]:
    for place, scripts in (("github", github_scripts()), ("gitlab", gitlab_scripts())):
        for name, script in scripts.items():
            yield from ((f"{place} {name}", words) for words in calls(script))
    for page in ("docs/pipelines.md", "roles/pull/README.md"):
        yield from ((page, words) for words in calls((TOP / page).read_text()))


def test_every_command_names_a_playbook_and_variables_that_are_there() -> None:
    places = set()
    for place, words in named_calls():
        for playbook in [word for word in words if word.startswith("multi_sonicator.ops.")]:
            name = playbook.removeprefix("multi_sonicator.ops.")
            assert (TOP / f"playbooks/{name}.yml").is_file(), f"{place}: {playbook}"
            assert set(extra_variables(words)) <= known_variables(name), f"{place}: {words}"
            places.add(place)
    assert places >= {f"github {name}" for name in ("test", "rehearse", "deploy", "verify")}


# The execution environment


def test_the_execution_environment_can_be_built_from_its_definition(
    artifact: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copy(ENVIRONMENT, tmp_path)
    shutil.copy(artifact, tmp_path)
    run("ansible-builder", "create", "--file", ENVIRONMENT.name, "--context", "context", cwd=tmp_path)
    assert (tmp_path / "context/_build/artifacts" / artifact.name).is_file()
    (collection,) = load(tmp_path / "context/_build/requirements.yml")["collections"]
    assert (tmp_path / "context/_build" / collection["name"]).is_file()
    assert "FROM" in (tmp_path / "context/Dockerfile").read_text()


def test_the_builder_finds_what_the_collection_needs(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(
        *("ansible-builder", "introspect", str(installed)),
        *("--write-pip", str(tmp_path / "pip.txt"), "--write-bindep", str(tmp_path / "bindep.txt")),
        cwd=tmp_path,
    )
    for written, source in (("pip.txt", "meta/ee-requirements.txt"), ("bindep.txt", "meta/ee-bindep.txt")):
        wanted = {line.split(" ")[0] for line in (TOP / source).read_text().splitlines() if not line.startswith("#")}
        wanted -= {"PyYAML>=6.0"}  # comes with ansible-core, says the builder
        found = {line.split(" ")[0] for line in (tmp_path / written).read_text().splitlines()}
        assert wanted <= found, source


def test_the_execution_environment_can_build_the_simulator() -> None:
    packages = set(load(TOP / "roles/virtual_controller/vars/main.yml")["_virtual_controller_packages"])
    lines = (TOP / "meta/ee-bindep.txt").read_text().splitlines()
    assert {line.split()[0] for line in lines if not line.startswith("#")} == packages | {"avrdude"}


# AWX


def play() -> dict[str, Any]:
    (found,) = DataLoader().load_from_file(str(OBJECTS), trusted_as_template=True)
    return dict(found)


def objects() -> list[tuple[str, dict[str, Any]]]:
    """The module and the options of each task, with the play's variables and module defaults in them."""
    told = play()
    templar = Templar(DataLoader(), variables=told["vars"])
    found = []
    for task in told["tasks"]:
        (action,) = [key for key in task if key.startswith("awx.awx.")]
        options = {**told["module_defaults"].get(action, {}), **task[action]}
        found.append((action.removeprefix("awx.awx."), templar.template(options)))
    return found


def argument_spec(options: Mapping[str, Any]) -> dict[str, Any]:
    """An argument spec of what a module documents."""
    spec = {}
    for name, option in options.items():
        kept = ("type", "elements", "choices", "required", "aliases")
        spec[name] = {key: option[key] for key in kept if key in option}
        if "suboptions" in option:
            spec[name]["options"] = argument_spec(option["suboptions"])
    return spec


def templates() -> dict[str, dict[str, Any]]:
    return {options["name"]: options for module, options in objects() if module == "job_template"}


def workflow() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    (found,) = [options for module, options in objects() if module == "workflow_job_template"]
    return found, {node["identifier"]: node for node in found["workflow_nodes"]}


def after(node: Mapping[str, Any]) -> set[str]:
    return {one["identifier"] for nodes in node.get("related", {}).values() for one in nodes}


def test_every_object_is_what_its_module_takes() -> None:
    for module, options in objects():
        text = re.search(r"DOCUMENTATION = '{3}(.*?)'{3}", (AWX / f"{module}.py").read_text(), re.DOTALL)
        assert text, module
        spec = argument_spec(yaml.safe_load(text[1])["options"])
        errors = ArgumentSpecValidator(spec).validate(options).error_messages
        assert not errors, f"{module} {options['name']}: {errors}"


def test_every_template_runs_a_playbook_with_variables_that_are_there() -> None:
    for name, template in templates().items():
        assert (EXAMPLES / template["playbook"]).is_file()
        given = dict(template["extra_vars"])
        playbook = given.pop("playbook")
        asked = {question["variable"] for question in template.get("survey_spec", {}).get("spec", [])}
        assert (TOP / f"playbooks/{playbook}.yml").is_file(), name
        assert given.keys() | asked <= known_variables(playbook), name


def test_every_variable_of_the_inventory_is_one_that_a_playbook_takes() -> None:
    (inventory,) = [options for module, options in objects() if module == "inventory"]
    known = set().union(*(known_variables(path.stem) for path in (TOP / "playbooks").glob("*.yml")))
    assert set(inventory["variables"]) <= known | {"multi_sonicator_audit_log"}


def test_questions_are_what_awx_can_ask() -> None:
    surveys = [template["survey_spec"] for template in templates().values() if "survey_spec" in template]
    for question in [one for survey in [*surveys, workflow()[0]["survey_spec"]] for one in survey["spec"]]:
        assert question.keys() >= {"question_name", "variable", "type", "required"}
        assert question["type"] in ("text", "integer", "multiplechoice")
        if question["type"] == "multiplechoice":
            assert question["default"] in question["choices"]


def test_nothing_is_deployed_that_nobody_has_approved() -> None:
    options, nodes = workflow()
    assert options["allow_simultaneous"] is False
    assert {name for node in nodes.values() for name in after(node)} <= nodes.keys()
    run_by = {name: node["unified_job_template"] for name, node in nodes.items()}
    for name, template in run_by.items():
        assert template["type"] == "workflow_approval" or template["name"] in templates(), name
    assert [name for name, node in nodes.items() if "deploy" in after(node)] == ["approve"]
    assert run_by["approve"]["type"] == "workflow_approval"
    assert nodes["approve"]["related"] == {"success_nodes": [{"identifier": "deploy"}]}
    assert [name for name in nodes if not any(name in after(node) for node in nodes.values())] == ["check"]


def test_only_who_looks_is_sliced() -> None:
    sliced = {
        template["extra_vars"]["playbook"]
        for template in templates().values()
        if template.get("job_slice_count", 1) != 1 or template.get("ask_job_slice_count_on_launch")
    }
    assert sliced == {"status", "snapshot"}
    assert not any(template["allow_simultaneous"] for template in templates().values())

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What users get: the artifact, built and installed into an empty path without a network."""

from __future__ import annotations

import json
import pathlib
import subprocess
import tarfile
from collections.abc import Callable

import pytest
import yaml

COLLECTION = "multi_sonicator.ops"
MEBIBYTE = 1024 * 1024
FOR_USERS = {
    "CHANGELOG.md",
    "FILES.json",
    "LICENSES",
    "MANIFEST.json",
    "README.md",
    "REUSE.toml",
    "changelogs",
    "docs",
    "inventories",
    "meta",
    "playbooks",
    "plugins",
    "roles",
}
DOCUMENTED_TYPES = ("callback", "filter", "lookup", "module", "test")


def documented(top: pathlib.Path, kind: str) -> list[str]:
    directory = top / "plugins" / ("modules" if kind == "module" else kind)
    return sorted(f"{COLLECTION}.{path.stem}" for path in directory.glob("*.py") if not path.stem.startswith("_"))


def roles(top: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (top / "roles").glob("*") if path.is_dir())


def files(artifact: pathlib.Path) -> list[str]:
    with tarfile.open(artifact) as archive:
        return [member.name for member in archive if member.isfile()]


def test_it_is_small(artifact: pathlib.Path) -> None:
    assert artifact.stat().st_size < 20 * MEBIBYTE


def test_it_holds_what_users_need_and_nothing_else(artifact: pathlib.Path) -> None:
    found = {name.partition("/")[0] for name in files(artifact)}
    assert found <= FOR_USERS
    assert found >= {"README.md", "LICENSES", "meta", "playbooks", "plugins", "roles"}


def test_it_holds_nothing_that_git_would_not_commit(artifact: pathlib.Path, top: pathlib.Path) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    of_git = set(subprocess.run(command, cwd=top, capture_output=True, text=True, check=True).stdout.splitlines())
    assert set(files(artifact)) - of_git == {"MANIFEST.json", "FILES.json"}


def wanted_of(top: pathlib.Path) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load((top / "galaxy.yml").read_text())["dependencies"]
    return found


def test_its_manifest_names_what_it_is(artifact: pathlib.Path, top: pathlib.Path) -> None:
    with tarfile.open(artifact) as archive:
        manifest = archive.extractfile("MANIFEST.json")
        assert manifest
        about = json.load(manifest)["collection_info"]
    assert (about["namespace"], about["name"], about["license"]) == ("multi_sonicator", "ops", ["GPL-3.0-or-later"])
    assert about["dependencies"] == wanted_of(top)


def test_a_checkout_is_told_to_install_what_the_artifact_depends_on(top: pathlib.Path) -> None:
    listed = yaml.safe_load((top / "requirements.yml").read_text())["collections"]
    assert {one["name"]: one["version"] for one in listed} == wanted_of(top)


@pytest.mark.parametrize("kind", DOCUMENTED_TYPES)
def test_ansible_lists_and_documents_every_plugin(
    kind: str, top: pathlib.Path, ansible_doc: Callable[..., str]
) -> None:
    names = documented(top, kind)
    assert sorted(json.loads(ansible_doc("-t", kind, "--list", "--json", COLLECTION))) == names
    if names:
        texts = json.loads(ansible_doc("-t", kind, "--json", *names))
        assert sorted(texts) == names
        assert all(texts[name]["doc"]["short_description"] for name in names)


def test_ansible_lists_and_documents_every_role(top: pathlib.Path, ansible_doc: Callable[..., str]) -> None:
    listed = json.loads(ansible_doc("-t", "role", "--list", "--json", COLLECTION))
    assert sorted(listed) == [f"{COLLECTION}.{name}" for name in roles(top)]
    for name, role in listed.items():
        assert role["entry_points"], name


def test_every_module_belongs_to_the_action_group(top: pathlib.Path) -> None:
    groups = yaml.safe_load((top / "meta/runtime.yml").read_text())["action_groups"]
    assert [f"{COLLECTION}.{name}" for name in groups["multi_sonicator"]] == documented(top, "module")


def test_every_module_says_what_it_supports_and_shows_it(top: pathlib.Path, ansible_doc: Callable[..., str]) -> None:
    names = documented(top, "module")
    texts = json.loads(ansible_doc("--json", *names)) if names else {}
    assert sorted(texts) == names
    for name, text in texts.items():
        assert text["doc"]["attributes"].keys() >= {"check_mode", "diff_mode"}, name
        assert text["examples"], name
        assert name in text["examples"], f"{name}: the examples use another name than the full one"
        assert text["return"], name

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must agree in the repository, and no linter looks at."""

from __future__ import annotations

import pathlib
import re
import subprocess
import tomllib

import yaml

LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)(?:#[^)]*)?\)")
CAN_CARRY_NO_HEADER = (".bin", ".hex", ".json")
MADE_BY_A_TOOL = ("CHANGELOG.md", "changelogs/changelog.yaml")


def committed(top: pathlib.Path) -> list[pathlib.Path]:
    """What git has or would commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=top, capture_output=True, text=True, check=True).stdout.splitlines()
    return [top / name for name in names if (top / name).is_file()]


def test_links_of_the_documentation_lead_somewhere(top: pathlib.Path) -> None:
    broken = []
    for page in committed(top):
        if page.suffix == ".md":
            links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
            broken += [f"{page.relative_to(top)}: {link}" for link in links if not (page.parent / link).exists()]
    assert broken == []


def test_only_what_can_not_carry_a_header_has_its_licence_elsewhere(top: pathlib.Path) -> None:
    annotations = tomllib.loads((top / "REUSE.toml").read_text())["annotations"]
    paths = [path for annotation in annotations for path in annotation["path"]]
    assert [path for path in paths if not path.endswith(CAN_CARRY_NO_HEADER) and path not in MADE_BY_A_TOOL] == []


def test_no_sanity_test_is_ignored(top: pathlib.Path) -> None:
    assert list((top / "tests").glob("sanity/ignore*")) == []


def test_the_version_is_released_or_has_fragments(top: pathlib.Path) -> None:
    version = yaml.safe_load((top / "galaxy.yml").read_text())["version"]
    releases = yaml.safe_load((top / "changelogs/changelog.yaml").read_text())["releases"]
    assert version in releases or list((top / "changelogs/fragments").glob("*.y*ml"))


def test_the_execution_environment_has_what_it_names(top: pathlib.Path) -> None:
    dependencies = yaml.safe_load((top / "meta/execution-environment.yml").read_text())["dependencies"]
    for path in dependencies.values():
        assert (top / path).is_file(), path


def test_the_libraries_are_the_same_wherever_they_are_named(top: pathlib.Path) -> None:
    def names(path: str) -> set[str]:
        lines = (top / path).read_text().splitlines()
        return {re.split(r"[=><]", line)[0].lower() for line in lines if line and not line.startswith(("#", "-"))}

    assert names("meta/ee-requirements.txt") == names("requirements/libraries.txt")

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings go into the files that people wrote, where nothing else changes; what cannot be written so is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.inventory_files import InventoryFileError, edits
from hypothesis import given, settings
from hypothesis import strategies as st

NOWHERE = Path("/nowhere")
HOST = """\
# The presses of hall 2
controllers:
  - name: press_1
    line: /dev/ttyS1   # the left one
    unit: 2
    settings:
      sonicator1_amplitude: 60  # as commissioned
      start_inhibit_mask: [sonicator1, sonicator2]

    # spare
  - {name: press_2, line: /dev/ttyS1, unit: 3, settings: {}}
  - name: press_3
    line: /dev/ttyS1
    unit: 4
other: "{{ something }}"
"""


def changed(text: str, *lines: tuple[str, str]) -> str:
    for old, new in lines:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An inventory beside the variables of a host."""
    (tmp_path / "hosts.yml").write_text("gateways: {hosts: {gateway_a: }}\n")
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars/gateway_a.yml").write_text(HOST)
    return tmp_path


def accept(place: Path, controller: str, **settings: Any) -> str:
    for edit in edits([place / "hosts.yml"], NOWHERE, {"gateway_a": {controller: settings}}):
        edit.write()
    return (place / "host_vars/gateway_a.yml").read_text()


def test_only_the_value_changes(place: Path) -> None:
    assert accept(place, "press_1", sonicator1_amplitude=55) == changed(HOST, ("amplitude: 60", "amplitude: 55"))


def test_a_list_is_replaced_as_a_whole(place: Path) -> None:
    assert accept(place, "press_1", start_inhibit_mask=[]) == changed(HOST, ("[sonicator1, sonicator2]", "[]"))


def test_a_setting_that_was_not_there_gets_a_line(place: Path) -> None:
    line = "      start_inhibit_mask: [sonicator1, sonicator2]\n"
    assert accept(place, "press_1", serial="yes") == changed(HOST, (line, f"{line}      serial: 'yes'\n"))


def test_settings_that_were_empty_or_not_there(place: Path) -> None:
    assert accept(place, "press_2", sonicator1_amplitude=55) == changed(
        HOST, ("settings: {}", "settings: {sonicator1_amplitude: 55}")
    )
    text = accept(place, "press_3", sonicator1_amplitude=55, sonicator2_amplitude=54)
    assert "    unit: 4\n    settings: {sonicator1_amplitude: 55, sonicator2_amplitude: 54}\nother:" in text


def test_the_inventory_itself_and_a_directory_of_variables(tmp_path: Path) -> None:
    hosts = tmp_path / "site/hosts.yml"
    hosts.parent.mkdir()
    text = "gateways:\n  hosts:\n    gateway_a:\n      controllers: [{name: a, unit: 2}]\n"
    hosts.write_text(text)
    [edit] = edits([hosts.parent], NOWHERE, {"gateway_a": {"a": {"x": 1}}})
    assert (edit.path, edit.after) == (hosts, changed(text, ("unit: 2}", "unit: 2, settings: {x: 1}}")))
    directory = tmp_path / "site/host_vars/gateway_a"
    directory.mkdir(parents=True)
    (directory / "vault.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n61626364\n")
    (directory / "line.yml").write_text("controllers:\n- name: a\n  unit: 2")
    [edit] = edits([hosts], NOWHERE, {"gateway_a": {"a": {"x": 1}}})
    assert edit.after == "controllers:\n- name: a\n  unit: 2\n  settings: {x: 1}", "the host's own variables go first"


def test_beside_the_playbook_and_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.yml").write_text("controllers: [{name: a}]\n")
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars/gateway_a.yml").symlink_to(tmp_path / "elsewhere.yml")
    [edit] = edits([tmp_path / "site/hosts.ini"], tmp_path, {"gateway_a": {"a": {"x": 1}}})
    edit.write()
    assert (tmp_path / "host_vars/gateway_a.yml").is_symlink()
    assert (tmp_path / "elsewhere.yml").read_text() == "controllers: [{name: a, settings: {x: 1}}]\n"


def test_permissions_stay(place: Path) -> None:
    file = place / "host_vars/gateway_a.yml"
    file.chmod(0o640)
    accept(place, "press_1", sonicator1_amplitude=55)
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["gateway_a.yml"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("controllers: '{{ all_of_them }}'\n", "listed in no file of the inventory that can be changed"),
        ("controllers: [{name: a, settings: '{{ common }}'}]\n", "no mapping in the file"),
        ("controllers: [{name: a, settings: {x: '{{ x }}'}}]\n", "its x is an expression"),
        ("controllers: [{name: a, settings: &s {x: 1}}, {name: b, settings: *s}]\n", "belong to others too"),
        ("controllers: [{name: a, settings: {x: &x 1, y: *x}}]\n", "belong to others too"),
        ("controllers: [{name: a}, {name: a}]\n", "listed more than once"),
        ("y: &y 1\ncontrollers: [{name: a, settings: {y: *y}}]\n", "written in a way that this cannot change"),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is_written(place: Path, text: str, reason: str) -> None:
    file = place / "host_vars/gateway_a.yml"
    file.write_text(text)
    (place / "host_vars/gateway_b.yml").write_text("controllers: [{name: b, unit: 2}]\n")
    with pytest.raises(InventoryFileError, match=reason) as raised:
        edits([place / "hosts.yml"], NOWHERE, {"gateway_b": {"b": {"x": 2}}, "gateway_a": {"a": {"x": 2}}})
    assert "gateway_a, controller a: " in str(raised.value) and "settings: {x: 2}" in str(raised.value)
    assert str(raised.value).endswith("Nothing was written.")


TEXTS = st.text(max_size=12).filter(lambda text: "{{" not in text)  # which is an expression
VALUES = st.one_of(st.integers(), st.booleans(), TEXTS, st.lists(TEXTS, max_size=3))


POINTS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


@settings(deadline=None)
@given(st.dictionaries(POINTS, VALUES, min_size=1, max_size=4), VALUES, st.booleans())
def test_whatever_the_value_the_file_says_it_and_nothing_else_differs(
    known: dict[str, Any], value: Any, flow: bool
) -> None:
    data = {"controllers": [{"name": "a", "settings": known, "unit": 2}, {"name": "b", "settings": known}]}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "host_vars/gateway_a.yml"
        file.parent.mkdir()
        file.write_text(yaml.dump(data, Dumper=_NoAliases, default_flow_style=flow, sort_keys=False))
        wanted = {next(iter(known)): value, "added": value}
        for edit in edits([Path(name)], NOWHERE, {"gateway_a": {"a": wanted}}):
            edit.write()
        data["controllers"][0] |= {"settings": {**known, **wanted}}
        assert yaml.safe_load(file.read_text()) == data


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module files sends what a host lacks of the control node's files, and nothing that it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.ansible import Control, Run


def bring(control: Control, *files: dict[str, Any], code: int = 0, check: bool = False, state: str = "present") -> Run:
    """Runs the module for them on the control node itself."""
    play = control.directory / "play.yml"
    task = {"name": "Bring them", "multi_sonicator.ops.files": {"files": list(files), "state": state}}
    play.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    where = ("-i", "localhost,", "-c", "local", "-e", "ansible_python_interpreter={{ ansible_playbook_python }}")
    vault = ("--vault-password-file", str(control.directory / "vault"))
    return control.run(
        "ansible-playbook", str(play), "--diff", *where, *vault, *(["--check"] if check else [])
    ).require(code)


def control_node(tmp_path: Path) -> Control:
    control = Control(tmp_path)
    (control.directory / "vault").write_text("password\n")
    return control


def test_what_is_lacking_is_sent_once(tmp_path: Path) -> None:
    control = control_node(tmp_path)
    source, there = control.directory / "files/program.bin", tmp_path / "opt/program.bin"
    source.parent.mkdir()
    source.write_bytes(bytes(range(256)) * 4)
    wanted: list[dict[str, Any]] = [
        {"path": str(there.parent)},
        {"path": str(there), "src": "program.bin", "mode": "0755"},
        {"path": str(there.with_name("note")), "content": "text\n"},
    ]
    checked = bring(control, *wanted, check=True)
    assert checked.result("files")["changed_paths"] == [one["path"] for one in wanted] and not there.exists()
    assert bring(control, *wanted).result("files")["changed_paths"] == [one["path"] for one in wanted]
    assert there.read_bytes() == source.read_bytes() and there.stat().st_mode & 0o777 == 0o755
    assert not bring(control, *wanted).changed
    there.chmod(0o644)
    assert bring(control, *wanted).result("files")["changed_paths"] == [str(there)]
    assert there.stat().st_mode & 0o777 == 0o755
    source.unlink()
    assert bring(control, *wanted, state="absent").changed and not there.parent.exists()
    left = list((control.directory / ".ansible/tmp").glob("*"))
    assert left == [], "nothing of what was sent stays aside"


def test_what_a_vault_keeps_is_brought_as_it_is_and_not_shown(tmp_path: Path) -> None:
    control, there = control_node(tmp_path), tmp_path / "key"
    source = control.directory / "key.vault"
    source.write_text("canary\n")
    encrypt = ("encrypt", "--vault-password-file", str(control.directory / "vault"), str(source))
    control.run("ansible-vault", *encrypt).require()
    assert source.read_text().startswith("$ANSIBLE_VAULT;")
    wanted = {"path": str(there), "src": str(source), "mode": "0400"}
    run = bring(control, wanted)
    assert there.read_text() == "canary\n" and "canary" not in run.output
    assert not bring(control, wanted).changed


def test_another_content_stays_where_it_is_not_to_be_replaced(tmp_path: Path) -> None:
    control, there = control_node(tmp_path), tmp_path / "root.json"
    for name in ("one", "other"):
        (control.directory / name).write_text(f"{name}\n")
    wanted = [{"path": str(tmp_path / "new"), "content": ""}, {"path": str(there), "src": "one", "replace": False}]
    assert bring(control, *wanted).changed and not bring(control, *wanted).changed
    (tmp_path / "new").unlink()
    run = bring(control, wanted[0], {**wanted[1], "src": "other"}, code=2)
    told = run.result("files")["msg"]
    assert "root.json: has another content, which is not to be replaced; nothing was changed" in told
    assert there.read_text() == "one\n" and not (tmp_path / "new").exists()


def test_what_cannot_be_meant_is_refused_by_name(tmp_path: Path) -> None:
    control, there = control_node(tmp_path), tmp_path / "there"
    (control.directory / "one").write_text("one\n")
    for wrong, message in (
        ({"src": "nowhere.bin"}, f"{there}: Could not find or access 'nowhere.bin'"),
        ({"src": "one", "sha256": "0" * 64}, f"{there}: what is to be there has not the SHA-256 0000"),
        ({"sha256": "0" * 64}, f"{there}: sha256 is given, and neither src nor content that it is of"),
        ({"src": "one", "content": "one\n"}, "parameters are mutually exclusive: content|src"),
    ):
        assert message in bring(control, {"path": str(there), **wrong}, code=2).result("files")["msg"]
        assert not there.exists()

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway keeps: atomic, checked when it is read, one run at a time."""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _core.errors import MissingPackage, PortBusy
from _core.store import Store, StoreError, age, now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_objects_are_found_by_content(store: Store) -> None:
    digest = store.put(b"image")
    assert store.put(b"image") == digest
    assert store.get(digest) == b"image"


def test_a_damaged_object_is_refused(store: Store) -> None:
    digest = store.put(b"image")
    (store.root / "objects" / digest).write_bytes(b"imagE")
    with pytest.raises(StoreError, match="damaged, its sha256 is"):
        store.get(digest)
    store.put(b"image")
    assert store.get(digest) == b"image", "whoever has it anew mends it"


def test_a_missing_object_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match="0000: not there"):
        store.get("0000")


def test_an_unwritable_store_says_so(store: Store) -> None:
    (store.root / "objects").write_text("in the way")
    with pytest.raises((StoreError, OSError)):
        store.put(b"image")


def test_journal_keeps_its_order_and_ends_in_the_history(store: Store) -> None:
    journal = store.journal("press_1")
    journal.append("begin", transaction="t1")
    journal.append("write", digest="a")
    journal.append("write", digest="b")
    again = store.journal("press_1")
    assert [entry["step"] for entry in again.steps] == ["begin", "write", "write"]
    last = again.last("write")
    assert last is not None
    assert last["digest"] == "b"
    assert again.last("end") is None
    again.append("end", outcome="deployed")
    again.close()
    assert store.journal("press_1").steps == []
    ended = store.last_transaction("press_1")
    assert (ended["transaction"], ended["outcome"]) == ("t1", "deployed")
    assert store.last_transaction("other") == {}


def test_a_line_cut_off_by_a_power_loss_is_taken_back(store: Store) -> None:
    journal = store.journal("press_1")
    journal.append("begin", transaction="t1")
    with open(journal.path, "ab") as stream:
        stream.write(b'{"step": "wri')
    cut = journal.path.read_bytes()
    again = store.journal("press_1")
    assert len(again.steps) == 1
    assert journal.path.read_bytes() == cut, "who only reads may look while it is written"
    again.append("drain")
    assert [entry["step"] for entry in store.journal("press_1").steps] == ["begin", "drain"]


def test_closing_a_journal_without_steps_does_nothing(store: Store) -> None:
    store.journal("press_1").close()
    assert not (store.controller("press_1") / "history").exists()


def test_record_and_sets(store: Store) -> None:
    assert store.record("press_1") == {}
    store.save_record("press_1", {"version": "1.0.0"})
    assert store.record("press_1") == {"version": "1.0.0"}
    store.save_set("press_1", {"id": "b"})
    store.save_set("press_1", {"id": "a"})
    assert store.set_ids("press_1") == ["a", "b"]
    with pytest.raises(StoreError, match=r"no set c .*there are a, b"):
        store.load_set("press_1", "c")


@pytest.mark.parametrize("content", ["- a\n- b\n", "{unfinished"])
def test_a_damaged_set_is_refused(store: Store, content: str) -> None:
    store.save_set("press_1", {"id": "a"})
    (store.controller("press_1") / "sets" / "a.yml").write_text(content)
    with pytest.raises(StoreError, match="damaged"):
        store.load_set("press_1", "a")


def test_one_run_at_a_time(store: Store) -> None:
    with store.exclusive("press_1"):
        with pytest.raises(PortBusy, match=r"another run works on it \(pid \d+\)"), store.exclusive("press_1", 0.1):
            pass
        with store.exclusive("press_2", 0.1):
            pass


def test_age() -> None:
    assert age(now()) in (0, 1)
    assert age("2020-01-01T00:00:00Z") > 86400


def test_missing_yaml_names_the_debian_package(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_yaml(name: str, *args: Any, **options: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    with pytest.raises(MissingPackage, match="python3-yaml"):
        store.record("press_1")


@pytest.mark.parametrize(
    "save",
    [
        lambda store: store.journal("press_1").append("drain"),
        lambda store: store.save_record("press_1", {}),
        lambda store: store.save_set("press_1", {"id": "a"}),
    ],
)
def test_a_full_disk_is_told(store: Store, monkeypatch: pytest.MonkeyPatch, save: Callable[[Store], None]) -> None:
    store.journal("press_1").append("begin", transaction="t1")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"press_1/.* cannot be written \(No space left on device\); free space"):
        save(store)


def test_a_controller_that_cannot_be_held_is_told(store: Store) -> None:
    (store.root / "controllers").write_text("in the way")
    with pytest.raises(StoreError, match="lock: cannot be written"), store.exclusive("press_1"):
        pass


def test_a_damaged_journal_is_named(store: Store) -> None:
    journal = store.journal("press_1")
    journal.append("begin", transaction="t1")
    with open(journal.path, "ab") as stream:
        stream.write(b"\0\0\n")
    with pytest.raises(StoreError, match=r"journal.jsonl: damaged in line 2 .*run again"):
        store.journal("press_1")

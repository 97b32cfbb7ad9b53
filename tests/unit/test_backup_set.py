# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backup sets: whatever happens to one on its way, it is not taken for a whole one."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from _core.backup_set import MANIFEST, BackupError, Manifest, read_manifest, seal, verified

Alteration = Callable[[Path, Path, random.Random], str]
CONTROLLERS = ("press_1", "press_2")


def fill(directory: Path, seed: int) -> Manifest:
    """A set of two controllers, small, with content of its own."""
    chance = random.Random(seed)
    for name in CONTROLLERS:
        put(directory / "controllers" / name / "set.yml", f"controller: {name}\nspeed: {chance.random()}\n".encode())
        put(directory / "objects" / f"{name}{seed}", chance.randbytes(200))
    put(directory / "files/etc/hostname", b"gateway_a\n")
    put(directory / "files/etc/empty", b"")
    taken = f"2026-11-26T10:00:{seed:02}Z"
    return seal(directory, "gateway_a", taken, {name: {"unit": 2} for name in CONTROLLERS})


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    fill(directory, 1)
    return directory


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another set of the same controllers."""
    directory = tmp_path_factory.mktemp("other")
    fill(directory, 2)
    return directory


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def files(directory: Path, least: int = 0) -> list[Path]:
    return [path for path in sorted(directory.rglob("*")) if path.is_file() and path.stat().st_size >= least]


def flip(directory: Path, _other: Path, chance: random.Random) -> str:
    path = chance.choice(files(directory, 1))
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return f"{path.name} at {place}"


def truncate(directory: Path, _other: Path, chance: random.Random) -> str:
    path = chance.choice(files(directory, 1))
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])
    return path.name


def extend(directory: Path, _other: Path, chance: random.Random) -> str:
    path = chance.choice(files(directory))
    path.write_bytes(path.read_bytes() + chance.randbytes(1 + chance.randrange(8)))
    return path.name


def swap(directory: Path, _other: Path, chance: random.Random) -> str:
    first, second = chance.sample(files(directory), 2)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    return f"{first.name} and {second.name}"


def lose(directory: Path, _other: Path, chance: random.Random) -> str:
    path = chance.choice(files(directory))
    path.unlink()
    return path.name


def slip_in(directory: Path, _other: Path, chance: random.Random) -> str:
    name = f"objects/{chance.randrange(1000)}"
    put(directory / name, b"")
    return name


def link(directory: Path, _other: Path, chance: random.Random) -> str:
    path = chance.choice(files(directory))
    aside = directory.with_name("aside")
    path.replace(aside)
    path.symlink_to(aside)
    return path.name


def mix(directory: Path, other: Path, chance: random.Random) -> str:
    """A file of another set of the same controllers in the place of this one's."""
    name = chance.choice([MANIFEST, *(f"controllers/{one}/set.yml" for one in CONTROLLERS)])
    shutil.copy(other / name, directory / name)
    return name


def take_the_other(directory: Path, other: Path, _chance: random.Random) -> str:
    """A whole set, but not the one that is wanted."""
    shutil.rmtree(directory)
    shutil.copytree(other, directory)
    return "all of it"


def reseal_without_a_word(directory: Path, _other: Path, chance: random.Random) -> str:
    """Whoever alters a file and its digest makes another set of it."""
    manifest = read_manifest(directory)
    path = directory / chance.choice(sorted(manifest.files))
    path.write_bytes(chance.randbytes(20))
    seal(directory, manifest.gateway, manifest.taken, manifest.controllers)
    return path.name


ALTERATIONS: tuple[Alteration, ...] = (
    *(flip, truncate, extend, swap, lose, slip_in, link, mix, take_the_other, reseal_without_a_word),
)


def test_a_whole_set_is_verified(whole: Path) -> None:
    manifest = verified(whole)
    assert verified(whole, manifest.id) == manifest
    assert manifest.id.startswith("20261126T100001Z-")
    assert set(manifest.controllers) == set(CONTROLLERS)
    assert manifest.size == sum(path.stat().st_size for path in files(whole) if path.name != MANIFEST)


def test_of_a_thousand_alterations_a_thousand_are_found(whole: Path, other: Path, tmp_path: Path) -> None:
    wanted = read_manifest(whole).id
    missed = []
    for number in range(1000):
        alteration = ALTERATIONS[number % len(ALTERATIONS)]
        directory = shutil.copytree(whole, tmp_path / "copy")
        what = alteration(directory, other, random.Random(number))
        try:
            verified(directory, wanted)
        except BackupError:
            pass
        else:
            missed.append(f"{number}: {alteration.__name__} {what}")
        shutil.rmtree(directory)
    assert missed == []


@pytest.mark.parametrize(
    ("alteration", "expected"),
    [
        (lose, r"is missing|No such file"),
        (slip_in, r"objects/\d+ does not belong to it"),
        (truncate, r"has sha256 .* it should have|damaged"),
        (link, r"is no regular file|does not belong"),
        (take_the_other, r"this is set 20261126T100002Z-\w+, not 20261126T100001Z-"),
    ],
)
def test_what_is_wrong_is_named(copy: Path, other: Path, alteration: Alteration, expected: str) -> None:
    wanted = read_manifest(copy).id
    alteration(copy, other, random.Random(5))
    with pytest.raises(BackupError, match=expected) as raised:
        verified(copy, wanted)
    assert "nothing was restored; take another set" in str(raised.value)


def test_a_set_does_not_reach_out_of_its_directory(copy: Path) -> None:
    """Whoever wrote this sealed it well."""
    manifest = read_manifest(copy)
    outside = Manifest("a", "2026-11-26T10:00:00Z", {}, {"../aside": next(iter(manifest.files.values()))})
    (copy / MANIFEST).write_bytes(outside.dump())
    with pytest.raises(BackupError, match="damaged"):
        read_manifest(copy)


def test_a_set_says_whose_its_files_were_and_one_from_before_is_none_the_less_whole(tmp_path: Path) -> None:
    before = fill(tmp_path, 1)
    assert verified(tmp_path) == before and b"owners" not in (tmp_path / MANIFEST).read_bytes()
    names = {"files/etc/hostname": ("daemon", "adm"), "files/etc/empty": ("root", "root")}
    kept = seal(tmp_path, "gateway_a", before.taken, before.controllers, names)
    assert kept.id != before.id and verified(tmp_path, kept.id).files["files/etc/hostname"].owners == ("daemon", "adm")
    data = json.loads((tmp_path / MANIFEST).read_bytes())
    assert data["owners"] == {"files/etc/hostname": ["daemon", "adm"]}
    data["owners"]["files/etc/hostname"] = ["root", "adm"]
    (tmp_path / MANIFEST).write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    with pytest.raises(BackupError, match="damaged"):
        verified(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", json.dumps({"id": "x", "files": {"a": 1}})])
def test_what_is_no_manifest(copy: Path, content: str) -> None:
    (copy / MANIFEST).write_text(content)
    with pytest.raises(BackupError, match="damaged"):
        verified(copy)

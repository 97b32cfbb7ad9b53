# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a gateway with a simulated board, by real restic: taken, told of, and brought back whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from _core import backup, backup_status, settings
from _core.backup import Configuration
from _core.backup_set import BackupError
from _core.gateway import InventoryError
from _core.operations import take_snapshots
from _core.recovery import fetch
from _core.restic import Restic, Target
from _core.snapshot import find
from support import site
from support.cuts import BOARD, QUICK, SETTINGS, Lane
from support.profiles import mapping

SECRET = "canary of a private key"


class Place:
    """A gateway with one board, and two targets on its own disk."""

    def __init__(self, lane: Lane, directory: Path) -> None:
        self.lane = lane
        self.files = directory / "etc"
        self.repositories = directory / "targets"
        self.files.mkdir()
        (self.files / "tls.key").write_text(SECRET)
        (self.files / "left_out").write_text("password")
        self.targets = [self.target("vault"), self.target("hall")]
        self.configuration = Configuration(
            "gateway_a",
            lane.state / "state/backup",
            [self.files],
            [self.files / "left_out"],
            self.targets,
            directory / "metrics",
            3600.0,
            {},
        )

    def target(self, name: str, **other: Any) -> Target:
        values = {"repository": str(self.repositories / name), "password": "first", "recovery_password": "second"}
        return Target(**{"name": name, **values, **other})

    def settings(self, profile: Mapping[str, Any] | None = None, **more: Any) -> settings.Settings:
        """What the gateway's programs are told of its controllers, by the profile with other parts."""
        entries = site.entries(self.lane.virtual, **more)
        path = self.lane.directory / "gateway.json"
        options = {"controllers": entries, "profiles": {"multi_sonicator_io": {**mapping(), **(profile or {})}}}
        places = {"state_directory": str(self.lane.state / "state"), "lock_directory": str(self.lane.state)}
        path.write_bytes(settings.dump({**options, **places}))
        return settings.load(path)

    def run(self) -> tuple[str, list[str]]:
        taken = backup.run(self.settings(), self.configuration)
        return taken.manifest.id, list(taken.problems)

    def ids(self, name: str) -> list[str]:
        """The sets that a target has."""
        [target] = [one for one in self.targets if one.name == name]
        return [one.set_id for one in self.configuration.restic(target).sets()]

    @property
    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.configuration.directory / "status.json").read_text())
        return told

    @property
    def metrics(self) -> dict[str, float]:
        lines = (self.configuration.metrics or Path()).joinpath("multi_sonicator_backup.prom").read_text().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    @contextlib.contextmanager
    def away(self, name: str) -> Iterator[None]:
        """A target that cannot be reached."""
        path = self.repositories / name
        path.rename(path.with_suffix(".away"))
        try:
            yield
        finally:
            path.with_suffix(".away").rename(path)


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two empty ones, to be copied: the work on a password takes a second each time, on purpose."""
    directory = tmp_path_factory.mktemp("repositories")
    for name in ("vault", "hall"):
        target = Target(name, str(directory / "targets" / name), "first", "second")
        Restic(target, directory / "cache").create()
    return directory / "targets"


@pytest.fixture
def place(lane: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repositories: Path) -> Place:
    """Of the machine that runs the tests, which may have no systemd, less is asked than of a gateway."""
    asked = {name: question for name, question in backup.QUESTIONS.items() if question[0] in ("cat", "uname")}
    monkeypatch.setattr(backup, "QUESTIONS", asked)
    shutil.copytree(repositories, tmp_path / "targets")
    return Place(lane, tmp_path)


def fetched(place: Place, wanted: str = "latest", target: str | None = None, **more: Any) -> dict[str, Any]:
    return fetch(place.configuration, place.settings(**more).gateway(), wanted, target, False)


def test_a_set_is_in_every_place_and_comes_back(place: Place) -> None:
    assert not take_snapshots(place.lane.gateway(), True, QUICK, False)[0]["failed"]
    place.lane.virtual.control("line", "counters_reset")
    kept, problems = place.run()
    assert problems == []
    assert place.ids("vault") == place.ids("hall") == [kept]
    assert place.lane.touched() == (0, 0, 0), "it only looks, and not at the chip"
    assert not (place.configuration.directory / "set").exists(), "keys were in it"

    for path in (place.lane.state / "state").joinpath("controllers").rglob("*.yml"):
        path.unlink()
    result = fetched(place)
    assert (result["set"], result["backup_target"], result["changed"]) == (kept, "vault", True)
    store = place.settings().store
    content = store.load_set(BOARD, kept)
    assert content["settings"] == SETTINGS and content["version"] == "1.0.0"
    assert store.get(content["images"]["flash"]) == site.flash_of("1.0.0")
    assert store.get(content["images"]["eeprom"]) == place.lane.eeprom
    assert fetched(place)["changed"] is False


def test_a_gateway_set_up_anew_gets_back_what_it_alone_knew(place: Place) -> None:
    assert not take_snapshots(place.lane.gateway(), True, QUICK, False)[0]["failed"]
    root = place.lane.state / "state"
    journal = place.settings().store.journal(BOARD)
    journal.append("begin", transaction="1")
    journal.close()
    (place.files / "tls.key").chmod(0o640)
    (place.files / "stranger").touch()
    if os.geteuid() == 0:
        shutil.chown(place.files / "tls.key", "daemon", "adm")
        os.chown(place.files / "stranger", 54321, 54321)
    kept, _problems = place.run()

    record, ended = root / "controllers" / BOARD / "record.yml", root / "controllers" / BOARD / "history/1.jsonl"
    files = {path: path.read_bytes() for path in (record, ended, place.files / "tls.key")}
    shutil.rmtree(root / "controllers")
    shutil.rmtree(place.files)

    def lost(check: bool = False) -> dict[str, Any]:
        return fetch(place.configuration, place.settings().gateway(), kept, None, check, [str(place.files)])

    stranger = fetch(place.configuration, place.settings(unit=9).gateway(), kept, None, True, [str(place.files)])
    assert [one["msg"].partition(":")[0] for one in stranger["controllers"]] == ["stays out"]
    assert str(place.files / "tls.key") in stranger["files"] and str(record) not in stranger["files"]
    assert [one["what"] for one in stranger["differences"] if "of another board" in one["problem"]] == [
        f"controller {BOARD}"
    ]
    planned = lost(check=True)
    assert planned["changed"] and {str(path) for path in files} < set(planned["files"])
    assert not any(path.exists() for path in files), "check mode brings nothing"
    assert lost()["files"] == planned["files"]
    assert {path: path.read_bytes() for path in files} == files
    assert (place.files / "tls.key").stat().st_mode & 0o777 == 0o640
    if os.geteuid() == 0:
        assert [(place.files / "tls.key").owner(), (place.files / "tls.key").group()] == ["daemon", "adm"]
        assert (place.files / "stranger").owner() == "root", "of an account that the host does not have"
    assert (root / "recovered" / kept / "os-release").read_bytes() == Path("/etc/os-release").read_bytes()
    assert lost()["changed"] is False
    record.write_text("learnt: since\n")
    assert lost()["changed"] is False and record.read_text() == "learnt: since\n"
    assert not (place.files / "left_out").exists()


def test_nothing_secret_can_be_read_where_it_is_stored(place: Place) -> None:
    place.run()
    stored = b"".join(path.read_bytes() for path in place.repositories.rglob("*") if path.is_file())
    assert len(stored) > 1000
    for word in (SECRET, BOARD, "sonicator1_amplitude", "gateway_a"):
        assert word.encode() not in stored


def test_a_target_that_is_away_is_told_until_it_has_a_set_again(place: Place) -> None:
    place.run()
    with place.away("vault"):
        for failures in (1, 2):
            kept, problems = place.run()
            assert len(problems) == 1 and problems[0].startswith("backup target vault: ")
            told = place.status["targets"]
            assert (told["vault"]["failures"], told["hall"]["set"]) == (failures, kept)
            assert place.status["failed"] and told["vault"]["set"] != kept
            assert place.metrics['multi_sonicator_backup_target_failed{target="vault"}'] == 1
            assert place.metrics["multi_sonicator_backup_last_run_failed"] == 1
        assert fetched(place)["backup_target"] == "hall"
    kept, problems = place.run()
    assert problems == [] and not place.status["failed"]
    assert place.status["targets"]["vault"] | {"last_success": "", "oldest": ""} == {
        "last_success": "",
        "oldest": "",
        "set": kept,
        "sets": 2,
        "failures": 2,
        "error": None,
    }
    assert place.metrics['multi_sonicator_backup_failures_total{target="vault"}'] == 2


def test_a_target_that_is_away_for_days_is_told_and_takes_what_comes_when_it_is_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def night(day: int) -> tuple[str, list[str]]:
        moment = f"2026-12-{day:02}T02:15:00Z"
        for module in (backup, backup_status):
            monkeypatch.setattr(module, "now", lambda: moment)
        return place.run()

    first, _problems = night(1)
    kept = [first]
    with place.away("vault"):
        for day in range(2, 8):
            kept.append(night(day)[0])
            vault, hall = (place.status["targets"][name] for name in ("vault", "hall"))
            assert (vault["last_success"], vault["set"]) == ("2026-12-01T02:15:00Z", first)
            assert (vault["failures"], hall["last_success"]) == (day - 1, f"2026-12-{day:02}T02:15:00Z")
        assert place.metrics['multi_sonicator_backup_last_success_timestamp_seconds{target="vault"}'] == 1796091300
    newest, problems = night(8)
    assert problems == [] and place.ids("vault") == [first, newest]
    assert place.ids("hall") == [*kept, newest], "no night is lost"
    assert fetched(place, "latest", "vault")["set"] == newest
    place.configuration.restic(place.targets[0]).check("100%")


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone mounts")
def test_a_medium_that_is_not_mounted_is_no_directory_of_the_disk_below(place: Place, tmp_path: Path) -> None:
    medium = tmp_path / "medium"
    medium.mkdir()
    stick = place.target("stick", repository=str(medium / "repository"), mount=str(medium))
    place.configuration = dataclasses.replace(place.configuration, targets=[*place.targets, stick])
    reason = f"backup target stick: nothing is mounted at {medium}; connect the medium and mount it"
    done, problems = backup.prepare(place.configuration)
    assert done == [] and len(problems) == 1 and problems[0].startswith(reason)
    _kept, problems = place.run()
    assert len(problems) == 1 and problems[0].startswith(reason)
    assert list(medium.iterdir()) == []
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", medium], check=True)
    try:
        done, problems = backup.prepare(place.configuration)
        assert len(done) == 2 and problems == []
        kept, problems = place.run()
        assert problems == []
        assert [one.set_id for one in place.configuration.restic(stick).sets()] == [kept]
    finally:
        subprocess.run(["umount", medium], check=True)


def test_a_silent_controller_is_told_and_keeps_nothing_else_away(place: Place) -> None:
    before, _problems = place.run()
    place.lane.control("power", "off")
    kept, problems = place.run()
    assert len(problems) == 1 and problems[0].startswith(f"controller {BOARD}: ")
    assert place.ids("vault") == [before, kept]
    assert fetched(place, kept)["controllers"][0]["version"] == "1.0.0", "what was known of it before"
    store = place.settings().store
    blank = {**find(store, BOARD, "latest"), "id": "99991231T000000Z-aaaaaa", "version": None, "settings": {}}
    store.save_set(BOARD, blank)  # as it was read when its chip was replaced, and did not come up
    kept, _problems = place.run()
    assert fetched(place, kept)["controllers"][0]["version"] == "1.0.0", "and not the blank chip since"


def test_an_image_that_is_damaged_on_the_gateway_is_told(place: Place) -> None:
    assert not take_snapshots(place.lane.gateway(), True, QUICK, False)[0]["failed"]
    place.run()
    for path in (place.lane.state / "state/objects").iterdir():
        path.write_bytes(b"damaged")
    kept, problems = place.run()
    assert len(problems) == 1 and "damaged, its sha256 is" in problems[0]
    assert kept in place.ids("vault") and place.status["failed"]
    with pytest.raises(InventoryError, match=r"holds nothing of it: .*damaged"):
        fetched(place, kept)


def test_damage_in_one_place_is_found_and_another_serves(place: Place) -> None:
    kept, _problems = place.run()
    pack = max((place.repositories / "vault/data").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    with pytest.raises(BackupError, match="backup target vault: restic check"):
        place.configuration.restic(place.targets[0]).check("100%")
    shutil.rmtree(place.configuration.directory / "cache")
    with pytest.raises(BackupError, match="backup target vault"):
        fetched(place, kept, "vault")
    assert place.settings().store.set_ids(BOARD) != [] and kept not in place.settings().store.set_ids(BOARD)
    assert fetched(place, kept)["backup_target"] == "hall"


def test_two_passwords_open_it_and_no_third(place: Place) -> None:
    place.run()
    for password, expected in (("second", None), ("third", "the password is not one of this repository's")):
        restic = place.configuration.restic(place.target("vault", password=password))
        with pytest.raises(BackupError, match=expected) if expected else contextlib.nullcontext():
            assert len(restic.sets()) == 1


def test_another_password_is_let_in_by_the_one_that_stayed(place: Place) -> None:
    kept, _problems = place.run()
    strangers = place.configuration.restic(place.target("vault", password="third", recovery_password="fourth"))
    with pytest.raises(BackupError, match="the password is not one of this repository's"):
        strangers.create()
    turns = (("third", "second", "password"), ("third", "fourth", "recovery password"))
    for password, recovery, added in turns:
        restic = place.configuration.restic(place.target("vault", password=password, recovery_password=recovery))
        assert restic.create() == [f"gave backup target vault its {added}"]
        assert restic.create() == []
    assert [one.set_id for one in strangers.sets()] == [kept]


def test_making_a_repository_twice_changes_nothing(place: Place) -> None:
    restic = place.configuration.restic(place.target("new"))
    assert restic.create() == [
        "made the repository of backup target new",
        "gave backup target new its recovery password",
    ]
    assert restic.create() == []


def test_old_sets_go_where_the_gateway_may_remove_any(place: Place) -> None:
    vault, hall = place.targets
    place.targets[0] = dataclasses.replace(vault, append_only=True)
    place.configuration = dataclasses.replace(place.configuration, kept={"last": 1, "yearly": 1})
    kept = []
    for _turn in range(2):
        kept.append(place.run()[0])
        time.sleep(1.1)  # so that each has a second of its own
    assert place.ids("vault") == kept
    assert place.ids("hall") == kept[-1:], "a year's one is the newest"
    place.configuration.restic(hall).check("100%")
    assert fetched(place, kept[-1], "hall")["set"] == kept[-1]
    with pytest.raises(BackupError, match="no set"):
        fetched(place, kept[0], "hall")


def test_two_backups_at_once(place: Place) -> None:
    place.configuration.directory.mkdir(parents=True)
    with open(place.configuration.directory / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BackupError, match="another backup is being taken"):
            place.run()
    assert not (place.configuration.directory / "status.json").exists()


def test_of_another_board_nothing_is_taken(place: Place) -> None:
    place.run()
    other = {"unit": 9}
    with pytest.raises(InventoryError, match=f"is of another board: unit {place.settings().controllers[0].unit} there"):
        fetched(place, **other)
    assert fetched(place, profile={"description": "said in other words"})["controllers"][0]["version"] == "1.0.0"
    narrow = mapping()
    narrow["groups"]["sonicator"]["points"]["amplitude"]["max"] = 21
    with pytest.raises(InventoryError, match=r"the profile here does not admit its settings: .*sonicator1_amplitude"):
        fetched(place, profile=narrow)
    with pytest.raises(BackupError, match="no set x"):
        fetched(place, "x")
    with pytest.raises(BackupError, match=r"there is no backup target nowhere \(there are vault, hall\)"):
        fetched(place, "latest", "nowhere")


def test_a_clock_that_jumped_dates_no_set_newer_than_all_to_come(place: Place) -> None:
    restic = place.configuration.restic(place.targets[0])
    jumped = ("--host", "gateway_a", "--tag", "multi_sonicator,set:jumped", "--time", "2040-01-01 00:00:00")
    restic._run("backup", *jumped, str(place.files))
    assert restic.find("latest", "gateway_a").set_id == "jumped", "better than none"
    kept, _problems = place.run()
    assert restic.find("latest", "gateway_a").set_id == kept
    assert fetched(place)["set"] == kept


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can make a disk that is full")
def test_a_full_disk_is_told_and_the_next_run_makes_up_for_it(place: Place) -> None:
    first, _problems = place.run()
    path = place.repositories / "vault"
    aside = path.with_suffix(".aside")
    path.rename(aside)
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], check=True)
    try:
        shutil.copytree(aside, path, dirs_exist_ok=True)
        (place.files / "grown").write_bytes(os.urandom(3_000_000))
        kept, problems = place.run()
        assert len(problems) == 1 and "backup target vault: " in problems[0] and "disk is full" in problems[0]
        assert place.ids("hall") == [first, kept] and place.status["targets"]["vault"]["set"] == first
        subprocess.run(["mount", "-o", "remount,size=20m", path], check=True)
        kept, problems = place.run()
        assert problems == [] and place.ids("vault")[-1] == kept
        place.configuration.restic(place.targets[0]).check("100%")
        assert fetched(place, kept, "vault")["set"] == kept
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_lock_of_somebody_who_died_is_no_reason(place: Place) -> None:
    """As of a run that a power cut ended while it removed old sets, for which nobody else may work there."""
    first, _problems = place.run()
    target = place.targets[0]
    locks = Path(target.repository) / "locks"
    known = {"RESTIC_REPOSITORY": target.repository, "RESTIC_PASSWORD": target.password}
    with subprocess.Popen(["restic", "check", "--no-cache"], env={**os.environ, **known}) as other:
        while not any(locks.iterdir()):
            assert other.poll() is None, "it was done too soon"
        other.kill()
    assert any(locks.iterdir())
    kept, problems = place.run()
    assert problems == [] and place.ids("vault") == [first, kept]


def test_a_file_that_was_named_and_is_missing_is_told_each_time(place: Place, tmp_path: Path) -> None:
    usual = [tmp_path / "network", tmp_path / "hosts"]
    usual[1].write_text("127.0.0.1 localhost")
    named = tmp_path / "scada.conf"
    place.configuration = dataclasses.replace(
        place.configuration, usual=usual, files=[*place.configuration.files, named]
    )
    kept, problems = place.run()
    assert problems == [f"{named}: not there; put it back, or take it out of what is to be kept"]
    assert place.ids("vault") == [kept], "all else is stored"
    assert place.status["problems"] == problems
    named.write_text("here it is")
    assert place.run()[1] == []
    kept_files = set(backup.files(place.configuration, False))
    assert {usual[1], named} <= kept_files and usual[0] not in kept_files


def test_what_links_lead_to_is_kept_of_a_control_node(place: Place, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "shared.yml").write_text("shared\n")
    (place.files / "linked").symlink_to(elsewhere)
    (place.files / "linked.yml").symlink_to(elsewhere / "shared.yml")
    (elsewhere / "round").symlink_to(place.files)
    gateway = {str(path.relative_to(place.files)) for path in backup.files(place.configuration, False)}
    control_node = {str(path.relative_to(place.files)) for path in backup.files(place.configuration, True)}
    assert gateway == {"tls.key"}
    assert control_node == {"tls.key", "linked/shared.yml", "linked.yml"}
    manifest, directory, problems = backup.take(None, place.configuration)
    assert problems == [] and len(manifest.files) == 3
    assert (directory / "files" / place.files.relative_to("/") / "linked/shared.yml").read_text() == "shared\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can make a disk that is full")
def test_a_gateway_whose_disk_is_full_says_so(place: Place) -> None:
    place.run()
    own = place.configuration.directory
    aside = own.with_suffix(".aside")
    own.rename(aside)
    own.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", own], check=True)
    try:
        (place.files / "grown").write_bytes(os.urandom(3_000_000))
        with pytest.raises(OSError, match="No space left on device"):
            place.run()
        assert place.status["failed"] and not (own / "set").exists()
    finally:
        subprocess.run(["umount", own], check=True)


@pytest.mark.parametrize("after", [0.1, 0.6, 1.5, "a lock"])
def test_a_run_that_is_killed_leaves_a_repository_that_goes_on(place: Place, after: float | str) -> None:
    first, _problems = place.run()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from _core import backup;"
        "sys.exit(backup.main(['run', '--settings', sys.argv[2], '--configuration', sys.argv[3]]))"
    )
    place.settings()
    configuration = place.lane.directory / "backup.json"
    told = {**vars(place.configuration), "targets": [vars(one) for one in place.targets]}
    configuration.write_text(json.dumps(told, default=str))
    core = str(Path(backup.__file__).parents[1])
    files = (str(place.lane.directory / "gateway.json"), str(configuration))
    locks = place.repositories / "hall/locks"
    with subprocess.Popen([sys.executable, "-c", script, core, *files]) as run:
        if isinstance(after, float):
            time.sleep(after)
        else:
            until = time.monotonic() + 60
            while not any(locks.iterdir()):
                assert run.poll() is None and time.monotonic() < until, "restic has locked nothing"
        run.kill()
    assert isinstance(after, float) or any(locks.iterdir())
    kept, problems = place.run()
    assert problems == []
    for name in ("vault", "hall"):
        assert {first, kept} <= set(place.ids(name))
    for target in place.targets:
        place.configuration.restic(target).check("100%")
    assert fetched(place, kept)["set"] == kept


def test_a_controller_with_an_open_transaction_is_a_problem_of_its_own(place: Place) -> None:
    place.settings().store.journal(BOARD).append("begin", transaction="t1", before={}, settings=SETTINGS)
    _kept, problems = place.run()
    assert len(problems) == 1 and f"controller {BOARD}: " in problems[0] and "transaction t1" in problems[0]
    assert place.settings().store.set_ids(BOARD) == []

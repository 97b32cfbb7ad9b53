# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the firmware transaction does, and refuses to do, as the simulated boards and the disk show it."""

from __future__ import annotations

import dataclasses
import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _core import image, operations
from _core import store as store_module
from _core.change import Target, Transaction
from _core.errors import BadFrame
from _core.gateway import Gateway, parse_controllers
from _core.line import SerialBus
from _core.operations import change_firmware, identify, restore_settings, take_snapshots, write_registers
from _core.programmer import Programmer
from _core.store import Store
from _core.targets import from_sets
from support import site
from support.cuts import BOARD, QUICK, SETTINGS, UNIT, Cut, Lane
from support.profiles import mapping
from support.virtual import Board, VirtualLine, firmware

OLD, NEW, BROKEN = map(site.target, ("1.0.0", "1.1.0", "1.2.0"))
UNTOUCHED = (0, 0, 0)
IMPATIENT = dataclasses.replace(QUICK, other_run_deadline=0.2)


def outcome(result: dict[str, Any]) -> tuple[str, bool, bool]:
    return result["outcome"], result["changed"], result["failed"]


def overwrite(lane: Lane, flash: bytes) -> None:
    """Somebody else flashes the board."""
    lane.control("power", "off")
    with open(lane.virtual.memory(BOARD, "flash.bin"), "r+b") as stream:
        stream.write(flash.ljust(site.FLASH, b"\xff"))
    lane.control("power", "on")
    with lane.device() as device:
        device.wait_for_answer(1)


# The way through


def test_a_release_is_deployed_and_proven(lane: Lane) -> None:
    result = lane.deploy(NEW)
    assert outcome(result) == ("deployed", True, False), result["msg"]
    assert result["before"]["version"] == "1.0.0"
    assert result["after"] == {"version": "1.1.0", "digest": NEW.digest}
    assert result["settings_restored"] == [f"sonicator{number}_amplitude" for number in range(1, 5)] + ["global_enable"]
    lane.require_whole(NEW)
    kept = Store(lane.state / "state").load_set(BOARD, result["set"])
    assert kept["settings"] == SETTINGS
    assert kept["version"] == "1.0.0"
    assert image.content(lane.memory("flash.bin")) == NEW.flash
    lane.require_nothing_to_do(NEW)


def test_what_does_not_come_up_is_rolled_back(lane: Lane) -> None:
    result = lane.deploy(BROKEN)
    assert outcome(result) == ("rolled_back", True, True)
    assert "1.2.0 did not come up" in result["msg"]
    assert "silent" in result["msg"]
    lane.require_whole(OLD)
    assert lane.control("state")["programmer"]["erases"] == 2
    lane.require_nothing_to_do(OLD)


def test_a_wrong_version_in_the_image_is_rolled_back(lane: Lane) -> None:
    result = lane.deploy(dataclasses.replace(NEW, version="3.0.0", label="3.0.0"))
    assert outcome(result) == ("rolled_back", True, True)
    assert "tells version 1.1.0 after its start, expected 3.0.0" in result["msg"]
    lane.require_whole(OLD)


def test_without_rollback_the_next_run_does_not_take_the_failed_writing_for_done(tmp_path: Path) -> None:
    lane = Lane(tmp_path / "EESAVE", hfuse=0xD1)  # else it would come up under the unit of an erased EEPROM
    try:
        lane.prepare("1.0.0")
        without_rollback(lane)
    finally:
        lane.close()


def without_rollback(lane: Lane) -> None:
    image_with_unused_end = (NEW.flash or b"") + b"unused"
    wanted = dataclasses.replace(NEW, flash=image_with_unused_end)
    lane.control("corrupt_write", len(image_with_unused_end) - 2)  # the device comes up and tells 1.1.0 all the same
    policy = dataclasses.replace(QUICK, rollback=False)
    result = lane.deploy(wanted, policy)
    assert outcome(result) == ("failed", True, True)
    assert "rollback is switched off" in result["msg"]
    with lane.device() as device:
        assert device.wait_for_answer(1)
        assert device.identity().version == "1.1.0"
    lane.control("clear")
    assert lane.deploy(wanted, check=True)["outcome"] == "would_deploy"
    assert lane.deploy(wanted)["outcome"] == "deployed"
    assert image.content(lane.memory("flash.bin")) == image_with_unused_end


def test_a_chip_that_holds_the_image_already_is_read_but_not_written(lane: Lane) -> None:
    """The version is another one by the register, the content the same: only the chip itself can tell."""
    twin = dataclasses.replace(OLD, version=None, label="twin")
    result = lane.deploy(twin)
    assert outcome(result) == ("unchanged", False, False)
    assert lane.control("state")["programmer"]["erases"] == 0
    lane.require_whole(OLD)
    lane.require_nothing_to_do(twin)


def test_the_chip_alone_is_read_on_request(lane: Lane) -> None:
    result = identify(lane.gateway(), True, QUICK, False)[0]
    assert outcome(result) == ("read", False, False)
    assert result["last_reading"]["flash"] == OLD.digest
    assert result["last_reading"]["current"] is True
    assert result["last_reading"]["fuses"]["hfuse"]["accepted"] is True
    assert result["open_transaction"] is None
    assert result["last_transaction"]["outcome"] == "read"
    lane.require_whole(OLD)


def test_somebody_else_has_flashed(lane: Lane) -> None:
    assert lane.deploy(NEW)["outcome"] == "deployed"
    overwrite(lane, OLD.flash or b"")
    looked = identify(lane.gateway(), False, QUICK, False)[0]
    assert looked["version"] == "1.0.0"
    assert looked["last_reading"]["current"] is False
    result = lane.deploy(OLD)
    assert outcome(result) == ("unchanged", False, False)
    assert "its flash was never read by this gateway" in result["msg"]
    assert lane.deploy(NEW)["outcome"] == "deployed"


# Looking only


def test_check_mode_writes_nothing_anywhere(lane: Lane) -> None:
    lane.deploy(NEW)
    with lane.device() as device:
        device.write("sonicator1_amplitude", 33)
    gateway = lane.gateway()
    before = lane.kept()
    lane.virtual.control("line", "counters_reset")
    assert lane.deploy(OLD, check=True)["outcome"] == "would_deploy"
    assert lane.deploy(NEW, check=True)["outcome"] == "unchanged"
    assert lane.deploy(Target("reading"), check=True)["outcome"] == "would_read"
    back = from_sets(gateway, "previous")
    assert change_firmware(gateway, back, QUICK, 1, True)[0]["outcome"] == "would_deploy"
    latest = dataclasses.replace(NEW, settings=SETTINGS)
    assert lane.deploy(latest, check=True)["outcome"] == "would_restore"
    assert identify(gateway, True, QUICK, True)[0]["outcome"] == "would_read"
    assert take_snapshots(gateway, False, QUICK, True)[0]["changed"] is True
    assert take_snapshots(gateway, True, QUICK, True)[0]["changed"] is True
    restored = restore_settings(gateway, "latest", True)[0]
    assert restored["written"] == ["sonicator1_amplitude"]
    assert restored["after"]["sonicator1_amplitude"] == SETTINGS["sonicator1_amplitude"]
    written = write_registers(gateway, {"sonicator2_amplitude": 20}, (), True)[0]
    assert written["written"] == ["sonicator2_amplitude"]
    assert lane.touched() == UNTOUCHED
    assert lane.kept() == before


def test_check_mode_tells_of_an_interrupted_transaction(lane: Lane) -> None:
    lane.run("1.1.0", Cut("hold_at page 3", "kill"))
    lane.control("clear")
    lane.virtual.control("line", "counters_reset")
    before = lane.kept()
    result = lane.deploy(NEW, check=True)
    assert outcome(result) == ("would_resume", True, False)
    assert lane.touched() == UNTOUCHED
    assert lane.kept() == before


# Refusals


@pytest.mark.parametrize("check", [False, True])
def test_a_silent_controller_is_refused(lane: Lane, check: bool) -> None:
    lane.control("silent", "on")
    result = lane.deploy(NEW, check=check)
    assert outcome(result) == ("refused", False, True)
    assert "does not answer" in result["msg"]
    assert lane.touched() == UNTOUCHED


def test_a_silent_controller_may_be_flashed_on_request(lane: Lane) -> None:
    overwrite(lane, BROKEN.flash or b"")
    result = lane.deploy(NEW, dataclasses.replace(QUICK, flash_silent=True))
    assert outcome(result) == ("deployed", True, False), result["msg"]
    with lane.device() as device:
        assert device.identity().version == "1.1.0"
    assert image.content(lane.memory("flash.bin")) == NEW.flash
    assert lane.memory("eeprom.bin") == lane.eeprom


def test_garbled_answers_are_not_silence(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two units of one id, or a second master: the controller may well be at work."""

    def garble(_self: SerialBus, *_request: Any) -> list[int]:
        raise BadFrame("14 bytes with a wrong checksum")

    monkeypatch.setattr(SerialBus, "read", garble)
    result = lane.deploy(NEW, dataclasses.replace(QUICK, flash_silent=True))
    assert outcome(result) == ("refused", False, True)
    assert "garbled" in result["msg"] and "wrong checksum" in result["msg"]
    assert lane.touched() == UNTOUCHED


def test_a_silent_controller_comes_up_with_starts_allowed(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nobody could tell how it was set, and the run is cut off after it has kept its starts out."""
    overwrite(lane, BROKEN.flash or b"")
    target = dataclasses.replace(NEW, settings={})
    policy = dataclasses.replace(QUICK, flash_silent=True)
    with monkeypatch.context() as killed:

        def kill(*_arguments: Any) -> None:
            raise SystemExit

        killed.setattr(Transaction, "_require_health", kill)
        with pytest.raises(SystemExit):
            lane.deploy(target, policy)
    with lane.device() as device:
        assert device.read(["start_inhibit_mask"])["start_inhibit_mask"]
    result = lane.deploy(target, policy)
    assert outcome(result) == ("deployed", True, False), result["msg"]
    with lane.device() as device:
        assert device.read(["start_inhibit_mask"]) == {"start_inhibit_mask": []}


def test_a_silent_controller_is_never_unchanged(lane: Lane) -> None:
    lane.deploy(NEW)
    lane.control("silent", "on")
    result = lane.deploy(NEW, dataclasses.replace(QUICK, flash_silent=True))
    assert outcome(result) == ("failed", False, True), result["msg"]
    assert "silent" in result["msg"]


@pytest.mark.parametrize("check", [False, True])
def test_a_latched_emergency_stop_is_for_a_person(lane: Lane, check: bool) -> None:
    with lane.device() as device:
        device.write("emergency_stop", 1)
    lane.virtual.control("line", "counters_reset")
    for target in (NEW, Target("reading")):
        result = lane.deploy(target, dataclasses.replace(QUICK, drain="stop"), check)
        assert outcome(result) == ("refused", False, True)
        assert "a person has to clear that first" in result["msg"]
    assert lane.touched() == UNTOUCHED
    with lane.device() as device:
        assert device.read(["emergency_stop"]) == {"emergency_stop": 1}


def test_acknowledged_but_discarded_writes_are_noticed(lane: Lane) -> None:
    lane.control("discard_writes", "on")
    written = write_registers(lane.gateway(), {"sonicator1_amplitude": 33}, (), False)[0]
    assert written["failed"]
    assert "reads 61 after 33 was written and acknowledged" in written["msg"]
    result = lane.deploy(NEW)
    assert result["failed"]
    assert "start_inhibit_mask reads" in result["msg"]
    assert lane.control("state")["programmer"]["rx_bytes"] == 0
    lane.control("clear")
    assert lane.deploy(NEW)["outcome"] == "deployed"
    lane.require_whole(NEW)


def test_a_line_that_vanishes_fails_and_comes_back(lane: Lane) -> None:
    lane.virtual.control("line", "unplug")
    result = lane.deploy(NEW)
    assert result["failed"]
    assert str(lane.virtual.line) in result["msg"]
    lane.virtual.control("line", "plug")
    assert lane.deploy(NEW)["outcome"] == "deployed"


def test_a_line_that_vanishes_in_the_middle_leaves_it_to_the_next_run(lane: Lane) -> None:
    lane.control("hold_at", "page", 5)
    results: list[dict[str, Any]] = []
    run = threading.Thread(target=lambda: results.append(lane.deploy(NEW)))
    run.start()
    until = time.monotonic() + 30
    while not lane.control("state")["programmer"]["holding"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    lane.virtual.control("line", "unplug")
    lane.control("release")
    run.join(60)
    assert results[0]["failed"]
    assert "stays open" in results[0]["msg"]
    lane.virtual.control("line", "plug")
    result = lane.deploy(NEW)
    assert result["outcome"] == "rolled_back", result["msg"]
    lane.require_whole(OLD)
    assert lane.deploy(NEW)["outcome"] == "deployed"
    lane.require_whole(NEW)


def test_another_run_at_work_is_named(lane: Lane) -> None:
    store = Store(lane.state / "state")
    with store.exclusive(BOARD):
        result = lane.deploy(NEW, IMPATIENT)
    assert result["failed"]
    assert "another run works on it" in result["msg"]
    assert lane.touched() == UNTOUCHED


def fill_disk(monkeypatch: pytest.MonkeyPatch, after_writings: int) -> None:
    """No record can be saved after the so many-th writing of a chip, until the next one or for ever."""
    write, save = Programmer.write, store_module.write_atomically
    writings = 0

    def count(self: Programmer, *what: Any, **how: Any) -> None:
        nonlocal writings
        write(self, *what, **how)
        writings += 1

    def full(path: Path, data: bytes, *more: Any) -> None:
        if path.name == "record.yml" and b"written and verified" in data and writings <= after_writings:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, data, *more)

    monkeypatch.setattr(Programmer, "write", count)
    monkeypatch.setattr(store_module, "write_atomically", full)


def test_a_save_that_fails_after_the_writing_takes_the_way_back(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, 1)
    result = lane.deploy(NEW)
    assert outcome(result) == ("rolled_back", True, True)
    assert "No space left on device" in result["msg"]
    lane.require_whole(OLD)


def test_a_disk_that_stays_full_leaves_the_transaction_open(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as filled:
        fill_disk(filled, 99)
        result = lane.deploy(NEW)
    assert outcome(result) == ("failed", True, True)
    assert "No space left on device" in result["msg"] and "stays open" in result["msg"]
    assert lane.deploy(NEW)["outcome"] == "rolled_back"
    lane.require_whole(OLD)


# What describes another firmware

OBSERVED = "multi_sonicator_io_observed"


def observed_line(tmp_path: Path) -> VirtualLine:
    return VirtualLine(tmp_path / "line", [Board(BOARD, UNIT, firmware("observed"))], programmer_baudrate=57600)


@pytest.mark.parametrize("verb", ["deploy", "registers", "restore", "snapshot", "read"])
def test_nothing_is_written_to_a_firmware_that_the_profile_does_not_describe(lane: Lane, verb: str) -> None:
    gateway = lane.gateway(OBSERVED)
    gateway.store.save_set(
        BOARD, {"id": "20260101T000000Z-000000", "controller": BOARD, "settings": {"global_enable": 1}}
    )
    does = {
        "deploy": lambda: change_firmware(gateway, {BOARD: NEW}, QUICK, 1, False),
        "registers": lambda: write_registers(gateway, {"start_inhibit_mask": ["sonicator1"]}, (), False),
        "restore": lambda: restore_settings(gateway, "latest", False),
        "snapshot": lambda: take_snapshots(gateway, False, QUICK, False),
        "read": lambda: take_snapshots(gateway, True, QUICK, False),
    }
    before = lane.kept()
    result = does[verb]()[0]
    assert result["failed"]
    assert lane.touched() == UNTOUCHED
    assert {path for path in lane.kept() if "lock" not in path} == set(before)


def test_nothing_is_written_to_the_observed_firmware_by_the_documented_map(tmp_path: Path) -> None:
    (tmp_path / "line").mkdir()
    with observed_line(tmp_path) as virtual:
        gateway = site.gateway(tmp_path / "gateway", site.entries(virtual))
        for results in (
            change_firmware(gateway, {BOARD: NEW}, QUICK, 1, False),
            write_registers(gateway, {"emergency_stop": 1}, ["emergency_stop"], False),
        ):
            assert results[0]["failed"]
            assert "is not what profile multi_sonicator_io describes" in results[0]["msg"]
        state = virtual.state(BOARD)
        assert (state["write_requests"], state["programmer"]["rx_bytes"]) == (0, 0)


def test_a_firmware_without_version_proves_its_boot_by_silence(tmp_path: Path) -> None:
    (tmp_path / "line").mkdir()
    flash = site.flash_of("observed")
    target = Target("observed, another build", flash + b"another build")
    with observed_line(tmp_path) as virtual:
        entries = site.entries(virtual, profile=OBSERVED)
        gateway = site.gateway(tmp_path / "gateway", entries, OBSERVED)
        result = change_firmware(gateway, {BOARD: target}, QUICK, 1, False)[0]
        assert outcome(result) == ("deployed", True, False), result["msg"]
        assert result["after"] == {"version": None, "digest": target.digest}
        assert image.content(virtual.memory(BOARD, "flash.bin").read_bytes()) == target.flash
        virtual.control(BOARD, "reset")  # it has gone deaf if the machine was busy for a second
        again = change_firmware(gateway, {BOARD: target}, QUICK, 1, False)[0]
        assert outcome(again) == ("unchanged", False, False), again["msg"]


def test_a_release_with_another_map_is_rolled_back(tmp_path: Path) -> None:
    """Its registers mean something else, and where the profile looks it answers by exceptions: nothing can be asked."""
    (tmp_path / "line").mkdir()
    data = mapping(OBSERVED)
    # There the documented map has nothing.
    data["identity"]["fingerprint"].append({"point": "sonicator4_amplitude", "min": 0, "max": 100})
    with observed_line(tmp_path) as virtual:
        controllers = parse_controllers(site.entries(virtual, profile=OBSERVED), {OBSERVED: data})
        gateway = Gateway(controllers, Store(tmp_path / "state"), str(tmp_path))
        result = change_firmware(gateway, {BOARD: NEW}, QUICK, 1, False)[0]
        assert outcome(result) == ("rolled_back", True, True), result["msg"]
        assert image.content(virtual.memory(BOARD, "flash.bin").read_bytes()) == site.flash_of("observed")
        assert not gateway.store.journal(BOARD).steps


# Several controllers


@pytest.fixture
def three(tmp_path: Path) -> Iterator[VirtualLine]:
    with VirtualLine(tmp_path, [Board("a", 2), Board("b", 3), Board("c", 4)]) as virtual:
        yield virtual


def flashed(virtual: VirtualLine) -> list[str]:
    return [name for name in virtual.boards if virtual.state(name)["programmer"]["erases"]]


@pytest.mark.parametrize(("allowed", "done"), [(1, []), (2, ["b", "c"])])
def test_after_too_many_failures_none_is_begun(
    three: VirtualLine, tmp_path: Path, allowed: int, done: list[str]
) -> None:
    three.control("a", "silent", "on")
    gateway = site.gateway(tmp_path, site.entries(three))
    results = change_firmware(gateway, dict.fromkeys("abc", NEW), QUICK, allowed, False)
    assert [result["name"] for result in results] == ["a", "b", "c"]
    assert results[0]["outcome"] == "refused"
    assert [result["outcome"] for result in results[1:]] == (["deployed"] * 2 if done else ["skipped"] * 2)
    assert flashed(three) == done


def test_a_controller_that_another_run_holds_counts_as_failed(three: VirtualLine, tmp_path: Path) -> None:
    gateway = site.gateway(tmp_path, site.entries(three))
    with gateway.store.exclusive("a"):
        results = change_firmware(gateway, dict.fromkeys("abc", NEW), IMPATIENT, 1, False)
    assert results[0]["failed"]
    assert [result["outcome"] for result in results[1:]] == ["skipped"] * 2
    assert flashed(three) == []


def test_a_programmer_of_another_board_is_found_out_before_it_is_written(tmp_path: Path) -> None:
    with VirtualLine(tmp_path, [Board("a", 2), Board("b", 3)]) as virtual:
        entries = site.entries(virtual)
        entries[0]["programmer"], entries[1]["programmer"] = entries[1]["programmer"], entries[0]["programmer"]
        gateway = site.gateway(tmp_path, entries)
        until = time.monotonic() + 10  # a controller that has just been started could be a new boot
        while identify(gateway, False, QUICK, False)[0]["uptime"] < 5:
            assert time.monotonic() < until
            time.sleep(0.2)
        targets = dict.fromkeys("ab", NEW)
        result = change_firmware(gateway, targets, QUICK, 1, False)[0]
        assert result["failed"]
        assert "check that programmer and line lead to the same board" in result["msg"]
        for name in "ab":
            state = virtual.state(name)
            assert state["programmer"]["erases"] == 0
            assert image.content(virtual.memory(name, "flash.bin").read_bytes()) == OLD.flash


# What is refused for all before anything is sent


def test_refusals_before_the_first_byte(lane: Lane) -> None:
    gateway = lane.gateway()
    large = Target("large", b"\0" * (site.FLASH + 1))
    with pytest.raises(
        operations.CoreError, match=f"controller {BOARD}: image large has 32769 bytes, the flash of m32 32768"
    ):
        change_firmware(gateway, {BOARD: large}, QUICK, 1, False)
    with pytest.raises(operations.CoreError, match=r"EEPROM of .* has 1025 bytes, m32 1024"):
        change_firmware(gateway, {BOARD: dataclasses.replace(NEW, eeprom=b"\0" * 1025)}, QUICK, 1, False)
    without = site.gateway(lane.state, [{**entry, "programmer": None} for entry in site.entries(lane.virtual)])
    with pytest.raises(operations.CoreError, match="no programmer in the inventory"):
        change_firmware(without, {BOARD: NEW}, QUICK, 1, False)
    for read in (identify, take_snapshots):
        with pytest.raises(operations.CoreError, match="no programmer in the inventory"):
            read(without, True, QUICK, False)
    assert lane.virtual.state()["requests"] == 0
    assert lane.touched() == UNTOUCHED


# Interrupted, and then something is different


def interrupt(lane: Lane, step: str) -> None:
    """A run that is killed right after this step is in its journal."""
    lane.run("1.1.0")
    number = 1 + lane.saves().index(f"append {step}")
    lane.prepare("1.0.0")
    lane.run("1.1.0", Cut(f"save {number} after", "kill"))
    lane.control("clear")
    lane.virtual.control("line", "counters_reset")


def test_what_is_verified_in_the_flash_is_finished_without_the_programmer(lane: Lane) -> None:
    interrupt(lane, "written")
    lane.control("unplug")
    result = lane.deploy(NEW)
    assert outcome(result) == ("deployed", True, False), result["msg"]
    lane.require_whole(NEW)


def test_another_firmware_was_put_on_the_board_between_two_runs(lane: Lane) -> None:
    """What the first run found out about the register map holds no longer when the second one goes on."""
    interrupt(lane, "drain")
    overwrite(lane, site.flash_of("observed"))
    result = lane.deploy(NEW)
    assert result["failed"]
    assert "is not what profile multi_sonicator_io describes" in result["msg"]
    assert lane.touched() == UNTOUCHED

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets: kept, found again, put back, and not trusted when they are damaged."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from _core.change import Target
from _core.gateway import InventoryError
from _core.operations import change_firmware, restore_settings, take_snapshots
from _core.store import Store
from _core.targets import from_sets
from support import site
from support.cuts import BOARD, QUICK, SETTINGS, Cut, Lane

OLD, NEW = site.target("1.0.0"), site.target("1.1.0")


def set_amplitude(lane: Lane, value: int) -> None:
    with lane.device() as device:
        device.write("sonicator1_amplitude", value)
    lane.virtual.control("line", "counters_reset")


def test_a_snapshot_that_changes_nothing_keeps_the_older_one(lane: Lane) -> None:
    first = take_snapshots(lane.gateway(), False, QUICK, False)[0]
    assert first["changed"]
    assert first["content"]["settings"] == SETTINGS
    assert first["content"]["images"] is None
    before = lane.kept()
    second = take_snapshots(lane.gateway(), False, QUICK, False)[0]
    assert (second["changed"], second["set"]) == (False, first["set"])
    assert lane.kept() == before
    assert lane.touched() == (0, 0, 0)


def test_a_snapshot_of_the_chip_holds_its_images(lane: Lane) -> None:
    result = take_snapshots(lane.gateway(), True, QUICK, False)[0]
    assert result["changed"], result["msg"]
    images = result["content"]["images"]
    store = lane.gateway().store
    assert store.get(images["flash"]) == OLD.flash
    assert store.get(images["eeprom"]) == lane.eeprom
    assert images["fuses"] == {"lfuse": 0xFF, "hfuse": 0xD9}
    lane.require_whole(OLD)
    again = take_snapshots(lane.gateway(), True, QUICK, False)[0]
    assert (again["changed"], again["set"]) == (False, result["set"])
    assert store.set_ids(BOARD) == [result["set"]]


def test_settings_of_a_set_come_back(lane: Lane) -> None:
    taken = take_snapshots(lane.gateway(), False, QUICK, False)[0]["set"]
    set_amplitude(lane, 33)
    for wanted in ("latest", taken):
        set_amplitude(lane, 33)
        result = restore_settings(lane.gateway(), wanted, False)[0]
        assert result["written"] == ["sonicator1_amplitude"]
        assert result["after"] == SETTINGS
        assert lane.touched() == (1, 0, 0)
    lane.virtual.control("line", "counters_reset")
    again = restore_settings(lane.gateway(), taken, False)[0]
    assert (again["changed"], again["differs"]) == (False, [])
    assert lane.touched() == (0, 0, 0)


def test_single_settings_of_a_set_come_back(lane: Lane) -> None:
    taken = take_snapshots(lane.gateway(), False, QUICK, False)[0]["set"]
    other = next(name for name in SETTINGS if name.endswith("_amplitude") and name != "sonicator1_amplitude")
    set_amplitude(lane, 33)
    result = restore_settings(lane.gateway(), taken, False, [other])[0]
    assert (result["changed"], lane.touched()) == (False, (0, 0, 0))
    result = restore_settings(lane.gateway(), taken, False, ["sonicator1_amplitude"])[0]
    assert (result["written"], lane.touched()) == (["sonicator1_amplitude"], (1, 0, 0))
    assert result["after"] == SETTINGS
    with pytest.raises(InventoryError, match=r"has no setting volume \(it has .*sonicator1_amplitude"):
        restore_settings(lane.gateway(), taken, False, ["sonicator1_amplitude", "volume"])


def test_what_settings_cannot_mend_is_told(lane: Lane) -> None:
    assert take_snapshots(lane.gateway(), True, QUICK, False)[0]["changed"]
    first = lane.gateway().store.set_ids(BOARD)[0]
    assert lane.deploy(NEW)["outcome"] == "deployed"
    differs = " ".join(restore_settings(lane.gateway(), first, False)[0]["differs"])
    assert "firmware is 1.1.0, the set's is 1.0.0" in differs
    assert "flash was another when it was last read" in differs
    assert "rollback.yml" in differs


def test_previous_brings_firmware_and_settings_back(lane: Lane) -> None:
    assert lane.deploy(NEW)["outcome"] == "deployed"
    set_amplitude(lane, 33)
    targets = from_sets(lane.gateway(), "previous")
    assert targets[BOARD].version == "1.0.0"
    result = change_firmware(lane.gateway(), targets, QUICK, 1, False)[0]
    assert result["outcome"] == "deployed", result["msg"]
    assert result["after"]["version"] == "1.0.0"
    lane.eeprom = lane.memory("eeprom.bin")
    with lane.device() as device:
        assert device.settings() == SETTINGS
    again = change_firmware(lane.gateway(), from_sets(lane.gateway(), "previous"), QUICK, 1, False)[0]
    assert again["outcome"] == "unchanged", "going back twice is going back once"
    named = from_sets(lane.gateway(), result["set"])
    assert named[BOARD].version == "1.1.0"
    assert named[BOARD].settings == {**SETTINGS, "sonicator1_amplitude": 33}


def test_an_interrupted_rollback_goes_on_to_the_same_previous(lane: Lane) -> None:
    """When the cut comes the chip holds 1.0.0 already: seen from there the previous one would be 1.1.0 again."""
    assert lane.deploy(NEW)["outcome"] == "deployed"
    before = from_sets(lane.gateway(), "previous")[BOARD]
    lane.run("previous", Cut("hold_at leave 2", "kill"))
    lane.control("clear")
    journal = lane.gateway().store.journal(BOARD)
    assert journal.last("write")
    assert from_sets(lane.gateway(), "previous")[BOARD] == before


def test_sets_that_cannot_be_used_are_refused_before_anything_is_sent(lane: Lane) -> None:
    gateway = lane.gateway()
    with pytest.raises(InventoryError, match="no set is kept"):
        from_sets(gateway, "previous")
    line_only = take_snapshots(gateway, False, QUICK, False)[0]["set"]
    lane.virtual.control("line", "counters_reset")
    with pytest.raises(InventoryError, match=f"set {line_only} holds no image, since its chip was never read"):
        from_sets(gateway, "latest")
    with pytest.raises(InventoryError, match=f"no set 2020 in .*there are {line_only}"):
        from_sets(gateway, "2020")
    with pytest.raises(InventoryError, match="no deployment kept a set to go back to"):
        from_sets(gateway, "previous")
    assert lane.virtual.state()["requests"] == 0


@pytest.mark.parametrize("damage", ["changed", "missing", "set"])
def test_damaged_objects_are_refused_before_anything_is_sent(lane: Lane, damage: str) -> None:
    assert lane.deploy(NEW)["outcome"] == "deployed"
    store = lane.gateway().store
    number = store.set_ids(BOARD)[0]
    path = store.root / "objects" / store.load_set(BOARD, number)["images"]["flash"]
    if damage == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    elif damage == "missing":
        path.unlink()
    else:
        path = store.controller(BOARD) / "sets" / f"{number}.yml"
        path.write_text("{")
    lane.virtual.control("line", "counters_reset")
    with pytest.raises(InventoryError, match=rf"(?s)controller {BOARD}: .*{path.name}.*restore the state directory"):
        from_sets(lane.gateway(), number)
    assert lane.virtual.state()["requests"] == 0
    assert lane.touched() == (0, 0, 0)


def test_settings_that_the_profile_does_not_admit_are_refused(lane: Lane) -> None:
    taken = take_snapshots(lane.gateway(), True, QUICK, False)[0]["content"]
    store = lane.gateway().store
    store.save_set(BOARD, {**taken, "id": "20990101T000000Z-000000", "settings": {"sonicator1_amplitude": 5}})
    lane.virtual.control("line", "counters_reset")
    for use in (lambda: from_sets(lane.gateway(), "latest"), lambda: restore_settings(lane.gateway(), "latest", False)):
        with pytest.raises(InventoryError, match="5 is not admitted"):
            use()
    assert lane.virtual.state()["requests"] == 0


def test_a_damaged_object_on_the_way_back_leaves_the_transaction_open(lane: Lane) -> None:
    lane.run("1.2.0", Cut(f"save {back_save(lane)} before", "kill"))
    store = lane.gateway().store
    saved = store.journal(BOARD).last("saved")
    assert saved
    path = store.root / "objects" / saved["flash"]
    whole = path.read_bytes()
    path.write_bytes(whole + b"!")
    result = lane.deploy(site.target("1.2.0"))
    assert result["failed"]
    assert "damaged" in result["msg"]
    assert "stays open" in result["msg"]
    path.write_bytes(whole)
    assert lane.deploy(site.target("1.2.0"))["outcome"] == "rolled_back"
    lane.require_whole(OLD)


def back_save(lane: Lane) -> int:
    lane.run("1.2.0")
    number = 1 + lane.saves().index("append back")
    lane.prepare("1.0.0")
    return number


def test_two_lines_may_keep_the_same_image_at_the_same_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    images = [bytes([number]) * 10 for number in range(100)]
    together = threading.Barrier(4)

    def keep(image: bytes) -> str:
        together.wait(10)
        return store.put(image)

    with ThreadPoolExecutor(4) as pool:
        for image in images:
            assert len(set(pool.map(keep, [image] * 4))) == 1
    assert len(list((tmp_path / "objects").iterdir())) == len(images)


def test_reading_the_chip_after_an_interrupted_deploy_undoes_that_first(lane: Lane) -> None:
    lane.run("1.1.0", Cut("hold_at page 4", "kill"))
    lane.control("clear")
    result = lane.deploy(Target("reading"))
    assert result["outcome"] == "read", result["msg"]
    lane.require_whole(OLD)


def test_no_set_is_kept_and_none_put_back_while_a_transaction_is_open(lane: Lane) -> None:
    first = take_snapshots(lane.gateway(), False, QUICK, False)[0]["set"]
    store = lane.gateway().store
    store.journal(BOARD).append("begin", transaction="t1", before={}, settings=SETTINGS)
    set_amplitude(lane, 33)
    for result in (
        take_snapshots(lane.gateway(), False, QUICK, False)[0],
        restore_settings(lane.gateway(), first, False)[0],
    ):
        assert result["failed"] and "transaction t1" in result["msg"]
    assert restore_settings(lane.gateway(), first, True)[0]["failed"], "as it would be"
    assert store.set_ids(BOARD) == [first]
    assert lane.touched() == (0, 0, 0)
    with store.exclusive(BOARD):
        looked = take_snapshots(lane.gateway(), False, QUICK, True)[0]
    assert looked["content"]["settings"]["sonicator1_amplitude"] == 33, "looking is for everybody"


def test_a_set_that_tells_no_settings_leaves_those_there_are(lane: Lane) -> None:
    """Such as one of a controller that was silent when it was taken."""
    taken = take_snapshots(lane.gateway(), True, QUICK, False)[0]["content"]
    assert lane.deploy(NEW)["outcome"] == "deployed"
    lane.gateway().store.save_set(BOARD, {**taken, "id": "20990101T000000Z-000000", "settings": {}})
    result = change_firmware(lane.gateway(), from_sets(lane.gateway(), "20990101T000000Z-000000"), QUICK, 1, False)[0]
    assert result["outcome"] == "deployed", result["msg"]
    with lane.device() as device:
        assert device.settings() == SETTINGS


def test_another_eeprom_for_the_same_flash_is_another_target(lane: Lane) -> None:
    """After an interruption too: what was cut off is undone, and then the EEPROM is written."""
    lane.run("1.1.0")
    number = 1 + lane.saves().index("append written")
    lane.prepare("1.0.0")
    lane.run("1.1.0", Cut(f"save {number} after", "kill"))
    lane.control("clear")
    lane.eeprom = lane.eeprom[:100] + b"another" + lane.eeprom[107:]
    result = lane.deploy(dataclasses.replace(NEW, eeprom=lane.eeprom, settings=SETTINGS, set="another"))
    assert result["outcome"] == "deployed", result["msg"]
    assert lane.memory("eeprom.bin") == lane.eeprom

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A chip fresh from the factory in the place of one that broke: it gets fuses, flash, EEPROM and settings of a set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from _core import image
from _core.operations import change_firmware, take_snapshots
from _core.snapshot import find
from _core.store import Store
from _core.targets import from_sets
from support import site
from support.cuts import BOARD, QUICK, SETTINGS, Lane

# As the factory leaves them: the internal oscillator at 1 MHz.
FACTORY = "lfuse 0xE1\nhfuse 0x99\nlock 0xFF\n"
WANTED = {"lfuse": 0xFF, "hfuse": 0xD9, "lock": 0xFF}
REPLACEMENT = dataclasses.replace(QUICK, flash_silent=True, write_fuses=True)


@pytest.fixture
def kept(lane: Lane) -> str:
    """A set of the board that breaks then, and is replaced."""
    result = take_snapshots(lane.gateway(), True, QUICK, False)[0]
    assert not result["failed"], result["msg"]
    lane.virtual.stop()
    for name in ("flash.bin", "eeprom.bin"):
        path = lane.virtual.memory(BOARD, name)
        path.write_bytes(b"\xff" * path.stat().st_size)
    lane.virtual.memory(BOARD, "fuses").write_text(FACTORY)
    lane.virtual.start()
    return str(result["set"])


def restore(lane: Lane, kept: str, **policy: Any) -> dict[str, Any]:
    gateway = lane.gateway()
    check = bool(policy.pop("check", False))
    return change_firmware(gateway, from_sets(gateway, kept), dataclasses.replace(REPLACEMENT, **policy), 1, check)[0]


def require_as_in(lane: Lane, kept: str) -> None:
    images = Store(lane.state / "state").load_set(BOARD, kept)["images"]
    assert lane.control("state")["fuses"] == WANTED
    assert image.digest(image.content(lane.memory("flash.bin"))) == images["flash"]
    assert lane.memory("eeprom.bin") == lane.eeprom
    with lane.device() as device:
        assert device.wait_for_answer(2)
        assert device.identity().version == "1.0.0"
        assert device.settings() == SETTINGS


def test_a_replacement_becomes_what_the_broken_one_was(lane: Lane, kept: str) -> None:
    result = restore(lane, kept)
    assert (result["outcome"], result["failed"]) == ("deployed", False), result["msg"]
    require_as_in(lane, kept)
    again = restore(lane, kept)
    assert (again["outcome"], again["changed"]) == ("unchanged", False)
    store = Store(lane.state / "state")
    blank = store.load_set(BOARD, store.set_ids(BOARD)[-1])
    assert (blank["version"], blank["settings"]) == (None, {}), "what it was before is kept"
    assert find(store, BOARD, "latest")["id"] == kept, "but is nothing to go back to"


def test_an_eeprom_that_was_altered_comes_back(lane: Lane) -> None:
    kept = str(take_snapshots(lane.gateway(), True, QUICK, False)[0]["set"])
    lane.control("power", "off")
    with open(lane.virtual.memory(BOARD, "eeprom.bin"), "r+b") as stream:
        stream.seek(100)
        stream.write(b"altered")
    lane.control("power", "on")
    with lane.device() as device:
        assert device.wait_for_answer(2)
    same_board = {"flash_silent": False, "write_fuses": False}
    assert restore(lane, kept, **same_board)["outcome"] == "restored", "its settings alone, by what was last read"
    anew = {**same_board, "read_chip": True}
    assert restore(lane, kept, check=True, **anew)["outcome"] == "would_read"
    programmer = Path(lane.virtual.programmer(BOARD))
    away = programmer.rename(programmer.with_name("away"))
    lost = restore(lane, kept, **anew)
    assert lost["failed"] and "programmer" in lost["msg"], "nobody can say that it is as it should be"
    away.rename(programmer)
    result = restore(lane, kept, **anew)
    assert (result["outcome"], result["changed"], result["failed"]) == ("deployed", True, False), result["msg"]
    assert lane.memory("eeprom.bin") == lane.eeprom
    again = restore(lane, kept, **anew)
    assert (again["outcome"], again["changed"]) == ("unchanged", False)
    with lane.device() as device:
        device.write("sonicator1_amplitude", 33)
    last = restore(lane, kept, **anew)
    assert (last["outcome"], last["changed"], last["failed"]) == ("restored", True, False), last["msg"]
    require_as_in(lane, kept)


def test_fuses_are_not_written_unasked(lane: Lane, kept: str) -> None:
    result = restore(lane, kept, write_fuses=False)
    assert result["failed"] and "fuses violate the profile's policy: lfuse is 0xE1" in result["msg"]
    assert lane.control("state")["programmer"]["erases"] == 0
    assert lane.virtual.memory(BOARD, "fuses").read_text() == FACTORY
    silent = restore(lane, kept, flash_silent=False)
    assert silent["outcome"] == "refused"


@pytest.mark.parametrize("at", ["fuse 1", "fuse 2", "erase 1", "page 3", "eeprom 2", "leave 3"])
def test_power_lost_on_the_way_is_made_up_for(lane: Lane, kept: str, at: str) -> None:
    lane.control("power_off_at", *at.split())
    result = restore(lane, kept)
    assert result["failed"], at
    lane.control("clear")
    lane.control("power", "on")
    restore(lane, kept)  # may finish the way back to a blank chip first
    restore(lane, kept)
    require_as_in(lane, kept)


def test_a_set_whose_fuses_nobody_should_have_is_refused(lane: Lane, kept: str) -> None:
    store = Store(lane.state / "state")
    damaged = store.load_set(BOARD, kept)
    damaged["images"]["fuses"]["lfuse"] = 0xE1
    store.save_set(BOARD, damaged)
    lane.virtual.control("line", "counters_reset")
    with pytest.raises(Exception, match=r"fuses of set .* violate the profile's policy: lfuse is 0xE1"):
        restore(lane, kept)
    assert lane.touched() == (0, 0, 0)


def test_another_fuse_than_the_targets_names_the_playbook_that_sets_it(lane: Lane) -> None:
    target = dataclasses.replace(site.target("1.1.0"), fuses={"hfuse": 0xD1})
    result = lane.deploy(target)
    assert result["failed"] and "fuse hfuse is 0xD9" in result["msg"]
    playbook, *options = result["msg"].partition("set it: ")[2].partition(" does")[0].split(" -e ")
    assert options == ["scope=controller", "recovery_replaced=true"]
    assert (Path(__file__).parents[2] / "playbooks" / playbook).exists()

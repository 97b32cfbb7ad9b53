# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The twin of a site as it is drawn up, how its boards begin, and what is made of how they end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _core.store import Store
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import rollout_run
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rehearsal import RehearsalError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rehearsal_twin import (
    Act,
    Kept,
    Seen,
    control,
    flashes,
    make,
    remap,
    require_boards,
    seed,
    seen,
)
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutState
from support.virtual import firmware

PROFILES = {"io": {"part": {"avrdude": "m32"}}, "plain": {}, "big": {"part": {"avrdude": "m64"}}}
TWIN = Path("/t")


def controller(name: str, line: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "unit": 2, "line": line, "programmer": f"/dev/isp_{name}", "profile": "io", **more}


# Drawing


def test_lines_are_shared_as_in_the_inventory() -> None:
    entries = [
        controller("mixer", "/dev/ttyUSB0", cell="mixing", settings={"amplitude": 60}),
        controller("press", "tcp://press:502"),
        {"name": "fan", "unit": 4, "line": "/dev/ttyUSB0", "profile": "plain"},
    ]
    [mixer, press, fan] = remap(TWIN, {"hall": entries})["hall"]
    assert mixer == {**entries[0], "line": "/t/hall/line_1", "programmer": "/t/hall/isp_mixer"}
    assert press == {**entries[1], "line": "/t/hall/line_2", "programmer": "/t/hall/isp_press"}
    assert fan == {**entries[2], "line": "/t/hall/line_1"}
    assert control(press["line"]) == "/t/hall/control/line_2.sock"


def test_a_path_that_is_no_place_for_sockets_is_refused() -> None:
    entries = {"hall": [controller("mixer", "/dev/ttyUSB0")]}
    longest = Path("/" + "d" * (107 - len("/hall/control/line_1.sock") - 1))
    remap(longest, entries)
    with pytest.raises(RehearsalError, match=r"gateway hall: .* more than the 107 bytes.*shorter directory"):
        remap(longest.with_name(f"{longest.name}d"), entries)


def test_the_directory_is_its_owners_alone(tmp_path: Path) -> None:
    entries = [controller("mixer", "/dev/ttyUSB0")]
    make(tmp_path / "new/twin", {"inventory": {"hall": entries}})
    assert (tmp_path / "new/twin").stat().st_mode & 0o777 == 0o700
    assert json.loads((tmp_path / "new/twin/hall/inventory.json").read_text()) == {"controllers": entries}
    with pytest.raises(RehearsalError, match=r"/new/twin: File exists; name a directory for the twin"):
        make(tmp_path / "new/twin", {})


# Beginning


def kept(flash: bytes = b"\x0c\x94old", **images: Any) -> Kept:
    """A set of press as a gateway keeps it, with what it refers to."""
    eeprom = b"\x07unit"
    objects = {hashlib.sha256(data).hexdigest(): data for data in (flash, eeprom)}
    [one, other] = objects
    found = {"flash": one, "eeprom": other, "fuses": {"lfuse": 0xFF, "hfuse": 0xD1}, "signature": "1E9502"}
    taken = "20261122T021500Z-3f9a1c"
    return Kept(
        {"id": taken, "version": "1.0.0", "settings": {"amplitude": 60}, "images": {**found, **images}}, objects
    )


def test_boards_begin_as_they_were_kept_the_others_fresh(tmp_path: Path) -> None:
    entries = {"hall": [controller("press", "/l"), controller("mixer", "/l")], "yard": [controller("pump", "/l")]}
    (tmp_path / "hall/boards/mixer").mkdir(parents=True)
    (tmp_path / "hall/boards/mixer/flash.bin").write_bytes(b"of the act before")
    found = seed(tmp_path, entries, {"hall": {"press": kept()}, "yard": {}}, firmware("1.0.0"))
    board = tmp_path / "hall/boards/press"
    assert (board / "flash.bin").read_bytes() == b"\x0c\x94old".ljust(32768, b"\xff")
    assert (board / "eeprom.bin").read_bytes() == b"\x07unit".ljust(1024, b"\xff")
    assert (board / "fuses").read_text() == "lfuse 0xFF\nhfuse 0xD1\nlock 0xFF\n"
    assert not (tmp_path / "hall/boards/mixer").exists()
    store = Store(tmp_path / "hall/state")
    assert store.load_set("press", store.set_ids("press")[-1]) == kept().set
    assert store.record("press")["images"] == kept().set["images"] and store.record("press")["version"] == "1.0.0"
    assert found.keys() == {"hall/press", "hall/mixer", "yard/pump"} and found["hall/mixer"] == found["yard/pump"]
    assert flashes(tmp_path, {"hall": entries["hall"][:1]}) == {"hall/press": found["hall/press"]}


def test_settings_without_images_are_kept_for_a_fresh_board(tmp_path: Path) -> None:
    unread = Kept({**kept().set, "images": None}, {})
    seed(tmp_path, {"hall": [controller("press", "/l")]}, {"hall": {"press": unread}}, firmware("1.0.0"))
    assert Store(tmp_path / "hall/state").set_ids("press") and not (tmp_path / "hall/boards/press").exists()


def test_an_object_that_is_damaged_is_named(tmp_path: Path) -> None:
    [flash, eeprom] = kept().objects
    damaged = replace(kept(), objects={flash: b"other", eeprom: kept().objects[eeprom]})
    with pytest.raises(RehearsalError, match=rf"controller press: object {flash} of its last set is damaged"):
        seed(tmp_path, {"hall": [controller("press", "/l")]}, {"hall": {"press": damaged}}, None)


def test_what_cannot_be_simulated_is_refused() -> None:
    entries = {"hall": [controller("press", "/l"), controller("fan", "/l", profile="plain")]}
    require_boards(entries, PROFILES, {"hall": {}}, "old.hex")
    require_boards(entries, PROFILES, {"hall": {"press": kept(), "fan": kept()}}, "")
    unread = Kept({**kept().set, "images": None}, {})
    with pytest.raises(RehearsalError, match=r"no firmware to begin with is known of hall/fan; nothing was built"):
        require_boards(entries, PROFILES, {"hall": {"press": kept(), "fan": unread}}, "")
    entries["hall"][1]["profile"] = "big"
    with pytest.raises(RehearsalError, match=r"hall/fan \(m64\): only boards with the part m32"):
        require_boards(entries, PROFILES, {"hall": {}}, "old.hex")


# Judging

MEMBERS = ("hall/mixer", "hall/press", "yard/pump")
OLD = Seen("old", "1.0.0", {"amplitude": 60})
NEW = Seen("new", "1.1.0", {"amplitude": 60})
BEFORE = {**dict.fromkeys(MEMBERS, OLD), "yard/fan": Seen("fan", None, {})}
DONE = {"outcome": "deployed", "failed": False, "changed": True, "message": "proven on the device", "seconds": 2.5}
LEFT_OPEN = {"outcome": "failed", "failed": True, "changed": True, "message": "verification failed"}
BACK = {**LEFT_OPEN, "outcome": "rolled_back", "message": "back on 1.0.0"}


class Story:
    """A rollout of a canary and two more, told event by event."""

    def __init__(self, directory: Path, **policy: Any) -> None:
        self.state = RolloutState(directory, "act")
        entries = [{"gateway": one.partition("/")[0], "name": one.partition("/")[2]} for one in (*MEMBERS, "yard/fan")]
        rollout_run.begin(self.state, "1.1.0", rollout_run.draw_up(entries, MEMBERS, policy))

    def step(self, results: Mapping[str, Mapping[str, Any]]) -> Story:
        self.state.append("step", wave=1, step=1, undo=False, members=list(results))
        for member, result in results.items():
            after = {"after": {"version": "1.1.0", "digest": "new"}} if result is DONE else {}
            self.state.append("result", member=member, **result, **after)
        return self

    def end(self, failed: bool) -> Story:
        self.state.append("ended", failed=failed, reason="budget" if failed else "3 done")
        return self

    def again(self) -> Story:
        self.state.append("resumed", who="anna", driver={}, retry=True)
        return self

    def act(self, **after: Seen) -> Act:
        named = {one.replace("_", "/", 1): found for one, found in after.items()}
        return Act(self.state, MEMBERS, BEFORE, {**BEFORE, **named})


ALL_NEW = {one.replace("/", "_"): NEW for one in MEMBERS}


@pytest.fixture
def rollout(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_a_rollout_that_went_through_has_no_problem(rollout: Story) -> None:
    act = rollout.step({MEMBERS[0]: DONE}).step({MEMBERS[1]: DONE, MEMBERS[2]: DONE}).end(False).act(**ALL_NEW)
    assert act.undisturbed() == []
    assert act.images() == dict.fromkeys(MEMBERS, "new")
    assert act.first == MEMBERS[0] and list(act.members) == list(MEMBERS)
    told = act.told()
    assert told["waves"] == 2 and told["ended"] == ["3 done"]
    assert told["controllers"][MEMBERS[0]] == {"status": "done", "seconds": 2.5, "msg": "proven on the device"}


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (replace(NEW, flash="other"), "hall/press: its flash has the digest other, expected new"),
        (replace(NEW, version="1.0.0"), "hall/press: tells version 1.0.0, expected 1.1.0"),
        (replace(NEW, settings={"amplitude": 20}), "hall/press: amplitude not as before"),
        (replace(NEW, settings=None), "hall/press: silent after it"),
    ],
)
def test_what_a_board_holds_and_tells_counts_not_what_the_rollout_says(
    rollout: Story, found: Seen, problem: str
) -> None:
    rollout.step({MEMBERS[0]: DONE}).step({MEMBERS[1]: DONE, MEMBERS[2]: DONE}).end(False)
    assert rollout.act(**{**ALL_NEW, "hall_press": found}).undisturbed() == [problem]


def test_a_neighbour_that_is_no_part_of_it_has_to_stay_as_it_was(rollout: Story) -> None:
    rollout.step({MEMBERS[0]: DONE}).step({MEMBERS[1]: DONE, MEMBERS[2]: DONE}).end(False)
    act = rollout.act(**ALL_NEW, yard_fan=Seen("gone", None, {}))
    assert act.undisturbed() == ["yard/fan: its flash has the digest gone, expected fan"]


def test_a_rollout_that_failed_tells_where(rollout: Story) -> None:
    act = rollout.step({MEMBERS[0]: BACK}).end(True).act()
    assert act.undisturbed() == [
        "hall/mixer failed: back on 1.0.0",
        "hall/press pending: not begun",
        "yard/pump pending: not begun",
        "the rollout did not come to its end",
    ]


def disturbed(rollout: Story) -> Story:
    return rollout.step({MEMBERS[0]: LEFT_OPEN}).end(True).again().step({MEMBERS[0]: BACK}).end(True)


def test_an_injected_failure_that_stops_it_and_leaves_no_trace_is_no_problem(rollout: Story) -> None:
    act = disturbed(rollout).act()
    assert act.disturbed(MEMBERS[0]) == []
    assert act.failure(MEMBERS[0]) == "verification failed"


@pytest.mark.parametrize(
    ("one", "found", "problem"),
    [
        ("hall_mixer", NEW, "hall/mixer: its flash has the digest new, expected old"),
        ("hall_mixer", replace(OLD, settings={"amplitude": 20}), "hall/mixer: amplitude not as before"),
        ("hall_press", NEW, "hall/press: its flash has the digest new, expected old"),
    ],
)
def test_a_trace_of_it_is_named(rollout: Story, one: str, found: Seen, problem: str) -> None:
    assert disturbed(rollout).act(**{one: found}).disturbed(MEMBERS[0]) == [problem]


def test_a_failure_that_nobody_noticed_is_named(rollout: Story) -> None:
    act = rollout.step({MEMBERS[0]: DONE}).step({MEMBERS[1]: DONE, MEMBERS[2]: DONE}).end(False).act(**ALL_NEW)
    problem = "the writing of hall/mixer failed, but the rollout says: proven on the device"
    assert act.disturbed(MEMBERS[0]) == [problem]


def test_a_rollout_that_goes_on_beyond_its_budget_is_named(rollout: Story) -> None:
    rollout.step({MEMBERS[0]: LEFT_OPEN}).step({MEMBERS[1]: DONE}).end(True).again().step({MEMBERS[0]: BACK}).end(True)
    problems = rollout.act(hall_press=NEW).disturbed(MEMBERS[0])
    assert problems == ["the budget was spent, and yet hall/press were begun"]


def test_within_its_budget_it_has_to_go_on(tmp_path: Path) -> None:
    rollout = Story(tmp_path, budget={"max_failures": 1})
    rollout.step({MEMBERS[0]: LEFT_OPEN}).step({MEMBERS[1]: DONE, MEMBERS[2]: DONE}).end(False)
    rollout.again().step({MEMBERS[0]: BACK}).end(False)
    after = {"hall_press": NEW, "yard_pump": NEW}
    assert rollout.act(**after).disturbed(MEMBERS[0]) == []
    assert rollout.act().disturbed(MEMBERS[0]) == [
        "hall/press: its flash has the digest old, expected new",
        "yard/pump: its flash has the digest old, expected new",
    ]


def test_another_board_that_fails_as_well_is_named(tmp_path: Path) -> None:
    rollout = Story(tmp_path, budget={"max_failures": 2})
    rollout.step({MEMBERS[0]: LEFT_OPEN}).step({MEMBERS[1]: BACK, MEMBERS[2]: DONE}).end(False)
    assert rollout.act(yard_pump=NEW).disturbed(MEMBERS[0]) == ["hall/press failed: back on 1.0.0"]


def test_boards_that_do_not_answer_are_seen_as_silent() -> None:
    answers = {
        "hall": {"controllers": [{"name": "mixer", "content": {"version": "1.0.0", "settings": {}}}, {"name": "press"}]}
    }
    assert seen({"hall/mixer": "a", "hall/press": "b", "yard/pump": "c"}, {**answers, "yard": {"msg": "lost"}}) == {
        "hall/mixer": Seen("a", "1.0.0", {}),
        "hall/press": Seen("b", None, None),
        "yard/pump": Seen("c", None, None),
    }

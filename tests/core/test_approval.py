# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway does only when people have approved it, as the frames and flash of simulated boards show."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from _core.approval import Approvals
from _core.errors import CoreError
from _core.gateway import Gateway, InventoryError, Result
from _core.operations import change_firmware, request_approval, restore_settings, take_snapshots, write_registers
from _core.profile import Profile, ProfileError
from _core.store import Store
from support import site
from support.approvals import People
from support.cuts import BOARD, QUICK, Cut, Lane
from support.profiles import mapping

UNTOUCHED = (0, 0, 0)
CLEAR = {"emergency_stop": 0}
STOP = {"emergency_stop": 1}
SIGNED = site.target("1.1.0")
UNSIGNED = dataclasses.replace(SIGNED, signed=False)


class Site:
    """The gateway of a lane that has approvers, and what they have approved there."""

    def __init__(self, lane: Lane, people: People) -> None:
        self.lane = lane
        self.people = people
        self.offers: list[dict[str, Any]] = []

    def gateway(self, **more: Any) -> Gateway:
        gateway = self.lane.gateway(**more)
        gateway.approvals = Approvals(gateway.store.root, self.people.approvers, self.offers)
        return gateway

    def ask(self, *names: str, target: Any = None, **values: Any) -> None:
        """Have these persons approve it."""
        targets = {BOARD: target} if target else {}
        answer = request_approval(self.gateway(), values, targets, "A test", 1)
        self.offers = [self.people.offer(answer["request"], *names)]

    def write(self, values: dict[str, Any], check: bool = False) -> Result:
        return write_registers(self.gateway(), values, list(values), check)[0]

    def flash(self, target: Any = UNSIGNED, check: bool = False) -> Result:
        return change_firmware(self.gateway(), {BOARD: target}, QUICK, 1, check)[0]

    def emergency_stop(self) -> object:
        with self.lane.device() as device:
            return device.read(["emergency_stop"])["emergency_stop"]


@pytest.fixture
def stopped(lane: Lane, tmp_path: Any) -> Site:
    """A site whose controller somebody has stopped, with two approvers among its people."""
    place = Site(lane, People(tmp_path / "people"))
    assert place.write(STOP)["changed"], "a stop needs nobody's approval"
    lane.virtual.control("line", "counters_reset")
    return place


@pytest.fixture
def at_rest(lane: Lane, tmp_path: Any) -> Site:
    return Site(lane, People(tmp_path / "people"))


# Registers


@pytest.mark.parametrize("names", [(), ("alice",), ("alice", "alice"), ("alice", "mallory")], ids=str)
@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_a_stop_is_not_released_without_two_persons(stopped: Site, names: tuple[str, ...], check: bool) -> None:
    stopped.ask(*names, **CLEAR)
    with pytest.raises(InventoryError, match=rf"controller {BOARD}: writing emergency_stop = 0 needs approvals by 2"):
        stopped.write(CLEAR, check)
    assert stopped.lane.control("state")["requests"] == 0, "nothing was sent at all"
    assert stopped.emergency_stop() == 1


def test_a_restart_is_no_way_around(stopped: Site) -> None:
    """It would forget the stop."""
    with pytest.raises(InventoryError, match="writing system_reset = restart needs approvals by 2"):
        stopped.write({"system_reset": "restart"})
    assert stopped.lane.control("state")["requests"] == 0
    assert stopped.emergency_stop() == 1
    stopped.ask("alice", "bob", system_reset="restart")
    assert stopped.write({"system_reset": "restart"})["approval"]["by"] == ["alice", "bob"]
    with stopped.lane.device() as device:
        assert device.wait_for_answer(2)
    assert stopped.emergency_stop() == 0


def test_two_persons_release_a_stop_once(stopped: Site) -> None:
    stopped.ask("alice", "bob", **CLEAR)
    looked = stopped.write(CLEAR, check=True)
    assert looked["changed"] and looked["approval"]["by"] == ["alice", "bob"]
    assert stopped.lane.touched() == UNTOUCHED
    done = stopped.write(CLEAR)
    assert done["approval"]["reason"] == "A test"
    assert done["msg"] == "wrote emergency_stop (approved by alice and bob: A test)"
    assert stopped.emergency_stop() == 0
    again = stopped.write(CLEAR)
    assert (again["changed"], again["msg"]) == (False, "as desired"), "what is done already is no second time"

    assert stopped.write(STOP)["changed"]
    stopped.lane.virtual.control("line", "counters_reset")
    replayed = stopped.write(CLEAR)
    assert replayed["failed"] and "request.json was used for it already" in replayed["msg"]
    assert stopped.lane.touched() == UNTOUCHED
    assert stopped.emergency_stop() == 1


def test_a_stop_needs_no_approval_whatever_state_the_approvers_are_in(at_rest: Site) -> None:
    at_rest.people.approvers.write_text("nonsense\n")
    at_rest.offers = [{"file": "nonsense", "request": "nonsense", "signatures": ["nonsense"]}]
    assert at_rest.write(STOP)["msg"] == "wrote emergency_stop"
    assert at_rest.emergency_stop() == 1


def test_settings_and_commands_need_none(at_rest: Site) -> None:
    values = {"sonicator1_amplitude": 33, "global_enable": 1}
    assert at_rest.write(values)["changed"]


def test_approved_for_another_unit_is_not_approved(stopped: Site) -> None:
    stopped.ask("alice", "bob", **CLEAR)
    with pytest.raises(InventoryError, match=f"request.json is for another unit of controller {BOARD}"):
        write_registers(stopped.gateway(unit=9), CLEAR, list(CLEAR), False)
    assert stopped.emergency_stop() == 1


def test_what_needs_no_approval_is_not_asked_for(at_rest: Site) -> None:
    with pytest.raises(CoreError, match="nothing of this needs approval"):
        request_approval(at_rest.gateway(), STOP, {}, "A test", 1)


def test_no_profile_writes_it_by_the_way() -> None:
    restored, drained = mapping(), mapping()
    restored["points"]["emergency_stop"]["restore_order"] = 1
    drained["drain"]["inhibit"].append({"point": "emergency_stop", "value": 0})
    for data in (restored, drained):
        with pytest.raises(ProfileError, match="emergency_stop is of class emergency"):
            Profile.from_mapping(data)


def test_restoring_a_set_leaves_a_stop_alone(stopped: Site) -> None:
    take_snapshots(stopped.gateway(), False, QUICK, False)
    assert stopped.write({"sonicator1_amplitude": 40})["changed"]
    assert restore_settings(stopped.gateway(), "latest", False)[0]["written"] == ["sonicator1_amplitude"]
    assert stopped.emergency_stop() == 1


# Firmware


def refused(place: Site, target: Any = UNSIGNED, check: bool = False) -> str:
    """Why an image is not flashed; AssertionError where the board was touched."""
    flash = place.lane.memory("flash.bin")
    result = place.flash(target, check)
    assert (result["outcome"], result["changed"], result["failed"]) == ("refused", False, True)
    assert place.lane.touched() == UNTOUCHED
    assert place.lane.memory("flash.bin") == flash
    assert Store(place.lane.state / "state").journal(BOARD).steps == []
    return str(result["msg"])


def test_unsigned_firmware_is_not_flashed_without_two_persons(at_rest: Site) -> None:
    for check in (False, True):
        at_rest.ask("alice", target=UNSIGNED)
        assert "flashing the unsigned 1.1.0 needs approvals by 2 different persons, has 1 (alice)" in refused(
            at_rest, check=check
        )
    at_rest.ask("alice", "bob", target=UNSIGNED)
    other = dataclasses.replace(site.target("1.2.0"), signed=False)
    assert "is for another image and version" in refused(at_rest, other)
    forged = dataclasses.replace(other, version=UNSIGNED.version, label=UNSIGNED.label)
    assert "is for another image of controller" in refused(at_rest, forged)


def test_two_persons_have_it_flashed_once(at_rest: Site) -> None:
    at_rest.ask("alice", "bob", target=UNSIGNED)
    assert at_rest.flash(check=True)["outcome"] == "would_deploy"
    result = at_rest.flash()
    assert (result["outcome"], result["approval"]["by"]) == ("deployed", ["alice", "bob"])
    at_rest.lane.require_whole(UNSIGNED)
    [steps] = Store(at_rest.lane.state / "state").ended(BOARD)
    assert steps[0]["approval"] == result["approval"]
    assert at_rest.flash()["outcome"] == "unchanged"

    assert at_rest.flash(site.target("1.0.0"))["outcome"] == "deployed", "signed firmware needs nobody's approval"
    at_rest.lane.virtual.control("line", "counters_reset")
    erases = at_rest.lane.control("state")["programmer"]["erases"]
    replayed = at_rest.flash()
    assert replayed["outcome"] == "refused" and "was used for it already" in replayed["msg"]
    assert at_rest.lane.control("state")["programmer"]["erases"] == erases
    at_rest.lane.require_whole(site.target("1.0.0"))


def test_a_refusal_for_other_reasons_uses_nothing_up(stopped: Site) -> None:
    stopped.ask("alice", "bob", target=UNSIGNED)
    assert "a person has to clear that first" in refused(stopped)
    offers = stopped.offers
    stopped.ask("alice", "bob", **CLEAR)
    assert stopped.write(CLEAR)["changed"]
    stopped.offers = offers
    assert stopped.flash()["outcome"] == "deployed"


def test_what_was_approved_and_interrupted_is_finished(at_rest: Site) -> None:
    """By a run that nobody has approved anything for: it was approved when it began."""
    lane = at_rest.lane
    assert lane.run("1.1.0", Cut("hold_after_pages 3", "kill")) is None
    lane.control("clear")
    assert at_rest.offers == []
    assert at_rest.flash()["outcome"] == "deployed"
    lane.require_whole(UNSIGNED)

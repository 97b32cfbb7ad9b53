# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units of other controllers go on running, whatever is done; where its own units run the policy decides."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from _core.change import Target
from _core.device import Device
from _core.errors import CoreError
from _core.gateway import Gateway, Result
from _core.line import open_bus
from _core.operations import (
    change_firmware,
    identify,
    read_registers,
    restore_settings,
    take_snapshots,
    write_registers,
)
from _core.targets import from_sets
from support import site
from support.cuts import BOARD, QUICK, SETTINGS, Cut, Lane
from support.production import Production
from support.profiles import profile
from support.virtual import Board, VirtualLine, firmware

OLD, NEW = site.target("1.0.0"), site.target("1.1.0")
UNTOUCHED = (0, 0, 0)
LONGEST_GAP_MS = 500

# Units stop when they hear nobody for a second, which beside other tests may be over before anybody's turn has come.
pytestmark = pytest.mark.timing


class Plant:
    """Two lines where we work, and one of another gateway. On each of ours one controller is at rest; all others run.

    The masters of the first and the third line talk all the time, that of the second falls silent while we work.
    """

    at_rest = ("a", "d")

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        current = firmware("1.1.0")
        boards = [
            [Board("a", 2), Board("b", 3, current), Board("c", 4, current)],
            [Board("d", 2), Board("e", 3, current)],
            [Board("far", 2, current)],
        ]
        self.lines = []
        for number, members in enumerate(boards):
            place = directory / f"line{number}"
            place.mkdir()
            self.lines.append(stack.enter_context(VirtualLine(place, members, programmer_baudrate=19200)))
        masters = [Production(line.line, self.running(line)) for line in self.lines]
        self.masters = [stack.enter_context(master) for master in masters]
        entries = [site.entries(line) for line in self.lines[:2]]
        self.gateways = [site.gateway(directory / "gateway", one) for one in entries]
        self.ours = [
            site.gateway(directory / "gateway", [entry for entry in one if entry["name"] in self.at_rest])
            for one in entries
        ]

    def running(self, line: VirtualLine) -> list[int]:
        return [board.unit for board in line.boards.values() if board.name not in self.at_rest]

    def counters(self, line: VirtualLine) -> list[dict[str, object]]:
        """What the running boards of a line tell of their units."""
        names = ("active_mask", "starts", "stops", "silence_stops")
        bus = open_bus(str(line.line))
        try:
            return [dict(Device(f"{unit}", unit, profile(), bus).read(names)) for unit in self.running(line)]
        finally:
            bus.close()

    @contextlib.contextmanager
    def undisturbed(self, number: int) -> Iterator[None]:
        """Within, no unit of the line stops, no running controller is written to or waits long for a request."""
        line = self.lines[number]
        before = self.counters(line)
        assert all(one["active_mask"] == ["sonicator1", "sonicator2"] for one in before)
        if number == 1:
            self.masters[number].fall_silent()
        line.control("line", "counters_reset")
        yield
        boards = line.state()["boards"]
        self.masters[number].talk()
        assert self.counters(line) == before
        for name, state in boards.items():
            if name not in self.at_rest:
                assert state["longest_gap_ms"] <= LONGEST_GAP_MS, name
                assert (state["write_requests"], state["programmer"]["rx_bytes"], state["boots"]) == (0, 0, 0), name

    def do(self, work: Callable[[Gateway], list[Result]], ours: bool = False) -> list[list[Result]]:
        """``work`` on both lines at a time: on all controllers, or on ours alone."""
        gateways = self.ours if ours else self.gateways

        def one(number: int) -> list[Result]:
            with self.undisturbed(number):
                return work(gateways[number])

        with self.undisturbed(2), ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, (0, 1)))


def test_units_of_other_controllers_go_on_running(tmp_path: Path) -> None:
    """A whole deploy, snapshot, rollback and what only looks, programmers at the pace of a real one."""

    def previous(gateway: Gateway) -> list[Result]:
        at_rest = [controller for controller in gateway.controllers if controller.name in Plant.at_rest]
        targets = dict.fromkeys("bce", NEW) | from_sets(Gateway(at_rest, gateway.store), "previous")
        return change_firmware(gateway, targets, QUICK, 1, False)

    with contextlib.ExitStack() as stack:
        plant = Plant(tmp_path, stack)
        for results in plant.do(lambda gateway: change_firmware(gateway, dict.fromkeys("abcde", NEW), QUICK, 1, False)):
            assert [result["outcome"] for result in results] == ["deployed", "unchanged", "unchanged"][: len(results)]
            assert results[0]["after"]["version"] == "1.1.0"
        for results in plant.do(lambda gateway: take_snapshots(gateway, True, QUICK, False)):
            assert [result["failed"] for result in results] == [False, True, True][: len(results)]
        for work in (
            lambda gateway: take_snapshots(gateway, False, QUICK, False),
            lambda gateway: identify(gateway, False, QUICK, False),
            lambda gateway: read_registers(gateway, ["active_mask", "sonicator1_power"], []),
        ):
            assert not any(result["failed"] for results in plant.do(work) for result in results)
        for work in (
            lambda gateway: write_registers(gateway, {"sonicator1_amplitude": 44}, (), False),
            lambda gateway: restore_settings(gateway, "latest", False),
        ):
            assert all(result["changed"] for results in plant.do(work, ours=True) for result in results)
        for results in plant.do(previous):
            assert [result["outcome"] for result in results] == ["deployed", "unchanged", "unchanged"][: len(results)]
            assert results[0]["after"]["version"] == "1.0.0"


# The controller itself runs


def active(lane: Lane) -> object:
    with lane.device() as device:
        return device.read(["active_mask"])["active_mask"]


def test_refuse_leaves_a_running_controller_alone(lane: Lane) -> None:
    with lane.producing():
        for target in (NEW, Target("reading")):
            result = lane.deploy(target)
            assert result["outcome"] == "refused"
            assert "active_count is 1" in result["msg"]
        assert take_snapshots(lane.gateway(), True, QUICK, False)[0]["failed"]
        assert lane.touched() == UNTOUCHED
        assert active(lane) == ["sonicator1"]


def test_refuse_does_not_put_settings_back_under_a_running_unit(lane: Lane) -> None:
    """The firmware is the wanted one, only settings differ; one of them would stop the unit."""
    wanted = dataclasses.replace(OLD, settings=SETTINGS)
    with lane.producing():
        for check in (True, False):
            assert lane.deploy(wanted, check=check)["outcome"] == "refused"
        assert lane.touched() == UNTOUCHED
        assert active(lane) == ["sonicator1"]
        keep_eeprom(lane)
        assert lane.deploy(wanted, dataclasses.replace(QUICK, drain="stop"))["outcome"] == "restored"
    lane.require_whole(OLD)


def keep_eeprom(lane: Lane) -> None:
    """A firmware keeps the amplitude of a unit that runs: from now on that is what has to stay."""
    until = time.monotonic() + 5
    while lane.memory("eeprom.bin") == lane.eeprom:
        assert time.monotonic() < until
        time.sleep(0.05)
    lane.eeprom = lane.memory("eeprom.bin")


def test_wait_gives_up_at_its_deadline_and_allows_starts_again(lane: Lane) -> None:
    with lane.producing():
        with lane.device() as device:
            device.write("start_inhibit_mask", ["sonicator4"])
        result = lane.deploy(NEW, dataclasses.replace(QUICK, drain="wait", drain_deadline=0.5))
        assert result["outcome"] == "refused"
        assert "still not at rest at the deadline" in result["msg"]
        assert lane.control("state")["programmer"]["opened"] == 0
        with lane.device() as device:
            assert device.read(["active_mask", "start_inhibit_mask", "stops"]) == {
                "active_mask": ["sonicator1"],
                "start_inhibit_mask": ["sonicator4"],
                "stops": 0,
            }
    assert not lane.gateway().store.journal(BOARD).steps


def test_wait_flashes_when_the_units_have_come_to_rest(lane: Lane) -> None:
    result: list[dict[str, Any]] = []
    policy = dataclasses.replace(QUICK, drain="wait", drain_deadline=30)
    with lane.producing():
        run = threading.Thread(target=lambda: result.append(lane.deploy(NEW, policy)))
        run.start()
        time.sleep(1)
        assert lane.control("state")["programmer"]["opened"] == 0
        with lane.device() as device:
            assert device.read(["start_inhibit_mask"])["start_inhibit_mask"] == [f"sonicator{n}" for n in range(1, 5)]
            assert device.read(["stops"]) == {"stops": 0}
            device.write("sonicator1_start_stop", 0)
        run.join(60)
    assert result[0]["outcome"] == "deployed", result[0]["msg"]


def test_stop_stops_and_flashes(lane: Lane) -> None:
    with lane.producing():
        result = lane.deploy(NEW, dataclasses.replace(QUICK, drain="stop"))
    assert result["outcome"] == "deployed", result["msg"]
    assert active(lane) == []


def start_at_once(lane: Lane, until: threading.Event) -> None:
    """A master that starts a unit in the very moment in which the controller answers again."""
    bus = open_bus(str(lane.virtual.line), response_timeout=0.02)
    device = Device(BOARD, lane.virtual.boards[BOARD].unit, profile(), bus)
    while not until.is_set():
        with contextlib.suppress(CoreError):
            device.bus.write(device.unit, device.profile.point("sonicator1_start_stop").address, [1])
            if device.read(["active_count"])["active_count"]:
                break
    while not until.wait(0.1):
        device.answers()
    bus.close()


def test_a_unit_started_between_reading_and_writing_is_not_flashed_away(lane: Lane) -> None:
    lane.control("hold_at", "leave", 1)
    result: list[dict[str, Any]] = []
    run = threading.Thread(target=lambda: result.append(lane.deploy(NEW)))
    run.start()
    until = time.monotonic() + 30
    while not lane.control("state")["programmer"]["holding"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    done = threading.Event()
    master = threading.Thread(target=start_at_once, args=(lane, done))
    master.start()
    lane.control("release")
    run.join(60)
    done.set()
    with lane.device() as device:
        found = device.read(["active_mask", "starts", "stops"])
    master.join()
    assert found == {"active_mask": ["sonicator1"], "starts": 1, "stops": 0}
    assert result[0]["failed"]
    assert "not at rest" in result[0]["msg"]
    assert lane.control("state")["programmer"]["erases"] == 0
    keep_eeprom(lane)
    with lane.device() as device:
        device.write("sonicator1_start_stop", 0)
    assert lane.deploy(NEW)["outcome"] == "deployed"
    lane.require_whole(NEW)


@pytest.mark.parametrize("step", ["read", "saved", "written", "release"])
def test_a_unit_started_between_two_runs_goes_on_running(lane: Lane, step: str) -> None:
    lane.run("1.1.0")
    number = 1 + lane.saves().index(f"append {step}")
    lane.prepare("1.0.0")
    lane.run("1.1.0", Cut(f"save {number} after", "kill"))
    with lane.producing():
        result = lane.deploy(NEW)
        assert result["failed"]
        assert "not at rest" in result["msg"]
        assert active(lane) == ["sonicator1"]
        assert lane.control("state")["programmer"]["opened"] == 0
        assert not lane.gateway().store.journal(BOARD).last("back")
        keep_eeprom(lane)
        with lane.device() as device:
            assert device.read(["stops"]) == {"stops": 0}
            device.write("sonicator1_start_stop", 0)
        result = lane.deploy(NEW)
    assert result["outcome"] == "deployed", result["msg"]
    lane.require_whole(NEW)


def test_a_gateway_without_work_asks_nobody(tmp_path: Path) -> None:
    empty = site.gateway(tmp_path, [])
    assert isinstance(empty, Gateway)
    assert change_firmware(empty, {}, QUICK, 1, False) == []

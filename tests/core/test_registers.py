# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Named values through a profile, read and written as the simulated boards hold them."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from _core.device import DeviceError
from _core.errors import BadFrame, BusError, CoreError, NoAnswer
from _core.gateway import InventoryError
from _core.line import SerialBus
from _core.operations import identify, read_registers, restore_settings, write_registers
from _core.plan import Span
from _core.snapshot import restore
from support.cuts import BOARD, QUICK, SETTINGS, Lane
from support.profiles import profile

STOPS = {"emergency_stop": 1, "sonicator1_start_stop": 0}


def test_points_and_raw_registers_are_read(lane: Lane) -> None:
    result = read_registers(
        lane.gateway(), ["sonicator1_amplitude", "start_inhibit_mask", "uptime"], [Span(0x0121, 1)]
    )[0]
    assert result["points"]["sonicator1_amplitude"] == 61
    assert result["points"]["start_inhibit_mask"] == ["sonicator3"]
    assert result["units"] == {"sonicator1_amplitude": "%", "uptime": "s"}
    assert result["registers"] == {"0x0121": 72}
    assert lane.touched() == (0, 0, 0)


def test_without_names_everything_readable_is_read_in_few_requests(lane: Lane) -> None:
    result = read_registers(lane.gateway(), [], [])[0]
    assert set(result["points"]) == {point.name for point in profile().points.values() if point.readable}
    assert lane.control("state")["requests"] <= 5


def test_only_what_differs_is_written_and_the_second_run_writes_nothing(lane: Lane) -> None:
    wanted = {"sonicator1_amplitude": 61, "sonicator2_amplitude": 30}
    result = write_registers(lane.gateway(), wanted, (), False)[0]
    assert result["written"] == ["sonicator2_amplitude"]
    assert (result["before"]["sonicator2_amplitude"], result["after"]["sonicator2_amplitude"]) == (72, 30)
    assert lane.touched() == (1, 0, 0)
    lane.virtual.control("line", "counters_reset")
    result = write_registers(lane.gateway(), wanted, (), False)[0]
    assert (result["changed"], result["msg"]) == (False, "as desired")
    assert lane.touched() == (0, 0, 0)
    assert not (lane.state / "state").exists(), "what keeps nothing needs no place for it"


def test_settings_of_the_inventory_are_overridden_by_the_task(lane: Lane) -> None:
    gateway = lane.gateway(settings={"sonicator1_amplitude": 40, "sonicator2_amplitude": 41})
    assert write_registers(gateway, {"sonicator2_amplitude": 42}, (), False)[0]["changed"]
    with lane.device() as device:
        assert device.read(["sonicator1_amplitude", "sonicator2_amplitude"]) == {
            "sonicator1_amplitude": 40,
            "sonicator2_amplitude": 42,
        }


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("no_such_point", 1, "no_such_point"),
        ("uptime", 1, "uptime is read-only"),
        ("sonicator1_amplitude", 101, "101 is not admitted, expected 20 to 100"),
        ("global_enable", 1, "of class command; name it in allow"),
        ("emergency_stop", 1, "of class emergency; name it in allow"),
    ],
)
def test_nothing_is_sent_where_one_value_is_refused(lane: Lane, name: str, value: int, reason: str) -> None:
    with pytest.raises(InventoryError, match=rf"controller {BOARD}: .*{reason}.*Nothing was sent"):
        write_registers(lane.gateway(), {"sonicator2_amplitude": 30, name: value}, (), False)
    assert lane.virtual.state()["requests"] == 0


def test_a_command_that_is_named_is_sent(lane: Lane) -> None:
    result = write_registers(lane.gateway(), {"global_enable": 1}, ["global_enable"], False)[0]
    assert result["written"] == ["global_enable"]
    assert write_registers(lane.gateway(), {"emergency_stop": 1}, ["emergency_stop"], False)[0]["changed"]
    assert "emergency_stop" in identify(lane.gateway(), False, QUICK, False)[0]["health"][-1]


def test_what_the_firmware_refuses_is_told(lane: Lane) -> None:
    result = write_registers(lane.gateway(), {"sonicator1_start_stop": 1}, ["sonicator1_start_stop"], False)[0]
    assert result["failed"]
    assert "refused sonicator1_start_stop = 1 (MODBUS exception 4)" in result["msg"]


def test_settings_are_put_back_in_the_profiles_order(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    send = SerialBus.write

    def listen(self: SerialBus, unit: int, address: int, *rest: Any, **more: Any) -> None:
        order.append(address)
        send(self, unit, address, *rest, **more)

    with lane.device() as device:
        device.write("global_enable", 1)
        for name, value in (("sonicator1_amplitude", 21), ("sonicator4_amplitude", 24), ("start_inhibit_mask", [])):
            device.write(name, value)
        monkeypatch.setattr(SerialBus, "write", listen)
        backwards = dict(reversed(SETTINGS.items()))
        written = restore(device, backwards)
        assert device.settings() == SETTINGS
    assert written == ["sonicator1_amplitude", "sonicator4_amplitude", "global_enable", "start_inhibit_mask"]
    assert order == [0x0101, 0x0161, 0x0010, 0x0013]


def test_a_setting_that_belongs_to_no_snapshot_is_not_put_back(lane: Lane) -> None:
    with lane.device() as device, pytest.raises(CoreError, match="emergency_stop belongs to no snapshot"):
        restore(device, {"sonicator1_amplitude": 30, "emergency_stop": 1})
    assert lane.touched() == (0, 0, 0)


def test_noise_on_the_line_costs_time_not_truth(lane: Lane) -> None:
    lane.virtual.control("line", "noise_tx", 300)
    with lane.device() as device:
        for _round in range(20):
            try:
                assert device.read(["sonicator1_amplitude", "sonicator4_amplitude"]) == {
                    "sonicator1_amplitude": 61,
                    "sonicator4_amplitude": 94,
                }
            except CoreError as error:
                assert str(lane.virtual.line) in str(error)


@pytest.fixture
def first_write_lost(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request to write something never reaches the board."""
    send = SerialBus.write
    lost = iter([True])

    def lose(self: SerialBus, *request: Any) -> None:
        if next(lost, False):
            raise NoAnswer("lost")
        send(self, *request)

    monkeypatch.setattr(SerialBus, "write", lose)


@pytest.mark.usefixtures("first_write_lost")
@pytest.mark.parametrize(("name", "value"), [("sonicator1_amplitude", 35), ("global_enable", 1), ("emergency_stop", 1)])
def test_a_state_that_is_lost_on_its_way_is_sent_again(lane: Lane, name: str, value: int) -> None:
    with lane.device() as device:
        device.write(name, value)
        assert device.read([name]) == {name: value}
    assert lane.control("state")["write_requests"] == 1


@pytest.mark.usefixtures("first_write_lost")
def test_a_command_that_is_lost_on_its_way_is_not_sent_again(lane: Lane) -> None:
    with (
        lane.device() as device,
        pytest.raises(DeviceError, match="sonicator1_start_stop reads 0 after 1 was sent, which was"),
    ):
        device.write("sonicator1_start_stop", 1)
    assert lane.control("state")["write_requests"] == 0


def test_a_lost_answer_is_no_lost_write(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    send = SerialBus.write

    def lose(self: SerialBus, *request: Any) -> None:
        lane.control("silent", "on")
        try:
            send(self, *request)
        finally:
            lane.control("silent", "off")

    monkeypatch.setattr(SerialBus, "write", lose)
    with lane.device() as device:
        device.write("sonicator1_amplitude", 35)
        device.write("emergency_stop", 1)
        assert device.read(["sonicator1_amplitude", "emergency_stop"]) == {
            "sonicator1_amplitude": 35,
            "emergency_stop": 1,
        }
    assert lane.control("state")["write_requests"] == 2


def test_settings_that_keep_changing_make_no_set(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    with lane.device() as device:
        numbers = iter(range(20, 100))
        read = device.read

        def busy(names: list[str]) -> dict[str, object]:
            device.write("sonicator1_amplitude", next(numbers))
            return dict(read(names))

        monkeypatch.setattr(device, "read", busy)
        with pytest.raises(DeviceError, match="keep changing while they are read"):
            device.settings()


def test_a_silent_controller_fails_alone(lane: Lane) -> None:
    lane.control("silent", "on")
    for result in (
        read_registers(lane.gateway(), ["uptime"], [])[0],
        identify(lane.gateway(), False, QUICK, False)[0],
        write_registers(lane.gateway(), {"sonicator1_amplitude": 30}, (), False)[0],
    ):
        assert result["failed"]
        assert "unit 5" in result["msg"]


def test_restoring_needs_a_set(lane: Lane) -> None:
    with pytest.raises(InventoryError, match=r"no set is kept .*take one with snapshot.yml first"):
        restore_settings(lane.gateway(), "latest", False)
    assert lane.virtual.state()["requests"] == 0


def cut_off(lane: Lane) -> None:
    """A transaction that has begun, and whose run has died."""
    lane.gateway().store.journal(BOARD).append("begin", transaction="t1", before={}, settings=SETTINGS)


@pytest.mark.parametrize("check", [False, True])
def test_settings_are_not_written_into_an_open_transaction(lane: Lane, check: bool) -> None:
    cut_off(lane)
    result = write_registers(lane.gateway(), {"sonicator1_amplitude": 30}, (), check)[0]
    assert result["failed"]
    assert "transaction t1 is under way or was cut off" in result["msg"] and "deploy.yml" in result["msg"]
    assert lane.touched() == (0, 0, 0)
    lane.gateway().store.journal(BOARD).append("end", outcome="deployed")
    assert not write_registers(lane.gateway(), {"sonicator1_amplitude": 30}, (), check)[0]["failed"]


@pytest.mark.parametrize("obstacle", ["cut off", "damaged", "under way"])
def test_stopping_waits_for_no_transaction(lane: Lane, obstacle: str) -> None:
    store = lane.gateway().store
    cut_off(lane)
    if obstacle == "damaged":
        store.journal(BOARD).path.write_bytes(b"\0\n")
    with store.exclusive(BOARD) if obstacle == "under way" else contextlib.nullcontext():
        began = time.monotonic()
        result = write_registers(lane.gateway(), STOPS, list(STOPS), False)[0]
        assert (result["changed"], result["failed"], result["written"]) == (True, False, ["emergency_stop"])
        assert time.monotonic() - began < 2
        mixed = {"emergency_stop": 1, "sonicator1_amplitude": 30}
        result = write_registers(lane.gateway(), mixed, list(STOPS), False)[0]
    assert result["failed"] and "sonicator1_amplitude not: " in result["msg"]
    with lane.device() as device:
        assert device.read(mixed) == {"emergency_stop": 1, "sonicator1_amplitude": 61}


def test_clearing_an_emergency_stop_is_no_stopping(lane: Lane) -> None:
    cut_off(lane)
    assert write_registers(lane.gateway(), {"emergency_stop": 0}, ["emergency_stop"], False)[0]["failed"]


def test_another_run_that_is_at_work_is_waited_for_but_not_for_long(lane: Lane) -> None:
    with lane.gateway().store.exclusive(BOARD):
        result = write_registers(lane.gateway(), {"sonicator1_amplitude": 30}, (), False)[0]
    assert result["failed"] and "another run works on it" in result["msg"]
    assert lane.touched() == (0, 0, 0)


def test_what_is_no_answer_is_no_silence(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[type[BusError]] = [NoAnswer]

    def garble(_self: SerialBus, *_request: Any) -> list[int]:
        raise heard[0]("as it is")

    monkeypatch.setattr(SerialBus, "read", garble)
    with lane.device() as device:
        assert device.is_silent()
        heard[0] = BadFrame
        assert not device.answers() and not device.is_silent()

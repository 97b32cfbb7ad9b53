# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports as a gateway shows them: which names lead to one device, what it is, and what an inventory should call it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from _core.discovery import parse_units
from _core.errors import CoreError
from _core.ports import Port, distinct, entries, find
from hypothesis import given
from hypothesis import strategies as st

FTDI = "usb-FTDI_FT232R_USB_UART_{}-if00-port0"
UNO = "usb-Arduino__www.arduino.cc__0043_{}-if00"


class Machine:
    """A root directory with ports in /dev, and what /sys and udev say of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("dev/serial/by-id", "dev/serial/by-path", "sys/class/tty", "run/udev/data"):
            (root / directory).mkdir(parents=True)

    def plug(self, device: str, by_id: str = "", by_path: str = "") -> str:
        """A port with links of these names; its device number is that of no real port."""
        (self.root / "dev" / device).touch()
        for directory, name in (("by-id", by_id), ("by-path", by_path)):
            link = self.root / "dev/serial" / directory / name
            if name and not link.is_symlink():  # of two equal adapters udev can give the name to one only
                link.symlink_to(f"../../{device}")
        return str(self.root / "dev" / device)

    def tell_sysfs(self, device: str, number: str = "0:0", **attributes: str) -> None:
        usb = self.root / "sys/devices/usb1" / device
        (usb / "1.0" / device).mkdir(parents=True)
        for name, value in attributes.items():
            (usb / name).write_text(f"{value}\n")
        node = self.root / "sys/class/tty" / device
        node.mkdir()
        (node / "dev").write_text(f"{number}\n")
        (node / "device").symlink_to(usb / "1.0" / device)

    def ports(self, *wanted: str, programmers: tuple[str, ...] = ()) -> dict[str, Port]:
        return {os.path.basename(port.device): port for port in find(wanted, programmers, self.root)}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_all_names_of_a_device_are_one_port(machine: Machine) -> None:
    machine.plug("ttyUSB0", FTDI.format("A10K7QZ1"), "pci-0000:00:14.0-usb-0:1.1:1.0-port0")
    machine.plug("ttyACM0", UNO.format("55736303939351F0E1B2"), "pci-0000:00:14.0-usb-0:2.1:1.0")
    programmer, line = machine.ports().values()
    serial = machine.root / "dev/serial"
    assert sorted(line.names) == [
        str(serial / "by-id" / FTDI.format("A10K7QZ1")),
        str(serial / "by-path/pci-0000:00:14.0-usb-0:1.1:1.0-port0"),
        str(machine.root / "dev/ttyUSB0"),
    ]
    assert (line.kind, line.stable, line.serial) == ("line", "serial", "A10K7QZ1")
    assert (programmer.kind, programmer.guess) == ("programmer", True)
    assert entries((line, programmer)) == [
        {"name": "line_a10k7qz1", "serial": "A10K7QZ1"},
        {"name": "programmer_55736303939351f0e1b2", "serial": "55736303939351F0E1B2"},
    ]


def test_identical_programmers_are_told_apart_by_their_place(machine: Machine) -> None:
    for number in (1, 2):
        machine.plug(f"ttyACM{number}", UNO.format("AAAA1111"), f"pci-0000:00:14.0-usb-0:2.{number}:1.0")
        machine.tell_sysfs(f"ttyACM{number}", idVendor="2341", idProduct="0043", serial="AAAA1111")
    found = machine.ports()
    assert [port.name for port in found.values()] == [
        str(machine.root / f"dev/serial/by-path/pci-0000:00:14.0-usb-0:2.{number}:1.0") for number in (1, 2)
    ]
    assert entries(found.values()) == [
        {"name": f"programmer_2_{number}", "path": f"pci-0000:00:14.0-usb-0:2.{number}:1.0"} for number in (1, 2)
    ]


def test_sysfs_tells_more_than_a_name_unless_it_is_another_machines(machine: Machine) -> None:
    machine.plug("ttyUSB0")
    machine.plug("ttyUSB1")
    attributes = {
        "idVendor": "0403",
        "idProduct": "6001",
        "serial": "X1",
        "manufacturer": "FTDI",
        "product": "UART\x1b[",
    }
    machine.tell_sysfs("ttyUSB0", **attributes)
    machine.tell_sysfs("ttyUSB1", number="188:1", **attributes)
    ours, foreign = machine.ports().values()
    assert (ours.vendor, ours.product, ours.kind, ours.description) == ("0403", "6001", "line", "FTDI UART?[")
    assert ours.stable == "", "neither link leads to it"
    assert (foreign.vendor, foreign.kind) == ("", "unknown")


def test_udev_knows_best(machine: Machine) -> None:
    machine.plug("ttyACM3", UNO.format("ABCDEF12"), "pci-0000:00:14.0-usb-0:7:1.0")
    (machine.root / "run/udev/data/c0:0").write_text(
        "E:ID_VENDOR_ID=1a86\nE:ID_MODEL_ID=7523\nE:ID_PATH=platform-usb-0:7:1.0\nE:ID_VENDOR=1a86\nE:ID_MODEL=USB_Serial\n"
    )
    (port,) = machine.ports().values()
    assert (port.vendor, port.serial, port.path) == ("1a86", "", "platform-usb-0:7:1.0")
    assert port.kind == "unknown", "this converter is in adapters and in copies of the Uno"
    assert port.stable == "path"


def test_a_limit_and_what_the_caller_knows(machine: Machine) -> None:
    first, second = machine.plug("ttyUSB0"), machine.plug("ttyUSB1")
    assert list(machine.ports(first)) == ["ttyUSB0"]
    found = machine.ports(first, programmers=(second,))
    assert (found["ttyUSB0"].asked, found["ttyUSB0"].kind) == (True, "unknown")
    assert (found["ttyUSB1"].kind, found["ttyUSB1"].guess) == ("programmer", False)
    (missing,) = machine.ports("/dev/ttyUSB99").values()
    assert missing.problem.startswith("is not there")


def test_ports_come_in_the_order_they_are_wanted_in_and_others_by_their_numbers(machine: Machine) -> None:
    paths = [machine.plug(f"ttyUSB{number}") for number in (10, 9, 2)]
    assert list(machine.ports()) == ["ttyUSB2", "ttyUSB9", "ttyUSB10"]
    assert list(machine.ports(*paths[:2], programmers=(paths[2],))) == ["ttyUSB10", "ttyUSB9", "ttyUSB2"]


@given(st.text())
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        (port,) = find([text])
    except CoreError as error:
        assert repr(text) in str(error)
    else:
        assert re.fullmatch(r"/[!-~]+", text)
        assert port.asked


@given(st.lists(st.tuples(st.text("ab_", min_size=1, max_size=40), st.integers()), max_size=6, unique=True))
def test_names_are_short_distinct_and_do_not_depend_on_each_other(wishes: list[tuple[str, int]]) -> None:
    given_names = distinct(((name, str(thing)) for name, thing in wishes), 32)
    assert len(set(given_names)) == len(wishes)
    assert all(len(name) <= 32 for name in given_names)
    assert given_names == distinct(((name, str(thing)) for name, thing in wishes[::-1]), 32)[::-1]


@pytest.mark.parametrize(
    ("texts", "units"),
    [
        (["2", "1-247"], [[2], list(range(1, 248))]),
        ([" 3 - 5 "], [[3, 4, 5]]),
        (["0"], None),
        (["248"], None),
        (["5-3"], None),
        (["1-"], None),
        (["²"], None),
        (["1;reboot"], None),
    ],
)
def test_units_are_numbers_and_ranges(texts: list[str], units: list[list[int]] | None) -> None:
    if units is None:
        with pytest.raises(CoreError, match=f"units {re.escape(repr(texts[0]))}: expected a number or a range"):
            parse_units(texts)
    else:
        assert [list(group) for group in parse_units(texts)] == units

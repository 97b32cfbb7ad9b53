# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The serial ports of a gateway: every name of each, what is plugged in, who uses it. Looks only, opens none."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import lock
from .errors import CoreError

LINE, PROGRAMMER, UNKNOWN = "line", "programmer", "unknown"

# By USB vendor. The converter of 1a86 (CH340) sits in adapters and in copies of the Arduino Uno: it tells nothing.
_KINDS = {
    "0403": (LINE, "an FTDI converter"),
    "067b": (LINE, "a Prolific converter"),
    "10c4": (LINE, "a Silicon Labs converter"),
    "2341": (PROGRAMMER, "an Arduino"),
    "2a03": (PROGRAMMER, "an Arduino"),
}
_VENDORS = {"FTDI": "0403", "Prolific": "067b", "Silicon": "10c4", "Arduino": "2341"}
_DIRECTORIES = ("serial/by-id", "serial/by-path", "multi_sonicator")
_DEVICE = re.compile(r"tty(?:USB|ACM)\d+")
_NAME = re.compile(r"/[A-Za-z0-9/._:@+=,#~%-]+")
# usb-VENDOR_MODEL_SERIAL-ifNN; what stands last is a serial number only where it looks like one.
_BY_ID = re.compile(
    r"usb-(?P<vendor>[^_]+)_.*?"
    r"(?:_(?P<serial>(?=[A-Za-z0-9.:]*\d)[A-Za-z0-9.:]{6,}))?"
    r"-if\d\d(?:-port\d+)?"
)
_BY_PATH = re.compile(r"(?P<path>[A-Za-z0-9._:-]+?)(?:-port\d+)?")
_UDEV = {"ID_VENDOR_ID": "vendor", "ID_MODEL_ID": "product", "ID_SERIAL_SHORT": "serial", "ID_PATH": "path"}


@dataclass(frozen=True)
class Port:
    """One serial port.

    ``name`` is the one for an inventory; ``stable`` says what that rests on, serial or path, and is empty where the
    name may lead to another device tomorrow. ``serial`` and ``path`` are as udev tells them, ``vendor`` and ``product``
    the USB ids. ``kind`` is line, programmer or unknown and ``evidence`` why; it is a guess unless the caller says that
    the port is a programmer. ``asked`` is set where the caller named it. ``used_by`` are other processes, and
    ``problem`` says why the port cannot be used.
    """

    device: str
    names: tuple[str, ...]
    name: str
    stable: str = ""
    vendor: str = ""
    product: str = ""
    description: str = ""
    serial: str = ""
    path: str = ""
    kind: str = UNKNOWN
    evidence: str = ""
    guess: bool = True
    asked: bool = False
    used_by: tuple[str, ...] = ()
    problem: str = ""

    @property
    def identity(self) -> str:
        """What tells it from the gateway's other ports, in lower-case letters, digits and underscores."""
        socket = re.sub(r":\d+\.\d+$", "", self.path.partition("-usb-0:")[2]) or self.path
        text = {"serial": self.serial, "path": socket}.get(self.stable) or os.path.basename(self.device)
        return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")


def find(wanted: Sequence[str] = (), programmers: Collection[str] = (), root: Path = Path("/")) -> list[Port]:
    """All serial ports of USB adapters, or only those called ``wanted``, and ``programmers``, known to be some.

    Those wanted come first, in their order; one that is not there comes back with its problem. ``root`` is where
    /dev, /sys and /run are. CoreError for what can be no port's name.
    """
    asked = {_target(name): name for name in wanted}
    told = {_target(name): name for name in programmers}
    names: dict[str, list[str]] = {}
    for name in _names(root / "dev"):
        names.setdefault(os.path.realpath(name), []).append(name)
    for target, name in {**asked, **told}.items():
        names.setdefault(target, [name])
    ports = []
    for target in [*asked, *sorted(names.keys() - asked.keys(), key=_by_number)]:
        if not wanted or target in asked or target in told:
            port = replace(_port(target, names[target], root), asked=target in asked)
            if target in told:
                port = replace(port, kind=PROGRAMMER, evidence="is named as a programmer", guess=False)
            ports.append(port)
    return _named(ports)


def usable(name: str) -> bool:
    """Whether ``name`` can be the path of a port at all; nothing else is ever looked for."""
    return _NAME.fullmatch(name) is not None


def _target(name: str) -> str:
    if not usable(name):
        raise CoreError(f"port {name!r} can be no port; expected a path such as /dev/serial/by-id/NAME")
    return os.path.realpath(name)


def _by_number(target: str) -> list[tuple[str, int]]:
    """What sorts ttyUSB2 before ttyUSB10."""
    return [(text, int(number or 0)) for text, number in re.findall(r"([^0-9]*)([0-9]*)", target)]


def _names(dev: Path) -> Iterator[str]:
    """Every name below /dev of a USB adapter's port."""
    for directory in _DIRECTORIES:
        yield from (str(dev / directory / name) for name in _listed(dev / directory))
    yield from (str(dev / name) for name in _listed(dev) if _DEVICE.fullmatch(name))


def _listed(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _port(target: str, names: Sequence[str], root: Path) -> Port:
    device = next((name for name in names if _DEVICE.fullmatch(os.path.basename(name))), names[-1])
    facts = {**_by_names(names), **_by_sysfs(device, root), **_by_udev(target, root)}
    kind, what = _KINDS.get(facts.get("vendor", ""), (UNKNOWN, ""))
    source = "USB ids" if "product" in facts else "name"
    return Port(
        device=device,
        names=tuple(names),
        name=device,
        vendor=facts["vendor"] if "product" in facts else "",
        product=facts.get("product", ""),
        description=facts.get("description", ""),
        serial=facts.get("serial", ""),
        path=facts.get("path", ""),
        kind=kind,
        evidence=f"is {what} by its {source}" if what else "neither USB ids nor name tell what it is",
        used_by=tuple(dict.fromkeys(str(one) for one in (*lock.openers(target), *lock.holders(target)))),
        problem=_problem(target),
    )


def _problem(target: str) -> str:
    if not os.path.exists(target):
        return "is not there; check the cable and the name in the inventory"
    if not os.access(target, os.R_OK | os.W_OK):
        return "may not be read and written; join the group dialout"
    return ""


def _by_names(names: Iterable[str]) -> dict[str, str]:
    """What the names that udev gave say; a container has nothing else."""
    facts: dict[str, str] = {}
    for name in names:
        directory, _slash, last = name.rpartition("/")
        if directory.endswith("/by-id") and (match := _BY_ID.fullmatch(last)):
            facts["serial"] = match["serial"] or ""
            facts["vendor"] = _VENDORS.get(match["vendor"], "")
            facts["description"] = last
        if directory.endswith("/by-path") and "-usbv" not in last and (match := _BY_PATH.fullmatch(last)):
            facts["path"] = match["path"]
    return facts


def _by_sysfs(device: str, root: Path) -> dict[str, str]:
    node = root / "sys/class/tty" / os.path.basename(device)
    if _read(node / "dev") != _number(device):
        return {}  # in a container /sys is the machine's, whose port of that name is another one
    place = Path(os.path.realpath(node / "device"))
    usb = next((one for one in (place, *place.parents) if (one / "idVendor").exists()), None)
    if usb is None:
        return {}
    return {
        "vendor": _read(usb / "idVendor").lower(),
        "product": _read(usb / "idProduct").lower(),
        "serial": re.sub(r"[^A-Za-z0-9#+.:=@_-]", "_", _read(usb / "serial")),
        "description": _plain(f"{_read(usb / 'manufacturer')} {_read(usb / 'product')}"),
    }


def _by_udev(target: str, root: Path) -> dict[str, str]:
    """What udev keeps of it, which is what udev's rules compare with."""
    lines = _read(root / f"run/udev/data/c{_number(target)}").splitlines()
    kept = dict(line[2:].split("=", 1) for line in lines if line.startswith("E:") and "=" in line)
    facts = {key: kept[name] for name, key in _UDEV.items() if kept.get(name)}
    if "product" not in facts:
        return facts
    return {"serial": "", **facts, "description": _plain(f"{kept.get('ID_VENDOR', '')} {kept.get('ID_MODEL', '')}")}


def _number(device: str) -> str:
    try:
        number = os.stat(device).st_rdev
    except OSError:
        return "none"
    return f"{os.major(number)}:{os.minor(number)}"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _plain(text: str) -> str:
    """Text of a device, which may say whatever it likes, for people to read."""
    return "".join(one if one.isprintable() else "?" for one in text).strip()


def _named(ports: Sequence[Port]) -> list[Port]:
    """The ports with the names for an inventory: by serial number where no other port shows the same."""
    serials = Counter(port.serial for port in ports)
    named = []
    for port in ports:
        by_id, by_path, other = (
            next((name for name in port.names if f"/{directory}/" in name and usable(name)), "")
            for directory in _DIRECTORIES
        )
        if by_id and port.serial and serials[port.serial] == 1:
            named.append(replace(port, name=by_id, stable="serial"))
        elif by_path and port.path:
            named.append(replace(port, name=by_path, stable="path"))
        else:
            named.append(replace(port, name=other or port.name))
    return named


def entries(ports: Iterable[Port]) -> list[dict[str, str]]:
    """The ports as the role gateway's list ``gateway_ports``: those with a known use and a name that lasts."""
    chosen = [port for port in ports if port.kind != UNKNOWN and port.stable]
    names = distinct((f"{port.kind}_{port.identity}", port.name) for port in chosen)
    found = [
        {"name": name, port.stable: port.serial if port.stable == "serial" else port.path}
        for name, port in zip(names, chosen, strict=True)
    ]
    return [entry for entry in found if all(re.fullmatch("[A-Za-z0-9._:-]+", value) for value in entry.values())]


def distinct(wishes: Iterable[tuple[str, str]], longest: int = 32) -> list[str]:
    """A name for each (name, what it stands for), at most ``longest`` long: as wished where that is short and unique.

    The others end with a digest of what they stand for, so that a name does not depend on what else there is to name.
    """
    wishes = list(wishes)
    counts = Counter(name for name, _thing in wishes)
    return [
        name
        if counts[name] == 1 and len(name) <= longest
        else f"{name[: longest - 7]}_{hashlib.sha256(thing.encode()).hexdigest()[:6]}"
        for name, thing in wishes
    ]

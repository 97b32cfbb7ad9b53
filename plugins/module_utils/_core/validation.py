# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a gateway and its inventory are fit for production. Changes nothing, writes nothing to any line.

Each check yields findings. What the inventory says reaches programs as arguments of theirs, never through a shell.
"""

from __future__ import annotations

import glob
import json
import os
import pwd
import re
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import ports
from .device import Device
from .errors import CoreError
from .gateway import Controller, Gateway, InventoryError, Result, parse_controllers
from .store import Store

OK, WARNING, ERROR, NOT_APPLICABLE = "ok", "warning", "error", "not_applicable"
SEVERITIES = (ERROR, WARNING, NOT_APPLICABLE, OK)

_RELEASES = {"12": "bookworm", "13": "trixie"}
_KEYS = ("/etc/ssh/ssh_host_*_key", "/etc/multi_sonicator/**/*.key", "/etc/multi_sonicator/**/*_key")
_CERTIFICATES = "/etc/multi_sonicator/certificates.json"
_RULES = ("/etc/sudoers", "/etc/sudoers.d/*")
_DEADLINE = 15.0
_RESOLVE = 10.0
_MIB = 1 << 20
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@\\-]*\.(?:service|timer|socket)")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:_-]{0,252})")
_NETWORK = re.compile(r"tcp://[A-Za-z0-9._:\[\]-]+")
_PASSING = re.compile(r"/dev/tty\w*\d+")


@dataclass(frozen=True)
class Finding:
    """What one check came to: ``severity`` is ok, warning, error or not_applicable; the remedy says how to mend it."""

    check: str
    severity: str
    subject: str
    found: str
    expected: str = ""
    remedy: str = ""

    def as_mapping(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Wishes:
    """What is asked of a gateway. Days, seconds and MiB; ``control_time`` is the control node's clock, in seconds since
    1970, when it sent its question."""

    state_directory: str = "/var/lib/multi_sonicator"
    lock_directory: str = "/run/lock"
    firmware_version: str = ""
    names: Sequence[str] = ()
    certificates: Sequence[str] = ()
    certificate_days: float = 30
    packages: Sequence[str] = ()
    services: Sequence[str] = ()
    directories: Sequence[str] = ()
    keys: Sequence[str] = ()
    disk: float = 500
    memory: float = 64
    clock_tolerance: float = 10
    control_time: float | None = None
    only: Sequence[str] | None = None


def validate(
    entries: Sequence[Mapping[str, Any]], profiles: Mapping[str, Mapping[str, Any]], wishes: Wishes
) -> list[Finding]:
    """All findings on a gateway and the inventory's ``entries`` of its controllers, the worst first."""
    found, controllers = check_inventory(entries, profiles)
    found += check_ports(entries)
    found += _guarded(lambda given: check_controllers(controllers, given), "controllers", wishes)
    for check in _CHECKS:
        found += _guarded(check, check.__name__.removeprefix("check_"), wishes)
    return sorted(found, key=lambda one: SEVERITIES.index(one.severity))


def _guarded(check: Callable[[Wishes], Iterable[Finding]], name: str, wishes: Wishes) -> list[Finding]:
    try:
        return list(check(wishes))
    except (OSError, ValueError, CoreError) as error:
        remedy = "mend what the message names; some checks need root"
        return [Finding(name, WARNING, name, f"could not be checked: {error}", "an answer", remedy)]


# The inventory

_SOUND = "a controller that can be asked"
_DISCOVER = "list what is plugged in with discover.yml, and correct the inventory"


def check_inventory(
    entries: Sequence[Mapping[str, Any]], profiles: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Finding], list[Controller]]:
    """Each entry for itself, then whether they contradict one another; and the controllers, none if something is wrong.

    With an error in it nobody knows who would be asked.
    """
    found = []
    sound = []
    for entry in entries:
        if problems := _problems_of(entry, profiles):
            subject = f"controller {str(entry['name'])!r}"
            found.append(Finding("inventory", ERROR, subject, problems, _SOUND, "correct it in the inventory"))
        else:
            sound.append(entry)
    try:
        controllers = parse_controllers(sound, profiles)
    except InventoryError as error:
        remedy = "correct one of the two in the inventory"
        found += [
            Finding("inventory", ERROR, "controllers", problem, "a place and a programmer for each", remedy)
            for problem in _words(error).split("; ")
        ]
    if found:
        return found, []
    if not entries:
        return [Finding("inventory", WARNING, "controllers", "none", "the controllers of the gateway", _DISCOVER)], []
    return [Finding("inventory", OK, "controllers", f"{len(entries)} without a contradiction")], controllers


def _problems_of(entry: Mapping[str, Any], profiles: Mapping[str, Mapping[str, Any]]) -> str:
    for key in ("line", "programmer"):
        name = str(entry.get(key) or "")
        if name and not ports.usable(name) and not (key == "line" and _NETWORK.fullmatch(name)):
            return f"{key} {name!r} can be no port; expected a path such as /dev/serial/by-id/NAME"
    try:
        parse_controllers([entry], profiles)
    except CoreError as error:
        return _words(error)
    return ""


def _words(error: CoreError) -> str:
    return str(error).removesuffix(". Correct the inventory; nothing was sent")


# What is plugged in


def check_ports(controllers: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Lines and programmers: there, accessible, called by a name that lasts."""
    for key in ("line", "programmer"):
        names = dict.fromkeys(str(entry[key]) for entry in controllers if entry.get(key))
        for name in names:
            if ports.usable(name):
                yield from _check_port(key, name)


def _check_port(kind: str, name: str) -> Iterator[Finding]:
    (port,) = ports.find([name])
    subject = f"{kind} {name}"
    if port.problem:
        what, _semicolon, remedy = port.problem.partition("; ")
        yield Finding("ports", ERROR, subject, what, "a port that can be read and written", remedy)
        return
    if kind == ports.PROGRAMMER and port.used_by:
        used = f"used by {', '.join(port.used_by)}"
        yield Finding("ports", WARNING, subject, used, "a programmer that nobody uses", "end that program")
    elif {kind, port.kind} == {ports.LINE, ports.PROGRAMMER}:
        yield Finding("ports", ERROR, subject, f"is a {port.kind}, it {port.evidence}", f"a {kind}", _DISCOVER)
    elif _PASSING.fullmatch(name):
        remedy = f"call it {port.name}" if port.stable else "name it in gateway_ports"
        yield Finding("ports", WARNING, subject, "may be another port after the next boot", "a name that lasts", remedy)
    else:
        yield Finding("ports", OK, subject, "there")


def check_controllers(controllers: Sequence[Controller], wishes: Wishes) -> Iterator[Finding]:
    """Each answers, is what its profile says, runs the wanted firmware and is healthy."""
    gateway = Gateway(controllers, Store(wishes.state_directory), wishes.lock_directory, wishes.only)

    def look(controller: Controller, device: Device) -> Result:
        return {"findings": list(_look_at(controller, device, wishes)), "failed": False}

    for result in gateway.each(look):
        if result["failed"]:
            subject = f"controller {result['name']} (unit {result['unit']} on {result['line']})"
            yield Finding("controllers", ERROR, subject, result["msg"], "an answer", "mend what the message names")
        yield from result.get("findings", ())


def _look_at(controller: Controller, device: Device, wishes: Wishes) -> Iterator[Finding]:
    subject = f"controller {controller.name} (unit {controller.unit} on {controller.line})"
    profile = controller.profile
    if strange := device.violations(profile.fingerprint):
        expected = f"what profile {profile.name} describes"
        remedy = "correct its profile or its place; discover.yml tells what answers there"
        yield Finding("controllers", ERROR, subject, "; ".join(strange), expected, remedy)
        return
    version = device.identity().version
    wanted = controller.firmware_version or wishes.firmware_version
    if wanted and version and version != wanted:
        found = f"firmware {version}"
        yield Finding("controllers", WARNING, subject, found, f"firmware {wanted}", "bring it with deploy.yml")
    if ill := device.violations(profile.health):
        remedy = "see the controller's documentation on these states"
        yield Finding("controllers", ERROR, subject, "; ".join(ill), "a healthy controller", remedy)
    elif not wanted or version in (None, wanted):
        told = f"firmware {version}" if version else "a firmware that tells no version"
        yield Finding("controllers", OK, subject, f"answers, healthy, {told}, as profile {profile.name} describes")


# The host


def check_release(wishes: Wishes) -> Iterator[Finding]:
    """A Debian that the collection knows."""
    text = _read("/etc/os-release")
    told = dict(line.replace('"', "").split("=", 1) for line in text.splitlines() if "=" in line)
    found = told.get("PRETTY_NAME") or "nothing that says what it is"
    fits = told.get("ID") == "debian" and told.get("VERSION_ID") in _RELEASES
    expected = "Debian " + " or ".join(f"{number} ({name})" for number, name in _RELEASES.items())
    yield Finding("release", OK if fits else ERROR, "system", found, expected, "" if fits else "install one of these")


def check_packages(wishes: Wishes) -> Iterator[Finding]:
    """Debian's packages that are needed."""
    for name in wishes.packages:
        if not _PACKAGE.fullmatch(name):
            yield _refused("packages", name, "the name of a package of Debian's")
    names = [name for name in wishes.packages if _PACKAGE.fullmatch(name)]
    said = _say("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", "--", *names) if names else ""
    installed = {line.split()[0] for line in said.splitlines() if line.endswith(" installed")}
    for name in names:
        if name in installed:
            yield Finding("packages", OK, f"package {name}", "installed")
        else:
            remedy = "install it; provision.yml does"
            yield Finding("packages", ERROR, f"package {name}", "not installed", "installed", remedy)


def check_services(wishes: Wishes) -> Iterator[Finding]:
    """Units of systemd: those named, where they are there at all, and none that failed."""
    for unit in wishes.services:
        subject = f"unit {unit}"
        if not _UNIT.fullmatch(unit):
            yield _refused("services", unit, "the name of a service, timer or socket")
            continue
        said = _say("systemctl", "show", "--property=LoadState,ActiveState,UnitFileState", "--", unit)
        told = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        if told.get("LoadState", "not-found") == "not-found":
            yield Finding("services", NOT_APPLICABLE, subject, "not there", "active", "provision.yml brings it")
        elif told.get("ActiveState") != "active":
            remedy = f"see journalctl -u {unit}"
            yield Finding("services", ERROR, subject, told.get("ActiveState", ""), "active", remedy)
        elif told.get("UnitFileState") not in ("enabled", "static", "generated", "indirect"):
            remedy = f"systemctl enable {unit}"
            yield Finding("services", WARNING, subject, "will not start at the next boot", "enabled", remedy)
        else:
            yield Finding("services", OK, subject, "active")
    for line in _say("systemctl", "list-units", "--failed", "--plain", "--no-legend").splitlines():
        unit = line.split()[0]
        yield Finding("services", WARNING, f"unit {unit}", "failed", "no failed unit", f"see journalctl -u {unit}")


def check_journal(wishes: Wishes) -> Iterator[Finding]:
    """The journal outlives a reboot."""
    if glob.glob("/var/log/journal/*/*.journal"):
        yield Finding("journal", OK, "journal", "persistent")
    else:
        remedy = "set Storage=persistent in journald.conf; provision.yml does"
        yield Finding("journal", WARNING, "journal", "ends with a reboot", "persistent", remedy)


def check_storage(wishes: Wishes) -> Iterator[Finding]:
    """Room and inodes where the state is kept."""
    place = wishes.state_directory
    while not os.path.isdir(place):
        place = os.path.dirname(place) or "/"
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize / _MIB
    yield _enough("storage", f"room in {wishes.state_directory}", free, wishes.disk, "MiB", "make room, or add a disk")
    if room.f_files:
        share = 100 * room.f_favail / room.f_files
        subject = f"inodes in {wishes.state_directory}"
        yield _enough("storage", subject, share, 5, "%", "remove what has so many files")


def check_memory(wishes: Wishes) -> Iterator[Finding]:
    """Memory that programs could still have."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    if match is None:
        yield Finding("memory", NOT_APPLICABLE, "memory", "the kernel tells none")
    else:
        free = int(match[1]) / 1024
        yield _enough("memory", "memory", free, wishes.memory, "MiB", "end what takes so much, or add memory")


def check_clock(wishes: Wishes) -> Iterator[Finding]:
    """Set from somewhere, and not far from the control node's."""
    said = _say("timedatectl", "show", "--property=NTPSynchronized", "--value").strip()
    if said == "yes":
        yield Finding("clock", OK, "clock", "synchronised")
    elif _say("systemd-detect-virt", "--container").strip() not in ("", "none"):
        yield Finding("clock", NOT_APPLICABLE, "clock", "a container has the clock of its machine")
    else:
        remedy = "name time servers that it reaches in gateway_time_servers"
        yield Finding("clock", WARNING, "clock", "not synchronised", "synchronised", remedy)
    if wishes.control_time is not None:
        # What it takes to start the module makes a right clock look fast by a second or two.
        ahead = time.time() - wishes.control_time
        fits = abs(ahead) <= wishes.clock_tolerance
        remedy = "" if fits else "set the clocks of both; signatures and certificates are judged by them"
        expected = f"at most {wishes.clock_tolerance:g} s from the control node's"
        found = f"{ahead:+.0f} s from the control node's"
        yield Finding("clock", OK if fits else ERROR, "time", found, expected, remedy)


def check_names(wishes: Wishes) -> Iterator[Finding]:
    """Names that have to resolve."""
    names = dict.fromkeys(re.sub(r"^[a-z+]+://|[/?#].*$", "", name) for name in wishes.names)
    sound = [name for name in names if _HOST.fullmatch(name)]
    yield from (_refused("names", name, "the name of a host, or a URL") for name in names if name not in sound)
    answers: dict[str, str] = {}
    for name in sound:  # a resolver may take longer than anybody wants to wait, and takes no deadline
        threading.Thread(target=_resolve, args=(name, answers), daemon=True).start()
    until = time.monotonic() + _RESOLVE
    while len(answers) < len(sound) and time.monotonic() < until:
        time.sleep(0.05)
    for name in sound:
        answer = answers.get(name, f"no answer within {_RESOLVE:g} s")
        if answer.startswith("is "):
            yield Finding("names", OK, f"name {name}", answer)
        else:
            remedy = "check /etc/resolv.conf and the site's name server, or enter it in /etc/hosts"
            yield Finding("names", ERROR, f"name {name}", answer, "an address", remedy)


def _resolve(name: str, answers: dict[str, str]) -> None:
    try:
        answers[name] = f"is {socket.getaddrinfo(_without_port(name), None)[0][4][0]}"
    except (OSError, UnicodeError) as error:
        answers[name] = str(error)


def _without_port(name: str) -> str:
    return re.sub(r":\d+$", "", name) if name.count(":") == 1 else name


def check_certificates(wishes: Wishes) -> Iterator[Finding]:
    """Certificates that go on for a while."""
    for path in wishes.certificates:
        subject = f"certificate {path}"
        if not path.startswith("/"):
            yield _refused("certificates", path, "an absolute path")
            continue
        said = _say("openssl", "x509", "-noout", "-enddate", "-in", path)
        match = re.search(r"^notAfter=(.+)$", said, re.MULTILINE)
        if match is None:
            found = "no certificate that openssl reads" if os.path.exists(path) else "not there"
            remedy = "issue it with certificates.yml, or correct the path"
            yield Finding("certificates", ERROR, subject, found, "a certificate", remedy)
            continue
        days = (ssl.cert_time_to_seconds(match[1]) - time.time()) / 86400
        severity = OK if days >= wishes.certificate_days else WARNING if days > 0 else ERROR
        found = f"ends in {days:.0f} days" if days > 0 else f"ended {-days:.0f} days ago"
        remedy = "" if severity == OK else "renew it with certificates.yml"
        yield Finding("certificates", severity, subject, found, f"{wishes.certificate_days:g} days or more", remedy)


def check_permissions(wishes: Wishes) -> Iterator[Finding]:
    """Nobody else writes our directories and the rules of sudo, or reads keys."""
    keys = [path for pattern in _KEYS for path in glob.glob(pattern, recursive=True)]
    owners = _owners_of_keys()
    for what, forbidden, places in (
        ("directory", 0o022, wishes.directories),
        ("key", 0o037, [*keys, *wishes.keys]),
        ("sudo's rules", 0o022, [path for pattern in _RULES for path in glob.glob(pattern)]),
    ):
        for path in dict.fromkeys(places):
            yield _check_permission(what, path, forbidden, owners.get(path, "root"))
    checked = _run("visudo", "--check", "--quiet") if os.geteuid() == 0 else None
    if checked and checked.returncode:
        yield Finding("permissions", ERROR, "sudo's rules", "not what sudo takes", "sound rules", "see visudo --check")


def _owners_of_keys() -> dict[str, str]:
    """The accounts of services that have keys of their own, by the key; what is not listed or damaged is root's."""
    try:
        told = json.loads(_read(_CERTIFICATES))
        return {f"{told['directory']}/{one['name']}.key": str(one["owner"]) for one in told["services"]}
    except (ValueError, KeyError, TypeError):
        return {}


def _check_permission(what: str, path: str, forbidden: int, owner: str) -> Finding:
    subject = f"{what} {path}"
    if not path.startswith("/") or "\0" in path:
        return _refused("permissions", path, "an absolute path")
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return Finding("permissions", NOT_APPLICABLE, subject, "not there")
    mode = stat.S_IMODE(status.st_mode)
    owned = status.st_uid in (0, os.geteuid(), _uid(owner))
    found = f"mode {mode:04o}, owner {status.st_uid}"
    if owned and not mode & forbidden:
        return Finding("permissions", OK, subject, found)
    remedy = f"chown {owner} and chmod {mode & ~forbidden:04o}"
    return Finding("permissions", ERROR, subject, found, f"{owner}'s, without any of mode {forbidden:04o}", remedy)


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):  # no such account, or no name at all
        return None


_CHECKS: tuple[Callable[[Wishes], Iterable[Finding]], ...] = (
    check_release,
    check_packages,
    check_services,
    check_journal,
    check_storage,
    check_memory,
    check_clock,
    check_names,
    check_certificates,
    check_permissions,
)


def _refused(check: str, value: str, expected: str) -> Finding:
    return Finding(check, ERROR, repr(value), "refused", expected, "correct it in the inventory")


def _enough(check: str, subject: str, found: float, least: float, unit: str, remedy: str) -> Finding:
    fits = found >= least
    expected = f"{least:g} {unit} or more"
    return Finding(check, OK if fits else ERROR, subject, f"{found:.0f} {unit} free", expected, "" if fits else remedy)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _say(*command: str) -> str:
    """What a program says; nothing where it is not there or takes too long."""
    done = _run(*command)
    return done.stdout if done else ""


def _run(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(  # pylint: disable=ansible-bad-function  # the core knows no AnsibleModule
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DEADLINE,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None

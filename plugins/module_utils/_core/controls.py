# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controls of hardening on one host, and whether it complies.

A control is data: what it is for, and settings. A setting is of a kind, has a name and a wanted state. Each kind can
look at the present state; those that change something can put one, so that taking back is putting what was before.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .errors import CoreError
from .store import write_atomically

SSHD_DROP_IN = "/etc/ssh/sshd_config.d/10-multi-sonicator-hardening.conf"
SYSCTL_FILE = "/etc/sysctl.d/99-z-multi-sonicator-hardening.conf"
MODPROBE_FILE = "/etc/modprobe.d/multi-sonicator-hardening.conf"
TABLE = "inet multi_sonicator"

_HEAD = "# Written by the role multi_sonicator.ops.hardening, whose undo removes it.\n"
_DEADLINE = 300.0
# Lists of algorithms, of which a host gets those that its OpenSSH knows.
_ALGORITHMS = ("KexAlgorithms", "Ciphers", "MACs", "HostKeyAlgorithms")

State = Any
"""What a kind looks at, as JSON has it; None where the thing is not there."""


class ControlError(CoreError):
    """A setting that could not be put in place or taken back; what was done before it stays recorded."""


class Host:
    """The host that the controls are of. ``root`` is where its file system is, for tests."""

    def __init__(self, root: str = "/") -> None:
        self._root = Path(root)
        self._told: dict[Sequence[str], str] = {}
        self.container = self.path("/run/systemd/container").exists()

    def path(self, name: str) -> Path:
        """Where the host's path ``name`` is."""
        return self._root / name.lstrip("/")

    def run(self, argv: Sequence[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program; the exit code is 127 where it is not installed, and 124 after five minutes."""
        environment = {
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        try:
            return subprocess.run(  # pylint: disable=ansible-bad-function  # the core knows no AnsibleModule
                argv, input=stdin, capture_output=True, text=True, check=False, timeout=_DEADLINE, env=environment
            )
        except FileNotFoundError:
            return subprocess.CompletedProcess(argv, 127, "", f"{argv[0]} is not installed")
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(argv, 124, "", f"not done after {_DEADLINE:.0f} s")

    def must(self, argv: Sequence[str], stdin: str | None = None) -> str:
        """Run a program that has to succeed; what it printed."""
        done = self.run(argv, stdin)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise ControlError(f"{shlex.join(argv)}: exit code {done.returncode}: {said}")
        return done.stdout

    def told(self, argv: Sequence[str]) -> str:
        """What a program that only looks prints; it is asked once."""
        if argv not in self._told:
            self._told[argv] = self.must(argv)
        return self._told[argv]


@dataclass(frozen=True)
class Setting:
    """One thing of a control. ``activate`` are commands that follow a change of it, ``validate`` one that judges it."""

    control: str
    kind: str
    name: str
    wanted: State
    activate: Sequence[Sequence[str]] = ()
    validate: Sequence[str] = ()
    guarded: bool = False
    may_fail: bool = False

    @property
    def key(self) -> str:
        """What it is called in the record."""
        return f"{self.kind} {self.name}"


class Kind(Protocol):
    """What can be said of all settings of one kind."""

    judged_in_containers: bool

    def look(self, host: Host, name: str, wanted: State) -> State:
        """How the host has it now."""

    def fits(self, found: State, wanted: State) -> bool | None:
        """None where the setting has nothing to apply to on this host."""

    def show(self, state: State) -> str:
        """A state for people."""

    def evidence(self, name: str) -> str:
        """Where one looks for it oneself."""


class Changing(Kind, Protocol):
    """A kind that can be put."""

    def put(self, host: Host, name: str, state: State) -> None:
        """Bring the host to that state."""


# ---- kinds that are put in place


class _File:
    """Content and mode. Its state holds the text, for diffs and for taking back."""

    judged_in_containers = True

    def look(self, host: Host, name: str, wanted: State) -> State:
        path = host.path(name)
        try:
            content = path.read_bytes().decode(errors="surrogateescape")
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return {"content": content, **_mode_of(status)}

    def fits(self, found: State, wanted: State) -> bool | None:
        return found is not None and all(found[part] == wanted[part] for part in ("content", "mode"))

    def put(self, host: Host, name: str, state: State) -> None:
        path = host.path(name)
        if state is None:
            path.unlink(missing_ok=True)
            return
        content = state["content"].encode(errors="surrogateescape")
        write_atomically(path, content, int(state["mode"], 8), state.get("owner"))

    def show(self, state: State) -> str:
        if state is None:
            return "absent"
        return f"{len(state['content'].splitlines())} lines, mode {state['mode']}"

    def evidence(self, name: str) -> str:
        return name


class _Line:
    """A line ``KEY VALUE`` of a file that has no drop-ins. Named ``PATH KEY``; the state is the line."""

    judged_in_containers = True

    def look(self, host: Host, name: str, wanted: State) -> State:
        lines = self._lines(host, name)
        return lines[place] if (place := self._place(lines, name)) is not None else None

    def fits(self, found: State, wanted: State) -> bool | None:
        return found is not None and found.split() == wanted.split()

    def put(self, host: Host, name: str, state: State) -> None:
        lines = self._lines(host, name)
        place = self._place(lines, name)
        new = [] if state is None else [state]
        if place is None:
            lines += new
        else:
            lines[place : place + 1] = new
        path = host.path(name.split()[0])
        mode = stat.S_IMODE(path.stat().st_mode)
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
        path.chmod(mode)

    def show(self, state: State) -> str:
        return "absent" if state is None else " ".join(state.split())

    def evidence(self, name: str) -> str:
        return name.split()[0]

    @staticmethod
    def _lines(host: Host, name: str) -> list[str]:
        try:
            return host.path(name.split()[0]).read_text().splitlines()
        except FileNotFoundError:
            return []

    @staticmethod
    def _place(lines: Sequence[str], name: str) -> int | None:
        key = name.split()[1]
        return next((place for place, line in enumerate(lines) if line.split()[:1] == [key]), None)


class _Mode:
    """The most that a file or directory may permit; it belongs to root. Nothing to judge where it is not there."""

    judged_in_containers = True

    def look(self, host: Host, name: str, wanted: State) -> State:
        try:
            status = host.path(name).stat()
        except FileNotFoundError:
            return None
        return _mode_of(status)

    def fits(self, found: State, wanted: State) -> bool | None:
        if found is None:
            return None
        return not int(found["mode"], 8) & ~int(wanted["mode"], 8) and found["owner"][0] == 0

    def put(self, host: Host, name: str, state: State) -> None:
        path = host.path(name)
        if state is None or not path.exists():
            return
        os.chown(path, *state.get("owner", (0, -1)))
        path.chmod(int(state["mode"], 8))

    def show(self, state: State) -> str:
        if state is None:
            return "absent"
        return f"mode {state['mode']}" + (f", owner {state['owner'][0]}" if "owner" in state else " or less, owner 0")

    def evidence(self, name: str) -> str:
        return name


class _Sysctl:
    """A value of the kernel, as it is in force. A name that begins with ``-`` is of something not every kernel has."""

    judged_in_containers = False

    def look(self, host: Host, name: str, wanted: State) -> State:
        try:
            return " ".join(self._path(host, name).read_text().split())
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"not readable ({error.strerror})"

    def fits(self, found: State, wanted: State) -> bool | None:
        return None if found is None else bool(found == wanted)

    def put(self, host: Host, name: str, state: State) -> None:
        if state is not None:
            self._path(host, name).write_text(f"{state}\n")

    def show(self, state: State) -> str:
        return "this kernel does not have it" if state is None else str(state)

    def evidence(self, name: str) -> str:
        return "/proc/sys/" + name.lstrip("-").replace(".", "/")

    def _path(self, host: Host, name: str) -> Path:
        return host.path(self.evidence(name))


class _Unit:
    """Whether a unit of systemd is started at boot, and whether it runs: enabled is both, masked neither."""

    judged_in_containers = False

    def look(self, host: Host, name: str, wanted: State) -> State:
        told = host.must(["systemctl", "show", "--property=LoadState,UnitFileState,ActiveState", "--", name])
        states = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
        if states.get("LoadState") in ("not-found", None):
            return None
        active = states["ActiveState"] in ("active", "activating", "reloading")
        return {"start": states["UnitFileState"] or "static", "active": active}

    def fits(self, found: State, wanted: State) -> bool | None:
        if wanted["start"] == "masked":
            return None if found is None else found["start"] == "masked" and not found["active"]
        return bool(found == wanted)

    def put(self, host: Host, name: str, state: State) -> None:
        """A unit that was not there before is stopped, and what it kept is removed."""
        start, active = (state["start"], state["active"]) if state else ("disabled", False)
        if start == "masked":
            host.must(["systemctl", "mask", "--now", "--", name])
            return
        host.run(["systemctl", "unmask", "--", name])
        if start in ("enabled", "disabled"):
            host.run(["systemctl", "enable" if start == "enabled" else "disable", "--", name])
        if active:
            host.must(["systemctl", "start", "--", name])
        else:
            host.run(["systemctl", "stop", "--", name])
        if state is None:
            host.run(["systemctl", "clean", "--what=state", "--", name])

    def show(self, state: State) -> str:
        if state is None:
            return "absent"
        return str(state["start"]) + (", runs" if state["active"] else ", does not run")

    def evidence(self, name: str) -> str:
        return f"systemctl show {name}"


class _Once:
    """A file that a command makes of the host as it is, such as a list of what is plugged in; made once, then kept."""

    judged_in_containers = False

    def look(self, host: Host, name: str, wanted: State) -> State:
        path = host.path(name)
        return "there" if path.exists() and path.stat().st_size else None

    def fits(self, found: State, wanted: State) -> bool | None:
        return found is not None

    def put(self, host: Host, name: str, state: State) -> None:
        if state is None:
            host.path(name).unlink(missing_ok=True)
            return
        told = host.must(state["argv"])
        if state["stdout"]:
            write_atomically(host.path(name), told.encode())
            host.path(name).chmod(0o600)

    def show(self, state: State) -> str:
        return "absent" if state is None else "made"

    def evidence(self, name: str) -> str:
        return name


# ---- kinds that are looked at only


class _Package:
    judged_in_containers = True

    def look(self, host: Host, name: str, wanted: State) -> State:
        done = host.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", "--", name])
        status, _space, version = done.stdout.partition(" ")
        return version if status == "installed" else None

    def fits(self, found: State, wanted: State) -> bool | None:
        return found is not None

    def show(self, state: State) -> str:
        return "not installed" if state is None else str(state)

    def evidence(self, name: str) -> str:
        return f"dpkg-query -W {name}"


class _Sshd:
    """What is in force in sshd's configuration as a whole, whichever file says it."""

    judged_in_containers = True

    def look(self, host: Host, name: str, wanted: State) -> State:
        told = host.told(("sshd", "-T"))
        values = [line.partition(" ")[2] for line in told.splitlines() if line.partition(" ")[0] == name.lower()]
        return ",".join(values) if values else None

    def fits(self, found: State, wanted: State) -> bool | None:
        return found is not None and found.lower() == _sshd_text(wanted).lower()

    def show(self, state: State) -> str:
        return "absent" if state is None else _sshd_text(state)

    def evidence(self, name: str) -> str:
        return "sshd -T"


class _Mount:
    """The options that a directory has, by whatever is mounted there last."""

    judged_in_containers = True

    def look(self, host: Host, name: str, wanted: State) -> State:
        found = None
        for line in host.path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[4] == name:
                found = fields[5].split(",")
        return found

    def fits(self, found: State, wanted: State) -> bool | None:
        return found is not None and set(wanted) <= set(found)

    def show(self, state: State) -> str:
        return "no mount of its own" if state is None else ",".join(state)

    def evidence(self, name: str) -> str:
        return "/proc/self/mountinfo"


class _Module:
    """A kernel module that is refused, and not there."""

    judged_in_containers = False

    def look(self, host: Host, name: str, wanted: State) -> State:
        told = host.told(("modprobe", "--showconfig"))
        loaded = host.path("/proc/modules").read_text()
        refused = re.search(rf"^install {name} /(usr/)?bin/false$", told, re.MULTILINE) is not None
        return {"refused": refused, "loaded": re.search(rf"^{name} ", loaded, re.MULTILINE) is not None}

    def fits(self, found: State, wanted: State) -> bool | None:
        return bool(found["refused"] and not found["loaded"])

    def show(self, state: State) -> str:
        return f"{'refused' if state['refused'] else 'not refused'}, {'loaded' if state['loaded'] else 'not loaded'}"

    def evidence(self, name: str) -> str:
        return "modprobe --showconfig, /proc/modules"


class _Firewall:
    """The rules in force. The file, loaded where nothing else is, must give what the kernel has. Named by the file."""

    judged_in_containers = True

    def look(self, host: Host, name: str, wanted: State) -> State:
        listing = f"nft -s list table {TABLE}"
        there = host.run(["sh", "-c", listing])
        fresh = host.run(["unshare", "--net", "sh", "-c", f'nft -f "$1" && {listing}', "sh", str(host.path(name))])
        return {"rules": there.stdout, "file": fresh.stdout, "problem": (there.stderr or fresh.stderr).strip()}

    def fits(self, found: State, wanted: State) -> bool | None:
        return bool(found["rules"]) and found["rules"] == found["file"]

    def show(self, state: State) -> str:
        if "rules" not in state:
            return "the rules of the file are in force"
        if not state["rules"]:
            return f"no such rules: {state['problem']}"
        return "the rules of the file are in force" if state["rules"] == state["file"] else "other rules are in force"

    def evidence(self, name: str) -> str:
        return f"nft list table {TABLE}, {name}"


KINDS: Mapping[str, Kind] = {
    "file": _File(),
    "line": _Line(),
    "mode": _Mode(),
    "sysctl": _Sysctl(),
    "once": _Once(),
    "unit": _Unit(),
    "package": _Package(),
    "sshd": _Sshd(),
    "mount": _Mount(),
    "module": _Module(),
    "firewall": _Firewall(),
}
# In the order of being put; the way back is the other way round.
CHANGING: Mapping[str, Changing] = {
    "file": _File(),
    "line": _Line(),
    "mode": _Mode(),
    "sysctl": _Sysctl(),
    "once": _Once(),
    "unit": _Unit(),
}


def _mode_of(status: os.stat_result) -> dict[str, Any]:
    return {"mode": f"{stat.S_IMODE(status.st_mode):04o}", "owner": [status.st_uid, status.st_gid]}


def _sshd_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


# ---- from controls to settings


def settings(host: Host, controls: Iterable[Mapping[str, Any]]) -> list[Setting]:
    """All settings of the controls. What sshd, sysctl and modprobe read is one file of each, made of all controls."""
    found: list[Setting] = []
    sshd: list[str] = []
    sysctl: list[str] = []
    modules: list[str] = []
    for control in controls:
        name = control["id"]
        may_fail = bool(control.get("container"))
        guarded = bool(control.get("guarded"))
        common: dict[str, Any] = {"activate": control.get("activate") or (), "guarded": guarded, "may_fail": may_fail}
        for one in control.get("files") or ():
            wanted = {"content": one["content"], "mode": one.get("mode") or "0644"}
            found.append(Setting(name, "file", one["path"], wanted, validate=one.get("validate") or (), **common))
        for one in control.get("lines") or ():
            text = f"{one['key']} {one['value']}"
            found.append(Setting(name, "line", f"{one['path']} {one['key']}", text, **common))
        for path, mode in (control.get("modes") or {}).items():
            found.append(Setting(name, "mode", path, {"mode": mode}))
        for key, value in (control.get("sysctl") or {}).items():
            sysctl.append(f"{key} = {value}")
            found.append(Setting(name, "sysctl", key, str(value), may_fail=may_fail))
        for module in control.get("modules") or ():
            modules.append(module)
            found.append(Setting(name, "module", module, {"refused": True, "loaded": False}))
        for one in control.get("once") or ():
            wanted = {"argv": one["argv"], "stdout": bool(one.get("stdout"))}
            found.append(Setting(name, "once", one["creates"], wanted, may_fail=may_fail))
        for unit, start in (control.get("units") or {}).items():
            wanted = {"start": start, "active": start == "enabled"}
            found.append(Setting(name, "unit", unit, wanted, guarded=guarded, may_fail=may_fail))
        found += [Setting(name, "package", package, "installed") for package in control.get("packages") or ()]
        found += [Setting(name, "mount", path, options) for path, options in (control.get("mounts") or {}).items()]
        if control.get("firewall"):
            found.append(Setting(name, "firewall", control["firewall"], {}))
        for keyword, value in (control.get("sshd") or {}).items():
            value = _known(host, keyword, value)
            rows = value if keyword == "HostKey" else [_sshd_text(value)]
            sshd += [f"{keyword} {row}" for row in rows]
            found.append(Setting(name, "sshd", keyword, value))
    found += _together(SYSCTL_FILE, "0644", sysctl)
    found += _together(MODPROBE_FILE, "0644", [f"install {one} /bin/false\nblacklist {one}" for one in modules])
    reload = [["systemctl", "try-reload-or-restart", "ssh.service"]]
    found += _together(SSHD_DROP_IN, "0600", sshd, activate=reload, validate=["sshd", "-t"], guarded=True)
    return found


def _together(path: str, mode: str, rows: Sequence[str], **more: Any) -> list[Setting]:
    """The one file of what all controls say to one program; none where they say nothing."""
    content = _HEAD + "".join(f"{row}\n" for row in rows)
    return [Setting("", "file", path, {"content": content, "mode": mode}, **more)] if rows else []


def _known(host: Host, keyword: str, value: Any) -> Any:
    """Of algorithms those that the host knows: an older sshd refuses a whole configuration for one that it does not."""
    if keyword not in _ALGORITHMS:
        return value
    known = set(host.must(["ssh", "-Q", keyword]).split())
    return [one for one in value if one in known]


# ---- looking


@dataclass(frozen=True)
class Finding:
    """What one setting is and should be. ``verdict`` is pass, fail, not_applicable or cannot_tell."""

    what: str
    expected: str
    found: str
    evidence: str
    verdict: str


def judge(host: Host, controls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Look at every setting and change nothing: one entry a control, with the worst of its findings as its verdict."""
    by_control: dict[str, list[Finding]] = {control["id"]: [] for control in controls}
    for setting in settings(host, controls):
        if setting.control:
            by_control[setting.control].append(_finding(host, setting, controls))
    return [
        {
            "id": control["id"],
            "title": control["title"],
            "references": dict(control["references"]),
            "verdict": worst([finding.verdict for finding in by_control[control["id"]]]),
            "remark": control.get("container") if host.container and control.get("container") else "",
            "findings": [vars(finding) for finding in by_control[control["id"]]],
        }
        for control in controls
    ]


def _finding(host: Host, setting: Setting, controls: Sequence[Mapping[str, Any]]) -> Finding:
    kind = KINDS[setting.kind]
    hidden = host.container and not kind.judged_in_containers
    hidden = hidden and any(one.get("container") for one in controls if one["id"] == setting.control)
    try:
        found = kind.look(host, setting.name, setting.wanted)
        fits = kind.fits(found, setting.wanted)
        shown = kind.show(found)
        verdict = "cannot_tell" if hidden else {None: "not_applicable", True: "pass", False: "fail"}[fits]
    except (OSError, CoreError) as error:
        shown, verdict = str(error), "cannot_tell" if hidden else "fail"
    what = f"{setting.kind} {setting.name}"
    return Finding(what, kind.show(setting.wanted), shown, kind.evidence(setting.name), verdict)


def worst(verdicts: Sequence[str]) -> str:
    """The verdict of a control by those of its findings: one that cannot be told is not covered by others that pass."""
    for verdict in ("fail", "cannot_tell", "pass"):
        if verdict in verdicts:
            return verdict
    return "not_applicable"

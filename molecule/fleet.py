# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bare Debian hosts for tests. Each boots its own systemd in a container of systemd-nspawn, has an address on its
fleet's bridge, and serial ports with virtual controllers behind them, which keep their power when the host reboots.

Everything of a fleet lies below one directory. Its processes are in one cgroup, its mounts and network namespaces end
with them. The root file systems, one of each Debian release, are kept in .cache/fleet.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tests"))

from support.virtual import Board, VirtualLine, simulator  # noqa: E402

CACHE = TOP / ".cache/fleet"
RELEASES = ("bookworm", "trixie")
USER = "ops"

# The programs this needs, and the Debian packages that have them.
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "apt-cacher-ng": "apt-cacher-ng",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "setpriv": "util-linux",
}
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}

# What an installer leaves on a server beside Debian's packages of priority "important".
PACKAGES = "ca-certificates,dbus,libpam-systemd,openssh-server,python3,python3-apt,sudo,systemd-sysv"
# The mirror may be a snapshot, which is old.
RECIPE = f"""
useradd --create-home --shell /bin/bash --groups sudo {USER}
echo '{USER} ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/{USER}
chmod 0440 /etc/sudoers.d/{USER}
install -d -m 0700 -o {USER} -g {USER} /home/{USER}/.ssh
echo LANG=C.UTF-8 >/etc/default/locale
printf '%s "false";\\n' Acquire::Check-Valid-Until Acquire::Check-Date >/etc/apt/apt.conf.d/90fleet
rm -f /etc/ssh/ssh_host_* /etc/hostname /etc/resolv.conf /var/lib/dbus/machine-id
: >/etc/machine-id
"""

# How udev names the adapter of a line and a programmer: ttyUSB0; by-id/usb-…_SERIAL…; by-path/…-usb-0:PLACE…
ADAPTERS = {
    "line": ("ttyUSB", "FTDI_FT232R_USB_UART", "-if00-port0", "1.{}:1.0-port0"),
    "programmer": ("ttyACM", "Arduino__www.arduino.cc__0043", "-if00", "2.{}:1.0"),
}

PROXY_PORT = 3142
FIRST_ADDRESS = 11
REBOOT = 133  # the exit code of systemd-nspawn whose container reboots
PATIENCE = 60.0
LEFT_OUT = 77  # the exit code of what could not be tried


class FleetError(Exception):
    """What is wrong with which fleet or host, and what to do about it."""


@dataclasses.dataclass(frozen=True)
class Host:
    """A host to be. `controllers` are entries of the inventory's list; used are name, unit, line and programmer.

    A port is called as in the inventory: /dev/serial/by-id/…, /dev/serial/by-path/… or /dev/ttyUSB0; it gets the other
    two names as well.
    """

    name: str
    release: str = "bookworm"
    controllers: Sequence[Mapping[str, Any]] = ()

    @property
    def lines(self) -> dict[str, list[Mapping[str, Any]]]:
        """The controllers of each serial line."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for entry in self.controllers:
            if "line" in entry:
                found.setdefault(entry["line"], []).append(entry)
        return found


def available() -> str | None:
    """Why there can be no fleet on this machine; None if there can."""
    if os.geteuid() != 0:
        return "a fleet of hosts needs root"
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        return f"a fleet of hosts needs the Debian packages {' '.join(missing)}"
    held = int(re.findall(r"^CapEff:\s*(\w+)", read(Path("/proc/self/status")), re.MULTILINE)[0], 16)
    denied = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if denied:
        return f"a fleet of hosts needs the capabilities {' and '.join(denied)}"
    root = cgroups()
    if root is None or not os.access(root, os.W_OK):
        return "a fleet of hosts needs a cgroup2 file system that is mounted and may be written"
    return None


# ---- the root file systems


def build(release: str) -> Path:
    """The root file system of a release, made if it is not there or was made by another recipe."""
    if release not in RELEASES:
        raise FleetError(f"Debian release {release!r}: expected one of {', '.join(RELEASES)}")
    stamp = hashlib.sha256(repr((release, PACKAGES, RECIPE)).encode()).hexdigest()[:12]
    base = CACHE / f"{release}-{stamp}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / f"{release}.lock"):
        if not base.exists():
            for old in CACHE.glob(f"{release}-*"):
                remove_base(old)
            fresh = CACHE / f"{release}.new"
            remove_tree(fresh)
            hook = f"--customize-hook=chroot \"$1\" sh -eu <<'END'{RECIPE}END"
            run("mmdebstrap", "--variant=important", f"--include={PACKAGES}", hook, release, fresh)
            # mmdebstrap has emptied apt's lists last of all: nobody must take them for fresh.
            os.utime(fresh / "var/lib/apt/lists", (0, 0))
            fresh.rename(base)
    return base


def remove_base(base: Path) -> None:
    """Not if a host rests on it."""
    descriptor = os.open(base, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(base)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


# ---- the serial ports


@dataclasses.dataclass(frozen=True)
class Port:
    """A serial port's names, below /dev."""

    device: str
    aliases: tuple[str, ...]

    def settings(self, key: str) -> list[str]:
        return [f"{key} = {self.device}", *(f"alias = {alias}" for alias in self.aliases)]


def ports(host: Host) -> dict[str, Port]:
    """The ports of a host, by what its controllers call them."""
    found: dict[str, Port] = {}
    entries = [entry for line in host.lines.values() for entry in line]
    for key, (kind, product, id_end, path_end) in ADAPTERS.items():
        names = dict.fromkeys(entry[key] for entry in entries if entry.get(key))
        free = (f"{kind}{number}" for number in range(2 * len(names)) if f"/dev/{kind}{number}" not in names)
        for number, name in enumerate(names):
            match = re.fullmatch("/dev/(serial/by-id/|serial/by-path/)?([^/]+)", name)
            if match is None:
                raise FleetError(
                    f"host {host.name}: {key} {name}: expected a port in /dev, /dev/serial/by-id or /dev/serial/by-path"
                )
            directory, last = match.groups()
            device = next(free) if directory else last
            serial = hashlib.sha256(f"{host.name} {device}".encode()).hexdigest()[:8].upper()
            alias = {
                "serial/by-id/": f"usb-{product}_{serial}{id_end}",
                "serial/by-path/": f"pci-0000:00:14.0-usb-0:{path_end.format(number + 1)}",
            }
            if directory:
                alias[directory] = last
            found[name] = Port(device, tuple(place + alias[place] for place in alias))
    return found


class HostLine(VirtualLine):
    """A virtual line whose ports are in a host's /dev, and which runs on beside the host as hardware does."""

    def __init__(self, directory: Path, host: Host, name: str, dev: Path | None = None) -> None:
        """`dev` is needed to start it, not to talk to one that runs."""
        super().__init__(directory, [Board(entry["name"], entry["unit"]) for entry in host.lines[name]])
        self._dev = dev
        self._ports = ports(host)
        self._name = name
        self._programmers = {entry["name"]: entry.get("programmer") for entry in host.lines[name]}

    @property
    def control_socket(self) -> Path:
        return self.directory / "control"

    def configuration(self) -> str:
        lines = [f"control = {self.control_socket}", f"dev = {self._dev}", *self._ports[self._name].settings("line")]
        for board in self.boards.values():
            lines += [f"[board {board.name}]", f"unit = {board.unit}", f"firmware = {board.firmware}"]
            lines.append(f"directory = {self.memory(board.name, '.')}")
            if programmer := self._programmers[board.name]:
                lines += self._ports[programmer].settings("programmer")
        return "\n".join(lines) + "\n"


# ---- the fleet


class Fleet:
    """The hosts of one directory. All of it raises FleetError; nothing works where `available` gives a reason."""

    def __init__(self, directory: Path) -> None:
        if reason := available():
            raise FleetError(reason)
        self.directory = directory.resolve()

    @property
    def key(self) -> Path:
        """The private key that opens every host as the user `ops`, who may sudo."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def inventory(self) -> Path:
        """An Ansible inventory: the hosts, with their controllers, in the group `gateways`."""
        return self.directory / "inventory.json"

    @property
    def hosts(self) -> dict[str, Host]:
        return {path.parent.name: self._host(path.parent.name) for path in sorted(self._place().glob("*/host.json"))}

    def up(self, hosts: Sequence[Host]) -> None:
        """Brings up those of the hosts that are not up, and waits until they answer.

        What is left of an `up` that was broken off is removed first.
        """
        for host in hosts:
            if not re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", host.name):
                raise FleetError(f"host name {host.name!r}: expected small letters, digits and hyphens")
            ports(host)
        bases = {release: build(release) for release in {host.release for host in hosts}}
        simulator()
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.directory / "lock"):
            raise_kernel_limits()
            self._bridge_up()
            self._cacher_up()
            if not self.key.exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fleet", "-f", self.key)
            for host in hosts:
                if not self._is_up(host.name):
                    end_cgroup(self._cgroup(host.name))
                    remove_tree(self._place(host.name))
                    self._start_host(host, bases[host.release])
            for host in hosts:
                self.wait(host.name)
            self._write_inventory()

    def down(self) -> None:
        """Removes the hosts and all else of the fleet, whatever of it there is."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.directory / "lock"):
            # Ansible leaves a connection open to each host.
            for connection in self._connections.glob("*"):
                close = ["ssh", "-F", "none", "-S", str(connection), "-O", "exit", "-"]
                subprocess.run(close, capture_output=True, check=False)
            end_cgroup(self._processes)
            if bridge := self._bridge():
                for link in links("master", bridge):
                    with contextlib.suppress(FleetError):  # gone with its host meanwhile
                        run("ip", "link", "delete", link["ifname"])
                run("ip", "link", "delete", bridge)
            for place in (self._place(), self._connections, self.directory / "cacher"):
                remove_tree(place)
            for file in (self.key, self.key.with_suffix(".pub"), self.known_hosts, self.inventory):
                file.unlink(missing_ok=True)
            (self.directory / "lock").unlink()
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def address(self, name: str) -> str:
        return str(self._network()[self._description(name)["number"]])

    def leader(self, name: str) -> int | None:
        """The process that is the host's process 1; None while the host is down."""
        for process in read(self._cgroup(name) / "payload/init.scope/cgroup.procs").split():
            if re.search(r"^NSpid:.*\s1$", read(Path(f"/proc/{process}/status")), re.MULTILINE):
                return int(process)
        return None

    def wait(self, name: str, *, other_than: int | None = None) -> None:
        """Until the host takes ssh connections and has its ports; after a reboot, until it has another leader."""
        until = time.monotonic() + PATIENCE
        while self.leader(name) in (None, other_than) or not self._is_up(name) or not answers(self.address(name), 22):
            if time.monotonic() > until or not is_populated(self._cgroup(name)):
                logs = "\n".join(read(self._place(name) / log)[-2000:] for log in ("keeper.log", "console.log"))
                raise FleetError(f"host {name} does not come up; its logs in {self._place(name)} end with:\n{logs}")
            time.sleep(0.05)

    def reboot(self, name: str) -> None:
        """Reboots the host from inside and waits until it is back."""
        leader = self.leader(name)
        # logind refuses while apt is at work; what ends a host in the field does not ask it either.
        self.ssh(name, "sudo sh -c 'systemctl reboot || systemctl reboot --force'", check=False)
        self.wait(name, other_than=leader)

    def reinstall(self, name: str) -> None:
        """Gives the host a disk with bare Debian. What is plugged into it keeps its memories, and lost its power."""
        with locked(self.directory / "lock"):
            host, place = self._host(name), self._place(name)
            boards = [self._line_place(host, line) for line in host.lines]
            end_cgroup(self._cgroup(name))
            for path in place.iterdir():
                if path.is_dir() and path not in boards:
                    remove_tree(path)
                elif path.is_file():
                    path.unlink()
            self._start_host(host, build(host.release))
            self.wait(name)
            self._write_inventory()

    def ssh_command(self, name: str) -> list[str]:
        options = [*self._ssh_options(), "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-i", str(self.key)]
        return ["ssh", *options, f"{USER}@{self.address(name)}"]

    def ssh(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command on the host, as `ops`; with `check`, a command that fails is an error with what it said."""
        done = subprocess.run([*self.ssh_command(name), *command], capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            said = f"{done.stdout}{done.stderr}".strip()
            raise FleetError(f"host {name}: {' '.join(command)}: exit code {done.returncode}: {said}")
        return done

    def plug(self, name: str, port: str) -> None:
        """Puts a port's adapter or programmer in again; the port is called as in the inventory."""
        self._to_port(name, port, "plug")

    def unplug(self, name: str, port: str) -> None:
        """Pulls a port's adapter or programmer out."""
        self._to_port(name, port, "unplug")

    def control(self, name: str, target: str, *words: object) -> dict[str, Any]:
        """Gives the simulator a command (see the role virtual_controller); its answer.

        The target is a controller, or a line as the inventory calls it.
        """
        host = self._host(name)
        for path, entries in host.lines.items():
            if target == path or target in [entry["name"] for entry in entries]:
                line = HostLine(self._line_place(host, path), host, path)
                try:
                    return line.control("line" if target == path else target, *words)
                finally:
                    line.stop()
        raise FleetError(f"host {name} has no controller or line {target}")

    @property
    def _connections(self) -> Path:
        return self.directory / "ssh"

    def _place(self, name: str = "") -> Path:
        return self.directory / "hosts" / name

    def _line_place(self, host: Host, line: str) -> Path:
        return self._place(host.name) / ports(host)[line].device

    @property
    def _processes(self) -> Path:
        """The fleet's cgroup."""
        root = cgroups()
        if root is None:
            raise FleetError("the cgroup2 file system is not mounted any more")
        return root / f"fleet-{hashlib.sha256(str(self.directory).encode()).hexdigest()[:12]}"

    def _cgroup(self, name: str) -> Path:
        return self._processes / "hosts" / name

    def _description(self, name: str) -> dict[str, Any]:
        try:
            description: dict[str, Any] = json.loads((self._place(name) / "host.json").read_text())
        except FileNotFoundError:
            raise FleetError(f"no host {name} in the fleet {self.directory}") from None
        return description

    def _host(self, name: str) -> Host:
        description = self._description(name)
        return Host(name, description["release"], description["controllers"])

    def _is_up(self, name: str) -> bool:
        """Whether its keeper says so, by a lock that ends with it."""
        with contextlib.suppress(FileNotFoundError), (self._place(name) / "up").open() as mark:
            try:
                fcntl.flock(mark, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _start_host(self, host: Host, base: Path) -> None:
        place = self._place(host.name)
        place.mkdir(parents=True, exist_ok=True)
        taken = [self._description(other)["number"] for other in self.hosts]
        number = next(number for number in range(FIRST_ADDRESS, 255) if number not in taken)
        (place / "host.json").write_text(json.dumps({"number": number, **dataclasses.asdict(host)}, indent=2))
        keeper = (sys.executable, __file__, "keep", self.directory, host.name, base)
        unshare = ("unshare", "--mount", "--propagation=private")
        start(self._cgroup(host.name), place / "keeper.log", *unshare, *map(str, keeper))

    def _bridge(self) -> str | None:
        """The fleet's bridge tells by its alias whose it is."""
        bridges = links("type", "bridge")
        return next((link["ifname"] for link in bridges if link.get("ifalias") == str(self.directory)), None)

    def _network(self) -> ipaddress.IPv4Network:
        bridge = self._bridge()
        if bridge is None:
            raise FleetError(f"the fleet {self.directory} is not up")
        return network(bridge)

    def _bridge_up(self) -> None:
        bridge = self._bridge() or self._claim_bridge()
        subnet = network(bridge)
        run("ip", "address", "replace", f"{subnet[1]}/{subnet.prefixlen}", "dev", bridge)
        run("ip", "link", "set", bridge, "up")

    def _claim_bridge(self) -> str:
        taken = networks_in_use()
        for number in range(256):
            bridge = f"fleet{number}"
            if any(network(bridge).overlaps(other) for other in taken):
                continue
            # One command, so that nothing comes between. It fails if another fleet was quicker.
            steps = f'link add {bridge} type bridge\nlink set {bridge} alias "{self.directory}"\n'
            try:
                run("ip", "-batch", "-", text=steps)
            except FleetError:
                if not Path(f"/sys/class/net/{bridge}").exists():
                    raise
            else:
                return bridge
        raise FleetError("all networks from 10.203.0.0/24 to 10.203.255.0/24 are in use on this machine")

    def _cacher_up(self) -> None:
        """The hosts' only way out: an apt proxy on the bridge.

        It keeps what it fetched for the next fleet. One cache is for one proxy: a second fleet beside has its own.
        """
        address = str(self._network()[1])
        if answers(address, PROXY_PORT):
            return
        place = self.directory / "cacher"
        place.mkdir(exist_ok=True)
        with (CACHE / "packages.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                packages = CACHE / "packages"
            except BlockingIOError:
                packages = place / "packages"
            packages.mkdir(exist_ok=True)
            (place / "acng.conf").write_text(
                f"CacheDir: {packages}\nLogDir: {place}\nBindAddress: {address}\nPort: {PROXY_PORT}\nForeGround: 1\n"
            )
            command = ("apt-cacher-ng", "-c", str(place))
            start(self._processes / "cacher", place / "output.log", *command, pass_fds=[lock.fileno()])
        until = time.monotonic() + PATIENCE
        while not answers(address, PROXY_PORT):
            if time.monotonic() > until:
                raise FleetError(f"apt-cacher-ng does not answer on {address}: {read(place / 'output.log')[-2000:]}")
            time.sleep(0.05)

    def _to_port(self, name: str, port: str, command: str) -> None:
        for line, entries in self._host(name).lines.items():
            if port == line:
                self.control(name, line, command)
                return
            for entry in entries:
                if port == entry.get("programmer"):
                    self.control(name, entry["name"], command)
                    return
        raise FleetError(f"host {name} has no port {port}")

    def _ssh_options(self) -> list[str]:
        # A host that went down without a word would be waited for for ever; one that a firewall cuts off comes back.
        patience = ("-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=10")
        known = ("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=yes")
        return ["-F", "none", *patience, *known]

    def _write_inventory(self) -> None:
        shared = {
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_control_path_dir": str(self._connections),
            "ansible_ssh_common_args": " ".join(self._ssh_options()),
            "ansible_become": True,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        keys, entries = [], {}
        for name, host in self.hosts.items():
            address = self.address(name)
            public = sorted((self._place(name) / "upper/etc/ssh").glob("ssh_host_*_key.pub"))
            keys += [f"{address} {path.read_text()}" for path in public]
            entries[name] = {"ansible_host": address, "controllers": host.controllers}
        self.known_hosts.write_text("".join(keys))
        self.inventory.write_text(json.dumps({"gateways": {"hosts": entries, "vars": shared}}, indent=2))

    # ---- the process beside each host

    def keep(self, name: str, base: Path) -> None:
        """Boots the host, again after each reboot until it halts, and keeps what is plugged into it.

        Runs in a mount namespace of its own, so that the host's mounts end with it.
        """
        os.umask(0o022)
        host, place = self._host(name), self._place(name)
        # A plain cgroup2, as every Debian has it; this machine may have another.
        subprocess.run(["umount", "--recursive", "/sys/fs/cgroup"], check=False)
        run("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
        # Where nspawn leaves locks when it is killed.
        Path("/run/systemd").mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", "/run/systemd")
        fcntl.flock(os.open(base, os.O_RDONLY), fcntl.LOCK_SH)
        for directory in ("upper", "work", "root"):
            (place / directory).mkdir()
        layers = f"lowerdir={base},upperdir={place}/upper,workdir={place}/work"
        run("mount", "-t", "overlay", "-o", layers, "overlay", place / "root")
        self._install(host, place / "root")
        lines: list[HostLine] = []
        with (place / "up").open("w") as mark:
            while True:
                with (place / "console.log").open("a") as log:
                    nspawn = subprocess.Popen(self._boot(host), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                while (leader := self.leader(name)) is None and nspawn.poll() is None:
                    time.sleep(0.01)
                dev = Path(f"/proc/{leader}/root/dev")
                for line in lines:
                    line.control("line", "dev", dev)
                if leader is not None and not lines:
                    lines = [HostLine(self._line_place(host, line), host, line, dev) for line in host.lines]
                    for line in lines:
                        line.start()
                fcntl.flock(mark, fcntl.LOCK_EX)
                if nspawn.wait() != REBOOT:
                    break
                fcntl.flock(mark, fcntl.LOCK_UN)
        for line in lines:
            line.stop()

    def _install(self, host: Host, root: Path) -> None:
        """What an installer asks for."""
        subnet = self._network()
        files = {
            "etc/hostname": f"{host.name}\n",
            "etc/hosts": f"127.0.0.1\tlocalhost\n127.0.1.1\t{host.name}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
            "etc/network/interfaces": (
                "auto lo\niface lo inet loopback\n\nauto host0\niface host0 inet static\n"
                f"\taddress {self.address(host.name)}/{subnet.prefixlen}\n"
            ),
            # Where many ask it for a list in one second the proxy ends connections, which apt gets over one by one.
            "etc/apt/apt.conf.d/90proxy": f'Acquire::http::Proxy "http://{subnet[1]}:{PROXY_PORT}";\n'
            'Acquire::http::Pipeline-Depth "0";\nAcquire::Retries "5";\n',
            f"home/{USER}/.ssh/authorized_keys": self.key.with_suffix(".pub").read_text(),
        }
        for path, text in files.items():
            (root / path).write_text(text)
        run("ssh-keygen", "-A", "-f", root)

    def _boot(self, host: Host) -> list[str]:
        bridge = self._bridge()
        return [
            "setpriv", "--pdeathsig=KILL", "env", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network",
            "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-users=no",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe",
            f"--directory={self._place(host.name) / 'root'}", f"--hostname={host.name}",
            f"--machine={bridge}-{self._description(host.name)['number']}", f"--network-bridge={bridge}",
        ]  # fmt: skip


# ---- this machine


def run(*command: str | os.PathLike[str], text: str | None = None) -> str:
    """What a command prints. Raises FleetError with what it said if it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise FleetError(f"{' '.join(map(str, command))}: exit code {done.returncode}: {said}")
    return done.stdout


def start(cgroup: Path, log: Path, *command: str, pass_fds: Sequence[int] = ()) -> None:
    """Starts a process that outlives this one, in a cgroup from its first moment."""
    cgroup.mkdir(parents=True, exist_ok=True)
    script = 'echo 0 >"$0/cgroup.procs" && exec setsid --fork "$@"'
    with log.open("a") as output:
        subprocess.run(
            ["sh", "-c", script, str(cgroup), *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True, pass_fds=pass_fds,
            env={**os.environ, "TMPDIR": str(log.parent)},
        )  # fmt: skip


def read(path: Path) -> str:
    """A file's text, empty if it is not there (any more)."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def remove_tree(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cgroups() -> Path | None:
    """Where the unified cgroup hierarchy is mounted."""
    for mount in read(Path("/proc/self/mountinfo")).splitlines():
        fields, _unused, kind = mount.partition(" - ")
        if kind.startswith("cgroup2 "):
            return Path(fields.split()[4])
    return None


def is_populated(cgroup: Path) -> bool:
    return "populated 1" in read(cgroup / "cgroup.events")


def end_cgroup(cgroup: Path) -> None:
    """Kills what runs in a cgroup and removes it."""
    if not cgroup.exists():
        return
    (cgroup / "cgroup.kill").write_text("1\n")
    until = time.monotonic() + PATIENCE
    while is_populated(cgroup):
        if time.monotonic() > until:
            raise FleetError(f"processes in {cgroup} do not end although they were killed")
        time.sleep(0.01)
    for directory, _directories, _files in os.walk(cgroup, topdown=False):
        os.rmdir(directory)


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def links(*selection: str) -> list[dict[str, Any]]:
    """Network links, as ip describes them."""
    found: list[dict[str, Any]] = json.loads(run("ip", "-json", "link", "show", *selection) or "[]")
    return found


def network(bridge: str) -> ipaddress.IPv4Network:
    """The network of the bridge fleetN."""
    return ipaddress.IPv4Network(f"10.203.{bridge.removeprefix('fleet')}.0/24")


def networks_in_use() -> list[ipaddress.IPv4Network]:
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all"))
    return [ipaddress.IPv4Network(route["dst"]) for route in routes if route["dst"] != "default"]


def raise_kernel_limits() -> None:
    """The hosts' inotify instances all count as root's."""
    for name, least in (("max_user_instances", 8192), ("max_user_watches", 524288)):
        limit = Path("/proc/sys/fs/inotify") / name
        if int(limit.read_text()) < least:
            limit.write_text(f"{least}\n")


# ---- the command line


def described(words: Sequence[str], file: Path | None) -> list[Host]:
    hosts = [Host(name, release or "bookworm") for name, _colon, release in (word.partition(":") for word in words)]
    for entry in json.loads(file.read_text()) if file else ():
        hosts.append(Host(entry["name"], entry.get("release", "bookworm"), entry.get("controllers", ())))
    return hosts


def print_status(fleet: Fleet) -> None:
    for name, host in fleet.hosts.items():
        leader = fleet.leader(name)
        print(f"{name:16} {host.release:10} {fleet.address(name):15} {f'up, process {leader}' if leader else 'down'}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fleet.py", description="Bare Debian hosts for tests, with virtual controllers."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text)
        command.add_argument("directory", type=Path, help="where the fleet lies")
        return command

    commands.add_parser("available", help="say whether there can be a fleet on this machine, with exit code 77 if not")
    commands.add_parser("build", help="make the root file systems").add_argument("release", nargs="*", default=RELEASES)
    up = add("up", "bring up hosts")
    up.add_argument("--hosts", type=Path, metavar="FILE", help="a JSON list of {name, release, controllers}")
    up.add_argument("host", nargs="*", metavar="NAME[:RELEASE]")
    add("down", "remove the hosts")
    add("status", "list the hosts")
    ssh = add("ssh", "log in, or run a command, as ops")
    plug = add("plug", "put a serial port's adapter in again")
    unplug = add("unplug", "pull a serial port's adapter out")
    control = add("control", "give the simulator a command, see the role virtual_controller")
    keep = add("keep", "what up leaves running beside each host")
    for command in (ssh, plug, unplug, control, keep):
        command.add_argument("host")
    for command in (plug, unplug):
        command.add_argument("port", help="as the inventory calls it")
    control.add_argument("target", help="a controller, or a line as the inventory calls it")
    for command in (ssh, control):
        command.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    keep.add_argument("base", type=Path)
    return parser.parse_args()


def carry_out(given: argparse.Namespace) -> None:
    if given.command == "available":
        if reason := available():
            print(reason)
            sys.exit(LEFT_OUT)
        return
    if given.command == "build":
        for release in given.release:
            print(build(release))
        return
    fleet = Fleet(given.directory)
    match given.command:
        case "up":
            fleet.up(described(given.host, given.hosts))
            print_status(fleet)
        case "down":
            fleet.down()
        case "status":
            print_status(fleet)
        case "ssh":
            command = [*fleet.ssh_command(given.host), *given.words]
            os.execvp(command[0], command)
        case "plug":
            fleet.plug(given.host, given.port)
        case "unplug":
            fleet.unplug(given.host, given.port)
        case "control":
            print(json.dumps(fleet.control(given.host, given.target, *given.words), indent=2))
        case "keep":
            fleet.keep(given.host, given.base)


if __name__ == "__main__":
    try:
        carry_out(arguments())
    except FleetError as problem:
        sys.exit(f"fleet.py: {problem}")

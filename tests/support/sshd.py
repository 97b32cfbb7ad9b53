# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway's OpenSSH server on this machine, and Ansible's connection to it, which can be cut."""

from __future__ import annotations

import contextlib
import getpass
import grp
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

from support.cuts import descendants

_SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
_SFTP = "/usr/lib/openssh/sftp-server"
INSTALLED = _SSHD is not None and Path(_SFTP).exists()
_DEADLINE = 10.0
# What runs each command; see Sshd.cut_at.
_COMMAND = f"""\
#!/bin/sh
cuts=${{0%/*}}/cuts
if read -r words 2>/dev/null <"$cuts"; then
  case $SSH_ORIGINAL_COMMAND in *"$words"*) sed -i 1d "$cuts"; kill -9 $PPID ;; esac
fi
[ "$SSH_ORIGINAL_COMMAND" != {_SFTP} ] || exec {_SFTP}
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""


class Sshd:
    """An ``sshd`` as an ordinary process, with keys and settings of its own, that lets in whoever runs the tests.

    ``home`` is what those who log in find as theirs.
    """

    def __init__(self, directory: Path, home: Path) -> None:
        self.directory = directory
        self.log = directory / "sshd.log"
        self._process: subprocess.Popen[bytes] | None = None
        # A socket's path may have 107 bytes only; pytest's directories are often longer.
        self._sockets = tempfile.mkdtemp(prefix="sshd-")
        self._control_path = Path(self._sockets) / "control"
        self._port = _free_port()
        directory.mkdir()
        for name in ("host_key", "user_key"):
            key = str(directory / name)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
        public = (directory / "host_key.pub").read_text()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{self._port} {public}")
        command = directory / "command"
        command.write_text(_COMMAND)
        command.chmod(0o755)
        settings = {
            "ListenAddress": f"127.0.0.1:{self._port}",
            "HostKey": directory / "host_key",
            "AuthorizedKeysFile": directory / "user_key.pub",
            "AuthenticationMethods": "publickey",
            "StrictModes": "no",  # it would mind that everybody may write into /tmp
            "PidFile": "none",
            "Subsystem": f"sftp {_SFTP}",
            "SetEnv": f"HOME={home}",
            "ForceCommand": command,
        }
        (directory / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))

    @property
    def variables(self) -> dict[str, Any]:
        """What an inventory says of a host that is reached here."""
        known = f"-o UserKnownHostsFile={self.directory / 'known_hosts'} -o GlobalKnownHostsFile=none"
        return {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self._port,
            "ansible_user": getpass.getuser(),
            "ansible_ssh_private_key_file": str(self.directory / "user_key"),
            "ansible_ssh_common_args": f"-F none -o IdentitiesOnly=yes {known}",
            "ansible_control_path": str(self._control_path),
            "ansible_ssh_use_tty": _gives_terminals(),
        }

    def start(self) -> None:
        """Start it, and return when it listens."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # without that root's does not start
        command = [str(_SSHD), "-D", "-f", str(self.directory / "sshd_config"), "-E", str(self.log)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _DEADLINE
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Kill it with all connections to it. Connections are refused from then on."""
        if self._process is None:
            return
        process, self._process = self._process, None
        sessions = _sessions(process.pid)
        _kill([process.pid])
        process.wait()
        _kill([*sessions, *self._masters()])

    def cut(self) -> None:
        """Kill all connections to it."""
        if self._process is not None:
            _kill([*_sessions(self._process.pid), *self._masters()])

    def freeze(self) -> None:
        """Have it answer no more, on connections that seem to be there: as if its cable had been pulled."""
        if self._process is not None:
            for pid in (self._process.pid, *_sessions(self._process.pid)):
                os.kill(pid, signal.SIGSTOP)

    def cut_at(self, *commands: str) -> None:
        """Have the connection killed when a command that has these words comes; each once, in this order."""
        (self.directory / "cuts").write_text("".join(f"{words}\n" for words in commands))

    @property
    def cuts(self) -> list[str]:
        """Those that are still to come."""
        return (self.directory / "cuts").read_text().splitlines()

    def _masters(self) -> list[int]:
        """The client's process that holds the connection open between Ansible's commands."""
        title = f"ssh: {self._control_path} [mux]".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes().startswith(title):
                    found.append(int(entry.name))
        return found

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._sockets)


def _sessions(pid: int) -> list[int]:
    """The server's processes that serve connections, without what those connections run."""
    found = []
    for one in descendants(pid):
        with contextlib.suppress(OSError):
            if one != pid and Path(f"/proc/{one}/comm").read_text().startswith("sshd"):
                found.append(one)
    return found


def _kill(pids: Collection[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _gives_terminals() -> bool:
    """Whether this user's sshd can: a terminal has to belong to the group tty, and only root may see to that."""
    descriptors = os.openpty()
    try:
        return os.getuid() == 0 or os.fstat(descriptors[1]).st_gid == grp.getgrnam("tty").gr_gid
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

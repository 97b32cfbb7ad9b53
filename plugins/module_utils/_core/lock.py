# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may use a port: flock with a deadline, the holder's name, and lock files for ports that must not be opened."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

from .errors import CoreError, PortBusy, PortMissing

_POLL_INTERVAL = 0.0002
_MARK = "multi_sonicator.ops"
_PTYS = range(136, 144)  # major numbers of the slaves of pseudo terminals


@dataclass(frozen=True)
class Process:
    """A process as an error names it."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"PID {self.pid} ({self.command})"


def process(pid: int) -> Process | None:
    """The living process with this id; None when there is none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            arguments = stream.read()
        if not arguments:
            with open(f"/proc/{pid}/stat", "rb") as stream:
                name, _bracket, rest = stream.read().partition(b"(")[2].rpartition(b")")
            if rest.split()[0] == b"Z":
                return None  # it has ended and holds nothing, its parent has just not taken note
            arguments = b"[" + name + b"]"
    except OSError:
        return None
    return Process(pid, arguments.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace"))


def name_all(processes: Iterable[Process], unknown: str = "a process that /proc does not show") -> str:
    return ", ".join(str(one) for one in processes) or unknown


def try_lock(fd: int) -> bool:
    """Take the exclusive flock of this open file if it is free."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(fd: int, timeout: float) -> int:
    """Take the exclusive flock of this open file, waiting for it up to timeout seconds.

    Returns the number of tries: 1 when it was free at once, 0 when the time ran out. One waiter at a time stands first
    in line, by a record lock on the same file, and nobody passes it: a process that asks again and again would
    otherwise keep the others out, for a flock goes to whoever happens to ask when it is free.
    """
    deadline = time.monotonic() + timeout
    tries = 0
    first = False
    try:
        while True:
            tries += 1
            first = first or _stand_first(fd)
            if first and try_lock(fd):
                return tries
            if time.monotonic() >= deadline:
                return 0
            time.sleep(_POLL_INTERVAL)
    finally:
        if first:
            fcntl.lockf(fd, fcntl.LOCK_UN, 1)


def _stand_first(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)


def holders(path: str) -> list[Process]:
    """The processes that hold the flock of a file.

    Their open files tell exactly, also of a child that keeps the lock of a parent that gave it up. Where we may not
    look at those (another user's process), /proc/locks still names the process that took the lock.
    """
    try:
        status = os.stat(path)
        with open("/proc/locks", encoding="ascii") as stream:
            table = stream.read()
    except OSError:
        return []
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    takers = {int(pid) for pid in re.findall(rf"^\d+: FLOCK +\S+ +\S+ (\d+) {place} ", table, re.MULTILINE)}
    keepers = {pid for pid, fd in _open_files(os.path.realpath(path)) if "FLOCK" in _fdinfo(pid, fd)}
    return [one for one in map(process, sorted(keepers or takers)) if one is not None]


def openers(path: str, ignore: Iterable[int] = ()) -> list[Process]:
    """The other processes that have this device open.

    Whoever simulates the device (holds the master side of a PTY) is the device, not its user.
    """
    device = os.path.realpath(path)
    skipped = {os.getpid(), *ignore}
    pids = {pid for pid, _unused in _open_files(device) if pid not in skipped}
    if pids and (pty := re.fullmatch(r"/dev/pts/(\d+)", device)):
        simulators = {
            pid
            for pid, fd in (*_open_files("/dev/ptmx"), *_open_files("/dev/pts/ptmx"))
            if re.search(rf"^tty-index:\s*{pty[1]}$", _fdinfo(pid, fd), re.MULTILINE)
        }
        pids -= simulators
    return [one for one in map(process, sorted(pids)) if one is not None]


def _open_files(target: str) -> Iterator[tuple[int, str]]:
    """Processes that have this file open, each with the descriptor it has it under."""
    try:
        status = os.stat(target)
    except OSError:
        return
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            descriptors = os.listdir(f"/proc/{entry}/fd")
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                path = f"/proc/{entry}/fd/{descriptor}"
                # In a container the same name may be another file; above all, each has terminals of its own.
                if os.readlink(path) == target and _same(status, os.stat(path)):
                    yield int(entry), descriptor
            except OSError:
                continue


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether both are the same file, or one device under two names; of pseudo terminals the number does not tell."""
    if os.path.samestat(one, other):
        return True
    return stat.S_ISCHR(one.st_mode) and one.st_rdev == other.st_rdev and os.major(one.st_rdev) not in _PTYS


def _fdinfo(pid: int, descriptor: str) -> str:
    try:
        with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


class PortLock:
    """Exclusive use of a port that must not be opened just to lock it (opening an Arduino's tty resets it).

    A UUCP lock file, which other serial programs respect, carries our PID; a flock on it is what counts among
    ourselves, for it ends with its holder however that one dies. Give ``fd`` to a child (``pass_fds=(lock.fd,)``)
    and the port stays locked until the child has ended too.
    """

    def __init__(self, path: str, lock_directory: str = "/run/lock", fallback_directory: str | None = None) -> None:
        self.path = path
        self._directories = [lock_directory] + ([fallback_directory] if fallback_directory else [])
        self._file: str | None = None
        self._fd = -1

    @property
    def fd(self) -> int:
        """The open lock file, to be inherited by a child that uses the port."""
        if self._fd < 0:
            raise CoreError(f"port {self.path}: not locked")
        return self._fd

    @property
    def lock_file(self) -> str | None:
        """Where the lock file is while the port is locked."""
        return self._file

    def acquire(self, timeout: float = 0.0) -> None:
        """Lock the port or raise PortBusy (naming the holder), waiting for it up to timeout seconds."""
        if self._fd >= 0:
            raise CoreError(f"port {self.path}: already locked by this object")
        if not os.path.exists(self.path):
            raise PortMissing(missing_port("port", self.path))
        deadline = time.monotonic() + timeout
        while not self._take(final=time.monotonic() >= deadline):
            time.sleep(0.05)

    def release(self) -> None:
        """Give the port back; where a child still holds the lock file, it stays locked until that one ends."""
        if self._fd < 0 or self._file is None:
            return
        file, self._file = self._file, None
        os.close(self._fd)
        self._fd = -1
        try:
            fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            if try_lock(fd) and _same_file(fd, file):
                os.unlink(file)
        except OSError:
            pass
        finally:
            os.close(fd)

    def __enter__(self) -> PortLock:
        if self._fd < 0:
            self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _take(self, final: bool) -> bool:
        """Whether the port is ours now; on the final try PortBusy tells why not."""
        file, fd = self._open_lock_file()
        try:
            if not try_lock(fd):
                reason = f"locked ({file}) by {name_all(holders(file))}"
            elif not _same_file(fd, file):
                # Its last holder removed the file between our open and our lock.
                reason = f"lock file {file} changes hands"
            else:
                reason = self._other_user(fd, file)
            if not reason:
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid():10d}\n{_MARK}\n".encode(), 0)
                self._file, self._fd = file, fd
                return True
            if final:
                raise PortBusy(
                    f"port {self.path}: {reason}; expected it free; wait until that one has ended, or end it"
                )
            return False
        finally:
            if self._fd != fd:
                os.close(fd)

    def _other_user(self, fd: int, file: str) -> str:
        content = os.pread(fd, 200, 0).decode(errors="replace")
        owner = re.match(r"\s*(\d+)", content)
        # In a file of ours the flock is the truth: the PID may be of a killed run and given to another process by now.
        if owner and _MARK not in content:
            foreigner = process(int(owner[1]))
            if foreigner:
                return f"used by {foreigner}, says {file} (remove it if it is a leftover)"
        users = openers(self.path)
        return f"open in {name_all(users)}" if users else ""

    def _open_lock_file(self) -> tuple[str, int]:
        refusals = []
        for directory in self._directories:
            file = os.path.join(directory, f"LCK..{os.path.basename(os.path.realpath(self.path))}")
            try:
                return file, _open_shared(file)
            except OSError as error:
                refusals.append(f"{file}: {error.strerror}")
        raise CoreError(
            f"port {self.path}: no lock file can be written ({'; '.join(refusals)}); "
            f"expected a writable lock directory: create it, or run as a user that may write there"
        )


def _open_shared(file: str) -> int:
    """Open a lock file, also one of another user; without O_CREAT first, which sticky directories deny for those."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        try:
            return os.open(file, flags)
        except FileNotFoundError:
            pass
        try:
            fd = os.open(file, flags | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        os.fchmod(fd, 0o666)
        return fd


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def missing_port(kind: str, path: str) -> str:
    """The text of PortMissing: with the ports that are there, for a wrong name is more frequent than a pulled cable."""
    directory = "/dev/serial/by-id"
    try:
        present = ", ".join(os.path.join(directory, name) for name in sorted(os.listdir(directory)))
    except OSError:
        present = ""
    return (
        f"{kind} {path}: {os.strerror(errno.ENODEV)}; ports with a name here: {present or 'none'}; "
        f"check the cable and the name in the inventory"
    )

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks: taken, waited for, released by whatever kills their holder, and the holder's name."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _core import lock
from _core.errors import CoreError, PortBusy, PortMissing
from _core.lock import PortLock
from support.paced_slave import ROOT

HOLD = f"""
import os, subprocess, sys
sys.path.insert(0, {str(ROOT / "plugins" / "module_utils")!r})
from _core.lock import PortLock
lock = PortLock(sys.argv[1], sys.argv[2])
lock.acquire()
if len(sys.argv) > 3:
    child = subprocess.Popen(["sleep", "60"], pass_fds=(lock.fd,), stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
else:
    print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def port() -> Iterator[str]:
    """A device that nobody uses: a PTY whose master we hold, as a simulator would."""
    master, slave = os.openpty()
    yield os.ttyname(slave)
    os.close(slave)
    os.close(master)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    (tmp_path / "lock").mkdir()
    return str(tmp_path / "lock")


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for one in started:
        one.kill()
        one.communicate()


def start(children: list[subprocess.Popen[str]], *command: str) -> tuple[subprocess.Popen[str], str]:
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    children.append(child)
    assert child.stdout
    return child, child.stdout.readline().strip()


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while lock.process(pid) and "sleep" in str(lock.process(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    first, second = os.open(file, os.O_RDWR), os.open(file, os.O_RDWR)
    try:
        assert lock.lock(first, 0)
        started = time.monotonic()
        assert not lock.lock(second, 0.1)
        assert 0.1 <= time.monotonic() - started < 1
        assert [one.pid for one in lock.holders(str(file))] == [os.getpid()]
        lock.unlock(first)
        assert lock.lock(second, 0)
    finally:
        os.close(first)
        os.close(second)
    assert lock.holders(str(file)) == []


def test_nobody_passes_who_waits_already(tmp_path: Path, children: list[subprocess.Popen[str]]) -> None:
    """The holder gives up its lock and asks at once again, without a pause: the waiter comes first all the same."""
    file = tmp_path / "file"
    file.touch()
    waiter = (
        f"import os, sys; sys.path.insert(0, {str(ROOT / 'plugins' / 'module_utils')!r}); from _core import lock\n"
        "fd = os.open(sys.argv[1], os.O_RDWR); print('ready', flush=True)\n"
        "print(lock.lock(fd, 10) > 1, flush=True); os.write(fd, b'waiter was here')"
    )
    fd = os.open(file, os.O_RDWR)
    try:
        assert lock.lock(fd, 0) == 1
        child, _unused = start(children, sys.executable, "-c", waiter, str(file))
        time.sleep(0.2)
        lock.unlock(fd)
        assert lock.lock(fd, 10) > 1
        assert child.stdout
        assert child.stdout.readline() == "True\n"
        assert os.pread(fd, 100, 0) == b"waiter was here"
    finally:
        os.close(fd)


def test_the_taker_is_named_where_we_may_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(lock, "_open_files", lambda _: iter(()))
    with open(file, "w") as stream:
        assert lock.lock(stream.fileno(), 0)
        assert [one.pid for one in lock.holders(str(file))] == [os.getpid()]


def test_holders_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert lock.holders(str(tmp_path / "none")) == []


def test_processes_have_names() -> None:
    me = lock.process(os.getpid())
    assert me
    assert "python" in me.command
    assert str(me).startswith(f"PID {os.getpid()} (")
    assert lock.name_all([]) == "a process that /proc does not show"
    assert lock.process(2**22 + 1) is None


@pytest.mark.parametrize(("state", "found"), [("S", "PID 2 ([kthreadd])"), ("Z", "None")])
def test_a_process_without_a_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, found: str
) -> None:
    """Kernel threads have their name in brackets, as ps writes it; a zombie has ended and holds nothing."""
    (tmp_path / "cmdline").touch()
    (tmp_path / "stat").write_text(f"2 (kthreadd) {state} 0 0\n")
    real = open
    monkeypatch.setattr(
        "builtins.open", lambda path, *rest, **more: real(str(path).replace("/proc/2/", f"{tmp_path}/"), *rest, **more)
    )
    assert str(lock.process(2)) == found


def test_openers_are_the_others_that_use_the_port(
    port: str, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    assert lock.openers(port) == []
    link = tmp_path / "isp_1"
    link.symlink_to(port)
    program = (
        "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print('open', flush=True); sys.stdin.read()"
    )
    child, _unused = start(children, sys.executable, "-c", program, port)
    assert [one.pid for one in lock.openers(str(link))] == [child.pid]
    assert lock.openers(str(link), ignore=[child.pid]) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root may make terminals as a container has them")
def test_a_terminal_of_the_same_name_in_a_container_is_another(
    port: str, children: list[subprocess.Popen[str]]
) -> None:
    program = """if 1:
        import os, subprocess, sys
        name = ""
        while name != sys.argv[1]:
            master, slave = os.openpty()
            name = os.ttyname(slave)
        user = "import os, sys; os.open(sys.argv[1], os.O_RDWR); print('open', flush=True); sys.stdin.read()"
        subprocess.Popen([sys.executable, "-c", user, name])
        sys.stdin.read()
    """
    mount = 'mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts && exec "$@"'
    inside = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", program]
    _unused, said = start(children, *inside, port)
    assert said == "open"
    assert lock.openers(port) == []


def test_who_simulates_the_port_is_not_its_user(children: list[subprocess.Popen[str]]) -> None:
    program = "import os, sys; m, s = os.openpty(); print(os.ttyname(s), flush=True); sys.stdin.read()"
    _unused, port = start(children, sys.executable, "-c", program)
    assert lock.openers(port) == []


def test_a_port_lock_is_a_uucp_lock_file(port: str, directory: str) -> None:
    file = Path(directory, f"LCK..{os.path.basename(port)}")
    with PortLock(port, directory) as held:
        assert held.lock_file == str(file)
        assert file.read_text().splitlines()[0] == f"{os.getpid():10d}"
        assert stat.S_IMODE(file.stat().st_mode) == 0o666
        assert not os.get_inheritable(held.fd)
        with pytest.raises(PortBusy) as caught:
            PortLock(port, directory).acquire()
        assert f"port {port}: locked ({file}) by PID {os.getpid()} (" in str(caught.value)
        with pytest.raises(CoreError, match="already locked by this object"):
            held.acquire()
    assert not file.exists()
    held.release()
    with pytest.raises(CoreError, match="not locked"):
        held.fd  # noqa: B018


def test_the_lock_file_is_named_after_the_device_not_its_link(port: str, directory: str, tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    link.symlink_to(port)
    with PortLock(str(link), directory), pytest.raises(PortBusy):
        PortLock(port, directory).acquire()


def test_an_explicit_acquire_within_with(port: str, directory: str) -> None:
    held = PortLock(port, directory)
    held.acquire()
    with held:
        assert held.fd >= 0
    assert held.lock_file is None


def test_a_killed_holder_frees_the_port(port: str, directory: str, children: list[subprocess.Popen[str]]) -> None:
    child, _unused = start(children, sys.executable, "-c", HOLD, port, directory)
    with pytest.raises(PortBusy, match=rf"by PID {child.pid} \("):
        PortLock(port, directory).acquire()
    child.kill()
    child.wait()
    with PortLock(port, directory):
        pass


def test_a_child_keeps_the_port_of_a_killed_holder(
    port: str, directory: str, children: list[subprocess.Popen[str]]
) -> None:
    """As avrdude would: our process is gone, the programmer is still being written to."""
    child, keeper = start(children, sys.executable, "-c", HOLD, port, directory, "child")
    child.kill()
    child.wait()
    try:
        with pytest.raises(PortBusy, match=rf"by PID {keeper} \(sleep 60\)"):
            PortLock(port, directory).acquire()
    finally:
        end(int(keeper))
    with PortLock(port, directory):
        pass


def test_a_release_does_not_take_the_port_from_a_child(port: str, directory: str) -> None:
    held = PortLock(port, directory)
    held.acquire()
    child = subprocess.Popen(["sleep", "60"], pass_fds=(held.fd,))
    try:
        held.release()
        with pytest.raises(PortBusy, match=rf"by PID {child.pid} \(sleep 60\)"):
            PortLock(port, directory).acquire()
    finally:
        child.kill()
        child.wait()
    with PortLock(port, directory):
        pass


def test_a_port_lock_is_waited_for(port: str, directory: str, children: list[subprocess.Popen[str]]) -> None:
    start(
        children,
        sys.executable,
        "-c",
        HOLD.replace("sys.stdin.read()", "import time; time.sleep(0.3); lock.release()"),
        port,
        directory,
    )
    waiting = PortLock(port, directory)
    waiting.acquire(timeout=5)
    waiting.release()


def test_a_port_that_another_program_has_open(port: str, directory: str, children: list[subprocess.Popen[str]]) -> None:
    """avrdude and most terminal programs take no lock at all."""
    program = (
        "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print('open', flush=True); sys.stdin.read()"
    )
    child, _unused = start(children, sys.executable, "-c", program, port)
    with pytest.raises(PortBusy, match=rf"open in PID {child.pid} \("):
        PortLock(port, directory).acquire()
    assert lock.holders(f"{directory}/LCK..{os.path.basename(port)}") == []


def test_the_lock_file_of_another_program(port: str, directory: str) -> None:
    file = Path(directory, f"LCK..{os.path.basename(port)}")
    file.write_text(f"{os.getppid():10d}\n")
    with pytest.raises(PortBusy, match=rf"used by PID {os.getppid()} .*remove it if it is a leftover"):
        PortLock(port, directory).acquire()
    file.write_text("   4194305\n")
    with PortLock(port, directory):
        pass


def test_a_leftover_of_ours_whose_pid_lives_again(port: str, directory: str) -> None:
    file = Path(directory, f"LCK..{os.path.basename(port)}")
    file.write_text(f"{os.getppid():10d}\nmulti_sonicator.ops\n")
    with PortLock(port, directory):
        pass


def test_a_lock_file_that_changes_hands(port: str, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removes the file between our open and our lock: then we hold a lock on nothing."""
    real = lock.try_lock
    removed: list[str] = []

    def racing(fd: int) -> bool:
        if not removed:
            removed.append(os.readlink(f"/proc/self/fd/{fd}"))
            os.unlink(removed[0])
        return real(fd)

    monkeypatch.setattr(lock, "try_lock", racing)
    with pytest.raises(PortBusy, match="changes hands"):
        PortLock(port, directory).acquire()
    with PortLock(port, directory) as held:
        assert os.fstat(held.fd).st_nlink == 1


def test_two_that_create_the_lock_file_at_once(port: str, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    raced: list[str] = []

    def racing(path: str, flags: int, *rest: Any) -> int:
        if flags & os.O_CREAT and not raced:
            raced.append(path)
            os.close(real(path, flags, 0o666))
        return real(path, flags, *rest)

    monkeypatch.setattr(lock.os, "open", racing)
    with PortLock(port, directory):
        assert raced


def test_a_missing_port(tmp_path: Path, directory: str) -> None:
    with pytest.raises(PortMissing, match=r"isp_9: .*check the cable"):
        PortLock(str(tmp_path / "isp_9"), directory).acquire()


def test_no_lock_directory(port: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(CoreError, match=rf"no lock file can be written \({missing}/LCK\.\.\S+: No such file"):
        PortLock(port, missing).acquire()
    fallback = tmp_path / "state"
    fallback.mkdir()
    with PortLock(port, missing, fallback_directory=str(fallback)) as held:
        assert held.lock_file == str(fallback / f"LCK..{os.path.basename(port)}")
    with pytest.raises(CoreError, match=r"missing.*missing2"):
        PortLock(port, missing, fallback_directory=missing + "2").acquire()


def test_a_lock_file_that_cannot_be_removed(port: str, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sticky lock directory keeps another user's file; the lock is free all the same."""

    def refuse(path: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(lock.os, "unlink", refuse)
    with PortLock(port, directory) as held:
        file = held.lock_file
    assert file
    assert os.path.exists(file)
    with PortLock(port, directory):
        os.rename(file, file + ".away")

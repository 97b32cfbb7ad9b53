# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One programmer: avrdude as a child process, with a lock, deadlines and a kill.

Programming mode holds the microcontroller in reset, also for a call that only reads. avrdude takes no lock, waits for
ever on a programmer that dies and spins on a port that vanishes, so lock, deadlines and the end of the child are ours.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import image
from .child import tied
from .errors import CoreError, MissingPackage, PortMissing
from .lock import PortLock, missing_port
from .profile import Part

# Seconds until the first answer of the programmer; a real one may reset itself when its port opens and needs about two.
CONNECT_DEADLINE = 15.0
# Seconds without any progress after that. The slowest step is 2 % of an EEPROM written at 45 ms a byte: 1 s.
STALL_DEADLINE = 15.0
LOCK_TIMEOUT = 5.0
_TICK = 0.25
# The ArduinoISP sketch takes every EEPROM address for a word address, but as stk500v1 avrdude sends byte addresses:
# half of the EEPROM would neither be kept nor put back. From 7.2 on avrdude knows the sketch by a name of its own; an
# older one sends word addresses to what claims to be a bootloader too.
_SKETCH = "arduino_as_isp"
_SKETCH_FOR_OLD_AVRDUDE = f"""programmer parent "stk500v1"
    id = "{_SKETCH}";
    prog_modes = PM_SPM | PM_ISP;
;
"""
_SIGNATURE = re.compile(rb"[Dd]evice signature = 0x([0-9a-fA-F]{6})")
_ACTIVITY = re.compile(rb"\b([Rr]ead|[Ww]rit|[Vv]erify)ing(?: \d+ bytes(?: to)?)? (flash|eeprom)\b([^|]*\|[ #]*)?")


class ProgrammerError(CoreError):
    """avrdude did not do what was asked; ``signature`` is what the chip showed, where it showed a wrong one."""

    def __init__(self, message: str, signature: str = "") -> None:
        super().__init__(message)
        self.signature = signature


@dataclass(frozen=True)
class Readback:
    """What was read from a chip: signature (6 hex digits), fuse bytes by name, flash and EEPROM contents."""

    signature: str
    fuses: dict[str, int]
    flash: bytes
    eeprom: bytes


class Programmer:
    """The programmer at ``port`` for one ``part``.

    ``scratch`` is a directory for the files of one call, emptied before each. ``deadline`` (seconds) bounds one whole
    call; without it three times the wire's time of the largest transfer plus 30 s. ``tick`` is called about four times
    a second while avrdude runs, with what it does ("writing flash", or nothing yet) and how far it is, in percent.
    """

    def __init__(
        self,
        port: str,
        part: Part,
        scratch: Path,
        lock_directory: str = "/run/lock",
        deadline: float | None = None,
        tick: Callable[[str, int], None] | None = None,
    ) -> None:
        self.port = port
        self.part = part
        self.scratch = scratch
        self.lock_directory = lock_directory
        self.tick = tick
        wire = (2 * part.flash + 2 * part.eeprom) * 10 / part.programmer_baudrate
        self.deadline = deadline or 30 + 3 * wire

    def check(self) -> None:
        """Raise unless the port and avrdude are there. Touches neither."""
        if not os.path.exists(self.port):
            raise PortMissing(missing_port("programmer", self.port))
        if shutil.which("avrdude") is None:
            raise MissingPackage(
                f"programmer {self.port}: avrdude is not installed; install the Debian package avrdude"
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the programmer over several calls, so that nobody comes between a reading and a writing one."""
        self.check()
        with contextlib.suppress(OSError):  # where it cannot be made, the lock says so
            os.makedirs(self.lock_directory, exist_ok=True)
        lock = PortLock(self.port, self.lock_directory)
        # A killed run's avrdude dies with it, but not in the same instant.
        lock.acquire(timeout=LOCK_TIMEOUT)
        with lock:
            self._lock_fd = lock.fd
            yield

    def read(self) -> Readback:
        """Read signature, fuses, flash and EEPROM in one call. The chip boots afterwards."""
        with self._scratch_at_hand():
            return self._read()

    def _read(self) -> Readback:
        self._empty_scratch()
        memories = ["flash", "eeprom", *self.part.fuses]
        output = self._run([word for memory in memories for word in ("-U", f"{memory}:r:{self.scratch}/{memory}:r")])
        found = {memory: Path(self.scratch, memory).read_bytes() for memory in memories}
        return Readback(
            signature=_signature(output),
            fuses={name: found[name][0] for name in self.part.fuses},
            flash=image.content(found["flash"]),
            eeprom=found["eeprom"].ljust(self.part.eeprom, b"\xff"),
        )

    def write(self, flash: bytes, eeprom: bytes | None, keep_erased: bool = False) -> None:
        """Erase, write and verify ``flash`` and, where given, ``eeprom``, in one call before the chip leaves reset.

        With ``keep_erased`` the erased bytes of the EEPROM are left to the chip erase, which saves their transfer.
        """
        with self._scratch_at_hand():
            self._write(flash, eeprom, keep_erased)

    def _write(self, flash: bytes, eeprom: bytes | None, keep_erased: bool) -> None:
        self._empty_scratch()
        file = self.scratch / "flash"
        file.write_text(image.format_hex(flash))
        # A chip that was blank becomes blank again by the erase alone; avrdude refuses a file without data.
        operations = ["-U", f"flash:w:{file}:i"] if flash else ["-e"]
        if eeprom is not None and not (keep_erased and not image.content(eeprom)):
            file = self.scratch / "eeprom"
            if keep_erased:
                file.write_text(image.format_hex(eeprom, block=4))
            else:
                file.write_bytes(eeprom)
            operations += ["-U", f"eeprom:w:{file}:{'i' if keep_erased else 'r'}"]
        self._run(operations)

    def write_fuses(self, fuses: Mapping[str, int]) -> None:
        """Write and verify fuse bytes. A wrong clock would lock the chip up: who calls has made sure of them."""
        with self._scratch_at_hand():
            self._run([word for name, value in fuses.items() for word in ("-U", f"{name}:w:0x{value:02X}:m")])

    def release(self) -> None:
        """Enter and leave programming mode: a board that an ended call left in reset boots."""
        with self._scratch_at_hand():
            self._run(())

    @contextlib.contextmanager
    def _scratch_at_hand(self) -> Iterator[None]:
        """ProgrammerError where avrdude's files cannot be written or read, or avrdude cannot be started."""
        try:
            yield
        except OSError as error:
            raise ProgrammerError(
                f"programmer {self.port}: {error.filename or self.scratch}: {error.strerror}; "
                "free space or correct permissions"
            ) from None

    def _empty_scratch(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)

    def _run(self, operations: Sequence[str]) -> bytes:
        part = self.part
        command = ["avrdude", *self._programmer_type(), "-p", part.avrdude, "-P", self.port]
        command += ["-b", str(part.programmer_baudrate), *operations]
        child = subprocess.Popen(  # pylint: disable=ansible-bad-function  # the core knows no AnsibleModule
            tied(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
            pass_fds=[self._lock_fd],
        )
        try:
            output, ended = self._watch(child)
        finally:
            _end(child)
        if ended:
            raise ProgrammerError(
                f"programmer {self.port}: {ended}; avrdude was ended, its last words: {_tail(output)}"
            )
        if child.returncode:
            raise self._failure(output, child.returncode)
        return output

    def _programmer_type(self) -> list[str]:
        if self.part.programmer != "stk500v1":
            return ["-c", self.part.programmer]
        if self._knows_sketch:
            return ["-c", _SKETCH]
        self.scratch.mkdir(parents=True, exist_ok=True)
        file = self.scratch / "avrdude.conf"
        file.write_text(_SKETCH_FOR_OLD_AVRDUDE)
        return ["-C", f"+{file}", "-c", _SKETCH]

    @functools.cached_property
    def _knows_sketch(self) -> bool:
        """Whether this avrdude has the sketch among its programmers."""
        try:
            known = subprocess.run(  # pylint: disable=ansible-bad-function  # the core knows no AnsibleModule
                ["avrdude", "-c", "?"], capture_output=True, env=_environment(), timeout=10, check=False
            )
        except subprocess.TimeoutExpired:
            raise ProgrammerError(f"programmer {self.port}: avrdude does not even list its programmers") from None
        return _SKETCH.encode() in known.stderr + known.stdout

    def _watch(self, child: subprocess.Popen[bytes]) -> tuple[bytes, str]:
        """Collect the child's output until it ends, or until a deadline passes: then the reason comes along."""
        if child.stdout is None:  # cannot be: a pipe was asked for
            raise ProgrammerError("avrdude has no output")
        pipe = child.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        output = bytearray()
        started = heard = ticked = time.monotonic()
        connected = False
        while True:
            if poll.poll(_TICK * 1000):
                chunk = os.read(pipe, 65536)
                if not chunk:
                    break
                output += chunk
                connected = connected or b"initialized" in output
                heard = time.monotonic()
            if self.tick and time.monotonic() - ticked >= _TICK:  # progress comes more often than that
                self.tick(*_activity(output))
                ticked = time.monotonic()
            now = time.monotonic()
            if not connected and now - started > CONNECT_DEADLINE:
                return bytes(output), f"no answer from the programmer for {CONNECT_DEADLINE:.0f} s"
            if now - heard > STALL_DEADLINE:
                return bytes(output), f"no progress for {STALL_DEADLINE:.0f} s"
            if now - started > self.deadline:
                return bytes(output), f"not done after {self.deadline:.0f} s"
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            return bytes(output), "avrdude closed its output but did not end"
        return bytes(output), ""

    def _failure(self, output: bytes, code: int) -> ProgrammerError:
        where = f"programmer {self.port}"
        found = _signature(output)
        if found and found != self.part.signature:
            return ProgrammerError(
                f"{where}: wrong signature, expected {self.part.signature} ({self.part.avrdude}), found {found}; "
                "another part, a loose ISP cable, or a board without power",
                signature=found,
            )
        if b"verification error" in output or b"verification mismatch" in output:
            return ProgrammerError(
                f"{where}: verification failed, the flash does not hold what was written: {_tail(output)}"
            )
        if b"not in sync" in output and b"initialized" not in output:
            return ProgrammerError(f"{where}: no answer; check its cable, its sketch (ArduinoISP) and its baud rate")
        return ProgrammerError(f"{where}: avrdude ended with {code}: {_tail(output)}")


def _environment() -> dict[str, str]:
    """HOME hides a user's .avrduderc."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": "/nonexistent", "LC_ALL": "C"}


def _signature(output: bytes) -> str:
    match = _SIGNATURE.search(output)
    return match.group(1).decode().upper() if match else ""


def _activity(output: bytes | bytearray) -> tuple[str, int]:
    found = [*_ACTIVITY.finditer(output)]
    if not found:
        return "", 0
    verb, memory, marks = found[-1].groups(b"")
    return f"{verb.decode().lower()}ing {memory.decode()}", 2 * marks.count(b"#")


def _tail(output: bytes) -> str:
    lines = [line.strip() for line in output.decode("ascii", "replace").replace("\r", "\n").splitlines()]
    return " / ".join([line for line in lines if line and "###" not in line][-3:]) or "(none)"


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdout is not None:
        child.stdout.close()

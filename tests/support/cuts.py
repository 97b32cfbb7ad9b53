# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transactions that are cut off: a run of the core in a process of its own, and a simulated board to cut it at.

As a program it is what those runs are forked from: each line on its standard input names a file with a job, on which a
child calls the core's change_firmware. The job can have that child killed, or the board's power switched off, before or
after the so many-th time that it saves something.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, TypeVar

if __name__ == "__main__":
    REPOSITORY = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "plugins/module_utils")]

from _core import image, line
from _core.change import Policy, Target
from _core.device import Device
from _core.gateway import Gateway, Result
from _core.operations import change_firmware
from _core.store import Journal, Store
from _core.targets import from_sets
from support import site
from support.profiles import profile
from support.virtual import Board, VirtualLine

# A board answers at once; what is waited for longer is a busy machine.
QUICK = Policy(soak=0.1, boot_deadline=1.5)
BOARD = "press"
# Not the unit that an erased EEPROM stands for.
UNIT = 5
SETTINGS = {
    "sonicator1_amplitude": 61,
    "sonicator2_amplitude": 72,
    "sonicator3_amplitude": 83,
    "sonicator4_amplitude": 94,
    "global_enable": 0,
    "start_inhibit_mask": ["sonicator3"],
}
_SAVES = ((Journal, "append"), (Journal, "close"), (Store, "put"), (Store, "save_record"), (Store, "save_set"))
_PATIENCE = 60.0
T = TypeVar("T")


@dataclass(frozen=True)
class Cut:
    """Where a run is cut, and how.

    ``at`` is a fault of the simulator's (``hold_after_pages 3``, ``power_off_at erase``), or ``save N before`` or
    ``save N after``. ``how`` is ``kill`` (everything of ours) or ``power`` (the board loses it).
    """

    at: str
    how: str

    def __str__(self) -> str:
        return f"{self.how} at {self.at}"


class Lane:
    """A simulated line with one board, used for one cut after the other."""

    program = __file__

    def __init__(self, directory: Path, hfuse: int = 0xD9, **options: Any) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.state = directory / "gateway"
        self.virtual = VirtualLine(directory, [Board(BOARD, UNIT)], **options)
        self.virtual.memory(BOARD, ".").mkdir(parents=True)
        self.virtual.memory(BOARD, "fuses").write_text(f"lfuse 0xFF\nhfuse 0x{hfuse:02X}\nlock 0xFF\n")
        self.virtual.start()
        self._runs: subprocess.Popen[str] | None = None
        self.eeprom = self._first_eeprom = b""

    def close(self) -> None:
        if self._runs:
            self._runs.communicate()
        self.virtual.stop()

    def control(self, *words: object) -> dict[str, Any]:
        return self.virtual.control(BOARD, *words)

    def memory(self, file: str) -> bytes:
        return self.virtual.memory(BOARD, file).read_bytes()

    @contextlib.contextmanager
    def device(self) -> Iterator[Device]:
        bus = line.open_bus(str(self.virtual.line), response_timeout=0.3)
        try:
            yield Device(BOARD, UNIT, profile(), bus)
        finally:
            bus.close()

    def prepare(self, version: str) -> None:
        """A board that has this release, settings other than the defaults and something in its EEPROM; no past."""
        shutil.rmtree(self.state, ignore_errors=True)
        self.control("clear")
        self.control("power", "off")
        self.eeprom = self._first_eeprom = bytes([UNIT]).ljust(40, b"\xff") + b"site" + b"\xff" * 978 + b"\x01\x02"
        # The simulator maps these files, so that writing into them is writing into the chip.
        for file, data in (
            ("flash.bin", site.flash_of(version).ljust(site.FLASH, b"\xff")),
            ("eeprom.bin", self.eeprom),
        ):
            with open(self.virtual.memory(BOARD, file), "r+b") as stream:
                stream.write(data)
        self.control("power", "on")
        with self.device() as device:
            if not device.wait_for_answer(2):
                raise AssertionError("the prepared board does not answer")
            for name, value in SETTINGS.items():
                device.write(name, value)
        self.virtual.control("line", "counters_reset")

    def write_job(self, path: Path, version: str, cut: Cut | None = None) -> None:
        job = {
            "controllers": site.entries(self.virtual),
            "state": str(self.state),
            "version": version,
            "saves": str(self.directory / "saves"),
            "result": str(self.directory / "result.json"),
            "cut": cut.at.split()[1:] if cut and cut.at.startswith("save") else None,
            "power": str(self.virtual.control_socket) if cut and cut.how == "power" else None,
        }
        path.write_text(json.dumps(job))

    def run(self, version: str, cut: Cut | None = None) -> Result | None:
        """A run in a process of its own, cut off where that is wanted: its result, None where that was lost with it.

        ``version`` is that of a release, or ``previous`` for going back.
        """
        (self.directory / "result.json").unlink(missing_ok=True)
        (self.directory / "saves").unlink(missing_ok=True)
        job = self.directory / "job.json"
        self.write_job(job, version, cut)
        armed = cut is not None and not cut.at.startswith("save")
        if cut and armed:
            self.control(*cut.at.split())
        if self._runs is None:
            self._runs = subprocess.Popen(
                [sys.executable, self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        if self._runs.stdin is None or self._runs.stdout is None:
            raise RuntimeError("no pipes, though asked for")
        self._runs.stdin.write(f"{job}\n")
        pid = int(self._runs.stdout.readline())
        try:
            self._wait(self._runs.stdout, until_held=bool(cut and armed and cut.how == "kill"))
        finally:
            kill(pid)
        killed = int(self._runs.stdout.readline()) == -signal.SIGKILL
        try:
            result: Result = json.loads((self.directory / "result.json").read_text())
        except FileNotFoundError:
            if cut and cut.how == "kill" and killed:
                return None
            raise AssertionError(f"the run died: {(self.directory / 'output').read_text()}") from None
        if cut and (cut.how == "kill" or self.control("state")["power"]):
            raise AssertionError(f"the run never came to {cut.at}: {result['outcome']}, {result['msg']}")
        return result

    def _wait(self, ended: IO[str], until_held: bool) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not select.select([ended], [], [], 0.02)[0]:
            if until_held and self.control("state")["programmer"]["holding"]:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"the run is not done after {_PATIENCE:g} s")

    def saves(self) -> list[str]:
        """What the last run saved, in order: ``append begin``, ``save_record``, …"""
        return (self.directory / "saves").read_text().splitlines()

    def gateway(self, profile: str = "multi_sonicator_io", **more: Any) -> Gateway:
        return site.gateway(self.state, site.entries(self.virtual, profile=profile, **more), profile)

    def deploy(self, target: Target, policy: Policy = QUICK, check: bool = False) -> Result:
        return change_firmware(self.gateway(), {BOARD: target}, policy, 1, check)[0]

    def require_whole(self, target: Target, settings: Mapping[str, Any] | None = None) -> None:
        """AssertionError unless a healthy controller is left, on this release, with all that it had before."""
        state = self.control("state")
        mcu, programmer = state["mcu"], state["programmer"]
        _expect("MCU", mcu, "running")
        _expect("programmer in use", (programmer["open"], programmer["programming"]), (False, False))
        _expect("avrdude running", descendants_with(str(self.virtual.programmer(BOARD))), [])
        flash = image.content(self.memory("flash.bin"))
        _expect("flash", image.digest(flash), target.digest)
        _expect("EEPROM", self.memory("eeprom.bin"), self.eeprom)
        with self.device() as device:
            _expect("version", device.identity().version, target.version)
            _expect("settings", device.settings(), dict(SETTINGS if settings is None else settings))
            _expect("health", device.violations(device.profile.health), [])
        store = Store(self.state / "state")
        _expect("open journal", store.journal(BOARD).steps, [])
        record = store.record(BOARD)
        if record:
            _expect("recorded flash", record["images"]["flash"], image.digest(flash))
            recorded = store.get(record["images"]["eeprom"])
            if recorded != self._first_eeprom:
                _expect("recorded EEPROM", recorded, self.eeprom)
            _expect("recorded version", record["version"], target.version)
        for number in store.set_ids(BOARD):
            kept = store.load_set(BOARD, number)
            if kept["settings"] != settings:
                _expect(f"settings of set {number}", kept["settings"], SETTINGS)
            _expect(f"flash of set {number}", store.get(kept["images"]["flash"]), site.flash_of(kept["version"]))
            read = store.get(kept["images"]["eeprom"])
            if read != self._first_eeprom:
                _expect(f"EEPROM of set {number}", read, self.eeprom)

    def require_nothing_to_do(self, target: Target) -> None:
        """AssertionError unless one more run finds everything in place, without a write and without the programmer."""
        self.virtual.control("line", "counters_reset")
        result = self.deploy(target)
        _expect("one more run", (result["outcome"], result["changed"], result["failed"]), ("unchanged", False, False))
        _expect("writes, programmer bytes and openings of one more run", self.touched(), (0, 0, 0))

    @contextlib.contextmanager
    def producing(self) -> Iterator[None]:
        """Within, one of the board's units has been started, and its master keeps asking, lest it stops by itself."""
        with self.device() as device:
            device.write("start_inhibit_mask", [])
            device.write("global_enable", 1)
            device.write("sonicator1_start_stop", 1)
        self.virtual.control("line", "counters_reset")
        ended = threading.Event()
        master = threading.Thread(target=self._keep_asking, args=(ended,))
        master.start()
        try:
            yield
        finally:
            ended.set()
            master.join()

    def _keep_asking(self, ended: threading.Event) -> None:
        with self.device() as device:
            while not ended.wait(0.1):
                device.answers()

    def touched(self) -> tuple[int, int, int]:
        """Write requests on the line, bytes to the programmer and openings of its port since the last reset."""
        state = self.control("state")
        programmer = state["programmer"]
        return state["write_requests"], programmer["rx_bytes"], programmer["opened"]

    def kept(self) -> dict[str, bytes]:
        """All that the gateway keeps, by path."""
        root = self.state / "state"
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def story(self) -> str:
        """What the disk tells about the last transactions, for a failure's message."""
        lines = []
        for path in sorted((self.state / "state/controllers" / BOARD).rglob("*.jsonl")):
            steps = [json.loads(text) for text in path.read_text().splitlines()]
            end = steps[-1].get("message", "") if steps else ""
            lines.append(f"{path.name}: {' '.join(step['step'] for step in steps)} {end}")
        return "\n    ".join(lines)


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"{what}: found {found!r:.300}, expected {expected!r:.300}")


def descendants(pid: int) -> list[int]:
    """A process and all that descend from it, in whichever session they are."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def descendants_with(argument: str) -> list[int]:
    """Processes of this one that have ``argument`` on their command line, and those that nobody waits for any more."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def kill(pid: int) -> None:
    """SIGKILL for a run and everything it has started, as when the gateway loses power."""
    pids = descendants(pid)
    for one in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(_lives(one) for one in pids):
        if time.monotonic() > deadline:
            raise AssertionError(f"killed, but still there: {pids}")
        time.sleep(0.005)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Cutter:
    """Tries cuts on several lanes at a time and collects what went wrong, by cut."""

    directory: Path
    lanes: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)

    def try_all(self, cuts: Sequence[T], attempt: Callable[[Lane, T], None]) -> list[str]:
        """The cuts after which ``attempt`` failed, each with its reason and the story of its transactions."""
        lanes = [Lane(self.directory / f"lane{number}", **self.options) for number in range(min(self.lanes, len(cuts)))]
        idle: SimpleQueue[Lane] = SimpleQueue()
        for lane in lanes:
            idle.put(lane)

        def work(cut: T) -> str:
            lane = idle.get()
            try:
                attempt(lane, cut)
                return ""
            except Exception as error:
                return f"{cut}: {type(error).__name__}: {error}\n    {lane.story()}"
            finally:
                idle.put(lane)

        try:
            with ThreadPoolExecutor(len(lanes)) as pool:
                return [problem for problem in pool.map(work, cuts) if problem]
        finally:
            for lane in lanes:
                lane.close()


# The run itself


def _wrap_saves(job: Mapping[str, Any]) -> None:
    """Have each save told in the file ``saves``, and the run cut at the one that the job names."""
    number, moment = (int(job["cut"][0]), job["cut"][1]) if job["cut"] else (0, "")
    count = 0

    def cut_off() -> None:
        if job["power"]:
            _switch_off(job["power"])
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def save(self: object, *args: Any, **data: Any) -> Any:
            nonlocal count
            count += 1
            here = count == number
            with open(job["saves"], "a") as stream:
                stream.write(f"{name} {args[0]}\n" if name == "append" else f"{name}\n")
            if here and moment == "before":
                cut_off()
            result = original(self, *args, **data)
            if here and moment == "after":
                cut_off()
            return result

        setattr(owner, name, save)

    for owner, name in _SAVES:
        wrap(owner, name)


def _switch_off(path: str) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as control:
        control.connect(path)
        control.sendall(f"{BOARD} power off\n".encode())
        control.recv(65536)


def serve() -> None:
    """Fork a run for each job, tell its process id and, when it has ended, its exit code."""
    profile()  # read once for all of them
    for job in sys.stdin:
        path = Path(job.strip())
        pid = os.fork()
        if pid == 0:
            with open(path.with_name("output"), "w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            os.setsid()
            run(json.loads(path.read_text()))
            return
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def run(job: Mapping[str, Any]) -> None:
    _wrap_saves(job)
    gateway = site.gateway(Path(job["state"]), job["controllers"])
    if job["version"] == "previous":
        result = change_firmware(gateway, from_sets(gateway, "previous"), QUICK, 1, False)[0]
    else:
        result = site.deploy(gateway, job["version"], QUICK)[BOARD]
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    serve()

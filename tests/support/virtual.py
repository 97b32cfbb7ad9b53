# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated serial lines for tests: builds `virtual_line` once, starts it, talks to its control socket, ends it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = REPOSITORY / "roles" / "virtual_controller" / "files" / "virtual_line"
FIRMWARE = REPOSITORY / "tests" / "firmware"
CACHE = REPOSITORY / ".cache"


@contextmanager
def opened(port: str | Path) -> Iterator[int]:
    """The port, opened by this process without becoming the terminal whose hang-up would end it."""
    descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def firmware(release: str) -> Path:
    """A released image of tests/firmware, `1.0.0` for example."""
    return FIRMWARE / f"firmware-{release}.hex"


def simulator() -> Path:
    """The built simulator; builds it if its sources have changed since."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    program = CACHE / f"virtual_line-{digest.hexdigest()[:16]}"
    if program.exists():
        return program
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "virtual_line.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            fresh = program.with_name(f"{program.name}.new")
            command = ["make", "-s", "-B", "-C", str(SOURCES), f"TARGET={fresh}", "CFLAGS=-O2 -Wall -Wextra -Werror"]
            built = subprocess.run(command, capture_output=True, text=True, check=False)
            if built.returncode != 0:
                raise RuntimeError(f"virtual_line does not build:\n{built.stdout}{built.stderr}")
            fresh.rename(program)
    return program


@dataclass
class Board:
    """A board to be simulated; `firmware` is what a fresh one has in its flash (none: an empty flash)."""

    name: str
    unit: int = 2
    firmware: Path | None = field(default_factory=lambda: firmware("1.0.0"))
    programmer: bool = True
    faults: Sequence[str] = ()


class ControlError(Exception):
    """The simulator refused a command."""


class VirtualLine:
    """One simulated line, started by `with`; the boards' memories stay in `directory` and are found again."""

    def __init__(
        self,
        directory: Path,
        boards: Sequence[Board],
        *,
        baudrate: int = 115200,
        programmer_baudrate: int = 0,
        programmer_delays: bool = False,
        programmer_autoreset: int = 0,
        faults: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.boards = {board.name: board for board in boards}
        self.line = directory / "line"
        self.log = directory / "virtual_line.log"
        self._settings = {
            "baudrate": baudrate,
            "programmer_baudrate": programmer_baudrate,
            "programmer_delays": int(programmer_delays),
            "programmer_autoreset": programmer_autoreset,
        }
        self._faults = faults
        self._process: subprocess.Popen[str] | None = None
        self._socket: socket.socket | None = None
        # A socket's path may have 107 bytes only; pytest's directories are often longer.
        self._sockets: str | None = None

    def programmer(self, name: str) -> Path:
        return self.directory / f"isp_{name}"

    def memory(self, name: str, file: str) -> Path:
        """Where a board's `flash.bin`, `eeprom.bin` or `fuses` is."""
        return self.directory / "boards" / name / file

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the line is not started")
        return self._process.pid

    @property
    def control_socket(self) -> Path:
        if self._sockets is None:
            raise RuntimeError("the line is not started")
        return Path(self._sockets) / "control"

    def configuration(self) -> str:
        lines = [f"line = {self.line}", f"control = {self.control_socket}"]
        lines += [f"{key} = {value}" for key, value in self._settings.items()]
        lines += [f"fault = {fault}" for fault in self._faults]
        for board in self.boards.values():
            lines += ["", f"[board {board.name}]", f"unit = {board.unit}"]
            lines.append(f"directory = {self.memory(board.name, '.')}")
            if board.programmer:
                lines.append(f"programmer = {self.programmer(board.name)}")
            if board.firmware is not None:
                lines.append(f"firmware = {board.firmware}")
            lines += [f"fault = {fault}" for fault in board.faults]
        return "\n".join(lines) + "\n"

    def start(self) -> None:
        if self._process is not None:
            raise RuntimeError("the line is started already")
        self._sockets = tempfile.mkdtemp(prefix="virtual_line-")
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "virtual_line.conf"
        config.write_text(self.configuration())
        with open(self.log, "a") as log:
            self._process = subprocess.Popen(
                [str(simulator()), "--config", str(config), "--end-with-parent"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        if self._process.stdout is None or not self._process.stdout.readline():
            self.stop()
            raise RuntimeError(f"virtual_line did not start:\n{self.log.read_text()}")

    def stop(self) -> None:
        """Ends the simulator as an operator would, and clears up."""
        self._end(terminate=True)

    def kill(self) -> None:
        """Ends the simulator without any warning; `start` finds the boards as they were."""
        self._end(terminate=False)

    def _end(self, *, terminate: bool) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        process, self._process = self._process, None
        if process is not None:
            if terminate:
                process.terminate()
            else:
                process.kill()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None

    def __enter__(self) -> VirtualLine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def control(self, target: str, *words: object) -> dict[str, Any]:
        """Gives a command to a board, or to `line`; the state after it."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(10)
            self._socket.connect(os.fspath(self.control_socket))
        self._socket.sendall(" ".join([target, *map(str, words)]).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            piece = self._socket.recv(65536)
            if not piece:
                raise ControlError(f"virtual_line closed the connection at: {target} {words}")
            answer += piece
        state: dict[str, Any] = json.loads(answer)
        if "error" in state:
            raise ControlError(state["error"])
        return state

    def state(self, target: str = "line") -> dict[str, Any]:
        return self.control(target, "state")

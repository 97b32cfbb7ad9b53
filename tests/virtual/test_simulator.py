# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulator as a process: configuration, start and stop, and what outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.virtual import REPOSITORY, Board, VirtualLine, firmware, simulator
from virtual.avrdude import avrdude, flash, image_of, running, wait_until
from virtual.master import Master

BOARD = "[board a]\nunit = 2\ndirectory = {d}/a\n"
PORT = "programmer = {d}/p\n"
HEAD = "line = {d}/line\ncontrol = {d}/control\n"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(simulator()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "virtual_line.conf"
    path.write_text((HEAD + BOARD + f"programmer = {{d}}/isp\nfirmware = {firmware('1.0.0')}\n").format(d=tmp_path))
    return path


@pytest.fixture
def daemon(config: Path) -> Iterator[Path]:
    """The pidfile of a running daemon."""
    pidfile = config.parent / "line.pid"
    started = run("--config", config, "--daemon", "--pidfile", pidfile, "--log", config.parent / "log")
    assert started.returncode == 0, started.stderr
    yield pidfile
    run("--stop", pidfile)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("control = {d}/c\n" + BOARD, 'no "line = PATH"'),
        ("line = {d}/line\n" + BOARD, 'no "control = PATH"'),
        (HEAD, "a line without boards"),
        (HEAD + "speed = 1\n", 'line 3: unknown key "speed"'),
        (HEAD + "baudrate = fast\n", "baudrate = fast: expected a number from 1200 to 1000000"),
        (HEAD + "baudrate = 115200x\n", "expected a number"),
        (HEAD + "programmer_delays = 2\n", "from 0 to 1"),
        (HEAD + "nonsense\n", 'expected "key = value"'),
        (HEAD + "baudrate =\n", "baudrate has no value"),
        (HEAD + "[boards a]\n", 'expected "[board NAME]"'),
        (HEAD + "[board a b]\n", 'board name "a b"'),
        (HEAD + "[board line]\n", 'not "line"'),
        (HEAD + BOARD + BOARD, "board a is there twice"),
        (HEAD + "[board a]\ndirectory = {d}/a\n", 'board a has no "unit'),
        (HEAD + "[board a]\nunit = 2\n", 'board a has no "directory'),
        (HEAD + "[board a]\nunit = 248\n", "from 1 to 247"),
        (HEAD + "[board a]\ncolour = red\n", 'unknown key "colour" of board a'),
        (HEAD + BOARD + "[board b]\nunit = 2\ndirectory = {d}/b\n", "both have unit 2"),
        (HEAD + BOARD + "[board b]\nunit = 3\ndirectory = {d}/a\n", "share the directory"),
        (HEAD + BOARD + PORT + "[board b]\nunit = 3\ndirectory = {d}/b\n" + PORT, "share the programmer"),
        (HEAD + BOARD + "programmer = {d}/line\n", "programmer and line are both"),
    ],
)
def test_bad_configuration(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "bad.conf"
    config.write_text(text.format(d=tmp_path))
    refused = run("--check", "--config", config)
    assert refused.returncode == 2
    assert message in refused.stderr and str(config) in refused.stderr
    assert sorted(tmp_path.iterdir()) == [config]


def test_check_touches_nothing(config: Path) -> None:
    assert run("--check", "--config", config).returncode == 0
    assert sorted(path.name for path in config.parent.rglob("*")) == ["virtual_line.conf"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "a/flash.bin").mkdir(), "a/flash.bin: Is a directory"),
        (lambda d: (d / "a/flash.bin").write_bytes(b"x"), "has 1 bytes, expected 32768"),
        (lambda d: (d / "a/fuses").write_text("none"), "fuses: expected lines"),
        (lambda d: (d / "line").write_text(""), "line exists and is not a simulator's link"),
        (lambda d: (d / "isp").symlink_to("/dev/null"), "isp exists and is not a simulator's link"),
    ],
)
def test_start_that_fails_leaves_nothing(config: Path, spoil: Callable[[Path], object], message: str) -> None:
    directory = config.parent
    (directory / "a").mkdir()
    spoil(directory)
    refused = run("--config", config, "--daemon", "--pidfile", directory / "line.pid")
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not (directory / "line.pid").exists() and not (directory / "control").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (":00000001FF\n:zz\n", None),
        (":0400000001020304F2\n:00000001FF", None),
        (":0400000001020304F3\n:00000001FF", "line 1: not an Intel HEX record"),
        (":0400000001020304F2\n", "no end record"),
        (":047FFE000102030475\n:00000001FF", "beyond the end of the flash"),
        ("hello", "not an Intel HEX record"),
    ],
)
def test_firmware_of_a_fresh_board(config: Path, content: str, message: str | None) -> None:
    image = config.parent / "image.hex"
    image.write_text(content)
    config.write_text(config.read_text().replace(str(firmware("1.0.0")), str(image)))
    pidfile = config.parent / "line.pid"
    started = run("--config", config, "--daemon", "--pidfile", pidfile)
    run("--stop", pidfile)
    assert started.returncode == (2 if message else 0), started.stderr
    assert (message or "") in started.stderr
    assert (config.parent / "a/flash.bin").exists() == (message is None)


def test_daemon_starts_once_and_stops_cleanly(config: Path, daemon: Path) -> None:
    directory = config.parent
    assert (directory / "line").is_symlink() and (directory / "isp").is_symlink()
    again = run("--config", config, "--daemon", "--pidfile", daemon)
    assert again.returncode == 3 and "already running as process" in again.stderr
    status = run("--status", daemon)
    assert status.returncode == 0 and status.stdout == f"running {daemon.read_text()}"
    assert run("--list", directory).stdout == "line\n"
    other = run("--config", config, "--daemon", "--pidfile", directory / "other.pid")
    assert other.returncode == 2 and "another simulator answers there" in other.stderr
    with Master(directory / "line") as master:
        assert master.answers()
    client = run("--control", directory / "control", "a", "power", "off")
    assert client.returncode == 0 and '"mcu": "off"' in client.stdout
    assert run("--control", directory / "control", "b", "state").returncode == 1
    assert run("--stop", daemon).returncode == 0
    assert sorted(path.name for path in directory.iterdir()) == ["a", "log", "virtual_line.conf"]
    assert run("--status", daemon).returncode == 4
    assert run("--stop", daemon).returncode == 4
    assert run("--list", directory).stdout == ""
    assert run("--control", directory / "control", "a", "state").returncode == 2


def test_a_killed_daemon_is_replaced(config: Path, daemon: Path) -> None:
    os.kill(int(daemon.read_text()), signal.SIGKILL)
    wait_until(lambda: run("--status", daemon).returncode == 4)
    assert run("--config", config, "--daemon", "--pidfile", daemon).returncode == 0
    with Master(config.parent / "line") as master:
        assert master.answers()


def test_two_simulators_cannot_share_a_board(config: Path, daemon: Path) -> None:
    directory = config.parent
    other = directory / "other.conf"
    other.write_text(config.read_text().replace("/line\n", "/line2\n").replace("/control\n", "/control2\n"))
    refused = run("--config", other)
    assert refused.returncode == 2 and "in use by another simulator" in refused.stderr


def test_nothing_is_lost_when_the_simulator_is_killed_while_flashing(tmp_path: Path) -> None:
    new = firmware("1.1.0")
    with VirtualLine(tmp_path, [Board("a")]) as line:
        port = line.programmer("a")
        assert avrdude(port, "-U", "hfuse:w:0xd1:m").returncode == 0
        line.control("a", "hold_after_pages", 4)
        with running(port, "-U", f"flash:w:{new}:i"):
            wait_until(lambda: bool(line.state("a")["programmer"]["holding"]))
            line.kill()
        assert line.memory("a", "flash.bin").read_bytes() == image_of(new)[: 4 * 128].ljust(32768, b"\xff")
        line.start()
        assert line.state("a")["fuses"]["hfuse"] == 0xD1
        assert flash(port, new).returncode == 0
        with Master(line.line) as master:
            assert master.read(7) == [0x0101]


def test_a_killed_test_run_leaves_no_simulator(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from support.virtual import Board, VirtualLine\n"
        "line = VirtualLine(Path(sys.argv[1]), [Board('a')]); line.start(); print(line.pid, flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "tests")}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    # Its adopted parent may take its time to collect it: a zombie has ended as well.
    status = Path(f"/proc/{pid}/stat")
    wait_until(lambda: not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z")
    assert not (tmp_path / "line").is_symlink()


@pytest.mark.timing
def test_four_idle_boards_cost_little(tmp_path: Path) -> None:
    boards = [Board(name, unit) for unit, name in enumerate("abcd", 2)]
    with VirtualLine(tmp_path, boards) as line, Master(line.line) as master:
        for unit in (2, 3, 4, 5):
            assert master.answers(unit)
        before = line.state()["cpu_s"]
        time.sleep(2)
        assert line.state()["cpu_s"] - before < 0.4

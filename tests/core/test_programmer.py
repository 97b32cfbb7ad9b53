# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programmers and avrdude at their worst: what hangs is ended, what was half done is put right by the next run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _core import image, programmer
from _core.change import Target
from _core.errors import CoreError, MissingPackage, PortMissing
from _core.operations import change_firmware
from _core.programmer import Programmer, ProgrammerError
from _core.store import Store
from support import site
from support.cuts import BOARD, QUICK, UNIT, Lane, descendants, descendants_with
from support.profiles import profile
from support.virtual import Board, VirtualLine

OLD, NEW, BROKEN = map(site.target, ("1.0.0", "1.1.0", "1.2.0"))


@pytest.fixture(autouse=True)
def _short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes 15 s in the field is not waited for."""
    monkeypatch.setattr(programmer, "CONNECT_DEADLINE", 3.0)
    monkeypatch.setattr(programmer, "STALL_DEADLINE", 3.0)
    monkeypatch.setattr(programmer, "LOCK_TIMEOUT", 1.0)


def avrdudes(lane: Lane) -> list[int]:
    return descendants_with(str(lane.virtual.programmer(BOARD)))


def recover(lane: Lane, *outcomes: str) -> None:
    """The next runs put the board right and end on the new release; no avrdude is left by the one before."""
    assert avrdudes(lane) == []
    lane.control("clear")
    for expected in outcomes:
        result = lane.deploy(NEW)
        assert result["outcome"] == expected, result["msg"]
        lane.require_whole(NEW if expected == "deployed" else OLD)
    lane.require_nothing_to_do(NEW)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (("die_at", "page", 7), "no progress for 3 s"),
        (("die_at", "enter", 1), "no answer from the programmer for 3 s"),
        (("mute", "on"), "no answer from the programmer for 3 s"),
    ],
    ids=["dies at a page", "dies at the start", "mute"],
)
def test_a_programmer_that_falls_silent_is_given_up(lane: Lane, fault: tuple[object, ...], reason: str) -> None:
    lane.control(*fault)
    began = time.monotonic()
    result = lane.deploy(NEW)
    assert time.monotonic() - began < 40
    assert result["failed"]
    assert reason in result["msg"]
    assert str(lane.virtual.programmer(BOARD)) in result["msg"]
    recover(lane, *(["rolled_back", "deployed"] if "page" in fault else ["deployed"]))


def test_a_whole_call_has_its_deadline_too(lane: Lane) -> None:
    result = lane.deploy(NEW, dataclasses.replace(QUICK, programmer_deadline=0.3))
    assert result["failed"]
    assert "not done after 0 s" in result["msg"]
    recover(lane, "deployed")


@pytest.mark.parametrize("event", ["page 5", "enter 2"])
def test_a_programmer_whose_port_vanishes_does_not_leave_avrdude_spinning(lane: Lane, event: str) -> None:
    lane.control("hold_at", *event.split())
    result: list[dict[str, Any]] = []
    run = threading.Thread(target=lambda: result.append(lane.deploy(NEW)))
    run.start()
    until = time.monotonic() + 30
    while not lane.control("state")["programmer"]["holding"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    lane.control("unplug")
    lane.control("release")
    run.join(60)
    assert result[0]["failed"]
    assert "stays open" in result[0]["msg"]
    assert avrdudes(lane) == []
    lane.control("plug")
    recover(lane, "rolled_back", "deployed")


def test_an_avrdude_that_is_killed_is_noticed(lane: Lane) -> None:
    lane.control("hold_at", "page", 9)
    result: list[dict[str, Any]] = []
    run = threading.Thread(target=lambda: result.append(lane.deploy(NEW)))
    run.start()
    until = time.monotonic() + 30
    while not lane.control("state")["programmer"]["holding"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    for pid in avrdudes(lane):
        os.kill(pid, 9)
    lane.control("release")
    run.join(60)
    assert result[0]["outcome"] == "rolled_back", result[0]["msg"]
    assert "avrdude ended with -9" in result[0]["msg"]
    lane.require_whole(OLD)
    recover(lane, "deployed")


def test_a_killed_run_takes_its_avrdude_along(lane: Lane) -> None:
    """Only the run itself is killed; avrdude, in a session of its own, must not go on with nobody to watch it."""
    lane.control("hold_at", "page", 9)
    job = lane.directory / "job.json"
    lane.write_job(job, "1.1.0")
    parent = subprocess.Popen([sys.executable, lane.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin and parent.stdout
    parent.stdin.write(f"{job}\n")
    parent.stdin.flush()
    pid = int(parent.stdout.readline())
    until = time.monotonic() + 30
    while not lane.control("state")["programmer"]["holding"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert len(descendants(pid)) > 1
    os.kill(pid, 9)
    parent.communicate()
    until = time.monotonic() + 2
    while avrdudes(lane):
        assert time.monotonic() < until
        time.sleep(0.02)
    recover(lane, "deployed")


@pytest.mark.parametrize("target", [NEW, Target("reading")], ids=["deploy", "read"])
def test_a_wrong_chip_is_not_written(lane: Lane, target: Target) -> None:
    lane.control("signature", "1E", "95", "0F")
    result = lane.deploy(target)
    assert result["outcome"] == "failed"
    assert "expected 1E9502 (m32), found 1E950F" in result["msg"]
    assert "the firmware was not touched" in result["msg"]
    assert lane.control("state")["programmer"]["erases"] == 0
    lane.require_whole(OLD)
    recover(lane, "deployed")


def test_a_board_that_takes_its_time_to_boot_is_waited_for(lane: Lane) -> None:
    """A call for the wrong chip has left it alone; to enter programming mode again would only fail again."""
    lane.control("signature", "1E", "95", "0F")
    lane.control("hold_at", "leave", 1)
    result: list[dict[str, Any]] = []
    run = threading.Thread(target=lambda: result.append(lane.deploy(NEW)))
    run.start()
    until = time.monotonic() + 30
    while not lane.control("state")["programmer"]["holding"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    lane.control("silent", "on")
    lane.control("release")
    time.sleep(0.4)
    lane.control("silent", "off")
    run.join(60)
    assert "the firmware was not touched" in result[0]["msg"]
    assert lane.control("state")["programmer"]["opened"] == 1
    lane.require_whole(OLD)


def test_a_verify_mismatch_is_rolled_back(lane: Lane) -> None:
    # In the part of the image that the release of before, which has to come back through the same fault, does not use.
    wanted = Target("1.1.0 with a table", (NEW.flash or b"").ljust(6000, b"\xff") + b"table", version="1.1.0")
    lane.control("corrupt_write", 6001)
    result = lane.deploy(wanted)
    assert result["outcome"] == "rolled_back", result["msg"]
    assert "verification failed" in result["msg"]
    lane.require_whole(OLD)


def test_fuses_that_the_policy_does_not_accept(tmp_path: Path) -> None:
    lane = Lane(tmp_path / "lane", hfuse=0x99)
    try:
        lane.prepare("1.0.0")
        result = lane.deploy(NEW)
        assert result["outcome"] == "failed"
        assert "hfuse is 0x99, accepted are 0xD9, 0xD1" in result["msg"]
        assert lane.control("state")["programmer"]["erases"] == 0
        lane.require_whole(OLD)
    finally:
        lane.close()


def test_fuses_that_the_release_does_not_run_with(lane: Lane) -> None:
    """Accepted by the profile, but not what its manifest asks for."""
    result = lane.deploy(dataclasses.replace(NEW, fuses={"hfuse": 0xD1}))
    assert result["outcome"] == "failed"
    assert "fuse hfuse is 0xD9, 1.1.0 needs 0xD1" in result["msg"]
    assert lane.control("state")["programmer"]["erases"] == 0
    lane.require_whole(OLD)
    assert lane.deploy(dataclasses.replace(NEW, fuses={"hfuse": 0xD9}))["outcome"] == "deployed"


@pytest.mark.parametrize(("hfuse", "writes"), [(0xD9, True), (0xD1, False)], ids=["erased", "EESAVE"])
def test_the_eeprom_outlives_the_flash(tmp_path: Path, hfuse: int, writes: bool) -> None:
    """Where the erase takes it along it comes back in the same session, before the chip leaves reset."""
    lane = Lane(tmp_path / "lane", hfuse=hfuse)
    try:
        lane.prepare("1.0.0")
        assert lane.deploy(NEW)["outcome"] == "deployed"
        state = lane.control("state")["programmer"]
        assert bool(state["eeprom_writes"]) == writes
        assert state["leaves"] == 2
        lane.require_whole(NEW)
    finally:
        lane.close()


def test_every_byte_of_the_eeprom_is_kept(lane: Lane) -> None:
    """Not only those that avrdude's idea of the programmer's addresses happens to reach."""
    lane.eeprom = bytes([UNIT]) + bytes((7 * i + i // 256) % 255 for i in range(1, 1024))
    with open(lane.virtual.memory(BOARD, "eeprom.bin"), "r+b") as stream:
        stream.write(lane.eeprom)
    assert lane.deploy(NEW)["outcome"] == "deployed"
    lane.require_whole(NEW)
    assert lane.deploy(BROKEN)["outcome"] == "rolled_back"
    lane.require_whole(NEW)


def test_noise_between_programmer_and_gateway(lane: Lane) -> None:
    lane.control("programmer_noise", 400)
    result = lane.deploy(NEW)
    assert result["failed"]
    until = time.monotonic() + 120
    lane.control("clear")
    while result["failed"] and time.monotonic() < until:
        result = lane.deploy(NEW)
    assert result["outcome"] == "deployed", result["msg"]
    lane.require_whole(NEW)


# Who uses the port


@contextlib.contextmanager
def other_process(code: str, *arguments: str) -> Iterator[int]:
    command = [sys.executable, "-c", code + "\nimport sys; print('ready', flush=True); sys.stdin.read()", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        process.communicate()


def test_a_port_that_somebody_uses_names_him(lane: Lane) -> None:
    with other_process("import sys; port = open(sys.argv[1], 'rb')", str(lane.virtual.programmer(BOARD))) as pid:
        result = lane.deploy(NEW)
    assert result["failed"]
    assert f"PID {pid}" in result["msg"]
    assert sys.executable in result["msg"]
    assert lane.control("state")["programmer"]["rx_bytes"] == 0
    lane.require_whole(OLD)


@pytest.mark.parametrize("check", [False, True])
def test_a_missing_port_is_named_before_anything_is_sent(lane: Lane, check: bool) -> None:
    lane.control("unplug")
    result = lane.deploy(NEW, check=check)
    if not check:
        assert result["failed"]
        assert f"programmer {lane.virtual.programmer(BOARD)}" in result["msg"]
    assert lane.control("state")["write_requests"] == 0
    assert not lane.gateway().store.journal(BOARD).steps


def test_a_place_for_avrdudes_files_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    part = profile().part
    assert part
    (tmp_path / "in the way").touch()
    (tmp_path / "port").touch()
    one = Programmer(str(tmp_path / "port"), part, tmp_path / "in the way/scratch", str(tmp_path))
    for act in (one.read, lambda: one.write(b"", None)):
        with pytest.raises(ProgrammerError, match=r"port: .*in the way/scratch: Not a directory; free space"):
            act()


def test_two_programmers_work_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two lines; as long as the one is held up the other goes on to its end."""
    monkeypatch.setattr(programmer, "STALL_DEADLINE", 30.0)
    with contextlib.ExitStack() as stack:
        lines = []
        for name in "ab":
            (tmp_path / name).mkdir()
            lines.append(stack.enter_context(VirtualLine(tmp_path / name, [Board(name, 2)])))
        gateway = site.gateway(tmp_path, [entry for line in lines for entry in site.entries(line)])
        lines[0].control("a", "hold_at", "page", 4)
        results: list[dict[str, Any]] = []
        run = threading.Thread(
            target=lambda: results.extend(change_firmware(gateway, dict.fromkeys("ab", NEW), QUICK, 1, False))
        )
        run.start()
        until = time.monotonic() + 30
        while gateway.store.last_transaction("b").get("outcome") != "deployed":
            assert time.monotonic() < until
            time.sleep(0.05)
        assert lines[0].state("a")["programmer"]["holding"]
        lines[0].control("a", "release")
        run.join(60)
        assert [result["outcome"] for result in results] == ["deployed", "deployed"]


# The programmer alone


@pytest.fixture
def alone(lane: Lane, tmp_path: Path) -> Programmer:
    part = profile().part
    assert part
    return Programmer(str(lane.virtual.programmer(BOARD)), part, tmp_path / "scratch", str(tmp_path))


def test_a_blank_chip_is_read_and_made_blank_again(lane: Lane, alone: Programmer) -> None:
    with alone.held():
        alone.write(b"", None)
        found = alone.read()
    assert found.flash == b""
    assert found.signature == "1E9502"
    assert found.fuses == {"lfuse": 0xFF, "hfuse": 0xD9}
    assert set(lane.memory("flash.bin")) == {0xFF}


def test_avrdude_is_missed_by_name(alone: Programmer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackage, match="Debian package avrdude"):
        alone.check()


def test_a_missing_port_is_missed_by_name(alone: Programmer) -> None:
    alone.port = "/dev/no_such_port"
    with pytest.raises(PortMissing, match="programmer /dev/no_such_port"):
        alone.check()


def test_an_unknown_kind_of_programmer_is_avrdudes_to_refuse(alone: Programmer) -> None:
    alone.part = dataclasses.replace(alone.part, programmer="no_such_programmer")
    with alone.held(), pytest.raises(ProgrammerError, match="avrdude ended with 1"):
        alone.read()


def test_a_full_image_is_written_and_read_back(lane: Lane, alone: Programmer) -> None:
    full = bytes((5 * i + i // 251) % 255 for i in range(site.FLASH))
    with alone.held():
        alone.write(full, lane.eeprom)
        found = alone.read()
    assert found.flash == image.content(full)
    assert found.eeprom == lane.eeprom


def test_the_state_directory_keeps_only_whole_files(lane: Lane) -> None:
    lane.deploy(NEW)
    root = Store(lane.state / "state").root
    assert not list(root.rglob("*.new"))
    with pytest.raises(CoreError):
        Store(lane.state / "state").load_set(BOARD, "none")

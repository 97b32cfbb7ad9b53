# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated sites as Ansible sees them: an inventory, runs of playbooks and modules on it, and what they came to.

A warning or deprecation that Ansible shows fails the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from _core.errors import CoreError
from _core.line import open_bus
from support.virtual import REPOSITORY, Board, VirtualLine, firmware

COLLECTION = "multi_sonicator.ops"
RELEASES = ("1.0.0", "1.1.0", "1.2.0")
# A profile's soak is meant for production; a test sees enough in a moment.
QUICK = {"controllers_soak": 0.3, "controllers_boot_deadline": 1.5}
# What of a run's traffic changes a controller, or resets it.
UNTOUCHED = {"writes": 0, "programmer_bytes": 0, "programmer_opened": 0}
_DEADLINE = 240.0
_WARNING = re.compile(r"^\[(?:WARNING|DEPRECATION WARNING|ERROR|DEPRECATED)\].*", re.MULTILINE)
_CALLBACKS = Path(__file__).with_name("callbacks")


@dataclass(frozen=True)
class Run:
    """One ended run of Ansible: its exit code, all it printed, and each task's result in the order of ending."""

    code: int
    output: str
    events: Sequence[Mapping[str, Any]]

    def result(self, action: str, host: str = "") -> dict[str, Any]:
        """The result of the one task with this action, on this host; a name without dots is the collection's."""
        name = action if "." in action else f"{COLLECTION}.{action}"
        found = [event for event in self.events if event["action"] == name and host in ("", event["host"])]
        if len(found) != 1:
            raise AssertionError(f"{len(found)} results of {name} {host}:\n{self.output}")
        return dict(found[0]["result"])

    def controllers(self, action: str) -> dict[str, dict[str, Any]]:
        """What a module of the collection said of each controller, of all gateways."""
        name = f"{COLLECTION}.{action}"
        found: dict[str, dict[str, Any]] = {}
        for event in self.events:
            if event["action"] == name:
                found |= {one["name"]: one for one in event["result"].get("controllers", [])}
        return found

    def event(self, task: str) -> Mapping[str, Any]:
        """What is recorded of the one task with this name."""
        found = [event for event in self.events if event["task"].split(" : ")[-1] == task]
        if len(found) != 1:
            raise AssertionError(f"{len(found)} results of task {task!r}:\n{self.output}")
        return found[0]

    @property
    def traffic(self) -> dict[str, int]:
        """What the simulated lines and programmers saw of the whole run."""
        total = dict.fromkeys(UNTOUCHED, 0) | {"requests": 0}
        for event in self.events:
            for name, count in event["traffic"].items():
                total[name] += count
        return total

    @property
    def changed(self) -> bool:
        return any(event["result"].get("changed") for event in self.events)

    @property
    def messages(self) -> list[str]:
        """What the run said in the end: the text of each debug and fail task."""
        spoken = ("ansible.builtin.debug", "ansible.builtin.fail")
        return [
            event["result"]["msg"] for event in self.events if event["action"] in spoken and "msg" in event["result"]
        ]

    def require(self, code: int = 0) -> Run:
        """Itself; AssertionError where it ended otherwise, or with a warning."""
        if self.code != code:
            raise AssertionError(f"exit code {self.code}, expected {code}:\n{self.output}")
        # Core shows the message of a failed task under [ERROR] too, which is none of the two.
        bad = [line for line in _WARNING.findall(self.output) if not line.startswith("[ERROR]: Task failed")]
        quiet = [e["result"] for e in self.events if e["result"].get("warnings") or e["result"].get("deprecations")]
        if bad or quiet:
            raise AssertionError(f"warnings {bad} {quiet}:\n{self.output}")
        return self


class Control:
    """A control node: where it finds the collection, and a directory to be in."""

    def __init__(self, directory: Path, collections: Path | None = None) -> None:
        """Without ``collections`` the checkout is the collection."""
        self.directory = directory / "control"
        self.directory.mkdir(parents=True)
        if collections is None:
            collections = directory / "collections"
            place = collections.joinpath("ansible_collections", *COLLECTION.split("."))
            place.parent.mkdir(parents=True)
            place.symlink_to(REPOSITORY)
        (self.directory / "ansible.cfg").touch()
        self.record = self.directory / "record.jsonl"
        # What programs are run by, such as unshare with its arguments.
        self.prefix: list[str] = []
        # Nothing of the user's settings and nothing of pytest's paths.
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TERM", "TMPDIR") if key in os.environ}
        self.environment = {
            "LC_ALL": "C.UTF-8",
            **kept,
            "HOME": str(self.directory),
            "ANSIBLE_HOME": str(self.directory / ".ansible"),
            "ANSIBLE_REMOTE_TEMP": str(self.directory / ".ansible/tmp"),
            "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_CALLBACK_PLUGINS": str(_CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "recorder",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
            "PYTHONUNBUFFERED": "1",
            "RECORD": str(self.record),
        }

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """A program of the Ansible that the tests run with, in a session of its own."""
        self.record.unlink(missing_ok=True)
        return subprocess.Popen(
            [*self.prefix, str(Path(sys.executable).with_name(program)), *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, program: str, *arguments: str) -> Run:
        """The same, until it has ended."""
        child = self.start(program, *arguments)
        try:
            output, _errors = child.communicate(timeout=_DEADLINE)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, 9)
                child.wait()
        events = []
        with contextlib.suppress(FileNotFoundError):
            events = [json.loads(line) for line in self.record.read_text().splitlines()]
        return Run(child.returncode, output, events)


class VirtualSite:
    """Simulated lines behind gateways with local connection, and an inventory that describes them.

    ``gateways`` has the boards of each line of each gateway. ``controllers`` and ``hosts`` (other variables, both by
    gateway) and ``variables`` are what the inventory of the next run says, free to be changed.
    """

    def __init__(
        self,
        directory: Path,
        gateways: Mapping[str, Sequence[Sequence[Board]]],
        collections: Path | None = None,
        **options: Any,
    ) -> None:
        self.directory = directory
        self.control = Control(directory, collections)
        self.inventory = directory / "inventory"
        self.lines: dict[str, VirtualLine] = {}
        self.controllers: dict[str, list[dict[str, Any]]] = {}
        self.hosts: dict[str, dict[str, Any]] = {}
        self._line_of: dict[str, VirtualLine] = {}
        for gateway, lines in gateways.items():
            self.controllers[gateway] = []
            for number, boards in enumerate(lines, 1):
                place = directory / gateway / f"line_{number}"
                place.mkdir(parents=True)
                line = VirtualLine(place, boards, **options)
                self.lines[f"{gateway}/line_{number}"] = line
                for board in boards:
                    self._line_of[board.name] = line
                    self.controllers[gateway].append(self._entry(line, board))
        self.variables: dict[str, Any] = {
            "controllers_state_directory": str(directory / "{{ inventory_hostname }}" / "state"),
            "controllers_lock_directory": str(directory / "{{ inventory_hostname }}"),
            "controllers_releases": [self.release(version) for version in RELEASES],
            "controllers_allow_unsigned": True,
            **QUICK,
        }

    @staticmethod
    def _entry(line: VirtualLine, board: Board) -> dict[str, Any]:
        entry = {"name": board.name, "line": str(line.line), "unit": board.unit}
        return {**entry, "programmer": str(line.programmer(board.name))} if board.programmer else entry

    @staticmethod
    def release(version: str, **more: Any) -> dict[str, Any]:
        """The inventory's entry of a release of tests/firmware."""
        path = firmware(version)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"version": version, "image": str(path), "sha256": digest, "part": "m32", **more}

    def __enter__(self) -> VirtualSite:
        for line in self.lines.values():
            line.start()
        sockets = [str(line.control_socket) for line in self.lines.values()]
        self.control.environment["SIMULATORS"] = ":".join(sockets)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self.lines.values():
            line.stop()

    # What the boards say

    def line(self, controller: str) -> VirtualLine:
        return self._line_of[controller]

    def command(self, controller: str, *words: object) -> dict[str, Any]:
        """Give a command to a simulated board; its state after it."""
        return self._line_of[controller].control(controller, *words)

    def memory(self, controller: str, file: str) -> bytes:
        return self._line_of[controller].memory(controller, file).read_bytes()

    def flash(self, controller: str) -> bytes:
        return self.memory(controller, "flash.bin")

    def register(self, controller: str, address: int) -> int:
        """A holding register as the board tells it over its line now."""
        line = self._line_of[controller]
        bus = open_bus(str(line.line))
        try:
            return bus.read(line.boards[controller].unit, address, 1)[0]
        finally:
            bus.close()

    @contextlib.contextmanager
    def talking(self, *controllers: str) -> Iterator[None]:
        """Somebody else on their lines, who reads these controllers three times a second.

        Without any talk the firmware stops its units after a second, and no task of Ansible's follows so soon.
        """
        ended = threading.Event()

        def talk() -> None:
            while not ended.wait(0.3):
                for controller in controllers:
                    with contextlib.suppress(CoreError):
                        self.register(controller, 0x0000)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def wait_for(self, child: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
        """Wait until it holds; AssertionError where ``child``, which is to bring it about, ends or takes too long."""
        deadline = time.monotonic() + _DEADLINE
        while not condition():
            if child.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"it has not come to pass:\n{child.communicate(timeout=5)[0]}")
            time.sleep(0.02)

    def state(self, gateway: str, *parts: str) -> Path:
        """The state directory of a gateway, or a place in it."""
        return self.directory.joinpath(gateway, "state", *parts)

    # What Ansible does

    def write_inventory(self) -> None:
        self.inventory.mkdir(exist_ok=True)
        hosts = {
            gateway: {"controllers": controllers, **self.hosts.get(gateway, {})}
            for gateway, controllers in self.controllers.items()
        }
        connection = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        content = {"gateways": {"hosts": hosts, "vars": {**connection, **self.variables}}}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(content))

    def arguments(self, playbook: str, check: bool, variables: Mapping[str, Any]) -> list[str]:
        self.write_inventory()
        name = playbook if "/" in playbook else f"{COLLECTION}.{playbook}"
        words = ["-i", str(self.inventory), name, "--diff", *(["--check"] if check else [])]
        return [*words, "-e", json.dumps(variables)] if variables else words

    def play(self, playbook: str, *, check: bool = False, code: int = 0, **variables: Any) -> Run:
        """A playbook of the collection by its full name (or one by its path), with --diff and these extra variables."""
        return self.control.run("ansible-playbook", *self.arguments(playbook, check, variables)).require(code)

    def tasks(self, *tasks: Mapping[str, Any], check: bool = False, code: int = 0) -> Run:
        """A play of these tasks on all gateways, named task 1, task 2 and so on where they have no name."""
        named = [{"name": f"Task {number}", **task} for number, task in enumerate(tasks, 1)]
        play = {"name": "Play", "hosts": "gateways", "gather_facts": False, "tasks": named}
        path = self.control.directory / "play.yml"
        path.write_text(yaml.safe_dump([play], sort_keys=False))
        return self.play(str(path), check=check, code=code)

    @staticmethod
    def task(module: str, options: Mapping[str, Any] | None = None, **keywords: Any) -> dict[str, Any]:
        """A task that calls a module on all controllers of a gateway; ``keywords`` are the task's own."""
        common = {
            "controllers": "{{ controllers }}",
            "state_directory": "{{ controllers_state_directory }}",
            "lock_directory": "{{ controllers_lock_directory }}",
        }
        return {f"{COLLECTION}.{module}": {**common, **(options or {})}, **keywords}

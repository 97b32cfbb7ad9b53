# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollout over a fleet: what it costs the control node, and how soon and at what cost it shows what goes on.

The peer (peer.yml) is the playbook that a competent user would write without our transaction, with a task a controller:
one for each step of docs/transaction.md that leaves the control node, and one in a loop for each measurement between
the steps of the plan. It is planned and told what comes next by the same module as ours, uses the collection's modules
where they fit and avrdude where none does. It has what production asks for and tasks can do: a gateway verifies the
image's signature, programming outlives a lost connection, what is begun is noted on the gateway, as ours is in its
journal, and what was done is recorded. Nothing in it waits or repeats for its own sake, and it does less than ours:
what was cut off is found but neither finished nor undone, a line is left silent while it programs, and no progress is
shown. Both run with the settings of the checkout's ansible.cfg; the peer runs on a part of the fleet, since what a
controller costs is compared.

What a gateway runs is no cost of the control node, though with local connections it runs here too. Wall times depend
on how much else the machine has to do, above all since it plays all gateways and boards. CPU times do less: on a busy
machine the same task takes some 15 to 25 % more, which counts against the fleet, as the peer works alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import watched_action
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from ratios import ROOT, Result, import_path, report

import_path()

from _core.trust import ROOT as TRUSTED_ROOT  # noqa: E402
from _core.trust import VERIFIER  # noqa: E402
from support.ansible import VirtualSite  # noqa: E402
from support.releases import Publisher, verifier  # noqa: E402
from support.site import flash_of  # noqa: E402
from support.virtual import Board, firmware  # noqa: E402

GATEWAYS = 50
ON_EACH = 4
# Eight gateways make a hall; its cells have one controller of each, lest a gateway that is lost takes more of one.
HALL = 8
SAMPLE = HALL
PEER = Path(__file__).with_name("peer.yml")
POLICY = {
    "controllers_canaries": 2,
    "controllers_waves": ["25%", "50%"],
    "controllers_wave_soak": 0.0,
    "controllers_cell_default": {"max_unavailable": "25%"},
    "controllers_soak": 0.0,
    "controllers_boot_deadline": 10.0,
}
PROGRAMMER_BAUDRATE = 19200
_DEADLINE = 1800.0


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds by the clock, and of CPU on the control node and (without what is detached) beyond."""

    wall: float
    control: float
    gateways: float
    commands: list[dict[str, Any]]
    output: str


@contextlib.contextmanager
def site_of(directory: Path, gateways: Mapping[str, list[list[Board]]], **options: Any) -> Iterator[VirtualSite]:
    """A site that takes signed releases, with metered connections and nothing else beside Ansible itself."""
    directory.mkdir()
    publisher = Publisher(directory / "publisher")
    for version in ("1.0.0", "1.1.0"):
        publisher.publish(version)
    trust = directory / "trust"
    trust.mkdir()
    (trust / TRUSTED_ROOT).write_bytes(publisher.root.read_bytes())
    (trust / VERIFIER).write_bytes(verifier())
    with VirtualSite(directory, gateways, **options) as site:
        del site.control.environment["ANSIBLE_CALLBACKS_ENABLED"]
        site.control.environment |= {
            "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "tests" / "support" / "connections"),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_FORKS": str(GATEWAYS),  # docs/rollouts.md
            "METER": str(directory / "meter.jsonl"),
            # Ansible expands ~ by the account's name in one place, and by HOME in another.
            "ANSIBLE_ASYNC_DIR": str(directory / "async"),
        }
        del site.variables["controllers_releases"]
        site.variables |= {
            "ansible_connection": "metered",
            "controllers_allow_unsigned": False,
            "controllers_repository": str(publisher.repository.directory),
            "controllers_trusted_root": str(publisher.root),
            "controllers_repository_cache": str(directory / "cache"),
            "controllers_trust_directory": str(trust),
            "controllers_firmware_version": "1.1.0",
            **POLICY,
        }
        yield site


def fleet(gateways: int) -> dict[str, list[list[Board]]]:
    """Gateways with one line of boards each."""
    return {
        f"gateway_{gateway:02}": [[Board(f"press_{gateway:02}_{place}", 1 + place) for place in range(1, ON_EACH + 1)]]
        for gateway in range(gateways)
    }


def assign_cells(site: VirtualSite) -> None:
    """Cells of eight; in a hall that is not full all controllers are one."""
    for number, controllers in enumerate(site.controllers.values()):
        hall = number // HALL
        full = (hall + 1) * HALL <= len(site.controllers)
        for place, controller in enumerate(controllers):
            controller["cell"] = f"hall_{hall}_{place}" if full else f"hall_{hall}"


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cost(site: VirtualSite, playbook: str) -> Cost:
    """Run a playbook that deploys; RuntimeError where a board does not have the release then."""
    meter = Path(site.control.environment["METER"])
    meter.unlink(missing_ok=True)
    before, started = _children(), time.monotonic()
    child = site.control.start("ansible-playbook", *site.arguments(playbook, False, {}))
    with _ended(child):
        output, _errors = child.communicate(timeout=_DEADLINE)
    wall, used = time.monotonic() - started, _children() - before
    commands = [json.loads(line) for line in meter.read_text().splitlines()]
    gateways = sum(command["gateway"] for command in commands)
    wrong = [
        board.name
        for line in site.lines.values()
        for board in line.boards.values()
        if site.flash(board.name).rstrip(b"\xff") != flash_of("1.1.0")
    ]
    if child.returncode != 0 or wrong:
        raise RuntimeError(f"exit code {child.returncode}, without the release: {wrong}\n{output}")
    return Cost(wall, used - gateways, gateways, commands, output)


@contextlib.contextmanager
def _ended(child: subprocess.Popen[str]) -> Iterator[None]:
    """Nothing of a run is left when something goes wrong."""
    try:
        yield
    finally:
        if child.poll() is None:
            os.killpg(child.pid, 9)
            child.wait()


def whole_fleet(directory: Path) -> Cost:
    """The rollout as the collection does it: a host is a gateway, and a task is for all its controllers."""
    with site_of(directory, fleet(GATEWAYS)) as site:
        assign_cells(site)
        return cost(site, "deploy")


def task_for_each(directory: Path) -> Cost:
    """The same rollout of a part of the fleet, with every step of a controller as a task."""
    with site_of(directory, fleet(SAMPLE)) as site:
        assign_cells(site)
        image, publisher = signed(firmware("1.1.0"), directory)
        site.variables |= {"image": str(image), "publisher": str(publisher)}
        return cost(site, str(PEER))


def signed(image: Path, directory: Path) -> tuple[Path, Path]:
    """A copy of an image with its signature beside it (ed25519), and the public key, as openssl takes them."""
    key = Ed25519PrivateKey.generate()
    copy = Path(shutil.copy(image, directory))
    copy.with_name(f"{copy.name}.sig").write_bytes(key.sign(copy.read_bytes()))
    publisher = directory / "publisher.pem"
    publisher.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return copy, publisher


def told(name: str, taken: Cost, controllers: int) -> float:
    """Print what a rollout took; the seconds of CPU on the control node for each controller."""
    each = taken.control / controllers
    print(
        f"{name}: {controllers} controllers in {taken.wall:.0f} s; control node {taken.control:.1f} s of CPU, "
        f"{each:.3f} s a controller; on the gateways {taken.gateways:.1f} s in {len(taken.commands)} commands",
        flush=True,
    )
    return each


# Progress ------------------------------------------------------------------------------------------------------------

# What an action plugin shows of the steps in a journal.
SHOWN = watched_action._SHOWN


class Journals(threading.Thread):
    """Notes when steps come into the journals of controllers, by gateway: (moment, step)."""

    def __init__(self, journals: Mapping[str, Path]) -> None:
        super().__init__(daemon=True)
        self.steps: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self.ended = threading.Event()
        self._journals = journals

    def run(self) -> None:
        while not self.ended.wait(0.02):
            for gateway, path in self._journals.items():
                with contextlib.suppress(FileNotFoundError):  # before a transaction and after it
                    entries = [
                        json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")
                    ]
                    steps = [entry["step"] for entry in entries if entry["step"] in SHOWN]
                    known = len(self.steps[gateway])
                    self.steps[gateway] += [(time.monotonic(), step) for step in steps[known:]]


def progress(directory: Path) -> tuple[list[float], float]:
    """How late each phase is shown, in seconds, and what watching costs, as a share of one core.

    Two boards are flashed at a programmer's real pace. The cost is the CPU of the workers from their first look at a
    run to their last, over that time.
    """
    boards = {gateway: [[Board(f"{gateway}_press")]] for gateway in ("gateway_a", "gateway_b")}
    with site_of(directory, boards, programmer_baudrate=PROGRAMMER_BAUDRATE) as site:
        site.variables["controllers_canaries"] = 0
        journals = Journals(
            {gateway: site.state(gateway, "controllers", f"{gateway}_press", "journal.jsonl") for gateway in boards}
        )
        meter = Path(site.control.environment["METER"])
        child = site.control.start("ansible-playbook", *site.arguments("deploy", False, {}))
        lines: list[tuple[float, str]] = []
        journals.start()
        with _ended(child):
            assert child.stdout is not None
            for line in child.stdout:
                lines.append((time.monotonic(), line))
            code = child.wait()
        journals.ended.set()
        journals.join()
        output = "".join(line for _moment, line in lines)
        if code != 0:
            raise RuntimeError(f"exit code {code}\n{output}")
        commands = [json.loads(line) for line in meter.read_text().splitlines()]
    late = []
    for gateway in boards:
        pattern = re.compile(rf"  {gateway} \S+: (.*)\n")
        shown = [
            (moment, found[1])
            for moment, line in lines
            if (found := pattern.fullmatch(line)) and found[1] in SHOWN.values()
        ]
        happened = journals.steps[gateway]
        if [text for _moment, text in shown] != [SHOWN[step] for _moment, step in happened]:
            raise RuntimeError(f"{gateway}: shown {shown}, in the journal {happened}\n{output}")
        late += [seen - was for (seen, _text), (was, _step) in zip(shown, happened, strict=True)]
    return late, watching(commands)


def watching(commands: list[dict[str, Any]]) -> float:
    looks = defaultdict(list)
    for command in commands:
        if "flock -n" in command["command"]:
            looks[command["pid"]].append(command)
    used = sum(own[-1]["after"] - own[0]["before"] for own in looks.values())
    lasted = sum(own[-1]["time"] - own[0]["time"] for own in looks.values())
    beyond = sum(command["gateway"] for own in looks.values() for command in own)
    print(
        f"watching: {sum(map(len, looks.values()))} looks in {lasted:.0f} s, {used:.3f} s of CPU on the control node, "
        f"{beyond:.3f} s on the gateways"
    )
    return used / lasted


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        late, share = progress(directory / "progress")
        peer = told("a task for each step of a controller", task_for_each(directory / "sample"), SAMPLE * ON_EACH)
        ours = told("a task for all controllers of a gateway", whole_fleet(directory / "fleet"), GATEWAYS * ON_EACH)
    print(f"phases are shown {statistics.median(late):.2f} s after they began, as median of {len(late)}")
    return report(
        [
            Result("rollout: control node's CPU a controller / task a controller", ours / peer, 1 / 6),
            Result("rollout: a phase is shown after, in s, at most", max(late), 2.0),
            Result("rollout: watching a run, as a share of a core", share, 0.02),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

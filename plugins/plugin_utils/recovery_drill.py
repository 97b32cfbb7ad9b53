# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery drills: what is due, the factory-fresh boards that controllers come back on, and what became of it.

A result is one file ``<id>.json``::

    id, who, started, ended     20261125T021500Z, anna@control, times in UTC
    seconds                     from the first fetch until everything was compared: the time that a recovery takes
    controllers                 by id (gateway/name): see Proof
    gateways                    by name, those that came back on a spare host: see GatewayProof
    outcome, problems           passed or failed, and what was not as it should be
"""

from __future__ import annotations

import datetime
import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core import image
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError, MissingPackage
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import Store, now, write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import rehearsal_twin
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rehearsal_twin import Controllers
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import who

METRICS = "multi_sonicator_recovery_drill.prom"
# An ATmega32A as the factory leaves it: on its internal oscillator, erased.
_FACTORY = "lfuse 0xE1\nhfuse 0x99\nlock 0xFF\n"


class DrillError(CoreError):
    """A drill that cannot be held, or whose result cannot be kept."""


@dataclass(frozen=True)
class Proof:
    """What became of a controller: the set that it came back from, taken when (UTC), and from which targets it came.

    ``age``: seconds from then until the drill ended, which is what would have been lost.
    """

    set: str
    taken: str
    age: int
    targets: Sequence[str]
    problems: Sequence[str]


@dataclass(frozen=True)
class GatewayProof(Proof):
    """What became of a gateway, and in how many ``seconds``, from bare Debian on."""

    seconds: float


Result = dict[str, Any]


def results(directory: Path) -> list[Result]:
    """The results of all drills, oldest first."""
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise DrillError(f"{path}: cannot be read ({error}); move it away") from None
    return found


def due(
    known: Sequence[Result], controllers: Mapping[str, Sequence[Mapping[str, Any]]], sample: int
) -> dict[str, list[dict[str, Any]]]:
    """The controllers whose turn it is, by gateway: ``sample`` of them, or all with 0."""
    turn = _turns(known, "controllers")
    every = [(gateway, dict(one)) for gateway, entries in controllers.items() for one in entries]
    every.sort(key=lambda one: turn(f"{one[0]}/{one[1]['name']}"))
    chosen: dict[str, list[dict[str, Any]]] = {gateway: [] for gateway in controllers}
    for gateway, one in every[: sample or None]:
        chosen[gateway].append(one)
    return chosen


def due_gateway(known: Sequence[Result], gateways: Sequence[str]) -> str:
    """The gateway whose turn it is; empty without any."""
    return min(gateways, key=_turns(known, "gateways"), default="")


def _turns(known: Sequence[Result], kind: str) -> Callable[[str], tuple[int, int]]:
    """What sorts first whatever had its turn longest ago, or never, and of those what is unproven for longest.

    Not by proofs alone: what does not come back would be in each drill, and the others in none.
    """
    tried, proven = _last(known, kind), _last(known, kind, proven=True)
    return lambda identity: (tried.get(identity, -1), proven.get(identity, -1))


def _last(known: Sequence[Result], kind: str, proven: bool = False) -> dict[str, int]:
    """In which result, by its place, something was to come back last, by its id; or with ``proven`` came back."""
    return {
        identity: place
        for place, result in enumerate(known)
        for identity, proof in result.get(kind, {}).items()
        if not (proven and proof["problems"])
    }


def unexpected(differences: Sequence[Mapping[str, str]], new: Sequence[str]) -> list[str]:
    """In words, what is otherwise than on the lost gateway, but for the ``new`` on each host (patterns of fnmatch)."""
    return [
        f"{one['what']} {one['problem']}"
        for one in differences
        if not any(fnmatch.fnmatchcase(one["what"], pattern) for pattern in new)
    ]


def build(directory: Path, chosen: Mapping[str, Sequence[Mapping[str, Any]]]) -> Controllers:
    """Make factory-fresh boards in ``directory``, each with a programmer; the controllers that they are, by gateway."""
    fitted = {
        gateway: [{**one, "programmer": one.get("programmer") or "drill"} for one in entries]
        for gateway, entries in chosen.items()
    }
    twin = rehearsal_twin.remap(directory, fitted)
    rehearsal_twin.make(directory, {"inventory": chosen, "twin": twin})
    for gateway, entries in twin.items():
        for one in entries:
            rehearsal_twin.write_board(directory / gateway / "boards" / one["name"], b"", b"", _FACTORY)
    return twin


def compare(place: Path, name: str, set_id: str, told: Mapping[str, Any]) -> list[str]:
    """What of a board is not as the set says: of what it answers over its line, ``told``, and of its chip itself."""
    store, board = Store(place / "state"), place / "boards" / name
    kept = store.load_set(name, set_id)
    problems = []
    wanted, found = kept["settings"], told.get("settings") or {}
    problems += [
        f"{one} is {found.get(one)}, it was {value}" for one, value in wanted.items() if found.get(one) != value
    ]
    if told.get("version") != kept["version"]:
        problems.append(f"firmware is {told.get('version') or 'unknown'}, it was {kept['version']}")
    for memory in ("flash", "eeprom"):
        digest = image.digest((board / f"{memory}.bin").read_bytes())
        if digest != image.digest(store.get(kept["images"][memory])):
            problems.append(f"its {memory} is another one, with the digest {digest}")
    fuses = dict(line.split() for line in (board / "fuses").read_text().splitlines())
    for fuse, value in kept["images"]["fuses"].items():
        if int(fuses[fuse], 16) != value:
            problems.append(f"{fuse} is {fuses[fuse]}, it was 0x{value:02X}")
    return problems


def keep(
    directory: Path,
    started: str,
    seconds: float,
    proofs: Mapping[str, Proof],
    gateways: Mapping[str, GatewayProof] | None = None,
) -> Result:
    """Write down what became of a drill."""
    gateways = gateways or {}
    every = {**gateways, **proofs}
    problems = [f"{identity}: {problem}" for identity, proof in every.items() for problem in proof.problems]
    identity = started.replace("-", "").replace(":", "")
    result: Result = {
        "id": identity,
        "who": who(),
        "started": started,
        "ended": now(),
        "seconds": round(seconds, 1),
        "controllers": {one: asdict(proof) for one, proof in proofs.items()},
        "gateways": {one: asdict(proof) for one, proof in gateways.items()},
        "outcome": "failed" if problems else "passed",
        "problems": problems,
    }
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(directory / f"{identity}.json", json.dumps(result, indent=1).encode() + b"\n", 0o600)
    return result


def measure(directory: Path, known: Sequence[Result], controllers: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Leave for Prometheus, in ``directory``, how the last drill went, and which set each controller came back from."""
    try:
        from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
    except ImportError:
        raise MissingPackage(
            "the Python library prometheus_client is missing on the control node; install it, or leave "
            "recovery_drill_metrics_directory empty"
        ) from None
    registry, last = CollectorRegistry(), known[-1]

    def proven(kind: str, identity: str) -> float:
        place = _last(known, kind, proven=True).get(identity)
        return 0.0 if place is None else _epoch(known[place][kind][identity]["taken"])

    def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(f"multi_sonicator_recovery_drill_{name}", text, labels, registry=registry)

    gauge("last_run_timestamp_seconds", "When the last drill ended.").set(_epoch(last["ended"]))
    gauge("last_run_failed", "Whether something did not come back in it.").set(last["outcome"] != "passed")
    gauge("last_run_seconds", "How long it took until everything was back and compared.").set(last["seconds"])
    taken = gauge(
        "verified_set_timestamp_seconds",
        "When the newest set was taken that a controller came back from, 0 where none was.",
        ("gateway", "controller"),
    )
    for gateway, entries in controllers.items():
        for one in entries:
            taken.labels(gateway, one["name"]).set(proven("controllers", f"{gateway}/{one['name']}"))
    text = "When the newest set was taken that a gateway came back from on a spare host, 0 where none was."
    whole = gauge("verified_gateway_timestamp_seconds", text, ("gateway",))
    for gateway in controllers:
        whole.labels(gateway).set(proven("gateways", gateway))
    directory.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(directory / METRICS), registry)
    (directory / METRICS).chmod(0o644)


def _epoch(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()

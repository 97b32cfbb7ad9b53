# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The twin of a site: where its lines and boards lie on the control node, how they begin, and what became of them.

::

    <directory>/rollouts/              the twin's rollouts, by act
    <directory>/<gateway>/line_1       the lines, and the programmers isp_<controller>
    <directory>/<gateway>/boards/, control/, program/    of the simulator, see the role virtual_controller
    <directory>/<gateway>/state/       what the gateway keeps
    <directory>/<gateway>/inventory.json, twin.json      the variable controllers, the site's and the twin's
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core import image
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import Store
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rehearsal import RehearsalError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import Plan, Status
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_run import Run, story
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutState

_LONGEST_SOCKET = 107  # bytes of its path, says Linux
# Every simulated board is an ATmega32A, avrdude's m32.
_PART, _FLASH, _EEPROM = "m32", 32768, 1024
# Writes one bit of the image's first page wrong, whatever the image: the programmer's verification has to see it.
FAULT = ("corrupt_write", "0")

Controllers = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Kept:
    """What a real gateway kept last of a controller: its newest set, and the objects that this refers to by digest."""

    set: Mapping[str, Any]
    objects: Mapping[str, bytes]

    @property
    def has_firmware(self) -> bool:
        """Whether the chip was ever read."""
        return bool(self.set["images"])


@dataclass(frozen=True)
class Seen:
    """A board as it was found: the digest of its flash, and what it tells over its line (None where it is silent)."""

    flash: str
    version: str | None
    settings: Mapping[str, Any] | None


def remap(directory: Path, controllers: Mapping[str, Sequence[Mapping[str, Any]]]) -> Controllers:
    """The inventory's controllers, by gateway, on the lines and programmers of the twin in ``directory``.

    What shares a line shares one there; one that is reached over TCP is a serial line there. RehearsalError where the
    paths would be too long for sockets.
    """
    twin: Controllers = {}
    for gateway, entries in controllers.items():
        place = directory / gateway
        lines: dict[str, str] = {}
        twin[gateway] = []
        for one in entries:
            line = lines.setdefault(str(one["line"]), str(place / f"line_{len(lines) + 1}"))
            programmer = {"programmer": str(place / f"isp_{one['name']}")} if one.get("programmer") else {}
            twin[gateway].append({**one, "line": line, **programmer})
            socket = control(line)
            if len(socket.encode()) > _LONGEST_SOCKET:
                raise RehearsalError(
                    f"gateway {gateway}: {socket} has more than the {_LONGEST_SOCKET} bytes that a socket's path may "
                    "have; name a shorter directory for the twin"
                )
    return twin


def make(directory: Path, controllers: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Make the twin's directory, which is for its owner alone, with ``controllers`` by name of the file and gateway."""
    try:
        directory.mkdir(mode=0o700, parents=True)
        for name, gateways in controllers.items():
            for gateway, entries in gateways.items():
                place = directory / gateway
                place.mkdir(exist_ok=True)
                (place / f"{name}.json").write_text(json.dumps({"controllers": entries}, indent=1))
    except OSError as error:
        raise RehearsalError(
            f"{error.filename}: {error.strerror}; name a directory for the twin that can be written"
        ) from None


def control(line: str) -> str:
    """The simulator's control socket of one of the twin's lines."""
    return str(Path(line).parent / "control" / f"{Path(line).name}.sock")


def require_parts(
    controllers: Mapping[str, Sequence[Mapping[str, Any]]], profiles: Mapping[str, Mapping[str, Any]]
) -> None:
    """RehearsalError where a board cannot be simulated; ``profiles`` are those of the controllers, by name."""
    other = {
        f"{gateway}/{one['name']} ({part})"
        for gateway, entries in controllers.items()
        for one in entries
        if (part := (profiles[one["profile"]].get("part") or {}).get("avrdude", _PART)) != _PART
    }
    if other:
        raise RehearsalError(
            f"{', '.join(sorted(other))}: only boards with the part {_PART} can be simulated; go without these "
            "gateways (--limit)"
        )


def require_boards(
    controllers: Mapping[str, Sequence[Mapping[str, Any]]],
    profiles: Mapping[str, Mapping[str, Any]],
    kept: Mapping[str, Mapping[str, Kept]],
    firmware: str,
) -> None:
    """RehearsalError where a board cannot be simulated, or it is not known with which firmware it begins.

    ``profiles`` are those of the controllers, by name; ``firmware`` is what the boards have of which nothing was kept.
    """
    require_parts(controllers, profiles)
    unknown = [
        f"{gateway}/{one['name']}"
        for gateway, entries in controllers.items()
        for one in entries
        if not firmware and not (one["name"] in kept[gateway] and kept[gateway][one["name"]].has_firmware)
    ]
    if unknown:
        raise RehearsalError(
            f"no firmware to begin with is known of {', '.join(unknown)}; nothing was built. Name the image that they "
            "have (rehearsal_firmware), or have their last sets fetched (rehearsal_fetch_sets=true) once a deployment "
            "or a snapshot with controllers_read_chip has read their chips"
        )


def seed(
    directory: Path,
    controllers: Mapping[str, Sequence[Mapping[str, Any]]],
    kept: Mapping[str, Mapping[str, Kept]],
    firmware: Path | None,
) -> dict[str, str]:
    """Put the memories of all boards, which are not simulated now, to where a rehearsal begins; flash digests by id.

    What was ``kept`` of a controller is both what its board holds and what its gateway has; the others are fresh, and
    the simulator delivers them with ``firmware``.
    """
    flashes = {}
    for gateway, entries in controllers.items():
        place = directory / gateway
        for old in ("boards", "state"):
            shutil.rmtree(place / old, ignore_errors=True)
        store = Store(place / "state")
        for one in entries:
            name = one["name"]
            found = kept[gateway].get(name)
            if found:
                _keep(store, name, found)
            if found and found.has_firmware:
                images = found.set["images"]
                fuses = f"lfuse 0x{images['fuses']['lfuse']:02X}\nhfuse 0x{images['fuses']['hfuse']:02X}\nlock 0xFF\n"
                write_board(place / "boards" / name, store.get(images["flash"]), store.get(images["eeprom"]), fuses)
                record = {"version": found.set["version"], "proof": "read back", "programmer": one.get("programmer")}
                store.save_record(name, {**record, "images": images})
                flashes[f"{gateway}/{name}"] = image.digest(store.get(images["flash"]))
            elif firmware:
                text = firmware.read_text("ascii", "replace")
                flashes[f"{gateway}/{name}"] = image.digest(image.parse_hex(text, str(firmware), _FLASH))
    return flashes


def _keep(store: Store, name: str, found: Kept) -> None:
    for promised, data in found.objects.items():
        if store.put(data) != promised:
            raise RehearsalError(
                f"controller {name}: object {promised} of its last set is damaged on the gateway; restore the state "
                "directory there from its backup, or rehearse without rehearsal_fetch_sets"
            )
    store.save_set(name, found.set)


def write_board(place: Path, flash: bytes, eeprom: bytes, fuses: str) -> None:
    """The memories of a board as the simulator has them on disk, filled up with erased bytes; ``fuses`` one a line."""
    place.mkdir(parents=True)
    (place / "flash.bin").write_bytes(flash.ljust(_FLASH, b"\xff"))
    (place / "eeprom.bin").write_bytes(eeprom.ljust(_EEPROM, b"\xff"))
    (place / "fuses").write_text(fuses)


def flashes(directory: Path, controllers: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Digests of what the boards have in their flash now, by id."""
    return {
        f"{gateway}/{one['name']}": image.digest(
            (directory / gateway / "boards" / one["name"] / "flash.bin").read_bytes()
        )
        for gateway, entries in controllers.items()
        for one in entries
    }


def seen(flash: Mapping[str, str], answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Seen]:
    """All boards by id: their ``flash``, and what they told the module snapshot, whose ``answers`` are by gateway."""
    told = {
        f"{gateway}/{one['name']}": one.get("content") or {}
        for gateway, answer in answers.items()
        for one in answer.get("controllers") or ()
    }
    return {
        one: Seen(digest, told.get(one, {}).get("version"), told.get(one, {}).get("settings"))
        for one, digest in flash.items()
    }


# What became of them -------------------------------------------------------------------------------------------------


class Act:
    """A rollout on the twin that has ended, and its boards before and after it."""

    def __init__(
        self, state: RolloutState, chosen: Sequence[str], before: Mapping[str, Seen], after: Mapping[str, Seen]
    ) -> None:
        self._plan = Plan.from_mapping(state.plan()["plan"])
        self._events = state.events()
        self._chosen, self._before, self._after = chosen, before, after
        self._results = {
            f"{gateway}/{one['name']}": one
            for gateway, results in Run(state, lambda _line: None).results().items()
            for one in results
        }

    @property
    def first(self) -> str:
        """The member that the plan begins with."""
        return self._plan.waves[0][0][0].id

    @property
    def members(self) -> Sequence[str]:
        return list(self._plan.members)

    def told(self) -> dict[str, Any]:
        """What a result says of it: plan, duration in seconds, how it ended, and each member's end."""
        times = [datetime.datetime.fromisoformat(event["time"]) for event in self._events]
        return {
            "plan": self._plan.digest,
            "waves": len(self._plan.waves),
            "seconds": int((times[-1] - times[0]).total_seconds()),
            "ended": [event["reason"] for event in self._events if event["event"] == "ended"],
            "controllers": {
                one: {key: result.get(key) for key in ("status", "seconds", "msg")}
                for one, result in self._results.items()
            },
        }

    def images(self) -> dict[str, str]:
        """What the rollout's controllers have in their flash now, by id."""
        return {one: self._after[one].flash for one in self._chosen}

    def undisturbed(self) -> list[str]:
        """What is not as it should be after a rollout that had no reason to fail."""
        problems = [*self._ended_otherwise(Status.DONE, Status.UNCHANGED), *self._astray(), *self._settings_lost()]
        if not any(event["event"] == "ended" and not event["failed"] for event in self._events):
            problems.append("the rollout did not come to its end")
        return problems

    def disturbed(self, broken: str) -> list[str]:
        """The same after one in which the writing of the board ``broken`` failed, and which was run again after that.

        The failure has to be noticed, to count against the budget, and to leave no trace.
        """
        place, found = self._first_result(broken)
        if not found.get("failed"):
            return [f"the writing of {broken} failed, but the rollout says: {found.get('message', 'not begun')}"]
        return [
            *self._went_on_after(place),
            *self._ended_otherwise(Status.DONE, Status.UNCHANGED, Status.PENDING, but=broken),
            *self._astray(broken),
            *self._settings_lost(),
        ]

    def failure(self, broken: str) -> str:
        """What the rollout said of the board whose writing failed."""
        return str(self._first_result(broken)[1].get("message", ""))

    def _first_result(self, identity: str) -> tuple[int, Mapping[str, Any]]:
        """The first result of a member, and which of the events it is."""
        results = (
            (place, event)
            for place, event in enumerate(self._events)
            if event["event"] == "result" and event["member"] == identity
        )
        return next(results, (len(self._events), {}))

    def _ended_otherwise(self, *expected: Status, but: str = "") -> Iterator[str]:
        for one, result in self._results.items():
            if result["status"] not in expected and one != but:
                yield f"{one} {result['status']}: {result['msg']}"

    def _went_on_after(self, place: int) -> Iterator[str]:
        """Whether anything was begun after the failure at that place though the budget was spent."""
        if not story(self._plan, self._events[: place + 1]).rollout.over_budget:
            return
        for event in self._events[place:]:
            if event["event"] == "resumed":
                return
            if event["event"] == "step":
                yield f"the budget was spent, and yet {', '.join(event['members'])} were begun"

    def _astray(self, broken: str = "") -> Iterator[str]:
        """Boards with another firmware than that of before, or, where the release was deployed, than that."""
        for one, seen in self._after.items():
            result = self._results.get(one, {})
            expected, version = self._before[one].flash, self._before[one].version
            if result.get("status") == Status.DONE and one != broken:
                expected, version = result["after"]["digest"], result["after"]["version"]
            if seen.flash != expected:
                yield f"{one}: its flash has the digest {seen.flash}, expected {expected}"
            elif seen.version != version:
                yield f"{one}: tells version {seen.version}, expected {version}"

    def _settings_lost(self) -> Iterator[str]:
        for one, seen in self._after.items():
            before = self._before[one].settings
            if before is None or seen.settings is None:
                yield f"{one}: silent {'before' if before is None else 'after'} it"
            elif lost := [name for name, value in before.items() if seen.settings.get(name) != value]:
                yield f"{one}: {', '.join(lost)} not as before"

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that keeps backups of a gateway and its controllers: takes a set, stores it in each target, and tells.

It reads the line only. What it was last read from a chip belongs to the set, together with when that was. One target
that cannot be reached, or one controller that is silent, keeps nothing else from being stored; the run has failed all
the same, and that is said until one succeeds: in ``status.json``, in the metrics, and by its exit code, which is 1 then
and 2 where no target has the set.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import events, lock, snapshot
from .backup_set import BackupError, Manifest, seal
from .backup_status import Status
from .change import Policy
from .console import complain, say
from .errors import CoreError
from .files import accounts
from .gateway import Controller, Result
from .operations import take_snapshots
from .restic import Restic, Snapshot, Target
from .settings import PATH as SETTINGS
from .settings import Settings, load
from .store import Store, StoreError, dump_yaml, now

PATH = Path("/etc/multi_sonicator/backup.json")
_COMMAND_DEADLINE = 120.0
# What a gateway is asked, by the file of the set that the answer goes to.
QUESTIONS = {
    "gateway/os-release": ("cat", "/etc/os-release"),
    "gateway/kernel": ("uname", "-srvm"),
    "gateway/packages": ("dpkg-query", "--show", "--showformat", "${Package}=${Version}\\t${db:Status-Abbrev}\\n"),
    "gateway/services.json": ("systemctl", "list-units", "--all", "--type=service,timer", "--output=json"),
    "gateway/unit-files.json": ("systemctl", "list-unit-files", "--type=service,timer", "--output=json"),
    "gateway/events.jsonl": ("journalctl", "--identifier=multi_sonicator", "--output=json", "--quiet"),
    # The whole journal would be most of what is stored.
    "gateway/warnings": ("journalctl", "--priority=warning", "--since=-7d", "--output=short-iso", "--quiet"),
}


@dataclass(frozen=True)
class Configuration:
    """What is kept where: ``gateway`` is the inventory's name of it, ``files`` are paths, directories with all in them.

    One of these that is missing is a problem; ``usual`` ones are kept where they are there.
    ``directory`` holds the newest set, restic's caches and ``status.json``; ``excluded`` of the files are left out.
    ``metrics`` is a directory of node-exporter's textfile collector, None for none. ``interval``: after how many
    seconds without a backup one is missing. ``kept``: how many sets stay where the gateway may remove any, see
    Restic.forget; all where it is empty.
    """

    gateway: str
    directory: Path
    files: Sequence[Path]
    excluded: Sequence[Path]
    targets: Sequence[Target]
    metrics: Path | None
    interval: float
    kept: Mapping[str, int]
    usual: Sequence[Path] = ()

    @classmethod
    def load(cls, path: Path = PATH) -> Configuration:
        """The content of the file ``path``; CoreError where it is missing or damaged."""
        try:
            data = json.loads(path.read_bytes())
            return cls(
                data["gateway"],
                Path(data["directory"]),
                [Path(one) for one in data["files"]],
                [Path(one) for one in data["excluded"]],
                [Target(**one) for one in data["targets"]],
                Path(data["metrics"]) if data.get("metrics") else None,
                float(data["interval"]),
                {str(period): int(count) for period, count in data["kept"].items()},
                [Path(one) for one in data.get("usual", ())],
            )
        except OSError as error:
            raise CoreError(f"{path}: {error.strerror}; the role backup writes it: run it for this gateway") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CoreError(f"{path}: damaged ({error!r}); run the role backup for this gateway") from None

    def restic(self, target: Target) -> Restic:
        """The target at work, with a cache of its own."""
        return Restic(target, self.directory / "cache" / target.name)


# Taking a set


def take(settings: Settings | None, configuration: Configuration) -> tuple[Manifest, Path, list[str]]:
    """A new set, the directory it is in, and what is missing from it, in words. Without settings it is no gateway's."""
    directory = configuration.directory / "set"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True)
    problems: list[str] = []
    controllers: dict[str, Result] = {}
    if settings is not None:
        by_name = {one["name"]: one for one in take_snapshots(settings.gateway(), False, Policy(), False)}
        for controller in settings.controllers:
            told = _controller(settings.store, controller, by_name[controller.name], directory)
            controllers[controller.name] = told
            if told["problem"]:
                problems.append(f"controller {controller.name}: {told['problem']}")
    for name, question in QUESTIONS.items() if settings is not None else ():
        try:
            _put(directory / name, ask(question))
        except BackupError as error:
            problems.append(str(error))
    problems += [
        f"{path}: not there; put it back, or take it out of what is to be kept" for path in missing(configuration)
    ]
    owners = {}
    # What a control node keeps is restored whole; of a gateway's links to units systemd keeps account.
    for path in files(
        configuration, settings is None, lambda error: problems.append(f"{error.filename}: {error.strerror}")
    ):
        name = f"files/{path.relative_to('/')}"
        try:
            _copy(path, directory / name)
            owners[name] = accounts(path.stat())
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
    return seal(directory, configuration.gateway, now(), controllers, owners), directory, problems


def _controller(store: Store, controller: Controller, result: Result, directory: Path) -> Result:
    """Put what is known of a controller into the set; what of it the manifest says."""
    place, kept = directory / "controllers" / controller.name, store.controller(controller.name)
    told: Result = {
        "line": controller.line,
        "unit": controller.unit,
        "profile": controller.profile.name,
        "problem": result["msg"] if result["failed"] else None,
    }
    try:
        told |= _newest(store, controller.name, result.get("set"), directory)
    except StoreError as error:
        told["problem"] = "; ".join(text for text in (told["problem"], str(error)) if text)
    # The journal of an open transaction stays behind: whoever restored it would finish what is long over.
    for path in [kept / "record.yml", *sorted((kept / "history").glob("*.jsonl"))]:
        with contextlib.suppress(FileNotFoundError):
            _copy(path, place / path.relative_to(kept))
    return told


def _newest(store: Store, name: str, taken: str | None, directory: Path) -> Result:
    """Put the set just ``taken`` of a controller there, or else the latest that is kept, with its images."""
    if not taken and not store.set_ids(name):
        return {}
    content = snapshot.find(store, name, taken or "latest")
    images = content["images"] or {}
    objects = {images[memory]: store.get(images[memory]) for memory in ("flash", "eeprom") if memory in images}
    for digest, data in objects.items():
        _put(directory / "objects" / digest, data)
    _put(directory / "controllers" / name / "set.yml", dump_yaml(content))
    return {"set": content["id"], "version": content["version"], "images": content["images"]}


def missing(configuration: Configuration) -> list[Path]:
    """Which of the files that are to be kept are not there."""
    return [path for path in configuration.files if not path.exists()]


def files(
    configuration: Configuration, follow: bool, failed: Callable[[OSError], None] = lambda _error: None
) -> Iterator[Path]:
    """The regular files that are to be kept, and those that a link among the paths themselves leads to.

    With ``follow`` what any link leads to is kept in its place. ``failed`` hears of each directory that can't be read.
    """

    def kept(path: Path) -> bool:
        return not any(path.is_relative_to(other) for other in configuration.excluded)

    for start in filter(kept, [*configuration.usual, *configuration.files]):
        if not start.is_dir():
            yield from [start] if start.is_file() else []
            continue
        seen = set()  # links may lead round in circles
        for place, directories, names in os.walk(start, onerror=failed, followlinks=follow):
            seen.add(os.path.realpath(place))
            inner = sorted(name for name in directories if kept(Path(place, name)))
            directories[:] = [name for name in inner if os.path.realpath(Path(place, name)) not in seen]
            for path in (Path(place, name) for name in sorted(names)):
                if kept(path) and path.is_file() and (follow or not path.is_symlink()):
                    yield path


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def ask(command: Sequence[str]) -> bytes:
    """What the host says to one of the questions; BackupError where it does not."""
    try:
        done = subprocess.run(  # pylint: disable=ansible-bad-function  # the core knows no AnsibleModule
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_DEADLINE, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        raise BackupError(f"{' '.join(command)}: {error} {said.decode(errors='replace')[-200:]}".strip()) from None
    return done.stdout


# The program


@dataclass(frozen=True)
class Taken:
    """A set that was taken, what went wrong, and in which targets it is."""

    manifest: Manifest
    problems: Sequence[str]
    targets: Sequence[str]


def run(settings: Settings | None, configuration: Configuration) -> Taken:
    """Take a set and store it in each target. CoreError where none could be taken.

    Without settings of controllers it consists of files alone.
    """
    configuration.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    told = (configuration.directory, configuration.gateway, configuration.interval, configuration.metrics)
    status = Status(*told, several=settings is None)
    with _alone(configuration.directory):
        try:
            manifest, directory, problems = take(settings, configuration)
        except (CoreError, OSError) as error:
            shutil.rmtree(configuration.directory / "set", ignore_errors=True)  # or a full disk stays so, untold
            status.note(None, [str(error)], dict.fromkeys((one.name for one in configuration.targets), str(error)))
            raise
        failures: dict[str, str | None] = {}
        there: dict[str, Sequence[Snapshot]] = {}
        for target in configuration.targets:
            try:
                restic = configuration.restic(target)
                restic.keep(directory, manifest.id, configuration.gateway)
                if configuration.kept and not target.append_only:
                    restic.forget(configuration.gateway, configuration.kept)
                there[target.name] = restic.sets(configuration.gateway)
                failures[target.name] = None
            except CoreError as error:
                failures[target.name] = str(error)
        shutil.rmtree(directory)  # keys lie in it
        status.note(manifest, problems, failures, there)
    errors = [error for error in failures.values() if error]
    return Taken(manifest, [*problems, *errors], [name for name, error in failures.items() if not error])


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    with open(directory / "lock", "w", encoding="ascii") as stream:
        if not lock.try_lock(stream.fileno()):
            raise BackupError("another backup is being taken; wait for it to end")
        yield


def prepare(configuration: Configuration) -> tuple[list[str], list[str]]:
    """Make the repositories that are missing; what was done, and what went wrong.

    A target that cannot be reached keeps none of the others from it.
    """
    done: list[str] = []
    problems: list[str] = []
    for target in configuration.targets:
        try:
            done += configuration.restic(target).create()
        except BackupError as error:
            problems.append(str(error))
    return done, problems


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="backup", description="Keep a backup of this gateway and its controllers.")
    parser.add_argument("verb", choices=("run", "prepare"), help="take one, or make the targets' repositories")
    parser.add_argument("--settings", type=Path, default=SETTINGS, metavar="FILE")
    parser.add_argument("--configuration", type=Path, default=PATH, metavar="FILE")
    given = parser.parse_args(arguments)
    os.umask(0o077)
    try:
        configuration = Configuration.load(given.configuration)
        if given.verb == "prepare":
            done, problems = prepare(configuration)
            for text in done:
                say(text)
            for problem in problems:
                complain(f"backup: {problem}")
            return int(bool(problems))
        taken = run(load(given.settings), configuration)
    except (CoreError, OSError) as error:
        complain(f"backup: {error}")
        if given.verb == "run":
            events.send([events.Event(what="backup", result="failed", message=str(error))])
        return 2
    for problem in taken.problems:
        complain(f"backup: {problem}")
    told = f"set {taken.manifest.id}, {len(taken.manifest.files)} files, {taken.manifest.size} bytes"
    say(told)
    result = "failed" if taken.problems else "changed"
    events.send([events.Event(what="backup", result=result, message="; ".join([told, *taken.problems]))])
    return 0 if not taken.problems else 1 if taken.targets else 2

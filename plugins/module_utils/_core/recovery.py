# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Getting a backup set back: from whichever target has it whole, and into what the gateway keeps of its controllers.

Nothing is written to a controller here. What comes of it is an ordinary set under the backup's id, for the firmware
transaction to bring the controller to.

A gateway that was set up anew also gets back what it alone knew: what was last read from the chips, what was done to
them, and files of it. What was asked of the lost one (packages, services, events) is laid beside that, for people.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .backup import QUESTIONS, Configuration, ask
from .backup_set import BackupError, File, Manifest, verified
from .errors import CoreError
from .files import accounts, has_account, has_group, plan
from .gateway import Controller, Gateway
from .store import Store, StoreError

_MOST_NAMES = 5
_PACKAGES = "gateway/packages"


def fetch(
    configuration: Configuration,
    gateway: Gateway,
    wanted: str,
    target: str | None,
    check: bool,
    files: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Keep what the set ``wanted`` says of the gateway's controllers; what a module tells of it.

    With ``files`` also what the gateway itself kept, and those files and directories by their paths; then it is told
    what else of the set is otherwise here. Nothing is kept with ``check``. BackupError where no target has it whole,
    InventoryError with each controller that it does not know, or knows as another.
    """
    with fetched(configuration, wanted, target) as (manifest, directory, source):
        fresh, unfit = adopt(gateway, manifest, directory, check, whole=files is None)
        lost = {} if files is None else _lost(gateway, manifest, directory, files, unfit)
        missing = {parent for path in lost for parent in path.parents if not parent.exists()}
        changes = plan([*({"path": parent} for parent in sorted(missing)), *lost.values()])
        for change in changes if not check else ():
            change.apply()
        brought = [str(change.path) for change in changes if change.path in lost]
        other = [] if files is None else differences(manifest, directory)
    told = []
    for name, new in fresh.items():
        known = manifest.controllers[name]
        read = (known["images"] or {}).get("read")
        chip = f"its chip as it was read at {read}" if read else "no image, since its chip had never been read"
        message = f"set {manifest.id} holds its settings and {chip}"
        told.append({"name": name, "changed": new, "version": known["version"], "read": read, "msg": message})
    for name, reason in unfit.items():
        told.append({"name": name, "changed": False, "version": None, "read": None, "msg": f"stays out: {reason}"})
        other.append({"what": f"controller {name}", "problem": reason})
    whole = {"set": manifest.id, "taken": manifest.taken, "backup_target": source}
    changed = any(fresh.values()) or bool(brought)
    return {"changed": changed, **whole, "files": brought, "differences": other, "controllers": told}


@contextmanager
def fetched(
    configuration: Configuration, wanted: str, target: str | None = None
) -> Iterator[tuple[Manifest, Path, str]]:
    """The set ``wanted`` (an id, or ``latest``), the directory that it is in meanwhile, and the target it came from.

    Every file of it is verified. Targets are tried in their order, or only the one named; BackupError tells what was
    wrong with each.
    """
    targets = [one for one in configuration.targets if target in (None, one.name)]
    if not targets:
        known = ", ".join(one.name for one in configuration.targets) or "none"
        raise BackupError(f"there is no backup target {target} (there are {known})")
    reasons = []
    configuration.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=configuration.directory, prefix=".fetched-") as name:
        for one in targets:
            directory = Path(name) / one.name
            directory.mkdir()
            try:
                restic = configuration.restic(one)
                found = restic.find(wanted, configuration.gateway)
                restic.fetch(found, directory)
                manifest = verified(directory, found.set_id)
            except CoreError as error:
                reasons.append(str(error))
                continue
            yield manifest, directory, one.name
            return
    raise BackupError("; ".join(reasons))


def copy(configuration: Configuration, wanted: str, to: str, check: bool) -> dict[str, Any]:
    """Store the set ``wanted`` in the target ``to`` as well, such as one on a stick; what a module tells of it.

    It comes from the first other target that has it, and is fetched back and verified. Nothing is stored with
    ``check``.
    """
    targets = {one.name: configuration.restic(one) for one in configuration.targets}
    if to not in targets:
        raise BackupError(f"there is no backup target {to} (there are {', '.join(targets) or 'none'})")
    medium = targets.pop(to)
    reasons = []
    for name, source in targets.items():
        try:
            found = source.find(wanted, configuration.gateway)
        except CoreError as error:
            reasons.append(str(error))
            continue
        answer = {"set": found.set_id, "backup_target": name}
        if check:
            return {"changed": True, **answer}
        medium.create()
        there = found.set_id in {one.set_id for one in medium.sets(configuration.gateway)}
        if not there:
            medium.copy(source, found)
        with fetched(configuration, found.set_id, to):
            return {"changed": not there, **answer}
    raise BackupError("; ".join(reasons) or f"there is no other target than {to} to copy from")


def fetch_files(
    configuration: Configuration, wanted: str, target: str | None, into: Path, replace: bool, check: bool
) -> dict[str, Any]:
    """Write the files of the set ``wanted`` below ``into``, by their paths; what a module tells of it.

    Nothing is written with ``check``, nor where one is there with other content, unless ``replace`` says that it may
    go. They belong to whoever runs this.
    """
    with fetched(configuration, wanted, target) as (manifest, directory, source):
        found = {
            into / name.removeprefix("files/"): {
                "path": into / name.removeprefix("files/"),
                "content": (directory / name).read_bytes(),
                "mode": f"{known.mode:04o}",
            }
            for name, known in manifest.files.items()
            if name.startswith("files/")
        }
        missing = {parent for path in found for parent in path.parents if not parent.exists()}
        changes = plan([*({"path": parent, "mode": "0700"} for parent in sorted(missing)), *found.values()])
        if other := [str(change.path) for change in changes if change.found is not None and not replace]:
            raise BackupError(
                f"{', '.join(other[:_MOST_NAMES])}{' and more' if len(other) > _MOST_NAMES else ''}: not as in set "
                f"{manifest.id}; nothing was written. Name an empty directory, or say that they are to be replaced"
            )
        for change in changes if not check else ():
            change.apply()
    written = [str(change.path) for change in changes if change.path in found]
    return {
        "changed": bool(changes),
        "set": manifest.id,
        "taken": manifest.taken,
        "backup_target": source,
        "files": written,
    }


def adopt(
    gateway: Gateway, manifest: Manifest, directory: Path, check: bool, whole: bool
) -> tuple[dict[str, bool], dict[str, str]]:
    """Keep what the set says of each controller of ``gateway`` as a set under its id.

    Returns whether that is new, by name, and why the set is not of others. With ``whole`` it has to be of each:
    InventoryError otherwise, and nothing is kept.
    """
    unfit = {}

    def fitting(controller: Controller) -> dict[str, Any]:
        try:
            return _require_fit(controller, manifest, directory)
        except CoreError as error:
            if whole:
                raise
            unfit[controller.name] = str(error)
            return {}

    sets = {name: content for name, content in gateway.prepare(fitting).items() if content}
    fresh = {name: manifest.id not in gateway.store.set_ids(name) for name in sets}
    for name, content in sets.items():
        if fresh[name] and not check:
            for memory in ("flash", "eeprom") if content["images"] else ():
                gateway.store.put((directory / "objects" / content["images"][memory]).read_bytes())
            gateway.store.save_set(name, {**content, "id": manifest.id})
    return fresh, unfit


def _lost(
    gateway: Gateway, manifest: Manifest, directory: Path, files: Sequence[str], unfit: Collection[str]
) -> dict[Path, Mapping[str, Any]]:
    """What a gateway that was set up anew had before, the controllers' own sets apart, by path.

    Of its controllers nothing that it has learnt since is replaced, and of ``unfit`` ones nothing comes. Files are
    whose they were, where there is such an account by now, and root's otherwise.
    """
    lost: dict[Path, Mapping[str, Any]] = {}
    for name, known in manifest.files.items():
        top, _slash, rest = name.partition("/")
        if top == "files" and any(Path("/", rest).is_relative_to(one) for one in files):
            place = Path("/", rest)
        elif top == "gateway":
            place = gateway.store.root / "recovered" / manifest.id / rest
        elif top == "controllers" and _is_kept(rest) and rest.partition("/")[0] not in unfit:
            place = gateway.store.root / name
            if place.exists():
                continue
        else:
            continue
        lost[place] = {
            "path": place,
            "content": (directory / name).read_bytes(),
            "mode": f"{known.mode:04o}",
            **_owners(known),
        }
    return lost


def _owners(known: File) -> dict[str, str]:
    """Whose a file of a set is to be here; nobody but root can give one away."""
    if os.geteuid():
        return {}
    return {
        "owner": known.owner if has_account(known.owner) else "root",
        "group": known.group if has_group(known.group) else "root",
    }


def differences(manifest: Manifest, directory: Path) -> list[dict[str, str]]:
    """What of the gateway that the set was taken of is otherwise on this host: files by path, packages by name."""
    told = []
    for name, known in manifest.files.items():
        if name.startswith("files/"):
            path = Path(name.removeprefix("files"))
            if problem := _differs(path, known, directory / name):
                told.append({"what": str(path), "problem": problem})
    if _PACKAGES in manifest.files:
        here = _installed(ask(QUESTIONS[_PACKAGES]))
        missing = _installed((directory / _PACKAGES).read_bytes()) - here
        told += [{"what": f"package {name}", "problem": "is not installed"} for name in sorted(missing)]
    return told


def _differs(path: Path, known: File, kept: Path) -> str:
    """In words; empty where it is what it was."""
    try:
        status, content = path.stat(), path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror})" if path.exists() else "is missing"
    if content != kept.read_bytes():
        return "has another content"
    mode, (owner, group) = stat.S_IMODE(status.st_mode), accounts(status)
    if (mode, owner, group) != (known.mode, *known.owners):
        return f"is {owner}:{group} {mode:04o}, it was {known.owner}:{known.group} {known.mode:04o}"
    return ""


def _installed(packages: bytes) -> set[str]:
    """The names of those that dpkg calls installed, without the architecture."""
    lines = [line.split("\t") for line in packages.decode().splitlines()]
    return {name.partition("=")[0].partition(":")[0] for name, state in lines if state.startswith("ii")}


def _is_kept(name: str) -> bool:
    """Whether a gateway keeps a file of a controller under the same name as a set."""
    return name.endswith("/record.yml") or "/history/" in name


def _require_fit(controller: Controller, manifest: Manifest, directory: Path) -> dict[str, Any]:
    """What the set holds of a controller; CoreError unless it is of this one."""
    known = manifest.controllers.get(controller.name)
    if known is None:
        raise BackupError(
            f"backup set {manifest.id} of {manifest.gateway} does not have it (it has "
            f"{', '.join(manifest.controllers) or 'none'}); choose another set"
        )
    if not known.get("set"):
        raise BackupError(f"backup set {manifest.id} holds nothing of it: {known['problem']}; choose another set")
    wrong = _differing(known, {"unit": controller.unit, "profile": controller.profile.name})
    content = _content(controller.name, directory)
    if content["controller"] != controller.name:
        wrong.append(f"its content is of controller {content['controller']}")
    try:  # by a profile that says more or less than the one it was taken with they may be settings all the same
        for name, value in content["settings"].items():
            controller.profile.point(name).encode(value)
    except CoreError as error:
        wrong.append(f"the profile here does not admit its settings: {error}")
    for memory in ("flash", "eeprom") if content["images"] else ():
        digest = content["images"][memory]
        file = manifest.files.get(f"objects/{digest}")
        if file is None or file.sha256 != digest:
            wrong.append(f"its {memory} is not the one that its settings belong to")
    if wrong:
        raise BackupError(
            f"backup set {manifest.id} is of another board: {'; '.join(wrong)}; correct the inventory or choose "
            "another set"
        )
    return content


def _differing(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [f"{key} {known[key]} there, {value} here" for key, value in wanted.items() if known[key] != value]


def _content(name: str, directory: Path) -> dict[str, Any]:
    """What a set in ``directory`` says of a controller, read as what a gateway keeps is read."""
    place = directory / "controllers" / name
    content = Store.load(place / "set.yml")
    if content is None:
        raise StoreError(f"{place}: no set.yml there")
    return content

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rehearsals: what one was of, its signed result, and whether that result admits what is to be done now.

A result is one file ``<id>.json``::

    id, who, started, ended     20261125T021500Z-1f0c9a2b, anna@control, times in UTC
    subject, digest             what was rehearsed, see Site.subject, and the sha256 of it
    acts                        what was done on the twin: the rollout, then the one with an injected failure
    outcome, problems           passed or failed, and what was not as it should be
    expires                     until when it counts
    signature                   ed25519, of all the rest
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import now, write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import parse_policy
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import who
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.signing import (
    KeyProblem,
    canonical,
    is_signed,
    load_public_key,
    own_key,
    signed,
)

_MOST_RESULTS = 3
_MOST_REASONS = 8

Result = dict[str, Any]


class RehearsalError(CoreError):
    """A rehearsal that cannot be held, a result that cannot be kept, or none that admits what is to be done."""


@dataclass(frozen=True)
class Site:
    """What an inventory says of a rollout, each by gateway: its controllers, and the version for all without their own.

    ``profiles`` are the digests of the profiles by name. ``only`` and ``override`` are what a run says beyond the
    inventory: the names of the controllers to choose, all of them when empty, and one version for all.
    """

    controllers: Mapping[str, Sequence[Mapping[str, Any]]]
    versions: Mapping[str, str]
    profiles: Mapping[str, str]
    policy: Mapping[str, Any]
    only: Collection[str] = ()
    override: str = ""

    def chosen(self) -> list[str]:
        """Ids (gateway/name) of the controllers that the rollout is about: those that have a programmer."""
        return [
            f"{gateway}/{one['name']}"
            for gateway, controllers in self.controllers.items()
            for one in controllers
            if one.get("programmer") and (not self.only or one["name"] in self.only)
        ]

    def subject(self, images: Mapping[str, str]) -> dict[str, Any]:
        """What is rehearsed: ``controllers`` and ``images`` (flash digests) by id, and the ``policy``.

        Ports are only in it as far as they say which controllers share a line and which can be flashed. Maintenance
        windows are no part of it, since a rehearsal does not wait for them.
        """
        chosen = set(self.chosen())
        controllers = {}
        for gateway, entries in self.controllers.items():
            for one in entries:
                identity = f"{gateway}/{one['name']}"
                version = self.override or one.get("firmware_version") or self.versions.get(gateway)
                profile = one.get("profile") or "multi_sonicator_io"
                controllers[identity] = {
                    "unit": int(one["unit"]),
                    "shares a line with": sorted(
                        other["name"] for other in entries if other["line"] == one["line"] and other is not one
                    ),
                    "has a programmer": bool(one.get("programmer")),
                    "profile": f"{profile} {self.profiles[profile]}",
                    "settings": dict(one.get("settings") or {}),
                    "hardware_revision": one.get("hardware_revision"),
                    "cell": one.get("cell"),
                    "canary": bool(one.get("canary")),
                    "release": (version or None) if identity in chosen else None,
                }
        policy = parse_policy(self.policy).to_mapping()
        del policy["windows"]
        plain: dict[str, Any] = json.loads(
            json.dumps(
                {"controllers": controllers, "policy": {**policy, "only": sorted(self.only)}, "images": dict(images)},
                default=str,
            )
        )
        return plain


def digest(subject: Mapping[str, Any]) -> str:
    """Identifies what was rehearsed."""
    return hashlib.sha256(canonical(subject)).hexdigest()


def differences(rehearsed: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """How the subject ``wanted`` is another than the ``rehearsed`` one, in words.

    Images are compared as far as ``wanted`` knows them: a gateway that does not answer tells none.
    """
    was, is_now = rehearsed["controllers"], wanted["controllers"]
    found = [f"controllers changed: {one} was not rehearsed" for one in is_now if one not in was]
    found += [f"controllers changed: {one} was rehearsed, and is not there now" for one in was if one not in is_now]
    releases = []
    for one in (one for one in is_now if one in was):
        for key, before, after in _differing(was[one], is_now[one]):
            if key == "release":
                releases.append(f"another release: {one} gets {after}, rehearsed was {before}")
            else:
                found.append(f"controllers changed: {one}: {key}: {_shown(after)}, rehearsed was {_shown(before)}")
    found += [
        f"policy changed: {key}: {_shown(after)}, rehearsed was {_shown(before)}"
        for key, before, after in _differing(rehearsed["policy"], wanted["policy"])
    ]
    images = [
        f"another image: {one} gets the flash {image}, rehearsed was {rehearsed['images'].get(one, 'none')}"
        for one, image in wanted["images"].items()
        if one in was and rehearsed["images"].get(one) != image
    ]
    return found + (releases or images)


def _differing(was: Mapping[str, Any], is_now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({*was, *is_now}):
        if was.get(key) != is_now.get(key):
            yield key, was.get(key), is_now.get(key)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# Results -------------------------------------------------------------------------------------------------------------


def new_id(subject: Mapping[str, Any]) -> str:
    """A name for a rehearsal that begins now."""
    return f"{now().replace('-', '').replace(':', '')}-{digest(subject)[:8]}"


def write_result(
    directory: Path,
    key: Path,
    identity: str,
    started: str,
    subject: Mapping[str, Any],
    acts: Sequence[Mapping[str, Any]],
    valid_for: float,
) -> Result:
    """Sign the result of a rehearsal, which counts for so many days, and keep it in ``directory``; returns it.

    The private ``key`` (a file) is made where there is none. Raises RehearsalError.
    """
    ended = now()
    until = datetime.datetime.fromisoformat(ended) + datetime.timedelta(days=valid_for)
    problems = [f"{act['act']}: {problem}" for act in acts for problem in act["problems"]]
    data = {
        "id": identity,
        "who": who(),
        "started": started,
        "ended": ended,
        "expires": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "subject": dict(subject),
        "digest": digest(subject),
        "acts": list(acts),
        "outcome": "failed" if problems else "passed",
        "problems": problems,
    }
    try:
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private, _is_new = own_key(key)
        result = signed(data, private)
        write_atomically(directory / f"{identity}.json", canonical(result))
    except KeyProblem as problem:
        raise RehearsalError(f"{problem}; restore it, or move it away to have a new one made") from None
    except OSError as error:
        raise RehearsalError(
            f"{error.filename or directory}: {error.strerror}; check its permissions and the space that is left"
        ) from None
    return result


def require(wanted: Mapping[str, Any], directory: Path, key: Path, command: str) -> Result:
    """The newest result that admits ``wanted``.

    RehearsalError tells of the results that come nearest why they do not, and the ``command`` that makes one that does.
    """
    refused: list[tuple[int, int, str]] = []
    remedy = f"Rehearse it: {command}"
    paths = sorted(directory.glob("*.json"), reverse=True)
    if not paths:
        raise RehearsalError(f"no rehearsal: {directory} has no result; nothing was begun. {remedy}")
    try:
        public = load_public_key(key)
    except KeyProblem as problem:
        raise RehearsalError(
            f"{problem}; expected the public half of the key that rehearsals are signed with; nothing was begun"
        ) from None
    moment = now()
    for place, path in enumerate(paths):
        result = _load(path)
        reasons = ["bad signature: it is damaged, was edited, or was signed with another key than " + str(key)]
        if result is not None and is_signed(result, public):
            reasons = list(_objections(result, wanted, moment))
            if not reasons:
                return result
        more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
        refused.append((len(reasons), place, f"{path}: {'; '.join(reasons[:_MOST_REASONS])}{more}"))
    nearest = [text for _count, _place, text in sorted(refused)[:_MOST_RESULTS]]
    raise RehearsalError(
        "no rehearsal of exactly this, nothing was begun. Of the results kept these come nearest:\n"
        + "\n".join(nearest)
        + f"\n{remedy}"
    )


def _objections(result: Mapping[str, Any], wanted: Mapping[str, Any], moment: str) -> Iterable[str]:
    if result["outcome"] != "passed":
        yield f"the rehearsal failed: {'; '.join(result['problems'])}"
    if result["expires"] <= moment:
        yield f"expired at {result['expires']}"
    yield from differences(result["subject"], wanted)


def _load(path: Path) -> Result | None:
    """What the file holds, None where that is no signed object or not written as it was."""
    try:
        content = path.read_bytes()
        data = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(data, dict) and "signature" in data and canonical(data) == content
    return data if whole else None

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several people have to approve before this gateway does it, and what they have approved.

::

    /etc/multi_sonicator/approvers                 who may approve, as ssh's allowed_signers; nobody is asked without it
    <state directory>/approvals/<id>/<controller>  approvals that were used, each once

A request is JSON in one spelling, so that what people sign is what is judged here. It names the gateway, what is to be
done with which controllers, why, and until when. People sign it with their own ssh keys, ``ssh-keygen`` verifies that.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import CoreError, MissingPackage
from .store import age, create_once, now, saving

APPROVERS = "/etc/multi_sonicator/approvers"
NAMESPACE = "multi-sonicator-approval"
LONGEST = 24 * 3600
_DEADLINE = 10.0
_SHOWN = 3
_FIELDS = frozenset(("act", "controllers", "expires", "gateway", "id", "reason"))
_ID = re.compile(r"[0-9a-f]{32}")
_REQUIRED = re.compile(r"#\s*required:\s*(\S+)")
_OPTION = rf'(?:namespaces="{NAMESPACE}"|valid-(?:after|before)="?[0-9]{{8,14}}Z?"?)'
_PERSON = re.compile(
    rf"(?P<name>[A-Za-z0-9][A-Za-z0-9._@-]{{0,63}})\s+(?:{_OPTION}(?:,{_OPTION})*\s+)?"
    r"(?P<type>(?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+)\s+(?P<key>[A-Za-z0-9+/]+={0,2})(?:\s.*)?"
)


class NotApproved(CoreError):
    """What needs approvals that are not there. Nothing was done."""


class ApprovalError(CoreError):
    """Approvals that cannot be judged on this gateway, which therefore do not count."""


@dataclass(frozen=True)
class Approval:
    """A request that enough people have signed: ``by`` their names, ``expires`` ISO 8601 in UTC."""

    id: str
    by: tuple[str, ...]
    reason: str
    expires: str

    @property
    def told(self) -> dict[str, Any]:
        """For results, journals and the audit log."""
        return {"id": self.id, "by": list(self.by), "reason": self.reason, "expires": self.expires}

    def __str__(self) -> str:
        return f"approved by {' and '.join(self.by)}: {self.reason}"


@dataclass(frozen=True)
class Act:
    """Something to be done with one controller. ``what`` holds everything that an approval is bound to, as JSON data;
    ``label`` says it for people."""

    kind: str
    controller: str
    what: Mapping[str, Any]
    label: str


@dataclass(frozen=True)
class _Offer:
    """A file that may be a request, and what stands against it by itself."""

    file: str
    content: bytes
    signatures: tuple[str, ...]
    request: Mapping[str, Any]
    wrong: str
    elsewhere: bool = False


def canonical(request: Mapping[str, Any]) -> bytes:
    """The one spelling of a request."""
    return json.dumps(request, sort_keys=True, indent=2, ensure_ascii=True).encode() + b"\n"


def gateway_identity(state_directory: str | Path) -> str:
    """What tells this gateway, and what it keeps where, from every other one."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError as error:
        raise ApprovalError(
            f"/etc/machine-id: {error.strerror}, so no approval can be told to be for this gateway; make one with "
            "systemd-machine-id-setup"
        ) from None
    # The machine id itself is nobody's business outside of the machine.
    place = f"{NAMESPACE}\0{machine}\0{os.path.realpath(state_directory)}"
    return f"{socket.gethostname()} {hashlib.sha256(place.encode()).hexdigest()[:32]}"


class Approvals:
    """Approvals on this gateway.

    ``offered`` are requests with their signatures: mappings of ``file`` (its name), ``request`` and ``signatures``
    (texts). The file of approvers at its usual place counts wherever ``approvers_file`` leads. ``deadline`` is that of
    one call of ssh-keygen, in seconds.
    """

    def __init__(
        self,
        state_directory: str | Path,
        approvers_file: str | Path = APPROVERS,
        offered: Sequence[Mapping[str, Any]] = (),
        deadline: float = _DEADLINE,
    ) -> None:
        self.state_directory = Path(state_directory)
        self.approvers_file = Path(APPROVERS if os.path.lexists(APPROVERS) else approvers_file)
        self.deadline = deadline
        self._offered = offered
        self._signers: dict[bytes, tuple[str, ...]] = {}

    @property
    def needed(self) -> bool:
        """Whether anything has to be approved here at all."""
        return os.path.lexists(self.approvers_file)

    # Asking for approvals

    def request(self, acts: Sequence[Act], reason: str, hours: float) -> dict[str, Any]:
        """A request for ``acts``, all of one kind, that people can sign. It counts for so many hours, 24 at most."""
        if not reason.strip():
            raise ApprovalError("no reason is given; say what people are to approve this for")
        if not 0 < hours * 3600 <= LONGEST:
            raise ApprovalError(f"a request cannot count for {hours:g} h, expected more than 0 and at most 24")
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
        return {
            "act": acts[0].kind,
            "controllers": {act.controller: dict(act.what) for act in acts},
            "expires": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "gateway": gateway_identity(self.state_directory),
            "id": secrets.token_hex(16),
            "reason": reason.strip(),
        }

    # Judging them

    def require(self, act: Act, unused: bool = True) -> Approval | None:
        """The approval of ``act``, None where this gateway needs none; NotApproved says what is missing.

        Without ``unused`` one that was used already will do: it has been approved, and may be done already.
        """
        return self._approval(act, unused) if self.needed else None

    def use(self, act: Act) -> Approval | None:
        """The same, and it is used up for this controller when this returns."""
        while approval := self.require(act):
            used = self._used(approval.id, act.controller)
            with saving(used):
                if create_once(used, canonical({**approval.told, "used": now()})):
                    return approval
        return None

    def approvers(self) -> list[str]:
        """The names of those who may approve; ApprovalError where their file does not say it plainly."""
        lines = [line for line in _lines(self._people) if line and not line.startswith("#")] if self.needed else []
        return sorted({line.split()[0] for line in lines})

    def describe(self) -> list[dict[str, Any]]:
        """Every offered request: its ``file``, what it says, who signed it, for whom it was used, what is wrong."""
        return [self._description(offer) for offer in self._offers]

    def _description(self, offer: _Offer) -> dict[str, Any]:
        told: dict[str, Any] = {"by": [], "missing": 0, "used_for": []}
        told |= {"file": offer.file, "wrong": offer.wrong, "elsewhere": offer.elsewhere}
        if not offer.request:
            return told
        by = self._signed_by(offer) if self.needed else ()
        missing = max(0, self._required - len(by)) if self.needed else 0
        used = [name for name in offer.request["controllers"] if self._used(offer.request["id"], name).exists()]
        said = {key: offer.request[key] for key in sorted(_FIELDS)}
        return {**said, **told, "by": list(by), "missing": missing, "used_for": used}

    def _approval(self, act: Act, unused: bool) -> Approval:
        best: tuple[_Offer, tuple[str, ...]] | None = None
        others: list[tuple[bool, str]] = []
        for offer in self._offers:
            wrong = offer.wrong or _difference(offer.request, act)
            if not wrong and unused and self._used(offer.request["id"], act.controller).exists():
                wrong = "was used for it already"
            if wrong:
                others.append((offer.elsewhere, f"{offer.file} {wrong}"))
                continue
            by = self._signed_by(offer)
            if len(by) >= self._required:
                return Approval(offer.request["id"], by, offer.request["reason"], offer.request["expires"])
            if best is None or len(by) > len(best[1]):
                best = offer, by
        needs = f"{act.label} needs approvals by {self._required} different persons"
        if best:
            raise NotApproved(f"{needs}, {_lacking(*best)}")
        seen = f" ({_summary(others)})" if others else ""
        raise NotApproved(
            f"{needs}, and no request for exactly this counts{seen}; write one with the playbook "
            "multi_sonicator.ops.approve and have them sign it"
        )

    def _used(self, number: str, controller: str) -> Path:
        return self.state_directory / "approvals" / number / controller

    @property
    def _offers(self) -> list[_Offer]:
        """As they are now: a run may take longer than a request counts."""
        gateway = gateway_identity(self.state_directory)
        return [_offer(one, gateway) for one in self._offered]

    # Signatures

    def _signed_by(self, offer: _Offer) -> tuple[str, ...]:
        """The names of the different persons who signed it, sorted."""
        if offer.content not in self._signers:
            found = {self._signer(offer.content, signature) for signature in offer.signatures}
            self._signers[offer.content] = tuple(sorted(name for name in found if name))
        return self._signers[offer.content]

    def _signer(self, content: bytes, signature: str) -> str:
        """The name of who signed ``content``; empty where that is nobody who counts."""
        with tempfile.TemporaryDirectory() as directory:
            allowed, signed = Path(directory, "approvers"), Path(directory, "signature")
            allowed.write_bytes(self._people)  # as it was judged
            signed.write_text(signature, encoding="utf-8", errors="replace")
            found = self._ssh_keygen("find-principals", "-f", str(allowed), "-s", str(signed))
            if found.returncode or len(found.stdout.split()) != 1:
                return ""
            name = found.stdout.decode().strip()
            arguments = ("-f", str(allowed), "-I", name, "-n", NAMESPACE, "-s", str(signed))
            return "" if self._ssh_keygen("verify", *arguments, content=content).returncode else name

    def _ssh_keygen(self, operation: str, *arguments: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        program = shutil.which("ssh-keygen", path=os.defpath)  # a task's environment is the control node's to say
        if program is None:
            raise MissingPackage("ssh-keygen is missing; install the Debian package openssh-client")
        try:
            return subprocess.run(  # pylint: disable=ansible-bad-function  # the core knows no AnsibleModule
                [program, "-Y", operation, *arguments],
                input=content,
                capture_output=True,
                timeout=self.deadline,
                check=False,
                cwd="/",
                env={"LC_ALL": "C.UTF-8", "PATH": os.defpath},
            )
        except subprocess.TimeoutExpired:
            raise ApprovalError(
                f"{program} was not done after {self.deadline:g} s and was ended; see what keeps this gateway busy, "
                "then run again"
            ) from None

    # Who may approve

    @cached_property
    def _people(self) -> bytes:
        """The file of approvers, which says plainly who is who; ApprovalError where it does not."""
        try:
            status = self.approvers_file.stat()
            content = self.approvers_file.read_bytes()
        except OSError as error:
            raise ApprovalError(
                f"{self.approvers_file}: {error.strerror}; expected to read there who may approve"
            ) from None
        if status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid()):
            raise ApprovalError(
                f"{self.approvers_file}: others may write it (mode {status.st_mode & 0o7777:04o}, owner "
                f"{status.st_uid}), expected only root; see who did, then put it there again"
            )
        owners: dict[bytes, str] = {}
        for number, line in enumerate(_lines(content), 1):
            if line and not line.startswith("#"):
                name, key = self._person(number, line)
                if owners.setdefault(key, name) != name:
                    raise self._bad(number, f"the key of {name} is that of {owners[key]} too, who would count twice")
        persons = len(set(owners.values()))
        if persons < self._threshold(content):
            raise ApprovalError(
                f"{self.approvers_file}: names {persons} persons, and {self._threshold(content)} have to approve; "
                "add the others"
            )
        return content

    def _person(self, number: int, line: str) -> tuple[str, bytes]:
        found = _PERSON.fullmatch(line)
        if not found:
            raise self._bad(
                number,
                f'expected NAME, perhaps namespaces="{NAMESPACE}" and times of validity, type and key: one name in a '
                "line, no pattern and no certificate authority",
            )
        try:
            key = base64.b64decode(found["key"], validate=True)
        except binascii.Error:
            raise self._bad(number, "the key is damaged") from None
        kind = found["type"].encode()
        if key[:4] != len(kind).to_bytes(4, "big") or key[4 : 4 + len(kind)] != kind:
            raise self._bad(number, f"the key is not of type {found['type']}")
        return found["name"], key

    def _bad(self, number: int, what: str) -> ApprovalError:
        return ApprovalError(f"{self.approvers_file}, line {number}: {what}; correct it, until then nothing counts")

    @property
    def _required(self) -> int:
        """How many different persons have to approve."""
        return self._threshold(self._people)

    def _threshold(self, content: bytes) -> int:
        wanted = [found[1] for line in _lines(content) if (found := _REQUIRED.fullmatch(line))] or ["2"]
        if len(wanted) > 1 or not wanted[0].isdecimal() or int(wanted[0]) < 2:
            raise ApprovalError(
                f"{self.approvers_file}: says required: {', '.join(wanted)}; expected one number, 2 or more"
            )
        return int(wanted[0])


def _lines(content: bytes) -> list[str]:
    return [line.strip() for line in content.decode("utf-8", "replace").split("\n")]


def _offer(one: Mapping[str, Any], gateway: str) -> _Offer:
    content = str(one["request"]).encode("utf-8", "replace")
    request = _parse(content)
    elsewhere = bool(request) and request["gateway"] != gateway
    if not request:
        wrong = "is not a request as the playbook multi_sonicator.ops.approve writes it"
    elif elsewhere:
        wrong = f"is for gateway {request['gateway']}, this is {gateway}"
    elif age(request["expires"]) >= 0:
        wrong = f"expired at {request['expires']}"
    elif -age(request["expires"]) > LONGEST:
        wrong = f"counts until {request['expires']}, which is more than 24 h"
    else:
        wrong = ""
    return _Offer(str(one["file"]), content, tuple(one.get("signatures") or ()), request, wrong, elsewhere)


def _parse(content: bytes) -> dict[str, Any]:
    """The request of a file; empty where it is none."""
    try:
        request = json.loads(content)
        sound = (
            isinstance(request, dict)
            and set(request) == _FIELDS
            and canonical(request) == content
            and isinstance(request["controllers"], dict)
            and all(isinstance(request[key], str) for key in _FIELDS - {"controllers"})
            and bool(_ID.fullmatch(request["id"]))
        )
        if sound:
            age(request["expires"])
    except (ValueError, RecursionError):
        return {}
    return request if sound else {}


def _summary(others: Sequence[tuple[bool, str]]) -> str:
    """Why none of the other offers will do; those for other gateways only where there is no nearer one."""
    near = [told for elsewhere, told in others if not elsewhere] or [told for _elsewhere, told in others]
    more = [f"{len(near) - _SHOWN} more"] if len(near) > _SHOWN else []
    return "; ".join([*near[:_SHOWN], *more])


def _lacking(offer: _Offer, by: Sequence[str]) -> str:
    """How an offer that is in order comes to enough signatures."""
    has = f"has {len(by)}{' (' + ', '.join(by) + ')' if by else ''}"
    idle = len(offer.signatures) - len(by)
    note = f" and {idle} more that do not count (a stranger's, the same person's, or of another text)" if idle else ""
    file = shlex.quote(offer.file)
    sign = f"ssh-keygen -Y sign -n {NAMESPACE} -f KEY < {file} > {file}.NAME.sig"
    return f"{has}{note}; have somebody else sign {file} with: {sign}"


def _difference(request: Mapping[str, Any], act: Act) -> str:
    """In what the request is for something else than ``act``; empty where it is for exactly that."""
    if request["act"] != act.kind:
        return f"is for the module {request['act']}"
    if act.controller not in request["controllers"]:
        return f"is not for controller {act.controller}"
    allowed = request["controllers"][act.controller]
    # Compared as text, since to Python 1, 1.0 and true are equal.
    if canonical({"what": allowed}) == canonical({"what": act.what}):
        return ""
    keys = sorted(set(allowed) | set(act.what)) if isinstance(allowed, dict) else []
    differing = [key for key in keys if allowed.get(key) != act.what.get(key)]
    return f"is for another {' and '.join(differing) or 'notation'} of controller {act.controller}"

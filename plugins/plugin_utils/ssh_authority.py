# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site's certificate authority for SSH: keys on the control node, the register of what they signed, what is revoked.

::

    ssh_certificates.jsonl        one line a certificate or revocation, on disk before it counts; only ever appended to
    ssh_certificates.jsonl.krl    what is revoked, as sshd reads it; made anew from the register with each revocation

``ssh-keygen`` does the signing. Where there is a CA's public key without the private one, it asks the ssh-agent, which
may have the key from a PKCS#11 token (``ssh-add -s``) or with a passphrase.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.events import Event
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import write_atomically
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.audit import AuditLog
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.people import check_public_key
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import who

DEFAULT_REGISTER = "~/.local/state/multi_sonicator/ssh_certificates.jsonl"
_DEADLINE = 60.0
# Gateways whose clock is behind take a new certificate too.
_BEFORE = datetime.timedelta(minutes=5)
_TIME = "%Y-%m-%dT%H:%M:%SZ"

# ssh-keygen takes a list with commas.
_PRINCIPAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:%-]*")

Record = dict[str, Any]


class AuthorityError(CoreError):
    """A CA, register or certificate that is missing, damaged or cannot be written, or a request that is refused."""


def ensure_key(place: Path, check_mode: bool = False) -> tuple[str, bool]:
    """The public key of the CA in ``place``, and whether it was made; check mode makes none and has none then."""
    public = place.with_name(f"{place.name}.pub")
    try:
        return check_public_key(public.read_text()), False
    except FileNotFoundError:
        pass
    except (CoreError, ValueError) as error:
        raise AuthorityError(f"CA key {public}: {error}") from None
    except OSError as error:
        raise AuthorityError(f"CA key {public}: {error.strerror}; correct its permissions") from None
    if place.exists():
        raise AuthorityError(f"CA key {place}: has no {public.name} beside it; make it with ssh-keygen -y -f {place}")
    if check_mode:
        return "", True
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AuthorityError(f"CA key {place}: {error.strerror}; name another place") from None
    _keygen("-q", "-t", "ed25519", "-N", "", "-C", place.name, "-f", str(place))
    return check_public_key(public.read_text()), True


class SshAuthority:
    """The certificates in the register at ``path``. Any number of processes may work on it at a time."""

    def __init__(self, path: Path, log: AuditLog) -> None:
        self.path = path
        self.krl = path.with_name(f"{path.name}.krl")
        self._log = log

    def certificates(self) -> list[Record]:
        """All that were issued, oldest first, each with ``status``: valid, expired or revoked."""
        return _certificates(self._records())

    def revoked_keys(self) -> set[str]:
        """Public keys that were revoked as such."""
        return {key for record in self._records() if record["event"] == "revoked" for key in record["public_keys"]}

    def issue(self, ca_key: Path, wanted: Mapping[str, Any], check_mode: bool = False) -> tuple[Record, bool]:
        """A certificate as ``wanted``, and whether it is a new one: one with a third of its life left is given again.

        ``wanted`` has ``kind`` (user or host), ``identity``, ``principals``, ``public_key``, ``minutes``, and
        ``until``, an end in seconds since 1970 that it must not outlive, or -1.
        """
        begin = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        end = begin + datetime.timedelta(minutes=wanted["minutes"])
        if wanted["until"] != -1:
            end = min(end, datetime.datetime.fromtimestamp(wanted["until"], datetime.UTC))
        if end <= begin:
            raise AuthorityError(
                f"{wanted['identity']}: expired; correct the date in access_people, nothing was issued"
            )
        public_key = check_public_key(wanted["public_key"])
        for text in (wanted["identity"], *wanted["principals"]):
            if not _PRINCIPAL.fullmatch(text):
                raise AuthorityError(f"principal {text!a}: expected letters, digits and _./:%-, nothing was issued")
        authority, _made = ensure_key(ca_key, True)
        if not authority:
            raise AuthorityError(f"CA key {ca_key}.pub: not there; access.yml makes it, or restore it from its backup")
        record: Record = {
            "event": "issued",
            "kind": wanted["kind"],
            "identity": wanted["identity"],
            "principals": list(wanted["principals"]),
            "public_key": public_key,
            "authority": authority,
            "minutes": wanted["minutes"],
            "until": wanted["until"],
        }
        with self._alone():
            records = self._records()
            for one in reversed(_certificates(records)):
                enough = _moment(one["valid_to"]) - begin > (_moment(one["valid_to"]) - _moment(one["issued"])) / 3
                if one["status"] == "valid" and enough and all(one[key] == record[key] for key in record):
                    return one, False
            if public_key in self.revoked_keys():
                raise AuthorityError(
                    f"{wanted['identity']}: this public key was revoked, nothing was issued; have a new pair made"
                )
            serial = max((one["serial"] for one in records if one["event"] == "issued"), default=0) + 1
            record |= {
                "serial": serial,
                "issued": begin.strftime(_TIME),
                "valid_from": (begin - _BEFORE).strftime(_TIME),
                "valid_to": end.strftime(_TIME),
                "issuer": who(),
            }
            if check_mode:
                return {**record, "certificate": "", "status": "valid"}, True
            self._log.prepare()
            record["certificate"] = _sign(ca_key, record)
            self._append(record)
            self._log.append(
                Event(
                    "ssh_certificate",
                    result="changed",
                    message=f"{record['kind']} certificate {serial} for {' '.join(record['principals'])}"
                    f" until {record['valid_to']}",
                )
            )
        return {**record, "status": "valid"}, True

    def revoke(
        self, ca_key: Path, asked: Mapping[str, Any], reason: str, check_mode: bool = False
    ) -> tuple[list[str], bool]:
        """Revoke what is ``asked``: whose certificates those are, and whether anything was not revoked yet.

        ``asked`` has one of ``identity`` (all certificates of a person, the keys in them, and ``public_keys``),
        ``serial``, or ``public_keys``.
        """
        keys = {check_public_key(text) for text in asked.get("public_keys") or ()}
        identity, serial = asked.get("identity"), asked.get("serial")
        with self._alone():
            issued = [one for one in _certificates(self._records()) if one["kind"] == "user"]
            if serial:
                hit = [one for one in issued if one["serial"] == serial]
                if not hit:
                    raise AuthorityError(
                        f"{self.path}: has no user certificate {serial}; access_action=list shows them"
                    )
            else:
                hit = [one for one in issued if one["identity"] == identity or one["public_key"] in keys]
                keys |= {one["public_key"] for one in hit if identity}
            if not hit and not keys:
                raise AuthorityError(f"{identity}: has neither certificates nor keys; nothing was revoked")
            new_keys = sorted(keys - self.revoked_keys())
            serials = [one["serial"] for one in hit if one["status"] != "revoked"]
            whose = sorted({one["identity"] for one in hit} | ({identity} if identity else set()))
            if (new_keys or serials) and not check_mode:
                self._log.prepare()
                told = (
                    f"of {identity or ', '.join(whose) or 'nobody known'}: certificates {serials}, {len(new_keys)} keys"
                )
                now = datetime.datetime.now(datetime.UTC).strftime(_TIME)
                record = {"event": "revoked", "serials": serials, "public_keys": new_keys, "reason": reason}
                self._append({**record, "time": now, "issuer": who()})
                self._log.append(Event("ssh_revocation", result="changed", message=f"{told}: {reason}"))
            # Also when nothing is new: a cut may have come between the register and this.
            if not check_mode:
                self._make_krl(ca_key)
        return whose, bool(new_keys or serials)

    def ensure_krl(self, ca_key: Path, check_mode: bool = False) -> bool:
        """Have the list of what is revoked; whether it was made, or would be in check mode."""
        made = not self.krl.exists()
        if made and not check_mode:
            with self._alone():
                self._make_krl(ca_key)
        return made

    def _make_krl(self, ca_key: Path) -> None:
        revoked = [record for record in self._records() if record["event"] == "revoked"]
        authority, _made = ensure_key(ca_key, True)
        # A serial number counts for one CA; certificates of another one than the present are not trusted anyhow.
        signed = {one["serial"] for one in self.certificates() if one["authority"] == authority}
        lines = [f"serial: {serial}" for one in revoked for serial in one["serials"] if serial in signed]
        lines += [f"key: {key}" for one in revoked for key in one["public_keys"]]
        with tempfile.TemporaryDirectory() as directory:
            specification = Path(directory) / "revoked"
            specification.write_text("".join(f"{line}\n" for line in lines))
            made = Path(directory) / "krl"
            ca = ("-s", f"{ca_key}.pub")
            _keygen("-q", "-k", "-f", str(made), *ca, "-z", str(len(revoked)), str(specification))
            write_atomically(self.krl, made.read_bytes())

    def _records(self) -> list[Record]:
        try:
            # What a cut left of a last line counts for nothing: no certificate left this machine with it.
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise AuthorityError(f"{self.path}: {error.strerror}; correct its permissions") from None
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise AuthorityError(f"{self.path}: damaged; restore it from its backup, nothing was done") from None

    def _append(self, record: Record) -> None:
        line = json.dumps(record, sort_keys=True).encode() + b"\n"
        with open(self.path, "a+b", 0) as stream:
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
            if stream.write(line) != len(line):
                raise AuthorityError(f"{self.path}: the disk is full; free space")
            os.fsync(stream.fileno())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self.path.with_name(f"{self.path.name}.lock"), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise AuthorityError(
                f"{error.filename or self.path}: {error.strerror}; correct permissions or free space"
            ) from None


def _certificates(records: Sequence[Record]) -> list[Record]:
    revoked = [record for record in records if record["event"] == "revoked"]
    serials = {serial for one in revoked for serial in one["serials"]}
    keys = {key for one in revoked for key in one["public_keys"]}
    now = datetime.datetime.now(datetime.UTC)

    def status(one: Record) -> str:
        if one["serial"] in serials or (one["kind"] == "user" and one["public_key"] in keys):
            return "revoked"
        return "valid" if _moment(one["valid_to"]) > now else "expired"

    return [{**one, "status": status(one)} for one in records if one["event"] == "issued"]


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, _TIME).replace(tzinfo=datetime.UTC)


def _sign(ca_key: Path, record: Record) -> str:
    with tempfile.TemporaryDirectory() as directory:
        subject = Path(directory) / "subject.pub"
        subject.write_text(f"{record['public_key']} {record['identity']}\n")
        period = ":".join(_moment(record[side]).strftime("%Y%m%d%H%M%S") for side in ("valid_from", "valid_to"))
        kind = ["-h"] if record["kind"] == "host" else ["-O", "clear", "-O", "permit-pty"]
        key = ["-s", str(ca_key)] if ca_key.exists() else ["-U", "-s", f"{ca_key}.pub"]
        what = ["-I", record["identity"], "-n", ",".join(record["principals"]), "-z", str(record["serial"])]
        _keygen("-q", *key, *kind, *what, "-V", period, str(subject))
        return Path(directory, "subject-cert.pub").read_text()


def _keygen(*arguments: str) -> None:
    """Run ssh-keygen, which takes times in the system's time zone and must not ask anybody anything."""
    program = shutil.which("ssh-keygen")
    if program is None:
        raise AuthorityError("ssh-keygen: not on this control node; install openssh-client")
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
    try:
        subprocess.run(
            [program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            start_new_session=True,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise AuthorityError(
            f"ssh-keygen: no end after {_DEADLINE:.0f} s; see whether its key waits for a touch"
        ) from None
    except subprocess.CalledProcessError as error:
        raise AuthorityError(
            f"ssh-keygen: {error.stderr.strip() or f'exit code {error.returncode}'}; a CA key with a passphrase or on "
            "a token belongs into the ssh-agent, its .pub file alone stays in its place"
        ) from None

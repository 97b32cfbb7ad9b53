# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what on a gateway: people and commands of an inventory, checked and turned into what its files say. Pure.

Everything that comes from an inventory is matched against what is admitted here, character by character, before it
can reach an account, sudo's rules or sshd; what does not match is refused, never mended.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError

# In this order: each may do what the one before may.
ROLES = ("viewer", "operator", "engineer", "administrator")
BREAK_GLASS = "ms-breakglass"

# Accounts that people log in to; Debian's range.
_HUMAN = range(1000, 60000)
_NO_LOGIN = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_PATH = re.compile(r"(?:/[A-Za-z0-9_+][A-Za-z0-9_.+-]*)+")
_ARGUMENTS = re.compile(r"[A-Za-z0-9_./:=,@+-]+(?: [A-Za-z0-9_./:=,@+-]+)*")
# No quotes, # and control characters, which sudo reads otherwise; no dot without a backslash, which matches spaces.
_PATTERN = re.compile(r"(?:[A-Za-z0-9_/:=,@+ \-\[\]{}()|*?]|\\\.){1,500}")
_TYPES = re.compile(
    r"ssh-ed25519|sk-ssh-ed25519@openssh\.com|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-ecdsa-sha2-nistp256@openssh\.com"
)
_SMALLEST_RSA = 3072


class PeopleProblem(CoreError):
    """People or commands that an inventory describes wrongly. One line for each mistake."""


@dataclass(frozen=True)
class Person:
    """Somebody who may log in. ``keys`` are public keys without comment, ``expires`` is the last day, in UTC."""

    name: str
    role: str
    keys: tuple[str, ...] = ()
    expires: datetime.date | None = None

    @property
    def group(self) -> str:
        """The group of the person's account, which sudo's rules are for."""
        return f"ms-{self.role}"

    @property
    def principal(self) -> str:
        """What a certificate must name to open the account: the person, in the role that they have now."""
        return f"{self.group}/{self.name}"

    @property
    def end(self) -> int:
        """When the account ends, in seconds since 1970: the first moment of the day after; -1 for never."""
        if self.expires is None:
            return -1
        after = datetime.datetime.combine(self.expires, datetime.time(), datetime.UTC) + datetime.timedelta(days=1)
        return int(after.timestamp())


def check_people(entries: Sequence[Mapping[str, Any]], kept: Collection[str] = ()) -> list[Person]:
    """The people who may log in, by name. Raises PeopleProblem; ``kept`` are accounts that nobody of them may be.

    An entry has ``name``, ``role``, and as it needs them ``keys``, ``expires`` and ``state``.
    """
    problems: list[str] = []
    people: list[Person] = []
    names: dict[str, int] = {}
    owners: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        name = str(entry.get("name"))
        where = f"person {number} ({name!a})"
        found = list(_wrong_name(name, kept))
        if name in names:
            found.append(f"name: is that of person {names[name]} too; give each person one entry")
        names.setdefault(name, number)
        if entry.get("state", "present") != "absent":
            person, more = _person(name, entry)
            found += more
            for key in person.keys:
                if owners.setdefault(key, name) != name:
                    found.append(f"keys: one is {owners[key]}'s too; give each person keys of their own")
            people.append(person)
        problems += [f"{where}: {problem}" for problem in found]
    if problems:
        raise PeopleProblem("\n".join(problems))
    return sorted(people, key=lambda person: person.name)


def _wrong_name(name: str, kept: Collection[str]) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield "name: expected a small letter, then at most 30 small letters, digits, dashes and underscores"
    elif name.startswith("ms-"):
        yield "name: those that begin with ms- are groups and accounts of this collection; choose another one"
    elif name in ("root", "nobody"):
        yield "name: is an account of the system; choose the person's own"
    elif name in kept:
        yield "name: is an account that stays as it is (access_kept_accounts); take it out of one of the two"


def _person(name: str, entry: Mapping[str, Any]) -> tuple[Person, list[str]]:
    problems = []
    role = str(entry.get("role"))
    if role not in ROLES:
        problems.append(f"role: expected one of {', '.join(ROLES)}, found {role!a}")
    expires = None
    if entry.get("expires"):
        try:
            expires = datetime.datetime.strptime(str(entry["expires"]), "%Y-%m-%d").date()
            if not 1971 <= expires.year <= 2200:
                raise ValueError
        except ValueError:
            problems.append(f"expires: expected the last day as YEAR-MONTH-DAY, found {str(entry['expires'])!a}")
    keys = []
    for text in entry.get("keys") or ():
        try:
            keys.append(check_public_key(str(text)))
        except PeopleProblem as problem:
            problems.append(f"keys: {problem}")
    return Person(name, role, tuple(dict.fromkeys(keys)), expires), problems


def check_public_key(text: str) -> str:
    """A public key in OpenSSH's format, without its comment. Raises PeopleProblem."""
    words = text.rstrip("\n").split(" ", 2)
    if "\n" in text.rstrip("\n") or len(words) < 2 or not _TYPES.fullmatch(words[0]):
        raise PeopleProblem(
            "expected one public key without options, of the type ssh-ed25519, sk-ssh-ed25519, ecdsa or ssh-rsa, "
            f"found {text[:40]!a}"
        )
    try:
        blob = base64.b64decode(words[1], validate=True)
        fields = list(_fields(blob))
    except (binascii.Error, ValueError, struct.error):
        fields = []
    if len(fields) < 2 or fields[0] != words[0].encode() or base64.b64encode(blob).decode() != words[1]:
        raise PeopleProblem(f"a key of the type {words[0]} is damaged; copy its .pub file as it is")
    if words[0] == "ssh-rsa" and (len(fields) != 3 or int.from_bytes(fields[2], "big").bit_length() < _SMALLEST_RSA):
        raise PeopleProblem(f"expected {_SMALLEST_RSA} bits at least of an ssh-rsa key; ssh-ed25519 is better")
    return " ".join(words[:2])


def _fields(blob: bytes) -> Iterator[bytes]:
    """The strings that the binary form of a key is made of."""
    place = 0
    while place < len(blob):
        (length,) = struct.unpack_from(">I", blob, place)
        if place + 4 + length > len(blob):
            raise ValueError
        yield blob[place + 4 : place + 4 + length]
        place += 4 + length


def authorized_keys(person: Person, authority: str) -> str:
    """What opens a person's account: certificates of ``authority`` (a public key) that name them, and their keys."""
    lines = [f"restrict,pty {key} {person.name}" for key in person.keys]
    if authority:
        lines.insert(0, f'cert-authority,restrict,pty,principals="{person.principal}" {authority}')
    return "".join(f"{line}\n" for line in lines)


# Commands


def check_commands(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rules of sudo: ``groups``, ``tag`` and ``command``, each as sudoers spells it. Raises PeopleProblem.

    An entry has ``role``, ``command``, and either ``arguments``, exactly these, or ``pattern``, a regular expression
    that the arguments as a whole must match. With ``exec`` the command may start others.
    """
    problems, rules = [], []
    for number, entry in enumerate(entries, 1):
        role, command = str(entry.get("role")), str(entry.get("command"))
        arguments, pattern = str(entry.get("arguments") or ""), str(entry.get("pattern") or "")
        found = []
        if role not in ROLES[:-1]:
            found.append(f"role: expected one of {', '.join(ROLES[:-1])}, found {role!a}")
        if not _PATH.fullmatch(command):
            found.append("command: expected the whole path of a program, of letters, digits and _.+- alone")
        if arguments and not _ARGUMENTS.fullmatch(arguments):
            found.append("arguments: expected words of letters, digits and _./:=,@+- with one space between them")
        if arguments and pattern:
            found.append("expected arguments or pattern, found both")
        if pattern and not (_PATTERN.fullmatch(pattern) and _compiles(pattern)):
            found.append(
                r"pattern: expected a regular expression of letters, digits, spaces, _/:=,@+-[]{}()|*? and \. alone"
            )
        problems += [f"command {number} ({command!a}): {problem}" for problem in found]
        if not found:
            # In brackets, so that an alternative cannot shake off one of the two ends.
            spelled = f"^({pattern})$" if pattern else re.sub(r"([:=,])", r"\\\1", arguments) or '""'
            groups = ", ".join(f"%ms-{name}" for name in ROLES[ROLES.index(role) : -1])
            tag = "EXEC" if entry.get("exec") else "NOEXEC"
            rules.append({"groups": groups, "tag": tag, "command": f"{command} {spelled}"})
    if problems:
        raise PeopleProblem("\n".join(problems))
    return rules


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


# Accounts


@dataclass(frozen=True)
class Account:
    """An account that a gateway has."""

    name: str
    uid: int
    home: str
    shell: str
    locked: bool


def strangers(accounts: Sequence[Account], people: Sequence[Person], kept: Collection[str]) -> list[Account]:
    """Accounts of people who are not in the data, and which are not locked for good yet."""
    known = {person.name for person in people} | set(kept) | {BREAK_GLASS}
    return [
        account
        for account in accounts
        if account.uid in _HUMAN and account.name not in known and not (account.locked and account.shell in _NO_LOGIN)
    ]


def check_accounts(
    accounts: Sequence[Account], people: Sequence[Person], kept: Collection[str], connection: str
) -> None:
    """Refuse people who would take over an account of the system, and to lock ourselves out or deprive us of root."""
    uids = {account.name: account.uid for account in accounts}
    problems = [
        f"{person.name}: is an account of the system here (uid {uids[person.name]}); choose another name"
        for person in people
        if uids.get(person.name, _HUMAN.start) not in _HUMAN
    ]
    if connection not in kept and connection not in {person.name for person in people}:
        problems.append(
            f"{connection}: this run came in by this account and would lock itself out; name it in "
            "access_kept_accounts, or as an administrator in access_people"
        )
    problems += [
        f"{person.name}: this run came in by this account, which as {person.role} could become root no more; "
        "make it an administrator in access_people, or name it in access_kept_accounts alone"
        for person in people
        if person.name == connection and person.name not in kept and person.role != ROLES[-1]
    ]
    if problems:
        raise PeopleProblem("\n".join(problems))

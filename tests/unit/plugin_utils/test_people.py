# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""People and commands of an inventory: what is not admitted is refused, and what is says no more than it should."""

from __future__ import annotations

import base64
import datetime
import re
import struct
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import people
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.people import Account, PeopleProblem, Person
from hypothesis import example, given
from hypothesis import strategies as st


def key(number: int = 1) -> str:
    """A well-formed public key."""
    blob = b"".join(struct.pack(">I", len(field)) + field for field in (b"ssh-ed25519", bytes([number]) * 32))
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


def rsa(bits: int) -> str:
    modulus = b"\0" + (1 << (bits - 1)).to_bytes(bits // 8, "big")
    blob = b"".join(struct.pack(">I", len(field)) + field for field in (b"ssh-rsa", b"\1\0\1", modulus))
    return f"ssh-rsa {base64.b64encode(blob).decode()}"


# Letters that have a meaning to some shell, file system, sudo, sshd or passwd, among any others.
NASTY = st.text(
    st.one_of(st.sampled_from("aZ0-_./\\:,=*?[]()|^$%!#&;<>`'\"~{}@ \t\n\r\0"), st.characters()), max_size=40
)


def test_people_of_an_inventory() -> None:
    found = people.check_people(
        [
            {"name": "bob", "role": "engineer", "keys": [f"{key()} bob's laptop\n", key()], "expires": "2027-06-30"},
            {"name": "alice", "role": "viewer"},
            {"name": "carol", "state": "absent"},
        ],
        kept=["ops"],
    )
    bob = Person("bob", "engineer", (key(),), datetime.date(2027, 6, 30))
    assert found == [Person("alice", "viewer"), bob]
    assert bob.principal == "ms-engineer/bob"
    assert datetime.datetime.fromtimestamp(bob.end, datetime.UTC).isoformat() == "2027-07-01T00:00:00+00:00"
    assert found[0].end == -1
    assert people.authorized_keys(bob, key(9)) == (
        f'cert-authority,restrict,pty,principals="ms-engineer/bob" {key(9)}\nrestrict,pty {key()} bob\n'
    )
    assert people.authorized_keys(found[0], "") == ""


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "root"}, "account of the system"),
        ({"name": "ops"}, "access_kept_accounts"),
        ({"name": "ms-breakglass"}, "begin with ms-"),
        ({"name": "Alice"}, "expected a small letter"),
        ({"name": "alice\n"}, "expected a small letter"),
        ({"name": "../alice"}, "expected a small letter"),
        ({"name": "%sudo"}, "expected a small letter"),
        ({"name": "ålice"}, "expected a small letter"),
        ({"name": "a" * 32}, "at most 30"),
        ({"name": "-r"}, "expected a small letter"),
        ({"role": "boss"}, "expected one of viewer, operator"),
        ({"role": None}, "expected one of viewer, operator"),
        ({"expires": "tomorrow"}, "YEAR-MONTH-DAY"),
        ({"expires": "2027-02-30"}, "YEAR-MONTH-DAY"),
        ({"keys": ['command="sh" ' + key()]}, "without options"),
        ({"keys": [f"{key()} alice\n{key(2)}"]}, "one public key"),
        ({"keys": [key()[:-8]]}, "damaged"),
        ({"keys": [key().replace("ssh-ed25519", "ssh-rsa")]}, "damaged"),
        ({"keys": [rsa(2048)]}, "3072 bits"),
        ({"keys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]}, "one public key"),
    ],
)
def test_what_is_wrong_is_named(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(PeopleProblem, match=message) as raised:
        people.check_people([{"name": "alice", "role": "viewer", **entry}], kept=["ops"])
    assert "person 1 (" in str(raised.value)


def test_a_good_rsa_key() -> None:
    assert people.check_public_key(rsa(3072)) == rsa(3072)


def test_all_mistakes_are_told_at_once() -> None:
    entries = [
        {"name": "alice", "role": "viewer", "keys": [key()]},
        {"name": "bob", "role": "x", "keys": [key()]},
        {"name": "alice"},
    ]
    with pytest.raises(PeopleProblem) as raised:
        people.check_people(entries)
    assert [line.split(": ")[1] for line in str(raised.value).splitlines()] == ["role", "keys", "name", "role"]


@given(NASTY)
@example("alice\n")
@example("$(reboot)")
@example("alice ALL=(ALL) NOPASSWD: ALL")
def test_no_name_reaches_a_file_that_is_more_than_a_name(name: str) -> None:
    try:
        found = people.check_people([{"name": name, "role": "viewer"}])
    except PeopleProblem as problem:
        assert str(problem).isascii()
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", str(problem))
    else:
        assert re.fullmatch(r"[a-z][a-z0-9_-]*", found[0].name, re.ASCII)


@given(st.one_of(NASTY, NASTY.map(lambda text: f"{key()}{text}"), NASTY.map(lambda text: f"{text} {key()}")))
def test_no_key_says_more_than_a_key(text: str) -> None:
    try:
        found = people.check_public_key(text)
    except PeopleProblem:
        return
    assert found == key()


# Commands


def test_commands_of_an_inventory() -> None:
    rules = people.check_commands(
        [
            {"role": "viewer", "command": "/usr/bin/uptime"},
            {"role": "operator", "command": "/usr/bin/ip", "arguments": "-br addr show dev eth0:1", "exec": True},
            {"role": "engineer", "command": "/usr/bin/ip", "pattern": "route|addr"},
        ]
    )
    assert rules == [
        {"groups": "%ms-viewer, %ms-operator, %ms-engineer", "tag": "NOEXEC", "command": '/usr/bin/uptime ""'},
        {
            "groups": "%ms-operator, %ms-engineer",
            "tag": "EXEC",
            "command": r"/usr/bin/ip -br addr show dev eth0\:1",
        },
        # Without the brackets it would admit "route anything" and "anything addr".
        {"groups": "%ms-engineer", "tag": "NOEXEC", "command": "/usr/bin/ip ^(route|addr)$"},
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"role": "administrator"}, "role: expected"),
        ({"command": "uptime"}, "whole path"),
        ({"command": "/usr/bin/../bin/sh"}, "whole path"),
        ({"command": "/usr/bin/*"}, "whole path"),
        ({"command": "/bin/sh, /bin/cat"}, "whole path"),
        ({"arguments": "show *"}, "arguments: expected words"),
        ({"arguments": "a\nALL ALL=(ALL) ALL"}, "arguments: expected words"),
        ({"arguments": "a", "pattern": "b"}, "found both"),
        ({"pattern": "a.*"}, "regular expression"),
        ({"pattern": "a)|(b"}, "regular expression"),
        ({"pattern": "a# comment"}, "regular expression"),
        ({"pattern": "[^a]"}, "regular expression"),
    ],
)
def test_commands_that_would_admit_more_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(PeopleProblem, match=message):
        people.check_commands([{"role": "viewer", "command": "/usr/bin/uptime", **entry}])


@given(NASTY, NASTY, NASTY)
def test_no_command_breaks_out_of_its_line(command: str, arguments: str, pattern: str) -> None:
    try:
        rules = people.check_commands(
            [{"role": "viewer", "command": command, "arguments": arguments, "pattern": pattern}]
        )
    except PeopleProblem:
        return
    (rule,) = rules
    assert re.fullmatch(r"[ -~]+", rule["command"])
    if not rule["command"].endswith("$"):
        assert not re.search(r"[*?\[#!,](?<!\\.)", rule["command"])


# Accounts

ACCOUNTS = [
    Account("root", 0, "/root", "/bin/bash", True),
    Account("www-data", 33, "/var/www", "/usr/sbin/nologin", True),
    Account("ops", 1000, "/home/ops", "/bin/bash", True),
    Account("alice", 1001, "/home/alice", "/bin/bash", True),
    Account("mallory", 1002, "/home/mallory", "/bin/bash", False),
    Account("gone", 1003, "/home/gone", "/usr/sbin/nologin", True),
    Account("sleeper", 1004, "/home/sleeper", "/usr/sbin/nologin", False),
    Account("nobody", 65534, "/nonexistent", "/usr/sbin/nologin", True),
]


def test_strangers_are_people_who_are_neither_known_nor_locked() -> None:
    found = people.strangers(ACCOUNTS, [Person("alice", "viewer")], ["ops"])
    assert [account.name for account in found] == ["mallory", "sleeper"]


def test_accounts_of_the_system_are_nobodys() -> None:
    with pytest.raises(PeopleProblem, match=r"www-data: is an account of the system here \(uid 33\)"):
        people.check_accounts(ACCOUNTS, [Person("www-data", "viewer")], ["ops"], "ops")


def test_nobody_locks_himself_out() -> None:
    people.check_accounts(ACCOUNTS, [Person("alice", "administrator")], [], "alice")
    people.check_accounts(ACCOUNTS, [], ["ops"], "ops")
    with pytest.raises(PeopleProblem, match="ops: this run came in by this account"):
        people.check_accounts(ACCOUNTS, [Person("alice", "viewer")], [], "ops")


def test_nobody_deprives_himself_of_root() -> None:
    people.check_accounts(ACCOUNTS, [Person("alice", "engineer")], ["alice"], "alice")
    with pytest.raises(PeopleProblem, match=r"alice: this run came in by this account, which as engineer could become"):
        people.check_accounts(ACCOUNTS, [Person("alice", "engineer"), Person("bob", "viewer")], [], "alice")

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The site's SSH authority, judged by ssh-keygen: nothing is issued unrecorded, nothing revoked is good any more."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.ssh_authority import (
    AuthorityError,
    SshAuthority,
    ensure_key,
)


class Site:
    """An authority with its log, and people with keys."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ca = place / "config" / "ssh_ca"
        self.log = place / "audit.jsonl"
        self.authority = SshAuthority(place / "register.jsonl", audit.AuditLog(self.log))
        ensure_key(self.ca)

    def key(self, name: str) -> str:
        return ensure_key(self.place / name)[0]

    def wanted(self, name: str = "alice", **more: Any) -> dict[str, Any]:
        return {
            "kind": "user",
            "identity": name,
            "principals": [f"ms-operator/{name}"],
            "public_key": self.key(name),
            "minutes": 480,
            "until": -1,
            **more,
        }

    def issue(self, name: str = "alice", **more: Any) -> dict[str, Any]:
        record, _new = self.authority.issue(self.ca, self.wanted(name, **more))
        (self.place / f"{record['serial']}-cert.pub").write_text(record["certificate"])
        return record

    def revoked(self, file: str) -> bool:
        """What ssh-keygen says of a key or certificate, which is what sshd will."""
        command = ["ssh-keygen", "-Q", "-f", str(self.authority.krl), str(self.place / file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 1

    def told(self) -> list[str]:
        return [f"{record['what']}: {record['message']}" for record in audit.read(self.log)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_certificate_says_what_was_asked_for(site: Site) -> None:
    record = site.issue()
    show = subprocess.run(
        ["ssh-keygen", "-L", "-f", site.place / "1-cert.pub"], capture_output=True, text=True, check=False
    )
    words = " ".join(show.stdout.split())
    assert "user certificate" in words
    assert 'Key ID: "alice" Serial: 1 Valid: from ' in words
    assert "Principals: ms-operator/alice Critical Options: (none) Extensions: permit-pty" in words
    assert record["valid_to"] > record["issued"] > record["valid_from"]
    assert site.told()[-1] == f"ssh_certificate: user certificate 1 for ms-operator/alice until {record['valid_to']}"


def test_the_same_certificate_is_given_until_it_ends_soon(site: Site) -> None:
    assert site.issue()["serial"] == 1
    assert site.issue()["serial"] == 1
    assert site.issue(principals=["ms-engineer/alice"])["serial"] == 2
    # As if most of its life were gone.
    lines = site.authority.path.read_text().splitlines()
    old = json.loads(lines[1])
    old["issued"] = old["issued"].replace(old["issued"][:4], "2020")
    site.authority.path.write_text(f"{lines[0]}\n{json.dumps(old)}\n")
    assert site.issue(principals=["ms-engineer/alice"])["serial"] == 3


def test_nobodys_certificate_outlives_them(site: Site) -> None:
    with pytest.raises(AuthorityError, match="alice: expired"):
        site.issue(until=86400)
    assert site.issue(until=4102444800)["serial"] == 1


def test_check_mode_leaves_nothing(site: Site) -> None:
    record, new = site.authority.issue(site.ca, site.wanted(), check_mode=True)
    assert (record["certificate"], new) == ("", True)
    assert ensure_key(site.place / "other", check_mode=True) == ("", True)
    assert site.authority.ensure_krl(site.ca, check_mode=True)
    assert site.authority.certificates() == []
    assert not {site.authority.krl, site.log, site.place / "other"} & set(site.place.iterdir())


def test_a_revoked_certificate_and_no_other(site: Site) -> None:
    for name in ("alice", "bob"):
        site.issue(name)
    assert site.authority.ensure_krl(site.ca)
    assert not site.revoked("1-cert.pub")
    assert site.authority.revoke(site.ca, {"serial": 1}, "left") == (["alice"], True)
    assert site.authority.revoke(site.ca, {"serial": 1}, "left") == (["alice"], False)
    assert [site.revoked(name) for name in ("1-cert.pub", "alice.pub", "2-cert.pub")] == [True, False, False]
    assert [one["status"] for one in site.authority.certificates()] == ["revoked", "valid"]
    assert site.issue()["serial"] == 3, "the key itself is still good"


def test_a_person_is_revoked_with_all_keys(site: Site) -> None:
    site.issue()
    site.issue("bob")
    asked = {"identity": "alice", "public_keys": [site.key("plain")]}
    assert site.authority.revoke(site.ca, asked, "laptop lost") == (["alice"], True)
    found = [site.revoked(name) for name in ("1-cert.pub", "alice.pub", "plain.pub", "2-cert.pub", "bob.pub")]
    assert found == [True, True, True, False, False]
    with pytest.raises(AuthorityError, match="this public key was revoked"):
        site.issue()
    assert site.told()[-1] == "ssh_revocation: of alice: certificates [1], 2 keys: laptop lost"


def test_a_key_is_revoked_with_its_certificates(site: Site) -> None:
    site.issue()
    assert site.authority.revoke(site.ca, {"public_keys": [site.key("alice")]}, "lost") == (["alice"], True)
    assert site.revoked("1-cert.pub")


@pytest.mark.parametrize("asked", [{"serial": 7}, {"identity": "nobody"}])
def test_what_is_not_known_is_not_revoked(site: Site, asked: dict[str, Any]) -> None:
    with pytest.raises(AuthorityError, match=r"no user certificate 7|nobody: has neither"):
        site.authority.revoke(site.ca, asked, "left")


def test_principals_cannot_be_smuggled_in(site: Site) -> None:
    for principals in (["a,ms-administrator/bob"], ["-O"], ["a b"], ["a\n"], [""]):
        with pytest.raises(AuthorityError, match="principal"):
            site.issue(principals=principals)
    assert site.authority.certificates() == []


def test_a_cut_loses_no_certificate_and_gives_no_number_twice(site: Site) -> None:
    site.issue()
    with open(site.authority.path, "a") as stream:
        stream.write('{"event": "issued", "ser')
    assert site.issue("bob")["serial"] == 2
    assert [one["serial"] for one in site.authority.certificates()] == [1, 2]


def test_a_damaged_register_is_no_empty_one(site: Site) -> None:
    site.authority.path.write_text("x\n")
    with pytest.raises(AuthorityError, match="damaged; restore it from its backup"):
        site.issue()


def _issue(place: Path, name: str) -> None:
    Site(place).issue(name)


def test_many_at_once_get_numbers_of_their_own(site: Site) -> None:
    names = [f"person{number}" for number in range(8)]
    workers = [multiprocessing.Process(target=_issue, args=(site.place, name)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(one["serial"] for one in site.authority.certificates()) == list(range(1, 9))
    assert audit.verify(site.log) == []


def test_a_key_with_a_passphrase_signs_through_the_agent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", site.ca], check=True, capture_output=True)
    with pytest.raises(AuthorityError, match="belongs into the ssh-agent"):
        site.issue()
    assert site.authority.certificates() == []
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "secret", "-N", "", "-f", site.ca], check=True, capture_output=True)
    socket = site.place / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        agent.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        subprocess.run(["ssh-add", "-q", site.ca], check=True, capture_output=True)
        site.ca.unlink()
        assert site.issue()["serial"] == 1
    finally:
        agent.terminate()
        agent.wait(10)


def test_a_missing_key_is_named(site: Site) -> None:
    (site.ca.parent / "ssh_ca.pub").unlink()
    with pytest.raises(AuthorityError, match=r"has no ssh_ca.pub beside it"):
        ensure_key(site.ca)
    site.ca.unlink()
    with pytest.raises(AuthorityError, match=r"not there; access\.yml makes it"):
        site.issue()

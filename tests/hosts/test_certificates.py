# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role certificates refuses, and that nobody sees its secrets."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fleet as hosts
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.hosts import HostSite, changes

GATEWAY = "gateway"
PASSPHRASE = "canary-of-the-authority"
LOOK = "sudo find /etc/multi_sonicator/tls -type f -exec sha256sum {} +"
DATE = "/usr/local/bin/date"
CUSTOM = "/usr/lib/python3/dist-packages/custom.pth"
# A gateway that somebody else is root on has its own program ask for what it likes.
EVIL = (
    "import cryptography.x509 as x; x.DNSName = type('DNSName', (x.DNSName,),"
    " {'__init__': lambda self, name, made=x.DNSName.__init__: made(self, 'victim')})"
)


class Site(HostSite):
    """A gateway with certificates, and the control node's authority."""

    def __init__(self) -> None:
        super().__init__(
            certificates_ca_passphrase=PASSPHRASE,
            certificates_services=[{"name": "web"}],
        )
        self.authority = self.place / "ca"
        self.variables["certificates_ca_directory"] = str(self.authority)

    def certificates(self, code: int = 0, **changed: Any) -> str:
        """certificates.yml, with as much output as there can be, however it broke its lines."""
        return " ".join(self.play("certificates", "-vvvv", "--diff", code=code, **changed).split())

    def ssh(self, command: str) -> str:
        return self.fleet.ssh(GATEWAY, command).stdout

    def refused(self, message: str, **changed: Any) -> None:
        """A run that fails with this, and leaves the gateway's certificates as they are."""
        before = self.ssh(LOOK)
        assert message in self.certificates(2, **changed)
        assert self.ssh(LOOK) == before


class Watch(threading.Thread):
    """Looks at the arguments of every process, those of the hosts among them, until it is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.seen: set[bytes] = set()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(file.read_bytes())
                except OSError:
                    continue


@pytest.fixture(scope="module")
def watched() -> Iterator[Watch]:
    watch = Watch()
    watch.start()
    yield watch
    watch.ended.set()
    watch.join()


@pytest.fixture(scope="module")
def site(machine: None, watched: Watch) -> Iterator[tuple[Site, str]]:
    with Site() as made:
        made.fleet.up([hosts.Host(GATEWAY, "trixie")])
        output = made.certificates()
        watched.ended.set()
        yield made, output


def test_nobody_sees_passphrase_or_keys(site: tuple[Site, str], watched: Watch) -> None:
    place, output = site
    journal = place.ssh("sudo journalctl --no-pager")
    assert "multi-sonicator-certificates" in output and any(b"ansible" in seen for seen in watched.seen)
    keys = place.ssh("sudo cat /etc/multi_sonicator/tls/web.key /etc/multi_sonicator/tls/issuer.key").splitlines()
    secrets = [PASSPHRASE, *(line for line in keys if not line.startswith("-"))]
    kept = [file.read_text() for file in place.authority.rglob("*") if file.is_file()]
    assert len(secrets) == 7 and len(kept) == 5
    for secret in secrets:
        assert secret not in output and secret not in journal
        assert not any(secret.encode() in seen for seen in watched.seen)
        assert not any(secret in text for text in kept)


def test_a_wrong_passphrase_costs_nobody_the_authority(site: tuple[Site, str]) -> None:
    place, _output = site
    key = (place.authority / "ca.key").read_bytes()
    place.refused("certificates_ca_passphrase does not open", certificates_ca_passphrase="another passphrase")
    assert (place.authority / "ca.key").read_bytes() == key


def test_another_authority_than_the_gateway_trusts_is_refused(site: tuple[Site, str]) -> None:
    place, _output = site
    place.refused("is another authority than that in", certificates_ca_directory=str(place.place / "missing"))
    assert not (place.place / "missing").exists()


def test_an_authority_that_has_expired_issues_nothing(site: tuple[Site, str]) -> None:
    place, _output = site
    directory = place.place / "expired"
    directory.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Multi-Sonicator site authority")])
    end = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=1))
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    place.refused("has expired", certificates_ca_directory=str(directory), certificates_ca_replace=True)


def test_a_gateway_whose_clock_is_wrong_gets_nothing(site: tuple[Site, str]) -> None:
    place, _output = site
    place.ssh(f"printf '#!/bin/sh\\necho 1000000000\\n' | sudo tee {DATE} && sudo chmod 755 {DATE}")
    try:
        place.refused("the gateway's clock says 2001-09-09 01:46:40")
    finally:
        place.ssh(f"sudo rm {DATE}")


def test_a_gateway_cannot_ask_for_more_than_the_inventory_gives_it(site: tuple[Site, str]) -> None:
    place, _output = site
    issued = sorted((place.authority / "issued").rglob("*.crt"))
    place.ssh("sudo rm /etc/multi_sonicator/tls/issuer.crt")
    place.fleet.ssh(GATEWAY, f'echo "{EVIL}" | sudo tee {CUSTOM}')
    output = place.certificates(2)
    place.ssh(f"sudo rm {CUSTOM}")
    assert "asks for another certificate than the inventory says, nothing was issued" in output
    assert "DNS:victim" in output
    assert sorted((place.authority / "issued").rglob("*.crt")) == issued
    place.certificates()  # an honest gateway gets it again


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"certificates_names": ["$(reboot)"]}, "expected certificates_names ($(reboot))"),
        ({"certificates_ca_passphrase": "short"}, "certificates_ca_passphrase of 12 characters or more"),
        ({"certificates_services": [{"name": "../web"}]}, "expected a name of its own"),
        ({"certificates_services": [{"name": "ca"}]}, "expected a name of its own"),
        ({"certificates_services": [{"name": "web", "reload": "x;reboot"}]}, "reload as a unit of systemd"),
        ({"certificates_services": [{"name": "web", "subject_alt_names": ["other"]}]}, "out of certificates_names"),
        ({"certificates_revoked": [{"serial_number": "xyz"}]}, "in hexadecimal"),
    ],
    ids=["names", "passphrase", "path", "reserved", "unit", "foreign", "serial"],
)
def test_what_cannot_work_is_refused(site: tuple[Site, str], changed: dict[str, object], message: str) -> None:
    site[0].refused(message, **changed)


def test_without_an_issuer_of_its_own_a_gateway_gets_all_from_the_control_node(site: tuple[Site, str]) -> None:
    place, _output = site
    wanted = {"certificates_local_issuer": False, "certificates_days": 20}
    place.certificates(**wanted)
    chain = x509.load_pem_x509_certificates(place.ssh("sudo cat /etc/multi_sonicator/tls/web.chain").encode())
    [authority] = x509.load_pem_x509_certificates((place.authority / "ca.crt").read_bytes())
    assert len(chain) == 1
    chain[0].verify_directly_issued_by(authority)
    life = chain[0].not_valid_after_utc - chain[0].not_valid_before_utc
    assert datetime.timedelta(days=20) <= life < datetime.timedelta(days=20.1)
    assert "issuer" not in place.ssh("sudo ls /etc/multi_sonicator/tls")
    assert changes(place.play("certificates", **wanted)) == {GATEWAY: 0}

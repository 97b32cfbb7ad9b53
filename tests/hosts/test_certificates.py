# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role certificates refuses, and that nobody sees its secrets."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import fleet as hosts
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

pytestmark = pytest.mark.xdist_group("fleet")

TOP = Path(__file__).resolve().parents[2]
GATEWAY = "gateway4"
PASSPHRASE = "canary-of-the-authority"
LOOK = "sudo find /etc/multi_sonicator/tls -type f -exec sha256sum {} +"
DATE = "/usr/local/bin/date"
CUSTOM = "/usr/lib/python3/dist-packages/custom.pth"
# A gateway that somebody else is root on has its own program ask for what it likes.
EVIL = (
    "import cryptography.x509 as x; made = x.DNSName.__init__;"
    " x.DNSName = type('DNSName', (x.DNSName,), {'__init__': lambda self, name: made(self, 'victim')})"
)


class Site:
    """A gateway with certificates, and the control node's authority."""

    def __init__(self, fleet: hosts.Fleet, directory: Path) -> None:
        self.fleet = fleet
        self.directory = directory
        self.variables: dict[str, object] = {
            "target": GATEWAY,
            "certificates_ca_directory": str(directory / "ca"),
            "certificates_ca_passphrase": PASSPHRASE,
            "certificates_services": [{"name": "web"}],
        }

    def run(self, **changed: object) -> subprocess.CompletedProcess[str]:
        """certificates.yml, with as much output as there can be."""
        file = self.directory / "variables.json"
        file.write_text(json.dumps(self.variables | changed))
        program = Path(sys.executable).parent / "ansible-playbook"
        command = [program, "-i", self.fleet.inventory, "-e", f"@{file}", "multi_sonicator.ops.certificates"]
        return subprocess.run(
            [*command, "-vvvv", "--diff"],
            env={**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            cwd=TOP,
            capture_output=True,
            text=True,
            check=False,
        )

    def ssh(self, command: str) -> str:
        return self.fleet.ssh(GATEWAY, command).stdout

    def refused(self, message: str, **changed: object) -> None:
        """A run that fails with this, and leaves the gateway's certificates as they are."""
        before = self.ssh(LOOK)
        done = self.run(**changed)
        assert done.returncode != 0 and message in " ".join(done.stdout.split()), done.stdout[-4000:] + done.stderr
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
def site(fleet: hosts.Fleet, tmp_path_factory: pytest.TempPathFactory, watched: Watch) -> Iterator[tuple[Site, str]]:
    place = Site(fleet, tmp_path_factory.mktemp("certificates"))
    done = place.run()
    watched.ended.set()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    yield place, done.stdout + done.stderr
    assert place.run(certificates_state="absent").returncode == 0


def test_nobody_sees_passphrase_or_keys(site: tuple[Site, str], watched: Watch) -> None:
    place, output = site
    journal = place.ssh("sudo journalctl --no-pager")
    assert "multi-sonicator-certificates" in output and any(b"ansible" in seen for seen in watched.seen)
    keys = place.ssh("sudo cat /etc/multi_sonicator/tls/web.key /etc/multi_sonicator/tls/issuer.key").splitlines()
    secrets = [PASSPHRASE, *(line for line in keys if not line.startswith("-"))]
    kept = [file.read_text() for file in (place.directory / "ca").rglob("*") if file.is_file()]
    assert len(secrets) == 7 and len(kept) == 5
    for secret in secrets:
        assert secret not in output and secret not in journal
        assert not any(secret.encode() in seen for seen in watched.seen)
        assert not any(secret in text for text in kept)


def test_a_wrong_passphrase_costs_nobody_the_authority(site: tuple[Site, str]) -> None:
    place, _output = site
    key = (place.directory / "ca/ca.key").read_bytes()
    place.refused("certificates_ca_passphrase does not open", certificates_ca_passphrase="another passphrase")
    assert (place.directory / "ca/ca.key").read_bytes() == key


def test_another_authority_than_the_gateway_trusts_is_refused(site: tuple[Site, str]) -> None:
    place, _output = site
    place.refused("is another authority than that in", certificates_ca_directory=str(place.directory / "missing"))
    assert not (place.directory / "missing").exists()


def test_an_authority_that_has_expired_issues_nothing(site: tuple[Site, str]) -> None:
    place, _output = site
    directory = place.directory / "expired"
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
    issued = sorted((place.directory / "ca/issued").rglob("*.crt"))
    place.ssh("sudo rm /etc/multi_sonicator/tls/issuer.crt")
    place.fleet.ssh(GATEWAY, f'echo "{EVIL}" | sudo tee {CUSTOM}')
    done = place.run()
    place.ssh(f"sudo rm {CUSTOM}")
    assert done.returncode != 0
    assert "asks for another certificate than the inventory says, nothing was issued" in " ".join(done.stdout.split())
    assert "DNS:victim" in done.stdout
    assert sorted((place.directory / "ca/issued").rglob("*.crt")) == issued
    assert place.run().returncode == 0, "an honest gateway gets it again"


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

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The attacks of The Update Framework's specification, against both verifications: nothing is taken, and why is said.

A gateway verifies its files whoever carried them: these tests hand it what a control node that was taken over would.
"""

from __future__ import annotations

import contextlib
import datetime
import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.firmware_repository import load_signer
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.firmware_source import SourceError, fetch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.releases import ControlNode, GatewayNode, Publisher, path
from support.virtual import firmware
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, TargetFile

Client = ControlNode | GatewayNode


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """One who has published 1.0.0 and 1.1.0."""
    one = Publisher(tmp_path / "publisher")
    one.publish("1.0.0")
    one.publish("1.1.0")
    return one


@pytest.fixture(params=[ControlNode, GatewayNode], ids=["control node", "gateway"])
def new_client(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Publisher], Client]:
    return lambda publisher: request.param(tmp_path, publisher.root)


@pytest.fixture
def client(new_client: Callable[[Publisher], Client], publisher: Publisher) -> Client:
    return new_client(publisher)


def refused(client: Client, repository: Path, attack: str, version: str = "1.1.0") -> str:
    """The error with which the client does not take the release."""
    with pytest.raises(CoreError, match=attack) as caught:
        client.take(repository, version)
    assert "Nothing was sent" in str(caught.value)
    return str(caught.value)


class Attacker:
    """Rewrites metadata of a copied repository with the keys that he got hold of."""

    def __init__(self, repository: Path, keys: Path) -> None:
        self.repository = repository
        self.keys = keys

    def newest(self, role: str) -> Path:
        files = self.repository.glob(f"metadata/*{role}.json")
        return max(files, key=lambda file: int(file.name.partition(".")[0]) if file.name[0].isdecimal() else 0)

    def rewrite(self, role: str, change: Callable[[Any], None], *names: str) -> None:
        """Change the newest metadata of a role, keep its name, sign it with these keys."""
        file = self.newest(role)
        metadata: Any = Metadata.from_file(str(file))
        change(metadata.signed)
        metadata.signatures.clear()
        for name in names:
            metadata.sign(load_signer(self.keys / f"{name}.pem"), append=True)
        metadata.to_file(str(file))

    def fit(self, above: str, below: str, *names: str) -> None:
        """Make snapshot or timestamp agree with what was rewritten below it."""

        def change(signed: Any) -> None:
            file = self.newest(below)
            version = json.loads(file.read_bytes())["signed"]["version"]
            meta = MetaFile.from_data(version, file.read_bytes(), ["sha256"])
            if above == "snapshot":
                signed.meta["targets.json"] = meta
            else:
                signed.snapshot_meta = meta

        self.rewrite(above, change, *names)


def test_what_is_right_is_taken(client: Client, publisher: Publisher) -> None:
    assert client.take(publisher.repository.directory, "1.0.0") == firmware("1.0.0").read_text()
    assert client.take(publisher.repository.directory, "1.1.0") == firmware("1.1.0").read_text()


# Arbitrary software


def test_arbitrary_software(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    repository = publisher.copy(tmp_path / "mirror")
    [image] = repository.glob("targets/*/*.1.1.0.hex")
    image.write_bytes(firmware("1.0.0").read_bytes()[: image.stat().st_size].ljust(image.stat().st_size, b"\n"))
    refused(client, repository, "arbitrary software: the image of multi_sonicator_io/1.1.0.hex is not the signed one")


def test_arbitrary_metadata(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish("1.1.0", firmware("1.2.0"))
    refused(client, stranger.repository.directory, "compromised keys below the threshold: timestamp was signed by 0/1")


def test_wrong_key(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    """The right role, signed by a key of the repository that is another role's."""
    attacker = Attacker(publisher.copy(tmp_path / "mirror"), publisher.keys)
    attacker.rewrite("targets", lambda signed: signed.targets.pop(path("1.0.0")), "snapshot_1")
    attacker.fit("snapshot", "targets", "snapshot_1")
    attacker.fit("timestamp", "snapshot", "timestamp_1")
    refused(client, attacker.repository, "compromised keys below the threshold: targets was signed by 0/1")


def test_compromised_keys_below_the_threshold(new_client: Callable[[Publisher], Client], tmp_path: Path) -> None:
    """He has all online keys and one of two keys that sign releases."""
    publisher = Publisher(tmp_path / "publisher", keys={"targets": 3}, thresholds={"targets": 2})
    publisher.publish("1.1.0")
    client = new_client(publisher)
    attacker = Attacker(publisher.copy(tmp_path / "mirror"), publisher.keys)
    evil = firmware("1.2.0").read_bytes()

    def replace(signed: Any) -> None:
        target = TargetFile.from_data(path("1.1.0"), evil, ["sha256"])
        target.unrecognized_fields["custom"] = signed.targets[path("1.1.0")].custom
        signed.targets[path("1.1.0")] = target

    attacker.rewrite("targets", replace, "targets_1")
    attacker.fit("snapshot", "targets", "snapshot_1")
    attacker.fit("timestamp", "snapshot", "timestamp_1")
    refused(client, attacker.repository, "compromised keys below the threshold: targets was signed by 1/2")


# Older than what was seen


def test_rollback(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    old = publisher.copy(tmp_path / "old")
    publisher.repository.revoke("multi_sonicator_io", "1.0.0", publisher.signers()).apply()
    client.take(publisher.repository.directory, "1.1.0")
    refused(client, old, "rollback: New timestamp version 3 must be >= 4")


def test_rollback_of_a_part(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    """The timestamp is new, the releases are those of before: he has both online keys."""
    attacker = Attacker(publisher.copy(tmp_path / "old"), publisher.keys)
    publisher.repository.revoke("multi_sonicator_io", "1.0.0", publisher.signers()).apply()
    client.take(publisher.repository.directory, "1.1.0")

    def raise_version(signed: Any) -> None:
        signed.version += 5

    attacker.rewrite("snapshot", raise_version, "snapshot_1")
    attacker.newest("snapshot").rename(attacker.repository / "metadata/8.snapshot.json")
    attacker.rewrite("timestamp", raise_version, "timestamp_1")
    attacker.fit("timestamp", "snapshot", "timestamp_1")
    refused(client, attacker.repository, "rollback: Expected targets.json version")


def test_indefinite_freeze(new_client: Callable[[Publisher], Client], tmp_path: Path) -> None:
    """Also that of an expired bundle: both are a repository whose timestamp has come to its end."""
    publisher = Publisher(tmp_path / "publisher", expiry={"timestamp": 0})
    publisher.publish("1.1.0")
    message = refused(
        new_client(publisher), publisher.repository.directory, "indefinite freeze: timestamp.json is expired"
    )
    assert "fetch a newer bundle" in message


def test_expired_releases_are_not_taken_either(new_client: Callable[[Publisher], Client], tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "publisher", expiry={"targets": 0})
    publisher.publish("1.1.0")
    refused(new_client(publisher), publisher.repository.directory, "indefinite freeze: New targets is expired")


def test_fast_forward_is_recovered_from(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    attacker = Attacker(publisher.copy(tmp_path / "mirror"), publisher.keys)

    def far(signed: Any) -> None:
        signed.version = 2_000_000

    attacker.rewrite("snapshot", far, "snapshot_1")
    attacker.newest("snapshot").rename(attacker.repository / "metadata/2000000.snapshot.json")
    attacker.rewrite("timestamp", far, "timestamp_1")
    attacker.fit("timestamp", "snapshot", "timestamp_1")
    client.take(attacker.repository, "1.1.0")
    refused(client, publisher.repository.directory, "rollback: New timestamp version 3 must be >= 2000000")

    for role in ("snapshot", "timestamp"):
        publisher.new_key(f"{role}_2")
    roles = {role: publisher.role(f"{role}_2") for role in ("snapshot", "timestamp")}
    publisher.repository.rotate(roles, publisher.signers()).apply()
    assert client.take(publisher.repository.directory, "1.1.0") == firmware("1.1.0").read_text()
    refused(client, attacker.repository, "rollback|compromised keys")


# More, or other, than was asked for


def test_endless_data(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    repository = publisher.copy(tmp_path / "mirror")
    with open(repository / "metadata/timestamp.json", "a") as stream:
        stream.write(" " * 20_000)
    refused(client, repository, "endless data: Downloaded [0-9]+ bytes exceeding the maximum allowed length of 16384")


def test_endless_image(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    repository = publisher.copy(tmp_path / "mirror")
    [image] = repository.glob("targets/*/*.1.1.0.hex")
    with open(image, "a") as stream:
        stream.write("\n" * 1_000_000)
    refused(client, repository, r"endless data: Downloaded .*\(image of multi_sonicator_io/1.1.0.hex\)")


def test_extraneous_delegation(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    """Signed by all the right keys, as by somebody who was talked into it."""
    attacker = Attacker(publisher.copy(tmp_path / "mirror"), publisher.keys)
    role = DelegatedRole("partner", [], 1, False, paths=["*"])
    attacker.rewrite(
        "targets", lambda signed: setattr(signed, "delegations", Delegations({}, {"partner": role})), "targets_1"
    )
    attacker.fit("snapshot", "targets", "snapshot_1")
    attacker.fit("timestamp", "snapshot", "timestamp_1")
    refused(client, attacker.repository, "extraneous dependencies: the repository has delegation partner")


def test_extraneous_target(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    attacker = Attacker(publisher.copy(tmp_path / "mirror"), publisher.keys)
    extra = TargetFile.from_data("install.sh", b"#!/bin/sh\n", ["sha256"])
    attacker.rewrite("targets", lambda signed: signed.targets.update({"install.sh": extra}), "targets_1")
    attacker.fit("snapshot", "targets", "snapshot_1")
    attacker.fit("timestamp", "snapshot", "timestamp_1")
    refused(client, attacker.repository, "extraneous dependencies: the repository has target install.sh")


def test_mix_and_match(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    """Releases and snapshot of different times, each of them once signed by the right keys."""
    repository = publisher.copy(tmp_path / "mirror")
    metadata = repository / "metadata"
    (metadata / "3.targets.json").write_bytes((metadata / "2.targets.json").read_bytes())
    refused(client, repository, "mix-and-match")


def test_mix_and_match_with_online_keys(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    attacker = Attacker(publisher.copy(tmp_path / "mirror"), publisher.keys)
    metadata = attacker.repository / "metadata"
    (metadata / "3.targets.json").write_bytes((metadata / "2.targets.json").read_bytes())

    def fit(signed: Any) -> None:
        signed.meta["targets.json"] = MetaFile.from_data(3, (metadata / "3.targets.json").read_bytes(), ["sha256"])

    attacker.rewrite("snapshot", fit, "snapshot_1")
    attacker.fit("timestamp", "snapshot", "timestamp_1")
    refused(client, attacker.repository, "mix-and-match: Expected targets v3, got v2")


def test_wrong_target(client: Client, publisher: Publisher) -> None:
    refused(
        client, publisher.repository.directory, r"wrong target: the repository has no release .*/3.0.0.hex", "3.0.0"
    )


def test_wrong_target_under_a_right_name(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    """The signed description is that of another release than the name says."""
    attacker = Attacker(publisher.copy(tmp_path / "mirror"), publisher.keys)

    def swap(signed: Any) -> None:
        signed.targets[path("1.1.0")].unrecognized_fields["custom"] = signed.targets[path("1.0.0")].custom

    attacker.rewrite("targets", swap, "targets_1")
    attacker.fit("snapshot", "targets", "snapshot_1")
    attacker.fit("timestamp", "snapshot", "timestamp_1")
    with pytest.raises(CoreError, match=r"release .*/1.1.0.hex: its manifest is that of multi_sonicator_io 1.0.0"):
        client.take(attacker.repository, "1.1.0")


def test_revoked_release(client: Client, publisher: Publisher) -> None:
    client.take(publisher.repository.directory, "1.0.0")
    publisher.repository.revoke("multi_sonicator_io", "1.0.0", publisher.signers()).apply()
    refused(
        client, publisher.repository.directory, r"revoked release: multi_sonicator_io/1.0.0.hex was withdrawn", "1.0.0"
    )


def test_damaged_metadata(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    repository = publisher.copy(tmp_path / "mirror")
    (repository / "metadata/timestamp.json").write_text("{")
    refused(client, repository, "unusable repository: ")


# Keys


def test_key_rotation(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    """Through several roots at once, from the first that was provisioned; old keys count no more."""
    stolen = publisher.copy(tmp_path / "stolen")
    for name in ("root_2", "root_3", "targets_2"):
        publisher.new_key(name)
    online = ("snapshot_1", "timestamp_1")
    two = {"root": publisher.role("root_2", "root_3", threshold=2)}
    publisher.repository.rotate(two, publisher.signers("root_1", "root_2", "root_3", *online)).apply()
    new = {"targets": publisher.role("targets_2")}
    publisher.repository.rotate(new, publisher.signers("root_2", "root_3", "targets_2", *online)).apply()
    assert client.take(publisher.repository.directory, "1.1.0") == firmware("1.1.0").read_text()

    attacker = Attacker(publisher.copy(tmp_path / "mirror"), publisher.keys)

    def raise_version(signed: Any) -> None:
        signed.version += 1

    attacker.rewrite("targets", lambda signed: signed.targets.pop(path("1.0.0")), "targets_1")
    attacker.rewrite("snapshot", raise_version)
    newest = attacker.newest("snapshot")
    newest.rename(newest.with_name(f"{json.loads(newest.read_bytes())['signed']['version']}.snapshot.json"))
    attacker.fit("snapshot", "targets", "snapshot_1")
    attacker.rewrite("timestamp", raise_version)
    attacker.fit("timestamp", "snapshot", "timestamp_1")
    refused(client, attacker.repository, "compromised keys below the threshold: targets was signed by 0/1")
    refused(client, stolen, "rollback")


def test_a_root_below_its_threshold(client: Client, publisher: Publisher, tmp_path: Path) -> None:
    attacker = Attacker(publisher.copy(tmp_path / "mirror"), publisher.keys)
    root: Any = Metadata.from_file(str(publisher.root))
    root.signed.version = 2
    root.signatures.clear()
    root.sign(load_signer(publisher.keys / "targets_1.pem"))
    root.to_file(str(attacker.repository / "metadata/2.root.json"))
    refused(client, attacker.repository, "compromised keys below the threshold: root was signed by 0/1")


# Over the network, which only the control node uses


class Server(http.server.ThreadingHTTPServer):
    """A repository over https. Files whose names end in ``slow`` come byte by byte, those in ``endless`` never end."""

    daemon_threads = True

    def __init__(self, directory: Path, certificate: Path) -> None:
        self.directory = directory
        self.slow = ""
        self.endless = ""
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        file = self.server.directory / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path.endswith(self.server.slow or "never"):
                for byte in file.read_bytes():
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.1)
            self.wfile.write(file.read_bytes())
            while self.path.endswith(self.server.endless or "never"):
                self.wfile.write(b" " * 0x10000)

    def log_message(self, *_arguments: object) -> None:
        return


@pytest.fixture
def server(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    certificate = make_certificate(tmp_path / "certificate.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    running = Server(publisher.repository.directory, certificate)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def make_certificate(path: Path) -> Path:
    """A certificate of localhost for an hour, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_repository_behind_https(server: Server, publisher: Publisher, tmp_path: Path) -> None:
    fetched = fetch(server.url, publisher.root, tmp_path / "cache", [path("1.1.0")])
    assert fetched.files[fetched.releases[path("1.1.0")].file] == firmware("1.1.0").read_text()


@pytest.mark.parametrize("file", ["timestamp.json", "1.1.0.hex"])
def test_slow_retrieval_from_a_server(file: str, server: Server, publisher: Publisher, tmp_path: Path) -> None:
    """It always answers in time, and never ends."""
    server.slow = file
    began = time.monotonic()
    with pytest.raises(SourceError, match="slow retrieval: not done after 1 s"):
        fetch(server.url, publisher.root, tmp_path / "cache", [path("1.1.0")], deadline=1)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("file", ["timestamp.json", "1.1.0.hex"])
def test_endless_data_from_a_server(file: str, server: Server, publisher: Publisher, tmp_path: Path) -> None:
    server.endless = file
    with pytest.raises(SourceError, match=r"endless data: Downloaded [0-9]+ bytes exceeding"):
        fetch(server.url, publisher.root, tmp_path / "cache", [path("1.1.0")])


def test_a_server_that_is_not_there(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"repository https://localhost:1: unusable repository: .*refused"):
        fetch("https://localhost:1", publisher.root, tmp_path / "cache", [path("1.1.0")])


@pytest.mark.parametrize("location", ["http://localhost/firmware", "ftp://localhost/firmware", "/nowhere"])
def test_what_is_no_repository(location: str, publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"repository {location}: (expected a directory or an https|no firmware)"):
        fetch(location, publisher.root, tmp_path / "cache", [path("1.1.0")])

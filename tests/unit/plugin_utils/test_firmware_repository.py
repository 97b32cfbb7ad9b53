# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing: thresholds, what waits for signatures, versions and counters that are never used twice, and cuts."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.image import ImageError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.release import Release, ReleaseError
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import verifier as verifier_module
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.firmware_repository import (
    FirmwareRepositoryError,
    generate_key,
    load_public_key,
    load_signer,
    load_signer_uri,
)
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.verifier import WHEELS, VerifierError, build, pack
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.releases import MANIFEST, PRODUCT, ControlNode, Publisher, path, verifier
from support.virtual import CACHE, REPOSITORY, firmware


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "publisher")


def files(publisher: Publisher) -> dict[str, bytes]:
    top = publisher.repository.directory
    return {str(file.relative_to(top)): file.read_bytes() for file in top.rglob("*") if file.is_file()}


def image(version: str) -> bytes:
    return firmware(version).read_bytes()


# Releases


def test_counters_rise_and_the_same_release_again_changes_nothing(publisher: Publisher) -> None:
    publisher.publish("1.0.0")
    publisher.publish("1.1.0", counter=7)
    publisher.publish("1.2.0")
    found = publisher.repository.describe()["releases"]
    assert {name: release["counter"] for name, release in found.items()} == {
        path("1.0.0"): 1,
        path("1.1.0"): 7,
        path("1.2.0"): 8,
    }
    there = files(publisher)
    change = publisher.repository.publish(image("1.1.0"), {**MANIFEST, "version": "1.1.0"}, publisher.signers())
    assert (change.changed, change.before) == (False, change.after)
    assert files(publisher) == there


def test_what_is_not_applied_is_not_written(publisher: Publisher) -> None:
    there = files(publisher)
    change = publisher.repository.publish(image("1.0.0"), {**MANIFEST, "version": "1.0.0"}, publisher.signers())
    assert change.changed and path("1.0.0") in change.after["releases"] and change.before["releases"] == {}
    assert files(publisher) == there
    change.apply()
    assert publisher.repository.describe() == change.after


BAD = {
    "another image": ("is published already, with another image", {"version": "1.0.0"}, "1.1.0"),
    "another manifest": ("is published already", {"version": "1.0.0", "notes": "new"}, "1.0.0"),
    "counter": ("counter 1 does not rise, multi_sonicator_io is at 1", {"version": "1.1.0", "counter": 1}, "1.1.0"),
    "product": ("product 'Multi Sonicator' does not fit", {"version": "1.1.0", "product": "Multi Sonicator"}, "1.1.0"),
    "version": ("version '../1.1.0' does not fit", {"version": "../1.1.0"}, "1.1.0"),
    "unknown": ("parts is unknown", {"version": "1.1.0", "parts": "m32"}, "1.1.0"),
    "no part": ("part is None, expected text", {"version": "1.1.0", "part": None}, "1.1.0"),
    "revisions": ("hardware_revisions is 'B'", {"version": "1.1.0", "hardware_revisions": "B"}, "1.1.0"),
    "fuses": ("fuses is .*expected values such as 0xD1", {"version": "1.1.0", "fuses": {"hfuse": 0xD1}}, "1.1.0"),
    "profile": ("profile is .*expected name", {"version": "1.1.0", "profile": {"name": "x"}}, "1.1.0"),
    "range": (
        "range of the profile's versions is 3 to 2",
        {"version": "1.1.0", "profile": {"name": "x", "min_version": 3, "max_version": 2}},
        "1.1.0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_release_that_contradicts_itself(case: str, publisher: Publisher) -> None:
    publisher.publish("1.0.0")
    there = files(publisher)
    says, more, version = BAD[case]
    with pytest.raises(CoreError, match=says):
        publisher.repository.publish(image(version), {**MANIFEST, **more}, publisher.signers())
    assert files(publisher) == there


@pytest.mark.parametrize("data", [b"", b":00000001FF\n", image("1.1.0")[:-20], b"\xff\xfe"])
def test_an_image_that_is_none(data: bytes, publisher: Publisher) -> None:
    with pytest.raises(ImageError, match=r"1\.1\.0\.hex"):
        publisher.repository.publish(data, {**MANIFEST, "version": "1.1.0"}, publisher.signers())


def test_a_manifest_of_another_schema() -> None:
    with pytest.raises(ReleaseError, match="manifest of schema 2, this collection knows 1"):
        Release.from_manifest(path("1.1.0"), {**MANIFEST, "schema": 2})


def test_a_revoked_version_never_comes_back(publisher: Publisher) -> None:
    publisher.publish("1.0.0")
    publisher.publish("1.1.0")
    publisher.repository.revoke(PRODUCT, "1.1.0", publisher.signers()).apply()
    assert not list(publisher.repository.directory.glob("targets/*/*.1.1.0.hex"))
    assert not publisher.repository.revoke(PRODUCT, "1.1.0", publisher.signers()).changed
    with pytest.raises(FirmwareRepositoryError, match=r"was revoked at 20.* never used twice"):
        publisher.publish("1.1.0")
    publisher.publish("1.2.0")
    assert publisher.repository.describe()["releases"][path("1.2.0")]["counter"] == 3
    with pytest.raises(
        FirmwareRepositoryError, match=r"no release .*9\.9\.9\.hex to revoke \(there are .*1\.0\.0\.hex"
    ):
        publisher.repository.revoke(PRODUCT, "9.9.9", publisher.signers())


# Thresholds


def test_nothing_is_visible_below_the_threshold(tmp_path: Path) -> None:
    """Two of three sign releases, each at his own place; the online keys are a fourth person's."""
    publisher = Publisher(tmp_path / "publisher", keys={"targets": 3}, thresholds={"targets": 2})
    client = ControlNode(tmp_path, publisher.root)
    repository, visible = publisher.repository, publisher.repository.describe()["versions"]
    publisher.publish("1.1.0", keys=["targets_1"])
    waiting = repository.describe()
    assert waiting["versions"] == visible and waiting["releases"] == {}
    assert len(waiting["pending"]["targets"]["signed_by"]) == 1
    with pytest.raises(CoreError, match="wrong target"):
        client.take(repository.directory, "1.1.0")
    # The same key once more is no second one, nor is one that signs for something else.
    assert not repository.sign(publisher.signers("targets_1")).changed
    change = repository.sign(publisher.signers("targets_1", "snapshot_1", "timestamp_1"))
    assert not change.changed and "targets: 1 of 2 signatures, not yet by" in change.waiting[0]
    with pytest.raises(FirmwareRepositoryError, match="another change waits for signatures"):
        publisher.publish("1.2.0")

    # The second key holder runs the same, with his key.
    publisher.publish("1.1.0", keys=["targets_3"])
    assert repository.describe()["releases"] == {}
    change = repository.sign(publisher.signers("snapshot_1", "timestamp_1"))
    assert not change.waiting
    change.apply()
    assert repository.describe()["pending"] == {} and not repository.sign(publisher.signers()).changed
    assert client.take(repository.directory, "1.1.0") == firmware("1.1.0").read_text()


def test_a_new_root_needs_old_and_new_keys(publisher: Publisher, tmp_path: Path) -> None:
    client = ControlNode(tmp_path, publisher.root)
    publisher.publish("1.1.0")
    publisher.new_key("root_2")
    new = {"root": publisher.role("root_2")}
    for lacking in (["root_2"], ["root_1"]):
        change = publisher.repository.rotate(new, publisher.signers(*lacking, "snapshot_1", "timestamp_1"))
        assert change.waiting and change.after["versions"] == change.before["versions"]
    change.apply()
    publisher.repository.sign(publisher.signers("root_2", "snapshot_1", "timestamp_1")).apply()
    assert publisher.repository.describe()["versions"]["root"] == 2
    assert not publisher.repository.rotate(new, publisher.signers("root_2")).changed
    assert client.take(publisher.repository.directory, "1.1.0")


def test_a_new_releases_key_signs_what_the_old_one_signed(publisher: Publisher, tmp_path: Path) -> None:
    client = ControlNode(tmp_path, publisher.root)
    publisher.publish("1.1.0")
    publisher.new_key("targets_2")
    new = {"targets": publisher.role("targets_2")}
    change = publisher.repository.rotate(new, publisher.signers("root_1", "targets_1", "snapshot_1", "timestamp_1"))
    assert change.waiting == [
        f"targets: 0 of 1 signatures, not yet by {publisher.role('targets_2').keys[0].keyid[:12]}"
    ]
    publisher.repository.rotate(new, publisher.signers()).apply()
    assert client.take(publisher.repository.directory, "1.1.0")


def test_refresh_renews_what_its_keys_sign_for(publisher: Publisher) -> None:
    versions = publisher.repository.describe()["versions"]
    publisher.repository.refresh(publisher.signers("snapshot_1", "timestamp_1")).apply()
    renewed = publisher.repository.describe()["versions"]
    assert renewed == {**versions, "timestamp": 2}
    publisher.repository.refresh(publisher.signers()).apply()
    assert publisher.repository.describe()["versions"] == {"root": 2, "targets": 2, "timestamp": 3}


def test_a_threshold_that_its_keys_cannot_meet(publisher: Publisher) -> None:
    with pytest.raises(FirmwareRepositoryError, match="role targets: threshold 2 of 1 keys"):
        publisher.repository.rotate({"targets": publisher.role("targets_1", threshold=2)}, publisher.signers())


def test_a_repository_is_made_once(publisher: Publisher) -> None:
    roles = {name: publisher.role(f"{name}_1") for name in ("root", "targets", "snapshot", "timestamp")}
    with pytest.raises(FirmwareRepositoryError, match="holds a repository already"):
        publisher.repository.create(roles, {}, publisher.signers())


def test_a_key_of_nobody(publisher: Publisher) -> None:
    publisher.new_key("stranger")
    with pytest.raises(FirmwareRepositoryError, match="signs for no role"):
        publisher.repository.refresh(publisher.signers("stranger"))


# Cuts


@pytest.mark.parametrize("what", ["publish", "revoke", "rotate"])
def test_a_cut_at_every_write_leaves_a_valid_repository(what: str, tmp_path: Path) -> None:
    """And the same once more ends as if there had been none."""
    cut, ended = 0, False
    while not ended:
        place = tmp_path / str(cut)
        publisher = Publisher(place / "publisher")
        client = ControlNode(place, publisher.root)
        publisher.publish("1.0.0")
        publisher.publish("1.1.0")
        for name in ("root_2", "targets_2", "snapshot_2", "timestamp_2"):
            publisher.new_key(name)
        new = {name: publisher.role(f"{name}_2") for name in ("root", "targets", "snapshot", "timestamp")}
        old = ("root_1", "targets_1", "snapshot_1", "timestamp_1")

        def change(publisher: Publisher = publisher, new: Any = new, old: Any = old) -> Any:
            if what == "publish":
                manifest = {**MANIFEST, "version": "1.2.0"}
                return publisher.repository.publish(image("1.2.0"), manifest, publisher.signers(*old))
            if what == "revoke":
                return publisher.repository.revoke(PRODUCT, "1.1.0", publisher.signers(*old))
            return publisher.repository.rotate(new, publisher.signers())

        first = change()
        ended = cut == len(first.writes) + len(first.removes)
        first.removes = first.removes[: max(0, cut - len(first.writes))]
        first.writes = first.writes[:cut]
        first.apply()
        assert client.take(publisher.repository.directory, "1.0.0")
        change().apply()
        found = publisher.repository.describe()
        assert (
            sorted(found["releases"])
            == {
                "publish": [path("1.0.0"), path("1.1.0"), path("1.2.0")],
                "revoke": [path("1.0.0")],
                "rotate": [path("1.0.0"), path("1.1.0")],
            }[what]
        )
        assert client.take(publisher.repository.directory, "1.0.0")
        assert not change().changed
        cut += 1
    assert cut > 3


def test_damaged_metadata_is_told(publisher: Publisher) -> None:
    (publisher.repository.directory / "metadata/timestamp.json").write_text("{}")
    with pytest.raises(FirmwareRepositoryError, match=r"timestamp\.json: damaged"):
        publisher.repository.describe()


# Keys


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    key = tmp_path / "keys/release.pem"
    generate_key(key, "open sesame")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert load_signer(key, "open sesame").public_key.keyid == load_public_key(key.with_suffix(".pub")).keyid
    for passphrase in (None, "wrong"):
        with pytest.raises(FirmwareRepositoryError, match=r"release\.pem: cannot be opened"):
            load_signer(key, passphrase)
    with pytest.raises(FirmwareRepositoryError, match=r"release\.pem: is there already"):
        generate_key(key)
    key.chmod(0o640)
    with pytest.raises(FirmwareRepositoryError, match="others may read this key"):
        load_signer(key, "open sesame")
    with pytest.raises(FirmwareRepositoryError, match=r"gone\.pem: key cannot be read"):
        load_signer(tmp_path / "gone.pem")


def test_signers_of_securesystemslib(publisher: Publisher) -> None:
    """Through a URI, as those of key vaults and hardware; this one leads to a file."""
    signers = [
        load_signer_uri(f"file2:{publisher.keys / name}_1.pem", publisher.keys / f"{name}_1.pub")
        for name in ("targets", "snapshot", "timestamp")
    ]
    publisher.repository.publish(image("1.0.0"), {**MANIFEST, "version": "1.0.0"}, signers).apply()
    assert path("1.0.0") in publisher.repository.describe()["releases"]
    with pytest.raises(FirmwareRepositoryError, match="signer hsm2:: ValueError: Unsupported private key scheme hsm2"):
        load_signer_uri("hsm2:", publisher.keys / "root_1.pub")


def test_keys_that_no_gateway_could_verify(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ecdsa.pub").write_bytes(pem)
    with pytest.raises(FirmwareRepositoryError, match=r"scheme ecdsa-sha2-nistp256, expected ed25519"):
        load_public_key(tmp_path / "ecdsa.pub")
    (tmp_path / "none.pub").write_text("key")
    with pytest.raises(FirmwareRepositoryError, match="no public key in PEM"):
        load_public_key(tmp_path / "none.pub")


# The verifier of the gateways


def test_the_verifier_is_the_same_wherever_it_is_made(tmp_path: Path) -> None:
    made = verifier()
    for name in WHEELS:
        (tmp_path / name).write_bytes((CACHE / "wheels" / name).read_bytes())
        (tmp_path / name).touch()
    assert build(tmp_path, download=False) == made


def test_the_verifier_has_the_libraries_of_the_control_node() -> None:
    """What one side accepts the other accepts too."""
    pinned = (REPOSITORY / "requirements/libraries.txt").read_text().splitlines()
    assert {"==".join(name.split("-")[:2]) for name in WHEELS} <= set(pinned)


def test_other_wheels_than_those_that_are_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier()
    [name] = [name for name in WHEELS if name.startswith("tuf")]
    with pytest.raises(VerifierError, match=f"lacks .*{name}.*pip download --no-deps .*tuf=="):
        build(tmp_path, download=False)
    (tmp_path / name).write_bytes((CACHE / "wheels" / name).read_bytes() + b"\0")
    with pytest.raises(VerifierError, match=f"{name}: its sha256 is .*expected {WHEELS[name]}"):
        pack([tmp_path / name])
    compiled = tmp_path / "tuf-7.0.1-cp311-cp311-linux_x86_64.whl"
    compiled.write_bytes((CACHE / "wheels" / name).read_bytes())
    monkeypatch.setitem(verifier_module.WHEELS, compiled.name, WHEELS[name])
    with pytest.raises(VerifierError, match="is compiled for one machine"):
        pack([compiled])

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed releases from the publisher to the board: what is right is deployed, and nothing else touches a programmer."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.ansible import COLLECTION, UNTOUCHED, VirtualSite
from support.releases import PRODUCT, Publisher
from support.site import flash_of
from support.virtual import CACHE, firmware

QUICK = {"soak": 0.2, "boot_deadline": 2}
WHEELS = {"firmware_trust_wheels": str(CACHE / "wheels")}


def trusting(site: VirtualSite, publisher: Publisher) -> None:
    """The site takes its firmware from this publisher alone."""
    site.variables |= {
        "controllers_repository": str(publisher.repository.directory),
        "controllers_trusted_root": str(publisher.root),
        "controllers_repository_cache": str(site.directory / "cache"),
        "controllers_trust_directory": str(site.directory / "{{ inventory_hostname }}" / "trust"),
        "controllers_allow_unsigned": False,
        "controllers_firmware_version": "1.1.0",
        **WHEELS,
    }


@pytest.fixture
def publisher(tmp_path: Path, site: VirtualSite) -> Publisher:
    """One whom the site trusts, with 1.0.0 and 1.1.0."""
    one = Publisher(tmp_path / "publisher")
    one.publish("1.0.0")
    one.publish("1.1.0")
    trusting(site, one)
    return one


def firmware_task(site: VirtualSite, name: str, **options: Any) -> dict[str, Any]:
    common = {
        "repository": "{{ controllers_repository }}",
        "trusted_root": "{{ controllers_trusted_root }}",
        "repository_cache": "{{ controllers_repository_cache }}",
        "trust_directory": "{{ controllers_trust_directory }}",
        "version": "1.1.0",
        **QUICK,
    }
    return {"name": name, **site.task("firmware", {**common, **options}), "ignore_errors": True}


def untouched(traffic: dict[str, int]) -> bool:
    return traffic | UNTOUCHED == traffic


def test_deploy_takes_signed_releases_only(site: VirtualSite, publisher: Publisher, tmp_path: Path) -> None:
    assert site.play("trust", check=True).changed and not (site.directory / "gateway/trust").exists()
    assert site.play("trust").changed
    assert not site.play("trust").changed
    assert site.play("deploy").changed
    assert site.flash("press").rstrip(b"\xff") == flash_of("1.1.0")

    # Its own proven image comes back without any repository; an older release of the repository does not.
    run = site.tasks(
        firmware_task(site, "downgrade", version="1.0.0"),
        {"name": "back", **site.task("firmware", {"set": "previous", **QUICK})},
    )
    assert (
        "downgrade: release multi_sonicator_io/1.0.0.hex has the counter 1" in run.event("downgrade")["result"]["msg"]
    )
    assert run.event("downgrade")["traffic"] == {**UNTOUCHED, "requests": 0}
    assert run.event("back")["result"]["controllers"][0]["outcome"] == "deployed"

    # Whoever has taken over the control node can make it trust his own releases, but not the gateway.
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish("1.2.0")
    trusting(site, stranger)
    run = site.play("deploy", code=2, firmware_version="1.2.0")
    assert "compromised keys below the threshold: " in run.output and untouched(run.traffic)
    run = site.play("trust", code=2)
    assert "is another root of trust than" in run.output
    assert site.play("trust", firmware_trust_replace=True).changed


def test_no_attack_touches_a_programmer(site: VirtualSite, publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish("1.2.0", hardware_revisions=["C"])
    tampered = publisher.copy(tmp_path / "tampered")
    [image] = tampered.glob("targets/*/*.1.1.0.hex")
    image.write_bytes(image.read_bytes().replace(b"0", b"1", 1))
    frozen = Publisher(tmp_path / "frozen", expiry={"timestamp": 0})
    frozen.publish("1.1.0")
    site.play("trust")
    older = publisher.copy(tmp_path / "older")
    publisher.repository.revoke(PRODUCT, "1.0.0", publisher.signers()).apply()
    unsigned = {"releases": "{{ controllers_releases }}", "repository": "{{ omit }}", "trusted_root": "{{ omit }}"}
    attacks = {
        "arbitrary software": firmware_task(site, "arbitrary software", repository=str(tampered)),
        "expired": firmware_task(
            site, "expired", repository=str(frozen.repository.directory), trusted_root=str(frozen.root)
        ),
        "another board": firmware_task(site, "another board", version="1.2.0"),
        "unknown": firmware_task(site, "unknown", version="3.0.0"),
        "revoked": firmware_task(site, "revoked", version="1.0.0"),
        "unsigned": firmware_task(site, "unsigned", **unsigned),
        "rollback": firmware_task(site, "rollback", repository=str(older)),
        "no root": firmware_task(site, "no root", trusted_root="{{ omit }}"),
        "no repository": firmware_task(site, "no repository", repository=str(tmp_path)),
        "another product": firmware_task(site, "another product", product="other"),
        "no trust": firmware_task(site, "no trust", trust_directory=str(tmp_path)),
    }
    says = {
        "arbitrary software": "arbitrary software: ",
        "expired": "indefinite freeze: timestamp.json is expired",
        "another board": "press: wrong target: release multi_sonicator_io/1.2.0.hex is for hardware revision C",
        "unknown": "wrong target: the repository has no release multi_sonicator_io/3.0.0.hex",
        "revoked": "revoked release: multi_sonicator_io/1.0.0.hex was withdrawn",
        "unsigned": "a release without a signature is refused",
        "rollback": "rollback: New timestamp version",
        "no root": "trusted_root is missing",
        "no repository": "no firmware repository there",
        "another product": "wrong target: the repository has no release other/1.1.0.hex",
        "no trust": "provision it with the playbook multi_sonicator.ops.trust",
    }
    before = site.flash("press")
    run = site.tasks(*attacks.values())
    assert run.traffic == {**UNTOUCHED, "requests": 0}
    found = {name: str(run.event(name)["result"].get("msg")) for name in attacks}
    assert {name: words for name, words in says.items() if words not in found[name]} == {}, found
    assert site.flash("press") == before


def test_firmware_repository(site: VirtualSite, tmp_path: Path) -> None:
    """Check mode writes nothing and tells the same; a second run changes nothing; keys are not told."""
    site.variables["secret"] = "open sesame"
    common = {"directory": str(tmp_path / "repository")}
    keys = [str(tmp_path / f"keys/{role}.pem") for role in ("root", "targets", "snapshot", "timestamp")]
    signed = {**common, "keys": keys, "passphrase": "{{ secret }}"}
    create = {**common, "action": "create", "generate_keys": str(tmp_path / "keys"), "passphrase": "{{ secret }}"}
    publish = {**signed, "action": "publish", "version": "1.1.0", "image": str(firmware("1.1.0")), "notes": "Ramps."}
    two = {"targets": {"keys": [str(tmp_path / "keys/targets.pub"), str(tmp_path / "keys/root.pub")], "threshold": 2}}
    revoke = {**signed, "action": "revoke", "version": "1.1.0"}
    alone = {**revoke, "keys": keys[1:2]}
    steps = {
        "create": create, "publish": publish, "rotate": {**signed, "action": "rotate", "roles": two},
        "revoke alone": alone, "sign": {**signed, "action": "sign"}, "refresh": {**signed, "action": "refresh"},
    }  # fmt: skip

    def task(name: str, options: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"name": name, f"{COLLECTION}.firmware_repository": options, **more}

    tasks = []
    for name, options in steps.items():
        tasks += [task(f"{name} check", options, check_mode=True), task(name, options), task(f"{name} again", options)]
    bad = {
        "no image": {**publish, "image": str(tmp_path / "gone.hex")},
        "no version": {**common, "action": "publish"},
        "no repository": {**publish, "directory": str(tmp_path / "elsewhere")},
        "nobody": {**create, "directory": str(tmp_path / "elsewhere"), "generate_keys": "{{ omit }}"},
        "wrong passphrase": {**publish, "passphrase": "wrong"},
    }
    tasks += [task(name, options, ignore_errors=True) for name, options in bad.items()]
    run = site.tasks(*tasks)
    found = {event["task"]: event["result"] for event in run.events}
    for name in steps:
        check, done, again = (found[f"{name}{suffix}"] for suffix in (" check", "", " again"))
        assert check["changed"] and done["changed"], name
        assert again["changed"] == (name == "refresh"), name
        assert done["diff"]["after"] == done["repository"] == again["diff"]["before"], name
        if name != "create":  # whose keys check mode forgets
            assert check["diff"]["after"].keys() == done["diff"]["after"].keys()
            assert check["diff"]["after"]["versions"] == done["diff"]["after"]["versions"], name
    assert found["revoke alone"]["waiting"][0].startswith("targets: 1 of 2 signatures")
    assert f"{PRODUCT}/1.1.0.hex" in found["revoke alone"]["repository"]["releases"], "still there"
    assert found["sign"]["waiting"] == [] and found["sign"]["repository"]["releases"] == {}
    says = {
        "no image": "gone.hex", "no version": "version", "no repository": "no repository there",
        "nobody": "nobody signs for root", "wrong passphrase": "cannot be opened",
    }  # fmt: skip
    assert {name: words for name, words in says.items() if words not in found[name]["msg"]} == {}
    assert not (tmp_path / "elsewhere").exists() or not list((tmp_path / "elsewhere").iterdir())
    assert "open sesame" not in run.output


def test_site_bundle(site: VirtualSite, publisher: Publisher, tmp_path: Path) -> None:
    """What it carries is a repository, which knows what is revoked, and never lives longer than its signatures."""
    bundle = tmp_path / "bundle"
    options = {
        "site_bundle_directory": str(bundle),
        "site_bundle_repository": str(publisher.repository.directory),
        "site_bundle_trusted_root": str(publisher.root),
        "site_bundle_repository_cache": str(tmp_path / "cache"),
        "site_bundle_wheels": str(CACHE / "wheels"),
        "site_bundle_archive": str(tmp_path / "bundle.tar"),
    }
    assert site.play("site_bundle", check=True, **options).changed and not bundle.exists()
    run = site.play("site_bundle", **options)
    [told] = [message for message in run.messages if "2 releases, valid until" in message]
    assert "167 hours from now" in told
    assert not site.play("site_bundle", **options).changed
    for version in ("1.0.0", "1.1.0"):
        [image] = bundle.glob(f"targets/*/*.{version}.hex")
        assert image.read_bytes() == firmware(version).read_bytes()

    publisher.repository.revoke(PRODUCT, "1.0.0", publisher.signers()).apply()
    assert site.play("site_bundle", **options).changed and not list(bundle.glob("targets/*/*.1.0.0.hex"))
    with tarfile.open(tmp_path / "bundle.tar") as archive:
        names = archive.getnames()
    assert {"./root.json", "./packages.txt", "./wheels/verifier.pyz", "./metadata/timestamp.json"} <= set(names)

    # At the site: the same commands, from the bundle alone, on a machine without any network.
    publisher.repository.directory.rename(tmp_path / "out of reach")
    site.control.prefix = ["unshare", "--net" if os.geteuid() == 0 else "--map-root-user", "--net", "--"]
    site.variables |= {
        "controllers_repository": str(bundle),
        "controllers_trusted_root": str(bundle / "root.json"),
        "firmware_trust_wheels": str(bundle / "wheels"),
        "firmware_trust_download": False,
    }
    site.play("trust")
    site.play("deploy")
    assert site.flash("press").rstrip(b"\xff") == flash_of("1.1.0")
    assert not site.play("deploy").changed
    site.play("rollback")
    assert site.flash("press").rstrip(b"\xff") == flash_of("1.0.0")


def test_release_verifier(site: VirtualSite, tmp_path: Path) -> None:
    options = {"path": str(tmp_path / "verifier.pyz"), "wheels": str(CACHE / "wheels")}
    lacking = {**options, "wheels": str(tmp_path / "none"), "download": False}
    called = [{"name": name, f"{COLLECTION}.release_verifier": options} for name in ("check", "make", "again")]
    called[0]["check_mode"] = True
    run = site.tasks(*called, {"name": "lacking", f"{COLLECTION}.release_verifier": lacking, "ignore_errors": True})
    assert [run.event(name)["result"]["changed"] for name in ("check", "make", "again")] == [True, True, False]
    assert "pip download --no-deps" in run.event("lacking")["result"]["msg"]

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway trusts, and which controllers it admits a release to. Nothing is behind its lines."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core import targets
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.change import Target
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.gateway import (
    Gateway,
    InventoryError,
    parse_controllers,
)
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import Store
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.trust import TrustError
from support.profiles import mapping
from support.releases import PRODUCT, GatewayNode, Publisher, carry, path, verifier
from support.site import flash_of
from support.virtual import firmware

CONTROLLER = {"name": "press", "line": "/dev/line", "unit": 2, "programmer": "/dev/isp", "profile": PRODUCT}


class Site:
    """A gateway with the controller press, and somebody who publishes for it."""

    def __init__(self, directory: Path) -> None:
        self.publisher = Publisher(directory / "publisher")
        self.node = GatewayNode(directory, self.publisher.root)
        self.store = Store(directory / "gateway_state")

    def admit(
        self, version: str, *, downgrade: bool = False, check: bool = False, profile: Any = None, **controller: Any
    ) -> Target:
        """The target that the release is to the controller, or why it is none."""
        described = profile or mapping()
        entry = {**CONTROLLER, "profile": described["name"], **controller}
        gateway = Gateway(parse_controllers([entry], {described["name"]: described}), self.store)
        files = carry(self.publisher.repository.directory, version)
        found = targets.from_repository(gateway, self.node.trust, files, PRODUCT, version, downgrade, check)
        return found["press"]

    def deployed(self, target: Target) -> None:
        """As a transaction leaves the controller's record."""
        self.store.save_record("press", {"version": target.version, "images": {"flash": target.digest}})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def offering(site: Site) -> Site:
    """The same with 1.0.0 and 1.1.0 published."""
    for version in ("1.0.0", "1.1.0"):
        site.publisher.publish(version)
    return site


def test_a_release_that_fits(site: Site) -> None:
    fitting = {"name": PRODUCT, "min_version": 1, "max_version": 1}
    site.publisher.publish("1.1.0", hardware_revisions=["B", "C"], profile=fitting, fuses={"hfuse": "0xD9"})
    target = site.admit("1.1.0", hardware_revision="C")
    assert (target.flash, target.version, target.fuses) == (flash_of("1.1.0"), "1.1.0", {"hfuse": 0xD9})


MISFITS = {
    "another part": ({"part": "m328p"}, {}, "is for part m328p, the controller has m32"),
    "another revision": (
        {"hardware_revisions": ["C"]},
        {"hardware_revision": "B"},
        "is for hardware revision C, the inventory's hardware_revision of the controller is B",
    ),
    "unknown revision": ({"hardware_revisions": ["C"]}, {}, "is for hardware revision C, .* is not given"),
    "another profile": (
        {"profile": {"name": "other", "min_version": 1, "max_version": None}},
        {},
        f"speaks profile other, the controller is described by {PRODUCT}",
    ),
    "a later map": (
        {"profile": {"name": PRODUCT, "min_version": 2, "max_version": None}},
        {},
        f"speaks profile {PRODUCT} from version 2 on, ours has version 1",
    ),
    "other fuses": ({"fuses": {"lfuse": "0x00"}}, {}, "wants fuse lfuse 0x00, which the profile does not accept"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_release_for_another_controller(case: str, site: Site) -> None:
    manifest, controller, says = MISFITS[case]
    site.publisher.publish("1.1.0", **manifest)
    with pytest.raises(InventoryError, match=f"press: wrong target: release {PRODUCT}/1.1.0.hex {says}"):
        site.admit("1.1.0", **controller)


def test_an_earlier_map_than_ours(site: Site) -> None:
    site.publisher.publish("1.1.0", profile={"name": PRODUCT, "min_version": 1, "max_version": 1})
    newer = copy.deepcopy(mapping()) | {"version": 2}
    with pytest.raises(InventoryError, match=f"speaks profile {PRODUCT} from version 1 to 1, ours has version 2"):
        site.admit("1.1.0", profile=newer)


def test_downgrade(site: Site) -> None:
    for version in ("1.0.0", "1.1.0"):
        site.publisher.publish(version)
    site.admit("1.0.0")  # one that was never deployed from here may have been anything
    site.deployed(site.admit("1.1.0"))
    with pytest.raises(InventoryError, match=r"downgrade: .*1\.0\.0\.hex has the counter 1, that deployed last has 2"):
        site.admit("1.0.0")
    assert site.admit("1.1.0").version == "1.1.0", "the same again"
    site.deployed(site.admit("1.0.0", downgrade=True))
    assert site.admit("1.0.0").version == "1.0.0", "once allowed it is the one deployed last"


def test_downgrade_in_the_middle_of_a_transaction(site: Site) -> None:
    """While its chip is being written a controller counts as what it was before."""
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        site.publisher.publish(version)
    before = site.admit("1.1.0")
    site.deployed(before)
    wanted = site.admit("1.2.0")
    site.store.journal("press").append("begin", transaction="t", before={"version": "1.1.0", "digest": before.digest})
    site.store.save_record("press", {"version": None, "writing": wanted.digest})
    with pytest.raises(InventoryError, match=r"downgrade: .* has the counter 1, that deployed last has 2"):
        site.admit("1.0.0")
    assert site.admit("1.1.0").version == "1.1.0"


def test_the_gateway_remembers_nothing_of_check_mode(site: Site) -> None:
    site.publisher.publish("1.1.0")
    target = site.admit("1.1.0", check=True)
    assert site.node.trust.counter(PRODUCT, target.digest) is None
    site.admit("1.1.0")
    assert site.node.trust.counter(PRODUCT, target.digest) == 1


def test_unsigned_releases_are_refused_unless_allowed(site: Site) -> None:
    gateway = Gateway(parse_controllers([CONTROLLER], {PRODUCT: mapping()}), site.store)
    data = firmware("1.1.0").read_bytes()
    release = {"version": "1.1.0", "image": "x.hex", "sha256": "0" * 64, "content": data.decode()}
    with pytest.raises(CoreError, match="without a signature is refused"):
        targets.from_releases(gateway, [release], "1.1.0", allow_unsigned=False)


def test_damaged_memory_of_releases(site: Site) -> None:
    site.publisher.publish("1.1.0")
    site.admit("1.1.0")
    (site.node.trust.state / "known.json").write_text("{")
    with pytest.raises(CoreError, match=r"known\.json: damaged"):
        site.admit("1.1.0")


# What a gateway makes of what it is offered. The attacks that the control node meets too are tested with it.


def test_an_image_tampered_with_after_its_transfer(offering: Site) -> None:
    gateway = offering.node
    files = carry(offering.publisher.repository.directory, "1.1.0")
    [name] = [name for name in files if name.endswith(".hex")]
    files[name] = files[name].replace("0", "1", 1)
    with pytest.raises(TrustError, match=r"arbitrary software: the image of multi_sonicator_io/1.1.0.hex"):
        gateway.trust.verify(files, [path("1.1.0")])


def test_an_image_that_nobody_asked_for(offering: Site) -> None:
    gateway = offering.node
    files = carry(offering.publisher.repository.directory, "1.0.0", "1.1.0")
    with pytest.raises(TrustError, match=r"extraneous dependencies: targets/.*1.0.0.hex came along"):
        gateway.trust.verify(files, [path("1.1.0")])


def test_slow_retrieval_on_a_gateway(offering: Site) -> None:
    """Whatever keeps the verifier from ending, here a root of trust that never comes."""
    gateway = offering.node
    root = gateway.trust.directory / "root.json"
    root.unlink()
    os.mkfifo(root, 0o644)
    gateway.trust.deadline = 0.5
    began = time.monotonic()
    with pytest.raises(TrustError, match=r"slow retrieval: .* was not done after 0.5 s and was ended"):
        gateway.take(offering.publisher.repository.directory, "1.1.0")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("missing", ["root.json", "verifier.pyz"])
def test_a_gateway_without_trust_says_how_to_provision_it(missing: str, offering: Site) -> None:
    gateway = offering.node
    (gateway.trust.directory / missing).unlink()
    with pytest.raises(TrustError, match=rf"{missing}: not there, .* multi_sonicator.ops.trust"):
        gateway.take(offering.publisher.repository.directory, "1.1.0")


def test_a_gateway_does_not_trust_what_everybody_may_write(offering: Site) -> None:
    gateway = offering.node
    (gateway.trust.directory / "root.json").chmod(0o666)
    with pytest.raises(TrustError, match=r"root.json: everybody may write it"):
        gateway.take(offering.publisher.repository.directory, "1.1.0")


def test_a_broken_verifier_is_no_approval(offering: Site) -> None:
    gateway = offering.node
    (gateway.trust.directory / "verifier.pyz").write_bytes(verifier()[:1000])
    with pytest.raises(TrustError, match=r"verifier.pyz: ended with code 1 and no answer"):
        gateway.take(offering.publisher.repository.directory, "1.1.0")


def test_check_mode_keeps_nothing(offering: Site) -> None:
    gateway = offering.node
    files = carry(offering.publisher.repository.directory, "1.1.0")
    gateway.trust.verify(files, [path("1.1.0")], check=True)
    assert not gateway.trust.state.exists()

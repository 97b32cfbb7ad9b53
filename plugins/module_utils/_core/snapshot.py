# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole state of one controller as one consistent set, and putting its settings back in safe order.

A set is a mapping, kept as YAML::

    id: 20261122T021500Z-3f9a1c     # time and content
    controller: press_1
    taken: 2026-11-22T02:15:00Z
    profile: {name: multi_sonicator_io, digest: 1f0c...}
    version: 1.0.0                  # null where the firmware tells none
    settings: {NAME: VALUE, ...}    # in restore order
    images:                         # null before the chip was ever read
      flash: <sha256 of the object>
      eeprom: <sha256>
      fuses: {lfuse: 255, hfuse: 217}
      signature: 1E9502
      read: 2026-11-22T02:14:00Z    # when the chip itself was read
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .device import Device
from .errors import ProfileError
from .programmer import Readback
from .store import Store, StoreError, now

Set = dict[str, Any]


def images_of(store: Store, readback: Readback) -> dict[str, Any]:
    """Keep what was read from a chip; returns a set's ``images``."""
    return {
        "flash": store.put(readback.flash),
        "eeprom": store.put(readback.eeprom),
        "fuses": dict(readback.fuses),
        "signature": readback.signature,
        "read": now(),
    }


def compose(device: Device, version: str | None, settings: Mapping[str, Any], images: Mapping[str, Any] | None) -> Set:
    """The set of these parts; its id tells time and content."""
    taken = now()
    body: Set = {
        "controller": device.name,
        "taken": taken,
        "profile": {"name": device.profile.name, "digest": device.profile.digest},
        "version": version,
        "settings": dict(settings),
        "images": dict(images) if images else None,
    }
    return {"id": f"{taken.replace('-', '').replace(':', '')}-{_content_digest(body)[:6]}", **body}


def _content_digest(data: Mapping[str, Any]) -> str:
    """Identifies what a set says about the controller, whenever it was taken or read."""
    images = data["images"]
    said = {
        "controller": data["controller"],
        "profile": data["profile"],
        "version": data["version"],
        "settings": data["settings"],
        "images": {key: value for key, value in images.items() if key != "read"} if images else None,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def keep(store: Store, new: Set, check: bool = False) -> tuple[Set, bool]:
    """Keep ``new`` unless the newest set says the same; returns the set that holds it, and whether it is new.

    With ``check`` nothing is written.

    The older one stays as it is: a run that changes nothing must not push out what was there before the last change.
    """
    ids = store.set_ids(new["controller"])
    if ids:
        newest = store.load_set(new["controller"], ids[-1])
        if _content_digest(newest) == _content_digest(new):
            return newest, False
    if not check:
        store.save_set(new["controller"], new)
    return new, True


def from_line(device: Device, store: Store) -> Set:
    """A set read over the line now; it refers to the images last read, unless the device tells another version now."""
    version = device.identity().version
    settings = device.settings()
    record = store.record(device.name)
    return compose(device, version, settings, record.get("images") if record.get("version") == version else None)


def find(store: Store, name: str, wanted: str) -> Set:
    """The set ``wanted`` of a controller: an id, ``latest``, or ``previous``.

    ``latest`` is the newest of a controller that ran. What was read from a chip that said nothing, such as a blank one
    before it got its firmware, is taken by its id, or where there is nothing else.

    ``previous`` is the one that the last deployment of a release kept before it wrote. Going back to it does not make
    it another: a second rollback finds the controller where it should be.
    """
    ids = store.set_ids(name)
    if not ids:
        raise StoreError(
            f"controller {name}: no set is kept in {store.controller(name)}; take one with snapshot.yml first"
        )
    if wanted == "latest":
        newest_first = (store.load_set(name, set_id) for set_id in reversed(ids))
        ran = next((one for one in newest_first if one.get("version") or one.get("settings")), None)
        return ran or store.load_set(name, ids[-1])
    if wanted != "previous":
        return store.load_set(name, wanted)
    under_way = store.journal(name).steps
    for steps in [under_way, *store.ended(name)] if under_way else store.ended(name):
        saved = next((step["set"] for step in steps if step["step"] == "saved"), None)
        is_deployment = steps[0]["target"]["digest"] and not steps[0]["target"]["set"]
        if is_deployment and (steps is under_way or steps[-1].get("outcome") == "deployed"):
            if saved is None:
                break
            return store.load_set(name, saved)
    raise StoreError(f"controller {name}: no deployment kept a set to go back to; name a set, or deploy a version")


def restore(device: Device, settings: Mapping[str, Any], hold: Mapping[str, Any] | None = None) -> list[str]:
    """Write those ``settings`` that differ, in the profile's restore order; returns the names written.

    Points named in ``hold`` are left for the caller: they keep starts out until everything else is in place.
    ProfileError, before anything is written, where the profile does not know a setting or admit its value.
    """
    order = [point.name for point in device.profile.restorable]
    for name in settings:
        if name not in order:
            raise ProfileError(f"{name} belongs to no snapshot of profile {device.profile.name}; nothing was written")
    wanted = {name: settings[name] for name in order if name in settings and name not in (hold or {})}
    written = list(device.differences(wanted))
    for name in written:
        device.write(name, wanted[name])
    return written


def elsewhere(device: Device, store: Store, wanted: Set) -> list[str]:
    """What of the controller is not as in the set, though no setting can mend it, in words."""
    reasons = []
    version = device.identity().version
    if version != wanted["version"]:
        reasons.append(f"firmware is {version or 'unknown'}, the set's is {wanted['version'] or 'unknown'}")
    images = store.record(device.name).get("images") or {}
    for memory in ("flash", "eeprom"):
        if images and wanted["images"] and images[memory] != wanted["images"][memory]:
            reasons.append(f"{memory} was another when it was last read ({images['read']})")
    if reasons:
        reasons.append("rollback.yml brings firmware and EEPROM of a set back")
    return reasons

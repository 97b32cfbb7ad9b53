#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: firmware_repository
short_description: Publish, sign, revoke and renew the releases of a firmware repository
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - The repository is one of The Update Framework, a directory with C(metadata) and C(targets) that any web server or
    disk carries as it is.
  - Runs on the control node, whatever the host of the play is. Keys never leave it.
  - What lacks signatures of its threshold waits in the directory C(pending) until other key holders have signed it, and
    is seen by nobody before.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  idempotent:
    support: partial
    details: O(action=refresh) renews each time.
options:
  directory:
    description: Directory of the repository.
    type: path
    required: true
  action:
    description:
      - V(create) makes an empty repository.
      - V(publish) adds a release.
      - V(sign) adds signatures to what is pending.
      - V(revoke) withdraws a release; its version is never used again.
      - V(refresh) renews snapshot and timestamp, and what else the given keys sign for.
      - V(rotate) gives roles other keys or thresholds.
    type: str
    choices: [create, publish, sign, revoke, refresh, rotate]
    required: true
  keys:
    description: Files of private keys to sign with (ed25519 in PEM, mode 0600).
    type: list
    elements: path
    default: []
  passphrase:
    description: What these keys, and those in O(generate_keys), are encrypted with.
    type: str
  signers:
    description: Signers of securesystemslib to sign with as well, such as those of key vaults, with keys of ed25519.
    type: list
    elements: dict
    default: []
    suboptions:
      uri:
        description: URI of the signer.
        type: str
        required: true
      public:
        description: File of its public key (PEM).
        type: path
        required: true
      secret:
        description: The secret that it asks for.
        type: str
  generate_keys:
    description:
      - With O(action=create) a directory of keys, one for each role that O(roles) does not name. Those that are missing
        are made.
    type: path
  roles:
    description: Who signs for V(root), V(targets) (the releases), V(snapshot) and V(timestamp).
    type: dict
    default: {}
    suboptions:
      root: &role
        description: Who signs for this role.
        type: dict
        suboptions:
          keys:
            description: Files of the public keys (PEM).
            type: list
            elements: path
            required: true
          threshold:
            description: How many of them have to sign.
            type: int
            default: 1
      targets: *role
      snapshot: *role
      timestamp: *role
  expiry:
    description: With O(action=create) for how many days a signature counts, by role.
    type: dict
    default: {}
    suboptions:
      root:
        description: Days of the keys' own metadata.
        type: int
        default: 365
      targets:
        description: Days of the releases.
        type: int
        default: 90
      snapshot:
        description: Days of the snapshot.
        type: int
        default: 7
      timestamp:
        description: Days of the timestamp, and so of a bundle.
        type: int
        default: 7
  product:
    description: Product of the release to publish or revoke.
    type: str
    default: multi_sonicator_io
  version:
    description: Its version, as the firmware itself tells it.
    type: str
  image:
    description: Its image (Intel HEX).
    type: path
  counter:
    description: Its release counter, higher than any before. The next one when not given.
    type: int
  part:
    description: avrdude's name of the part that it is for.
    type: str
    default: m32
  hardware_revisions:
    description: Revisions of the board that it is for; any when empty.
    type: list
    elements: str
    default: []
  profile:
    description: Name of the device profile that it speaks.
    type: str
    default: multi_sonicator_io
  profile_min_version:
    description: Lowest version of that profile.
    type: int
    default: 1
  profile_max_version:
    description: Highest version of that profile; any when not given.
    type: int
  fuses:
    description: Fuses that the chip has to have, such as C(hfuse) with V(0xD9).
    type: dict
    default: {}
  notes:
    description: What people should know of the release.
    type: str
    default: ""
requirements:
  - tuf >= 7
  - securesystemslib >= 1.6
  - cryptography >= 48
seealso:
  - module: multi_sonicator.ops.firmware
  - module: multi_sonicator.ops.release_verifier
"""

EXAMPLES = r"""
- name: Make a repository with a key for each role
  multi_sonicator.ops.firmware_repository:
    directory: firmware
    action: create
    generate_keys: keys
    passphrase: "{{ vault_firmware_passphrase }}"

- name: Publish a release
  multi_sonicator.ops.firmware_repository:
    directory: firmware
    action: publish
    version: 1.2.0
    image: build/firmware-1.2.0.hex
    hardware_revisions: [C]
    keys: [keys/targets.pem, keys/snapshot.pem, keys/timestamp.pem]
    passphrase: "{{ vault_firmware_passphrase }}"

- name: Two of three people sign releases from now on
  multi_sonicator.ops.firmware_repository:
    directory: firmware
    action: rotate
    roles:
      targets: {keys: [keys/anna.pub, keys/ben.pub, keys/cleo.pub], threshold: 2}
    keys: [keys/root.pem, keys/anna.pem, keys/snapshot.pem, keys/timestamp.pem]
    passphrase: "{{ vault_firmware_passphrase }}"
"""

RETURN = r"""
waiting:
  description: Signatures that are missing before the change becomes visible, in words; empty when it is.
  returned: success
  type: list
  elements: str
repository:
  description: Releases, revoked ones, keys, versions, expiry (UTC) and what is pending, after the task.
  returned: success
  type: dict
  sample:
    releases:
      multi_sonicator_io/1.2.0.hex:
        counter: 3
        sha256: 2c0ce3b2ccbdc8e86971e35a31e028a874afb51573b37945091d6f35a8d7e614
    pending: {}
"""

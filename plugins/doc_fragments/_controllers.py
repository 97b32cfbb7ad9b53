# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that all modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the common options."""

    DOCUMENTATION = r"""
options:
  controllers:
    description: The controllers of this gateway, all in one call.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the controller, unique on its gateway.
        type: str
        required: true
      line:
        description:
          - The serial port of its line on the gateway, by a name that outlasts replugging, such as one in
            C(/dev/serial/by-id).
          - Or C(tcp://HOST:PORT) for a line behind a MODBUS/TCP gateway.
        type: str
        required: true
      unit:
        description: MODBUS unit id on that line, 1 to 247.
        type: int
        required: true
      programmer:
        description: The port of its ArduinoISP. Without one the firmware can be asked but not changed.
        type: str
      profile:
        description:
          - Name of its device profile, or a path to one.
          - A name is looked up in the directory C(profiles) beside the inventory and the playbook, then in the
            collection.
        type: str
        default: multi_sonicator_io
      settings:
        description: Desired values of its settings by point name, in engineering units.
        type: dict
        default: {}
      firmware_version:
        description: The firmware version that this controller should run, where it differs from the others'.
        type: str
      hardware_revision:
        description: Revision of its board, for releases that are made for some revisions only.
        type: str
      cell:
        description:
          - The process cell that it produces in, together with others of any gateway. A rollout leaves as many of them
            in service as the cell needs.
        type: str
      canary:
        description: Whether it belongs to the first wave of every rollout.
        type: bool
        default: false
  only:
    description:
      - Names of those controllers to work on; all of them without it, none with an empty list.
      - The others are still talked to where they share a line with one that is flashed, lest their firmware takes the
        silence for a lost master and stops production. List all controllers of a line for that reason.
    type: list
    elements: str
  profiles:
    description:
      - Resolved profiles by name. The action plugin of each module fills this in on the control node.
    type: dict
    default: {}
  state_directory:
    description: Where the gateway keeps snapshots, images, records and journals.
    type: path
    default: /var/lib/multi_sonicator
  lock_directory:
    description: Where lock files for programmer ports lie.
    type: path
    default: /run/lock
requirements:
  - python >= 3.11
  - python3-serial (Debian package) for serial lines
  - python3-yaml (Debian package)
  - python3-pymodbus (Debian package) for lines behind MODBUS/TCP
"""

    DRAIN = r"""
options:
  drain:
    description:
      - What to do when units of a controller run.
      - V(refuse) leaves the controller alone and fails.
      - V(wait) keeps new starts out and waits until its units have come to rest by themselves.
      - V(stop) stops them.
    type: str
    choices: [refuse, wait, stop]
    default: refuse
  drain_deadline:
    description: Longest time to wait for rest under O(drain=wait), in seconds.
    type: float
    default: 600.0
  boot_deadline:
    description: Longest time from the end of programming to the first answer, in seconds. The profile's when not given.
    type: float
  programmer_deadline:
    description: Longest time of one call of avrdude, in seconds. Derived from the sizes of the memories when not given.
    type: float
requirements:
  - avrdude (Debian package)
"""

    APPROVALS = r"""
options:
  approvals:
    description:
      - Directory on the control node with requests that people have approved, each beside its signatures
        (C(REQUEST.json), C(REQUEST.json.NAME.sig)). The gateway verifies them itself.
    type: path
  approved:
    description: Those requests. The action plugin fills this in on the control node.
    type: list
    elements: dict
    default: []
    suboptions:
      file:
        description: Path of the request on the control node.
        type: str
        required: true
      request:
        description: Its text.
        type: str
        required: true
      signatures:
        description: Texts of its signatures.
        type: list
        elements: str
        default: []
  approvers_file:
    description:
      - File on the gateway that says who may approve, as the C(allowed_signers) of ssh-keygen. Without it nothing needs
        approval.
      - The file at the usual place counts wherever this leads.
    type: path
    default: /etc/multi_sonicator/approvers
requirements:
  - openssh-client (Debian package) where approvals are needed
"""

    RELEASES = r"""
options:
  releases:
    description: Releases that nobody has signed, as M(multi_sonicator.ops.firmware) is going to get them.
    type: list
    elements: dict
    default: []
    suboptions:
      version:
        description: Version of the release, as the firmware itself tells it.
        type: str
        required: true
      image:
        description: Path of the image (Intel HEX) on the control node.
        type: str
        required: true
      sha256:
        description: SHA-256 of that file, 64 hexadecimal digits.
        type: str
        required: true
      part:
        description: avrdude's name of the part that the image is for. Controllers with another part are refused.
        type: str
      content:
        description: Text of the image. The action plugin fills this in on the control node.
        type: str
  version:
    description:
      - The version to bring those controllers to that name none of their own in O(controllers[].firmware_version).
    type: str
"""

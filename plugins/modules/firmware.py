#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: firmware
short_description: Bring controllers to a firmware, prove it on the device, roll back what does not come up
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - "One transaction for each controller: read truth, verify the image, snapshot once, drain, flash and verify,
    prove a new boot, prove health for the soak time, restore settings, compare, release."
  - On any failure after the first write the previous image, EEPROM and settings go back, and the controller is reported
    as rolled back, which is a failure.
  - Every step is journalled on the gateway first. An interrupted run is finished or undone by the next one.
  - Lines are worked on in parallel, the controllers of one line in turn, while its other controllers hear from the
    gateway at least every 0.5 s.
  - A controller that already runs the wanted firmware, by its own word and the gateway's record, is left alone.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
  - multi_sonicator.ops._controllers
  - multi_sonicator.ops._controllers.drain
  - multi_sonicator.ops._controllers.approvals
  - multi_sonicator.ops._controllers.releases
options:
  repository:
    description:
      - The firmware repository that has the releases, a directory on the control node or an C(https) URL.
      - The control node verifies what it offers and carries it over; the gateway verifies it again with its own root of
        trust before any controller is asked.
    type: str
  trusted_root:
    description:
      - The root of trust of the control node, the C(root.json) that the publisher handed out. Required with
        O(repository).
    type: path
  repository_cache:
    description:
      - Directory on the control node that holds what was verified before, so that nothing older is taken again.
    type: path
    default: ~/.cache/multi_sonicator
  offered:
    description: Files of the repository by their names. The action plugin fills this in on the control node.
    type: dict
    default: {}
  product:
    description: Product of the repository that the controllers are.
    type: str
    default: multi_sonicator_io
  trust_directory:
    description:
      - Where the gateway has its root of trust and its verifier. The role P(multi_sonicator.ops.firmware_trust#role)
        brings them.
    type: path
    default: /etc/multi_sonicator/trust
  allow_downgrade:
    description: Take a release whose counter is lower than that of the one that was deployed last.
    type: bool
    default: false
  allow_unsigned:
    description:
      - Take O(releases), which nobody has signed.
      - Where the gateway has O(approvers_file), flashing one needs approval as well.
    type: bool
    default: false
  releases:
    description:
      - Releases that nobody has signed, known by their digests only. Refused unless O(allow_unsigned). Not
        looked at with O(repository).
  set:
    description:
      - Instead of a version, a kept set whose flash, EEPROM and settings are to come back.
      - Its id, or V(previous) for the one that the last deployment of a version kept.
    type: str
  soak:
    description: How long health must hold after the start, in seconds. The profile's when not given.
    type: float
  rollback:
    description: Whether the previous firmware goes back when the new one fails.
    type: bool
    default: true
  flash_silent:
    description: Flash a controller that does not answer at all. Its settings can then not be kept.
    type: bool
    default: false
  read_chip:
    description:
      - Go by what the chip holds now, read in the transaction, and not by what was last read from it. For a board that
        may be another one, or has lost something; with units at rest, and also where nothing is to be written.
    type: bool
    default: false
  write_fuses:
    description:
      - Write the fuses of the O(set) where the chip has others, for a chip that replaces another. They have to be
        within the profile's policy.
    type: bool
    default: false
  max_failures:
    description: After so many failures on this gateway no further controller is begun.
    type: int
    default: 1
  progress_file:
    description:
      - Where on the gateway the run tells what it does. The control node's half of this module sets it, shows what it
        reads there while the run lasts, and removes the file afterwards.
    type: path
  rollout:
    description:
      - The rollout that this run belongs to, C(directory) and C(id) as M(multi_sonicator.ops.rollout) has them. The
        control node's half tells it of failures as they happen, and begins no more controllers when it has to stop.
    type: dict
seealso:
  - module: multi_sonicator.ops.approval
  - module: multi_sonicator.ops.firmware_info
  - module: multi_sonicator.ops.snapshot
"""

EXAMPLES = r"""
- name: Bring all controllers to a release
  multi_sonicator.ops.firmware:
    controllers: "{{ controllers }}"
    version: 1.1.0
    repository: https://firmware.example/multi_sonicator
    trusted_root: files/root.json

- name: Bring one to an image from the workbench
  multi_sonicator.ops.firmware:
    controllers: "{{ controllers }}"
    only: [press_1]
    version: 1.2.0
    allow_unsigned: true
    releases:
      - version: 1.2.0
        image: files/firmware-1.2.0.hex
        sha256: 0d8f4c2f6b9d5c1c7b7a2f5b9c3e8d1a4f6e7b8c9d0e1f2a3b4c5d6e7f8091a2

- name: Bring them back to what ran before
  multi_sonicator.ops.firmware:
    controllers: "{{ controllers }}"
    set: previous
"""

RETURN = r"""
controllers:
  description: One entry for each controller, in the order given.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the controller.
      type: str
      sample: press_1
    line:
      description: Its line, as given.
      type: str
      sample: /dev/serial/by-id/usb-FTDI_USB-RS485_A1-if00-port0
    unit:
      description: Its unit on that line.
      type: int
      sample: 2
    outcome:
      description:
        - C(unchanged), C(deployed), C(restored), C(rolled_back), C(refused), C(failed) or C(skipped).
        - In check mode C(would_deploy), C(would_restore) or C(would_resume).
      type: str
      sample: deployed
    changed:
      description: Whether the firmware or settings of the controller were changed, or would be in check mode.
      type: bool
    before:
      description: Version told and SHA-256 of the flash before, as far as they were known.
      type: dict
      sample: {version: 1.0.0, digest: null}
    after:
      description: The same afterwards, or expected in check mode.
      type: dict
    settings_restored:
      description: Names of the settings that were written back.
      type: list
      elements: str
    set:
      description: Id of the set that holds the state before.
      type: str
    image:
      description: SHA-256 of the flash's content that was to be, without trailing erased bytes.
      type: str
    content:
      description: What the controller runs and is set to now, as M(multi_sonicator.ops.snapshot) returns it.
      returned: when firmware or settings were changed
      type: dict
    transaction:
      description: Id of the transaction.
      type: str
    seconds:
      description: How long it took.
      type: float
    approval:
      description: Who approved it, C(by), the C(reason), and the request by its C(id) and when it C(expires).
      returned: when it needed approval
      type: dict
      sample: {by: [alice, bob], reason: Cooling was mended, id: 0b7f, expires: "2026-11-25T22:00:00Z"}
    skipped:
      description: Set where the controller was not begun after the failures of others.
      returned: when skipped
      type: bool
    failed:
      description: Whether the controller does not run the wanted firmware.
      type: bool
    msg:
      description: What was done and proven, or why it failed.
      type: str
"""

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.gateway import Gateway, Result
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.operations import change_firmware
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.targets import (
    from_releases,
    from_repository,
    from_sets,
)
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.trust import Trust
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import (
    APPROVALS,
    DRAIN,
    RELEASE,
    ControllerModule,
)


def main() -> None:
    """Run the module."""
    module = ControllerModule(
        {
            "repository": {"type": "str"},
            "trusted_root": {"type": "path"},
            "repository_cache": {"type": "path", "default": "~/.cache/multi_sonicator"},
            "offered": {"type": "dict", "default": {}},
            "product": {"type": "str", "default": "multi_sonicator_io"},
            "trust_directory": {"type": "path", "default": "/etc/multi_sonicator/trust"},
            "allow_downgrade": {"type": "bool", "default": False},
            "allow_unsigned": {"type": "bool", "default": False},
            "releases": {"type": "list", "elements": "dict", "default": [], "options": RELEASE},
            "version": {"type": "str"},
            "set": {"type": "str"},
            "soak": {"type": "float"},
            "rollback": {"type": "bool", "default": True},
            "flash_silent": {"type": "bool", "default": False},
            "read_chip": {"type": "bool", "default": False},
            "write_fuses": {"type": "bool", "default": False},
            "max_failures": {"type": "int", "default": 1},
            "progress_file": {"type": "path"},
            "rollout": {"type": "dict"},
            **DRAIN,
            **APPROVALS,
        },
        mutually_exclusive=[("version", "set"), ("repository", "set")],
        required_by={"repository": ["trusted_root"]},
    )
    params = module.params

    def work(gateway: Gateway) -> list[Result]:
        if params["set"]:
            targets = from_sets(gateway, params["set"])
        elif params["repository"]:
            trust = Trust(params["trust_directory"], params["state_directory"])
            targets = from_repository(
                gateway,
                trust,
                params["offered"],
                params["product"],
                params["version"],
                params["allow_downgrade"],
                module.check_mode,
            )
        else:
            targets = from_releases(gateway, params["releases"], params["version"], params["allow_unsigned"])
        return change_firmware(gateway, targets, module.policy(), params["max_failures"], module.check_mode)

    module.run(work)


if __name__ == "__main__":
    main()

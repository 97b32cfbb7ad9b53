#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: snapshot
short_description: Keep the state of controllers as consistent sets
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Keeps settings, firmware version and the digests of flash, EEPROM and fuses of each controller as one set on the
    gateway, as YAML beside the images.
  - Reads the line only and refers to the images as they were last read from the chip, unless O(read_chip) is set.
  - A state that is the same as that of the newest set keeps that set as it is.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
  - multi_sonicator.ops._controllers
  - multi_sonicator.ops._controllers.drain
attributes:
  diff_mode:
    support: none
    details: Nothing on a controller changes.
options:
  read_chip:
    description:
      - Read flash, EEPROM and fuses now, as a transaction that drains the controller first and puts its settings back
        afterwards. Resets the controller.
    type: bool
    default: false
seealso:
  - module: multi_sonicator.ops.restore
"""

EXAMPLES = r"""
- name: Keep the present settings
  multi_sonicator.ops.snapshot:
    controllers: "{{ controllers }}"
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
    changed:
      description: Whether a new set was kept, or would be in check mode.
      type: bool
    set:
      description: Id of the set that holds the present state.
      type: str
      sample: 20261122T021500Z-3f9a1c
    content:
      description: The set.
      type: dict
      contains:
        id:
          description: Its id, from time and content.
          type: str
        controller:
          description: Name of the controller.
          type: str
        taken:
          description: When, in UTC.
          type: str
          sample: "2026-11-22T02:15:00Z"
        profile:
          description: Name and digest of the profile.
          type: dict
        version:
          description: Firmware version that the device told; none where the firmware tells none.
          type: str
        settings:
          description: Engineering values by point name, in restore order.
          type: dict
        images:
          description: Digests of flash and EEPROM, fuses, signature and time of the reading; none before the first one.
          type: dict
    outcome:
      description: How the transaction ended, as M(multi_sonicator.ops.firmware) tells it, or C(read) or C(would_read).
      returned: when O(read_chip) failed
      type: str
      sample: read
    before:
      description: Version told and SHA-256 of the flash before, as far as they were known.
      returned: when O(read_chip) failed
      type: dict
    after:
      description: The same afterwards.
      returned: when O(read_chip) failed
      type: dict
    settings_restored:
      description: Names of the settings that were written back.
      returned: when O(read_chip) failed
      type: list
      elements: str
    transaction:
      description: Id of the transaction.
      returned: when O(read_chip) failed
      type: str
    seconds:
      description: How long it took.
      returned: when O(read_chip) failed
      type: float
    failed:
      description: Whether no set could be taken.
      type: bool
    msg:
      description: What was done or why it failed.
      type: str
"""

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.operations import take_snapshots
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import DRAIN, ControllerModule


def main() -> None:
    """Run the module."""
    module = ControllerModule({"read_chip": {"type": "bool", "default": False}, **DRAIN})
    read_chip = module.params["read_chip"]
    module.run(lambda gateway: take_snapshots(gateway, read_chip, module.policy(), module.check_mode))


if __name__ == "__main__":
    main()

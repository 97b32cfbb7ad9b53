#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: firmware_info
short_description: Tell which firmware controllers run, and on which evidence
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Asks firmware version, uptime and health over the line, and adds what the gateway recorded when it last read the
    chip, with its age.
  - The programmer is touched under O(read_chip) only, because programming mode holds the controller in reset.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.info
  - multi_sonicator.ops._controllers
  - multi_sonicator.ops._controllers.drain
options:
  read_chip:
    description:
      - Read signature, fuses, flash and EEPROM through the programmer, as a transaction that drains the controller
        first and puts its settings back afterwards. Resets the controller.
      - Not done in check mode.
    type: bool
    default: false
seealso:
  - module: multi_sonicator.ops.firmware
"""

EXAMPLES = r"""
- name: Ask every controller, without disturbing any
  multi_sonicator.ops.firmware_info:
    controllers: "{{ controllers }}"
  register: firmware

- name: Read the chips of controllers whose units are at rest
  multi_sonicator.ops.firmware_info:
    controllers: "{{ controllers }}"
    read_chip: true
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
      description: Never set, since a chip that was read is left as it was.
      type: bool
    version:
      description: Firmware version as the device tells it now; none where the firmware tells none.
      type: str
      sample: 1.1.0
    uptime:
      description: Seconds since the last start as the device tells them now.
      type: float
    healthy:
      description: Whether all health conditions of the profile hold now.
      type: bool
    health:
      description: Those that do not, in words.
      type: list
      elements: str
    at_rest:
      description: Whether no unit runs.
      type: bool
    profile:
      description: Name of its profile.
      type: str
      sample: multi_sonicator_io
    fingerprint:
      description: In which points the device differs from its profile's fingerprint, in words.
      type: list
      elements: str
    last_reading:
      description: What the gateway recorded when the chip was last read or written; none before the first time.
      type: dict
      contains:
        flash:
          description: SHA-256 of the flash without trailing erased bytes.
          type: str
        eeprom:
          description: SHA-256 of the EEPROM.
          type: str
        signature:
          description: Signature of the chip.
          type: str
          sample: 1E9502
        fuses:
          description:
            - Each fuse by name, with C(value), C(programmed) (names of the bits that are 0), C(wanted), and C(accepted)
              (whether the profile's policy accepts the value).
          type: dict
          sample: {lfuse: {value: "0xFF", programmed: [], wanted: "0xFF", accepted: true}}
        time:
          description: When, in UTC.
          type: str
        age:
          description: Seconds since then.
          type: int
        proof:
          description: Whether the chip was read back, or written and verified.
          type: str
        programmer:
          description: The programmer's port.
          type: str
        current:
          description: Whether the device still tells the version of that reading.
          type: bool
    open_transaction:
      description: Id of an interrupted firmware transaction that the next run finishes.
      type: str
    last_transaction:
      description: The last one that has ended; none before the first.
      type: dict
      contains:
        transaction:
          description: Its id.
          type: str
        time:
          description: When it ended, in UTC.
          type: str
        outcome:
          description: How it ended.
          type: str
          sample: deployed
    outcome:
      description: How the transaction ended, as M(multi_sonicator.ops.firmware) tells it, or C(read) or C(would_read).
      returned: with O(read_chip)
      type: str
      sample: read
    before:
      description: Version told and SHA-256 of the flash before, as far as they were known.
      returned: with O(read_chip)
      type: dict
    after:
      description: The same afterwards.
      returned: with O(read_chip)
      type: dict
    settings_restored:
      description: Names of the settings that were written back.
      returned: with O(read_chip)
      type: list
      elements: str
    set:
      description: Id of the set that holds the state before.
      returned: with O(read_chip)
      type: str
    transaction:
      description: Id of the transaction.
      returned: with O(read_chip)
      type: str
    seconds:
      description: How long it took.
      returned: with O(read_chip)
      type: float
    failed:
      description: Whether the controller could not be asked.
      type: bool
    msg:
      description: Why not.
      type: str
"""

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.operations import identify
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import DRAIN, ControllerModule


def main() -> None:
    """Run the module."""
    module = ControllerModule({"read_chip": {"type": "bool", "default": False}, **DRAIN})
    read_chip = module.params["read_chip"]
    module.run(lambda gateway: identify(gateway, read_chip, module.policy(), module.check_mode))


if __name__ == "__main__":
    main()

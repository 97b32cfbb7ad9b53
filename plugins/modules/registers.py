#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: registers
short_description: Bring registers of controllers to desired values
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Reads, compares, writes only what differs, and reads every written register back.
  - Before the first write the device must show the fingerprint of its profile.
  - Nothing is sent to any controller when a value of one of them is unknown, read-only or out of range.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
  - multi_sonicator.ops._controllers
  - multi_sonicator.ops._controllers.approvals
options:
  values:
    description:
      - Desired values by point name, in engineering units, for all controllers of the call.
      - They override the O(controllers[].settings) of the single controllers.
    type: dict
    default: {}
  allow:
    description:
      - Points of class command or emergency that may be written in this call, each by its name.
      - Settings need no permission.
      - Where the gateway has O(approvers_file), a value of class emergency that does not stop needs approval as well.
    type: list
    elements: str
    default: []
seealso:
  - module: multi_sonicator.ops.approval
  - module: multi_sonicator.ops.registers_info
  - module: multi_sonicator.ops.restore
"""

EXAMPLES = r"""
- name: Bring every controller to the settings of the inventory
  multi_sonicator.ops.registers:
    controllers: "{{ controllers }}"

- name: Start the first sonicator, a command and therefore named twice
  multi_sonicator.ops.registers:
    controllers: "{{ controllers }}"
    values:
      sonicator1_start_stop: 1
    allow: [sonicator1_start_stop]

- name: Clear an emergency stop, which several people have approved where the gateway asks for it
  multi_sonicator.ops.registers:
    controllers: "{{ controllers }}"
    only: [press_1]
    values:
      emergency_stop: 0
    allow: [emergency_stop]
    approvals: ~/.local/state/multi_sonicator/approvals
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
      description: Whether a register was written, or would be in check mode.
      type: bool
    before:
      description: Engineering values found, by point name.
      type: dict
      sample: {sonicator1_amplitude: 50}
    after:
      description: Engineering values read back after the writes, or expected in check mode.
      type: dict
      sample: {sonicator1_amplitude: 60}
    written:
      description: Names of the points written, in the order of writing.
      type: list
      elements: str
    approval:
      description: Who approved it, C(by), the C(reason), and the request by its C(id) and when it C(expires).
      returned: when it needed approval
      type: dict
      sample: {by: [alice, bob], reason: Cooling was mended, id: 0b7f, expires: "2026-11-25T22:00:00Z"}
    failed:
      description: Whether a register could not be read or did not take its value.
      type: bool
    msg:
      description: What was done or why it failed.
      type: str
"""

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.operations import write_registers
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import APPROVALS, ControllerModule


def main() -> None:
    """Run the module."""
    module = ControllerModule(
        {
            "values": {"type": "dict", "default": {}},
            "allow": {"type": "list", "elements": "str", "default": []},
            **APPROVALS,
        }
    )
    values, allow = module.params["values"], module.params["allow"]
    module.run(lambda gateway: write_registers(gateway, values, allow, module.check_mode))


if __name__ == "__main__":
    main()

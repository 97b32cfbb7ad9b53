#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: registers_info
short_description: Read registers of controllers in engineering units
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Reads named points or raw registers of any number of controllers in one call, by the fewest requests that their
    profiles allow.
  - Lines are read in parallel.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.info
  - multi_sonicator.ops._controllers
options:
  points:
    description: Names of the points to read. Without names and raw registers, all readable points.
    type: list
    elements: str
    default: []
  registers:
    description: Raw holding registers to read, beside or instead of named points.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description: The first register's address, from 0.
        type: int
        required: true
      count:
        description: How many registers.
        type: int
        default: 1
seealso:
  - module: multi_sonicator.ops.registers
"""

EXAMPLES = r"""
- name: Read power and frequency of the first sonicator
  multi_sonicator.ops.registers_info:
    controllers: "{{ controllers }}"
    points: [sonicator1_power, sonicator1_frequency]
  register: reading

- name: Read two raw registers
  multi_sonicator.ops.registers_info:
    controllers: "{{ controllers }}"
    registers:
      - {address: 0x0000, count: 2}
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
      description: Never set, since nothing is changed.
      type: bool
    points:
      description: Engineering values by point name; a list of names for bit fields, a name for enumerations.
      type: dict
      sample: {sonicator1_power: 244.38}
    units:
      description: Units of measure of those points that have one.
      type: dict
      sample: {sonicator1_power: W}
    registers:
      description: Raw registers by hexadecimal address, 0 to 65535.
      type: dict
      sample: {"0x0000": 1}
    failed:
      description: Whether the controller could not be read.
      type: bool
    msg:
      description: Why not.
      type: str
"""

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.operations import read_registers
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.plan import Span
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import ControllerModule


def main() -> None:
    """Run the module."""
    module = ControllerModule(
        {
            "points": {"type": "list", "elements": "str", "default": []},
            "registers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "address": {"type": "int", "required": True},
                    "count": {"type": "int", "default": 1},
                },
            },
        }
    )
    spans = [Span(span["address"], span["count"]) for span in module.params["registers"]]
    module.run(lambda gateway: read_registers(gateway, module.params["points"], spans))


if __name__ == "__main__":
    main()

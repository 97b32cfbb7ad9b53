#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: discovery_info
short_description: Tell what is plugged into a gateway
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Lists the serial ports of USB adapters with all their names, what they probably are and who uses them, and opens
    none for that.
  - Finds the controllers on lines under O(scan), and which programmer belongs to which of them under
    O(identify_programmers).
  - Returns the part of an inventory that follows from what was found.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.info
attributes:
  check_mode:
    details: Scans in check mode too, for this only reads, but asks no programmer.
options:
  ports:
    description:
      - Names of the ports to look at; those of all USB adapters without it.
      - A port that nothing tells the use of is scanned only when it is named here.
    type: list
    elements: str
    default: []
  programmers:
    description:
      - Names of ports that are programmers, where neither USB ids nor name tell so, as with copies of the Arduino Uno.
      - No programmer is ever scanned, for it takes some bytes of a scan as orders.
    type: list
    elements: str
    default: []
  scan:
    description:
      - Whether to ask for controllers on every line, by reads only and all lines at the same time.
      - A line that a process of the gateway uses, or that another master talks on, is left alone.
    type: bool
    default: false
  baudrates:
    description: Baud rates to ask at, without parity, after those of the profiles.
    type: list
    elements: int
    default: [9600, 19200, 38400, 57600, 115200]
  units:
    description:
      - Units to ask for, as numbers and ranges. Each entry is tried at every baud rate before the next one; once a unit
        has answered, at its baud rate only.
      - Controllers leave the factory as unit 2.
    type: list
    elements: str
    default: ["2", 1-247]
  deadline:
    description:
      - Longest time to ask on one line, in seconds; one second of listening comes before it.
      - A unit that does not answer takes 0.2 seconds, so that all units at one baud rate take about 50.
    type: float
    default: 120.0
  identify_programmers:
    description:
      - Whether to read the signature through each programmer and see which controller restarts. That resets the
        controller, which loses what its EEPROM does not keep; RV(controllers[].settings_lost) tells that.
      - No programmer is touched unless all lines were scanned to the end and all controllers on them are at rest.
    type: bool
    default: false
  candidates:
    description: Names of device profiles that controllers may have, the preferred one first.
    type: list
    elements: str
    default: [multi_sonicator_io, multi_sonicator_io_observed]
  profiles:
    description: Resolved profiles by name. The action plugin fills this in on the control node.
    type: dict
    default: {}
  lock_directory:
    description: Where lock files for programmer ports lie.
    type: path
    default: /run/lock
requirements:
  - python >= 3.11
  - python3-serial (Debian package), for O(scan)
  - avrdude (Debian package), for O(identify_programmers)
seealso:
  - module: multi_sonicator.ops.validation_info
"""

EXAMPLES = r"""
- name: List the ports
  multi_sonicator.ops.discovery_info:

- name: Look for controllers on the lines
  multi_sonicator.ops.discovery_info:
    scan: true
    units: ["1-16"]
  register: found

- name: Find out which programmer belongs to which controller, while production rests
  multi_sonicator.ops.discovery_info:
    scan: true
    identify_programmers: true
"""

RETURN = r"""
ports:
  description: The ports, in the order of their devices.
  returned: always
  type: list
  elements: dict
  contains:
    device:
      description: What the kernel calls it.
      type: str
      sample: /dev/ttyUSB0
    names:
      description: All its names.
      type: list
      elements: str
    name:
      description: The name for an inventory.
      type: str
      sample: /dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A10K7QZ1-if00-port0
    stable:
      description: What that name rests on, C(serial) or C(path); empty where it may lead to another port tomorrow.
      type: str
      sample: serial
    vendor:
      description: USB vendor id; empty where the gateway tells none, as are the following.
      type: str
      sample: "0403"
    product:
      description: USB product id.
      type: str
      sample: "6001"
    description:
      description: Maker and model as the device tells them, or the name that udev made of them.
      type: str
    serial:
      description: Serial number as udev tells it.
      type: str
      sample: A10K7QZ1
    path:
      description: Physical port as udev tells it.
      type: str
      sample: pci-0000:00:14.0-usb-0:1.1:1.0
    kind:
      description: C(line), C(programmer) or C(unknown).
      type: str
      sample: line
    evidence:
      description: Why.
      type: str
      sample: is an FTDI converter by its USB ids
    guess:
      description: Whether that is a guess.
      type: bool
    used_by:
      description: Processes that have it open or locked.
      type: list
      elements: str
    problem:
      description: Why it cannot be used, empty where it can.
      type: str
    scan:
      description:
        - What became of the scan, with C(complete), C(msg), C(noise) (units that answered with something invalid) and
          C(seconds).
      returned: with O(scan), for ports that are no programmers
      type: dict
    programmer:
      description: What asking it came to.
      returned: with O(identify_programmers), for programmers
      type: str
      sample: resets unit 2 on /dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A10K7QZ1-if00-port0
controllers:
  description: What answered.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: A name that depends on nothing but line and unit.
      type: str
      sample: line_a10k7qz1_unit_2
    line:
      description: Its line.
      type: str
    unit:
      description: Its unit.
      type: int
      sample: 2
    baudrate:
      description: The line's baud rate.
      type: int
      sample: 115200
    parity:
      description: The line's parity.
      type: str
      sample: N
    stopbits:
      description: The line's stop bits.
      type: int
      sample: 1
    profile:
      description: The first of O(candidates) that it fits; none where it fits none.
      type: str
      sample: multi_sonicator_io
    fits:
      description: All that it fits.
      type: list
      elements: str
    misfits:
      description: Why it does not fit the others, in words by profile.
      type: dict
    version:
      description: Its firmware version; none where it tells none.
      type: str
      sample: 1.1.0
    uptime:
      description: Seconds since its start; none where it tells none.
      type: float
    at_rest:
      description: Whether no unit ran and no emergency stop was latched; none where no profile fits.
      type: bool
    programmer:
      description: The programmer that resets it; none where that is not known.
      type: str
    settings_lost:
      description: Settings that asking its programmer brought back to their defaults, with their values of before.
      type: dict
notes:
  description: What a person has to know or to decide, in words.
  returned: always
  type: list
  elements: str
inventory:
  description: C(gateway_ports) and, where a line was scanned, C(controllers) as an inventory takes them.
  returned: always
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core import ports
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.discovery import Order, discover, parse_units
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.profile import Profile


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "ports": {"type": "list", "elements": "str", "default": []},
            "programmers": {"type": "list", "elements": "str", "default": []},
            "scan": {"type": "bool", "default": False},
            "baudrates": {"type": "list", "elements": "int", "default": [9600, 19200, 38400, 57600, 115200]},
            "units": {"type": "list", "elements": "str", "default": ["2", "1-247"]},
            "deadline": {"type": "float", "default": 120.0},
            "identify_programmers": {"type": "bool", "default": False},
            "candidates": {
                "type": "list",
                "elements": "str",
                "default": ["multi_sonicator_io", "multi_sonicator_io_observed"],
            },
            "profiles": {"type": "dict", "default": {}},
            "lock_directory": {"type": "path", "default": "/run/lock"},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        profiles = [Profile.from_mapping(data) for data in given["profiles"].values()]
        order = Order(profiles, given["baudrates"], parse_units(given["units"]), given["deadline"])
        answer = discover(
            ports.find(given["ports"], given["programmers"]),
            order if given["scan"] else None,
            given["identify_programmers"] and not module.check_mode,
            given["lock_directory"],
            Path(module.tmpdir, "avrdude"),
        )
    except CoreError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: restore
short_description: Put the settings of a set back
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Writes those settings that differ from a set, in the safe order of the profile, reads them back, and tells what
    else differs.
  - Firmware and EEPROM of a set come back by M(multi_sonicator.ops.firmware) with
    O(multi_sonicator.ops.firmware#module:set).
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
  - multi_sonicator.ops._controllers
options:
  set:
    description:
      - Its id, V(latest) for the newest of a controller that ran, or V(previous) for the one that the last deployment
        of a version kept.
    type: str
    default: latest
  names:
    description: The settings to put back, by their names in the profile; all of the set when empty.
    type: list
    elements: str
    default: []
seealso:
  - module: multi_sonicator.ops.snapshot
"""

EXAMPLES = r"""
- name: Put the settings of the newest set back
  multi_sonicator.ops.restore:
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
      description: Whether a setting was written, or would be in check mode.
      type: bool
    set:
      description: Id of the set.
      type: str
    before:
      description: Settings found.
      type: dict
    after:
      description: Settings read back after the writes, or expected in check mode.
      type: dict
    written:
      description: Names of the settings written.
      type: list
      elements: str
    differs:
      description: What else of the controller is not as in the set, in words.
      type: list
      elements: str
    failed:
      description: Whether the set could not be put back.
      type: bool
    msg:
      description: What was done or why it failed.
      type: str
"""

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.operations import restore_settings
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import ControllerModule


def main() -> None:
    """Run the module."""
    module = ControllerModule(
        {
            "set": {"type": "str", "default": "latest"},
            "names": {"type": "list", "elements": "str", "default": []},
        }
    )
    params = module.params
    module.run(lambda gateway: restore_settings(gateway, params["set"], module.check_mode, params["names"]))


if __name__ == "__main__":
    main()

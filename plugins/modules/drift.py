#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find and accept what controllers are set to otherwise. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drift
short_description: Find what controllers are set to otherwise than they should be, and accept it into the inventory
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Compares what controllers are set to with their C(settings) in the inventory, and where these are silent with what
    the history has of them, and tells the differences.
  - Writes what was found into the files of the inventory, where people accept it. Only the values change there;
    comments, order and all else stay. What it cannot write that way it refuses as a whole, and says what to write by
    hand.
  - Runs on the control node, once for all gateways. The entry point C(drift) of the role
    P(multi_sonicator.ops.controllers#role) asks the controllers and puts back what is not accepted.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  diff_mode:
    support: full
    details: Shows the files of the inventory.
  idempotent:
    support: full
options:
  operation:
    description: V(find) tells what differs, V(accept) writes O(drift) into the inventory.
    type: str
    choices: [find, accept]
    default: find
  sets:
    description: By gateway a list of sets as M(multi_sonicator.ops.snapshot) returns them in C(content).
    type: dict
    default: {}
  compared:
    description:
      - By gateway what M(multi_sonicator.ops.registers) returned in C(controllers), in check mode and with the settings
        of the inventory.
    type: dict
    default: {}
  controllers:
    description: By gateway its C(controllers), as the inventory has them.
    type: dict
    default: {}
  history:
    description: Directory of the history; see M(multi_sonicator.ops.history). Only the inventory counts when empty.
    type: path
    default: ""
  drift:
    description: What to accept, as RV(drift).
    type: list
    elements: dict
    default: []
seealso:
  - module: multi_sonicator.ops.registers
  - module: multi_sonicator.ops.history
"""

EXAMPLES = r"""
- name: Accept what was found into the inventory
  multi_sonicator.ops.drift:
    operation: accept
    drift: "{{ found.drift }}"
"""

RETURN = r"""
drift:
  description: What differs.
  returned: with O(operation=find)
  type: list
  elements: dict
  contains:
    gateway:
      description: Name of the gateway.
      type: str
    controller:
      description: Name of the controller.
      type: str
    point:
      description: Name of the setting, or V(version), V(flash) or V(eeprom).
      type: str
      sample: sonicator1_amplitude
    found:
      description: What the controller has.
      type: raw
    expected:
      description: What it should have.
      type: raw
    source:
      description: What says so, V(inventory) or V(history).
      type: str
    setting:
      description: Whether it is a setting, which can be accepted or put back.
      type: bool
put_back:
  description: By gateway its controllers with the settings that they should have, where any has another one.
  returned: with O(operation=find)
  type: dict
files:
  description: The files of the inventory that were changed, or would be in check mode.
  returned: with O(operation=accept)
  type: list
  elements: str
"""

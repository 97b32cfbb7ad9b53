#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold a recovery drill. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: recovery_drill
short_description: Choose what a recovery drill brings back, and judge whether it came back
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - The role P(multi_sonicator.ops.recovery_drill#role) brings controllers back from their backups onto boards that this
    module makes. It works on the variables that the role registers and is of little use without them.
  - Runs on the control node, once for all gateways. No gateway and no controller of the site has any part in it.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  check_mode:
    support: partial
    details: V(prepare) tells what it would choose and makes nothing. V(judge) belongs to a drill that is held.
  diff_mode:
    support: none
    details: Nothing of the site changes.
  idempotent:
    support: none
    details: Each drill is another one.
options:
  operation:
    description:
      - V(choose) tells which gateway was proven longest ago, for it to come back on a spare host.
      - V(prepare) chooses the controllers that were proven longest ago, and makes a factory-fresh board for each.
      - V(judge) compares registers, flash, EEPROM and fuses with the set, takes what was otherwise on the spare host,
        keeps the result, and tells the audit log.
    type: str
    required: true
    choices: [choose, prepare, judge]
  gateways:
    description: The hosts of the play.
    type: list
    elements: str
    required: true
  results:
    description: The directory on the control node where results are kept.
    type: path
    required: true
  sample:
    description: How many controllers, all with V(0).
    type: int
    default: 0
  directory:
    description: Where the boards are made, in a directory of their own. Required for V(prepare).
    type: path
  drill:
    description: What V(prepare) returned. Required for V(judge).
    type: dict
  new:
    description:
      - What of a gateway is another on each host, and so no failure. Paths, or V(package) and the name of one, with
        V(*) and V(?) for whatever there is.
    type: list
    elements: str
    default: []
  metrics:
    description: A directory of node-exporter's textfile collector on the control node; none when empty.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Choose four controllers
  multi_sonicator.ops.recovery_drill:
    operation: prepare
    gateways: "{{ ansible_play_hosts_all }}"
    results: ~/.local/state/multi_sonicator/drills
    directory: /tmp
    sample: 4
  register: drill
  run_once: true
"""

RETURN = r"""
gateway:
  description: The gateway that is to come back.
  returned: choose
  type: str
  sample: hall_a
directory:
  description: The directory that the boards are in.
  returned: prepare
  type: str
  sample: /tmp/drill.20261126T021500Z
started:
  description: When it began, in UTC.
  returned: prepare
  type: str
  sample: "2026-11-26T02:15:00Z"
began:
  description: The same in seconds since 1970.
  returned: prepare
  type: float
names:
  description: The chosen controllers, by gateway.
  returned: prepare
  type: dict
  sample: {hall_a: [press_1]}
controllers:
  description: All controllers as the inventory has them, by gateway.
  returned: prepare
  type: dict
boards:
  description: The boards, as controllers of an inventory, by gateway.
  returned: prepare
  type: dict
path:
  description: The file with the result.
  returned: judge
  type: str
outcome:
  description: Whether everything came back.
  returned: judge
  type: str
  sample: passed
problems:
  description: What did not, in words.
  returned: judge
  type: list
  elements: str
msg:
  description: The result in one line.
  returned: judge
  type: str
  sample: "recovery drill 20261126T021500Z passed: 4 controllers, recovery time 41 s, recovery point 3600 s before"
"""

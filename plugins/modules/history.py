#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who changed what of which controller, and when. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: history
short_description: Record what controllers are set to, and show who changed what
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Keeps firmware version, profile and settings of controllers as YAML in a git repository on the control node, with a
    commit for each change of a controller that says who ran the playbook and why.
  - Runs on the control node and needs git there.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  diff_mode:
    support: none
    details: RV(changes) tells the differences.
  idempotent:
    support: full
options:
  operation:
    description: V(record) commits what O(sets) have changed, V(show) tells what was committed.
    type: str
    choices: [record, show]
    default: show
  directory:
    description: The repository, made when something is recorded first.
    type: path
    required: true
  sets:
    description: By gateway a list of sets as M(multi_sonicator.ops.snapshot) returns them in C(content).
    type: dict
    default: {}
  reason:
    description: Why, for whoever reads it later.
    type: str
    default: ""
  rollout:
    description: The rollout that it belongs to.
    type: str
    default: ""
  since:
    description: The first moment to show in ISO 8601, such as V(2026-11-01) or V(2026-11-01T14:30).
    type: str
    default: ""
  up_to:
    description: The last one; a day belongs to it whole.
    type: str
    default: ""
  gateways:
    description: Show these only.
    type: list
    elements: str
    default: []
  controllers:
    description: Show these only.
    type: list
    elements: str
    default: []
seealso:
  - module: multi_sonicator.ops.snapshot
  - module: multi_sonicator.ops.audit_info
"""

EXAMPLES = r"""
- name: Show what was changed this month
  multi_sonicator.ops.history:
    directory: ~/.local/state/multi_sonicator/history
    since: 2026-11-01
"""

RETURN = r"""
changes:
  description: What was changed, newest first; with O(operation=record) what was recorded, or would be in check mode.
  returned: always
  type: list
  elements: dict
  contains:
    gateway:
      description: Name of the gateway.
      type: str
      sample: gateway_a
    controller:
      description: Name of the controller.
      type: str
      sample: press_1
    what:
      description: Each value, with what it was before.
      type: list
      elements: str
      sample: ["sonicator1_amplitude: 60 → 50"]
    reason:
      description: Why.
      type: str
    rollout:
      description: The rollout that it belongs to.
      type: str
    audit:
      description:
        - Number of the audit log's record of it. Empty for what this control node knows nothing of, such as a change
          at the device itself.
      type: str
      sample: "17"
    commit:
      description: Its commit; empty where it is not shown but recorded.
      type: str
    time:
      description: When it was recorded, in ISO 8601.
      type: str
    who:
      description: Who ran the playbook, and where.
      type: str
      sample: jo@laptop
"""

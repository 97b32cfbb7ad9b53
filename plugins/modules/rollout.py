#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan a rollout and say what comes next. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout
short_description: Plan a rollout and say what comes next
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Plans in which waves the controllers of all gateways are brought to a firmware, writes the plan down on the control
    node, and then says again and again what comes next, until all waves have gone through or a stop rule holds.
  - The entry points C(deploy) and C(rollback) of the role P(multi_sonicator.ops.controllers#role) do what it says. It
    works on the variables that they register and is of little use without them.
  - What it says rests on what has happened since, so that a run with the same O(id) goes on where another one ended,
    however that was.
  - Runs on the control node, once for all gateways.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  check_mode:
    details: The plan is made and shown, but not written down.
  diff_mode:
    support: none
    details: What would become of the controllers is shown by the tasks that work on them.
  idempotent:
    support: partial
    details: A plan is made once; what comes next depends on what has happened.
options:
  operation:
    description:
      - V(plan) makes a plan, or takes up the one with this O(id).
      - V(next) notes what became of the step before, waits as long as windows, soak, pause and approval demand, and
        says what to do.
      - V(request) is an operator's word to a rollout, from wherever its directory can be written.
      - V(show) tells plan, events, and what became of each controller.
    type: str
    required: true
    choices: [plan, next, request, show]
  directory:
    description: Where rollouts are written down on the control node.
    type: path
    required: true
  id:
    description: Name of the rollout. With O(operation=plan) a new one gets a name by itself.
    type: str
    default: ""
  what:
    description: What the controllers are brought to, for people. A rollout goes on only with the same.
    type: str
    default: ""
  gateways:
    description:
      - The hosts of the play, with O(operation=plan).
      - With O(operation=next) those that have worked, or that could measure and can work now.
    type: list
    elements: str
    default: []
  only:
    description: Names of the controllers to choose from, with O(operation=plan); all that can be flashed when empty.
    type: list
    elements: str
    default: []
  policy:
    description:
      - How it goes, with O(operation=plan). Has C(canaries), C(waves), C(cells), C(cell_default), C(cell_patience),
        C(windows), C(soak), C(approve_before) and C(budget), as the role's variables document them.
    type: dict
    default: {}
  retry:
    description: Whether what failed is tried again, with O(operation=plan) of a rollout that exists.
    type: bool
    default: false
  previous:
    description: What RV(do) was before, with O(operation=next). It has been done by now.
    type: str
    default: ""
  approved:
    description: Waves that are approved by this run, or V(all).
    type: list
    elements: str
    default: []
  approval_deadline:
    description: Seconds to wait for an approval from elsewhere.
    type: float
    default: 0.0
  history:
    description:
      - The history in which to record what was worked on just now, with O(operation=next); see
        M(multi_sonicator.ops.history). None when empty.
    type: str
    default: ""
  reason:
    description: Why it is done, for the history.
    type: str
    default: ""
  request:
    description:
      - V(pause) begins nothing more until V(resume); V(stop) ends the run; V(abort) rolls the current wave back first,
        what ended last first; V(approve) approves the wave that waits for it.
      - What is being done to a controller is finished in any case.
    type: str
    choices: [pause, resume, stop, abort, approve]
seealso:
  - module: multi_sonicator.ops.firmware
"""

EXAMPLES = r"""
- name: Begin no more controllers until somebody has had a look
  multi_sonicator.ops.rollout:
    operation: request
    directory: ~/.local/state/multi_sonicator/rollouts
    id: 20261125T021500Z-1.1.0
    request: pause
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
id:
  description: Name of the rollout.
  returned: with O(operation=plan) and O(operation=next)
  type: str
  sample: 20261125T021500Z-1.1.0
plan:
  description: The plan as text, empty where there is nothing to do.
  returned: with O(operation=plan) and O(operation=show)
  type: str
unchanged:
  description: Controllers by gateway that have nothing to be done, each with C(name) and C(msg).
  returned: with O(operation=plan)
  type: dict
do:
  description: What to do now, V(measure), V(work), V(approval) (ask for one) or V(end).
  returned: with O(operation=next)
  type: str
controllers:
  description: Names of the controllers to measure or to work on, by gateway.
  returned: with O(operation=next)
  type: dict
gateways:
  description: What has a part in the measurement, or in the work that it may lead to, with RV(do=measure).
  returned: with O(operation=next)
  type: list
  elements: str
undo:
  description: Whether these go back to the set of before, since the rollout was aborted.
  returned: with O(operation=next)
  type: bool
wave:
  description: Number of the wave.
  returned: with O(operation=next)
  type: int
approval:
  description: Who approved the wave, empty where nobody needed to.
  returned: with O(operation=next)
  type: str
failed_rollout:
  description: Whether the rollout ended without having brought all controllers to where they should be.
  returned: with O(operation=next)
  type: bool
results:
  description:
    - What became of each member of the rollout, by gateway. Each has C(name), C(status), C(failed) and C(msg), and from
      the module P(multi_sonicator.ops.firmware#module) C(outcome), C(before), C(after), C(seconds), C(transaction)
      and C(set).
  returned: with O(operation=show), and with O(operation=next) at an end
  type: dict
report:
  description: Path of the report on the control node, a file for a browser. It is replaced by that of a later run.
  returned: with O(operation=next) at an end, and with O(operation=show) outside of check mode
  type: str
  sample: /home/jo/.local/state/multi_sonicator/rollouts/20261125T021500Z-1.1.0/report.html
events:
  description: All that has happened, oldest first, each with C(time) and C(event).
  returned: with O(operation=show)
  type: list
  elements: dict
"""

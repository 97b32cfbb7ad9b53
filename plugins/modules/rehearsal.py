#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rehearse a rollout on a virtual twin. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rehearsal
short_description: Draw up a site's virtual twin, judge what a rollout did to it, and require that this was done
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - The role P(multi_sonicator.ops.rehearsal#role) builds the twin that this module draws up, and rolls out on it. It
    works on the variables that the role registers and is of little use without them.
  - With O(operation=require) it fails unless a valid result admits what the role
    P(multi_sonicator.ops.controllers#role) is about to do.
  - Runs on the control node, once for all gateways.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  check_mode:
    support: partial
    details: V(prepare) and V(require) say the same and make nothing. The others belong to a twin that is there.
  diff_mode:
    support: none
    details: What becomes of controllers is shown by the tasks that work on them.
  idempotent:
    support: none
    details: Each rehearsal is another one.
options:
  operation:
    description:
      - V(prepare) draws up the twin, with the inventory's controllers on lines and programmers of its own.
      - V(seed) puts the memories of its boards to where an act begins.
      - V(judge) tells what became of an act, by the rollout's events and by what the boards hold and tell.
      - V(remove) removes the twin, whose boards were stopped before.
      - V(record) signs the result and keeps it.
      - V(require) fails unless a result is signed, passed, not expired, and of exactly what is to be done now. Where
        nothing is to be done it needs none.
    type: str
    required: true
    choices: [prepare, seed, judge, remove, record, require]
  gateways:
    description: The hosts of the play.
    type: list
    elements: str
    required: true
  only:
    description: Names of the controllers to choose from, all that can be flashed when empty.
    type: list
    elements: str
    default: []
  version:
    description: One version for all controllers, what the inventory wants when empty.
    type: str
    default: ""
  policy:
    description: The policy of the rollout, as the module P(multi_sonicator.ops.rollout#module) takes it.
    type: dict
    default: {}
  directory:
    description: Where the twin gets a directory of its own, with O(operation=prepare).
    type: path
  firmware:
    description: Intel HEX file with which those boards begin of which no set was fetched.
    type: str
    default: ""
  fail:
    description: The board whose writing fails, as C(GATEWAY/CONTROLLER); the first one of the plan when empty.
    type: str
    default: ""
  soak:
    description: Seconds that a controller has to stay healthy, with O(operation=prepare).
    type: float
  longest_soak:
    description: Seconds that it, and a wave, has to on the twin at most.
    type: float
    default: 5.0
  twin:
    description: What O(operation=prepare) returned.
    type: dict
  flashes:
    description: What O(operation=seed) returned.
    type: dict
  act:
    description: Which act, V(rollout) the undisturbed one, V(failure) the one with a board whose writing fails.
    type: str
    choices: [rollout, failure]
  acts:
    description: What O(operation=judge) returned of each act.
    type: list
    elements: dict
    default: []
  valid_for:
    description: For how many days the result counts.
    type: float
    default: 7.0
  results:
    description: Directory of the results.
    type: path
  key:
    description: The key that signs them with O(operation=record), its public half with O(operation=require).
    type: path
seealso:
  - module: multi_sonicator.ops.rollout
"""

EXAMPLES = r"""
- name: Go no further unless exactly this was rehearsed
  multi_sonicator.ops.rehearsal:
    operation: require
    gateways: "{{ ansible_play_hosts_all }}"
    version: 1.1.0
    policy: "{{ _controllers_policy }}"
    results: ~/.local/state/multi_sonicator/rehearsals/results
    key: ~/.local/state/multi_sonicator/rehearsals/signing.pub
  run_once: true
"""

RETURN = r"""
id:
  description: Name of the rehearsal.
  returned: with O(operation=prepare)
  type: str
  sample: 20261125T021500Z-1f0c9a2b
started:
  description: When it began, in UTC.
  returned: with O(operation=prepare)
  type: str
directory:
  description: Where the twin lies.
  returned: with O(operation=prepare)
  type: str
controllers:
  description: The controllers of the twin, by gateway.
  returned: with O(operation=prepare)
  type: dict
chosen:
  description: Those of the rollout, as C(GATEWAY/CONTROLLER).
  returned: with O(operation=prepare)
  type: list
  elements: str
subject:
  description: What is rehearsed.
  returned: with O(operation=prepare)
  type: dict
soak:
  description: Seconds that a controller has to stay healthy on the twin.
  returned: with O(operation=prepare)
  type: float
wave_soak:
  description: Seconds that each wave has to.
  returned: with O(operation=prepare)
  type: list
  elements: float
kept:
  description: Names of the controllers of which a set was fetched, by gateway.
  returned: with O(operation=prepare)
  type: dict
flashes:
  description: Digests of what the boards have in their flash, by C(GATEWAY/CONTROLLER).
  returned: with O(operation=seed)
  type: dict
act:
  description: What became of it; empty C(problems) where all was as it should be.
  returned: with O(operation=judge)
  type: dict
images:
  description: Digests of what the rollout left in the flash of its boards, by C(GATEWAY/CONTROLLER).
  returned: with O(operation=judge) and O(act=rollout)
  type: dict
broken:
  description: The board whose writing is to fail, by C(gateway), C(control) (how to command it) and C(fault).
  returned: with O(operation=judge) and O(act=rollout)
  type: dict
path:
  description: The result's file.
  returned: with O(operation=record)
  type: str
outcome:
  description: V(passed) or V(failed).
  returned: with O(operation=record)
  type: str
"""

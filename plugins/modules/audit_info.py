#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_info
short_description: Read and verify the audit log of the control node
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Returns what was done to controllers, by whom, from where, with which result, as the control node has recorded it.
  - Verifies the log, its signed checkpoints and its signed head, and tells which record was edited, dropped, reordered,
    duplicated, inserted or cut off. Findings do not fail the task; the playbook C(multi_sonicator.ops.audit_verify)
    does.
  - Works on the control node, whatever the host of the task is.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.info
options:
  log:
    description:
      - Path of the log. By default that of the variable C(multi_sonicator_audit_log), and without it
        C(~/.local/state/multi_sonicator/audit.jsonl).
    type: path
  public_key:
    description:
      - Path of the log's public key, best of the copy that was kept elsewhere, since whoever can write to the log can
        replace the one beside it.
      - That one is taken when none is given.
    type: path
  kept:
    description:
      - Paths of older copies of the log's head or checkpoints that were kept elsewhere. What they sign must still be in
        the log, which also finds a log that was put back to an earlier state as a whole.
    type: list
    elements: path
    default: []
  since:
    description: Only records from then on, as a date or time in ISO 8601. UTC where it names no zone.
    type: str
  until:
    description: Only records up to then, that moment or that whole day included.
    type: str
  gateway:
    description: Only records of this gateway.
    type: str
  controller:
    description: Only records of the controllers with this name.
    type: str
  rollout:
    description: Only records of the rollout with this id.
    type: str
  events:
    description: Only records of these kinds, as returned in RV(records[].what).
    type: list
    elements: str
    default: []
  limit:
    description: Of the records that fit, only so many of the newest.
    type: int
  verify:
    description: Whether the log is verified, as a whole and whatever records were asked for.
    type: bool
    default: true
seealso:
  - module: multi_sonicator.ops.firmware
  - module: multi_sonicator.ops.registers
"""

EXAMPLES = r"""
- name: What was done to one controller in November
  multi_sonicator.ops.audit_info:
    controller: press_1
    since: 2026-11-01
    until: 2026-11-30
  delegate_to: localhost
  run_once: true

- name: All emergency writes, from a log whose public key was kept elsewhere
  multi_sonicator.ops.audit_info:
    events: [emergency]
    public_key: /media/stick/audit.jsonl.pub
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
records:
  description: The records that fit, oldest first. A line that is damaged is none.
  returned: always
  type: list
  elements: dict
  contains:
    seq:
      description: Number of the record, from 1 without gaps.
      type: int
      sample: 42
    time:
      description: When it was written, in UTC, to the millisecond.
      type: str
      sample: "2026-11-22T02:15:00.123Z"
    who:
      description: The user on the control node, the one that sudo took over from, and the user on the gateway.
      type: dict
      sample: {user: deploy, sudo_user: null, remote_user: root}
    from:
      description: Name of the control node, and the client of its SSH session.
      type: dict
      sample: {host: control, ssh_client: 192.0.2.7 51312 22}
    where:
      description: Gateway, controller, line and unit, those that apply.
      type: dict
      sample: {gateway: gateway_a, controller: press_1, line: /dev/ttyUSB0, unit: 2}
    what:
      description:
        - C(flash), C(rollback), C(register_write), C(emergency), C(restore), C(snapshot) and C(chip_read).
        - Of a rollout C(rollout_start), C(rollout_resume), C(request), C(approval), C(rollout_stop) and
          C(rollout_end); C(rehearsal) and C(recovery_drill).
        - Of access C(break_glass), C(ssh_certificate) and C(ssh_revocation).
        - The log's own; C(log_start), C(repair) and C(damage).
      type: str
      sample: flash
    before:
      description: Version and digest, or values by point name, before.
      type: dict
    after:
      description: The same afterwards.
      type: dict
    image:
      description: SHA-256 of the flash's content that was to be, as far as it is known.
      type: str
    approval:
      description: Who approved it, and how.
      type: str
    rollout:
      description: Id of the rollout it belongs to.
      type: str
    result:
      description: Outcome of the firmware transaction, else C(changed), C(read) or C(failed).
      type: str
      sample: deployed
    message:
      description: What was done and proven, or why it failed.
      type: str
    previous:
      description: Hash of the record before.
      type: str
    hash:
      description: SHA-256 of the record without this field.
      type: str
findings:
  description: What is wrong with the log; empty when nothing is, or O(verify=false).
  returned: always
  type: list
  elements: dict
  contains:
    file:
      description: Name of the file.
      type: str
      sample: audit.jsonl
    line:
      description: Line in it, from 1, where it is about one.
      type: int
    offset:
      description: Where that line begins, in bytes.
      type: int
    seq:
      description: Number of the record, where it is about one.
      type: int
    kind:
      description:
        - C(edited), C(missing), C(reordered), C(duplicated), C(inserted), C(rewritten), C(truncated), C(unsigned) or
          C(damage).
      type: str
    message:
      description: What is wrong.
      type: str
    text:
      description: All of it in one line.
      type: str
"""

#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record in the audit log what was done. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_event
short_description: Record in the audit log what was done
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Adds a record to the audit log of this control node. What the modules of this collection do to controllers is
    recorded by itself; this is for what else a playbook does.
  - The record says who ran the playbook, from where and when, and is kept free of secrets, as the log's other records.
  - Runs on the control node.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  diff_mode:
    support: none
    details: The log is only ever appended to.
  idempotent:
    support: none
    details: Each run adds a record.
options:
  what:
    description: A word for what was done.
    type: str
    required: true
  message:
    description: The same in a sentence, with the reason.
    type: str
    required: true
  result:
    description: How it ended.
    type: str
    choices: [changed, failed, refused]
    default: changed
  gateway:
    description: The gateway that it was done to; the host of the play by default.
    type: str
seealso:
  - module: multi_sonicator.ops.audit_info
"""

EXAMPLES = r"""
- name: Record that the cabinet was opened
  multi_sonicator.ops.audit_event:
    what: maintenance
    message: Cabinet opened to replace the power supply
"""

RETURN = r"""
seq:
  description: Number of the record in the log.
  returned: outside of check mode
  type: int
  sample: 4711
"""

#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the report of compliance. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: compliance_report
short_description: Report whether gateways comply, as HTML and JSON
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Writes what M(multi_sonicator.ops.compliance_info) has found on gateways as one HTML file that needs nothing else,
    and as JSON. Both have each control with its references, what was expected and found, where, and the verdict.
  - A control that fails counts as waived while a waiver for it holds, and fails again from the day on which it expires.
  - Runs on the control node, once for all gateways. Each report is a file of its own.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  check_mode:
    details: The report is made, but not written.
  diff_mode:
    support: N/A
    details: Each report is new.
options:
  directory:
    description: Where reports are kept on the control node.
    type: path
    required: true
  hosts:
    description: By host, what M(multi_sonicator.ops.compliance_info) returned.
    type: dict
    required: true
  waivers:
    description: By host, a list of waivers with C(control), C(reason), C(by) and C(expires), the day on which it ends.
    type: dict
    default: {}
seealso:
  - module: multi_sonicator.ops.compliance_info
"""

EXAMPLES = r"""
- name: Report on this gateway
  multi_sonicator.ops.compliance_report:
    directory: ~/reports
    hosts: "{{ {inventory_hostname: found} }}"
    waivers:
      gateway1:
        - {control: usb, reason: no USB on this board, by: A. Smith, expires: "2027-03-31"}
"""

RETURN = r"""
html:
  description: Path of the report for people.
  returned: not in check mode
  type: str
  sample: /home/ops/reports/compliance-20261125T221500Z.html
json:
  description: Path of the report for programs.
  returned: not in check mode
  type: str
failed_controls:
  description: By host, the controls that fail and are not waived.
  returned: always
  type: dict
  sample: {gateway1: [usb]}
"""

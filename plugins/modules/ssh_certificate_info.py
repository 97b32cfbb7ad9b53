#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell which SSH certificates were issued. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_certificate_info
short_description: Tell which SSH certificates were issued
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Returns the certificates in a site's register, and whether they are valid, expired or revoked.
  - Runs on the control node.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  diff_mode:
    support: none
    details: Changes nothing.
options:
  identity:
    description: Only those of this person or host.
    type: str
  register:
    description: The register of certificates.
    type: path
    default: ~/.local/state/multi_sonicator/ssh_certificates.jsonl
seealso:
  - module: multi_sonicator.ops.ssh_certificate
"""

EXAMPLES = r"""
- name: Look at alice's certificates
  multi_sonicator.ops.ssh_certificate_info:
    identity: alice
  register: issued
"""

RETURN = r"""
certificates:
  description: The certificates, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    serial:
      description: Its number.
      type: int
      sample: 17
    kind:
      description: V(user) or V(host).
      type: str
    identity:
      description: Name of the person or host.
      type: str
      sample: alice
    principals:
      description: What it opens.
      type: list
      elements: str
      sample: [ms-operator/alice]
    issued:
      description: When it was issued, in UTC.
      type: str
      sample: "2026-11-25T21:43:48Z"
    valid_to:
      description: When it ends, in UTC.
      type: str
      sample: "2026-11-26T05:43:48Z"
    issuer:
      description: Who issued it, from which control node.
      type: str
      sample: jo@office
    status:
      description: V(valid), V(expired) or V(revoked).
      type: str
    public_key:
      description: The key that it is for.
      type: str
"""

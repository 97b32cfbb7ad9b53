#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check people and what they may do. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: access_plan
short_description: Check people and what they may do on a gateway
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Checks the people of an inventory and the commands that they may run through sudo, and works out the accounts, keys
    and rules that a gateway is to have, and which of its accounts belong to nobody in the data.
  - The role P(multi_sonicator.ops.access#role) puts them there. Whatever is not admitted is refused, with one line for
    each mistake, before anything is changed.
  - Runs on the control node.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  diff_mode:
    support: none
    details: Changes nothing.
options:
  people:
    description: Who may log in.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the account, a small letter followed by small letters, digits, dashes and underscores.
        type: str
        required: true
      role:
        description: What the person may do. Each role may do what the one before may.
        type: str
        choices: [viewer, operator, engineer, administrator]
      keys:
        description: Public keys that open the account beside certificates.
        type: list
        elements: str
        default: []
      expires:
        description: The last day, as C(YEAR-MONTH-DAY) in UTC.
        type: str
      state:
        description: V(absent) is the same as leaving the person out.
        type: str
        choices: [present, absent]
        default: present
  kept:
    description: Accounts that stay as they are.
    type: list
    elements: str
    default: []
  commands:
    description: What may be run as root through sudo.
    type: list
    elements: dict
    default: []
    suboptions:
      role:
        description: The lowest role that may.
        type: str
        choices: [viewer, operator, engineer]
        required: true
      command:
        description: Path of the program.
        type: str
        required: true
      arguments:
        description: Its arguments, exactly these. With neither this nor O(commands[].pattern) it takes none.
        type: str
        default: ""
      pattern:
        description: A regular expression that the arguments as a whole must match, joined by spaces.
        type: str
        default: ""
      exec:
        description: Whether the program may start others.
        type: bool
        default: false
  authority:
    description: Public key of the CA whose certificates open the accounts; only keys do when empty.
    type: str
    default: ""
  connection:
    description: The account that this run came in by, which must not lock itself out. Without it no account is judged.
    type: str
  accounts:
    description: The gateway's accounts, as M(ansible.builtin.getent) returns the database C(passwd).
    type: dict
    default: {}
  locked:
    description: Names of accounts whose password is locked.
    type: list
    elements: str
    default: []
seealso:
  - module: multi_sonicator.ops.ssh_certificate
"""

EXAMPLES = r"""
- name: See whether the people are described well
  multi_sonicator.ops.access_plan:
    people:
      - name: alice
        role: operator
        expires: "2027-06-30"
"""

RETURN = r"""
people:
  description: The people who may log in, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the account.
      type: str
      sample: alice
    role:
      description: What the person may do.
      type: str
      sample: operator
    group:
      description: The account's group.
      type: str
      sample: ms-operator
    principal:
      description: What a certificate must name to open the account.
      type: str
      sample: ms-operator/alice
    end:
      description: When the account ends, in seconds since 1970, or -1.
      type: int
      sample: 1814400000
    public_keys:
      description: Their public keys, without comments.
      type: list
      elements: str
    authorized_keys:
      description: What the file says that opens the account.
      type: str
rules:
  description: Rules of sudo, each with C(groups), C(tag) and C(command) as sudoers spells them.
  returned: success
  type: list
  elements: dict
kept:
  description: Accounts of the gateway that stay as they are.
  returned: success
  type: list
  elements: str
  sample: [ops]
strangers:
  description: Accounts of people who are not in the data, and which are not locked yet. Each has C(name) and C(home).
  returned: success
  type: list
  elements: dict
"""

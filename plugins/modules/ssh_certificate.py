#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Issue and revoke SSH certificates. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_certificate
short_description: Issue and revoke SSH certificates
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Signs a public key with a site's CA, and keeps in a register and in the audit log what was issued, by whom and until
    when. A certificate is on record before it leaves the control node.
  - Revokes certificates and keys, and makes the list that sshd refuses them by. The list has to be brought to the hosts
    afterwards.
  - Runs on the control node.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  diff_mode:
    support: none
    details: A certificate says nothing to a reader.
  idempotent:
    details: The same certificate is given again until less than a third of its life is left.
options:
  state:
    description: Whether there is to be a certificate, or none any more.
    type: str
    choices: [present, revoked]
    default: present
  ca_key:
    description: Private key of the CA. With its C(.pub) file alone, the ssh-agent signs.
    type: path
    required: true
  kind:
    description: Whom it is for. Those of hosts cannot be revoked.
    type: str
    choices: [user, host]
    default: user
  identity:
    description:
      - Name of the person or host.
      - With O(state=revoked), all certificates of this person, the keys in them and O(public_keys) are revoked.
    type: str
  principals:
    description: What it opens, or the names of the host.
    type: list
    elements: str
    default: []
  public_key:
    description: The public key to sign.
    type: str
  public_keys:
    description: Public keys to revoke, with the certificates of them.
    type: list
    elements: str
    default: []
  serial:
    description: Number of the certificate to revoke.
    type: int
  minutes:
    description: How long it is valid.
    type: int
    default: 480
  until:
    description: When it ends at the latest, in seconds since 1970; -1 for no such end.
    type: int
    default: -1
  path:
    description: Where the certificate is written to on the control node.
    type: path
  reason:
    description: Why it is revoked.
    type: str
    default: ""
  register:
    description: The register of certificates.
    type: path
    default: ~/.local/state/multi_sonicator/ssh_certificates.jsonl
requirements:
  - ssh-keygen of OpenSSH
seealso:
  - module: multi_sonicator.ops.ssh_authority
  - module: multi_sonicator.ops.ssh_certificate_info
"""

EXAMPLES = r"""
- name: Let alice in for a shift
  multi_sonicator.ops.ssh_certificate:
    ca_key: ~/.config/multi_sonicator/ssh_ca
    identity: alice
    principals: [ms-operator/alice]
    public_key: "{{ lookup('ansible.builtin.file', '/home/alice/.ssh/id_ed25519.pub') }}"
    path: /home/alice/.ssh/id_ed25519-cert.pub

- name: Revoke a certificate
  multi_sonicator.ops.ssh_certificate:
    state: revoked
    ca_key: ~/.config/multi_sonicator/ssh_ca
    serial: 17
    reason: laptop lost
"""

RETURN = r"""
serial:
  description: Its number.
  returned: with O(state=present)
  type: int
  sample: 17
certificate:
  description: The certificate; empty where check mode would have one made.
  returned: with O(state=present)
  type: str
principals:
  description: What it opens.
  returned: with O(state=present)
  type: list
  elements: str
valid_to:
  description: When it ends, in UTC.
  returned: with O(state=present)
  type: str
  sample: "2026-11-26T05:43:48Z"
identities:
  description: Whose certificates were revoked.
  returned: with O(state=revoked)
  type: list
  elements: str
krl:
  description: The list of what is revoked, on the control node.
  returned: with O(state=revoked)
  type: str
"""

#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have a site's certificate authority for SSH. An action plugin: all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_authority
short_description: Have a site's certificate authority for SSH
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Makes the keys that a site signs SSH certificates with where there are none, and the list of what is revoked.
  - A CA's private key never leaves the control node. Where its public key alone is there, the ssh-agent is asked to
    sign, which may have the key with a passphrase or from a PKCS#11 token.
  - Runs on the control node.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  check_mode:
    details: A key that would be made is returned empty.
  diff_mode:
    support: none
    details: Keys are not shown.
options:
  ca_key:
    description: Private key of the CA for people. Its public key is beside it, with C(.pub).
    type: path
    required: true
  host_ca_key:
    description: Private key of the CA for hosts; none is made without it.
    type: path
  register:
    description: The register of certificates, a file of JSON lines. What is revoked lies beside it, with C(.krl).
    type: path
    default: ~/.local/state/multi_sonicator/ssh_certificates.jsonl
requirements:
  - ssh-keygen of OpenSSH
seealso:
  - module: multi_sonicator.ops.ssh_certificate
"""

EXAMPLES = r"""
- name: Have the site's CA
  multi_sonicator.ops.ssh_authority:
    ca_key: ~/.config/multi_sonicator/ssh_ca
"""

RETURN = r"""
public_key:
  description: Public key of the CA for people.
  returned: success
  type: str
  sample: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIONNmxi1vEi0yQNb8z//LjfTgx6eZMuBm2nKyrGJFYO1
host_public_key:
  description: Public key of the CA for hosts.
  returned: with O(host_ca_key)
  type: str
krl:
  description: The list of what is revoked, on the control node, as C(RevokedKeys) of sshd takes it.
  returned: success
  type: str
  sample: /home/jo/.local/state/multi_sonicator/ssh_certificates.jsonl.krl
"""

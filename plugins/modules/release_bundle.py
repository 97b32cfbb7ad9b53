#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_bundle
short_description: Carry the verified releases of a firmware repository to a place without a network
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Verifies a firmware repository and writes all its releases into a directory that is a firmware repository itself,
    with the root of trust beside it. Releases that were revoked since the last time go.
  - It stays valid as long as the publisher's signatures, and nothing on the way can make that longer.
  - Runs on the control node, whatever the host of the play is.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
options:
  path:
    description: Directory of the bundle.
    type: path
    required: true
  repository:
    description: The firmware repository, a directory or an C(https) URL.
    type: str
    required: true
  trusted_root:
    description: The C(root.json) that the publisher of the repository handed out.
    type: path
    required: true
  repository_cache:
    description: Directory that holds what was verified before, so that nothing older is taken again.
    type: path
    default: ~/.cache/multi_sonicator
requirements:
  - tuf >= 7
  - securesystemslib >= 1.6
  - cryptography >= 48
seealso:
  - module: multi_sonicator.ops.firmware_repository
"""

EXAMPLES = r"""
- name: Fill the stick
  multi_sonicator.ops.release_bundle:
    path: /media/stick/multi_sonicator
    repository: https://firmware.example/multi_sonicator
    trusted_root: files/root.json
"""

RETURN = r"""
releases:
  description: Paths of the releases in the bundle.
  returned: success
  type: list
  elements: str
  sample: [multi_sonicator_io/1.2.0.hex]
expires:
  description: When the bundle ends to be valid, in UTC.
  returned: success
  type: str
  sample: "2026-12-02T03:23:15Z"
hours_left:
  description: How long that is from now.
  returned: success
  type: int
  sample: 167
"""

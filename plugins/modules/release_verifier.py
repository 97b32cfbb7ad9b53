#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_verifier
short_description: Make the verifier with which gateways check the signatures of releases
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - One file that Python runs as it is, with the client of The Update Framework in it. It is made of wheels that are
    pinned by digest in this collection, and the same bytes come out wherever it is made.
  - Runs on the control node, whatever the host of the play is.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.control
attributes:
  check_mode:
    details: Missing wheels are fetched in check mode too.
  diff_mode:
    support: none
options:
  path:
    description: Where the verifier goes.
    type: path
    required: true
  wheels:
    description: Directory of the wheels.
    type: path
    default: ~/.cache/multi_sonicator/wheels
  download:
    description: Whether to fetch missing wheels with pip. Where there is no network, put them there by hand.
    type: bool
    default: true
seealso:
  - module: multi_sonicator.ops.firmware_repository
"""

EXAMPLES = r"""
- name: Make the verifier
  multi_sonicator.ops.release_verifier:
    path: build/verifier.pyz
"""

RETURN = r"""
sha256:
  description: Digest of the verifier.
  returned: success
  type: str
  sample: 1c1aa00f058f4851f038d409c8ca4a727db854a91f07ec3a0fa047bb93e43e0e
"""

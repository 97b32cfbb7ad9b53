# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules promise about check mode, diff and repetition."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the attributes."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode, in which no write leaves on any line and no programmer is touched.
  diff_mode:
    description: Returns what has changed, or would change, as a difference of each controller.
  idempotent:
    description: When run twice in a row, the second run changes nothing and writes nothing.
  platform:
    description: Systems the module runs on.
    platforms: posix
  action:
    description: Has an action plugin, which resolves profiles and images on the control node.
    support: full
  async:
    description: Can run as an asynchronous task.
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details: Changes nothing.
  idempotent:
    support: full
  platform:
    support: full
    platforms: debian
  async:
    support: none
"""

    CHANGE = r"""
options: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
  platform:
    support: full
    platforms: debian
  async:
    support: none
"""

    CONTROL = r"""
options: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
  platform:
    support: full
    platforms: posix
  async:
    support: none
"""

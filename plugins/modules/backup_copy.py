#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_copy
short_description: Copy a backup to another place, such as a stick
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Stores a set in one more target, from the first other one that has it, fetches it back from there, and verifies
    every file.
  - Where the target has no repository, it is made.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
attributes:
  action:
    support: none
  check_mode:
    support: full
    details: Tells which set it would be, and does not look whether the target has it.
  diff_mode:
    support: none
    details: What is stored is encrypted.
options:
  to:
    description: Name of the target that the set is copied to.
    type: str
    required: true
  set:
    description: Id of the set, or V(latest).
    type: str
    default: latest
  configuration:
    description: The file that describes all targets, which the role P(multi_sonicator.ops.backup#role) writes.
    type: path
    default: /etc/multi_sonicator/backup.json
seealso:
  - module: multi_sonicator.ops.backup_set
"""

EXAMPLES = r"""
- name: Have the newest backup on the stick, too
  multi_sonicator.ops.backup_copy:
    to: stick
"""

RETURN = r"""
set:
  description: Id of the set.
  returned: success
  type: str
  sample: 20261126T021500Z-3f9a1c0277e51b6d
backup_target:
  description: The target that it came from.
  returned: success
  type: str
  sample: vault
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.backup import Configuration
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.recovery import copy


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "to": {"type": "str", "required": True},
            "set": {"type": "str", "default": "latest"},
            "configuration": {"type": "path", "default": "/etc/multi_sonicator/backup.json"},
        },
        supports_check_mode=True,
    )
    params = module.params
    os.umask(0o077)
    try:
        configuration = Configuration.load(Path(params["configuration"]))
        answer = copy(configuration, params["set"], params["to"], module.check_mode)
    except CoreError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}; check its permissions and the space that is left")
    module.exit_json(**answer)


if __name__ == "__main__":
    main()

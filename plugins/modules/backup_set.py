#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_set
short_description: Fetch a backup of a gateway, for its controllers to be restored from
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Fetches a set from the first of the gateway's backup targets that has it whole, verifies every file of it, and keeps
    what it says of the controllers as a set under its id, to which M(multi_sonicator.ops.firmware) and
    M(multi_sonicator.ops.restore) can bring them.
  - Nothing is written to a controller. A set that is damaged, or of another board, is refused for all of them.
  - Needs what the role P(multi_sonicator.ops.backup#role) has brought.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
  - multi_sonicator.ops._controllers
attributes:
  diff_mode:
    support: none
    details: Nothing on a controller changes.
options:
  set:
    description: Id of the set, or V(latest).
    type: str
    default: latest
  backup_target:
    description: The one backup target to fetch it from. Otherwise all are tried in their order.
    type: str
  gateway:
    description:
      - Also bring back what the gateway itself kept of its controllers, such as ended transactions, and O(files). For a
        gateway that was set up anew. What it has learnt since stays.
      - What was asked of the lost one, such as its packages, is laid in C(recovered/) below O(state_directory).
    type: bool
    default: false
  files:
    description:
      - Files and directories of the set that come back with O(gateway), by their paths.
      - They are whose they were, where the host has that account, and root's otherwise.
    type: list
    elements: path
    default: []
  configuration:
    description: The file that describes the targets.
    type: path
    default: /etc/multi_sonicator/backup.json
seealso:
  - module: multi_sonicator.ops.firmware
"""

EXAMPLES = r"""
- name: Fetch the newest backup
  multi_sonicator.ops.backup_set:
    controllers: "{{ controllers }}"
    only: [press_1]
  register: fetched

- name: Make the chip that was put in what the broken one was
  multi_sonicator.ops.firmware:
    controllers: "{{ controllers }}"
    only: [press_1]
    set: "{{ fetched.set }}"
    flash_silent: true
    write_fuses: true
"""

RETURN = r"""
set:
  description: Id of the set.
  returned: success
  type: str
  sample: 20261126T021500Z-3f9a1c0277e51b6d
taken:
  description: When it was taken, in UTC.
  returned: success
  type: str
  sample: "2026-11-26T02:15:00Z"
backup_target:
  description: The target that it came from.
  returned: success
  type: str
  sample: vault
files:
  description: Other files that were brought back, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/multi_sonicator/controllers/press_1/record.yml]
differences:
  description:
    - With O(gateway), what of the gateway that the set was taken of is otherwise on this host now.
    - Of files that are new on each host, such as keys, that is to be expected.
  returned: success
  type: list
  elements: dict
  contains:
    what:
      description: Path of a file, or V(package) and the name of one.
      type: str
      sample: /etc/systemd/system/multi-sonicator-keeper.service
    problem:
      description: What is otherwise.
      type: str
      sample: is missing
controllers:
  description: One entry for each controller, in the order given.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the controller.
      type: str
      sample: press_1
    changed:
      description: Whether the gateway had no such set yet.
      type: bool
    version:
      description: Firmware version of then; none where the firmware tells none.
      type: str
    read:
      description: When its chip had been read, in UTC; none where that never was, and its settings alone can come back.
      type: str
    msg:
      description: What the set holds of it.
      type: str
"""

from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.backup import Configuration
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.gateway import Gateway
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.recovery import fetch
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import ControllerModule


def main() -> None:
    """Run the module."""
    module = ControllerModule(
        {
            "set": {"type": "str", "default": "latest"},
            "backup_target": {"type": "str"},
            "gateway": {"type": "bool", "default": False},
            "files": {"type": "list", "elements": "path", "default": []},
            "configuration": {"type": "path", "default": "/etc/multi_sonicator/backup.json"},
        }
    )
    params = module.params

    def work(gateway: Gateway) -> dict[str, Any]:
        configuration = Configuration.load(Path(params["configuration"]))
        files = params["files"] if params["gateway"] else None
        return fetch(configuration, gateway, params["set"], params["backup_target"], module.check_mode, files)

    module.answer(work)


if __name__ == "__main__":
    main()

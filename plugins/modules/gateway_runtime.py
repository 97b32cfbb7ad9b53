#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_runtime
short_description: Install what the services of a gateway consist of
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Installs the programs C(keeper), C(msctl) and C(backup), and the description of the controllers that they work on.
  - The programs are the code that the modules of this collection consist of, so that both agree on what a register is
    and on who holds a line.
  - Starts and stops no service; the role P(multi_sonicator.ops.gateway#role) does.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
  - multi_sonicator.ops._controllers
attributes:
  diff_mode:
    support: full
    details: Shows version and configuration.
options:
  state:
    description:
      - V(present) installs this version, V(absent) removes all versions and the configuration.
      - Before it removes anything, V(absent) asks the controllers of the configuration whether their units are at rest,
        for these stop when nobody talks to them any more.
    type: str
    choices: [present, absent]
    default: present
  directory:
    description: Where the programs go, a directory below it for each version, and C(current) for the one in use.
    type: path
    default: /usr/local/lib/multi_sonicator
  configuration:
    description: The file that describes the controllers to the programs.
    type: path
    default: /etc/multi_sonicator/gateway.json
  command:
    description: The link by which people call C(msctl).
    type: path
    default: /usr/local/bin/msctl
  drain:
    description:
      - What to do under O(state=absent) when units run.
      - V(refuse) fails, V(wait) waits until they have come to rest by themselves, V(stop) stops them.
    type: str
    choices: [refuse, wait, stop]
    default: refuse
  drain_deadline:
    description: Longest time to wait for rest under O(drain=wait), in seconds.
    type: float
    default: 600.0
seealso:
  - module: multi_sonicator.ops.registers_info
"""

EXAMPLES = r"""
- name: Install the services' programs
  multi_sonicator.ops.gateway_runtime:
    controllers: "{{ controllers }}"
  notify: Reload the line keeper
"""

RETURN = r"""
version:
  description: Digest of the programs in use, of those that would be in check mode; none under O(state=absent).
  returned: always
  type: str
  sample: 6cf1a2b09e3d4f57
controllers:
  description: What was found of each controller before the programs were removed.
  returned: O(state=absent)
  type: list
  elements: dict
  contains:
    name:
      description: Name of the controller.
      type: str
      sample: press_1
    line:
      description: Its line.
      type: str
      sample: /dev/multi_sonicator/hall_1
    unit:
      description: Its unit on that line.
      type: int
      sample: 2
    changed:
      description: Whether its units were stopped, or would be in check mode.
      type: bool
    failed:
      description: Whether they go on running.
      type: bool
    msg:
      description: What was found or done.
      type: str
"""

from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core import backup, keeper, msctl, settings
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.gateway import Result
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.installation import Installation
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.rest import bring_to_rest
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import DRAIN, ControllerModule

# With these Ansible has sent all that they import, which is what is installed.
_PROGRAMS = [program.__name__.rpartition(".")[2] for program in (backup, keeper, msctl)]


def main() -> None:
    """Run the module."""
    module = ControllerModule(
        {
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "directory": {"type": "path", "default": "/usr/local/lib/multi_sonicator"},
            "configuration": {"type": "path", "default": "/etc/multi_sonicator/gateway.json"},
            "command": {"type": "path", "default": "/usr/local/bin/msctl"},
            "drain": DRAIN["drain"],
            "drain_deadline": DRAIN["drain_deadline"],
        }
    )
    try:
        answer = _bring(module)
    except CoreError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}; check its permissions and the space that is left")
    if problems := [f"{one['name']}: {one['msg']}" for one in answer.get("controllers", ()) if one["failed"]]:
        module.fail_json(msg="\n".join([*problems, "nothing was removed"]), **answer)
    module.exit_json(**answer)


def _bring(module: ControllerModule) -> dict[str, Any]:
    """Bring the runtime to its state; what the module returns."""
    options = module.params
    installation = Installation(
        Path(options["directory"]),
        {name: name for name in _PROGRAMS},
        {Path(options["command"]): "msctl"},
        Path(options["configuration"]),
        settings.dump(options),
    )
    absent = options["state"] == "absent"
    before, after = installation.found, installation.wanted
    if absent:
        after = dict.fromkeys(after)
    answer: dict[str, Any] = {
        "changed": before != after,
        "version": after["version"],
        "diff": {"before": before, "after": after},
    }
    if absent:
        answer["controllers"] = _rest(module) if before["configuration"] else []
        if any(one["failed"] for one in answer["controllers"]):
            return {**answer, "changed": False}
    if before != after and not module.check_mode:
        if absent:
            installation.remove()
        else:
            installation.install()
    return answer


def _rest(module: ControllerModule) -> list[Result]:
    options = module.params
    gateway = settings.load(Path(options["configuration"])).gateway()
    return bring_to_rest(gateway, options["drain"], options["drain_deadline"], module.check_mode)


if __name__ == "__main__":
    main()

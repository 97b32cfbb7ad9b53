#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: compliance
short_description: Make a host comply with controls of hardening, or take them back
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Puts the settings of controls in place, and remembers how each was before in
    C(/var/lib/multi_sonicator/hardening.json). What is there and wanted no longer is put back as it was.
  - Before anything changes that can cut the control node off, a guard is armed on the host, which takes that back by
    itself unless O(state=confirmed) comes over a connection of after the change.
  - The role P(multi_sonicator.ops.hardening#role) has the controls and does all this.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
  - multi_sonicator.ops._controls
attributes:
  action:
    support: none
  idempotent:
    support: partial
    details: A change can be confirmed once.
options:
  controls:
    description: With O(state=confirmed) and O(state=absent) they do not matter.
    required: false
    default: []
  state:
    description:
      - V(present) puts the controls in place.
      - V(absent) puts everything back as it was before, and takes the packages away that were brought.
      - V(confirmed) lets a guarded change stay.
    type: str
    choices: [present, absent, confirmed]
    default: present
  installed:
    description: Packages that were brought for the controls, which go with O(state=absent).
    type: list
    elements: str
    default: []
  guard_seconds:
    description: After how many seconds a guarded change takes itself back; none does with V(0).
    type: float
    default: 120
seealso:
  - module: multi_sonicator.ops.compliance_info
"""

EXAMPLES = r"""
- name: Let nobody log in as root
  multi_sonicator.ops.compliance:
    controls:
      - id: ssh_root
        title: Nobody logs in as root
        references: {cis: "5.1", iec: "CR 1.1", nist: "AC-17"}
        sshd: {PermitRootLogin: "no"}
  register: done

- name: Come back over a new connection
  ansible.builtin.meta: reset_connection

- name: Let it stay
  multi_sonicator.ops.compliance:
    state: confirmed
  when: done.guarded
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  returned: always
  type: list
  elements: dict
  contains:
    what:
      description: The setting.
      type: str
      sample: file /etc/issue.net
    control:
      description: Whose it is; empty where a file is of several controls.
      type: str
    before:
      description: As it was.
      type: str
      sample: 1 lines, mode 0644
    after:
      description: As it is then.
      type: str
guarded:
  description: Whether the change takes itself back unless it is confirmed.
  returned: always
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.controls import Host
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.hardening import (
    Hardening,
    confirm,
    take_back_unconfirmed,
)
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controls_module import CONTROLS, describe, diff


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "controls": {**CONTROLS, "required": False, "default": []},
            "state": {"type": "str", "choices": ["present", "absent", "confirmed"], "default": "present"},
            "installed": {"type": "list", "elements": "str", "default": []},
            "guard_seconds": {"type": "float", "default": 120.0},
        },
        supports_check_mode=True,
    )
    try:
        run(module)
    except CoreError as error:
        module.fail_json(msg=str(error))


def run(module: AnsibleModule) -> None:
    """Do what the state asks for, and end."""
    host, state = Host(), module.params["state"]
    if state == "confirmed":
        if not module.check_mode and not confirm(host):
            module.fail_json(msg="there is no change to confirm: it has taken itself back, or none was made")
        module.exit_json(changed=False, changes=[], guarded=False)
    if not module.check_mode:
        take_back_unconfirmed(host)
    hardening = Hardening(host)
    changes = hardening.plan(module.params["controls"] if state == "present" else [])
    changed = bool(changes or hardening.pending or (state == "absent" and hardening.packages))
    guarded = False
    if not module.check_mode:
        if changed or module.params["installed"]:
            guarded = hardening.apply(changes, module.params["installed"], module.params["guard_seconds"])
        if state == "absent":
            hardening.end()
    for warning in hardening.warnings:
        module.warn(warning)
    module.exit_json(changed=changed, changes=describe(changes), guarded=guarded, diff=diff(changes))


if __name__ == "__main__":
    main()

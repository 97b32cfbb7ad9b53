#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: units
short_description: Have a list of systemd's units run, or none of them
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Does in one run on the host for a whole list what M(ansible.builtin.systemd_service) takes a run for each unit. On
    small gateways a run costs more than what it does.
  - Judges all of them before it touches the first. Check mode takes it that units which are not there would have been
    brought by then.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
attributes:
  action:
    support: none
  diff_mode:
    support: full
    details: Shows what systemctl is told.
options:
  names:
    description: The units, in the order in which they are started; they are stopped in the other one.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(started) has them run now and from each boot on, V(restarted) starts those anew that run already.
      - V(absent) has none of them run; one that there is not is none that runs.
    type: str
    choices: [started, restarted, absent]
    default: started
  daemon_reload:
    description: Whether systemd is to read all of its files before, since some have changed.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Start the services
  multi_sonicator.ops.units:
    names: [example.service, example.timer]
    daemon_reload: "{{ written is changed }}"
"""

RETURN = r"""
changed_units:
  description: Those that were told something, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [example.service]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.controls import Host
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.units import apply, plan


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "names": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "restarted", "absent"], "default": "started"},
            "daemon_reload": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    host, state = Host(), module.params["state"]
    names = module.params["names"][:: -1 if state == "absent" else 1]
    try:
        if module.params["daemon_reload"] and not module.check_mode:
            host.must(["systemctl", "daemon-reload"])
        changes = plan(host, names, state != "absent", state == "restarted", module.check_mode)
        if not module.check_mode:
            apply(host, changes)
    except CoreError as error:
        module.fail_json(msg=str(error))
    told = "".join(f"{change.unit}: {', '.join(change.verbs)}\n" for change in changes)
    module.exit_json(
        changed=bool(changes),
        changed_units=[change.unit for change in changes],
        diff={"before": "", "after": told},
    )


if __name__ == "__main__":
    main()

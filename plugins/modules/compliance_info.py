#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: compliance_info
short_description: Look whether a host complies with controls of hardening
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Looks at every setting of the given controls as it is in force, such as a value of the kernel rather than the file
    that sets it, and changes nothing.
  - The role P(multi_sonicator.ops.hardening#role) has the controls, and its entry point C(compliance) makes a report
    of what this module returns.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.info
  - multi_sonicator.ops._controls
attributes:
  action:
    support: none
seealso:
  - module: multi_sonicator.ops.compliance
  - module: multi_sonicator.ops.compliance_report
"""

EXAMPLES = r"""
- name: Look whether nobody logs in as root
  multi_sonicator.ops.compliance_info:
    controls:
      - id: ssh_root
        title: Nobody logs in as root
        references: {cis: "5.1", iec: "CR 1.1", nist: "AC-17"}
        sshd: {PermitRootLogin: "no"}
"""

RETURN = r"""
container:
  description: Whether the host is a container, which can not show everything.
  returned: always
  type: bool
controls:
  description: One entry for each control, in the order given.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: Name of the control.
      type: str
      sample: ssh_root
    title:
      description: What it is for.
      type: str
    references:
      description: Where standards ask for it.
      type: dict
    verdict:
      description:
        - V(fail) if a setting is not as wanted, V(cannot_tell) if one is not to be seen on this host, V(not_applicable)
          if the host has nothing that the control is about, V(pass) else.
      type: str
      sample: pass
    remark:
      description: Why something is not to be seen.
      type: str
    findings:
      description: What was looked at.
      type: list
      elements: dict
      contains:
        what:
          description: The setting.
          type: str
          sample: sshd PermitRootLogin
        expected:
          description: As it should be.
          type: str
          sample: "no"
        found:
          description: As it is.
          type: str
          sample: prohibit-password
        evidence:
          description: Where that was seen.
          type: str
          sample: sshd -T
        verdict:
          description: The same words as those of the control.
          type: str
          sample: fail
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.controls import Host, judge
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controls_module import CONTROLS


def main() -> None:
    """Run the module."""
    module = AnsibleModule({"controls": CONTROLS}, supports_check_mode=True)
    host = Host()
    try:
        found = judge(host, module.params["controls"])
    except CoreError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, container=host.container, controls=found)


if __name__ == "__main__":
    main()

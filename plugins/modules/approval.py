#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: approval
short_description: Ask people to approve what a gateway does only with approval, and show what they have approved
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - A gateway with O(approvers_file) flashes unsigned firmware, and writes values of class emergency that do not stop,
    only when several people have approved exactly that. A stop never needs approval.
  - With O(operation=request) the gateway writes down what would be done, and this module puts it into O(approvals) on
    the control node, for people to sign with C(ssh-keygen -Y sign). It asks no controller.
  - M(multi_sonicator.ops.registers) and M(multi_sonicator.ops.firmware) take the signed requests from there.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._controllers
  - multi_sonicator.ops._controllers.approvals
  - multi_sonicator.ops._controllers.releases
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: partial
    details: Each O(operation=request) makes a new request.
  platform:
    support: full
    platforms: debian
  async:
    support: none
options:
  operation:
    description:
      - V(request) asks for approval of O(values), or else of O(releases).
      - V(show) tells of every request in O(approvals) what the gateway thinks of it.
    type: str
    choices: [request, show]
    required: true
  approvals:
    required: true
  reason:
    description: What people are to approve this for. Required with O(operation=request).
    type: str
  hours:
    description: How long the request counts, 24 at most.
    type: float
    default: 8.0
  values:
    description: Values of points, as M(multi_sonicator.ops.registers) is going to get them.
    type: dict
    default: {}
seealso:
  - module: multi_sonicator.ops.firmware
  - module: multi_sonicator.ops.registers
"""

EXAMPLES = r"""
- name: Ask for the emergency stop of a press to be cleared
  multi_sonicator.ops.approval:
    operation: request
    controllers: "{{ controllers }}"
    only: [press_1]
    values: {emergency_stop: 0}
    reason: Cooling was mended, see ticket 4711
    approvals: ~/.local/state/multi_sonicator/approvals

- name: See who has signed
  multi_sonicator.ops.approval:
    operation: show
    controllers: "{{ controllers }}"
    approvals: ~/.local/state/multi_sonicator/approvals
"""

RETURN = r"""
request:
  description: What people are to sign, a mapping.
  returned: with O(operation=request)
  type: dict
file:
  description: Where it was put on the control node, or would be in check mode.
  returned: with O(operation=request)
  type: str
  sample: /home/ops/.local/state/multi_sonicator/approvals/gateway1-0b7f5c3e9a12.json
requests:
  description: One entry for each request in O(approvals).
  returned: with O(operation=show)
  type: list
  elements: dict
  contains:
    file:
      description: Its file on the control node.
      type: str
    wrong:
      description: Why it does not count on this gateway, empty where it does.
      type: str
    elsewhere:
      description: Whether it is for another gateway.
      type: bool
    by:
      description: Names of those who signed it.
      type: list
      elements: str
    missing:
      description: How many more have to sign.
      type: int
    used_for:
      description: Names of the controllers that it was used for, each once.
      type: list
      elements: str
    reason:
      description: What it is for.
      type: str
    controllers:
      description: What is to be done with each controller.
      type: dict
    expires:
      description: Until when it counts (UTC).
      type: str
approvers:
  description: Names of those who may approve.
  returned: with O(operation=show)
  type: list
  elements: str
needed:
  description: Whether the gateway has a file of approvers.
  returned: success
  type: bool
msg:
  description: The same for people.
  returned: always
  type: str
"""

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.gateway import Gateway, Result
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.operations import (
    request_approval,
    show_approvals,
)
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.targets import from_releases
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import (
    APPROVALS,
    RELEASE,
    ControllerModule,
)


def main() -> None:
    """Run the module."""
    module = ControllerModule(
        {
            "operation": {"type": "str", "choices": ["request", "show"], "required": True},
            "reason": {"type": "str"},
            "hours": {"type": "float", "default": 8.0},
            "values": {"type": "dict", "default": {}},
            "releases": {"type": "list", "elements": "dict", "default": [], "options": RELEASE},
            "version": {"type": "str"},
            **APPROVALS,
            "approvals": {"type": "path", "required": True},
        },
        required_if=[("operation", "request", ["reason"])],
    )
    params = module.params

    def answer(gateway: Gateway) -> Result:
        if params["operation"] == "show":
            return show_approvals(gateway)
        targets = {} if params["values"] else from_releases(gateway, params["releases"], params["version"], True)
        return request_approval(gateway, params["values"], targets, params["reason"], params["hours"])

    module.answer(answer)


if __name__ == "__main__":
    main()

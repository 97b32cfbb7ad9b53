#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: validation_info
short_description: Tell whether a gateway and its inventory are fit for production
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Checks the inventory's controllers for contradictions, their ports, and that each answers as its profile says, runs
    the wanted firmware and is healthy.
  - Checks the gateway's release of Debian, packages, services, journal, storage, memory, clock, names, certificates and
    permissions.
  - Changes nothing and sends reads only. What is wrong is a finding with its remedy, and no failure of the module.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.info
  - multi_sonicator.ops._controllers
options:
  firmware_version:
    description: The firmware that controllers without a C(firmware_version) of their own should run; any when empty.
    type: str
    default: ""
  names:
    description: Names of hosts that have to resolve, or URLs with them.
    type: list
    elements: str
    default: []
  certificates:
    description: Files of certificates on the gateway that have to last.
    type: list
    elements: str
    default: []
  certificate_days:
    description: For how many days a certificate should last.
    type: float
    default: 30.0
  packages:
    description: Debian's packages that have to be installed.
    type: list
    elements: str
    default: [avrdude, python3-serial, python3-yaml]
  services:
    description: Units of systemd that have to be active where they are there.
    type: list
    elements: str
    default: [multi-sonicator-keeper.service]
  directories:
    description: Directories that nobody but their owner may write, where they are there.
    type: list
    elements: str
    default: [/etc/multi_sonicator, /usr/local/lib/multi_sonicator, /var/lib/multi_sonicator]
  keys:
    description: Private keys that nobody else may read, beside those of sshd and below C(/etc/multi_sonicator).
    type: list
    elements: str
    default: []
  disk:
    description: Least room in O(state_directory), in MiB.
    type: float
    default: 500.0
  memory:
    description: Least memory that programs can still have, in MiB.
    type: float
    default: 64.0
  clock_tolerance:
    description: How far the gateway's clock may be from the control node's, in seconds.
    type: float
    default: 10.0
  control_time:
    description: The control node's clock, in seconds since 1970. The action plugin fills this in.
    type: float
seealso:
  - module: multi_sonicator.ops.discovery_info
"""

EXAMPLES = r"""
- name: Look at the gateway and its controllers
  multi_sonicator.ops.validation_info:
    controllers: "{{ controllers }}"
    names: [ntp.site.example]
  register: validation

- name: Refuse to go on with errors
  ansible.builtin.assert:
    that: validation.findings | selectattr('severity', 'equalto', 'error') | length == 0
"""

RETURN = r"""
findings:
  description: What the checks came to, errors first.
  returned: always
  type: list
  elements: dict
  contains:
    check:
      description: Name of the check.
      type: str
      sample: ports
    severity:
      description: C(ok), C(warning), C(error) or C(not_applicable).
      type: str
      sample: error
    gateway:
      description: Name of the gateway in the inventory.
      type: str
      sample: gateway_hall_1
    subject:
      description: What was looked at.
      type: str
      sample: programmer /dev/serial/by-id/usb-Arduino__www.arduino.cc__0043_5573932363435190-if00
    found:
      description: How it is.
      type: str
      sample: is not there
    expected:
      description: How it should be.
      type: str
      sample: a port that can be read and written
    remedy:
      description: How to mend it; empty where nothing is to be mended.
      type: str
      sample: check the cable and the name in the inventory
"""

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.validation import Wishes, validate
from ansible_collections.multi_sonicator.ops.plugins.module_utils.controller_module import ControllerModule


def main() -> None:
    """Run the module."""
    strings = {"type": "list", "elements": "str"}
    options = {
        "firmware_version": {"type": "str", "default": ""},
        "names": {**strings, "default": []},
        "certificates": {**strings, "default": []},
        "certificate_days": {"type": "float", "default": 30.0},
        "packages": {**strings, "default": ["avrdude", "python3-serial", "python3-yaml"]},
        "services": {**strings, "default": ["multi-sonicator-keeper.service"]},
        "directories": {
            **strings,
            "default": ["/etc/multi_sonicator", "/usr/local/lib/multi_sonicator", "/var/lib/multi_sonicator"],
        },
        "keys": {**strings, "default": [], "no_log": False},
        "disk": {"type": "float", "default": 500.0},
        "memory": {"type": "float", "default": 64.0},
        "clock_tolerance": {"type": "float", "default": 10.0},
        "control_time": {"type": "float"},
    }
    module = ControllerModule(options)
    given = module.params
    common = ("state_directory", "lock_directory", "only")
    wishes = Wishes(**{name: given[name] for name in (*options, *common)})
    findings = validate(given["controllers"], given["profiles"], wishes)
    module.exit_json(changed=False, findings=[finding.as_mapping() for finding in findings])


if __name__ == "__main__":
    main()

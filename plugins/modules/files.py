#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Bring a list of files and directories to a host, or take them away
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Does in one run on the host for a whole list what M(ansible.builtin.copy) and M(ansible.builtin.file) take one or
    two runs for each file. On small gateways a run costs more than what it does.
  - Judges all of them before it touches the first, so that one that cannot be written leaves the others as they were.
  - Each file is replaced as a whole, and at no moment can anybody read it whom its mode leaves out.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
attributes:
  diff_mode:
    support: full
    details: Does not show the content of files that their owner alone may read.
options:
  files:
    description: What is to be there, each directory before what is in it.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where it is.
        type: path
        required: true
      content:
        description:
          - The content of a file, such as that of P(ansible.builtin.template#lookup) or P(ansible.builtin.file#lookup).
          - A mapping or a list is written as JSON. A directory has no content.
        type: raw
      src:
        description:
          - A file of the control node that has the content; a relative one is the role's or the playbook's.
          - It is sent where the host has another one, and else known by its digest.
        type: path
      sha256:
        description: The digest that the content has to have; that of O(files[].src) unless given.
        type: str
      replace:
        description:
          - Whether another content may be replaced. With V(false) the module fails where there is one, and changes
            nothing.
        type: bool
        default: true
      mode:
        description: Octal digits; V(0644) for a file and V(0755) for a directory unless given.
        type: str
      owner:
        description: Name of the account; as it is, or the one that the module runs as, unless given.
        type: str
      group:
        description: Name of the group; as it is, or that of whom the module runs as, unless given.
        type: str
      validate:
        description: A command that has to agree before anything is changed; V(%s) in it is a file with the content.
        type: list
        elements: str
        default: []
  state:
    description: Whether they are to be there. V(absent) removes directories with all they have.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Bring a service's configuration
  multi_sonicator.ops.files:
    files:
      - {path: /etc/example}
      - path: /etc/example/example.conf
        content: "{{ lookup('ansible.builtin.template', 'example.conf.j2') }}"
      - path: /etc/example/password
        content: "{{ example_password }}"
        mode: "0400"
        owner: example
  no_log: true

- name: Bring a program, and a key that nothing but a person may replace
  multi_sonicator.ops.files:
    files:
      - {path: /opt/example/example.pyz, src: example.pyz, mode: "0755"}
      - {path: /opt/example/trusted.pub, src: trusted.pub, replace: false}
"""

RETURN = r"""
changed_paths:
  description: What was changed, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/example/example.conf]
lacking:
  description: Digests of contents that are not there; nothing was judged or changed. Between the module's two halves.
  returned: where files of the control node have to be sent first
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.files import lacking, plan

FILE = {
    "path": {"type": "path", "required": True},
    "content": {"type": "raw"},
    "src": {"type": "path"},
    "sha256": {"type": "str"},
    "replace": {"type": "bool", "default": True},
    "mode": {"type": "str"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "validate": {"type": "list", "elements": "str", "default": []},
}
RULES = {"mutually_exclusive": [("content", "src")]}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "files": {"type": "list", "elements": "dict", "required": True, "options": FILE, **RULES},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    done = []
    try:
        present = module.params["state"] == "present"
        if present and (missing := lacking(module.params["files"])):
            module.exit_json(changed=True, lacking=missing)
        changes = plan(module.params["files"], present, module.check_mode)
        for change in changes:
            if not module.check_mode:
                change.apply()
            done.append(change)
    except CoreError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        left = f"; changed before it: {', '.join(str(one.path) for one in done)}" if done else ""
        module.fail_json(msg=f"{error.filename}: {error.strerror}{left}", changed=bool(done))
    module.exit_json(
        changed=bool(changes),
        changed_paths=[str(change.path) for change in changes],
        diff=[change.diff() for change in changes],
    )


if __name__ == "__main__":
    main()

#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_files
short_description: Keep a backup of files of a host, or get them back
version_added: 0.1.0
author: Multi-Sonicator Operations contributors (@multi-sonicator)
description:
  - Stores files as a set with a manifest of digests in each target, by restic, or writes those of a set whose every
    file is verified.
  - For the control node, which has no controllers. Gateways keep their backups by themselves, see the role
    P(multi_sonicator.ops.backup#role).
  - The targets' passwords are in no file and no list of processes afterwards.
extends_documentation_fragment:
  - multi_sonicator.ops._attributes
  - multi_sonicator.ops._attributes.change
attributes:
  action:
    support: none
  diff_mode:
    support: none
    details: Files may be secret.
  idempotent:
    support: partial
    details: V(fetch) is. Each V(keep) is another set.
options:
  operation:
    description: V(keep) takes and stores a set, V(fetch) writes the files of one.
    type: str
    required: true
    choices: [keep, fetch]
  name:
    description: Name that the sets are stored under, which is that of the host, and of what part of it this is.
    type: str
    required: true
  files:
    description: With V(keep) the files and directories. All have to be there.
    type: list
    elements: path
    default: []
  excluded:
    description: Files and directories of them that are left out.
    type: list
    elements: path
    default: []
  targets:
    description: The backup targets, each with its own password.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the target.
        type: str
        required: true
      repository:
        description: The repository, as restic takes it.
        type: str
        required: true
      password:
        description: Its password.
        type: str
        required: true
      recovery_password:
        description: Another one, which the site keeps elsewhere; none when empty.
        type: str
        default: ""
      environment:
        description: What its backend needs, such as C(AWS_ACCESS_KEY_ID).
        type: dict
        default: {}
      options:
        description: Global options of restic, such as V(--cacert) with a path.
        type: list
        elements: str
        default: []
      append_only:
        description: Whether the target refuses to forget.
        type: bool
        default: false
      deadline:
        description: Longest time for each thing that is done with it, in seconds.
        type: float
        default: 3600.0
      mount:
        description: Where the medium of the repository is mounted. While none is there, nothing is stored or made.
        type: path
        default: ""
  kept:
    description: How many sets stay where they may be removed, in restic's periods such as V(last) and V(daily).
    type: dict
    default: {}
  directory:
    description: With V(keep) where the set is while it is stored, restic's caches, and what became of the last run.
    type: path
  interval:
    description: After how many seconds without a backup one is missing, for what is noted of the last run.
    type: float
    default: 93600
  metrics:
    description:
      - Directory of the textfile collector of Prometheus' node-exporter, for how old the backups are; nowhere when not
        given. With O(operation=keep).
    type: path
  set:
    description: With V(fetch) the id of the set, or V(latest).
    type: str
    default: latest
  backup_target:
    description: With V(fetch) the one target to take it from. Otherwise all are tried in their order.
    type: str
  into:
    description: With V(fetch) the directory that the files are written below, by their paths.
    type: path
  replace:
    description: With V(fetch) whether files that are there with other content are replaced. Else nothing is written.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Keep the site's inventory
  multi_sonicator.ops.backup_files:
    operation: keep
    name: control_node
    files: [/home/anna/site]
    directory: ~/.local/state/multi_sonicator/backup
    targets:
      - name: vault
        repository: rest:https://vault.example:8000/control_node
        password: "{{ vault_backup_password }}"
        recovery_password: "{{ vault_backup_recovery_password }}"
        append_only: true

- name: Get it back on another machine
  multi_sonicator.ops.backup_files:
    operation: fetch
    name: control_node
    into: /home/anna/back
    targets:
      - name: vault
        repository: rest:https://vault.example:8000/control_node
        password: "{{ recovery_password }}"
"""

RETURN = r"""
set:
  description: Id of the set; empty in check mode, where none is taken.
  returned: success
  type: str
  sample: 20261126T021500Z-3f9a1c0277e51b6d
taken:
  description: When it was taken, in UTC.
  returned: fetch
  type: str
  sample: "2026-11-26T02:15:00Z"
backup_target:
  description: The target that it came from.
  returned: fetch
  type: str
  sample: vault
files:
  description: What was kept or written, or would be in check mode.
  returned: success
  type: list
  elements: str
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core import backup
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.backup import Configuration
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.recovery import fetch_files
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.restic import Target

TARGET = {
    "name": {"type": "str", "required": True},
    "repository": {"type": "str", "required": True},
    "password": {"type": "str", "required": True, "no_log": True},
    "recovery_password": {"type": "str", "default": "", "no_log": True},
    "environment": {"type": "dict", "default": {}, "no_log": True},
    "options": {"type": "list", "elements": "str", "default": []},
    "append_only": {"type": "bool", "default": False},
    "deadline": {"type": "float", "default": 3600.0},
    "mount": {"type": "path", "default": ""},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "operation": {"type": "str", "required": True, "choices": ["keep", "fetch"]},
            "name": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path", "default": []},
            "excluded": {"type": "list", "elements": "path", "default": []},
            "targets": {"type": "list", "elements": "dict", "required": True, "options": TARGET},
            "kept": {"type": "dict", "default": {}},
            "directory": {"type": "path"},
            "interval": {"type": "float", "default": 93600.0},
            "metrics": {"type": "path"},
            "set": {"type": "str", "default": "latest"},
            "backup_target": {"type": "str"},
            "into": {"type": "path"},
            "replace": {"type": "bool", "default": False},
        },
        required_if=[("operation", "keep", ["files", "directory"]), ("operation", "fetch", ["into"])],
        supports_check_mode=True,
    )
    os.umask(0o077)
    try:
        answer = (_keep if module.params["operation"] == "keep" else _fetch)(module)
    except CoreError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}; check its permissions and the space that is left")
    module.exit_json(**answer)


def _configuration(module: AnsibleModule) -> Configuration:
    params = module.params
    return Configuration(
        params["name"],
        Path(params["directory"] or module.tmpdir) / params["name"],
        [Path(one) for one in params["files"]],
        [Path(one) for one in params["excluded"]],
        [Target(**one) for one in params["targets"]],
        Path(params["metrics"]) if params["metrics"] else None,
        params["interval"],
        {str(period): int(count) for period, count in params["kept"].items()},
    )


def _keep(module: AnsibleModule) -> dict[str, Any]:
    configuration = _configuration(module)
    if missing := backup.missing(configuration):
        raise CoreError(f"{', '.join(map(str, missing))}: not there; correct files, nothing was stored")
    answer = {"changed": True, "set": "", "files": [str(path) for path in backup.files(configuration, True)]}
    if module.check_mode:
        return answer
    _done, problems = backup.prepare(configuration)
    taken = backup.run(None, configuration)
    if problems or taken.problems:
        raise CoreError("; ".join(dict.fromkeys([*problems, *taken.problems])))
    return {**answer, "set": taken.manifest.id}


def _fetch(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    into = Path(params["into"])
    return fetch_files(
        _configuration(module), params["set"], params["backup_target"], into, params["replace"], module.check_mode
    )


if __name__ == "__main__":
    main()

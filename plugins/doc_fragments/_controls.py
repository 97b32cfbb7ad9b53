# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How controls of hardening are given to modules."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the list of controls."""

    DOCUMENTATION = r"""
options:
  controls:
    description:
      - Controls, each with what it is for and its settings. Those of sshd, of the kernel and of its modules become one
        file of each.
    type: list
    elements: dict
    required: true
    suboptions:
      id:
        description: Name of the control.
        type: str
        required: true
      title:
        description: What it is for, in one line.
        type: str
        required: true
      references:
        description: Where standards ask for it.
        type: dict
        required: true
      container:
        description: Why a container can not show it. There its units and its values of the kernel are not judged.
        type: str
        default: ""
      guarded:
        description: Whether its files and units can cut the control node off.
        type: bool
        default: false
      activate:
        description: Commands that follow a change of its files or lines, as lists of words.
        type: list
        elements: list
        default: []
      files:
        description: Whole files.
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description: Where.
            type: path
            required: true
          content:
            description: All of it.
            type: str
            required: true
          mode:
            description: Its mode, as four octal digits.
            type: str
            default: "0644"
          validate:
            description: A command that judges the new file, in place of C(%s) before it is used, else after that.
            type: list
            elements: str
            default: []
      lines:
        description: Lines of a key and a value, in files that have no drop-ins.
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description: Which file.
            type: path
            required: true
          key:
            description: First word of the line.
            type: str
            required: true
          value:
            description: The rest of it.
            type: str
            required: true
      modes:
        description: The most that paths of root may permit, as four octal digits. Missing ones do not matter.
        type: dict
        default: {}
      once:
        description: Files that a command makes of the host as it is, once.
        type: list
        elements: dict
        default: []
        suboptions:
          creates:
            description: The file.
            type: path
            required: true
          argv:
            description: The command, as a list of words.
            type: list
            elements: str
            required: true
          stdout:
            description: Whether the file is what the command prints.
            type: bool
            default: false
      units:
        description: Units of systemd that are V(enabled), and run, or V(masked), where there are such.
        type: dict
        default: {}
      sshd:
        description: Keywords of sshd's configuration. Of algorithms the host gets those that its OpenSSH knows.
        type: dict
        default: {}
      sysctl:
        description: Values of the kernel. A name that begins with C(-) is of something that not every kernel has.
        type: dict
        default: {}
      modules:
        description: Kernel modules that are refused.
        type: list
        elements: str
        default: []
      packages:
        description: Packages of Debian. They are looked at only.
        type: list
        elements: str
        default: []
      mounts:
        description: Options of mount that directories have. They are looked at only.
        type: dict
        default: {}
      firewall:
        description: The file of rules for nftables that are in force. It is looked at only.
        type: path
"""

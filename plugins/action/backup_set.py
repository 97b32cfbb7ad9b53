# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node's half of the module backup_set."""

from __future__ import annotations

from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.controller_action import ActionModule

__all__ = ["ActionModule"]

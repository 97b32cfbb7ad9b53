# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has a run give a lost gateway up after the seconds that the environment variable RECONNECT_DEADLINE says."""

from __future__ import annotations

import os

from ansible.plugins.callback import CallbackBase
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import watched_action

DOCUMENTATION = """
name: impatient
type: notification
short_description: Shorten the deadline of reconnecting for tests
version_added: 0.1.0
description: Sets it before the workers are forked that wait for it.
"""


class CallbackModule(CallbackBase):
    """Callback plugin."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "impatient"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        watched_action._RECONNECT_DEADLINE = float(os.environ["RECONNECT_DEADLINE"])

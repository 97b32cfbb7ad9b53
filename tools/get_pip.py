# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the pip bootstrap that ansible-test downloads for each of its environments.

Its host may be out of reach where the package registry is not. Python brings a pip of its own, which is as good here.
"""

from __future__ import annotations

import ensurepip

ensurepip.bootstrap()

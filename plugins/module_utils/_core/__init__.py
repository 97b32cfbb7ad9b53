# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on a gateway: profiles, serial lines, programmers and the firmware transaction, free of Ansible."""

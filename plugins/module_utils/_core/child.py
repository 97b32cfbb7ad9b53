# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that work for us, such as avrdude and restic, and end when we do."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Who is killed before the signal is asked for leaves a child with another parent, which then begins nothing.
_TIED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9);"
    "os.getppid() == int(sys.argv[1]) and os.execvp(sys.argv[2], sys.argv[2:])"
)


def tied(command: Sequence[str]) -> list[str]:
    """``command`` as one that is killed when the thread that starts it ends, however that comes about.

    util-linux has setpriv for it, which does not see whether it is too late and wants privileges for other things.
    """
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests for approval in a directory of the control node, each beside the signatures that people put there.

::

    GATEWAY-ID.json             a request, as the gateway wrote it
    GATEWAY-ID.json.NAME.sig    the signature of NAME
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.approval import canonical
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import age, write_atomically

_DAY = 86400


def collect(directory: Path) -> list[dict[str, Any]]:
    """The requests of ``directory`` with their signatures, for a gateway to judge; none where it is not there.

    Those that expired more than a day ago concern nobody any more.
    """
    if not directory.exists():
        return []
    try:
        return [_read(path) for path in sorted(directory.glob("*.json")) if not _is_old(path)]
    except (OSError, UnicodeDecodeError) as error:
        raise CoreError(f"approvals {directory}: {error}; expected to read requests and signatures there") from None


def _read(path: Path) -> dict[str, Any]:
    signatures = sorted([*path.parent.glob(f"{path.name}.sig"), *path.parent.glob(f"{path.name}.*.sig")])
    return {
        "file": str(path),
        "request": path.read_text(encoding="utf-8"),
        "signatures": [one.read_text(encoding="utf-8") for one in signatures],
    }


def _is_old(path: Path) -> bool:
    try:
        return age(json.loads(path.read_bytes())["expires"]) > _DAY
    except (ValueError, TypeError, KeyError):
        return False  # the gateway tells what is wrong with it


def write(directory: Path, host: str, request: Mapping[str, Any]) -> Path:
    """Put a request of the gateway ``host`` into ``directory``; returns its file."""
    path = place(directory, host, request)
    try:
        write_atomically(path, canonical(request))
    except OSError as error:
        raise CoreError(f"{error.filename or path}: {error.strerror}; name another directory for approvals") from None
    return path


def place(directory: Path, host: str, request: Mapping[str, Any]) -> Path:
    """Where a request is put."""
    return directory / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', host)}-{str(request['id'])[:12]}.json"

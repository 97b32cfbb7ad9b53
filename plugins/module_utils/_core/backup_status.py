# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a gateway's backups, on disk: it survives a reboot, and no failure is forgotten before a success."""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .backup_set import Manifest
from .errors import MissingPackage
from .store import now, write_atomically

STATUS = "status.json"
METRICS = "multi_sonicator_backup.prom"


class Status:
    """The file in ``directory``, and the metrics made of it in the directory ``metrics``, if that is given.

    ``interval``: after how many seconds without a success a backup is missing.
    """

    def __init__(self, directory: Path, gateway: str, interval: float, metrics: Path | None) -> None:
        self._path = directory / STATUS
        self._metrics = metrics
        try:
            self.data: dict[str, Any] = json.loads(self._path.read_bytes())
        except (OSError, ValueError):  # none yet, or one that somebody has edited
            self.data = {}
        self.data |= {"gateway": gateway, "interval": interval}

    def note(self, manifest: Manifest | None, problems: Sequence[str], errors: Mapping[str, str | None]) -> None:
        """Write down what became of a run: of each target an error, or None where it has the set ``manifest``."""
        moment = now()
        known = self.data.get("targets") or {}
        targets = {}
        for name, error in errors.items():
            one = known.get(name) or {"last_success": None, "set": None, "failures": 0}
            if error is None and manifest is not None:
                one |= {"last_success": moment, "set": manifest.id}
            else:
                one |= {"failures": one["failures"] + 1}
            targets[name] = {**one, "error": error}
        self.data |= {
            "last_run": moment,
            "failed": bool(problems) or any(errors.values()),
            "problems": list(problems),
            "targets": targets,
        }
        if manifest is not None:
            self.data |= {"set": manifest.id, "size": manifest.size}
        write_atomically(self._path, json.dumps(self.data, indent=2).encode() + b"\n")
        self._path.chmod(0o644)
        if self._metrics is not None:
            self._measure(self._metrics / METRICS)

    def _measure(self, path: Path) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, write_to_textfile
        except ImportError:
            raise MissingPackage(
                "the Python library prometheus_client is missing; install the Debian package python3-prometheus-client"
            ) from None
        registry = CollectorRegistry()

        def gauge(name: str, text: str, value: float) -> None:
            Gauge(f"multi_sonicator_backup_{name}", text, registry=registry).set(value)

        gauge("last_run_timestamp_seconds", "When a set was taken last.", _epoch(self.data["last_run"]))
        gauge("last_run_failed", "Whether something of it is missing anywhere.", self.data["failed"])
        gauge("interval_seconds", "After so long without a success one is missing.", self.data["interval"])
        gauge("set_bytes", "Size of the newest set.", self.data.get("size") or 0)
        success = Gauge(
            "multi_sonicator_backup_last_success_timestamp_seconds",
            "When a target got a set last, 0 where it never did.",
            ["target"],
            registry=registry,
        )
        failed = Gauge(
            "multi_sonicator_backup_target_failed", "Whether the last run did not.", ["target"], registry=registry
        )
        failures = Counter(
            "multi_sonicator_backup_failures", "Runs that could not store their set.", ["target"], registry=registry
        )
        for name, one in self.data["targets"].items():
            success.labels(name).set(_epoch(one["last_success"]))
            failed.labels(name).set(one["error"] is not None)
            failures.labels(name).inc(one["failures"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(path), registry)
        path.chmod(0o644)


def _epoch(moment: str | None) -> float:
    return float(calendar.timegm(time.strptime(moment, "%Y-%m-%dT%H:%M:%SZ"))) if moment else 0.0

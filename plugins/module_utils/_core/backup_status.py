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
from .restic import Snapshot
from .store import now, write_atomically

STATUS = "status.json"
_PREFIX = "multi_sonicator_backup"
METRICS = "multi_sonicator_backup{}.prom"


class Status:
    """The file in ``directory``, and the metrics made of it in the directory ``metrics``, if that is given.

    ``interval``: after how many seconds without a success a backup is missing. ``several`` says that the machine keeps
    other sets too, so that the metrics name this one.
    """

    def __init__(
        self, directory: Path, gateway: str, interval: float, metrics: Path | None, several: bool = False
    ) -> None:
        self._path = directory / STATUS
        self._metrics = metrics and metrics / METRICS.format(f"_{gateway}" if several else "")
        self._labels = {"set": gateway} if several else {}
        try:
            self.data: dict[str, Any] = json.loads(self._path.read_bytes())
        except (OSError, ValueError):  # none yet, or one that somebody has edited
            self.data = {}
        self.data |= {"gateway": gateway, "interval": interval}

    def note(
        self,
        manifest: Manifest | None,
        problems: Sequence[str],
        errors: Mapping[str, str | None],
        there: Mapping[str, Sequence[Snapshot]] | None = None,
    ) -> None:
        """Write down what became of a run: of each target an error, or None where it has the set ``manifest``.

        ``there``: the sets that each target has by now, oldest first, where it told.
        """
        moment = now()
        known = self.data.get("targets") or {}
        targets = {}
        for name, error in errors.items():
            one = known.get(name) or {"last_success": None, "set": None, "failures": 0}
            if error is None and manifest is not None:
                one |= {"last_success": moment, "set": manifest.id}
            else:
                one |= {"failures": one["failures"] + 1}
            if there and there.get(name):
                one |= {"sets": len(there[name]), "oldest": there[name][0].moment}
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
            self._measure(self._metrics)

    def _measure(self, path: Path) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, write_to_textfile
        except ImportError:
            raise MissingPackage(
                "the Python library prometheus_client is missing; install the Debian package python3-prometheus-client"
            ) from None
        registry = CollectorRegistry()
        known: dict[str, Gauge] = {}

        def gauge(name: str, text: str, value: float, **more: str) -> None:
            made = known.get(name) or Gauge(f"{_PREFIX}_{name}", text, [*self._labels, *more], registry=registry)
            known[name] = made
            labels = {**self._labels, **more}
            (made.labels(**labels) if labels else made).set(value)

        gauge("last_run_timestamp_seconds", "When a set was taken last.", _epoch(self.data["last_run"]))
        gauge("last_run_failed", "Whether something of it is missing anywhere.", self.data["failed"])
        gauge("interval_seconds", "After so long without a success one is missing.", self.data["interval"])
        gauge("set_bytes", "Size of the newest set.", self.data.get("size") or 0)
        text = "Runs that could not store their set."
        failures = Counter(f"{_PREFIX}_failures", text, [*self._labels, "target"], registry=registry)
        for name, one in self.data["targets"].items():
            text = "When a target got a set last, 0 where it never did."
            gauge("last_success_timestamp_seconds", text, _epoch(one["last_success"]), target=name)
            gauge("target_failed", "Whether the last run did not.", one["error"] is not None, target=name)
            gauge("sets", "How many sets a target has.", one.get("sets") or 0, target=name)
            text = "When the oldest set was taken that a target has, 0 where it has none."
            gauge("oldest_set_timestamp_seconds", text, _epoch(one.get("oldest")), target=name)
            failures.labels(**self._labels, target=name).inc(one["failures"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(path), registry)
        path.chmod(0o644)


def _epoch(moment: str | None) -> float:
    return float(calendar.timegm(time.strptime(moment, "%Y-%m-%dT%H:%M:%SZ"))) if moment else 0.0

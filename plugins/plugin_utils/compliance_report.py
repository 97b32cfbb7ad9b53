# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether gateways comply, as one HTML file that needs nothing else and the same as JSON.

A waiver turns a control that fails into a waived one until its day. What the hosts say is escaped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.errors import CoreError
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.store import write_atomically
from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATE = Path(__file__).with_name("compliance_report.html.j2")
VERDICTS = ("fail", "waived", "cannot_tell", "not_applicable", "pass")

Controls = Sequence[Mapping[str, Any]]
Waivers = Sequence[Mapping[str, Any]]


class ReportError(CoreError):
    """A report that cannot be made or written."""


def judge(controls: Controls, waivers: Waivers, today: date) -> list[dict[str, Any]]:
    """The controls of one host with what its waivers make of them. ReportError for a waiver without a proper date."""
    judged = []
    for control in controls:
        named = [waiver for waiver in waivers if waiver["control"] == control["id"]]
        valid = [waiver for waiver in named if today < _day(waiver)]
        entry = {**control, "waiver": dict(named[-1]) if named else None}
        if control["verdict"] == "fail" and valid:
            entry |= {"verdict": "waived", "waiver": dict(valid[-1])}
        elif control["verdict"] == "fail" and named:
            entry["remark"] = f"the waiver of {named[-1]['by']} has expired on {named[-1]['expires']}"
        judged.append(entry)
    return judged


def _day(waiver: Mapping[str, Any]) -> date:
    try:
        return date.fromisoformat(str(waiver["expires"]))
    except ValueError:
        raise ReportError(
            f"waiver of {waiver['control']}: {waiver['expires']!r}: expected a day as 2027-03-31"
        ) from None


def render(report: Mapping[str, Any]) -> str:
    """The report as HTML. Pure."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counts"] = counts
    return environment.get_template(_TEMPLATE.name).render(report=report, verdicts=VERDICTS)


def counts(controls: Controls) -> list[tuple[str, int]]:
    """How many there are of each verdict, the worst first."""
    found = Counter(control["verdict"] for control in controls)
    return [(verdict, found[verdict]) for verdict in VERDICTS if found[verdict]]


def make(hosts: Mapping[str, Mapping[str, Any]], waivers: Mapping[str, Waivers], moment: datetime) -> dict[str, Any]:
    """The report as of ``moment``, of what compliance_info returned for each host. Pure."""
    today = moment.date()
    return {
        "time": f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "hosts": [
            {
                "name": name,
                "container": found["container"],
                "controls": judge(found["controls"], waivers.get(name) or (), today),
            }
            for name, found in sorted(hosts.items())
        ],
    }


def write(report: Mapping[str, Any], directory: Path) -> tuple[Path, Path]:
    """Put it into ``directory`` as HTML and JSON, named by its time; their paths. ReportError where that cannot be."""
    stem = directory / f"compliance-{report['time'].replace(':', '').replace('-', '')}"
    page, data = stem.with_suffix(".html"), stem.with_suffix(".json")
    try:
        # Half a surrogate pair is text for JSON, but not for UTF-8.
        write_atomically(page, render(report).encode(errors="xmlcharrefreplace"))
        write_atomically(data, f"{json.dumps(report, indent=2)}\n".encode())
    except OSError as error:
        raise ReportError(f"{page}: {error.strerror}; check its permissions and the space that is left") from None
    return page, data

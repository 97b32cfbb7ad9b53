# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report makes of findings and waivers."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.compliance_report import (
    ReportError,
    judge,
    make,
    render,
    write,
)

MOMENT = datetime(2026, 11, 25, 22, 15, tzinfo=UTC)
WAIVER = {"control": "usb", "reason": "no USB here", "by": "A. Smith", "expires": "2026-12-01"}


def control(verdict: str, **more: Any) -> dict[str, Any]:
    finding = {"what": "unit x", "expected": "runs", "found": "<b>", "evidence": "systemctl", "verdict": verdict}
    return {
        "id": "usb",
        "title": "Known devices only",
        "references": {"cis": "1.1.1.9", "iec": "CR 2.1", "nist": "SC-41"},
        "verdict": verdict,
        "remark": "",
        "findings": [finding],
        **more,
    }


@pytest.mark.parametrize(
    ("verdict", "today", "expected"),
    [
        ("fail", date(2026, 11, 30), "waived"),
        ("fail", date(2026, 12, 1), "fail"),
        ("pass", date(2026, 11, 30), "pass"),
        ("cannot_tell", date(2026, 11, 30), "cannot_tell"),
    ],
)
def test_a_waiver_holds_until_its_day_and_for_failures_only(verdict: str, today: date, expected: str) -> None:
    (judged,) = judge([control(verdict)], [WAIVER], today)
    assert judged["verdict"] == expected
    assert judged["waiver"] == WAIVER
    assert ("expired on 2026-12-01" in judged["remark"]) is (expected == "fail")


def test_a_waiver_of_another_control_does_not_count() -> None:
    (judged,) = judge([control("fail")], [{**WAIVER, "control": "audit"}], date(2026, 11, 30))
    assert (judged["verdict"], judged["waiver"]) == ("fail", None)


def test_a_waiver_without_a_day_is_refused() -> None:
    with pytest.raises(ReportError, match="waiver of usb: 'soon': expected a day"):
        judge([control("fail")], [{**WAIVER, "expires": "soon"}], date(2026, 11, 30))


def test_both_files_say_the_same(tmp_path: Path) -> None:
    hosts = {
        "gw2": {"container": True, "controls": [control("fail")]},
        "gw1": {"container": False, "controls": [control("pass")]},
    }
    report = make(hosts, {"gw2": [WAIVER]}, MOMENT)
    page, data = write(report, tmp_path / "new")
    assert page.name == "compliance-20261125T221500Z.html"
    assert json.loads(data.read_text()) == report
    text = page.read_text()
    assert text.index("<h2>gw1</h2>") < text.index("<h2>gw2</h2>")
    assert "Waiver until 2026-12-01 by A. Smith: no USB here" in text


def test_what_hosts_say_is_escaped() -> None:
    page = render(make({"gw": {"container": False, "controls": [control("fail", title="<script>")]}}, {}, MOMENT))
    assert "<script>" not in page and "<b>" not in page

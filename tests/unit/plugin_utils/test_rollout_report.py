# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a rollout: its verdict, what it tells of each controller, and that nothing in it is more than text."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_plan import Plan
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_report import render, write
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_run import Run, draw_up
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.rollout_state import RolloutError, RolloutState
from hypothesis import example, given, settings
from hypothesis import strategies as st

BEGUN = datetime(2025, 11, 25, 8, tzinfo=UTC)
NAMES = ("one", "two", "three")
POLICY = {"approve_before": [2], "budget": {"max_failures": 1}, "cell_default": {"min_in_service": 0}}
DRIVER = {"host": "control", "pid": 4711, "started": "1"}
VOID = {"meta", "br", "wbr"}
HOSTILE = "\"><script>alert('x')</script>{{ 7 * 7 }}\u202e\x00&amp;\ud800"


def stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def deployed(**more: Any) -> dict[str, Any]:
    return {
        "outcome": "deployed",
        "failed": False,
        "message": "1.0.0 → 1.1.0, proven on the device",
        "before": {"version": "1.0.0", "digest": None},
        "after": {"version": "1.1.0", "digest": "0123456789abcdef"},
        "seconds": 20.0,
        "transaction": "20251125T080020Z-42fd18",
        "set": "20251125T080021Z-05df4d",
        **more,
    }


DEPLOYED = deployed()
BACK = deployed(outcome="rolled_back", failed=True, message="silent after its start; back on 1.0.0")
SILENT = {"outcome": "unreachable", "failed": True, "message": "no route to host"}


class Story:
    """A rollout of three controllers, one of them a canary, as the disk tells it, with times that a test gives."""

    def __init__(self, directory: Path, names: Sequence[str] = NAMES, **policy: Any) -> None:
        entries = [{"gateway": "gateway", "name": name, "cell": f"cell {name}"} for name in names]
        plan = draw_up(entries, [f"gateway/{name}" for name in names], {**POLICY, **policy}).to_mapping()
        self.state = RolloutState(directory, "test")
        self.state.path.mkdir()
        kept = {"id": "test", "created": stamp(BEGUN), "who": "jo@control", "what": "1.1.0", "plan": plan}
        (self.state.path / "plan.json").write_text(json.dumps(kept))
        self.clock = BEGUN
        self.add("begun", who="jo@control", driver=DRIVER)

    def add(self, event: str, after: int = 0, /, **data: Any) -> Story:
        """An event so many seconds after the one before."""
        self.clock += timedelta(seconds=after)
        with (self.state.path / "events.jsonl").open("a") as stream:
            stream.write(json.dumps({"time": stamp(self.clock), "event": event, **data}) + "\n")
        return self

    def work(self, wave: int, *results: Mapping[str, Any], undo: bool = False) -> Story:
        """The members of a wave come to these results, 40 s after they were begun."""
        steps = Plan.from_mapping(self.state.plan()["plan"]).waves[wave - 1]
        members = [member.id for step in steps for member in step]
        self.add("step", 10, wave=wave, step=1, undo=undo, members=members)
        for number, (member, result) in enumerate(zip(members, results, strict=False)):
            self.add("result", 0 if number else 40, member=member, **result)
        return self

    def page(self) -> str:
        results = Run(self.state, print).results()
        return render(self.state.plan(), self.state.events(), results, self.clock + timedelta(seconds=30))


class Page(HTMLParser):
    """A page as a browser takes it: elements with their attributes, and the text of each."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "title"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def structure(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]

    def marks(self, label: str) -> list[tuple[str | None, float, float]]:
        """Kind, place and width of what is drawn on the time line with this label."""
        begin = next(place for place, (_tag, one) in enumerate(self.elements) if one.get("aria-label") == label)
        found = []
        for tag, one in self.elements[begin + 1 :]:
            if tag != "rect":
                break
            found.append((one["class"], float(one["x"] or ""), float(one["width"] or "")))
        return found


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_the_verdict_comes_first(story: Story) -> None:
    story.work(1, DEPLOYED).add("approved", 30, wave=2, who="rana@control").work(2, DEPLOYED, DEPLOYED)
    text = Page(story.add("ended", 5, failed=False, reason="3 controllers: 3 done").page()).text
    assert text.startswith("Rollout test Finished 3 controllers: 3 done 3 done Brought to 1.1.0")
    assert "2025-11-25 08:00:00 to 2025-11-25 08:02:15 UTC How long 2 min 15 s" in text
    assert "begun by jo@control, process 4711 on control" in text
    assert "0 of 3 attempted; budget: at most 1 failed" in text
    assert "What failed and why" not in text


@pytest.mark.parametrize(("failed", "title"), [(False, "Finished, but 1 failed"), (True, "Stopped")])
def test_what_failed_is_told_in_full(story: Story, failed: bool, title: str) -> None:
    long = "avrdude ended with 1: " + "protocol expects sync byte 0x14; " * 50 + "back on 1.0.0"
    story.work(1, {**BACK, "message": long}).add("ended", failed=failed, reason="so it is")
    text = Page(story.page()).text
    assert text.startswith(f"Rollout test {title} so it is 2 pending 1 failed")
    assert "1 of 1 attempted" in text
    assert f"What failed and why gateway/one {long} Waves" in text


def test_the_same_reason_is_told_once(story: Story) -> None:
    story.work(1, SILENT).add("approved", wave=2, who="jo@control").work(2, SILENT, SILENT)
    text = Page(story.page()).text
    assert "What failed and why gateway/one, gateway/three, gateway/two no route to host Waves" in text


def test_a_wave_that_nobody_has_approved(story: Story) -> None:
    text = Page(story.work(1, DEPLOYED).page()).text
    assert text.startswith("Rollout test Waits for approval wave 2 needs approval")
    assert "2025-11-25 08:01:20 UTC (when this was written)" in text
    assert "2 2 1 not yet not begun" in text
    assert "pending not begun" in text


def test_who_approved_and_who_asked_for_what(story: Story) -> None:
    story.work(1, DEPLOYED).add("approved", 30, wave=2, who="rana@control").add(
        "request", 5, request="pause", who="kim@elsewhere"
    )
    text = Page(story.page()).text
    assert "2 2 1 rana@control 2025-11-25 08:01:20 not begun" in text
    assert "Asked for 2025-11-25 08:01:25 pause by kim@elsewhere" in text
    assert "Not ended paused by an operator" in text


def test_each_attempt_is_told(story: Story) -> None:
    """One that a dead run left, one that failed, one that was deployed, and the way back of an abort."""
    story.work(1).add("resumed", 20, who="jo@control", driver=DRIVER, retry=False)
    story.work(1, BACK).add("ended", failed=True, reason="too many")
    story.add("resumed", 20, who="rana@control", driver=DRIVER, retry=True).work(1, DEPLOYED)
    story.add("request", request="abort", who="kim@elsewhere").work(
        1, deployed(outcome="restored", message="as before"), undo=True
    )
    page = Page(story.page())
    assert [kind for kind, _place, _width in page.marks("when gateway/one was worked on")] == [
        "open",
        "bad",
        "good",
        "undo",
    ]
    assert [kind for kind, _place, _width in page.marks("when wave 1 was worked on")] == [
        "work",
        "work",
        "work",
        "undo",
    ]
    for message in ("interrupted: the run", "rolled back: silent", "deployed: 1.0.0", "back: restored: as before"):
        assert message in page.text
    assert "1 undone" in page.text
    assert "resumed what failed is tried again: by rana@control" in page.text


def test_what_is_known_of_a_controller_is_in_its_row(story: Story) -> None:
    text = Page(story.work(1, DEPLOYED).page()).text
    row = "gateway /one cell one done 20 s 1.0.0 → 1.1.0 0123456789ab deployed: 1.0.0 → 1.1.0, proven on the device"
    assert f"{row} transaction 20251125T080020Z-42fd18 set 20251125T080021Z-05df4d" in text


def test_firmware_that_is_the_same_is_told_once(story: Story) -> None:
    same = {"version": "1.1.0", "digest": "0123456789abcdef"}
    text = Page(story.work(1, deployed(outcome="unchanged", before=same, after=same)).page()).text
    assert "20 s 1.1.0 0123456789ab unchanged:" in text


@pytest.mark.parametrize(
    ("transaction", "seconds", "place"),
    [
        ("20251125T080020Z-42fd18", 20.0, (100.0, 200.0)),
        ("20251125T070000Z-42fd18", 20.0, (0.0, 200.0)),  # the gateway's clock is slow
        ("20251125T093000Z-42fd18", 20.0, (200.0, 200.0)),
        (None, 10.0, (0.0, 100.0)),
        ("20251125T080020Z-42fd18", 0.0, (100.0, 4.0)),  # too short to be seen
        ("20251125T080020Z-42fd18", 10**400, (0.0, 400.0)),
        ("20251125T080020Z-42fd18", float("nan"), (0.0, 400.0)),
        ("20251125T080020Z-42fd18", "20", (0.0, 400.0)),
    ],
    ids=["true", "slow clock", "fast clock", "no transaction", "short", "huge", "no number", "text"],
)
def test_when_a_controller_was_worked_on(
    story: Story, transaction: Any, seconds: Any, place: tuple[float, float]
) -> None:
    """First for 40 s from 08:00:10, then again, in the transaction of then; the wave takes 100 s."""
    story.work(1, deployed(transaction=transaction, seconds=seconds))
    page = Page(story.add("resumed", 10, who="jo@control", driver=DRIVER, retry=True).work(1, DEPLOYED).page())
    assert page.marks("when gateway/one was worked on") == [("good", *place), ("good", 600.0, 200.0)]


def test_soak_and_approval_are_on_the_time_line(tmp_path: Path) -> None:
    story = Story(tmp_path, soak=50)
    story.work(1, DEPLOYED).add("approved", 50, wave=2, who="jo@control").work(2, DEPLOYED, DEPLOYED)
    page = Page(story.add("ended", 50, failed=False, reason="done").page())
    assert page.marks("when wave 1 was worked on") == [("soak", 250.0, 250.0), ("work", 50.0, 200.0)]
    assert page.marks("when wave 2 was worked on")[-1] == ("approved", 500.0, 4.0)


def test_times_of_a_long_rollout_have_units(story: Story) -> None:
    story.work(1, deployed(seconds=3725.4)).add("ended", 2 * 86400 + 3600 - 50, failed=False, reason="done")
    text = Page(story.page()).text
    assert "How long 2 d 1 h" in text and "1 h 2 min 1.0.0" in text


def test_nothing_is_fetched_and_nothing_runs(story: Story) -> None:
    page = Page(story.work(1, DEPLOYED).page())
    assert {"content": "default-src 'none'; style-src 'unsafe-inline'"}.items() <= page.elements[3][1].items()
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _attributes in page.elements}
    names = {name for _tag, attributes in page.elements for name in attributes}
    assert not [name for name in names if name in ("src", "href", "style") or name.startswith("on")]
    assert "url(" not in story.page() and "@import" not in story.page()


TEXTS = st.text(min_size=1).filter(str.strip)


@settings(max_examples=30, deadline=None)
@given(st.lists(TEXTS.filter(lambda text: "/" not in text), min_size=3, max_size=3, unique=True), TEXTS)
@example([HOSTILE.replace("/", ""), "<!--", "]]>"], HOSTILE)
def test_hostile_text_stays_text(names: list[str], text: str) -> None:
    """Whatever is said makes no element and no attribute: the page is built like one about harmless controllers."""

    def page(names: Sequence[str], text: str) -> str:
        version = {"version": text, "digest": text}
        result = deployed(failed=True, message=text, after=version, transaction=text, set=text)
        with tempfile.TemporaryDirectory() as directory:
            story = Story(Path(directory), names, canaries=[f"gateway/{names[0]}"])
            story.work(1, result).add("request", request="stop", who=text)
            return story.add("ended", failed=True, reason=text).page()

    assert Page(page(names, text)).structure == Page(page(NAMES, "text")).structure


@pytest.mark.parametrize("value", [None, "text", 7, [HOSTILE], {"version": [1], "digest": {"a": 1}}])
def test_a_gateway_that_answers_nonsense_spoils_nothing(story: Story, value: Any) -> None:
    odd = deployed(before=value, after=value, seconds=value, transaction=value, set=value, outcome=value)
    assert "gateway /one" in Page(story.work(1, odd).page()).text


def test_two_hundred_controllers_make_a_small_file(tmp_path: Path) -> None:
    names = [f"press_{number}" for number in range(200)]
    story = Story(tmp_path, names).work(1, DEPLOYED).add("approved", wave=2, who="jo").work(2, *[DEPLOYED] * 199)
    page = story.page()
    assert len(re.findall("deployed: 1.0.0", Page(page).text)) == 2 * 200  # in its row, and as an event
    assert len(page) < 300_000


def test_it_is_written_beside_the_plan(story: Story) -> None:
    """Also where a text is half a surrogate pair, which JSON admits; and it replaces an older one."""
    story.work(1, deployed(message=HOSTILE))
    for title in ("Waits for approval", "Stopped"):
        path = write(story.state, Run(story.state, print).results())
        assert path == story.state.path / "report.html"
        assert Page(path.read_text()).text.startswith(f"Rollout test {title}")
        story.add("ended", failed=True, reason="enough")
    assert sorted(one.name for one in path.parent.iterdir()) == ["events.jsonl", "plan.json", "report.html"]


def test_one_that_cannot_be_written_says_where(story: Story) -> None:
    (story.state.path / "report.html").mkdir()
    with pytest.raises(RolloutError, match=r"report\.html: Is a directory; check its permissions"):
        write(story.state, Run(story.state, print).results())

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as approved on a gateway: requests and signatures of the real ssh-keygen, altered in every way."""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime
import os
import subprocess
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _core import approval
from _core.approval import Act, ApprovalError, Approvals, NotApproved, canonical
from _core.errors import CoreError, MissingPackage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.approvals import People

ACT = Act(
    "registers",
    "press",
    {"line": "/dev/line", "unit": 2, "profile": "0123456789ab", "values": {"emergency_stop": 0}},
    "writing emergency_stop = 0",
)
BOUNDED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture(autouse=True)
def usual(people: People) -> None:
    people.write_approvers("alice", "bob", "carol")


class Place:
    """A gateway that knows these people, and a request for ``ACT`` there."""

    def __init__(self, state: Path, people: People) -> None:
        self.state = state
        self.people = people
        self.request = self.approvals().request([ACT], "Cooling was mended", 8)
        self._offers: dict[tuple[str, ...], dict[str, Any]] = {}

    def approvals(self, *offers: dict[str, Any]) -> Approvals:
        return Approvals(self.state, self.people.approvers, offers)

    def offer(self, *names: str) -> dict[str, Any]:
        """The request signed by these, made once, since signing takes its time."""
        if names not in self._offers:
            self._offers[names] = self.people.offer(self.request, *names)
        return copy.deepcopy(self._offers[names])

    def refusal(self, *offers: dict[str, Any], act: Act = ACT) -> str:
        """Why this is not approved, by any of the ways to ask; AssertionError where it is."""
        for ask in (lambda one: self.approvals(*offers).use(one), self.approvals(*offers).require):
            with pytest.raises(NotApproved) as caught:
                ask(act)
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path, people: People) -> Place:
    return Place(tmp_path / "state", people)


def test_two_persons_approve(place: Place) -> None:
    approvals = place.approvals(place.offer("bob", "alice"))
    assert approvals.require(ACT)
    used = approvals.use(ACT)
    assert used and used.by == ("alice", "bob")
    assert used.told == {**used.told, "reason": "Cooling was mended", "id": place.request["id"]}
    assert str(used) == "approved by alice and bob: Cooling was mended"


def test_without_approvers_nothing_is_asked(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path, tmp_path / "approvers")
    assert (approvals.needed, approvals.require(ACT), approvals.use(ACT)) == (False, None, None)


def test_the_usual_file_counts_wherever_the_option_leads(
    place: Place, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval, "APPROVERS", str(people.approvers))
    with pytest.raises(NotApproved):
        Approvals(tmp_path, tmp_path / "none").require(ACT)


def test_what_is_missing_is_said(place: Place) -> None:
    nobody = place.refusal()
    assert nobody.startswith("writing emergency_stop = 0 needs approvals by 2 different persons, and no request for")
    one = place.refusal(place.offer("alice"))
    assert "needs approvals by 2 different persons, has 1 (alice); have somebody else sign request.json with: " in one
    assert "ssh-keygen -Y sign -n multi-sonicator-approval -f KEY < request.json > request.json.NAME.sig" in one


def test_the_command_that_is_told_is_the_one_to_use(place: Place, people: People, tmp_path: Path) -> None:
    offer = place.people.offer(place.request, "alice", file=str(tmp_path / "a request.json"))
    Path(offer["file"]).write_text(offer["request"])
    command = place.refusal(offer).partition("with: ")[2].replace("KEY", str(people.key("bob"))).replace("NAME", "bob")
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    offer["signatures"].append(Path(f"{offer['file']}.bob.sig").read_text())
    assert place.approvals(offer).use(ACT)


# What does not count


def test_one_person_counts_once(place: Place, people: People) -> None:
    twice = place.offer("alice", "alice")
    assert "has 1 (alice) and 1 more that do not count (a stranger's, the same person's, or" in place.refusal(twice)
    people.write_approvers("alice", "bob", lines=[f"alice {people.public('second key of alice')}"])
    assert "has 1 (alice)" in place.refusal(place.offer("alice", "second key of alice"))


def test_a_stranger_does_not_count(place: Place) -> None:
    assert "has 1 (alice)" in place.refusal(place.offer("alice", "mallory"))


def test_a_person_who_is_an_approver_no_more_does_not_count(place: Place, people: People) -> None:
    people.write_approvers("alice", "carol")
    assert "has 1 (alice)" in place.refusal(place.offer("alice", "bob"))


def test_a_key_counts_in_its_time(place: Place, people: People) -> None:
    bob = f'bob namespaces="multi-sonicator-approval",valid-before="{{}}" {people.public("bob")}'
    people.write_approvers("alice", lines=[bob.format("20200101")])
    assert "has 1 (alice)" in place.refusal(place.offer("alice", "bob"))
    people.write_approvers("alice", lines=[bob.format("20990101")])
    assert place.approvals(place.offer("alice", "bob")).require(ACT)


def test_a_signature_for_something_else_does_not_count(place: Place, people: People) -> None:
    offer = place.offer("alice")
    offer["signatures"].append(people.sign("bob", offer["request"].encode(), namespace="git"))
    assert "has 1 (alice)" in place.refusal(offer)


def test_another_gateway_does_not_take_it(place: Place, people: People, tmp_path: Path) -> None:
    other = Place(tmp_path / "other", people)
    assert "request.json is for gateway " in other.refusal(place.offer("alice", "bob"))


def test_of_many_requests_the_nearest_are_told(place: Place, people: People, tmp_path: Path) -> None:
    elsewhere = [{**Place(tmp_path / "other", people).offer(), "file": f"other{number}"} for number in range(5)]
    mixer = people.offer({**place.request, "controllers": {"mixer": ACT.what}}, file="mixer")
    assert "counts (mixer is not for controller press); write one" in place.refusal(*elsewhere, mixer)
    assert "; other2 is for gateway " in place.refusal(*elsewhere)
    assert "; 2 more); write one" in place.refusal(*elsewhere)
    assert [one["elsewhere"] for one in place.approvals(*elsewhere, mixer).describe()] == [True] * 5 + [False]


def test_a_request_says_everything_once(place: Place, people: People) -> None:
    """Who reads the first of two is shown something else than what would be done."""
    content = canonical(place.request).replace(b'{\n  "act"', b'{\n  "reason": "Harmless",\n  "act"')
    signatures = [people.sign(name, content) for name in ("alice", "bob")]
    offer = {"file": "request.json", "request": content.decode(), "signatures": signatures}
    assert "request.json is not a request as the playbook" in place.refusal(offer)


def test_it_expires(place: Place) -> None:
    def at(hours: float) -> dict[str, Any]:
        moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
        place.request["expires"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        return place.people.offer(place.request, "alice", "bob")

    assert "request.json expired at " in place.refusal(at(0))
    assert "which is more than 24 h" in place.refusal(at(24.01))
    assert place.approvals(at(23.9)).require(ACT)


def test_it_is_used_once_for_each_controller(place: Place) -> None:
    other = dataclasses.replace(ACT, controller="mixer")
    place.request = place.approvals().request([ACT, other], "Both", 1)
    offer = place.people.offer(place.request, "alice", "bob")
    assert place.approvals(offer).use(ACT)
    assert "request.json was used for it already" in place.refusal(offer)
    assert place.approvals(offer).require(ACT, unused=False), "what is done already may be asked for again"
    assert place.approvals(offer).use(other)


def test_of_many_at_a_time_one_uses_it(place: Place) -> None:
    approvals = place.approvals(place.offer("alice", "bob"))
    approvals.require(ACT)
    together = threading.Barrier(8)
    used: list[object] = []

    def use() -> None:
        together.wait()
        try:
            used.append(approvals.use(ACT))
        except NotApproved:
            used.append(None)

    threads = [threading.Thread(target=use) for _number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(used) == 8 and sum(one is not None for one in used) == 1


WHAT_ELSE: list[dict[str, Any]] = [
    {"kind": "firmware"},
    {"controller": "mixer"},
    {"what": {**ACT.what, "unit": 3}},
    {"what": {**ACT.what, "line": "/dev/other"}},
    {"what": {**ACT.what, "profile": "ba9876543210"}},
    {"what": {**ACT.what, "values": {"emergency_stop": False}}},
    {"what": {**ACT.what, "values": {"emergency_stop": 0, "another": 0}}},
    {"what": {**ACT.what, "values": {}}},
]


@pytest.mark.parametrize("change", WHAT_ELSE, ids=str)
def test_it_is_for_exactly_this(place: Place, change: dict[str, Any]) -> None:
    act = dataclasses.replace(ACT, **change)
    assert "no request for exactly this counts (request.json is " in place.refusal(place.offer("alice", "bob"), act=act)


@BOUNDED
@given(data=st.data())
def test_no_altered_text_counts(place: Place, data: st.DataObject) -> None:
    offer = place.offer("alice", "bob")
    text = offer["request"]
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start, min(len(text), start + 4)))
    altered = text[:start] + data.draw(st.text(st.characters(codec="utf-8"), max_size=4)) + text[end:]
    if altered != text:
        place.refusal({**offer, "request": altered})


@BOUNDED
@given(
    change=st.one_of(
        st.fixed_dictionaries({"id": st.text("0123456789abcdef", min_size=32, max_size=32)}),
        st.fixed_dictionaries({"reason": st.text()}),
        st.fixed_dictionaries({"expires": st.datetimes().map(lambda moment: f"{moment:%Y-%m-%dT%H:%M:%SZ}")}),
        st.fixed_dictionaries({"gateway": st.text()}),
        st.dictionaries(st.text(), st.none() | st.text(), min_size=1),
        st.fixed_dictionaries({"controllers": st.recursive(st.none() | st.integers() | st.text(), st.lists)}),
        st.integers(1, 9).map(
            lambda value: {"controllers": {"press": {**ACT.what, "values": {"emergency_stop": value}}}}
        ),
    )
)
def test_no_altered_request_counts(place: Place, change: dict[str, Any]) -> None:
    """In its one spelling, as somebody would do who knows how it is made."""
    altered = {**place.request, **change}
    if altered == place.request:
        return
    offer = {**place.offer("alice", "bob"), "request": canonical(altered).decode()}
    act = ACT
    if isinstance(altered["controllers"], dict):
        act = dataclasses.replace(ACT, what=altered["controllers"]["press"])
    place.refusal(offer, act=act)


@BOUNDED
@given(data=st.data())
def test_no_altered_signature_counts(place: Place, data: st.DataObject) -> None:
    offer = place.offer("alice", "bob")
    lines = offer["signatures"][1].splitlines()
    blob = bytearray(base64.b64decode("".join(lines[1:-1])))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    body = textwrap.wrap(base64.b64encode(bytes(blob)).decode(), 70)
    offer["signatures"][1] = "\n".join([lines[0], *body, lines[-1]]) + "\n"
    place.refusal(offer)


@BOUNDED
@given(offered=st.lists(st.fixed_dictionaries({"request": st.text(), "signatures": st.lists(st.text(), max_size=2)})))
def test_no_nonsense_counts(place: Place, offered: list[dict[str, Any]]) -> None:
    place.refusal(*({"file": "nonsense", **one} for one in offered), place.offer("alice"))


# Who may approve


def ordinary(people: People, name: str) -> str:
    return f"{name} {people.public(name)}"


BAD_FILES: dict[str, tuple[Callable[[People], list[str]], str]] = {
    "everybody": (lambda people: [f"* {people.public('bob')}"], "line 1: expected NAME"),
    "a pattern": (lambda people: [f"b?b {people.public('bob')}"], "line 1: expected NAME"),
    "several": (lambda people: [f"bob,carol {people.public('bob')}"], "line 1: expected NAME"),
    "an authority": (lambda people: [f"bob cert-authority {people.public('bob')}"], "line 1: expected NAME"),
    "another namespace": (lambda people: [f'bob namespaces="git" {people.public("bob")}'], "line 1: expected NAME"),
    "one key, two names": (
        lambda people: [ordinary(people, "bob"), f"rob {people.public('bob')}"],
        "line 2: the key of rob is that of bob too",
    ),
    "alone": (lambda people: ["# required: 2", ordinary(people, "bob"), ordinary(people, "bob")], "names 1 persons"),
    "too few": (
        lambda people: ["# required: 3", ordinary(people, "alice"), ordinary(people, "bob")],
        "names 2 persons, and 3 have to approve",
    ),
    "one": (lambda people: ["# required: 1", ordinary(people, "bob")], "says required: 1; expected one number, 2 or"),
    "contradiction": (lambda people: ["# required: 2", "# required: 3"], "says required: 2, 3"),
    "damage": (lambda people: [f"bob {people.public('bob')[:-1]}"], "line 1: the key is damaged"),
    "another type": (
        lambda people: [f"bob ssh-rsa {people.public('bob').split()[1]}"],
        "line 1: the key is not of type ssh-rsa",
    ),
    "empty": (lambda people: [], "names 0 persons"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_who_may_approve_has_to_be_plain(place: Place, people: People, case: str) -> None:
    lines, says = BAD_FILES[case]
    offer = place.offer("alice", "bob")
    people.write_approvers(lines=lines(people))
    for ask in (place.approvals(offer).use, place.approvals(offer).require):
        with pytest.raises(ApprovalError, match=says):
            ask(ACT)


def test_more_may_be_required(place: Place, people: People) -> None:
    people.write_approvers("alice", "bob", "carol", lines=["# Our people", "", "# required: 3"])
    assert "needs approvals by 3 different persons, has 2 (alice, bob)" in place.refusal(place.offer("alice", "bob"))
    assert place.approvals(place.offer("alice", "bob", "carol")).use(ACT)


def test_a_file_that_others_may_write_does_not_count(place: Place, people: People) -> None:
    people.approvers.chmod(0o664)
    with pytest.raises(ApprovalError, match=r"others may write it \(mode 0664, owner \d+\)"):
        place.approvals(place.offer("alice", "bob")).require(ACT)


def test_a_file_of_another_user_does_not_count(place: Place, people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = place.offer("alice", "bob")
    if os.geteuid() == 0:
        os.chown(people.approvers, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    try:
        with pytest.raises(ApprovalError, match="others may write it"):
            place.approvals(offer).require(ACT)
    finally:
        people.approvers.unlink()


def test_it_expires_while_a_run_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    approvals = place.approvals(place.offer("alice", "bob"))
    assert approvals.require(ACT)
    monkeypatch.setattr(approval, "age", lambda _moment: 1)
    with pytest.raises(NotApproved, match=r"request\.json expired at"):
        approvals.use(ACT)


def test_a_link_that_leads_nowhere_is_no_way_around(place: Place, people: People, tmp_path: Path) -> None:
    link = tmp_path / "approvers"
    link.symlink_to(tmp_path / "nothing")
    with pytest.raises(ApprovalError, match="No such file"):
        Approvals(tmp_path, link, [place.offer("alice", "bob")]).require(ACT)


# Round about


def test_what_is_offered_is_described(place: Place) -> None:
    offers = [place.offer("alice"), {"file": "other", "request": "{}", "signatures": []}]
    assert place.approvals().approvers() == ["alice", "bob", "carol"]
    [told, other] = place.approvals(*offers).describe()
    assert (told["by"], told["missing"], told["used_for"], told["wrong"]) == (["alice"], 1, [], "")
    assert told["controllers"] == {"press": ACT.what}
    assert other["wrong"] == "is not a request as the playbook multi_sonicator.ops.approve writes it"
    both = place.offer("alice", "bob")
    place.approvals(both).use(ACT)
    assert [place.approvals(both).describe()[0][key] for key in ("missing", "used_for")] == [0, ["press"]]


@pytest.mark.parametrize(("hours", "reason", "says"), [(25, "x", "24"), (0, "x", "more than 0"), (1, " ", "no reason")])
def test_a_request_has_a_reason_and_an_end(place: Place, hours: float, reason: str, says: str) -> None:
    with pytest.raises(ApprovalError, match=says):
        place.approvals().request([ACT], reason, hours)


def test_ssh_keygen_has_a_deadline_and_may_be_missing(
    place: Place, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(error: type[CoreError], says: str) -> None:
        with pytest.raises(error, match=says):
            Approvals(place.state, people.approvers, [offer], deadline=0.2).require(ACT)

    offer = place.offer("alice", "bob")
    stuck = tmp_path / "ssh-keygen"
    stuck.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    stuck.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Approvals(place.state, people.approvers, [offer]).require(ACT), "a task's environment says nothing"
    monkeypatch.setattr(os, "defpath", str(tmp_path))
    refused(ApprovalError, "was not done after 0.2 s and was ended")
    stuck.unlink()
    refused(MissingPackage, "install the Debian package openssh-client")

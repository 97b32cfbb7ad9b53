# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events of what modules did, without secrets, and on their way into a system journal."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from _core import events
from _core.events import REDACTED, Event, of_results, redact, send
from hypothesis import given, settings
from hypothesis import strategies as st
from support.profiles import mapping

DIGEST = "ab" * 32
CANARY = "canary-31337"


def arguments(**more: Any) -> dict[str, Any]:
    """Those of a module for the controllers mixer and press."""
    controllers = [
        {"name": name, "line": "/dev/ttyS1", "unit": unit, "settings": {"sonicator1_amplitude": 60}}
        for unit, name in enumerate(("mixer", "press"), 2)
    ]
    return {"controllers": controllers, "profiles": {"multi_sonicator_io": mapping()}, **more}


def one(name: str = "press", **more: Any) -> dict[str, Any]:
    """What a module returns of a controller."""
    return {"name": name, "line": "/dev/ttyS1", "unit": 3, "changed": False, "failed": False, "msg": "said", **more}


def events_of(module: str, *results: Mapping[str, Any], **more: Any) -> list[Event]:
    return of_results(module, arguments(**more), {"changed": True, "controllers": list(results)})


def test_a_flash() -> None:
    before, after = {"version": "1.0.0", "digest": None}, {"version": "1.1.0", "digest": DIGEST}
    deployed = one(
        changed=True, outcome="deployed", before=before, after=after, transaction="20260101-aa", set="20260101-bb"
    )
    assert events_of("firmware", deployed, version="1.1.0") == [
        Event(
            "flash",
            "press",
            "/dev/ttyS1",
            3,
            before,
            after,
            DIGEST,
            "deployed",
            "said (transaction 20260101-aa, set 20260101-bb)",
        )
    ]


@pytest.mark.parametrize(
    ("outcome", "more", "what"),
    [
        ("deployed", {"set": "previous"}, "rollback"),
        ("restored", {"version": "1.1.0"}, "restore"),
        ("rolled_back", {"version": "1.1.0"}, "flash"),
        ("refused", {"version": "1.1.0"}, "flash"),
    ],
)
def test_kinds_of_firmware_events(outcome: str, more: dict[str, Any], what: str) -> None:
    failed = outcome in ("rolled_back", "refused")
    [event] = events_of("firmware", one(outcome=outcome, changed=True, failed=failed), **more)
    assert (event.what, event.result) == (what, outcome)


def test_the_old_image_is_not_taken_for_the_one_that_did_not_come_up() -> None:
    rolled_back = one(outcome="rolled_back", changed=True, failed=True, after={"version": "1.0.0", "digest": DIGEST})
    assert events_of("firmware", rolled_back)[0].image is None


def test_nothing_done_makes_no_event() -> None:
    nothing = one(outcome="unchanged"), one("mixer", outcome="skipped", skipped=True)
    assert events_of("firmware", *nothing) == []
    assert events_of("registers", one(written=[], before={}, after={})) == []
    assert events_of("registers_info", one(failed=True)) == []
    assert events_of("firmware_info", one(failed=True), one("mixer")) == []


def test_a_register_write_tells_what_was_written_and_no_more() -> None:
    before = {"sonicator1_amplitude": 50, "sonicator2_amplitude": 33}
    after = {"sonicator1_amplitude": 60, "sonicator2_amplitude": 33}
    wrote = one(changed=True, written=["sonicator1_amplitude"], before=before, after=after)
    [event] = events_of("registers", wrote)
    assert (event.what, event.before, event.after, event.result) == (
        "register_write",
        {"sonicator1_amplitude": 50},
        {"sonicator1_amplitude": 60},
        "changed",
    )


def test_a_point_that_cannot_be_read_has_what_was_written() -> None:
    wrote = one(changed=True, written=["system_reset"], before={}, after={})
    [event] = events_of("registers", wrote, values={"system_reset": "restart"})
    assert (event.before, event.after) == ({}, {"system_reset": "restart"})


def test_who_approved_it_on_the_gateway() -> None:
    approval = {"by": ["alice", "bob"], "reason": f"Mended, password={CANARY}", "id": "0b7f", "expires": "later"}
    [event] = events_of("firmware", one(changed=True, outcome="deployed", approval=approval))
    assert event.approval == f"alice and bob: Mended, password={REDACTED} (request 0b7f)"


def test_an_emergency() -> None:
    wrote = one(changed=True, written=["emergency_stop"], before={"emergency_stop": 0}, after={"emergency_stop": 1})
    failed = one("mixer", failed=True)
    stop = {"emergency_stop": 1}
    assert [event.what for event in events_of("registers", failed, wrote, values=stop)] == ["emergency"] * 2
    # One that was as wanted already was not written.
    other = {**wrote, "written": ["sonicator1_amplitude"], "before": {}, "after": {}}
    assert events_of("registers", other, values=stop)[0].what == "register_write"


def test_a_failed_write_tells_what_was_wanted() -> None:
    [event] = events_of("registers", one(failed=True, msg="no answer"), values={"sonicator2_amplitude": 33})
    assert event.message == "no answer (wanted: sonicator1_amplitude=60, sonicator2_amplitude=33)"
    assert (event.result, event.after) == ("failed", None)


def test_settings_put_back_and_sets_kept() -> None:
    back = one(changed=True, written=["a"], before={"a": 1, "b": 2}, after={"a": 3, "b": 2}, set="s")
    [event] = events_of("restore", back)
    assert (event.what, event.before, event.after, event.message) == ("restore", {"a": 1}, {"a": 3}, "said (set s)")
    assert [event.what for event in events_of("snapshot", one(changed=True, set="s"))] == ["snapshot"]


@pytest.mark.parametrize("module", ["firmware_info", "snapshot"])
@pytest.mark.parametrize("flag", [True, "yes"])
def test_reading_a_chip_resets_it_and_is_told(module: str, flag: object) -> None:
    [read, failed] = events_of(module, one(), one("mixer", failed=True), read_chip=flag)
    assert (read.what, read.result, failed.what, failed.result) == ("chip_read", "read", "chip_read", "failed")
    assert events_of(module, one(), read_chip="no") == []


@pytest.mark.parametrize(("only", "names"), [(None, ["mixer", "press"]), (["press"], ["press"]), ([], [])])
def test_a_module_that_failed_as_a_whole_did_so_for_each_controller(only: Any, names: list[str]) -> None:
    result = {"failed": True, "changed": True, "msg": "killed"}
    found = of_results("firmware", arguments(only=only), result)
    assert [(event.controller, event.result, event.message) for event in found] == [
        (name, "failed", "killed") for name in names
    ]
    assert of_results("firmware", arguments(), {"skipped": True}) == []


# Secrets


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"password={CANARY} rest", f"password={REDACTED} rest"),
        (f"https://user:{CANARY}@host/path", f"https://{REDACTED}@host/path"),
        (f"the api_key: '{CANARY} and more' rest", f"the api_key: {REDACTED} rest"),
        (f'{{"db_password": "{CANARY}"}}', f'{{"db_password": {REDACTED}}}'),
        (f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\nrest", f"{REDACTED}\nrest"),
        (f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}", REDACTED),
        (
            "unknown key: foo of press_1, sonicator1_amplitude=60",
            "unknown key: foo of press_1, sonicator1_amplitude=60",
        ),
    ],
)
def test_secrets_in_text(text: str, left: str) -> None:
    assert redact(text) == left


SECRET_KEYS = [
    "password",
    "db_passwd",
    "API_TOKEN",
    "key",
    "ssh_private_key",
    "authorized_keys",
    "keyfile",
    "clientSecret",
    "vault_id",
    "credentials",
]
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
DATA = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner))


@settings(deadline=None)
@given(DATA, st.sampled_from(SECRET_KEYS), st.lists(st.booleans(), max_size=4))
def test_a_canary_under_a_secret_key_is_found_nowhere(data: Any, key: str, nesting: list[bool]) -> None:
    planted: Any = {key: {"deeper": [CANARY]}, "beside": data}
    for is_list in nesting:
        planted = [data, planted] if is_list else {"in": planted, "beside": data}
    left = redact(planted)
    assert CANARY not in json.dumps(left, allow_nan=False)
    assert redact(left) == left
    json.dumps(left, ensure_ascii=False).encode()


def test_a_word_that_only_begins_like_key_is_no_secret() -> None:
    values = {"keypad_lock": 1, "keyed": 2}
    assert redact(values) == values


@settings(deadline=None)
@given(st.text(min_size=4, alphabet=st.characters(exclude_categories=["Cs"])).filter(lambda text: text not in REDACTED))
def test_a_known_secret_is_dropped_wherever_it_stands(secret: str) -> None:
    left = redact({"told": [f"<{secret}>", secret], f"<{secret}>": 1}, [secret])
    assert left["told"] == [f"<{REDACTED}>", REDACTED]
    assert list(left) == ["told", f"<{REDACTED}>"]  # whose value is a secret too where the key sounds like one: 0KEY


def test_the_secrets_of_a_task_are_dropped_from_its_events() -> None:
    more = {"service": {"password": CANARY, "pin_token": 31337}, "values": {"secret_word": CANARY}}
    said = one(failed=True, msg=f"refused {CANARY}, and 31337", before={"a": CANARY, "b": 31337})
    for module in ("registers", "firmware"):
        [event] = events_of(module, said, **more)
        assert CANARY not in repr(event) and "31337" not in repr(event)


# The system journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "log"))
        receiver.settimeout(5)
        yield receiver


def test_each_event_is_one_line_of_json(journal: socket.socket) -> None:
    told = [
        Event(
            "flash", "press", "/dev/ttyS1", 3, {"version": "1.0.0"}, {"version": "1.1.0"}, DIGEST, "deployed", "ä\nb"
        ),
        Event("emergency", "press", result="failed", message=f"password={CANARY}"),
    ]
    assert send(told, journal.getsockname()) == 2
    lines = [journal.recv(65536).decode() for _event in told]
    form = r"<(\d+)>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d multi_sonicator\[\d+\]: (\{[^\n]*\})"
    [(deployed, first), (failed, second)] = [re.fullmatch(form, line).groups() for line in lines]  # type: ignore[union-attr]
    # Facility local0 is 16, notice 5, warning 4.
    assert (int(deployed), int(failed)) == (16 * 8 + 5, 16 * 8 + 4)
    assert json.loads(first) == {
        "what": "flash",
        "controller": "press",
        "line": "/dev/ttyS1",
        "unit": 3,
        "before": {"version": "1.0.0"},
        "after": {"version": "1.1.0"},
        "image": DIGEST,
        "result": "deployed",
        "message": "ä\nb",
        "approval": None,
    }
    assert json.loads(second)["message"] == f"password={REDACTED}"


def test_without_a_journal_nothing_happens(tmp_path: Path) -> None:
    assert send([Event("flash")], str(tmp_path / "log")) == 0


def test_a_journal_that_stands_still_holds_nobody_up(journal: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SEND_DEADLINE", 0.1)
    began = time.monotonic()
    assert send([Event("flash")] * 10_000, journal.getsockname()) < 10_000
    assert time.monotonic() - began < 5

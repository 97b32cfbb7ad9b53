# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log: nothing is lost by cuts or by many writers, nothing can be altered unseen, no secret enters it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.multi_sonicator.ops.plugins.module_utils._core.events import REDACTED, Event
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils import audit
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.audit import AuditError, AuditLog, Task, read, verify
from ansible_collections.multi_sonicator.ops.plugins.plugin_utils.signing import canonical
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from support.profiles import mapping

RECORDS = 31  # with log_start
FILES = ("audit.jsonl", "audit.jsonl.checkpoints", "audit.jsonl.head")
LOG, CHECKPOINTS, HEAD = FILES
FORK = multiprocessing.get_context("fork")


def fill(log: AuditLog, count: int, name: str = "press") -> None:
    for number in range(count):
        log.append(
            Event("flash", name, "/dev/ttyS1", 3, {"version": "1.0.0"}, {"version": "1.1.0"}, "ab" * 32, "deployed"),
            gateway="gateway",
            rollout=f"rollout-{number % 2}",
        )


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "log/audit.jsonl", every=10)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a whole log, to be copied."""
    directory = tmp_path_factory.mktemp("kept")
    log = AuditLog(directory / LOG, every=7)
    fill(log, RECORDS - 2)
    log.checkpoint()
    fill(log, 1)
    assert verify(log.path) == []
    return directory


@pytest.fixture
def copy(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "copy"))


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in FILES}


def put(directory: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).write_bytes(content)


def found(directory: Path, **options: Any) -> list[str]:
    return [str(finding) for finding in verify(directory / LOG, **options)]


def kinds(directory: Path) -> list[str]:
    return [finding.kind for finding in verify(directory / LOG)]


# What a record is


def test_a_record_is_one_canonical_line_that_holds_the_hash_of_the_one_before(log: AuditLog) -> None:
    event = Event(
        "flash", "press", "/dev/ttyS1", 3, {"version": "1.0.0"}, {"version": "1.1.0"}, "ab" * 32, "deployed", "ä"
    )
    returned = log.append(event, gateway="gateway", remote_user="root", approval="Ada, by prompt", rollout="r1")
    first, second = log.path.read_bytes().splitlines(keepends=True)
    record = json.loads(second)
    assert returned == record
    assert second == json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    assert sorted(record) == sorted(audit._RECORD)
    assert record["where"] == {"gateway": "gateway", "controller": "press", "line": "/dev/ttyS1", "unit": 3}
    assert (record["seq"], record["approval"], record["rollout"]) == (2, "Ada, by prompt", "r1")
    assert record["who"]["remote_user"] == "root" and record["who"]["user"] and record["from"]["host"]
    assert (json.loads(first)["what"], json.loads(first)["seq"]) == ("log_start", 1)
    assert record["previous"] == json.loads(first)["hash"]
    content = {key: value for key, value in record.items() if key != "hash"}
    line = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    assert record["hash"] == hashlib.sha256(line.encode()).hexdigest()


def test_the_key_is_the_owners_and_the_log_names_it(log: AuditLog) -> None:
    log.prepare()
    assert log.path.with_name("audit.jsonl.key").stat().st_mode & 0o777 == 0o600
    assert log.path.parent.stat().st_mode & 0o777 == 0o700
    digest = hashlib.sha256(log.path.with_name("audit.jsonl.pub").read_bytes()).hexdigest()
    assert digest in read(log.path)[0]["message"]
    log.prepare()
    assert len(read(log.path)) == 1


def test_checkpoints_come_with_the_first_record_every_so_many_and_on_demand(log: AuditLog) -> None:
    fill(log, 20)
    made = log.checkpoint()
    lines = [json.loads(line) for line in log.path.with_name(CHECKPOINTS).read_bytes().splitlines()]
    assert [(line["number"], line["seq"]) for line in lines] == [(1, 1), (2, 10), (3, 20), (4, 21)]
    assert made == lines[-1] and made["size"] == log.path.stat().st_size
    assert verify(log.path) == []


def test_nothing_but_the_fields_of_a_record_gets_in(log: AuditLog) -> None:
    with pytest.raises(TypeError, match="password"):
        log.append(Event("flash"), password="x")  # type: ignore[call-arg]


# Many writers, cuts and kills


def test_many_processes_lose_nothing(log: AuditLog) -> None:
    processes = [FORK.Process(target=fill, args=(log, 25, f"press_{number}")) for number in range(8)]
    for process in processes:
        process.start()
    seen: list[str] = []
    while any(process.is_alive() for process in processes):
        # Whoever verifies meanwhile sees a whole log, too.
        seen += (
            [str(finding) for finding in verify(log.path)] if log.path.with_name("audit.jsonl.head").exists() else []
        )
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert seen == [] and verify(log.path) == []
    records = read(log.path)
    assert [record["seq"] for record in records] == list(range(1, 202))
    for number in range(8):
        assert len(read(log.path, controller=f"press_{number}")) == 25


def test_killed_writers_lose_nothing_they_had_been_told_was_written(log: AuditLog) -> None:
    log.prepare()
    written: dict[str, str] = {}
    chance = random.Random(1)
    for _round in range(40):
        told, tell = os.pipe()

        def work(tell: int = tell) -> None:
            while True:
                record = log.append(Event("flash"))
                os.write(tell, b"%d %s\n" % (record["seq"], record["hash"].encode()))

        process = FORK.Process(target=work, daemon=True)
        process.start()
        os.close(tell)
        with os.fdopen(told) as stream:
            written |= [line.split() for line in [stream.readline() for _line in range(chance.randrange(1, 5))]]
            time.sleep(chance.random() * 0.003)
            assert process.pid
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            written |= [line.split() for line in stream]
    log.prepare()
    assert verify(log.path) == []
    assert len(written) > 40
    assert {str(record["seq"]): record["hash"] for record in read(log.path)}.items() >= written.items()


def test_a_cut_at_any_byte_of_the_last_record_is_mended(kept: Path, tmp_path: Path) -> None:
    whole = contents(kept)
    last = whole[LOG].splitlines(keepends=True)[-1]
    for cut in range(1, len(last) + 1, 7):
        directory = Path(shutil.copytree(kept, tmp_path / str(cut)))
        (directory / LOG).write_bytes(whole[LOG][:-cut])
        AuditLog(directory / LOG).append(Event("flash"))
        assert found(directory) == []
        assert (directory / LOG).read_bytes().startswith(whole[LOG])
        repair = read(directory / LOG)[-2]
        assert (repair["what"], f"record {RECORDS} " in repair["message"]) == ("repair", True)
        torn = [path.read_bytes() for path in directory.glob("*.torn-*")]
        assert torn == [last[:-cut]] * (cut < len(last))


def test_a_cut_before_the_checkpoint_is_mended(copy: Path) -> None:
    whole = contents(copy)[CHECKPOINTS]
    (copy / CHECKPOINTS).write_bytes(whole[:-20])
    AuditLog(copy / LOG).prepare()
    assert found(copy) == []
    assert (copy / CHECKPOINTS).read_bytes() == whole


# Whatever is altered is found


def edited(files: dict[str, bytes], chance: random.Random) -> str:
    name = chance.choice(FILES)
    content = bytearray(files[name])
    place = chance.randrange(len(content))
    content[place] ^= chance.randrange(1, 256)
    files[name] = bytes(content)
    return f"byte {place} of {name}"


def deleted(files: dict[str, bytes], chance: random.Random) -> str:
    name = chance.choice(FILES)
    lines = files[name].splitlines(keepends=True)
    first = chance.randrange(len(lines))
    last = chance.randrange(first, len(lines))
    files[name] = b"".join(lines[:first] + lines[last + 1 :])
    return f"lines {first + 1} to {last + 1} of {name}"


def swapped(files: dict[str, bytes], chance: random.Random) -> str:
    name = chance.choice((LOG, CHECKPOINTS))
    lines = files[name].splitlines(keepends=True)
    one, other = chance.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    files[name] = b"".join(lines)
    return f"lines {one + 1} and {other + 1} of {name}"


def truncated(files: dict[str, bytes], chance: random.Random) -> str:
    name = chance.choice(FILES)
    size = chance.randrange(len(files[name]))
    files[name] = files[name][:size]
    return f"{name} at byte {size}"


Alteration = Callable[[dict[str, bytes], random.Random], str]
ALTERATIONS: tuple[Alteration, ...] = (edited, deleted, swapped, truncated)


def test_of_a_thousand_alterations_a_thousand_are_found(kept: Path, copy: Path) -> None:
    whole = contents(kept)
    missed = []
    for number in range(1000):
        alteration = ALTERATIONS[number % len(ALTERATIONS)]
        files = dict(whole)
        what = alteration(files, random.Random(number))
        put(copy, files)
        if not verify(copy / LOG):
            missed.append(f"{number}: {alteration.__name__} {what}")
    assert missed == []


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_going_on_after_an_alteration_hides_nothing(kept: Path, tmp_path: Path, alteration: Alteration) -> None:
    whole = contents(kept)
    for number in range(25):
        directory = Path(shutil.copytree(kept, tmp_path / str(number)))
        files = dict(whole)
        what = alteration(files, random.Random(number))
        put(directory, files)
        fill(AuditLog(directory / LOG), 2)
        # What a cut could have done has been mended; then every record is where it was.
        is_mended = all((directory / name).read_bytes().startswith(whole[name]) for name in (LOG, CHECKPOINTS))
        assert found(directory) or is_mended, f"{number}: {what}"
        assert read(directory / LOG)[-1]["what"] == "flash"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, RECORDS), st.data())
def test_an_edited_record_is_named(kept: Path, seq: int, data: st.DataObject) -> None:
    lines = contents(kept)[LOG].splitlines(keepends=True)
    offset = sum(map(len, lines[: seq - 1]))
    place = data.draw(st.integers(0, len(lines[seq - 1]) - 2))
    line = bytearray(lines[seq - 1])
    line[place] ^= data.draw(st.integers(1, 255).filter(lambda bit: line[place] ^ bit != 0x0A))
    with_line = b"".join([*lines[: seq - 1], bytes(line), *lines[seq:]])
    [finding] = verify(altered(kept, {LOG: with_line}) / LOG)
    assert (finding.file, finding.line, finding.offset, finding.seq, finding.kind) == (LOG, seq, offset, seq, "edited")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, RECORDS - 1), st.integers(0, 3))
def test_dropped_records_are_named(kept: Path, first: int, more: int) -> None:
    last = min(first + more, RECORDS - 1)
    lines = contents(kept)[LOG].splitlines(keepends=True)
    finding = verify(altered(kept, {LOG: b"".join(lines[: first - 1] + lines[last:])}) / LOG)[0]
    span = f"record {first}" if first == last else f"records {first} to {last}"
    assert (finding.line, finding.seq, finding.kind) == (first, last + 1, "missing")
    assert finding.message == f"missing before it: {span}"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, RECORDS))
def test_records_cut_off_are_named(kept: Path, first: int) -> None:
    lines = contents(kept)[LOG].splitlines(keepends=True)
    finding = verify(altered(kept, {LOG: b"".join(lines[: first - 1])}) / LOG)[-1]
    span = f"record {first}" if first == RECORDS else f"records {first} to {RECORDS}"
    assert finding.kind == "truncated" and f"missing at the end of the log: {span};" in finding.message


@settings(max_examples=60, deadline=None)
@given(st.integers(1, RECORDS), st.integers(1, RECORDS))
def test_repeated_records_are_named(kept: Path, one: int, other: int) -> None:
    lines = contents(kept)[LOG].splitlines(keepends=True)
    finding = verify(altered(kept, {LOG: b"".join([*lines[:one], lines[other - 1], *lines[one:]])}) / LOG)[0]
    assert (finding.seq, finding.kind) == (other, "duplicated")
    # Which of two equal neighbours is the copy nobody can tell.
    assert finding.line == one + 1 or other == one + 1 == finding.line - 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, RECORDS), min_size=2, max_size=2, unique=True))
def test_swapped_records_are_named(kept: Path, places: list[int]) -> None:
    one, other = sorted(places)
    lines = contents(kept)[LOG].splitlines(keepends=True)
    lines[one - 1], lines[other - 1] = lines[other - 1], lines[one - 1]
    findings = [each for each in verify(altered(kept, {LOG: b"".join(lines)}) / LOG) if each.line]
    assert {each.kind for each in findings} == {"reordered"}
    named = {(each.line, each.seq) for each in findings}
    assert named == {(one, other), (other, one)} or (other - one <= 2 and len(named) <= 2)


def altered(kept: Path, files: Mapping[str, bytes]) -> Path:
    """A copy of the log with other contents; the same directory each time, since properties need many."""
    directory = kept.with_name(f"{kept.name}-altered")
    shutil.copytree(kept, directory, dirs_exist_ok=True)
    put(directory, files)
    return directory


def forged(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A record as somebody without the key can make it."""
    new = {**record, **changes}
    return {**new, "hash": audit._digest(new)}


def lines_of(records: list[dict[str, Any]]) -> bytes:
    return b"".join(map(canonical, records))


def test_a_chain_that_was_made_anew_contradicts_checkpoints_and_head(copy: Path) -> None:
    records = read(copy / LOG)
    previous = records[9]["hash"]
    for place in range(10, RECORDS):
        records[place] = forged(records[place], previous=previous, result="failed")
        previous = records[place]["hash"]
    (copy / LOG).write_bytes(lines_of(records))
    findings = verify(copy / LOG)
    assert [(finding.file, finding.seq, finding.kind) for finding in findings] == [
        *((CHECKPOINTS, seq, "rewritten") for seq in (14, 21, 28, 30)),
        (LOG, RECORDS, "rewritten"),
    ]


def test_a_record_that_was_made_anew_breaks_the_chain(copy: Path) -> None:
    records = read(copy / LOG)
    records[9] = forged(records[9], result="failed")
    (copy / LOG).write_bytes(lines_of(records))
    [finding] = verify(copy / LOG)
    assert (finding.line, finding.seq, finding.kind) == (11, 11, "rewritten")


@pytest.mark.parametrize("old", [b'"seq":5', b'"result":"deployed"'])
@pytest.mark.parametrize("notation", [lambda old: old.replace(b":", b": "), lambda old: old + b"," + old])
def test_another_notation_of_a_record_is_an_edit(copy: Path, old: bytes, notation: Callable[[bytes], bytes]) -> None:
    lines = contents(copy)[LOG].splitlines(keepends=True)
    lines[4] = lines[4].replace(old, notation(old))
    (copy / LOG).write_bytes(b"".join(lines))
    [finding] = verify(copy / LOG)
    assert (finding.seq, finding.kind, finding.message) == (5, "edited", "is not written as it was")


def test_a_record_added_at_the_end_was_not_written_by_the_log(copy: Path) -> None:
    last = read(copy / LOG)[-1]
    new = forged(last, seq=RECORDS + 1, previous=last["hash"])
    (copy / LOG).write_bytes(contents(copy)[LOG] + lines_of([new]))
    [finding] = verify(copy / LOG)
    assert (finding.seq, finding.kind) == (RECORDS, "inserted")
    # Going on makes it a second record of that number, not one of the chain.
    AuditLog(copy / LOG).append(Event("flash"))
    assert {"duplicated", "inserted"} <= set(kinds(copy))


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 10**15},
        {"seq": -1},
        {"seq": "1"},
        {"seq": True},
        {"time": 5},
        {"time": "now"},
        {"where": []},
        {"previous": 1},
    ],
)
def test_a_record_with_strange_values_is_a_finding_and_no_crash(copy: Path, changes: dict[str, Any]) -> None:
    records = read(copy / LOG)
    records[5] = forged(records[5], **changes)
    (copy / LOG).write_bytes(lines_of(records))
    assert kinds(copy)[0] in ("edited", "missing", "reordered")
    assert len(read(copy / LOG, until="2999-01-01", controller="press")) >= RECORDS - 2
    AuditLog(copy / LOG).append(Event("flash"))


@pytest.mark.parametrize("gone", [[HEAD], [HEAD, CHECKPOINTS], [HEAD, LOG], [HEAD, CHECKPOINTS, LOG]])
def test_what_was_recorded_without_a_head_stays_a_finding(copy: Path, gone: list[str]) -> None:
    lines = contents(copy)[LOG].splitlines(keepends=True)
    (copy / LOG).write_bytes(b"".join(lines[:20]))
    for name in gone:
        (copy / name).unlink()
    fill(AuditLog(copy / LOG), 1)
    (damage,) = (finding for finding in verify(copy / LOG) if finding.kind == "damage")
    assert "head is missing" in damage.message
    fill(AuditLog(copy / LOG), 1)
    assert "damage" in kinds(copy)


def test_a_key_made_anew_is_found_with_the_public_key_kept_elsewhere(kept: Path, copy: Path) -> None:
    (copy / "audit.jsonl.key").unlink()
    fill(AuditLog(copy / LOG), 1)
    assert {"unsigned", "damage"} <= set(kinds(copy))
    for path in copy.iterdir():
        path.unlink()
    fill(AuditLog(copy / LOG), 1)
    assert found(copy) == []
    assert [finding.kind for finding in verify(copy / LOG, kept / "audit.jsonl.pub")] == ["unsigned", "unsigned"]


@pytest.mark.parametrize("name", [HEAD, CHECKPOINTS])
def test_a_log_put_back_to_an_earlier_state_is_found_with_a_copy_kept_elsewhere(
    copy: Path, tmp_path: Path, name: str
) -> None:
    log = AuditLog(copy / LOG)
    earlier = contents(copy)
    fill(log, 3)
    log.checkpoint()
    witness = tmp_path / name
    shutil.copy(copy / name, witness)
    fill(log, 1)
    assert found(copy, kept=[witness]) == []
    put(copy, earlier)
    assert found(copy) == []
    [finding] = verify(copy / LOG, kept=[witness])
    assert (finding.seq, finding.kind) == (RECORDS + 3, "truncated")


def test_a_kept_copy_that_is_none_says_nothing(copy: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for content in (b"x\n", (copy / HEAD).read_bytes().replace(b'"1.1.0"', b'"1.1.1"')):
        witness.write_bytes(content)
        assert [finding.kind for finding in verify(copy / LOG, kept=[witness])] == ["unsigned"]


def test_another_notation_of_a_signature_is_an_edit(copy: Path) -> None:
    head = json.loads((copy / HEAD).read_bytes())
    head["signature"] = head["signature"].upper()
    (copy / HEAD).write_bytes(canonical(head))
    assert kinds(copy) == ["unsigned"]


# Reading


def test_records_are_chosen(copy: Path) -> None:
    log = AuditLog(copy / LOG)
    log.append(Event("emergency", "mixer"), gateway="other", rollout="r9")
    assert [record["where"]["controller"] for record in read(log.path, gateway="other")] == ["mixer"]
    assert [record["what"] for record in read(log.path, controller="mixer")] == ["emergency"]
    assert [record["seq"] for record in read(log.path, rollout="r9")] == [RECORDS + 1]
    assert [record["what"] for record in read(log.path, events=["emergency", "log_start"])] == [
        "log_start",
        "emergency",
    ]
    assert [record["seq"] for record in read(log.path, limit=2)] == [RECORDS, RECORDS + 1]
    assert read(log.path, limit=0) == []
    assert len(read(log.path, limit=1000)) == RECORDS + 1


def test_records_between_two_dates(copy: Path) -> None:
    records = [
        forged(record, time=f"2026-11-{20 + place:02}T23:30:00.000Z")
        for place, record in enumerate(read(copy / LOG)[:5])
    ]
    (copy / LOG).write_bytes(lines_of(records))

    def days(**bounds: str) -> list[int]:
        return [int(record["time"][8:10]) for record in read(copy / LOG, **bounds)]  # type: ignore[arg-type]

    assert days(since="2026-11-22") == [22, 23, 24]
    assert days(until="2026-11-22") == [20, 21, 22]
    assert days(since="2026-11-21T23:30:00Z", until="2026-11-22T23:29:59Z") == [21]
    assert days(since="2026-11-22T00:30:00+01:00", until="2026-11-22T23:30:00") == [21, 22]


# What modules did


def test_results_become_records(log: AuditLog) -> None:
    place = {"line": "/dev/ttyS1", "unit": 2}
    arguments = {
        "controllers": [{"name": name, **place} for name in ("mixer", "press", "pump")],
        "profiles": {"multi_sonicator_io": mapping()},
        "values": {"emergency_stop": 1},
    }
    results = [
        {"name": "mixer", **place, "changed": False, "failed": False, "msg": "as desired", "written": []},
        {"name": "press", **place, "changed": True, "failed": False, "msg": "wrote emergency_stop",
         "written": ["emergency_stop"], "before": {"emergency_stop": 0}, "after": {"emergency_stop": 1}},
        {"name": "pump", **place, "changed": False, "failed": True, "msg": "no answer"},
    ]  # fmt: skip
    task = Task("registers", "gateway", arguments, remote_user="root", approval="Ada", rollout="r1")
    made = audit.record_results(log, task, {"changed": True, "failed": True, "controllers": results})
    assert made == read(log.path)[1:]
    assert [(one["what"], one["where"]["controller"], one["result"]) for one in made] == [
        ("emergency", "press", "changed"),
        ("emergency", "pump", "failed"),
    ]
    press = made[0]
    assert press["where"] == {"gateway": "gateway", "controller": "press", **place}
    assert (press["before"], press["after"]) == ({"emergency_stop": 0}, {"emergency_stop": 1})
    assert (press["who"]["remote_user"], press["approval"], press["rollout"]) == ("root", "Ada", "r1")
    assert verify(log.path) == []


def test_no_canary_gets_into_any_file(log: AuditLog) -> None:
    canary = "canary-31337"
    arguments = {
        "controllers": [{"name": "press", "line": "/dev/ttyS1", "unit": 2}],
        "profiles": {"multi_sonicator_io": mapping()},
        "values": {"service_password": canary},
    }
    said = {"name": "press", "line": "/dev/ttyS1", "unit": 2, "changed": True, "failed": True, "msg": f"not {canary}"}
    audit.record_results(log, Task("registers", "gateway", arguments), {"controllers": [said]})
    hidden = {**said, "msg": "shown only elsewhere", "before": {"a": canary}, "after": {"a": canary}}
    quiet = Task("firmware", "gateway", {**arguments, "values": {}}, no_log=True)
    [record] = audit.record_results(log, quiet, {"controllers": [hidden]})
    assert (record["message"], record["before"], record["after"], record["result"]) == (
        "(no_log)",
        None,
        None,
        "failed",
    )
    log.append(
        Event("approval", before={"token": canary}, after={"vault": {"x": [canary]}}, message=f"password: {canary}"),
        gateway=f"https://user:{canary}@gateway",
        remote_user=f"token={canary}",
        approval=f"secret={canary}",
        rollout=f"api_key={canary}",
    )
    assert read(log.path)[-1]["before"] == {"token": REDACTED}
    for path in log.path.parent.iterdir():
        assert canary.encode() not in path.read_bytes(), path


# Errors


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        AuditError, match=r"audit log .*/file/audit\.jsonl: .*File exists.* name another place in multi"
    ):
        AuditLog(tmp_path / "file/audit.jsonl").append(Event("flash"))


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"audit\.jsonl: not there"):
        verify(tmp_path / LOG)
    assert read(tmp_path / LOG) == []


def test_a_log_that_has_gone_is_found_with_its_public_key(kept: Path, tmp_path: Path) -> None:
    [finding] = verify(tmp_path / LOG, kept / "audit.jsonl.pub")
    assert (finding.file, finding.kind) == (HEAD, "missing")


def test_keys_that_are_none_are_named(kept: Path, copy: Path) -> None:
    other = generate_private_key(SECP256R1())
    private = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for content, says in ((private, "expected an ed25519 key"), (b"x", "no readable key")):
        (copy / "audit.jsonl.key").write_bytes(content)
        with pytest.raises(AuditError, match=rf"audit\.jsonl\.key: {says}.*move audit\.jsonl\* away"):
            AuditLog(copy / LOG).append(Event("flash"))
    for content, says in ((public, "expected an ed25519 key"), (b"x", "no readable key")):
        (copy / "audit.jsonl.pub").write_bytes(content)
        with pytest.raises(AuditError, match=rf"public key .*\.pub: {says}"):
            verify(copy / LOG)
    with pytest.raises(AuditError, match=r"public key /nowhere: No such file"):
        verify(copy / LOG, "/nowhere")
    with pytest.raises(AuditError, match=r"kept copy /nowhere: No such file"):
        verify(copy / LOG, kept / "audit.jsonl.pub", ["/nowhere"])


def test_a_date_that_is_none_is_named(copy: Path) -> None:
    with pytest.raises(AuditError, match=r"until is 'soon', expected a date or time such as"):
        read(copy / LOG, until="soon")


def test_a_log_that_somebody_holds_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_LOCK_DEADLINE", 0.1)
    with AuditLog(copy / LOG)._open(), pytest.raises(AuditError, match=rf"held for 0 s by PID {os.getpid()} "):
        AuditLog(copy / LOG).append(Event("flash"))

# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Points, conditions and profiles: what is encoded comes back, what is not admitted is refused by name."""

from __future__ import annotations

import math
import re
import struct

import pytest
from _core.errors import ProfileError
from _core.profile import Condition, Point, Profile
from hypothesis import given
from hypothesis import strategies as st
from support.profiles import mapping, profile

WORDS = st.integers(0, 0xFFFF)


def point(**data: object) -> Point:
    return Point(**{"name": "p", "address": 0, "type": "uint16", "access": "rw", **data})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["uint16", "int16", "bits"])
@given(word=WORDS)
def test_every_register_survives_decode_and_encode(kind: str, word: int) -> None:
    one = point(type=kind, symbols={"low": 0, "high": 15})
    assert one.encode(one.decode([word])) == [word]


@pytest.mark.parametrize("kind", ["uint32", "int32", "float32"])
@pytest.mark.parametrize("order", ["big", "little"])
@given(words=st.lists(WORDS, min_size=2, max_size=2))
def test_every_pair_of_registers_survives(kind: str, order: str, words: list[int]) -> None:
    one = point(type=kind, length=2, word_order=order)
    value = one.decode(words)
    if isinstance(value, float) and not math.isfinite(value):
        with pytest.raises(ProfileError, match="finite"):
            one.encode(value)
    else:
        assert one.encode(value) == words


@given(raw=st.integers(0, 1023))
def test_scaled_values_come_back_to_the_same_register(raw: int) -> None:
    one = point(scale=0.898453, offset=-3.5, unit="W")
    assert one.encode(one.decode([raw])) == [raw]


def test_word_order_is_the_order_of_registers_not_of_bytes() -> None:
    big, little = struct.unpack(">HH", struct.pack(">I", 0x12345678)), (0x5678, 0x1234)
    assert point(type="uint32", length=2).encode(0x12345678) == list(big)
    assert point(type="uint32", length=2, word_order="little").encode(0x12345678) == list(little)


def test_string() -> None:
    one = point(type="string", length=3)
    assert one.decode(one.encode("MS-4")) == "MS-4"
    with pytest.raises(ProfileError, match="at most 6 characters"):
        one.encode("MS-4-long")
    with pytest.raises(ProfileError, match="ASCII"):
        one.encode("µ")


def test_enum() -> None:
    one = point(type="enum", symbols={"stopped": 0, "running": 2})
    assert one.decode([2]) == "running"
    assert one.decode([7]) == 7
    assert one.encode("stopped") == one.encode(0) == [0]
    for wrong in ("flying", 1):
        with pytest.raises(ProfileError):
            one.encode(wrong)


def test_bits() -> None:
    one = point(type="bits", symbols={"ok": 0, "fault": 1})
    assert one.decode([0b1001]) == ["ok", "bit_3"]
    assert one.encode(["ok", "bit_3"]) == [0b1001]
    assert one.encode(3) == one.encode("3") == [3]
    for wrong in (["broken"], "broken", 70000, True, None):
        with pytest.raises(ProfileError, match="a list of ok, fault"):
            one.encode(wrong)


@pytest.mark.parametrize(
    ("value", "words"),
    [(20, ""), (101, "20 to 100 %"), (19, "20 to 100 %"), ("fast", "a number"), (50.5, "step"), (True, "a number")],
)
def test_values_that_a_setting_does_not_admit(value: object, words: str) -> None:
    amplitude = point(name="amplitude", minimum=20, maximum=100, step=1, unit="%")
    if value == 20:
        assert amplitude.encode(value) == amplitude.encode("20") == [20]
        return
    with pytest.raises(ProfileError, match=words) as caught:
        amplitude.encode(value)
    assert str(caught.value).startswith("amplitude: ")


def test_numbers_that_no_register_holds() -> None:
    for kind, length, value in (("uint16", 1, -1), ("int16", 1, 40000), ("int32", 2, 1 << 31), ("float32", 2, 1e60)):
        with pytest.raises(ProfileError, match="fits into"):
            point(type=kind, length=length).encode(value)
    with pytest.raises(ProfileError, match="whole number"):
        point().encode(1.5)


def test_switches_take_truth_values() -> None:
    assert point(minimum=0, maximum=1).encode(True) == [1]


@pytest.mark.parametrize(
    ("condition", "good", "bad", "reason"),
    [
        ({"equals": 0}, 0, 2, "p is 2, expected 0"),
        ({"in": [0, 1]}, 1, 60, r"p is 60, expected one of \[0, 1\]"),
        ({"min": 20, "max": 100}, 20, 0, "p is 0, expected 20 to 100"),
        ({"min": 20}, 500, "x", 'p is "x"'),
        ({"set": ["ok"]}, ["ok", "bit_9"], [], "p lacks ok"),
        ({"clear": ["fault"]}, ["ok"], ["fault"], "p shows fault"),
    ],
)
def test_conditions(condition: dict[str, object], good: object, bad: object, reason: str) -> None:
    one = Condition.from_mapping({"point": "p", **condition})
    assert one.violation(good) is None  # type: ignore[arg-type]
    assert re.match(reason, one.violation(bad) or "")  # type: ignore[arg-type]


def test_steady_compares_with_before() -> None:
    one = Condition.from_mapping({"point": "comm_errors", "steady": True})
    assert one.violation(3, 3) is None
    assert one.violation(3) is None
    assert one.violation(4, 3) == "comm_errors went from 3 to 4, expected no change"


def test_condition_without_a_test() -> None:
    with pytest.raises(ProfileError, match="has no test"):
        Condition.from_mapping({"point": "p"})


def test_documented_profile() -> None:
    one = profile()
    assert one.point("sonicator3_amplitude").address == 0x0141
    assert [entry.name for entry in one.restorable][-1] == "start_inhibit_mask"
    assert one.version_text({"firmware_version": 0x0102, "firmware_patch": 3}) == "1.2.3"
    assert one.version_text({"firmware_version": 0, "firmware_patch": 0}) is None
    assert one.write_single
    assert one.part is not None
    assert one.part.keeps_eeprom({"lfuse": 0xFF, "hfuse": 0xD1})
    assert not one.part.keeps_eeprom({"lfuse": 0xFF, "hfuse": 0xD9})
    assert one.part.fuse_violations({"lfuse": 0xE4, "hfuse": 0xD9}) == ["lfuse is 0xE4, accepted are 0xFF"]


def test_observed_profile_tells_no_version() -> None:
    one = profile("multi_sonicator_io_observed")
    assert one.version_text({}) is None
    assert 16 not in one.function_codes


def test_unknown_points_name_their_neighbours() -> None:
    with pytest.raises(ProfileError, match="did you mean sonicator1_amplitude"):
        profile().point("sonicator1_amplitud")
    with pytest.raises(ProfileError, match="it has "):
        profile().point("qqqq")


def test_digest_follows_content() -> None:
    changed = mapping()
    changed["timing"]["boot_time"] = 9.0
    assert Profile.from_mapping(changed).digest != profile().digest == profile().digest


def test_incomplete_mapping_is_refused() -> None:
    broken = mapping()
    del broken["readable"]
    with pytest.raises(ProfileError, match="readable is missing"):
        Profile.from_mapping(broken)


def test_profile_without_a_part() -> None:
    bare = mapping()
    del bare["part"]
    assert Profile.from_mapping(bare).part is None

# SPDX-License-Identifier: Apache-2.0
import contextlib

import pytest
from fakeimage import Member, btf
from hypothesis import given
from hypothesis import strategies as st

from kdiff import registry
from kdiff.arch import ByteOrder
from kdiff.btf import structures, when_asked
from kdiff.distribution import KernelSetup
from kdiff.errors import KdiffError

INT, STRUCT, UNION, CONST, UNKNOWN = 1, 4, 5, 10, 31
ENTRY: tuple[Member, ...] = (("code", 1, 0), ("target", 1, 32), ("key", 1, 64))
GOOD = btf([(INT, "int", 4, ()), (STRUCT, "jump_entry", 16, ENTRY)])


@pytest.mark.parametrize("order", ["little", "big"])
def test_sizes_and_member_offsets_are_read_in_either_byte_order(order: ByteOrder) -> None:
    found = structures(btf([(INT, "int", 4, ()), (STRUCT, "jump_entry", 16, ENTRY)], order))
    assert found["jump_entry"].size == 16
    assert dict(found["jump_entry"].members) == {"code": 0, "target": 4, "key": 8}


def test_a_structure_that_is_laid_out_when_asked_for_is_as_in_all_of_them() -> None:
    twice, differ = ((STRUCT, "same", 4, ()),) * 2, ((STRUCT, "other", 4, ()), (STRUCT, "other", 8, ()))
    data = btf([(INT, "int", 4, ()), (STRUCT, "jump_entry", 16, ENTRY), *twice, *differ])
    found = when_asked(data)
    assert found["jump_entry"] == structures(data)["jump_entry"]
    assert found.get("other") is None
    assert found.get("absent") is None
    assert list(found) == ["jump_entry", "same"]
    assert len(found) == 2


def test_only_the_names_asked_for_are_returned() -> None:
    data = btf([(INT, "int", 4, ()), (STRUCT, "a", 4, ()), (STRUCT, "b", 8, ()), (UNION, "c", 8, ())])
    assert set(structures(data)) == {"a", "b"}
    assert set(structures(data, ["b", "absent"])) == {"b"}


def test_members_of_unnamed_unions_belong_to_the_structure() -> None:
    inner = (UNION, "", 4, (("ft_flags", 1, 0), ("", 4, 0)))
    bits = (STRUCT, "", 4, (("cpuid", 1, 0), ("flags", 1, 16)))
    outer = (STRUCT, "alt_instr", 14, (("offset", 1, 0), ("", 5, 64), ("length", 1, 96)))
    found = structures(btf([(INT, "int", 4, ()), outer, inner, bits, (CONST, "", 3, ())]))
    assert dict(found["alt_instr"].members) == {
        "offset": 0,
        "ft_flags": 8,
        "cpuid": 8,
        "flags": 10,
        "length": 12,
    }


def test_contradicting_definitions_of_a_name_are_left_out_and_equal_ones_are_not() -> None:
    twice = [(STRUCT, "same", 4, (("a", 1, 0),))] * 2
    differ = [(STRUCT, "differ", 4, (("a", 1, 0),)), (STRUCT, "differ", 8, (("a", 1, 0),))]
    assert set(structures(btf([(INT, "int", 4, ()), *twice, *differ]))) == {"same"}


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (b"", "btf.truncated"),
        (b"\x9f\xeb\x01", "btf.truncated"),
        (b"ABCD" + GOOD[4:], "btf.magic"),
        (GOOD[:2] + b"\x02" + GOOD[3:], "btf.magic"),
        (GOOD[:-1], "btf.truncated"),
        (GOOD[:-1] + b"x", "btf.strings"),
        (btf([(UNKNOWN, "x", 4, ())]), "btf.kind"),
        (btf([(STRUCT, "s", 4, (("", 1, 0),) * 60000)]), "btf.nesting"),
    ],
)
def test_unsound_type_information_is_an_error(data: bytes, key: str) -> None:
    with pytest.raises(KdiffError) as caught:
        structures(data)
    assert caught.value.key == key


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_no_damaged_byte_ends_in_anything_but_an_answer_or_an_error(place: int, value: int) -> None:
    with contextlib.suppress(KdiffError):
        structures(GOOD[:place] + bytes([value]) + GOOD[place + 1 :])


@pytest.mark.kernel
def test_a_real_kernel_tells_the_layout_of_its_tables(kernel: KernelSetup) -> None:
    memory = registry.load().open_memory(f"image:{kernel.image / 'vmlinuz'}")
    found = memory.facts().structures
    assert found["jump_entry"].size == 16
    assert dict(found["jump_entry"].members) == {"code": 0, "target": 4, "key": 8}
    assert found["exception_table_entry"].size == 12
    assert found["alt_instr"].members["repl_offset"] == 4

# SPDX-License-Identifier: Apache-2.0
"""Several objects as one say what each says by itself."""

from __future__ import annotations

import numpy as np
import pytest
from elfwriter import ABS, FUNC, OBJECT, Sec, Sym, elf

from kdiff.elf.read import RESERVED, Object, read_bytes
from kdiff.elf.stack import Stack

CODE = Sec(".text.f", b"\xe8\0\0\0\0\xc3", "ax", 16, relocs=((1, 4, "g", -4),))
DATA = Sec(".data", bytes(16), "wa", 8, relocs=((0, 1, "f", 2), (8, 1, "g", 0)))
PARTS = (
    (CODE, DATA, Sym("f", ".text.f", 0, 6, FUNC), Sym("g")),
    (Sec(".data", bytes(8), "wa", 8), Sym("x", ".data", 0, 8, OBJECT), Sym("at", ABS, 7)),
    (DATA, CODE, Sec(".bss", size=4, type=8, flags="wa"), Sym("g"), Sym("f", ".text.f", 0, 6, FUNC)),
)


def objects() -> list[Object]:
    return [read_bytes(elf(*parts), f"{number}.o") for number, parts in enumerate(PARTS)]


def test_rows_lie_behind_each_other_and_lead_to_their_own_object() -> None:
    parts = objects()
    stack = Stack.of(parts)
    first_section = first_symbol = at = 0
    for number, obj in enumerate(parts):
        assert stack.first_section[number] == first_section
        own = slice(first_section, first_section + len(obj.sections))
        assert stack.sections[own].tobytes() == obj.sections.tobytes()
        symbols = stack.symbols[first_symbol : first_symbol + len(obj.symbols)]
        for name in ("name", "value", "size", "type", "binding", "other"):
            assert np.array_equal(symbols[name], obj.symbols[name])
        for mine, yours in zip(symbols["section"].tolist(), obj.symbols["section"].tolist(), strict=True):
            assert mine == (yours + first_section if 0 < yours < RESERVED else yours)
        records = [column[at : at + len(obj.relocations)].tolist() for column in stack.records]
        assert records[0] == [each + first_section for each in obj.relocations["section"].tolist()]
        assert records[3] == [each + first_symbol for each in obj.relocations["symbol"].tolist()]
        for column, name in ((1, "offset"), (2, "type"), (4, "addend"), (5, "implicit")):
            assert records[column] == obj.relocations[name].tolist()
        assert (stack.bounds[own] - at).tolist() == obj.relocation_bounds[:-1].tolist()
        for index in range(len(obj.sections)):
            assert stack.number(first_section + index) == number
            assert stack.contents(first_section + index) == obj.contents(index)
        first_section, first_symbol = own.stop, first_symbol + len(obj.symbols)
        at += len(obj.relocations)
    assert stack.first_section[-1] == len(stack.sections) == first_section
    assert stack.bounds[-1] == len(stack.records.section) == at == 6
    assert len(stack.symbols) == first_symbol


def test_the_objects_stay_as_they_are() -> None:
    parts, again = objects(), objects()
    Stack.of(parts)
    for obj, other in zip(parts, again, strict=True):
        assert obj.symbols.tobytes() == other.symbols.tobytes()
        assert obj.relocations.equals(other.relocations)


@pytest.mark.parametrize("number", range(3))
def test_one_object_is_a_stack_too(number: int) -> None:
    obj = objects()[number]
    stack = Stack.of([obj])
    assert stack.sections is obj.sections
    assert stack.symbols is obj.symbols
    assert stack.records.section.tolist() == obj.relocations["section"].tolist()
    assert stack.bounds.tolist() == obj.relocation_bounds.tolist()


def test_sections_are_parted_by_object() -> None:
    parts = objects()
    stack = Stack.of(parts)
    numbers = np.array([1, 2, stack.first_section[2] + 1, stack.first_section[2] + 3])
    found = [(obj.path, first, numbers[part].tolist()) for obj, first, part in stack.parts(numbers)]
    firsts = stack.first_section
    assert found == [
        ("0.o", 0, [1, 2]), ("1.o", firsts[1], []), ("2.o", firsts[2], numbers[2:].tolist())
    ]  # fmt: skip

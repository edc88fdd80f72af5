# SPDX-License-Identifier: Apache-2.0
"""The symbols of the sections that become nodes, one by one.

In: a `Stack` and the sections that are cut. Out: a `Label` for each symbol in one of them, but for those of
whole sections and those that only tell a disassembler where code and where data begin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.read import STB_LOCAL, STT_FUNC, STT_NOTYPE, STT_OBJECT, STT_SECTION, Column
from kdiff.elf.stack import Stack


class Label(NamedTuple):
    """A symbol of a section, by the columns of the object's."""

    start: int
    size: int
    type: int
    binding: int
    other: int
    name: str

    @property
    def cuts(self) -> bool:
        """Whether it names something, and not a thread's variable or what nobody knows."""
        return self.type in (STT_FUNC, STT_OBJECT, STT_NOTYPE)


Labels = Mapping[int, list[Label]]
"""By section, in the order of the object's symbols."""


def labels_in(stack: Stack, arch: Architecture, sections: Sequence[Column]) -> list[Labels]:
    """The labels of some sections of each object, of which the first is none."""
    marks, found = arch.mapping_symbols, [dict[int, list[Label]]() for _ in stack.objects]
    wanted, symbols = np.append(np.concatenate(sections), False), stack.symbols
    chosen = wanted.take(symbols["section"], mode="clip").nonzero()[0]
    ends = chosen.searchsorted(stack.first_symbol).tolist()
    rows, numbers = symbols[chosen].tolist(), chosen.tolist()
    for which, obj in enumerate(stack.objects):
        own, before, after = found[which], stack.first_section[which], stack.first_symbol[which]
        part = slice(*ends[which : which + 2])
        for number, (_, value, size, kind, binding, other, home) in zip(
            numbers[part], rows[part], strict=True
        ):
            if kind == STT_SECTION:
                continue
            name = obj.symbol_name(number - after)
            if not (marks and kind == STT_NOTYPE and binding == STB_LOCAL and name.startswith(marks)):
                label = Label(value, size, kind, binding, other, name)
                own.setdefault(home - before, []).append(label)
    return list(found)


def by_start(labels: Iterable[Label]) -> dict[int, list[Label]]:
    """Labels of one section by where they stand."""
    at: dict[int, list[Label]] = {}
    for each in labels:
        at.setdefault(each.start, []).append(each)
    return at


def ranked(labels: list[Label]) -> tuple[Label, ...]:
    """Globals before locals, sized before bare labels: the name a person knows comes first."""
    if len(labels) < 2:
        return tuple(labels)
    return tuple(sorted(labels, key=_rank))


def _rank(label: Label) -> tuple[bool, bool, bool]:
    return label.size == 0, label.binding == STB_LOCAL, label.type == STT_NOTYPE

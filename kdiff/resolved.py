# SPDX-License-Identifier: Apache-2.0
"""Branches that the assembler resolved by itself, because they stay in their section.

In: the code of a node that shares its section with others. Out: what a relocation would have said of each
branch that leaves the node. Without them code that is moved by itself would branch into nothing, and code
whose neighbour grew would look changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from kdiff.arch import Architecture, Branch, Howto
from kdiff.insn import Instruction, insn_addend


class Resolved(NamedTuple):
    """A field, and where its branch goes, both counted from the start of the node."""

    offset: int
    howto: Howto
    share: int
    """What the instruction's encoding adds."""
    destination: int


def resolved(
    arch: Architecture,
    code: bytes,
    decoded: Iterable[Instruction],
    relocated: Collection[int],
    around: tuple[int, int],
) -> Iterator[Resolved]:
    """The branches of a node that go to another place of its section.

    `relocated`: the offsets of fields with relocations. `around`: where the section begins and ends.
    """
    low, high = around
    fields = sorted(relocated)
    for each in decoded:
        stop = each.offset + each.size
        at = bisect_left(fields, each.offset)
        if at < len(fields) and fields[at] < stop:
            continue
        raw = code[each.offset : stop]
        branch = arch.branch(raw)
        if branch is None:
            continue
        destination = each.offset + branch.length + branch.displacement
        if 0 <= destination < len(code) or not low <= destination < high:
            continue
        howto = _howto(arch, raw, branch)
        if howto is not None:
            share = insn_addend(howto, branch.field_offset, len(raw))
            yield Resolved(each.offset + branch.field_offset, howto, share, destination)


def _howto(arch: Architecture, raw: bytes, branch: Branch) -> Howto | None:
    """The first of the architecture's rows for branches that stores this displacement, and any other."""
    for kind in arch.branches:
        howto = arch.howtos[kind]
        field = slice(branch.field_offset, branch.field_offset + howto.size)
        share = insn_addend(howto, branch.field_offset, len(raw))
        value = branch.length + branch.displacement - branch.field_offset + share
        if field.stop > len(raw) or howto.extract(raw[field], arch.byte_order) != value:
            continue
        step = -4 if value > 0 else 4
        stored = howto.insert(raw[field], value + step, arch.byte_order)
        other = arch.branch(raw[: field.start] + stored + raw[field.stop :])
        if other is not None and other.displacement == branch.displacement + step:
            return howto
    return None

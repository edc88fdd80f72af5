# SPDX-License-Identifier: Apache-2.0
"""Relocation records that mean something together only, joined into one field each.

In: the records of a node, and the rows of its architecture. Out: `Record`s, each of which stores one value.
Three kinds exist: two records of one place whose symbols are added and subtracted (riscv, loongarch), a low
part that names the place of its high part (riscv), and the stack machine of loongarch's first ABI.
Hints to the linker, which store nothing, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kdiff.arch import Architecture, BitField, Howto
from kdiff.elf.read import STT_SECTION, Object
from kdiff.elf.relocations import Raw
from kdiff.errors import KdiffError
from kdiff.stackvalue import stored


class Record(NamedTuple):
    """What one field stores: symbol + addend, less `minus` (symbol, addend) or the field's own address.

    `origin`: the offset in the section from which a pc-relative value counts, where that is not the field
    itself; `addend` contains the way from there to the field.
    """

    place: int
    howto: Howto
    symbol: int
    addend: int
    implicit: bool = False
    minus: tuple[int, int] | None = None
    origin: int | None = None


def records(obj: Object, arch: Architecture, found: Sequence[Raw]) -> list[Record]:
    """Join what belongs together. KdiffError for unknown types and for parts that miss their counterpart."""
    known, plain = arch.howtos, list[Record]()
    for _, place, kind, symbol, addend, implicit in found:
        howto = known.get(kind)
        if howto is None or not howto.alone:
            break
        plain.append(Record(place, howto, symbol, addend, implicit))
    else:
        return plain
    rows = [(each, _row(obj, arch, each)) for each in found]
    rows = [(each, howto) for each, howto in rows if howto.size or howto.stack]
    result: list[Record] = []
    position = 0
    while position < len(rows):
        raw, howto = rows[position]
        _, place, _, symbol, addend, implicit = raw
        position += 1
        if howto.stack:
            stop = next((i for i in range(position - 1, len(rows)) if rows[i][1].stack == "pop"), len(rows))
            group = rows[position - 1 : stop + 1]
            if stop == len(rows) or any(each[1] != place or not row.stack for each, row in group):
                raise _broken(obj, raw, f"{howto.name} begins a computation that nothing stores")
            result.append(_computed(obj, group))
            position = stop + 1
        elif howto.subtracts:
            raise _broken(obj, raw, f"{howto.name} subtracts from nothing")
        elif position < len(rows) and _is_partner(raw, howto, rows[position][0]):
            result.append(_difference(obj, raw, howto, rows[position][0]))
            position += 1
        elif howto.labelled:
            result.append(_low_part(obj, arch, raw, howto))
        else:
            result.append(Record(place, howto, symbol, addend, implicit))
    return result


def _row(obj: Object, arch: Architecture, raw: Raw) -> Howto:
    howto = arch.howtos.get(raw[2])
    if howto is None:
        raise _broken(obj, raw, f"{arch.name} relocation type {raw[2]} is not known")
    if howto.uleb128:
        return _sized(howto, _uleb128_size(bytes(obj.contents(raw[0])[raw[1] : raw[1] + 10])))
    return howto


def _broken(obj: Object, raw: Raw, message: str) -> KdiffError:
    where = f"{obj.path}: {obj.section_name(raw[0])}+{raw[1]:#x}"
    return KdiffError("arch.relocation", message, place=where)


# Sums ------------------------------------------------------------------------------------------------


def _is_partner(raw: Raw, howto: Howto, other: Raw) -> bool:
    """Whether the record `other` subtracts what `raw` adds to."""
    return (other[0], other[1], other[2]) == (raw[0], raw[1], howto.partner)


def _difference(obj: Object, raw: Raw, howto: Howto, other: Raw) -> Record:
    """Two symbols' difference; where the second one lies in the field's own section, a pc-relative value."""
    section, place, _, symbol, addend, implicit = raw
    subtrahend = obj.symbols[other[3]]
    if int(subtrahend["section"]) != section:
        return Record(place, howto, symbol, addend, implicit, (other[3], other[4]))
    origin = int(subtrahend["value"]) + other[4]
    return Record(place, _relative(howto), symbol, addend + place - origin, implicit, None, origin)


@lru_cache(maxsize=64)
def _relative(howto: Howto) -> Howto:
    return replace(howto, name=f"{howto.name}.relative", pc_relative=True)


@lru_cache(maxsize=64)
def _sized(howto: Howto, size: int) -> Howto:
    fields = tuple(BitField(8 * byte, 7 * byte, 7) for byte in range(size))
    return replace(howto, name=f"{howto.name}.{size}", size=size, fields=fields)


def _uleb128_size(data: bytes) -> int:
    return next((at + 1 for at, byte in enumerate(data) if byte < 0x80), len(data))


# High and low parts ----------------------------------------------------------------------------------


def _low_part(obj: Object, arch: Architecture, raw: Raw, howto: Howto) -> Record:
    section, place, _, label, addend, implicit = raw
    symbol = obj.symbols[label]
    origin = int(symbol["value"]) + (addend if symbol["type"] == STT_SECTION else 0)
    high = _high_part(obj, arch, section, origin) if int(symbol["section"]) == section else None
    if high is None:
        raise _broken(obj, raw, f"{howto.name} names a place where no high part is")
    row, target, way = high
    if symbol["type"] != STT_SECTION:
        way += addend
    return Record(place, _through_slot(howto) if row.slot else howto, target, way + place - origin, implicit,
                  None, origin)  # fmt: skip


def _high_part(obj: Object, arch: Architecture, section: int, place: int) -> tuple[Howto, int, int] | None:
    found = obj.records(section)
    first, last = np.searchsorted(found["offset"], (place, place + 1))
    for _, _, kind, symbol, addend, _ in found.of(slice(first, last)).rows():
        row = arch.howtos.get(kind)
        if row is not None and row.drops and row.pc_relative:
            return row, symbol, addend
    return None


@lru_cache(maxsize=64)
def _through_slot(howto: Howto) -> Howto:
    return replace(howto, name=f"{howto.name}.slot", slot=True)


# Stack machine ---------------------------------------------------------------------------------------


def _computed(obj: Object, group: Sequence[tuple[Raw, Howto]]) -> Record:
    """The value that a sequence of stack operations computes."""
    last, pop = group[-1]
    found = stored(pop, [(howto.stack, symbol, addend) for (_, _, _, symbol, addend, _), howto in group[:-1]])
    if found is None:
        names = ", ".join(howto.name for _, howto in group)
        raise _broken(obj, last, f"the computation {names} is not known")
    howto, symbol, addend = found
    return Record(last[1], howto, symbol, addend)

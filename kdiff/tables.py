# SPDX-License-Identifier: Apache-2.0
"""Special sections: which row of the plugins' table a section has, and how its entries lie.

Where facts of a kernel tell the size of an entry, the object must not contradict them. Where they do not, the
object itself tells: the layout among `SpecialSection.shapes` that all of its relocations fit. A layout nobody
listed must be told by sh_entsize, by the symbols of its entries, by debugging information, or by the distance
at which relocations repeat. All that is said must agree; else the table is opaque, one node with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.read import SHF_ALLOC, SHT_NOBITS, STB_LOCAL, Column, Object
from kdiff.howtos import howtos_of
from kdiff.kernel import Keep, Shape, SpecialSection
from kdiff.sectionrows import Rows, keep

Sizes = Callable[[str], int]
"""The size of a C structure in the object's debugging information, 0 if it is not there."""


_MOST_FIELDS = 512
"""Fields of a table whose layout is kept for others."""


class Fields(NamedTuple):
    """The relocated fields of a table as columns, one row for each place."""

    offset: Column
    size: Column
    here: Column
    """The symbol is defined in this object."""
    named: Column
    """The symbol is global."""


class _Around(NamedTuple):
    """What an object says besides its tables.

    `bound`: by symbol, in bits, `here` and `named` of `Fields`. `covering`: the sizes of symbols in tables.
    `typed`: it may have debugging information.
    """

    bound: Column
    covering: Mapping[int, list[int]]
    typed: bool


def _around(obj: Object, tables: Iterable[int]) -> _Around:
    home, asked = obj.symbols["section"], np.zeros(len(obj.sections) + 1, bool)
    bound = (home > 0).view("u1") | (obj.symbols["binding"] != STB_LOCAL).view("u1") << 1
    asked[list(tables)] = True
    sized = (asked.take(home, mode="clip") & (obj.symbols["size"] > 0)).nonzero()[0]
    covering: dict[int, list[int]] = {}
    for section, size in zip(home[sized].tolist(), obj.symbols["size"][sized].tolist(), strict=True):
        covering.setdefault(section, []).append(size)
    return _Around(bound, covering, b".debug_info" in bytes(obj.contents(obj.section_names)))


def piece_sections(obj: Object, special: Mapping[str, SpecialSection]) -> frozenset[int]:
    """The sections that hold code for table entries only (`SpecialSection.pieces`)."""
    rows, named = Rows(special), obj.names_of_sections()
    loaded = np.flatnonzero(obj.sections["flags"] & SHF_ALLOC).tolist()
    return frozenset([index for index in loaded if index and rows.is_piece(named[index])])


def tables_of(
    obj: Object, arch: Architecture, special: Mapping[str, SpecialSection], sizes: Sizes = lambda name: 0,
    names: Mapping[int, str] | None = None,
) -> dict[int, SpecialSection]:  # fmt: skip
    """All tables of an object by section: rows whose size, owner and ignored fields are those of its entries.

    An `entry_size` of 0 is one opaque entry. `names`: of loaded sections, if they are at hand.
    """
    rows = Rows(special)
    if names is None:
        named = obj.names_of_sections()
        names = {index: named[index] for index in np.flatnonzero(obj.sections["flags"] & SHF_ALLOC).tolist()}
    known = ((index, rows.row(name)) for index, name in names.items())
    return tables_among({index: row for index, row in known if row is not None}, obj, arch, rows, sizes)


def tables_among(
    chosen: Mapping[int, SpecialSection], obj: Object, arch: Architecture, rows: Rows, sizes: Sizes
) -> dict[int, SpecialSection]:
    """The same of sections whose rows are known."""
    totals, found = obj.sections["size"][list(chosen)].tolist(), dict(chosen)
    cut = [
        index
        for (index, row), total in zip(chosen.items(), totals, strict=True)
        if total and (row.keep is not Keep.NEVER or row.entry_size)
    ]
    around = _around(obj, cut)
    found.update([(index, _layout(obj, arch, index, chosen[index], rows, sizes, around)) for index in cut])
    beside = [(index, found[index]) for index in cut if found[index].parallel and not found[index].opaque]
    leaders = {obj.section_name(index): index for index in cut} if beside else {}
    for index, row in beside:
        leader = leaders.get(row.parallel)
        if leader is not None:
            found[index] = _beside(obj, index, row, leader, found[leader])
    return found


def counts_nothing(row: SpecialSection | None, entry: memoryview, address: int) -> bool:
    """Whether nothing lies where an entry's field at `address` points to."""
    if row is None or not row.counts:
        return False
    return any(field == address and bytes(entry[count : count + 1]) == b"\0" for field, count in row.counts)


def rows_in(total: int, size: int, least: int = 0) -> int:
    """How many entries of `size` bytes fill a table, 0 if they do not; the last may have `least` bytes."""
    count, rest = divmod(total, size)
    if not rest:
        return count
    return count + 1 if 0 < least <= rest else 0


def _layout(
    obj: Object, arch: Architecture, section: int, row: SpecialSection, rows: Rows, sizes: Sizes,
    around: _Around,
) -> SpecialSection:  # fmt: skip
    """The row for one section, with the layout that facts and object agree on; kept for its like."""
    _, held, _, _, _, total, *_, entsize = obj.row(section)
    name = obj.section_name(section)
    if held == SHT_NOBITS:
        return _opaque(row, f"{name} has no contents")
    said = _said(entsize, total, around.covering.get(section, []))
    first, last = obj.relocation_bounds[section : section + 2].tolist()
    kind, offset, symbol = (obj.relocations[each][first:last] for each in ("type", "offset", "symbol"))
    bound = around.bound.take(symbol)
    if last - first > _MOST_FIELDS:
        return _settled(row, name, total, said, _addresses(arch, kind, offset, bound), sizes)
    fields = kind.tobytes(), offset.tobytes(), bound.tobytes()
    key = row.name, arch, around.typed, total, *said.items(), *fields
    found = rows.layouts.get(key)
    if found is None:
        told: list[int] = []

        def size(structure: str) -> int:
            told.append(sizes(structure))
            return told[-1]

        found = _settled(row, name, total, said, _addresses(arch, kind, offset, bound), size)
        if not (found.opaque or any(told) or (told and around.typed)):  # nothing but the key decided
            keep(rows.layouts, key, found)
    return found


def _settled(
    row: SpecialSection, name: str, total: int, said: Mapping[str, int], fields: Fields, sizes: Sizes
) -> SpecialSection:
    fitting = [shape for shape in row.shapes if _fits(shape, total, fields)]
    if row.entry_size:
        return _checked(row, name, total, fields, fitting)
    chosen = [shape for shape in fitting if all(shape.size == size for size in said.values())]
    if len(chosen) > 1 and row.structure:
        chosen = [shape for shape in chosen if shape.size == sizes(row.structure)]
    if len(chosen) == 1:
        return _shaped(row, chosen[0])
    if fitting:
        shown = _list([shape.size for shape in fitting])
        told = "".join(f", {size} by {how}" for how, size in said.items())
        return _opaque(row, f"entries of {name} have {shown} bytes by its relocations{told}")
    return _unknown(row, name, total, said, fields, sizes)


def _said(declared: int, total: int, covering: list[int]) -> dict[str, int]:
    """What the object says about the size of entries: sh_entsize, and symbols that cover the table."""
    said = {}
    if declared > 1 and total % declared == 0:
        said["sh_entsize"] = declared
    if covering and covering.count(covering[0]) == len(covering) and sum(covering) == total:
        said["its symbols"] = covering[0]
    return said


def _checked(
    row: SpecialSection, name: str, total: int, fields: Fields, fitting: list[Shape]
) -> SpecialSection:
    """A row whose entries' size is a fact, if the object does not contradict it."""
    alike = [shape for shape in fitting if shape.size == row.entry_size]
    least = row.least or max((shape.least for shape in row.shapes if shape.size == row.entry_size), default=0)
    others = _list(sorted({shape.size for shape in fitting})) if fitting else ""
    if not rows_in(total, row.entry_size, least):
        shown = f", and its relocations show entries of {others}" if others else ""
        return _opaque(
            row, f"{name} has {total} bytes, no multiple of its {row.entry_size}-byte entries{shown}"
        )
    if others and not alike:
        return _opaque(
            row, f"entries of {name} have {row.entry_size} bytes by its type, {others} by its relocations"
        )
    ignored = row.ignored or (alike[0].ignored if len(alike) == 1 else ())
    counts = row.counts or (alike[0].counts if len(alike) == 1 else ())
    payload = alike[0].payload if row.payload is None and len(alike) == 1 else row.payload
    found = row
    if (least, ignored, counts, payload) != (row.least, row.ignored, row.counts, row.payload):
        found = replace(row, least=least, ignored=ignored, counts=counts, payload=payload)
    return found if _all_owned(found, total, fields) else _opaque(row, _unowned(name, row.entry_size))


def _unknown(
    row: SpecialSection,
    name: str,
    total: int,
    said: Mapping[str, int],
    fields: Fields,
    sizes: Sizes,
) -> SpecialSection:
    """A row whose entries have a layout nobody listed: as the object says, or as its relocations repeat."""
    told = dict(said)
    declared = sizes(row.structure) if row.structure else 0
    if declared and rows_in(total, declared, row.least):
        told["its type"] = declared
    repeated = _stride(total, fields)
    if repeated and repeated != total:
        told["its relocations"] = repeated
    if not told and not row.shapes:
        return row
    if not told:
        return _opaque(row, f"entries of {name}, {total} bytes, have no known layout")
    if len(set(told.values())) > 1:
        shown = ", ".join(f"{size} by {how}" for how, size in told.items())
        return _opaque(row, f"entries of {name} have {shown} bytes")
    (size,) = set(told.values())
    found = replace(row, entry_size=size)
    return found if _all_owned(found, total, fields) else _opaque(row, _unowned(name, size))


def _all_owned(row: SpecialSection, total: int, fields: Fields) -> bool:
    """Whether each entry has an address where its owner must be named."""
    if row.owner is None:
        return True
    owned = np.count_nonzero(fields.offset % row.entry_size == row.owner)
    return int(owned) == rows_in(total, row.entry_size, row.least)


def _unowned(name: str, size: int) -> str:
    return f"entries of {name} have {size} bytes, and not all of them name their code"


def _beside(
    obj: Object, section: int, row: SpecialSection, leader: int, leading: SpecialSection
) -> SpecialSection:
    """A row that has as many entries as another table has."""
    total, name = int(obj.sections["size"][section]), obj.section_name(section)
    size = leading.entry_size
    count = rows_in(int(obj.sections["size"][leader]), size, leading.least) if size else 0
    if not count or not total:
        return row
    if total % count or row.entry_size not in (0, total // count):
        each = row.entry_size or total / count
        return _opaque(
            row, f"{name} has {total / each:g} entries of {each:g} bytes, and {row.parallel} has {count}"
        )
    return _sized(row, total // count)


@lru_cache(maxsize=256)
def _sized(row: SpecialSection, size: int) -> SpecialSection:
    return replace(row, entry_size=size)


@lru_cache(maxsize=256)
def _shaped(row: SpecialSection, shape: Shape) -> SpecialSection:
    return replace(
        row,
        entry_size=shape.size,
        owner=shape.owner,
        ignored=shape.ignored,
        least=shape.least,
        counts=shape.counts,
        payload=shape.payload,
    )


def _opaque(row: SpecialSection, why: str) -> SpecialSection:
    told = "" if row.keep is Keep.NEVER else why
    return replace(row, entry_size=0, owner=None, parallel="", ignored=(), counts=(), sites=None, opaque=told)


def _list(sizes: list[int]) -> str:
    return " or ".join(str(size) for size in sizes)


def _addresses(arch: Architecture, kinds: Column, offsets: Column, bound: Column) -> Fields:
    """The relocated fields, one for each place; where two records make a difference the first one counts."""
    howtos, offsets = howtos_of(arch), offsets.astype("i8")
    sizes = howtos.size.take(howtos.number(kinds))
    if np.count_nonzero(sizes) < len(sizes):
        offsets, bound, sizes = offsets[sizes > 0], bound[sizes > 0], sizes[sizes > 0]
    again = offsets[1:] == offsets[:-1]
    if np.count_nonzero(again):
        first = np.append(True, ~again)
        offsets, bound, sizes = offsets[first], bound[first], sizes[first]
    return Fields(offsets, sizes, bound & 1 > 0, bound & 2 > 0)


def _fits(shape: Shape, total: int, fields: Fields) -> bool:
    """Whether a table may consist of such entries: each address has its place, and none is missing."""
    count = rows_in(total, shape.size, shape.least)
    if not count or count * len(shape.addresses) > len(fields.offset):
        return False
    if not len(fields.offset):
        return True
    at = fields.offset % shape.size
    expected, must, named = _places(shape)
    if np.count_nonzero(fields.size != expected.take(at)):
        return False
    if shape.owner is not None and np.count_nonzero((at == shape.owner) & ~fields.here):
        return False
    if shape.named and np.count_nonzero(named.take(at) & ~fields.named):
        return False
    return int(np.count_nonzero(must.take(at))) == count * len(shape.addresses)


@lru_cache(maxsize=256)
def _places(shape: Shape) -> tuple[Column, Column, Column]:
    """By offset in an entry: bytes of the field there, whether there must be one, and for a global symbol."""
    expected = np.zeros(shape.size, "i8")
    must, named = np.zeros(shape.size, bool), np.zeros(shape.size, bool)
    for offset, size in (*shape.others, *shape.addresses):
        expected[offset : offset + 1] = size
    for offset, _ in shape.addresses:
        must[offset : offset + 1] = True
    for offset in shape.named:
        named[offset : offset + 1] = True
    return expected, must, named


def _stride(total: int, fields: Fields) -> int:
    """The constant distance at which the pattern of relocated fields repeats, else 0."""
    offsets, kinds = fields.offset, fields.size
    for count in range(1, len(offsets) + 1):
        groups, rest = divmod(len(offsets), count)
        if rest or total % groups:
            continue
        step = total // groups
        by_group, sizes = offsets.reshape(groups, count), kinds.reshape(groups, count)
        expected = by_group[0] + step * np.arange(groups)[:, None]
        if np.array_equal(by_group, expected) and np.all(sizes == sizes[0]) and by_group[0][-1] < step:
            return step
    return 0

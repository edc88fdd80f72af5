# SPDX-License-Identifier: Apache-2.0
"""Cut sections into the pieces that become graph nodes.

In: a `Stack` of objects and the rows of special sections. Out: `Piece`s, none of which overlap. A piece is a
(section, symbol range), because linkers and assemblers put many functions into one section; tables are
cut into entries, string sections into strings, constant pools into constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import reduce
from typing import NamedTuple

import numpy as np

from kdiff.alike import Scope
from kdiff.arch import Architecture, Howto
from kdiff.elf.read import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_MERGE,
    SHF_STRINGS,
    SHF_WRITE,
    SHT_GROUP,
    SHT_NOBITS,
    SHT_NOTE,
    Column,
    Object,
)
from kdiff.elf.relocations import Raw
from kdiff.elf.stack import Stack
from kdiff.kernel import SpecialSection
from kdiff.labels import Label, Labels, by_start, ranked
from kdiff.runs import Table, alone, bounds_of_runs, runs, starts_of
from kdiff.structures import declared_sizes
from kdiff.tables import piece_sections, tables_of

CHARACTERS = (1, 2, 4)
"""Bytes of a character in a section of strings: char, char16_t (u"") and wchar_t (L"") or char32_t (U"")."""


class Kind(Enum):
    """What a node is, as far as every later stage must know."""

    FUNCTION = "function"
    DATA = "data"
    """Writable: its run contents may have changed since boot."""
    CONSTANT = "constant"
    """Read-only and not a string."""
    STRING = "string"
    ENTRY = "entry"
    """One row of a special section."""
    EXTERN = "extern"
    """Defined in another unit."""


class Piece(NamedTuple):
    """`size` bytes at `start` of a section. `labels`: those at its start, preferred first."""

    section: int
    start: int
    size: int
    kind: Kind
    labels: tuple[Label, ...] = ()
    table: SpecialSection | None = None
    row: int = -1
    """Index of the entry in its table."""


def split(
    stack: Stack, arch: Architecture, special: Mapping[str, SpecialSection], scopes: Sequence[Scope | None],
    ahead: tuple[str, ...], labels: Sequence[Labels],
) -> list[list[Piece]]:  # fmt: skip
    """Cut all allocated sections of each object, or those of its scope, in section order and by offset.

    `ahead`: how names begin of what lies in front of a function (`CodeAhead`). `labels`: of these sections.
    """
    parts = [
        _cut(obj, arch, special, scope, own)
        for obj, scope, own in zip(stack.objects, scopes, labels, strict=True)
    ]
    _cut_in_runs(stack, parts)
    return [
        _up_to_functions([piece for each in part.found.values() for piece in each], ahead) for part in parts
    ]


class _Part(NamedTuple):
    """What is cut of one object: `found` by section; `in_runs`: tables that are cut once all else is."""

    obj: Object
    scope: Scope | None
    tables: Mapping[int, SpecialSection]
    labels: Labels
    found: dict[int, list[Piece]]
    in_runs: dict[int, SpecialSection]


def _cut(
    obj: Object,
    arch: Architecture,
    special: Mapping[str, SpecialSection],
    scope: Scope | None,
    labels: Labels,
) -> _Part:
    tables = tables_of(obj, arch, special, declared_sizes(obj, arch)) if scope is None else scope.tables
    wanted = sections_in(obj, scope)
    by_section = {index: [each for each in found if each.cuts] for index, found in labels.items()}
    companions = _cuts(obj, arch, pieces_in(obj, special, scope), tables, wanted)
    payloads = _payloads(obj, arch, tables, wanted)
    found: dict[int, list[Piece]] = {}
    in_runs: dict[int, SpecialSection] = {}
    for index in wanted.nonzero()[0].tolist():
        pieces = found[index] = []
        _, held, flags, _, _, size, _, _, _, entsize = obj.row(index)
        if held in (SHT_GROUP, SHT_NOTE):
            continue
        if not size:
            if index in by_section:  # an empty structure still has an address
                pieces.append(Piece(index, 0, 0, _kind(flags), ranked(by_section[index])))
            continue
        row = tables.get(index)
        kind = _kind(flags)
        if row is not None and row.runs and row.entry_size:
            in_runs[index] = row
        elif row is not None:
            pieces += _entries(obj, index, row, None, scope, by_section.get(index, []))
        elif index in companions:
            starts = sorted({0, *companions[index]})
            pieces += [
                Piece(index, start, stop - start, kind)
                for start, stop in zip(starts, [*starts[1:], size], strict=True)
            ]
        elif held == SHT_NOBITS:
            pieces += _by_symbols(
                obj, arch, index, kind, by_section.get(index, []), payloads.get(index, set())
            )
        elif obj.section_name(index) in arch.pools:
            word = arch.elf_class // 8
            pieces += [Piece(index, at, min(word, size - at), Kind.CONSTANT) for at in range(0, size, word)]
        elif flags & SHF_MERGE and flags & SHF_STRINGS and entsize in CHARACTERS:
            ends = _strings(bytes(obj.contents(index)), entsize)
            pieces += [Piece(index, start, stop - start, Kind.STRING) for start, stop in ends]
        elif flags & SHF_MERGE and entsize and size % entsize == 0:
            pieces += [Piece(index, start, entsize, Kind.CONSTANT) for start in range(0, size, entsize)]
        else:
            pieces += _by_symbols(
                obj, arch, index, kind, by_section.get(index, []), payloads.get(index, set())
            )
    return _Part(obj, scope, tables, by_section, found, in_runs)


def _up_to_functions(pieces: list[Piece], ahead: tuple[str, ...]) -> list[Piece]:
    """Let what lies in front of a function by its name take in the padding between the two."""
    for index in range(len(pieces) - 1 if ahead else 0):
        piece, following = pieces[index : index + 2]
        gap = following.start - piece.start - piece.size
        if piece.section != following.section or gap <= 0 or piece.kind is not Kind.FUNCTION:
            continue
        own = {f"{mark}{each.name}" for mark in ahead for each in following.labels}
        if any(each.name in own for each in piece.labels):
            pieces[index] = piece._replace(size=piece.size + gap)
    return pieces


def _entries(
    obj: Object, table: int, row: SpecialSection, begins: Column | None, scope: Scope | None,
    labels: list[Label],
) -> list[Piece]:  # fmt: skip
    """The entries of a table that become nodes, one by one, or cut where `begins` says so."""
    size, names = int(obj.sections["size"][table]), by_start(labels)
    step = row.entry_size or size
    chosen = None if scope is None else scope.entries.get(table)
    count = -(-size // step)
    if begins is None or len(begins) != count:
        numbers = range(count) if chosen is None else chosen.nonzero()[0].tolist()
        spans = [(each, each + 1) for each in numbers]
    else:
        spans = runs(begins, chosen)
    return [
        Piece(
            table,
            first * step,
            min(last * step, size) - first * step,
            Kind.ENTRY,
            ranked(names[first * step]) if first * step in names else (),
            row,
            first,
        )
        for first, last in spans
    ]


def _cut_in_runs(stack: Stack, parts: Sequence[_Part]) -> None:
    """Cut the tables whose rows say so in runs of entries; parallel tables are cut alike."""
    groups, tables = list[tuple[_Part, list[int]]](), list[Table]()
    for part, first in zip(parts, stack.first_section, strict=False):
        names = part.obj.names_of_sections()
        leaders = {names[index]: index for index in part.tables} if part.in_runs else {}
        alike: dict[int, list[int]] = {}
        for index, row in part.in_runs.items():
            alike.setdefault(leaders.get(row.parallel, index), []).append(index)
        for leader, members in alike.items():
            entries = {} if part.scope is None else part.scope.entries
            chosen = None if part.scope is None else _any_of([entries.get(each) for each in members])
            tables.append((first + leader, part.tables[leader], chosen))
            groups.append((part, members))
    if not tables:
        return
    pieces = [
        (first + piece.section, piece.start)
        for part, first in zip(parts, stack.first_section, strict=False)
        for each in part.found.values()
        for piece in each
    ]
    starts = starts_of(*np.array(pieces, "i8").reshape(-1, 2).T)
    for (part, members), begins in zip(groups, bounds_of_runs(stack, tables, starts), strict=True):
        for index in members:
            for start in by_start(part.labels.get(index, [])):
                alone(begins, start // part.in_runs[index].entry_size)
        for index in members:
            labels = part.labels.get(index, [])
            part.found[index] = _entries(part.obj, index, part.in_runs[index], begins, part.scope, labels)


def _any_of(columns: list[Column | None]) -> Column | None:
    """The entries that are chosen in any of some parallel tables; None for all."""
    known = [each for each in columns if each is not None]
    if len(known) < len(columns) or len({len(each) for each in known}) != 1:
        return None
    return reduce(np.logical_or, known)


def sections_in(obj: Object, scope: Scope | None) -> Column:
    """The sections that are cut."""
    allocated: Column = obj.sections["flags"] & SHF_ALLOC > 0
    return allocated if scope is None else allocated & scope.nodes


def pieces_in(obj: Object, special: Mapping[str, SpecialSection], scope: Scope | None) -> frozenset[int]:
    """The sections that hold code for table entries only."""
    known = None if scope is None else scope.pieces
    return piece_sections(obj, special) if known is None else known


def _kind(flags: int) -> Kind:
    if flags & SHF_EXECINSTR:
        return Kind.FUNCTION
    return Kind.DATA if flags & SHF_WRITE else Kind.CONSTANT


def _strings(data: bytes, width: int) -> list[tuple[int, int]]:
    """Where each string begins and ends; a character and its end have `width` bytes."""
    ranges = []
    start = 0
    while start < len(data):
        end = data.find(bytes(width), start)
        while end >= 0 and (end - start) % width:
            end = data.find(bytes(width), end + 1)
        stop = len(data) if end < 0 else end + width
        ranges.append((start, stop))
        start = stop
    return ranges


def _by_symbols(
    obj: Object, arch: Architecture, section: int, kind: Kind, labels: list[Label], payloads: set[int]
) -> list[Piece]:
    """Cut at every sized symbol that does not lie inside an earlier one; what is left over stays a piece.

    Of what is left over, each of the `payloads` is a piece by itself.
    """
    size = int(obj.sections["size"][section])
    if len(labels) == 1 and labels[0].start == 0 and labels[0].size == size and not payloads:
        return [Piece(section, 0, size, kind, (labels[0],))]
    at = by_start(labels)
    ranges: list[tuple[int, int]] = []
    for start in sorted(at):
        if start > size:
            break
        extent = max([each.size for each in at[start]])
        stop = min(start + extent, size)
        if extent and (not ranges or start >= ranges[-1][1]):
            ranges.append((start, stop))
    pieces: list[Piece] = []
    position = 0
    for start, stop in [*ranges, (size, size)]:
        begins = sorted({position, *(each for each in payloads if position < each < start)})
        for begin, end in zip(begins, [*begins[1:], start], strict=True):
            if begin < end and (begin in payloads or not _is_padding(obj, arch, section, begin, end)):
                pieces.append(Piece(section, begin, end - begin, kind, ranked(at.get(begin, []))))
        if stop > start:
            pieces.append(Piece(section, start, stop - start, kind, ranked(at[start])))
        position = stop
    return pieces


def _is_padding(obj: Object, arch: Architecture, section: int, start: int, stop: int) -> bool:
    first, last = np.searchsorted(obj.records(section)["offset"], (start, stop))
    if first < last:
        return False
    if obj.sections["flags"][section] & SHF_EXECINSTR:
        return only_nops(arch, bytes(obj.contents(section)[start:stop]))
    return not any(obj.contents(section)[start:stop]) and bool(start)


def only_nops(arch: Architecture, code: bytes) -> bool:
    """Whether `code` is nothing but no-ops and padding bytes."""
    at = 0
    while at < len(code):
        step = next((len(nop) for nop in arch.nops if code.startswith(nop, at)), 0)
        if not step and code[at] not in arch.padding:
            return False
        at += step or 1
    return True


def _payloads(
    obj: Object, arch: Architecture, tables: Mapping[int, SpecialSection], wanted: Column
) -> dict[int, set[int]]:
    """For wanted sections of code: where code begins that only table entries need."""
    found: dict[int, set[int]] = {}
    code = wanted & (obj.sections["flags"] & SHF_EXECINSTR > 0)
    for index, row in tables.items():
        if row.payload is None or not row.entry_size:
            continue
        records = obj.records(index)
        homes = obj.symbols["section"][records["symbol"]]
        chosen = ((records["offset"] % row.entry_size == row.payload) & (homes < len(code))).nonzero()[0]
        chosen = chosen[code[homes[chosen]]]
        for record in records.of(chosen).rows() if len(chosen) else ():
            _, _, kind, number, *_ = record
            symbol = obj.symbols[number]
            at = int(symbol["value"]) + _addend(obj, arch, arch.howtos.get(kind), record)
            found.setdefault(int(symbol["section"]), set()).add(at)
    return found


def _cuts(
    obj: Object, arch: Architecture, sections: frozenset[int], tables: Mapping[int, SpecialSection],
    wanted: Column,
) -> dict[int, set[int]]:  # fmt: skip
    """For wanted sections that table rows point into (`SpecialSection.pieces`): where pieces begin."""
    cuts: dict[int, set[int]] = {index: set() for index in sections if wanted[index]}
    if not cuts:
        return cuts
    targets = obj.symbols["section"][obj.relocations["symbol"]]
    for record in obj.relocations.of(np.isin(targets, list(cuts))).rows():
        source, place, kind, number, *_ = record
        symbol, howto = obj.symbols[number], arch.howtos.get(kind)
        target = int(symbol["section"])
        at = int(symbol["value"]) + _addend(obj, arch, howto, record)
        table = tables.get(source)
        if obj.sections["flags"][source] & SHF_EXECINSTR:
            # Code gets there by a branch, whose displacement ends the instruction.
            if source in sections or howto is None or not howto.pc_relative or not howto.complete:
                continue
            at += howto.size if howto.end_relative else -howto.bias
        elif table is None or not _names(table.pieces, obj.section_name(target)):
            continue
        elif table.from_start and table.entry_size:
            at -= place % table.entry_size
        if 0 <= at < obj.sections["size"][target]:
            cuts[target].add(at)
    return cuts


def _names(sections: tuple[str, ...], name: str) -> bool:
    """Whether a row's list names a section; a name that ends in `*` is the beginning of many."""
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in sections)


def _addend(obj: Object, arch: Architecture, howto: Howto | None, record: Raw) -> int:
    """A relocation's addend, from the record or from the field."""
    section, at, _, _, addend, implicit = record
    if howto is None or not implicit:
        return addend
    return howto.addend(bytes(obj.contents(section)[at : at + howto.size]), arch.byte_order)

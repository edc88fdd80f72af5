# SPDX-License-Identifier: Apache-2.0
"""The type information of a relocatable object, as a forest of debugging entries.

In: an object's `DebugSections`. Out: a `Unit` for each compilation unit: its entries (DIEs) for types,
variables, parameters and functions, each with the few attributes that say how data lies in memory. DWARF 2
to 5 (https://dwarfstd.org, chapters 2, 5, 7), 32 and 64 bit. Entries of other kinds are stepped over by
the sizes that the table of abbreviations gives, so that a megabyte takes a tenth of a second.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from kdiff.abbreviations import (
    LINE_STRP,
    LOCAL_REFERENCES,
    REF_ADDR,
    STRING,
    STRP,
    STRX,
    STRX1,
    STRX4,
    Abbrev,
    abbreviations,
    uleb,
    walk,
)
from kdiff.elf.debug import DebugSections
from kdiff.errors import KdiffError

# Tags and attributes (DWARF 5, tables 7.3 and 7.5)
ARRAY, ENUMERATION, FORMAL_PARAMETER, MEMBER, POINTER = 0x01, 0x04, 0x05, 0x0D, 0x0F
COMPILE_UNIT, STRUCTURE, SUBROUTINE, TYPEDEF, UNION, SUBRANGE = 0x11, 0x13, 0x15, 0x16, 0x17, 0x21
BASE, CONST, ENUMERATOR, SUBPROGRAM, VARIABLE, VOLATILE = 0x24, 0x26, 0x28, 0x2E, 0x34, 0x35
RESTRICT, UNSPECIFIED, ATOMIC = 0x37, 0x3B, 0x47

LOCATION, NAME, BYTE_SIZE, BIT_OFFSET, BIT_SIZE, CONST_VALUE = 0x02, 0x03, 0x0B, 0x0C, 0x0D, 0x1C
UPPER_BOUND, ABSTRACT_ORIGIN, COUNT, MEMBER_LOCATION, DECLARATION = 0x2F, 0x31, 0x37, 0x38, 0x3C
ENCODING, TYPE, DATA_BIT_OFFSET, STR_OFFSETS_BASE, DWO_NAME, GNU_DWO_NAME = (
    *(0x3E, 0x49, 0x6B, 0x72, 0x76),
    0x2130,
)

_KEPT = frozenset(
    (
        *(ARRAY, ENUMERATION, FORMAL_PARAMETER, MEMBER, POINTER, COMPILE_UNIT, STRUCTURE, SUBROUTINE),
        *(TYPEDEF, UNION, SUBRANGE, BASE, CONST, ENUMERATOR, SUBPROGRAM, VARIABLE, VOLATILE, RESTRICT),
        *(UNSPECIFIED, ATOMIC),
    )
)
_WANTED = frozenset(
    (
        *(LOCATION, NAME, BYTE_SIZE, BIT_OFFSET, BIT_SIZE, CONST_VALUE, UPPER_BOUND, ABSTRACT_ORIGIN, COUNT),
        *(MEMBER_LOCATION, DECLARATION, ENCODING, DATA_BIT_OFFSET, STR_OFFSETS_BASE, DWO_NAME),
        *(GNU_DWO_NAME, TYPE),
    )
)
_COMPILE, _PARTIAL = 1, 3
_PLUS_UCONST = 0x23


class Die(NamedTuple):
    """A debugging entry. `abbrev.at` says which of the values is which attribute."""

    offset: int
    """In .debug_info, which is how references name it."""
    abbrev: Abbrev
    values: tuple[Any, ...]
    children: list[Die]


@dataclass(frozen=True)
class Unit:
    """One compilation unit. `root` is its own entry."""

    sections: DebugSections
    start: int
    version: int
    wide: bool
    """64-bit DWARF."""
    pointer: int
    """Bytes of an address."""
    root: Die
    entries: Mapping[int, Die]
    """All that were kept, by offset, in the order of offsets."""

    def number(self, die: Die, attribute: int) -> int | None:
        """A numeric attribute; None if it is missing or no constant."""
        found = die.abbrev.at.get(attribute)
        if found is None:
            return die.abbrev.constants.get(attribute)
        value = die.values[found[0]]
        return value if isinstance(value, int) else None

    def expression(self, die: Die, attribute: int) -> bytes:
        """The bytes of an attribute that is an expression or a block; empty if it is none."""
        found = die.abbrev.at.get(attribute)
        value = die.values[found[0]] if found is not None else b""
        return value if isinstance(value, bytes) else b""

    def place(self, member: Die) -> int:
        """Where a member begins, in bytes; old compilers write "add a constant" (DW_OP_plus_uconst)."""
        found = member.abbrev.at.get(MEMBER_LOCATION)
        if found is None:
            return member.abbrev.constants.get(MEMBER_LOCATION, 0)
        value = member.values[found[0]]
        if isinstance(value, int):
            return value
        if len(value) < 2 or value[0] != _PLUS_UCONST:
            raise self.sections.wrong("the place of a member is no constant", member.offset)
        return uleb(value + b"\0", 1)[0]

    def reference(self, die: Die, attribute: int) -> int | None:
        """The offset of the entry that an attribute names."""
        found = die.abbrev.at.get(attribute)
        if found is None:
            return None
        value: int = die.values[found[0]]
        if found[1] in LOCAL_REFERENCES:
            return self.start + value
        if found[1] == REF_ADDR:
            return value
        raise KdiffError(
            "dwarf.unsupported", f"a type is named by form {found[1]:#x}, outside of this object",
            place=self.sections.path, remedy="compile without -fdebug-types-section and without dwz",
        )  # fmt: skip

    def name(self, die: Die) -> str:
        """DW_AT_name, empty if there is none."""
        found = die.abbrev.at.get(NAME)
        if found is None:
            return ""
        value, form = die.values[found[0]], found[1]
        if form == STRING:
            return bytes(value).decode("utf-8", "surrogateescape")
        if form == STRP:
            return self._names(value)
        if form == LINE_STRP:
            return self.sections.text(self.sections.line_strings, value)
        if form == STRX or STRX1 <= form <= STRX4:
            index = int.from_bytes(value, self._order) if isinstance(value, bytes) else value
            return self._names(self._indexed(index))
        raise self.sections.wrong(f"a name of form {form:#x}", die.offset)

    @property
    def _order(self) -> Any:
        return "big" if self.sections.big else "little"

    def _indexed(self, index: int) -> int:
        width = 8 if self.wide else 4
        base = self.number(self.root, STR_OFFSETS_BASE)
        at = (2 * width if base is None else base) + index * width
        raw = self.sections.string_offsets[at : at + width]
        if len(raw) != width:
            raise self.sections.wrong(f"string {index} is not in .debug_str_offsets", self.start)
        return int.from_bytes(raw, self._order)

    @cached_property
    def _names(self) -> Callable[[int], str]:
        known: dict[int, str] = {}
        sections = self.sections

        def name(offset: int) -> str:
            found = known.get(offset)
            if found is None:
                found = known[offset] = sections.text(sections.strings, offset)
            return found

        return name


def units(sections: DebugSections) -> tuple[Unit, ...]:
    """Read an object's compilation units; none without debugging information."""
    tables: dict[tuple[int, int, bool, int], Mapping[int, Abbrev]] = {}
    found = []
    start = 0
    while start < len(sections.info):
        unit, start = _unit(sections, start, tables)
        found.append(unit)
    return tuple(found)


# Units and entries -----------------------------------------------------------------------------------


def _unit(
    sections: DebugSections, start: int, tables: dict[tuple[int, int, bool, int], Mapping[int, Abbrev]]
) -> tuple[Unit, int]:
    """Read the unit at `start`; also where the next one begins."""
    info, endian = sections.info, ">" if sections.big else "<"
    try:
        (length,) = struct.unpack_from(f"{endian}I", info, start)
        wide = length == 0xFFFFFFFF
        place = start + 4
        if wide:
            (length,) = struct.unpack_from(f"{endian}Q", info, place)
            place += 8
        end = place + length
        word = "Q" if wide else "I"
        (version,) = struct.unpack_from(f"{endian}H", info, place)
        if not 2 <= version <= 5:
            raise KdiffError(
                "dwarf.unsupported", f"DWARF version {version}; known are 2 to 5", place=sections.path
            )
        layout = f"{endian}2xBB{word}" if version == 5 else f"{endian}2x{word}B"
        fields = struct.unpack_from(layout, info, place)
    except struct.error as error:
        raise sections.wrong("the header of a unit is cut off", start) from error
    if end > len(info):
        raise sections.wrong("a unit reaches beyond the end", start)
    kind, pointer, abbrev_at = fields if version == 5 else (_COMPILE, fields[1], fields[0])
    if kind not in (_COMPILE, _PARTIAL):
        raise KdiffError(
            "dwarf.unsupported", f"a unit of kind {kind}: types are kept outside of this object",
            place=sections.path, remedy="compile without -gsplit-dwarf and -fdebug-types-section",
        )  # fmt: skip
    key = (abbrev_at, version, wide, pointer)
    if key not in tables:
        tables[key] = abbreviations(sections, *key, _KEPT, _WANTED)
        if sum(map(len, tables.values())) > len(sections.abbrev):
            raise sections.wrong("the abbreviations of many units overlap", start)
    place += struct.calcsize(layout)
    entries = _entries(sections, place, end, tables[key])
    root = next(iter(entries.values()))
    unit = Unit(sections, start, version, wide, pointer, root, entries)
    if any(attribute in root.abbrev.at for attribute in (DWO_NAME, GNU_DWO_NAME)):
        raise KdiffError(
            "dwarf.unsupported", "types are kept outside of this object",
            place=sections.path, remedy="compile without -gsplit-dwarf",
        )  # fmt: skip
    return unit, end


def _entries(sections: DebugSections, place: int, end: int, table: Mapping[int, Abbrev]) -> Mapping[int, Die]:
    """Read all entries of a unit; those that are not kept hand their children on to their parents."""
    info, big = sections.info, sections.big
    found: dict[int, Die] = {}
    siblings: list[Die] = []
    parents: list[list[Die]] = []
    start = place
    try:
        while place < end:
            start = place
            code = info[place]
            place += 1
            if code > 0x7F:
                code, place = uleb(info, start)
            if not code:
                if not parents:
                    break
                siblings = parents.pop()
                continue
            abbrev = table[code]
            if abbrev.size >= 0:
                values = abbrev.unpack(info, place)
                place += abbrev.size
            else:
                values, place = walk(info, place, abbrev.steps, big)
            if abbrev.nested:
                parents.append(siblings)
            if abbrev.kept:
                die = found[start] = Die(start, abbrev, values, [])
                siblings.append(die)
                if abbrev.nested:
                    siblings = die.children
    except (KeyError, IndexError, ValueError, struct.error) as error:
        raise sections.wrong("an entry makes no sense", start) from error
    if not found or place > end:
        raise sections.wrong("a unit has no entries, or its last one is cut off", start)
    return found

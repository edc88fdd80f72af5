# SPDX-License-Identifier: Apache-2.0
"""How the debugging entries of a unit are stored: DWARF's abbreviations and forms (DWARF 5, section 7.5).

In: .debug_abbrev, and which tags and attributes are wanted. Out: an `Abbrev` for each code. Most have a fixed
size, so that one call takes their wanted values out; the others are walked form by form.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from kdiff.elf.debug import DebugSections
from kdiff.errors import KdiffError
from kdiff.values import dataclass

# Forms (DWARF 5, table 7.6, and GNU's)
STRING, STRP, LINE_STRP, STRX, STRX1, STRX4, REF_ADDR = 0x08, 0x0E, 0x1F, 0x1A, 0x25, 0x28, 0x10
LOCAL_REFERENCES = frozenset((0x11, 0x12, 0x13, 0x14, 0x15))
"""Offsets from the start of the unit."""
_ADDR, _SDATA, _PRESENT, _IMPLICIT = 0x01, 0x0D, 0x19, 0x21
_FIXED = {
    **dict.fromkeys((0x0B, 0x0C, 0x11, 0x25, 0x29), "B"),
    **dict.fromkeys((0x05, 0x12, 0x26, 0x2A), "H"),
    **dict.fromkeys((0x27, 0x2B), "3s"),
    **dict.fromkeys((0x06, 0x13, 0x1C, 0x28, 0x2C), "I"),
    **dict.fromkeys((0x07, 0x14, 0x20, 0x24), "Q"),
    0x1E: "16s",
}
"""Form -> format character; offsets and addresses depend on the unit."""
_OFFSETS = (STRP, 0x17, 0x1D, LINE_STRP, 0x1F20, 0x1F21)
_NUMBERS = frozenset((0x0F, _SDATA, 0x15, STRX, 0x1B, 0x22, 0x23, 0x1F01, 0x1F02))
"""Of varying length."""
_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4, 0x09: 0, 0x18: 0}
"""Form -> bytes of the length before it; 0 if that is a number of varying length."""

Step = tuple[int, bool, struct.Struct | None]
"""(form, wanted, None), or a run of forms of fixed size."""


@dataclass(frozen=True, slots=True)
class Abbrev:
    """How the entries of one abbreviation code are stored."""

    tag: int
    nested: bool
    kept: bool
    size: int
    """Of all attributes; -1 if it varies."""
    unpack: Callable[[bytes, int], tuple[Any, ...]]
    """The wanted values, if the size is fixed."""
    steps: tuple[Step, ...]
    """The attributes, if it varies."""
    at: Mapping[int, tuple[int, int]]
    """Attribute -> (index in the values, form)."""
    constants: Mapping[int, int]
    """Attributes whose value stands in the abbreviation itself."""


def walk(info: bytes, place: int, steps: tuple[Step, ...], big: bool) -> tuple[tuple[Any, ...], int]:
    """Read attributes of varying size: the wanted values, and where they end."""
    values: list[Any] = []
    for form, wanted, fixed in steps:
        if fixed is not None:
            values += fixed.unpack_from(info, place)
            place += fixed.size
            continue
        begin = place
        value: Any = None
        if form == STRING:
            place = info.index(0, place) + 1
            value = info[begin : place - 1]
        elif form in _NUMBERS:
            value, place = sleb(info, place) if form == _SDATA else uleb(info, place)
        elif width := _BLOCKS[form]:
            begin = place + width
            place = begin + int.from_bytes(info[place:begin], "big" if big else "little")
            value = info[begin:place]
        else:
            size, begin = uleb(info, place)
            place = begin + size
            value = info[begin:place]
        if wanted:
            values.append(value)
    return tuple(values), place


def uleb(data: bytes, place: int) -> tuple[int, int]:
    """Read an unsigned number of varying length: its value, and where it ends."""
    value = shift = 0
    while shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number of more than 64 bits")


def sleb(data: bytes, place: int) -> tuple[int, int]:
    value, after = uleb(data, place)
    bits = 7 * (after - place)
    return (value - (1 << bits) if value >> (bits - 1) else value), after


# Abbreviations ---------------------------------------------------------------------------------------


def abbreviations(
    sections: DebugSections,
    place: int,
    version: int,
    wide: bool,
    pointer: int,
    tags: frozenset[int],
    wanted: frozenset[int],
) -> Mapping[int, Abbrev]:
    """Read the table at `place`; entries of `tags` are kept, with the `wanted` attributes.

    `wide`: 64-bit DWARF; `pointer`: bytes of an address.
    """
    data = sections.abbrev
    endian = ">" if sections.big else "<"
    table: dict[int, Abbrev] = {}
    start = place
    try:
        widths = _widths(version, wide, pointer)
        while True:
            code, place = uleb(data, place)
            if not code:
                return table
            if code in table:
                raise ValueError("a code comes twice")
            tag, place = uleb(data, place)
            nested = bool(data[place])
            place += 1
            attributes = []
            while True:
                attribute, place = uleb(data, place)
                form, place = uleb(data, place)
                constant = None
                if form == _IMPLICIT:
                    constant, place = sleb(data, place)
                if not attribute and not form:
                    break
                attributes.append((attribute, form, constant))
            names = wanted if tag in tags else frozenset()
            table[code] = _abbrev(tag, nested, tag in tags, attributes, names, widths, endian)
    except (IndexError, ValueError) as error:
        raise KdiffError(
            "dwarf.malformed", f"the abbreviations at {start:#x} make no sense", place=sections.path
        ) from error


def _widths(version: int, wide: bool, pointer: int) -> Mapping[int, str]:
    """Form -> format character, those that depend on the unit included."""
    offset, address = "Q" if wide else "I", {2: "H", 4: "I", 8: "Q"}.get(pointer)
    if address is None:
        raise ValueError(f"pointers of {pointer} bytes")
    return {
        **_FIXED,
        **dict.fromkeys(_OFFSETS, offset),
        _ADDR: address,
        REF_ADDR: address if version == 2 else offset,
    }


def _abbrev(
    tag: int,
    nested: bool,
    kept: bool,
    attributes: list[tuple[int, int, int | None]],
    names: frozenset[int],
    widths: Mapping[int, str],
    endian: str,
) -> Abbrev:
    at: dict[int, tuple[int, int]] = {}
    constants: dict[int, int] = {}
    steps: list[Step] = []
    run = ""
    for attribute, form, constant in attributes:
        wanted = attribute in names
        if form in (_IMPLICIT, _PRESENT):
            constants[attribute] = 1 if constant is None else constant
            continue
        if wanted and attribute in at:
            raise ValueError("an attribute comes twice")
        if wanted:
            at[attribute] = (len(at), form)
        if form in widths:
            character = widths[form]
            run += character if wanted else f"{struct.calcsize(endian + character)}x"
            continue
        if form not in _NUMBERS and form not in _BLOCKS and form != STRING:
            raise ValueError(f"form {form:#x}")
        if run:
            steps.append((0, True, struct.Struct(endian + run)))
            run = ""
        steps.append((form, wanted, None))
    last = struct.Struct(endian + run)
    if steps and run:
        steps.append((0, True, last))
    return Abbrev(
        tag, nested, kept, -1 if steps else last.size, last.unpack_from, tuple(steps), at, constants
    )

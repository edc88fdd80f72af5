# SPDX-License-Identifier: Apache-2.0
"""Broken ELF files: mutations that know where headers, symbols, relocations and contents lie.

    mutate(data, random.Random(1))

Random bytes alone rarely get past the first check. So most mutations change one field of a record that a
reader trusts, often to another record's value or to a number at an edge. Files of any class and byte order,
also linked ones; what is no ELF file is treated as bytes. The same random state gives the same file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

EDGES = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 0x7F, 0x80, 0xFF, 0x100, 0xFF00, 0xFFF1, 0xFFF2, 0xFFFF, 0x10000),
    *(0x3FFFFFFF, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - 4, (1 << 64) - 1),
)
MACHINES = (3, 20, 21, 22, 40, 62, 183, 243, 247, 258, 0xFFFF)
SYMTAB, RELA, NOBITS, REL, DYNSYM = 2, 4, 8, 9, 11


class Field(NamedTuple):
    """A number in the file."""

    at: int
    width: int


@dataclass(frozen=True)
class Map:
    """Where things lie. A record is the fields of one header, symbol or relocation, in its own order."""

    order: str
    header: tuple[Field, ...]
    sections: tuple[tuple[Field, ...], ...]
    symbols: tuple[tuple[Field, ...], ...]
    relocations: tuple[tuple[Field, ...], ...]
    contents: tuple[tuple[int, int], ...]
    """(start, size) of what sections hold."""


_HEADER = {64: "HHIQQQIHHHHHH", 32: "HHIIIIIHHHHHH"}
_SECTION = {64: "IIQQQQIIQQ", 32: "IIIIIIIIII"}
_SYMBOL = {64: "IBBHQQ", 32: "IIIBBH"}
_RELA = {64: "QQQ", 32: "III"}
_MOST = 4096
"""Records of one kind that are mapped."""


def mutate(data: bytes, random: Random, most: int = 4) -> bytes:
    """Return the file with one to `most` things wrong."""
    changed = bytearray(data)
    layout = survey(data)
    for _ in range(random.randint(1, most)):
        if layout is None or random.random() < 0.1:
            _bytes(changed, random)
        else:
            random.choice(_WAYS)(changed, layout, random)
    return bytes(changed)


def survey(data: bytes) -> Map | None:
    """Find the records of an ELF file; None if it is none, and what is cut off is left out."""
    if len(data) < 64 or data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] not in (1, 2):
        return None
    bits, order = 32 * data[4], "little" if data[5] == 1 else "big"
    endian = "<" if order == "little" else ">"
    header = _record(16, _HEADER[bits])
    shoff, count = (_get(data, header[index], order) for index in (5, 11))
    entry = struct.calcsize(endian + _SECTION[bits])
    rows = [
        _record(shoff + entry * index, _SECTION[bits])
        for index in range(min(count, _MOST))
        if shoff + entry * (index + 1) <= len(data)
    ]
    symbols: list[tuple[Field, ...]] = []
    relocations: list[tuple[Field, ...]] = []
    contents = []
    for row in rows:
        kind, start, size = (_get(data, row[index], order) for index in (1, 4, 5))
        if kind == NOBITS or not size or start + size > len(data):
            continue
        if kind in (SYMTAB, DYNSYM):
            symbols += _records(start, size, _SYMBOL[bits])
        elif kind in (RELA, REL):
            relocations += _records(start, size, _RELA[bits][: 3 if kind == RELA else 2])
        else:
            contents.append((start, size))
    return Map(order, header, tuple(rows), tuple(symbols), tuple(relocations), tuple(contents))


def _records(start: int, size: int, form: str) -> list[tuple[Field, ...]]:
    step = struct.calcsize("<" + form)
    return [_record(start + step * index, form) for index in range(min(size // step, _MOST))]


def _record(at: int, form: str) -> tuple[Field, ...]:
    fields = []
    for letter in form:
        fields.append(Field(at, struct.calcsize("<" + letter)))
        at += fields[-1].width
    return tuple(fields)


def _get(data: bytes | bytearray, field: Field, order: str) -> int:
    return int.from_bytes(data[field.at : field.at + field.width], order)  # type: ignore[arg-type]  # survey's


def _put(data: bytearray, field: Field, value: int, order: str) -> None:
    if field.at + field.width <= len(data):
        value &= (1 << 8 * field.width) - 1
        data[field.at : field.at + field.width] = value.to_bytes(field.width, order)  # type: ignore[arg-type]


# One thing that goes wrong ---------------------------------------------------------------------------


def _bytes(data: bytearray, random: Random) -> None:
    """Overwrite, cut off, repeat or remove some bytes anywhere."""
    if not data:
        return
    at, length = random.randrange(len(data)), random.choice((1, 1, 1, 2, 4, 8, 64))
    way = random.randrange(8)
    if way == 0:
        del data[at:]
    elif way == 1:
        data[at:at] = data[at : at + length]
    elif way == 2:
        del data[at : at + length]
    elif way == 3:
        data[at] ^= 1 << random.randrange(8)
    elif way == 4:
        width = random.choice((1, 2, 4, 8))
        _put(data, Field(at, width), random.choice(EDGES), random.choice(("little", "big")))
    else:
        data[at : at + length] = random.randbytes(len(data[at : at + length]))


def _content(data: bytearray, layout: Map, random: Random) -> None:
    if layout.contents:
        start, size = random.choice(layout.contents)
        part = data[start : start + size]
        before = len(part)
        _bytes(part, random)
        data[start : start + size] = (part + bytes(before))[:before]


def _field(records: Callable[[Map], tuple[tuple[Field, ...], ...]]) -> Callable[..., None]:
    """Change one field of one record of these."""

    def change(data: bytearray, layout: Map, random: Random) -> None:
        rows = records(layout)
        if not rows:
            return
        row = random.choice(rows)
        index = random.randrange(len(row))
        value = _get(data, row[index], layout.order)
        way = random.randrange(6)
        if way == 0:
            value = random.choice(EDGES)
        elif way == 1:
            value += random.choice((-8, -4, -1, 1, 4, 8))
        elif way == 2:
            other = random.choice(rows)
            value = _get(data, other[min(index, len(other) - 1)], layout.order)
        elif way == 3:
            value ^= 1 << random.randrange(8 * row[index].width)
        elif way == 4:
            value = random.choice((len(data), len(data) - 1, len(data) + 1, len(layout.sections), len(rows)))
        else:
            value = random.randrange(1 << 8 * row[index].width)
        _put(data, row[index], value, layout.order)

    return change


def _swap(data: bytearray, layout: Map, random: Random) -> None:
    """Give one record all of another one's fields but one."""
    rows = random.choice((layout.sections, layout.symbols, layout.relocations))
    if len(rows) > 1:
        one, other = random.sample(rows, 2)
        kept = random.randrange(len(one))
        for index, (field, source) in enumerate(zip(one, other, strict=False)):
            if index != kept:
                _put(data, field, _get(data, source, layout.order), layout.order)


def _link(data: bytearray, layout: Map, random: Random) -> None:
    """Let a section's link or info name any section, its own included."""
    if layout.sections:
        row = random.choice(layout.sections)
        _put(data, row[random.choice((6, 7))], random.randrange(len(layout.sections) + 1), layout.order)


def _kind(data: bytearray, layout: Map, random: Random) -> None:
    """Change what a section says it is."""
    if layout.sections:
        row = random.choice(layout.sections)
        if random.random() < 0.5:
            _put(data, row[1], random.choice((*range(20), 0x70000001, 0x70000003)), layout.order)
        else:
            flags = _get(data, row[2], layout.order)
            _put(data, row[2], flags ^ random.choice((1, 2, 4, 0x10, 0x20, 0x30, 0x40, 0x800)), layout.order)


def _identity(data: bytearray, layout: Map, random: Random) -> None:
    """Another class, byte order, type or machine."""
    way = random.randrange(4)
    if way < 2:
        data[4 + way] = random.choice((0, 1, 2, 3 - data[4 + way] & 3, 255))
    elif way == 2:
        _put(data, layout.header[0], random.randrange(6), layout.order)
    else:
        _put(data, layout.header[1], random.choice(MACHINES), layout.order)


_WAYS: tuple[Callable[..., None], ...] = (
    *(_field(lambda layout: layout.sections),) * 5,
    *(_field(lambda layout: layout.symbols),) * 4,
    *(_field(lambda layout: layout.relocations),) * 4,
    *(_content,) * 4,
    *(_link, _kind, _kind, _swap, _swap, _field(lambda layout: (layout.header,)), _identity),
)

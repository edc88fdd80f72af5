# SPDX-License-Identifier: Apache-2.0
"""The programs of `.debug_line`, run (DWARF 5, section 6.2; versions 2 to 5).

In: the section's bytes with relocations stored. Out: rows (address, file, line) in the order in which the
programs make them; a line of -1 ends a sequence. What makes no sense is a ValueError.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Literal, NamedTuple

from kdiff.abbreviations import LINE_STRP, STRING, STRP, sleb, uleb

Row = tuple[int, int, int]
END = -1

_VERSIONS = range(2, 6)
_PATH, _FOLDER = 1, 2
"""DW_LNCT_path and DW_LNCT_directory_index."""
_FIXED = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x1E: 16}
"""DW_FORM_data1, data2, data4, data8, data16: bytes."""
_UDATA, _BLOCK = 0x0F, 0x09


class Lines(NamedTuple):
    """Rows of all programs of a section. `files`: names, counted across programs."""

    files: list[str]
    rows: list[Row]


class _Reader:
    """A place in the section, and how its numbers are stored."""

    def __init__(self, data: bytes, order: Literal["little", "big"], at: int) -> None:
        self.data, self.order, self.at = data, order, at
        self.offset_size = 4

    def number(self, size: int) -> int:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("the line table is cut off")
        return int.from_bytes(self.data[self.at - size : self.at], self.order)

    def varying(self) -> int:
        value, self.at = uleb(self.data, self.at)
        return value

    def string(self) -> bytes:
        start, self.at = self.at, self.data.index(0, self.at) + 1
        return self.data[start : self.at - 1]


def lines(data: bytes, order: Literal["little", "big"], strings: bytes, line_strings: bytes) -> Lines:
    """Run all programs. `strings`, `line_strings`: .debug_str and .debug_line_str."""
    found = Lines([], [])
    at = 0
    while at < len(data):
        reader = _Reader(data, order, at)
        size = reader.number(4)
        if size == 0xFFFFFFFF:
            reader.offset_size, size = 8, reader.number(8)
        at = reader.at + size
        if at > len(data):
            raise ValueError("a line program reaches beyond its section")
        _program(reader, at, strings, line_strings, found)
    return found


def _program(reader: _Reader, end: int, strings: bytes, line_strings: bytes, found: Lines) -> None:
    version = reader.number(2)
    if version not in _VERSIONS:
        raise ValueError(f"line programs of version {version} are not known")
    if version >= 5:
        reader.number(2)  # sizes of an address and of a segment selector
    begin = reader.number(reader.offset_size)
    begin += reader.at
    step = reader.number(1)
    if version >= 4 and reader.number(1) != 1:
        raise ValueError("several operations in one instruction are not known")
    reader.number(1)  # default_is_stmt
    base = reader.number(1)
    base -= (base & 0x80) << 1
    scope, first = reader.number(1), reader.number(1)
    operands = [0, *(reader.number(1) for _ in range(first - 1))]
    if not scope or not first:
        raise ValueError("a line program without special opcodes")
    names = list(_files(reader) if version < 5 else _described(reader, strings, line_strings))
    numbers = [len(found.files) + number for number in range(len(names))]
    found.files.extend(names)
    reader.at = begin
    _run(reader, end, (step, base, scope, first), operands, numbers, found.rows)


def _files(reader: _Reader) -> Iterator[str]:
    """The names of files before version 5; folder 0 is the compiler's own, and there is no file 0."""
    folders = [b""]
    while name := reader.string():
        folders.append(name)
    yield ""
    while name := reader.string():
        folder, _, _ = reader.varying(), reader.varying(), reader.varying()
        yield _joined(folders, folder, name)


def _described(reader: _Reader, strings: bytes, line_strings: bytes) -> Iterator[str]:
    """The names of files from version 5 on, whose tables say how they are stored."""

    def value(form: int) -> int | bytes:
        if form == STRING:
            return reader.string()
        if form in (STRP, LINE_STRP):
            table, at = strings if form == STRP else line_strings, reader.number(reader.offset_size)
            return table[at : table.index(0, at)]
        if form in _FIXED:
            return reader.number(_FIXED[form])
        if form == _UDATA:
            return reader.varying()
        if form == _BLOCK:
            return reader.number(reader.varying())
        raise ValueError(f"form {form:#x} is not known in a line table")

    def table() -> list[dict[int, int | bytes]]:
        formats = [(reader.varying(), reader.varying()) for _ in range(reader.number(1))]
        count = reader.varying()
        if count > len(reader.data):
            raise ValueError("a table of more entries than bytes")
        return [{content: value(form) for content, form in formats} for _ in range(count if formats else 0)]

    folders = [_name(each) for each in table()]
    for each in table():
        folder = each.get(_FOLDER, 0)
        yield _joined(folders, folder if isinstance(folder, int) else 0, _name(each))


def _name(entry: dict[int, int | bytes]) -> bytes:
    name = entry.get(_PATH)
    if not isinstance(name, bytes):
        raise ValueError("a file without a name")
    return name


def _joined(folders: list[bytes], folder: int, name: bytes) -> str:
    if folder >= len(folders):
        raise ValueError("a file in a folder that is not listed")
    return posixpath.normpath(posixpath.join(folders[folder], name)).decode("utf-8", "backslashreplace")


def _run(
    reader: _Reader, end: int, special: tuple[int, int, int, int], operands: list[int], files: list[int],
    rows: list[Row],
) -> None:  # fmt: skip
    """Run one program. `special`: bytes of an instruction, line base, line range, first special opcode."""
    data, at, order = reader.data, reader.at, reader.order
    step, base, scope, first = special
    skipped = (255 - first) // scope * step
    address, file, line = 0, 1, 1
    while at < end:
        opcode = data[at]
        at += 1
        if opcode >= first:
            opcode -= first
            address += opcode // scope * step
            line += base + opcode % scope
            rows.append((address, files[file], line))
        elif opcode == 0:
            size, at = uleb(data, at)
            if not 0 < size <= end - at:
                raise ValueError("an opcode reaches beyond its program")
            if data[at] == 1:
                rows.append((address, files[file], END))
                address, file, line = 0, 1, 1
            elif data[at] == 2:
                address = int.from_bytes(data[at + 1 : at + size], order)
            at += size
        elif opcode == 1:
            rows.append((address, files[file], line))
        elif opcode == 2:
            value, at = uleb(data, at)
            address += value * step
        elif opcode == 3:
            value, at = sleb(data, at)
            line += value
        elif opcode == 4:
            file, at = uleb(data, at)
        elif opcode == 8:
            address += skipped
        elif opcode == 9:
            address += int.from_bytes(data[at : at + 2], order)
            at += 2
        else:  # columns, statements, blocks, prologues: say nothing about lines
            for _ in range(operands[opcode]):
                _, at = uleb(data, at)

# SPDX-License-Identifier: Apache-2.0
"""Kernel images and cores, through lief; nothing else imports lief.

In: the bytes of an ELF file. Out: an `ElfImage` (what lies at which address), its sections and symbols on
demand.

lief copies what it parses and is slow to import, so it is imported when sections or symbols are asked for;
reading memory needs neither.
"""

from __future__ import annotations

import mmap
import struct
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from kdiff.arch import ByteOrder
from kdiff.errors import KdiffError
from kdiff.values import dataclass

if TYPE_CHECKING:
    import lief

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
_PT_LOAD, _PT_NOTE, _PN_XNUM = 1, 4, 0xFFFF
_SHT_NOBITS = 8
_SHF_WRITE, _SHF_EXECINSTR = 1, 4
_SHN_UNDEF, _SHN_ABS = 0, 0xFFF1
_STB_LOCAL, _STB_WEAK, _STT_SECTION, _STT_FILE = 0, 2, 3, 4
_NT_GNU_BUILD_ID = 3


@dataclass(frozen=True, slots=True)
class Segment:
    """Memory from `address` on: `file_size` bytes of the file at `offset`, then zeros up to `size`."""

    address: int
    size: int
    offset: int
    file_size: int
    physical: int = 0


@dataclass(frozen=True, slots=True)
class ImageSection:
    """One section header."""

    name: str
    address: int
    offset: int
    size: int
    type: int
    flags: int


@dataclass(frozen=True, slots=True)
class ElfImage:
    """Memory as an ELF file holds it; `segments` are its PT_LOADs in the order of their addresses."""

    place: str
    data: bytes | mmap.mmap
    type: int
    machine: int
    elf_class: Literal[32, 64]
    byte_order: ByteOrder
    segments: tuple[Segment, ...]
    notes: tuple[Segment, ...] = ()
    """Its PT_NOTEs, in file order."""

    def read(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes, or None where no segment has them all.

        What a segment leaves out of the file is zero (.bss), but unknown in a core.
        """
        segment = segment_at(self.segments, address, size)
        if segment is None:
            return None
        start = address - segment.address
        stored = max(0, min(start + size, segment.file_size) - start)
        if stored < size and self.type == ET_CORE:
            return None
        found = bytes(self.data[segment.offset + start : segment.offset + start + stored])
        return found if stored == size else found + bytes(size - stored)


def segment_at(segments: tuple[Segment, ...], address: int, size: int) -> Segment | None:
    """The segment that holds all of `size` bytes at `address`; `segments` are in order of address."""
    at = bisect_right(segments, address, key=lambda each: each.address) - 1
    if at < 0 or size < 0 or address + size > segments[at].address + segments[at].size:
        return None
    return segments[at]


def open_image(data: bytes | mmap.mmap, place: str) -> ElfImage:
    """Open an executable or core; `place` is for messages.

    KdiffError `image.not_elf`, `image.type` or `image.truncated`.
    """
    image = read_program_headers(data, place)
    for each in image.segments:
        if each.offset + each.file_size > len(data):
            raise KdiffError(
                "image.truncated",
                f"the memory at {each.address:#x} lies beyond the end of the file",
                place=place,
                remedy="copy the file again",
            )
    return image


def read_program_headers(head: bytes | mmap.mmap, place: str) -> ElfImage:
    """Open the head of a file whose segments may lie anywhere, such as /proc/kcore.

    Layout: System V gABI. lief would read the whole file.
    """
    elf_class, order = _identify(head, place)
    endian = "<" if order == "little" else ">"
    header = struct.Struct(endian + ("16xHHIQQQIHHHHHH" if elf_class == 64 else "16xHHIIIIIHHHHHH"))
    if len(head) < header.size:
        raise KdiffError("image.truncated", "the ELF header is cut off", place=place)
    kind, machine, _, _, table_at, sections_at, _, _, entry, count, _, _, _ = header.unpack_from(head)
    if kind not in (ET_EXEC, ET_DYN, ET_CORE):
        raise KdiffError("image.type", f"ELF type {kind} is neither an image nor a core", place=place)
    row = struct.Struct(endian + ("IIQQQQQQ" if elf_class == 64 else "IIIIIIII"))
    if count == _PN_XNUM:
        count = _many(head, sections_at, elf_class, endian)
    if entry != row.size or not count or table_at + entry * count > len(head):
        raise KdiffError("image.truncated", "the program headers are missing or cut off", place=place)
    loads, notes = [], []
    for at in range(table_at, table_at + entry * count, entry):
        if elf_class == 64:
            type_, _, offset, address, physical, file_size, size, _ = row.unpack_from(head, at)
        else:
            type_, offset, address, physical, file_size, size, _, _ = row.unpack_from(head, at)
        if type_ == _PT_LOAD and size:
            loads.append(Segment(address, size, offset, min(file_size, size), physical))
        elif type_ == _PT_NOTE:
            notes.append(Segment(address, size, offset, file_size, physical))
    ordered = tuple(sorted(loads, key=lambda each: each.address))
    return ElfImage(place, head, kind, machine, elf_class, order, ordered, tuple(notes))


def _many(head: bytes | mmap.mmap, sections_at: int, elf_class: int, endian: str) -> int:
    """How many program headers there are if the ELF header cannot say it: the first section's sh_info."""
    at = sections_at + (44 if elf_class == 64 else 28)
    return int(struct.unpack_from(f"{endian}I", head, at)[0]) if at + 4 <= len(head) else 0


def notes(data: bytes | mmap.mmap, order: ByteOrder) -> Iterator[tuple[bytes, int, bytes]]:
    """The notes in the bytes of a PT_NOTE: owner, type, description. Ends where they are malformed."""
    at = 0
    endian = "<" if order == "little" else ">"
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from(f"{endian}III", data, at)
        body_at = at + 12 + name_size + -name_size % 4
        if body_at + size > len(data):
            return
        yield (
            bytes(data[at + 12 : at + 12 + name_size]).rstrip(b"\0"),
            kind,
            bytes(data[body_at : body_at + size]),
        )
        at = body_at + size + -size % 4


def image_sections(image: ElfImage) -> tuple[ImageSection, ...]:
    """List the section headers; empty for an image without them."""
    return tuple(_sections(_parse(bytes(image.data), image.place)))


def image_symbols(image: ElfImage) -> tuple[tuple[str, int, str, str], ...]:
    """List .symtab as an `AddressBook` takes it, by address; empty for a stripped image."""
    parsed = _parse(bytes(image.data), image.place, symbols=True)
    sections = list(_sections(parsed))
    lines = [
        (str(symbol.name), symbol.value, _kind(symbol, sections), "vmlinux")
        for symbol in parsed.symtab_symbols
        if symbol.name
        and symbol.shndx != _SHN_UNDEF
        and _number(symbol.type) not in (_STT_SECTION, _STT_FILE)
    ]
    return tuple(sorted(lines, key=lambda line: line[1]))


def note_build_id(data: bytes, order: ByteOrder) -> str:
    """Find the GNU build id among notes, as lower-case hex; empty if there is none."""
    found = (body for owner, kind, body in notes(data, order) if (owner, kind) == (b"GNU", _NT_GNU_BUILD_ID))
    return next(found, b"").hex()


def _identify(data: bytes | mmap.mmap, place: str) -> tuple[Literal[32, 64], ByteOrder]:
    if len(data) < 52 or bytes(data[:4]) != b"\x7fELF" or data[4] not in (1, 2) or data[5] not in (1, 2):
        raise KdiffError("image.not_elf", "not an ELF file", place=place)
    return (64 if data[4] == 2 else 32), ("little" if data[5] == 1 else "big")


def _parse(data: bytes, place: str, symbols: bool = False) -> lief.ELF.Binary:
    import lief

    lief.logging.disable()
    warnings.filterwarnings("ignore", r"\d+ is not a valid \w+", RuntimeWarning)
    config = lief.ELF.ParserConfig()
    config.parse_dyn_symbols = config.parse_symbol_versions = config.parse_notes = config.parse_overlay = (
        False
    )
    config.parse_relocations = False
    config.parse_symtab_symbols = symbols
    parsed = lief.ELF.parse(data, config)
    if parsed is None:
        raise KdiffError("image.not_elf", "the ELF file cannot be read", place=place)
    return parsed


def _number(value: Any) -> int:
    """The number of one of lief's enumerations, or of a value lief has no name for."""
    return int(value)


def _sections(parsed: lief.ELF.Binary) -> Iterator[ImageSection]:
    for each in parsed.sections:
        yield ImageSection(
            name=str(each.name),
            address=each.virtual_address,
            offset=each.offset,
            size=each.size,
            type=_number(each.type),
            flags=_number(each.flags),
        )


def _kind(symbol: lief.ELF.Symbol, sections: list[ImageSection]) -> str:
    """The letter nm prints."""
    if _number(symbol.binding) == _STB_WEAK:
        return "W"
    if symbol.shndx == _SHN_ABS or symbol.shndx >= len(sections):
        letter = "a"
    else:
        home = sections[symbol.shndx]
        if home.flags & _SHF_EXECINSTR:
            letter = "t"
        elif home.type == _SHT_NOBITS:
            letter = "b"
        else:
            letter = "d" if home.flags & _SHF_WRITE else "r"
    return letter if _number(symbol.binding) == _STB_LOCAL else letter.upper()

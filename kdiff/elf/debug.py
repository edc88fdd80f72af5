# SPDX-License-Identifier: Apache-2.0
"""The debugging sections of a relocatable object, as a linker would leave them.

In: an `Object` and its `Architecture`. Out: their bytes, decompressed (System V gABI, "Section Compression")
and with every reference from one of them to another filled in. References to code stay as they are.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import field
from typing import Any

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.read import RESERVED, SHF_ALLOC, SHF_COMPRESSED, Object
from kdiff.errors import KdiffError
from kdiff.values import dataclass

_MOST_BYTES = 1 << 28
"""More than any object's debugging information; a compressed section that claims more is broken."""
_MOST_TIMES = 1100
"""How much longer a section may become; zlib's best is 1032, zstd has no bound."""
_MOST_TIMES_INFO = 64
"""The same of .debug_info, each byte of which may become an entry; real ones become five times longer."""


@dataclass(frozen=True, slots=True)
class DebugSections:
    """The sections that describe types."""

    info: bytes
    abbrev: bytes
    strings: bytes
    line_strings: bytes
    string_offsets: bytes
    big: bool
    pointer: int
    path: str = field(compare=False)

    def wrong(self, what: str, offset: int) -> KdiffError:
        """An error at an offset of .debug_info."""
        return KdiffError("dwarf.malformed", what, place=f"{self.path}: .debug_info+{offset:#x}")

    def text(self, table: bytes, offset: int) -> str:
        """The string at an offset of a table of strings."""
        end = table.find(b"\0", offset) if offset < len(table) else -1
        if end < 0:
            raise self.wrong(f"string offset {offset:#x} is outside of its table", 0)
        return table[offset:end].decode("utf-8", "surrogateescape")


def has_types(obj: Object) -> bool:
    """Whether there is type information to read."""
    if b".debug_info" not in bytes(obj.contents(obj.section_names)):
        return False
    names = obj.names_of_sections()
    return any(names[index] == ".debug_info" for index in _unallocated(obj))


def debug_sections(obj: Object, arch: Architecture) -> DebugSections:
    """Read them; all empty in an object without debugging information."""
    named: dict[str, int] = {}
    debug = np.zeros(len(obj.sections), bool)
    for index in _unallocated(obj):
        name = obj.section_name(index)
        if not name.startswith(".debug_"):
            continue
        debug[index] = True
        if name == ".debug_info" and name in named:
            raise KdiffError(
                "dwarf.unsupported", "types are kept in sections of their own", place=obj.path,
                remedy="compile without -fdebug-types-section",
            )  # fmt: skip
        named[name] = index

    def whole(name: str) -> bytes:
        index = named.get(name)
        return b"" if index is None else _relocated(obj, arch, index, debug)

    return DebugSections(
        info=whole(".debug_info"),
        abbrev=whole(".debug_abbrev"),
        strings=whole(".debug_str"),
        line_strings=whole(".debug_line_str"),
        string_offsets=whole(".debug_str_offsets"),
        big=obj.byte_order == "big",
        pointer=obj.elf_class // 8,
        path=obj.path,
    )


def _unallocated(obj: Object) -> list[int]:
    found: list[int] = np.flatnonzero((obj.sections["flags"] & SHF_ALLOC) == 0).tolist()
    return found[1:]


def _relocated(obj: Object, arch: Architecture, index: int, debug: Any) -> bytes:
    """A section's contents with every reference to a debugging section filled in; others describe code."""
    data = uncompressed(obj, index)
    records = obj.records(index)
    symbols = obj.symbols[records["symbol"]]
    inside = symbols["section"] < RESERVED
    inside &= debug[np.where(inside, symbols["section"], 0)]
    if not inside.any():
        return data
    records, symbols = records.of(inside), symbols[inside]
    raw = np.frombuffer(data, "u1").copy()
    endian = ">" if obj.byte_order == "big" else "<"
    for kind in np.unique(records["type"]).tolist():
        howto = arch.howtos.get(kind)
        if (
            howto is None
            or howto.size not in (4, 8)
            or howto.pc_relative
            or howto.mask >> 8 * howto.size - 1 != 1
        ):
            raise KdiffError(
                "dwarf.malformed", f"relocation type {kind} cannot refer to a debugging section",
                place=f"{obj.path}: {obj.section_name(index)}",
            )  # fmt: skip
        chosen = records["type"] == kind
        offsets = records["offset"][chosen]
        if np.any(offsets + np.uint64(howto.size) > len(raw)):
            raise KdiffError("dwarf.malformed", "a relocation lies outside", place=obj.section_name(index))
        places = offsets[:, None] + np.arange(howto.size, dtype="u8")
        values = symbols["value"][chosen] + records["addend"][chosen].astype("u8")
        if records["implicit"][chosen].any():
            values += np.ascontiguousarray(raw[places]).view(f"{endian}u{howto.size}")[:, 0]
        raw[places] = values.astype(f"{endian}u{howto.size}").view("u1").reshape(-1, howto.size)
    return raw.tobytes()


def uncompressed(obj: Object, index: int) -> bytes:
    """A section's bytes; the header of compressed ones is the gABI's Elf32_Chdr or Elf64_Chdr."""
    data = bytes(obj.contents(index))
    if not obj.sections["flags"][index] & SHF_COMPRESSED:
        return data
    place = f"{obj.path}: {obj.section_name(index)}"
    header = struct.Struct(
        ("<" if obj.byte_order == "little" else ">") + ("I4xQ8x" if obj.elf_class == 64 else "II4x")
    )
    if len(data) < header.size:
        raise KdiffError("dwarf.malformed", "the compression header is cut off", place=place)
    method, size = header.unpack_from(data)
    times = _MOST_TIMES_INFO if obj.section_name(index) == ".debug_info" else _MOST_TIMES
    if size > _MOST_BYTES or size > times * len(data):
        raise KdiffError("dwarf.malformed", f"claims to be {size} bytes long", place=place)
    if method not in _METHODS:
        raise KdiffError("dwarf.unsupported", f"compressed by method {method}", place=place)
    try:
        plain = _METHODS[method](data[header.size :], size)
    except ValueError as error:
        raise KdiffError("dwarf.malformed", f"cannot be decompressed: {error}", place=place) from error
    if len(plain) != size:
        raise KdiffError("dwarf.malformed", f"has {len(plain)} bytes instead of {size}", place=place)
    return plain


def _by_zlib(data: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, size) if size else b""
    except zlib.error as error:
        raise ValueError(error) from error


def _by_zstd(data: bytes, size: int) -> bytes:
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise ValueError(error) from error


_METHODS = {1: _by_zlib, 2: _by_zstd}
"""ELFCOMPRESS_ZLIB and ELFCOMPRESS_ZSTD."""

# SPDX-License-Identifier: Apache-2.0
"""How ELF files are laid out: headers, section headers and symbols of both classes and byte orders.

Layouts are those of the System V gABI, chapter "Object Files".
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from kdiff.arch import ByteOrder
from kdiff.errors import KdiffError
from kdiff.values import dataclass

SECTION_COLUMNS = ("name", "type", "flags", "addr", "offset", "size", "link", "info", "align", "entsize")


@dataclass(frozen=True, slots=True)
class Layout:
    """Field formats of one ELF class."""

    header: str
    section: tuple[str, ...]
    symbol: tuple[tuple[str, str], ...]
    word: str


LAYOUTS = {
    32: Layout(
        "u4",
        ("u4", "u4", "u4", "u4", "u4", "u4", "u4", "u4", "u4", "u4"),
        (("name", "u4"), ("value", "u4"), ("size", "u4"), ("info", "u1"), ("other", "u1"), ("shndx", "u2")),
        "u4",
    ),
    64: Layout(
        "u8",
        ("u4", "u4", "u8", "u8", "u8", "u8", "u4", "u4", "u8", "u8"),
        (("name", "u4"), ("info", "u1"), ("other", "u1"), ("shndx", "u2"), ("value", "u8"), ("size", "u8")),
        "u8",
    ),
}

SECTION = np.dtype([(n, "u4" if n in ("name", "type", "link", "info") else "u8") for n in SECTION_COLUMNS])
SYMBOL = np.dtype(
    {
        "names": ("name", "value", "size", "type", "binding", "other", "section"),
        "formats": ("u4", "u8", "u8", "u1", "u1", "u1", "u4"),
        "offsets": (16, 0, 8, 24, 25, 26, 20),
        "itemsize": 32,
    }
)
"""`section`: 0 undefined; a section index; or a reserved index + RESERVED."""


class Raw(NamedTuple):
    """The types of what a file holds: ELF header, section headers, symbols."""

    header: np.dtype[Any]
    section: np.dtype[Any]
    symbol: np.dtype[Any]


@cache
def raw(layout: Layout, endian: str) -> Raw:
    """The types for a class and a byte order, `<` or `>`."""
    word = layout.word
    fields = [
        ("ident", "V16"), ("type", "u2"), ("machine", "u2"), ("version", "u4"), ("entry", word),
        ("phoff", word),
        ("shoff", word), ("flags", "u4"), ("ehsize", "u2"), ("phentsize", "u2"), ("phnum", "u2"),
        ("shentsize", "u2"), ("shnum", "u2"), ("shstrndx", "u2"),
    ]  # fmt: skip
    return Raw(
        np.dtype([(name, kind if kind == "V16" else endian + kind) for name, kind in fields]),
        np.dtype([(n, endian + k) for n, k in zip(SECTION_COLUMNS, layout.section, strict=True)]),
        np.dtype([(name, endian + kind) for name, kind in layout.symbol]),
    )


def identify(view: memoryview, path: str) -> tuple[Literal[32, 64], ByteOrder]:
    """The class and byte order of a file; KdiffError if it is no ELF file."""
    if len(view) < 52 or bytes(view[:4]) != b"\x7fELF":
        raise KdiffError("elf.not_elf", "not an ELF file", place=path)
    if view[4] not in (1, 2) or view[5] not in (1, 2):
        raise KdiffError("elf.class", f"unknown ELF class {view[4]} or byte order {view[5]}", place=path)
    if view[4] == 2 and len(view) < 64:
        raise KdiffError("elf.truncated", "the ELF header is cut off", place=path)
    return (64 if view[4] == 2 else 32), ("little" if view[5] == 1 else "big")

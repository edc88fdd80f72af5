# SPDX-License-Identifier: Apache-2.0
"""Where a symbol table of the same kernel says that its functions are: what run-pre matching is held against.

In: a vmlinux with symbols, or the text of kallsyms or System.map. Out: a `Truth`. The symbol table of a
vmlinux also tells the source file of each static, so that equal names of different files are told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from kdiff.addressbook import KERNEL, AddressBook
from kdiff.elf.image import ImageSection, image_sections, open_image
from kdiff.elf.read import STB_LOCAL, STT_FILE, STT_SECTION
from kdiff.errors import KdiffError
from kdiff.kallsyms import parse_text
from kdiff.values import dataclass

ANCHOR = "_text"
_SYMBOL = {
    64: (("name", "u4"), ("info", "u1"), ("other", "u1"), ("section", "u2"), ("value", "u8"), ("size", "u8")),
    32: (("name", "u4"), ("value", "u4"), ("size", "u4"), ("info", "u1"), ("other", "u1"), ("section", "u2")),
}


@dataclass(frozen=True, slots=True)
class Truth:
    """`by_name`: the addresses of a name. `by_file`: those of a static in source files of that last name."""

    by_name: Mapping[str, frozenset[int]]
    by_file: Mapping[tuple[str, str], frozenset[int]]
    slide: int = 0
    """How far the memory lies above the addresses of the table."""

    def addresses(self, names: Iterable[str], source: str) -> frozenset[int]:
        """Where something with one of these names, of this source file, may be; empty if nobody says."""
        file = PurePosixPath(source).name
        listed = list(names)
        own = [self.by_file[file, name] for name in listed if (file, name) in self.by_file]
        found = own or [self.by_name[name] for name in listed if name in self.by_name]
        return frozenset(address + self.slide for each in found for address in each)


def read_truth(path: Path, book: AddressBook) -> Truth:
    """Read a symbol table, and tell from `book` how far the memory at hand was moved against it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise KdiffError(
            "truth.unreadable", reason, place=str(path), remedy="name a vmlinux or System.map"
        ) from error
    rows = _elf(data, str(path)) if data.startswith(b"\x7fELF") else _text(data, str(path))
    by_name: dict[str, set[int]] = {}
    by_file: dict[tuple[str, str], set[int]] = {}
    for name, address, file in rows:
        by_name.setdefault(name, set()).add(address)
        if file:
            by_file.setdefault((file, name), set()).add(address)
    here, there = book.address(ANCHOR), by_name.get(ANCHOR, set())
    if here is None or len(there) != 1:
        raise KdiffError(
            "truth.anchor", f"{ANCHOR} is not listed once in both this table and the memory", place=str(path),
            remedy="name the symbol table of the kernel that is matched",
        )  # fmt: skip
    return Truth(
        {name: frozenset(found) for name, found in by_name.items()},
        {key: frozenset(found) for key, found in by_file.items()},
        here - next(iter(there)),
    )


def _text(data: bytes, place: str) -> Iterable[tuple[str, int, str]]:
    for entry in parse_text(data, place).entries:
        if entry.owner == KERNEL:
            yield entry.name, entry.address, ""


def source_files(path: Path) -> frozenset[str]:
    """The last names of all source files that a vmlinux was linked from."""
    data = path.read_bytes()
    return frozenset(
        PurePosixPath(name).name for name, info, _, _ in _symbols(data, str(path)) if info & 15 == STT_FILE
    )


def _elf(data: bytes, place: str) -> Iterable[tuple[str, int, str]]:
    """(name, address, source file of a static) of each symbol; the file symbol precedes its statics."""
    file = ""
    for name, info, section, value in _symbols(data, place):
        if info & 15 == STT_FILE:
            file = PurePosixPath(name).name
        elif name and section and info & 15 != STT_SECTION:
            yield name, value, file if info >> 4 == STB_LOCAL else ""


def _symbols(data: bytes, place: str) -> Iterable[tuple[str, int, int, int]]:
    """(name, info, section, value) of each symbol, in the order of the table."""
    image = open_image(data, place)
    sections = {each.name: each for each in image_sections(image)}
    if ".symtab" not in sections or ".strtab" not in sections:
        raise KdiffError(
            "truth.stripped", "has no symbol table", place=place, remedy="name a vmlinux with symbols"
        )
    order = "<" if image.byte_order == "little" else ">"
    layout = np.dtype([(name, order + kind) for name, kind in _SYMBOL[image.elf_class]])
    rows = np.frombuffer(_bytes(data, sections[".symtab"]), layout)
    strings = _bytes(data, sections[".strtab"])
    columns = (rows[each].tolist() for each in ("name", "info", "section", "value"))
    for at, info, section, value in zip(*columns, strict=True):
        name = strings[at : strings.find(b"\0", at)].decode("utf-8", "surrogateescape")
        yield name, info, section, value


def _bytes(data: bytes, section: ImageSection) -> bytes:
    return data[section.offset : section.offset + section.size]

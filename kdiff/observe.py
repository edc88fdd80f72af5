# SPDX-License-Identifier: Apache-2.0
"""What a kernel's memory says about the kernel, found through its own symbols.

In: a reader of memory and its address book. Out: `KernelFacts`; what is not there stays empty.
"""

from __future__ import annotations

import mmap
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from kdiff.addressbook import AddressBook
from kdiff.arch import Architecture, ByteOrder
from kdiff.btf import when_asked
from kdiff.elf.image import note_build_id
from kdiff.kernel import KernelFacts, Structure

Read = Callable[[int, int], bytes | None]
"""Exactly `size` bytes at an address, or None."""
Contents = Callable[[str], bytes | None]
"""The bytes of a section by name, None where there are no section headers."""

_LONGEST = 1024
_MOST_CONFIG = 1 << 24
_CONFIG_LINE = re.compile(r"(CONFIG_\w+)=(.*)")


def observe(
    read: Read,
    book: AddressBook,
    architecture: Architecture | None,
    order: ByteOrder,
    memory: Iterable[bytes | mmap.mmap] = (),
    contents: Contents = lambda name: None,
) -> KernelFacts:
    """Observe everything; `architecture` is None if unknown, and `memory` all there is to search.

    KdiffError only where type information is there but broken, perhaps once a structure is asked for.
    """
    version = banner(read, book)
    words = version.split()
    btf = _between(read, book, "__start_BTF", "__stop_BTF") or contents(".BTF")
    structures: Mapping[str, Structure] = when_asked(btf) if btf else MappingProxyType({})
    notes = _between(read, book, "__start_notes", "__stop_notes") or contents(".notes") or b""
    return KernelFacts(
        release=words[2] if len(words) > 2 else "",
        version=version,
        machine=architecture.name if architecture else _uts_machine(read, book, structures),
        build_id=note_build_id(notes, order),
        config=_config(memory),
        structures=structures,
    )


def banner(read: Read, book: AddressBook) -> str:
    """The text of linux_banner, without the newline."""
    address = book.address("linux_banner")
    return text_at(read, address).split("\n")[0] if address is not None else ""


def text_at(read: Read, address: int, most: int = _LONGEST) -> str:
    """The string at an address up to its end; cut off where memory ends or after about `most` bytes."""
    size = most
    while size:
        found = read(address, size)
        if found is not None:
            return found.split(b"\0")[0].decode("utf-8", "replace")
        size //= 2
    return ""


def _between(read: Read, book: AddressBook, start: str, stop: str) -> bytes | None:
    first, last = book.address(start), book.address(stop)
    return read(first, last - first) if first is not None and last is not None and first < last else None


def _uts_machine(read: Read, book: AddressBook, structures: Mapping[str, Structure]) -> str:
    """`init_uts_ns.name.machine`, for a dump that has no ELF header."""
    space, name = structures.get("uts_namespace"), structures.get("new_utsname")
    address = book.address("init_uts_ns")
    if address is None or space is None or name is None:
        return ""
    if "name" not in space.members or "machine" not in name.members:
        return ""
    return text_at(read, address + space.members["name"] + name.members["machine"])


def _config(memory: Iterable[bytes | mmap.mmap]) -> Mapping[str, str]:
    """The configuration that CONFIG_IKCONFIG embeds (kernel/configs.c: gzip between two marks)."""
    for data in memory:
        mark = data.find(b"IKCFG_ST\x1f\x8b")
        if mark < 0:
            continue
        stop = data.find(b"IKCFG_ED", mark)
        stream = zlib.decompressobj(31)
        try:
            text = stream.decompress(bytes(data[mark + 8 : stop if stop > 0 else None]), _MOST_CONFIG)
        except zlib.error:
            continue
        found = (_CONFIG_LINE.fullmatch(line) for line in text.decode("utf-8", "replace").splitlines())
        return MappingProxyType({each[1]: each[2] for each in found if each})
    return MappingProxyType({})

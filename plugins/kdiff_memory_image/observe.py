# SPDX-License-Identifier: Apache-2.0
"""What a kernel's memory says about the kernel, found through its own symbols.

In: an image and its address book. Out: `KernelFacts`; what is not there stays empty.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from kdiff.api import AddressBook, ElfImage, KernelFacts, Structure, btf_structures, note_build_id

Contents = Callable[[str], bytes | None]
"""The bytes of a section by name, None where there are no section headers."""

_MACHINES = {
    (62, "little"): "x86_64",
    (183, "little"): "aarch64",
    (21, "little"): "ppc64le",
    (22, "big"): "s390x",
    (243, "little"): "riscv64",
    (258, "little"): "loongarch64",
}
"""ELF machine and byte order to the kernel's UTS name (UTS_MACHINE in arch/*/Makefile)."""
_LONGEST_BANNER = 1024
_MOST_CONFIG = 1 << 24
_CONFIG_LINE = re.compile(r"(CONFIG_\w+)=(.*)")


def facts(image: ElfImage, book: AddressBook, contents: Contents) -> KernelFacts:
    """Observe everything; KdiffError only where type information is there but broken."""
    version = banner(image, book)
    words = version.split()
    btf = _between(image, book, "__start_BTF", "__stop_BTF") or contents(".BTF")
    structures = btf_structures(btf) if btf else MappingProxyType({})
    notes = _between(image, book, "__start_notes", "__stop_notes") or contents(".notes") or b""
    return KernelFacts(
        release=words[2] if len(words) > 2 else "",
        version=version,
        machine=_MACHINES.get((image.machine, image.byte_order)) or _uts_machine(image, book, structures),
        build_id=note_build_id(notes, image.byte_order),
        config=_config(image),
        structures=structures,
    )


def banner(image: ElfImage, book: AddressBook) -> str:
    """The text of linux_banner, without the newline."""
    address = book.address("linux_banner")
    return _text(image, address) if address is not None else ""


def _text(image: ElfImage, address: int) -> str:
    """The string at an address, up to its end or that of its line."""
    size = _LONGEST_BANNER
    while size:
        found = image.read(address, size)
        if found is not None:
            return found.split(b"\0")[0].split(b"\n")[0].decode("utf-8", "replace")
        size //= 2
    return ""


def _between(image: ElfImage, book: AddressBook, start: str, stop: str) -> bytes | None:
    first, last = book.address(start), book.address(stop)
    return (
        image.read(first, last - first) if first is not None and last is not None and first < last else None
    )


def _uts_machine(image: ElfImage, book: AddressBook, structures: Mapping[str, Structure]) -> str:
    """`init_uts_ns.name.machine`, for a dump that has no ELF header."""
    space, name = structures.get("uts_namespace"), structures.get("new_utsname")
    address = book.address("init_uts_ns")
    if address is None or space is None or name is None:
        return ""
    if "name" not in space.members or "machine" not in name.members:
        return ""
    return _text(image, address + space.members["name"] + name.members["machine"])


def _config(image: ElfImage) -> Mapping[str, str]:
    """The configuration that CONFIG_IKCONFIG embeds (kernel/configs.c: gzip between two marks)."""
    mark = image.data.find(b"IKCFG_ST\x1f\x8b")
    if mark < 0:
        return MappingProxyType({})
    stop = image.data.find(b"IKCFG_ED", mark)
    stream = zlib.decompressobj(31)
    try:
        text = stream.decompress(bytes(image.data[mark + 8 : stop if stop > 0 else None]), _MOST_CONFIG)
    except zlib.error:
        return MappingProxyType({})
    lines = text.decode("utf-8", "replace").splitlines()
    found = (_CONFIG_LINE.fullmatch(line) for line in lines)
    return MappingProxyType({each[1]: each[2] for each in found if each})

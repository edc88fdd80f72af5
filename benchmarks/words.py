# SPDX-License-Identifier: Apache-2.0
"""Functions of a kernel's image in words, for bench_wrong_kernels.py: what two images share, whatever moved.

capstone disassembles; addresses become the names that kallsyms has there, or the text that lies there.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from itertools import takewhile
from typing import Any

import capstone

from kdiff.addressbook import AddressBook
from kdiff.arch import Architecture
from kdiff.memory import MemorySource
from kdiff.split import only_nops

_ADDRESS = re.compile(
    r"(?P<cpu>[fg]s:)?\[rip (?P<sign>[+-]) (?P<distance>0x[0-9a-f]+|\d+)\]"
    r"|-\s?(?P<below>0x[0-9a-f]{6,8})\b"
    r"|(?<![\w.])(?P<plain>0x[0-9a-f]{5,16})\b"
)
"""Addresses as capstone writes them: from the next instruction, plain, or as a negative displacement."""
WORD = (1 << 64) - 1
KERNEL_MAP = 0xFFFF_FFFF_8000_0000
"""__START_KERNEL_map of arch/x86/include/asm/page_64_types.h."""
FARTHEST = 64
"""Bytes between the end of a function and the start of the next: functions are aligned to 64 at most."""
TEXT = 4
"""What is longer is taken for text; a few bytes may be the end of a pointer."""
NAMELESS = "a place without a name"
Words = tuple[frozenset[str], int]
"""What an address is: names, or what lies there, and a distance."""


def _unknown(code: Any, size: int, offset: int, data: object) -> int:
    """How many bytes capstone is to pass over where it cannot decode: `tilerelease` it does not know.

    A three-byte VEX prefix, opcode map 0F38, and operands that are registers make five bytes (Intel SDM 2.3).
    """
    head = code[offset : offset + 5]
    return 5 if len(head) == 5 and head[0] == 0xC4 and head[1] & 0x1F == 2 and head[4] >> 6 == 3 else 1


class Image:
    """One kernel, and its functions in words."""

    def __init__(self, memory: MemorySource) -> None:
        self.memory = memory
        self.book: AddressBook = memory.address_book()
        self.engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self.engine.skipdata = True
        self.engine.skipdata_callback = _unknown, None
        kept = [each for each in self.book.entries if each.kind in "TtWwDdRrBbVvAa"]
        self.listed = sorted({each.address for each in kept})
        self.names = {address: sorted(each.name for each in self.book.at(address)) for address in self.listed}
        self.rodata = self.book.address("__start_rodata") or 0, self.book.address("__end_rodata") or 0

    def words(self, address: int, size: int, exact: bool = False) -> list[tuple[str, list[Words]]]:
        """A function as instructions, each with the addresses in it as what is there."""
        found = []
        for at, length, name, operands in self.engine.disasm_lite(
            self.memory.read(address, size) or b"", address
        ):
            addresses: list[Words] = []

            def there(
                match: re.Match[str], after: int = at + length, addresses: list[Words] = addresses
            ) -> str:
                if match["distance"]:
                    place = after + int(match["distance"], 0) * (1 if match["sign"] == "+" else -1)
                else:
                    place = int(match["plain"], 16) if match["plain"] else -int(match["below"], 16)
                place &= WORD
                inside = address <= place < address + size
                addresses.append(
                    (frozenset(("here",)), place - address) if inside else self.what(place, exact)
                )
                return f"{match['cpu'] or ''}@"

            found.append((f"{name} {_ADDRESS.sub(there, operands)}", addresses))
        return found

    def what(self, place: int, exact: bool = False) -> Words:
        """An address in words: the text that lies there, or all names of a symbol, and a distance.

        `exact`: numbers in names count.
        """
        if place + 1 in self.names and place not in self.names:
            return frozenset(f"{name}-1" for name in self.names[place + 1]), 0  # the last byte of something
        at = bisect_right(self.listed, place) - 1
        start = self.listed[max(at, 0)]
        names = self.names[start]
        if not exact:
            names = sorted({re.sub(r"\.\d+|(?<=ddebug)\d+|(?<=__)\d+$", "", name) for name in names})
        if self.rodata[0] <= place < self.rodata[1] and place != start:
            named = [f"{name}+{place - start:#x}" for name in names]
            constant = self._constant(place)
            if exact and constant.startswith(("b'", 'b"')) and len(constant) > len("b''") + TEXT:
                return frozenset((constant,)), 0  # a text tells more than where it lies
            return frozenset(named if exact and place - start < 1 << 12 else (constant, *named)), 0
        if (
            place < 1 << 30
        ):  # an offset into per-cpu areas, a physical address of the kernel, or a mere number
            linked, distance = self.what(place + KERNEL_MAP, exact)
            physical = (f"physical {name}+{distance:#x}" for name in linked if name != NAMELESS)
            return frozenset((hex(place), *physical, *(f"{name}+{place - start:#x}" for name in names))), 0
        if at < 0 or place - start > 1 << 22:
            return frozenset((hex(place),)), 0
        if "_einittext" in names:
            return frozenset((NAMELESS,)), 0
        return frozenset(names), place - start

    def ends(self, place: int, arch: Architecture) -> bool:
        """Whether nothing but padding lies between a place and the next symbol."""
        following = self.listed[min(bisect_left(self.listed, place), len(self.listed) - 1)]
        rest = self.memory.read(place, min(max(following - place, 0), FARTHEST)) or b""
        return only_nops(arch, rest)

    def _constant(self, place: int) -> str:
        """What lies at a place of read-only data that has no name: text, pointers, or something else."""
        data = self.memory.read(place, min(256, self.rodata[1] - place)) or b""
        text = data.partition(b"\0")[0]
        if text.isascii():
            return repr(text)
        pointers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data) - 7, 8)]
        inside = takewhile(lambda each: each >> 31 == WORD >> 31, pointers)
        return "; ".join("/".join(sorted(self.what(each)[0])) for each in inside)


def same(one: list[tuple[str, list[Words]]], other: list[tuple[str, list[Words]]]) -> bool:
    """Whether two functions read alike: equal distances from symbols that share a name."""
    return len(one) == len(other) and all(
        mine == theirs
        and len(ours) == len(others)
        and all(a[0] & b[0] and a[1] == b[1] for a, b in zip(ours, others, strict=True))
        for (mine, ours), (theirs, others) in zip(one, other, strict=True)
    )


def numbers_differ(one: list[tuple[str, list[Words]]], other: list[tuple[str, list[Words]]]) -> bool:
    """Whether two functions that read alike refer to places whose names a compiler has numbered otherwise.

    Keys of locks have no size without lockdep: a dozen of one name lie at one place, and which one is meant
    does not show.
    """
    pairs = zip(
        (words for _, each in one for words in each),
        (words for _, each in other for words in each),
        strict=True,
    )
    return any(_numbered(ours[0]) != _numbered(theirs[0]) for ours, theirs in pairs)


def _numbered(names: frozenset[str]) -> set[str]:
    return {name for name in names if re.search(r"^\w+\.\d+$", name)}

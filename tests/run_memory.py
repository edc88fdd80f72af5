# SPDX-License-Identifier: Apache-2.0
"""Run memory made by really linking objects, at the addresses of a kernel.

    memory = link(compiled(UNIT, WHOLE), compiled(REST))
    memory.address_book().address("printk")

Symbols are those `nm` lists, in the order of their addresses, which is that of kallsyms.
`flipped` and `patched` are the same memory with other bytes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from kdiff.addressbook import AddressBook
from kdiff.elf.image import ElfImage, open_image
from kdiff.kernel import KernelFacts
from kdiff.memory import Extent

BASE = 0xFFFFFFFF81000000
SLIDE = 0x1C000000
MODULES = 0xFFFFFFFFC0000000
"""Where modules are loaded."""
_SCRIPT = """
SECTIONS
{
  . = %#x;
  .text : { _text = .; *(.text .text.*) *(.altinstr_replacement) } = 0xcccc
  . = ALIGN(4096);
  .rodata : { __start_rodata = .; *(.rodata .rodata.*) *(__sites) *(__table) __end_rodata = .; }
  .init.text : { *(.init.text) }
  . = ALIGN(4096);
  .data : { *(.data .data.*) }
  .bss : { *(.bss .bss.*) }
  _end = .;
  /DISCARD/ : { *(.comment) *(.note.*) *(.discard*) }
}
"""


@dataclass(frozen=True, slots=True)
class LinkedMemory:
    """Satisfies `kdiff.memory.MemorySource`."""

    image: ElfImage
    book: AddressBook
    pristine: bool = True
    name: str = "linked"
    changed: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Address to byte, where memory is not what was linked."""

    def read(self, address: int, size: int) -> bytes | None:
        data = self.image.read(address, size)
        if data is None or not any(address <= place < address + size for place in self.changed):
            return data
        return bytes(self.changed.get(address + at, byte) for at, byte in enumerate(data))

    def address_book(self) -> AddressBook:
        return self.book

    def facts(self) -> KernelFacts:
        return KernelFacts(release="6.1.0-56-amd64", machine="x86_64")

    def extents(self) -> tuple[Extent, ...]:
        return tuple(Extent(each.address, each.size) for each in self.image.segments)

    def patched(self, address: int, data: bytes) -> LinkedMemory:
        """This memory with other bytes at an address."""
        return replace(self, changed={**self.changed, **dict(enumerate(data, address))})

    def flipped(self, address: int, bit: int) -> LinkedMemory:
        """This memory with one bit flipped."""
        before = self.read(address, 1)
        assert before is not None
        return self.patched(address, bytes((before[0] ^ 1 << bit,)))

    def alive(self) -> LinkedMemory:
        """This memory in a kernel that has been running."""
        return replace(self, pristine=False)

    def at(self, name: str) -> int:
        """The address of a name that is unique."""
        address = self.book.address(name)
        assert address is not None
        return address

    def ranges(self) -> dict[int, bytes]:
        """All of it, by first address."""
        found = {}
        for each in self.image.segments:
            data = self.read(each.address, each.size)
            assert data is not None
            found[each.address] = data
        return found

    def kallsyms(self) -> str:
        """The text of /proc/kallsyms."""
        return "".join(f"{each.address:016x} {each.kind} {each.name}\n" for each in self.book.entries)


@cache
def link(*objects: bytes, base: int = BASE) -> LinkedMemory:
    """Link objects in this order, text from `base` on."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = []
        for number, data in enumerate(objects):
            paths.append(folder / f"{number}.o")
            paths[-1].write_bytes(data)
        (folder / "script").write_text(_SCRIPT % base)
        image = folder / "image"
        _run("ld", "-z", "max-page-size=4096", "-T", folder / "script", "-o", image, *paths)
        listed = [line.split() for line in _run("nm", "-n", image).splitlines()]
        book = AddressBook(
            (fields[2], int(fields[0], 16), fields[1], "vmlinux") for fields in listed if len(fields) == 3
        )
        return LinkedMemory(open_image(image.read_bytes(), str(image)), book)


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def place_module(data: bytes, symbols: Mapping[str, int], base: int = MODULES) -> LinkedMemory:
    """Link an object at a module's address, its undefined symbols at the addresses given."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "module.o").write_bytes(data)
        given_ = "".join(f'"{name}" = {address:#x};\n' for name, address in symbols.items())
        (folder / "script").write_text(given_ + _SCRIPT % base)
        _run(
            "ld",
            "-z",
            "max-page-size=4096",
            "-T",
            folder / "script",
            "-o",
            folder / "image",
            folder / "module.o",
        )
        listed = [line.split() for line in _run("nm", "-n", folder / "image").splitlines()]
        book = AddressBook((f[2], int(f[0], 16), f[1], "module") for f in listed if len(f) == 3)
        return LinkedMemory(open_image((folder / "image").read_bytes(), "module"), book)

# SPDX-License-Identifier: Apache-2.0
"""A small x86-64 machine for tests: its physical memory with page tables, and dumps of it.

    machine = FakeMachine()
    machine.elf(), machine.kdump(), flattened(machine.kdump())

Written from Intel's manual and makedumpfile's IMPLEMENTATION, independently of what is tested. The kernel's
pages lie in reverse order, so that an address which was not translated is not right by chance.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fakeimage import BASE, LAYOUTS, memory

PAGE = 4096
ROOT = 0x2000
_TABLES = (ROOT, 0x3000, 0x4000, 0x5000, 0x6000)
_KERNEL = 0x10
"""The number of the kernel's first page frame."""
SLIDE = 0x7000
"""How far KASLR has moved this kernel: its tables map single pages."""


@dataclass(frozen=True)
class FakeMachine:
    """`levels` of page tables; the kernel is at `base`; `info` adds lines to VMCOREINFO."""

    levels: int = 4
    base: int = BASE + SLIDE
    info: tuple[str, ...] = ()
    contents: bytes = field(default=b"")

    def kernel(self) -> bytes:
        """Its image, whole pages."""
        data = self.contents or memory(LAYOUTS[2], self.base)
        return data + bytes(-len(data) % PAGE)

    def physical(self) -> bytes:
        """All of physical memory from 0 on."""
        data = self.kernel()
        count = len(data) // PAGE
        out = bytearray((_KERNEL + count + 1) * PAGE)
        tables = _TABLES[: self.levels]
        for level, table in zip(range(self.levels - 1, 0, -1), tables, strict=False):
            self._entry(out, table, level, tables[self.levels - level])
        for index in range(count):
            frame = _KERNEL + count - 1 - index
            out[frame * PAGE : (frame + 1) * PAGE] = data[index * PAGE : (index + 1) * PAGE]
            at = tables[-1] + (self.base >> 12 & 0x1FF) * 8 + 8 * index
            struct.pack_into("<Q", out, at, frame * PAGE | 1 << 63 | 3)
        return bytes(out)

    def _entry(self, out: bytearray, table: int, level: int, target: int) -> None:
        struct.pack_into("<Q", out, table + (self.base >> 12 + 9 * level & 0x1FF) * 8, target | 3)

    def state(self) -> bytes:
        """QEMU's note of a processor: version, size, 18 registers, 10 segments, cr0 to cr4, gs base."""
        control = (0x80050033, 0, 0, ROOT, 1 << 12 if self.levels == 5 else 0, 0)
        return struct.pack("<II", 1, 440) + bytes(18 * 8 + 10 * 24) + struct.pack("<6Q", *control)

    def vmcoreinfo(self) -> bytes:
        """What a kernel leaves; the tables are at a virtual address of its image's window."""
        lines = [
            "OSRELEASE=6.1.0-test",
            f"SYMBOL(swapper_pg_dir)={0xFFFFFFFF80000000 + ROOT + 0x1000000:x}",
            f"SYMBOL(_stext)={self.base:x}",
            f"NUMBER(phys_base)={-0x1000000}",
            f"NUMBER(pgtable_l5_enabled)={int(self.levels == 5)}",
            *self.info,
        ]
        return "".join(f"{line}\n" for line in lines).encode()

    def notes(self, *, info: bool = True, state: bool = True) -> bytes:
        found = note(b"CORE", 1, bytes(336))
        found += note(b"QEMU", 0, self.state()) if state else b""
        return found + (note(b"VMCOREINFO", 0, self.vmcoreinfo()) if info else b"")

    def elf(self, *, virtual: bool = False, machine: int = 62, many: bool = False, **kept: bool) -> bytes:
        """An ELF core of physical memory, or with `virtual` of what is mapped, as QEMU writes them."""
        data, notes = self.physical(), self.notes(**kept)
        loads = [(0, 0, len(data))]
        if virtual:
            count = len(self.kernel()) // PAGE
            frames = [(_KERNEL + count - 1 - index) * PAGE for index in range(count)]
            loads = [(self.base + PAGE * index, frame, PAGE) for index, frame in enumerate(frames)]
        count = len(loads) + 1
        start = 64 + 56 * count + 64 + len(notes)
        head = b"\x7fELF\x02\x01\x01" + bytes(9)
        number = 0xFFFF if many else count
        sections = 64 + 56 * count if many else 0
        head += struct.pack("<HHIQQQIHHHHHH", 4, machine, 1, 0, 64, sections, 0, 64, 56, number, 64, 1, 0)
        table = struct.pack("<IIQQQQQQ", 4, 0, start - len(notes), 0, 0, len(notes), len(notes), 0)
        for address, frame, size in loads:
            table += struct.pack("<IIQQQQQQ", 1, 7, start + frame, address, frame, size, size, 0)
        section = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, count, 0, 0)
        return head + table + section + notes + data

    def kdump(
        self,
        pack: Callable[[bytes], bytes] = zlib.compress,
        flag: int = 1,
        left_out: Iterable[int] = (),
        status: int = 0,
        split: int = 0,
        name: bytes = b"x86_64",
    ) -> bytes:
        """A compressed dump of version 6 without the pages numbered in `left_out`."""
        data = self.physical()
        pages = len(data) // PAGE
        kept = [number for number in range(pages) if number not in set(left_out)]
        bits = bytearray(PAGE)
        for number in kept:
            bits[number // 8] |= 1 << number % 8
        names = b"".join(each.ljust(65, b"\0") for each in (b"", b"", b"", b"", name, b""))
        head = b"KDUMP   " + struct.pack("<i", 6) + names + bytes(6) + bytes(16)
        head += struct.pack("<IiiIIII", status, PAGE, 1, 2, pages, 0, 0)
        notes, info = self.notes(info=False), self.vmcoreinfo()
        at = 4 * PAGE + 24 * len(kept)
        sub = struct.pack("<QiiQQqQqQqQ", 0, 0, split, 0, 0, at, len(info), at + len(info), len(notes), 0, 0)
        sub += struct.pack("<QQQ", 0, pages, pages)
        body, table = info + notes, b""
        for number in kept:
            plain = data[number * PAGE : (number + 1) * PAGE]
            packed = pack(plain)
            stored, flags = (packed, flag) if len(packed) < PAGE else (plain, 0)
            table += struct.pack("<qIIQ", at + len(body), len(stored), flags, 0)
            body += stored
        return head.ljust(PAGE, b"\0") + sub.ljust(PAGE, b"\0") + bytes(bits) * 2 + table + body


def note(owner: bytes, kind: int, body: bytes) -> bytes:
    name = owner + b"\0"
    head = struct.pack("<III", len(name), len(body), kind)
    return head + name + bytes(-len(name) % 4) + body + bytes(-len(body) % 4)


def flattened(data: bytes, piece: int = 5000) -> bytes:
    """The same file as a stream: records in any order, and one that is written over by the next."""
    head = (b"makedumpfile".ljust(16, b"\0") + struct.pack(">QQ", 1, 1)).ljust(4096, b"\0")
    starts = list(range(0, len(data), piece))
    records = [struct.pack(">qq", 100, 300) + b"\xaa" * 300]
    records += [
        struct.pack(">qq", at, len(data[at : at + piece])) + data[at : at + piece] for at in starts[::-1]
    ]
    return head + b"".join(records) + struct.pack(">qq", -1, -1)

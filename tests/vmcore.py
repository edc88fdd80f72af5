# SPDX-License-Identifier: Apache-2.0
"""/proc/vmcore as a kdump kernel shows it, made of QEMU's dump of the same machine.

QEMU lists physical memory; the kernel adds where it is mapped, and its own text once more in front
(arch/x86/kernel/crash.c, prepare_elf64_headers). makedumpfile reads that, and wants program headers at once
behind the ELF header.
"""

from __future__ import annotations

import struct
from pathlib import Path

from kdiff.memory import MemorySource

_HEADER = struct.Struct("<IIQQQQQQ")
_LOAD = 1


def write(dump: Path, memory: MemorySource, to: Path) -> None:
    """`dump`: QEMU's, of physical memory; `memory`: the kernel in it."""
    data = bytearray(dump.read_bytes())
    book = memory.address_book()
    base, text, end = (book.address(name) for name in ("page_offset_base", "_text", "_end"))
    assert base is not None
    assert text is not None
    assert end is not None
    direct = int.from_bytes(memory.read(base, 8) or b"", "little")
    (at,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    headers = [list(_HEADER.unpack_from(data, at + _HEADER.size * index)) for index in range(count)]
    first = next(each for each in headers if each[0] == _LOAD)
    for each in headers:
        if each[0] == _LOAD:
            each[3] = each[4] + direct
    place = data.index(memory.read(text, 4096) or b"", first[2])
    headers.insert(1, [_LOAD, 7, place, text, place - first[2] + first[4], end - text, end - text, 0])
    assert 64 + _HEADER.size * len(headers) <= headers[0][2], "no room for one header more"
    struct.pack_into("<QQ", data, 32, 64, 0)
    struct.pack_into("<HHHHHH", data, 52, 64, 56, len(headers), 64, 0, 0)
    for index, each in enumerate(headers):
        _HEADER.pack_into(data, 64 + _HEADER.size * index, *each)
    to.write_bytes(data)

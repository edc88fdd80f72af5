# SPDX-License-Identifier: Apache-2.0
"""Small kernels for tests: kallsyms tables as every layout has them, BTF, and ELF files around them.

Written from scripts/kallsyms.c and Documentation/bpf/btf.rst of the kernel, independently of what is tested.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kdiff.arch import ByteOrder

BASE = 0xFFFFFFFF81000000
Row = tuple[str, int, str]
"""(name, address, kind)"""

_PAIRS = (b"__", b"sym", b"_start", b"tcp_", b"ta")


def tokens() -> list[bytes]:
    """256 tokens: printable characters stand for themselves, a few codes above for more than one."""
    table = [bytes([code]) if 33 <= code < 127 else b"?" for code in range(256)]
    table[0x80 : 0x80 + len(_PAIRS)] = list(_PAIRS)
    return table


@dataclass(frozen=True)
class Layout:
    """One way kernels arrange the tables; the names of the parts are those of scripts/kallsyms.c."""

    name: str
    addresses: Literal["absolute", "relative", "percpu", "placed"]
    first: bool
    seqs: bool
    align: int = 8
    two_bytes: bool = True
    order: ByteOrder = "little"
    word: Literal[4, 8] = 8


LAYOUTS = (
    Layout("5.10 with per-cpu", "percpu", first=True, seqs=False, two_bytes=False),
    Layout("5.10 absolute", "absolute", first=True, seqs=False, two_bytes=False),
    Layout("6.1 stable", "percpu", first=True, seqs=True),
    Layout("6.2 relative", "relative", first=True, seqs=True),
    Layout("6.12 with per-cpu", "percpu", first=False, seqs=True),
    Layout("6.6 absolute", "absolute", first=False, seqs=True),
    Layout("6.18 relative", "relative", first=False, seqs=True),
    Layout("7.2", "placed", first=False, seqs=True, align=4),
    Layout("big endian", "relative", first=False, seqs=True, order="big"),
    Layout("32 bits", "absolute", first=True, seqs=False, align=4, word=4),
)


def rows(count: int = 700, base: int = BASE, percpu: bool = False) -> list[Row]:
    """Symbols in order of address, with equal names, equal addresses and a name of more than 127 codes."""
    found: list[Row] = []
    if percpu:
        found += [("fixed_percpu_data", 0, "A"), ("cpu_debug_store", 0x1000, "A")]
    found += [("_text", base, "T"), ("_stext", base, "T"), ("tcp_v4_rcv", base + 0x40, "T")]
    found += [(_name(i), base + 0x100 + 8 * i, "t") for i in range(count)]
    found.append(("Z" + "q9" * 90, base + 0x100 + 8 * count, "D"))
    return found


def _name(number: int) -> str:
    return f"sym_{number // 3}.part.{number % 3}" if number % 7 else "dup"


def tables(symbols: Sequence[Row], layout: Layout, at: int) -> bytes:
    """The kallsyms tables as they lie in memory from address `at` on."""
    endian = "<" if layout.order == "little" else ">"
    wide = "Q" if layout.word == 8 else "I"
    out = bytearray()

    def put(data: bytes) -> None:
        out.extend(bytes(-(at + len(out)) % layout.align) + data)

    def words(values: Iterable[int], kind: str = "I") -> bytes:
        size = struct.calcsize(endian + kind)
        return b"".join((v % (1 << 8 * size)).to_bytes(size, layout.order) for v in values)

    def addresses() -> None:
        values = [address for _, address, _ in symbols]
        base = min(value for value, (_, _, kind) in zip(values, symbols, strict=True) if kind != "A")
        if layout.addresses == "absolute":
            put(words(values, wide))
        elif layout.addresses == "placed":
            put(b"")
            start = at + len(out)
            put(words(value - start - 4 * i for i, value in enumerate(values)))
        else:
            if layout.addresses == "percpu":
                values = [
                    v if kind == "A" else base - v - 1
                    for v, (_, _, kind) in zip(values, symbols, strict=True)
                ]
            else:
                values = [value - base for value in values]
            put(words(values))
            put(words([base], wide))

    names, markers = name_table(symbols, layout)
    if layout.first:
        addresses()
    put(words([len(symbols)]))
    put(names)
    put(words(markers))
    if layout.seqs and layout.first:
        put(bytes(3 * len(symbols)))
    table = [token + b"\0" for token in tokens()]
    put(b"".join(table))
    put(words((sum(map(len, table[:i])) for i in range(256)), "H"))
    if not layout.first:
        addresses()
        if layout.seqs:
            put(b"\xa5" * (3 * len(symbols)))
    return bytes(out)


def name_table(symbols: Sequence[Row], layout: Layout) -> tuple[bytes, list[int]]:
    """The compressed names, and where each block of 256 begins in them."""
    names = bytearray()
    markers = []
    for number, (name, _, kind) in enumerate(symbols):
        if number % 256 == 0:
            markers.append(len(names))
        codes = (kind + name).encode()
        for code, pair in enumerate(_PAIRS, 0x80):
            codes = codes[:1] + codes[1:].replace(pair, bytes([code]))
        if layout.two_bytes and len(codes) > 0x7F:
            names += bytes([len(codes) & 0x7F | 0x80, len(codes) >> 7])
        else:
            names.append(len(codes))
        names += codes
    return bytes(names), markers


Member = tuple[str, int, int]
"""(name, type, offset in bits)"""


def btf(types: Sequence[tuple[int, str, int, Sequence[Member]]], order: ByteOrder = "little") -> bytes:
    """BTF of types (kind, name, size or type, members), numbered from 1; only kinds made of members."""
    endian = "<" if order == "little" else ">"
    strings = bytearray(b"\0")

    def string(text: str) -> int:
        if not text:
            return 0
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text.encode()) - 1

    body = b""
    for kind, name, size, members in types:
        body += struct.pack(endian + "III", string(name), kind << 24 | len(members), size)
        if kind == 1:
            body += struct.pack(endian + "I", 32)
        for member, type_, offset in members:
            body += struct.pack(endian + "III", string(member), type_, offset)
    head = struct.pack(endian + "HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings))
    return head + body + bytes(strings)


def build_id_note(build_id: bytes, order: ByteOrder = "little") -> bytes:
    """Notes with a GNU build id behind another note."""
    endian = "<" if order == "little" else ">"
    other = struct.pack(endian + "III", 6, 5, 0x100) + b"Linux\0\0\0" + b"12345\0\0\0"
    return other + struct.pack(endian + "III", 4, len(build_id), 3) + b"GNU\0" + build_id


BANNER = "Linux version 6.1.0-test (someone@somewhere) (gcc 12) #1 SMP"
CODE = bytes.fromhex("e8 00 00 00 00 c3")
TYPES = btf([(4, "alt_instr", 12, (("instr_offset", 2, 0), ("cpuid", 2, 64))), (1, "int", 4, ())])


def memory(layout: Layout = LAYOUTS[2], base: int = BASE) -> bytes:
    """The memory of a whole small kernel: code, banner, notes, BTF and tables."""
    parts: Mapping[str, bytes] = {
        "linux_banner": BANNER.encode() + b"\n\0",
        "__start_notes": build_id_note(bytes.fromhex("eb4fbcd0")),
        "__start_BTF": TYPES,
    }
    ends = {"__start_notes": "__stop_notes", "__start_BTF": "__stop_BTF"}
    out = bytearray(b"\x90" * 0x4000)
    out[0x40 : 0x40 + len(CODE)] = CODE
    symbols = rows(base=base, percpu=layout.addresses == "percpu")
    for name, data in parts.items():
        out += bytes(-len(out) % 16)
        symbols.append((name, base + len(out), "D"))
        out += data
        if name in ends:
            symbols.append((ends[name], base + len(out), "D"))
    out += bytes(-len(out) % 64)
    return bytes(out) + tables(symbols, layout, base + len(out)) + bytes(64)


def elf(
    segments: Sequence[tuple[int, bytes, int]], kind: int = 2, machine: int = 62, order: ByteOrder = "little"
) -> bytes:
    """An ELF64 file of PT_LOADs (address, bytes, further zero bytes); kind 2 is an executable, 4 a core."""
    endian = "<" if order == "little" else ">"
    ident = b"\x7fELF\x02" + (b"\x01" if order == "little" else b"\x02") + b"\x01" + bytes(9)
    head = struct.pack(
        endian + "HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, len(segments), 64, 0, 0
    )
    table, body = b"", b""
    start = 64 + 56 * len(segments)
    for address, data, more in segments:
        offset = start + len(body)
        table += struct.pack(
            endian + "IIQQQQQQ", 1, 7, offset, address, address, len(data), len(data) + more, 4096
        )
        body += data
    return ident + head + table + body


def vmlinux(layout: Layout = LAYOUTS[2]) -> bytes:
    """A small vmlinux, with .bss behind its memory."""
    return elf([(BASE, memory(layout), 0x100)])


def bzimage(payload: bytes, version: int = 0x20F) -> bytes:
    """A vmlinuz for x86 around a payload."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, 64, len(payload))
    return bytes(setup) + bytes(64) + payload + b"tail"

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from types import MappingProxyType

import pytest

from kdiff.addressbook import AddressBook
from kdiff.errors import KdiffError
from kdiff.kernel import Structure
from kdiff.module_symbols import module_constants, module_symbols

BASE = 0xFFFFFFFFC0000000
HEAD = BASE + 0x100
STRUCTURES = MappingProxyType(
    {
        "module": Structure(128, {"state": 0, "list": 8, "name": 24, "kallsyms": 88}),
        "mod_kallsyms": Structure(32, {"symtab": 0, "num_symtab": 8, "strtab": 16, "typetab": 24}),
        "elf64_sym": Structure(24, {"st_name": 0, "st_value": 8}),
    }
)
BOOK = AddressBook([("modules", HEAD, "D", "vmlinux")])
Symbols = tuple[tuple[str, int, str], ...]


class Memory:
    """Modules as the kernel keeps them; what lies behind the last page is not mapped."""

    def __init__(self) -> None:
        self.data = bytearray(0x1000)
        self.nodes = [HEAD]
        self.link()

    def add(self, name: str, symbols: Symbols, state: int = 0) -> int:
        """A module in front of all others, as the kernel adds them; the address of its kallsyms."""
        start = len(self.data)
        strings, rows, kinds = b"\0", struct.pack("<IIQQ", 0, 0, 0, 0), b"?"
        for text, value, kind in symbols:
            rows += struct.pack("<IIQQ", len(strings), 0, value, 0)
            strings += text.encode() + b"\0"
            kinds += kind.encode()
        at = BASE + start
        table, row_at = at + 128, at + 160
        kinds_at = row_at + len(rows)
        strings_at = kinds_at + len(kinds)
        self.data += struct.pack("<I4x16x56s8xQ32x", state, name.encode(), table)
        self.data += struct.pack("<QI4xQQ", row_at, len(symbols) + 1, strings_at, kinds_at)
        self.data += rows + kinds + strings
        self.nodes.insert(1, at + 8)
        self.link()
        return table

    def link(self) -> None:
        for node, following in zip(self.nodes, [*self.nodes[1:], HEAD], strict=True):
            self.put(node, struct.pack("<Q", following))

    def put(self, address: int, data: bytes) -> None:
        self.data[address - BASE : address - BASE + len(data)] = data

    def read(self, address: int, size: int) -> bytes | None:
        start, whole = address - BASE, self.data + bytes(-len(self.data) % 4096)
        return bytes(whole[start : start + size]) if 0 <= start <= len(whole) - size else None

    def symbols(self) -> tuple[tuple[str, int, str, str], ...] | None:
        return module_symbols(self.read, BOOK, STRUCTURES, "little")


EXT4: Symbols = (("init", BASE + 1, "t"), ("dup", BASE + 2, "t"), ("dup", BASE + 3, "d"))


def broken(memory: Memory) -> KdiffError:
    with pytest.raises(KdiffError) as caught:
        memory.symbols()
    assert caught.value.key == "memory.modules"
    assert caught.value.place.startswith("0x")
    return caught.value


@pytest.mark.parametrize(
    ("layouts", "expected"),
    [
        (
            {"module": Structure(128, {"list": 8, "state": 0, "core_layout": 80}),
             "module_layout": Structure(32, {"base": 0, "ro_size": 16})},
            [(0x111000, 0x333)],
        ),
        (
            {"module": Structure(128, {"list": 8, "state": 0, "mem": 80}),
             "module_memory": Structure(16, {"base": 0, "size": 8})},
            [(0x111000, 0x222), (0x444000, 0x555)],
        ),
        ({"module": Structure(128, {"list": 8, "state": 0})}, []),
    ],
)  # fmt: skip
def test_constants_of_modules_lie_where_the_kernel_says(
    layouts: dict[str, Structure], expected: list[tuple[int, int]]
) -> None:
    """Until Linux 6.3: base, size, text_size, ro_size. Since then base and size of text, data, constants."""
    memory = Memory()
    table = memory.add("ext4", EXT4)
    memory.data += bytes(64)
    words = (
        (0x111000, 0x222, 0x333, 0)
        if "module_layout" in layouts
        else (0x111000, 0x222, 0, 0, 0x444000, 0x555)
    )
    memory.put(table - 128 + 80, struct.pack(f"<{len(words)}Q", *words))
    found = module_constants(memory.read, BOOK, layouts, "little")
    assert [(each.address, each.size) for each in found] == expected


def test_modules_are_listed_from_the_newest_on_with_their_symbols_in_order() -> None:
    memory = Memory()
    memory.add("ext4", EXT4)
    memory.add("xfs", (("init", BASE + 9, "t"), ("", BASE + 10, "d")))
    lines = memory.symbols()
    assert lines == (
        ("init", BASE + 9, "t", "xfs"),
        ("init", BASE + 1, "t", "ext4"),
        ("dup", BASE + 2, "t", "ext4"),
        ("dup", BASE + 3, "d", "ext4"),
    )
    assert [each.position for each in AddressBook(lines).named("dup", "ext4")] == [1, 2]


def test_a_module_that_is_not_formed_yet_is_left_out() -> None:
    memory = Memory()
    memory.add("ext4", EXT4)
    memory.add("half", (("nonsense", 1, "t"),), state=3)
    assert {line[3] for line in memory.symbols() or ()} == {"ext4"}


def test_a_kernel_without_modules_has_no_symbols_of_them() -> None:
    assert Memory().symbols() == ()
    assert module_symbols(Memory().read, AddressBook([]), STRUCTURES, "little") is None


@pytest.mark.parametrize("name", STRUCTURES)
def test_without_type_information_nothing_is_said_of_modules(name: str) -> None:
    memory = Memory()
    memory.add("ext4", EXT4)
    for structures in (
        {each: value for each, value in STRUCTURES.items() if each != name},
        {**STRUCTURES, name: Structure(8, {})},
    ):
        assert module_symbols(memory.read, BOOK, structures, "little") is None


def test_a_list_that_runs_in_circles_is_an_error() -> None:
    memory = Memory()
    for name in ("a", "b", "c"):
        memory.add(name, EXT4)
    memory.put(memory.nodes[-1], struct.pack("<Q", memory.nodes[2]))
    assert "circles" in broken(memory).message


@pytest.mark.parametrize(
    "offset, value",
    [(0, BASE - 8), (8, 1 << 31), (8, 1000), (16, 1 << 40), (24, 0)],
    ids=("symbols", "a huge count", "a wrong count", "strings", "kinds"),
)
def test_a_broken_table_is_an_error(offset: int, value: int) -> None:
    memory = Memory()
    table = memory.add("ext4", EXT4)
    memory.put(table + offset, struct.pack("<I" if offset == 8 else "<Q", value))
    broken(memory)


def test_a_name_beyond_all_memory_or_without_an_end_is_an_error() -> None:
    for where in (0xFFFFFFF0, 0x100000):
        memory = Memory()
        table = memory.add("ext4", EXT4)
        memory.put(table + 32 + 24, struct.pack("<I", where))
        broken(memory)
    memory = Memory()
    memory.add("ext4", EXT4)
    memory.data[-1:] = b"x" * 8192
    broken(memory)


def test_a_module_that_leads_out_of_memory_is_an_error() -> None:
    memory = Memory()
    memory.add("ext4", EXT4)
    memory.put(HEAD, struct.pack("<Q", 0x1000))
    with pytest.raises(KdiffError) as caught:
        memory.symbols()
    assert caught.value.key == "memory.modules"

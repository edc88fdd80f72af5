# SPDX-License-Identifier: Apache-2.0
"""Loaded modules, out of the kernel's own memory: their symbols, as /proc/kallsyms lists them, and constants.

In: a reader, vmlinux's address book, structure layouts from BTF. Out: lines of an `AddressBook`. The kernel
does the same in kernel/module/kallsyms.c, module_get_kallsym: the list `modules` in its order, of each module
the symbols that stay after it was loaded. Which of them are exported is not said here, so their kinds are
small letters throughout. Or out: where modules have memory that is read only (kernel/module/strict_rwx.c).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

from kdiff.addressbook import AddressBook
from kdiff.arch import ByteOrder
from kdiff.errors import KdiffError
from kdiff.kernel import Structure
from kdiff.memory import Extent

Read = Callable[[int, int], bytes | None]
Line = tuple[str, int, str, str]

_Members = Mapping[str, tuple[str, ...]]
_NEEDED: _Members = {
    "module": ("list", "name", "state", "kallsyms"),
    "mod_kallsyms": ("symtab", "num_symtab", "strtab", "typetab"),
    "elf64_sym": ("st_name", "st_value"),
}
_LAYOUT: _Members = {"module": ("list", "state", "core_layout"), "module_layout": ("base", "ro_size")}
_MEMORIES: _Members = {"module": ("list", "state", "mem"), "module_memory": ("base", "size")}
_READ_ONLY = (0, 2)
"""MOD_TEXT and MOD_RODATA (include/linux/module.h, commit ac3b43283923)."""
_UNFORMED = 3
"""MODULE_STATE_UNFORMED: not yet filled in."""
_MOST_MODULES, _MOST_SYMBOLS, _LONGEST_NAME = 1 << 14, 1 << 22, 1 << 10
_NAME_SIZE = 56
"""MODULE_NAME_LEN of a 64-bit kernel."""


def module_symbols(
    read: Read, book: AddressBook, structures: Mapping[str, Structure], order: ByteOrder
) -> tuple[Line, ...] | None:
    """All of them; None if the kernel has no modules or does not describe their layout (BTF).

    For 64-bit kernels. KdiffError `memory.modules` if the list is broken.
    """
    head = book.address("modules")
    if head is None or not _describes(structures, _NEEDED):
        return None
    return tuple(_Modules(read, structures, order, _NEEDED).lines(head))


def module_constants(
    read: Read, book: AddressBook, structures: Mapping[str, Structure], order: ByteOrder
) -> tuple[Extent, ...]:
    """Code and read-only data of all modules; nothing if the kernel has none or does not describe them.

    Until Linux 6.3 they lie at the start of `core_layout`, since then a module has an array of memories.
    """
    head = book.address("modules")
    for needed in (_LAYOUT, _MEMORIES):
        if head is not None and _describes(structures, needed):
            return tuple(_Modules(read, structures, order, needed).constants(head))
    return ()


def _describes(structures: Mapping[str, Structure], needed: _Members) -> bool:
    return all(
        name in structures and set(members) <= structures[name].members.keys()
        for name, members in needed.items()
    )


class _Modules:
    def __init__(
        self, read: Read, structures: Mapping[str, Structure], order: ByteOrder, needed: _Members
    ) -> None:
        self._read, self._needed = read, needed
        self._at = {
            (name, member): structures[name].members[member]
            for name, members in needed.items()
            for member in members
        }
        self._sizes = {name: structures[name].size for name in needed}
        self._endian = "<" if order == "little" else ">"

    def lines(self, head: int) -> Iterator[Line]:
        for module in self._modules(head):
            yield from self._module(module)

    def constants(self, head: int) -> Iterator[Extent]:
        what = "the memory of a module"
        for module in self._modules(head):
            if self._needed is _LAYOUT:
                layout = module + self._at["module", "core_layout"]
                base = self._number(layout + self._at["module_layout", "base"], "Q", what)
                yield Extent(base, self._number(layout + self._at["module_layout", "ro_size"], "I", what))
                continue
            for kind in _READ_ONLY:
                memory = module + self._at["module", "mem"] + kind * self._sizes["module_memory"]
                base = self._number(memory + self._at["module_memory", "base"], "Q", what)
                yield Extent(base, self._number(memory + self._at["module_memory", "size"], "I", what))

    def _modules(self, head: int) -> Iterator[int]:
        """Where the structure of each module is that is loaded, or about to be."""
        seen = {head}
        at = self._number(head, "Q", "the list of modules")
        while at != head:
            if at in seen or len(seen) > _MOST_MODULES:
                raise _broken(at, "the list of modules runs in circles")
            seen.add(at)
            module = at - self._at["module", "list"]
            if self._number(module + self._at["module", "state"], "I", "a module") != _UNFORMED:
                yield module
            at = self._number(at, "Q", "the list of modules")

    def _module(self, module: int) -> Iterator[Line]:
        raw = self._bytes(module + self._at["module", "name"], _NAME_SIZE, "a module's name")
        owner = raw.split(b"\0")[0].decode("ascii", "backslashreplace")
        table = self._number(module + self._at["module", "kallsyms"], "Q", owner)
        if not table:
            return
        symbols, strings, kinds = (
            self._number(table + self._at["mod_kallsyms", member], "Q", owner)
            for member in ("symtab", "strtab", "typetab")
        )
        count = self._number(table + self._at["mod_kallsyms", "num_symtab"], "I", owner)
        if not count:
            return
        if count > _MOST_SYMBOLS:
            raise _broken(table, f"{owner} claims {count} symbols")
        rows = self._bytes(symbols, count * self._sizes["elf64_sym"], owner)
        letters = self._bytes(kinds, count, owner).decode("latin-1")
        names = self._names(rows, strings, owner)
        value_at, step = self._at["elf64_sym", "st_value"], self._sizes["elf64_sym"]
        for index in range(count):
            (value,) = struct.unpack_from(f"{self._endian}Q", rows, index * step + value_at)
            if names[index]:
                yield names[index], value, letters[index], owner

    def _names(self, rows: bytes, strings: int, owner: str) -> list[str]:
        name_at = self._at["elf64_sym", "st_name"]
        starts = [
            struct.unpack_from(f"{self._endian}I", rows, at + name_at)[0]
            for at in range(0, len(rows), self._sizes["elf64_sym"])
        ]
        last = max(starts)
        if last > _MOST_SYMBOLS * _LONGEST_NAME // 16:
            raise _broken(strings, f"the names of {owner} are {last} bytes long")
        table = self._bytes(strings, last, owner) if last else b""
        table += self._last(strings + last)
        return [
            table[start : table.find(b"\0", start)].decode("utf-8", "surrogateescape") for start in starts
        ]

    def _last(self, address: int) -> bytes:
        """The string at an address with its end; what lies behind it need not be mapped."""
        found = b""
        while b"\0" not in found:
            if len(found) > _LONGEST_NAME:
                raise _broken(address, "a symbol's name has no end")
            found += self._bytes(address + len(found), 16 - (address + len(found)) % 16, "a symbol's name")
        return found[: found.index(b"\0") + 1]

    def _number(self, address: int, kind: str, what: str) -> int:
        number: int = struct.unpack(self._endian + kind, self._bytes(address, struct.calcsize(kind), what))[0]
        return number

    def _bytes(self, address: int, size: int, what: str) -> bytes:
        found = self._read(address, size)
        if found is None:
            raise _broken(address, f"{what}: {size} bytes are not there")
        return found


def _broken(address: int, what: str) -> KdiffError:
    return KdiffError(
        "memory.modules",
        f"the kernel's list of modules cannot be read: {what}",
        place=f"{address:#x}",
        remedy="take the memory again, of a machine that loads or unloads no module at that moment",
    )

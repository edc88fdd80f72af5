# SPDX-License-Identifier: Apache-2.0
"""A module's file as memory: its sections laid out and relocated as the module loader would do it.

In: the bytes of a .ko, the kernel it is for, and what it may import. Out: a `MemorySource` that holds that
kernel and the module, at addresses of our choosing, behind the kernel and within reach of its branches. So
run-pre matching needs no rule of its own for modules, and nothing has to be loaded.

Nothing has run in it: alternatives, calls for tracers and jump labels are as the file has them. Of a module
in use that a live patch has changed, the sections lie where that kernel has them, so that the live patch's
code, which refers to them, can be matched too; what a module writes to is then as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType

from kdiff.addressbook import KERNEL, AddressBook
from kdiff.arch import Architecture, Howto
from kdiff.elf.image import note_build_id
from kdiff.elf.read import (
    RESERVED,
    SHF_ALLOC,
    SHF_WRITE,
    SHN_ABS,
    SHT_NOBITS,
    STB_WEAK,
    Object,
    read_bytes,
)
from kdiff.errors import KdiffError
from kdiff.exports import Export
from kdiff.kernel import KernelFacts, ModuleIdentity
from kdiff.memory import Extent, MemorySource
from kdiff.module_listing import BOOT, listing, sections_in_use
from kdiff.values import dataclass

_PAGE = 1 << 12
_GAP = 16 << 20
"""Bytes between the kernel and where its modules are put."""
_PER_CPU = ".data..percpu"
"""Its addresses are offsets into each processor's area (include/asm-generic/percpu.h)."""
_PER_CPU_START = 1 << 20
"""Where we put it; the kernel's own area ends below."""
_IMPORT = 16
"""Bytes we set aside for each symbol of another module."""

Line = tuple[str, int, str, str]
"""(name, address, kind, owner) as an `AddressBook` takes them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something of a module lies, in a form that holds wherever it is loaded."""

    section: str
    offset: int

    @property
    def per_cpu(self) -> bool:
        """Whether the offset counts from the module's share of each processor's own area."""
        return self.section == _PER_CPU


class LoadedModule:
    """A kernel and one module in it; satisfies `MemorySource`."""

    def __init__(
        self,
        kernel: MemorySource,
        identity: ModuleIdentity,
        obj: Object,
        arch: Architecture,
        sections: Mapping[int, int],
        symbols: tuple[int, ...],
        book: AddressBook,
        in_use: bool = False,
    ) -> None:
        """`sections`: index -> address; `symbols`: the address of each; `in_use`: where the kernel has it."""
        self.name = f"{obj.path} as loaded into {kernel.name}"
        self.identity = identity
        self.file = obj
        self._kernel, self._object, self._arch = kernel, obj, arch
        self._sections, self._symbols, self._book = sections, symbols, book
        self._contents: dict[int, bytes] = {}
        self.pristine = not in_use

    def address_book(self) -> AddressBook:
        """The kernel's symbols, the module's, and those of other modules that it imports."""
        return self._book

    def facts(self) -> KernelFacts:
        """The kernel's."""
        return self._kernel.facts()

    def read(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes of the module's sections, or of the kernel."""
        index = self._section_at(address, size)
        if index is None or (self._object.sections["flags"][index] & SHF_WRITE and not self.pristine):
            return self._kernel.read(address, size)
        if index not in self._contents:
            self._contents[index] = self._relocated(index)
        start = address - self._sections[index]
        return self._contents[index][start : start + size]

    def extents(self) -> tuple[Extent, ...]:
        """The module's sections and what the kernel has."""
        sizes, flags = (self._object.sections[name] for name in ("size", "flags"))
        own = (
            Extent(start, int(sizes[index]), bool(flags[index] & SHF_WRITE))
            for index, start in self._sections.items()
        )
        return tuple(sorted((*own, *self._kernel.extents()), key=lambda each: each.address))

    def place(self, address: int) -> Place | None:
        """The section of the module that an address is in, None if it is in none."""
        index = self._section_at(address, 0)
        if index is None:
            return None
        return Place(self._object.section_name(index), address - self._sections[index])

    @cached_property
    def boot_names(self) -> frozenset[str]:
        """Names in sections that are gone once the module runs; until then kallsyms lists them too."""
        obj = self._object
        boot = {i for i in self._sections if obj.section_name(i).startswith(BOOT)}
        homes = enumerate(obj.symbols["section"].tolist())
        return frozenset(obj.symbol_name(index) for index, home in homes if home in boot)

    def _section_at(self, address: int, size: int) -> int | None:
        if not self._span[0] <= address < self._span[1] and not self._per_cpu(address):
            return None
        ends = None
        for index, start in self._sections.items():
            stop = start + int(self._object.sections["size"][index])
            if start <= address and address + size <= stop:
                if address < stop:
                    return index
                ends = index if ends is None else ends
        return ends

    @cached_property
    def _span(self) -> tuple[int, int]:
        names = self._object.section_name
        spans = [
            (start, start + int(self._object.sections["size"][index]))
            for index, start in self._sections.items()
            if names(index) != _PER_CPU
        ]
        return min((a for a, _ in spans), default=0), max((b for _, b in spans), default=0)

    def _per_cpu(self, address: int) -> bool:
        return any(
            start <= address < start + int(self._object.sections["size"][index])
            for index, start in self._sections.items()
            if self._object.section_name(index) == _PER_CPU
        )

    def _relocated(self, index: int) -> bytes:
        obj, arch = self._object, self._arch
        if obj.sections["type"][index] == SHT_NOBITS:
            return bytes(int(obj.sections["size"][index]))
        data = bytearray(obj.contents(index))
        for _, offset, type_, symbol, addend, implicit in obj.records(index).rows():
            howto = self._howto(type_, index, offset)
            if not howto.size:
                continue
            field = bytes(data[offset : offset + howto.size])
            addend += howto.addend(field, arch.byte_order) if implicit else 0
            place = self._sections[index] + offset
            value = howto.value(self._symbols[symbol] + addend, place, arch.elf_class)
            try:
                data[offset : offset + howto.size] = howto.insert(field, value, arch.byte_order)
            except OverflowError as error:
                raise self._unfit(index, offset, str(error)) from error
        return bytes(data)

    def _howto(self, type_: int, index: int, offset: int) -> Howto:
        howto = self._arch.howtos.get(type_)
        if howto is None:
            raise self._unfit(index, offset, f"relocation type {type_} is unknown")
        if (
            howto.slot
            or howto.base
            or howto.entry
            or howto.partner is not None
            or howto.labelled
            or howto.stack
        ):
            raise self._unfit(index, offset, f"{howto.name} needs what only the module loader can make")
        return howto

    def _unfit(self, index: int, offset: int, why: str) -> KdiffError:
        return KdiffError(
            "module.relocation",
            f"the module cannot be laid out: {why}",
            place=f"{self._object.path}: {self._object.section_name(index)}+{offset:#x}",
            remedy="modules of this architecture cannot be updated yet",
        )


def load(
    kernel: MemorySource,
    name: str,
    data: bytes,
    path: str,
    architecture: Callable[[Object], Architecture],
    exports: Mapping[str, Export],
    file_of: Callable[[str], tuple[bytes, str]],
    in_use: bool = False,
) -> LoadedModule:
    """Lay out module `name`. `file_of`: contents and path of another module by name.

    `in_use`: where the kernel, which has loaded it, has it; sections without symbols are put elsewhere still.
    KdiffError `module.*` if the file is no module, is not for this kernel or imports what nobody exports.
    """
    obj = read_bytes(data, path)
    identity = identify(obj, name)
    release = kernel.facts().release
    if release and identity.release != release:
        raise KdiffError(
            "module.other_kernel",
            f"the module is for kernel {identity.release or 'unknown'}, the image is {release}",
            place=path,
            remedy="use the modules of the kernel's own package",
        )
    live = kernel.address_book()
    book = live.only(KERNEL)  # a live kernel may have the module already
    entries = tuple(each for each in live.entries if each.owner == name) if in_use else ()
    known = sections_in_use(obj, entries, name) if in_use else {}
    start = _behind(book)
    sections = _lay_out(obj, start, known)
    ends = (at + int(obj.sections["size"][i]) for i, at in sections.items() if at >= start and i not in known)
    end = max(ends, default=start)
    imports = _Imports(book, exports, name, file_of, _rounded(end, _PAGE), live if in_use else None)
    symbols = tuple(_addresses(obj, sections, imports))
    lines = ((row.name, sections[row.section] + row.offset, row.letter, name) for row in listing(obj))
    book = book.joined((*lines, *imports.lines))
    if in_use:
        _check_room(live, start, end, path)
        book = book.beside(live)
    return LoadedModule(
        kernel, identity, obj, architecture(obj), MappingProxyType(sections), symbols, book, in_use
    )


def identify(obj: Object, name: str) -> ModuleIdentity:
    """Read off an object that is a module which build it is; KdiffError `module.none` if it is no module."""
    info: dict[str, str] = {}
    build_id = ""
    for index in range(1, len(obj.sections)):
        section = obj.section_name(index)
        if section == ".modinfo":
            for line in bytes(obj.contents(index)).split(b"\0"):
                key, _, value = line.decode("utf-8", "replace").partition("=")
                info.setdefault(key, value)
        elif section == ".note.gnu.build-id":
            build_id = note_build_id(bytes(obj.contents(index)), obj.byte_order)
    if "vermagic" not in info:
        raise KdiffError(
            "module.none", "is no module of a kernel: it has no vermagic", place=obj.path,
            remedy="use the modules of the kernel's own package",
        )  # fmt: skip
    return ModuleIdentity(name, build_id, info.get("srcversion", ""), info["vermagic"].partition(" ")[0])


class _Imports:
    """Finds what a module does not define; symbols of other modules get addresses of our choosing."""

    def __init__(
        self,
        book: AddressBook,
        exports: Mapping[str, Export],
        importer: str,
        file_of: Callable[[str], tuple[bytes, str]],
        start: int,
        live: AddressBook | None,
    ) -> None:
        """`live`: of a kernel that has those other modules."""
        self.live = live
        self.book, self.exports, self.importer, self.file_of = book, exports, importer, file_of
        self.lines: list[Line] = []
        self._next = start
        self._known: dict[str, int] = {}
        self._others: dict[str, tuple[str, Mapping[str, list[str]]]] = {}

    def address(self, name: str, weak: bool, path: str) -> int:
        """Where an undefined symbol leads."""
        if name not in self._known:
            self._known[name] = self._found(name, weak, path)
        return self._known[name]

    def _found(self, name: str, weak: bool, path: str) -> int:
        export = self.exports.get(name)
        if export is not None and export.owner not in (KERNEL, self.importer):
            return self._elsewhere(name, export.owner)
        if export is not None:
            entries = [each for each in self.book.named(name) if each.kind.isupper()]
            if len(entries) == 1:
                return entries[0].address
        elif weak:
            return 0
        raise KdiffError(
            "module.import",
            f"the module imports {name}, which this kernel does not export",
            place=path,
            remedy="use the modules and headers of the kernel's own packages",
        )

    def _elsewhere(self, name: str, owner: str) -> int:
        """A place for every symbol of that name in the other module, in its order: set aside, or its own."""
        path, kinds = self._defined_by(owner)
        listed = kinds.get(name, [])
        places = [self._next + number * _IMPORT for number in range(len(listed))]
        self._next += len(listed) * _IMPORT
        if self.live is not None:
            places = [each.address for each in self.live.named(name, owner)]
        found = 0
        for place, kind in zip(places, listed, strict=False):
            self.lines.append((name, place, kind, owner))
            found = place if kind.isupper() else found
        if not found or len(places) != len(listed):
            raise KdiffError(
                "module.import",
                f"{owner} exports {name} and does not define it, or is loaded from another file",
                place=path,
                remedy="use the modules and headers of the kernel's own packages",
            )
        return found

    def _defined_by(self, owner: str) -> tuple[str, Mapping[str, list[str]]]:
        """The path of another module, and the kinds of its symbols by name."""
        if owner not in self._others:
            data, path = self.file_of(owner)
            kinds: dict[str, list[str]] = {}
            for row in listing(read_bytes(data, path)):
                kinds.setdefault(row.name, []).append(row.letter)
            self._others[owner] = path, kinds
        return self._others[owner]


def _behind(book: AddressBook) -> int:
    end = book.address("_end")
    if end is None:
        raise KdiffError("module.kernel", "kallsyms does not list _end exactly once")
    return _rounded(end, _PAGE) + _GAP


def _rounded(value: int, step: int) -> int:
    return value + -value % step


def _check_room(live: AddressBook, start: int, end: int, path: str) -> None:
    """What we put at addresses of our choosing must not be where the kernel has something."""
    taken = next((each for each in live.entries if start - _GAP // 2 < each.address < end + _GAP), None)
    if taken is not None:
        raise KdiffError(
            "module.room",
            f"{taken.name} of {taken.owner} is where the module's nameless sections would be put",
            place=path,
            remedy="take the memory of a machine whose kernel lies elsewhere (boot it again)",
        )


def _lay_out(obj: Object, start: int, known: Mapping[int, int]) -> dict[int, int]:
    """An address for each section that is loaded, in the order of the file; `known`: those that have one.

    Between two is a gap: the address behind the end of one, which code may refer to, is not in the next.
    """
    placed = {}
    for index in range(1, len(obj.sections)):
        section = obj.sections[index]
        if not section["flags"] & SHF_ALLOC:
            continue
        if index in known or obj.section_name(index) == _PER_CPU:
            placed[index] = known.get(index, _PER_CPU_START)
            continue
        start = _rounded(start, max(int(section["align"]), 1))
        placed[index] = start
        start += int(section["size"]) + 1
    return placed


def _addresses(obj: Object, sections: Mapping[int, int], imports: _Imports) -> Iterator[int]:
    """The address of each symbol; 0 for one in a section that is not loaded."""
    columns = (obj.symbols[name].tolist() for name in ("section", "value", "binding"))
    for index, (home, value, binding) in enumerate(zip(*columns, strict=True)):
        if home == SHN_ABS + RESERVED:
            yield value
        elif home:
            yield sections[home] + value if home in sections else 0
        elif index and obj.symbol_name(index):
            yield imports.address(obj.symbol_name(index), binding == STB_WEAK, obj.path)
        else:
            yield 0

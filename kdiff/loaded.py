# SPDX-License-Identifier: Apache-2.0
"""A module's file as memory: its sections laid out and relocated as the module loader would do it.

In: the bytes of a .ko, the kernel it is for, and what it may import. Out: a `MemorySource` that holds that
kernel and the module, at addresses of our choosing, behind the kernel and within reach of its branches. So
run-pre matching needs no rule of its own for modules, and nothing has to be loaded.

Nothing has run in it: alternatives, calls for tracers and jump labels are as the file has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType

from kdiff.addressbook import KERNEL, AddressBook
from kdiff.arch import Architecture, Howto
from kdiff.elf.image import note_build_id
from kdiff.elf.read import (
    RESERVED,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHN_ABS,
    SHT_NOBITS,
    STB_LOCAL,
    STB_WEAK,
    STT_FILE,
    STT_SECTION,
    Object,
    read_bytes,
)
from kdiff.errors import KdiffError
from kdiff.exports import Export
from kdiff.kernel import KernelFacts, ModuleIdentity
from kdiff.memory import Extent, MemorySource
from kdiff.values import dataclass

_PAGE = 1 << 12
_GAP = 16 << 20
"""Bytes between the kernel and where its modules are put."""
_PER_CPU = ".data..percpu"
"""Its addresses are offsets into each processor's area (include/asm-generic/percpu.h)."""
_PER_CPU_START = 1 << 20
"""Where we put it; the kernel's own area ends below."""
_BOOT = ".init"
"""How the names of sections begin that are gone once a module runs (kernel/module/main.c)."""
_UNLOADED = (".modinfo", "__versions")
"""Marked to be loaded, and not loaded (rewrite_section_headers, kernel/module/main.c)."""
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

    pristine = True

    def __init__(
        self,
        kernel: MemorySource,
        identity: ModuleIdentity,
        obj: Object,
        arch: Architecture,
        sections: Mapping[int, int],
        symbols: tuple[int, ...],
        book: AddressBook,
    ) -> None:
        """`sections`: index -> address; `symbols`: the address of each."""
        self.name = f"{obj.path} as loaded into {kernel.name}"
        self.identity = identity
        self._kernel, self._object, self._arch = kernel, obj, arch
        self._sections, self._symbols, self._book = sections, symbols, book
        self._contents: dict[int, bytes] = {}

    def address_book(self) -> AddressBook:
        """The kernel's symbols, the module's, and those of other modules that it imports."""
        return self._book

    def facts(self) -> KernelFacts:
        """The kernel's."""
        return self._kernel.facts()

    def read(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes of the module's sections, or of the kernel."""
        index = self._section_at(address, size)
        if index is None:
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
        boot = {i for i in self._sections if obj.section_name(i).startswith(_BOOT)}
        homes = enumerate(obj.symbols["section"].tolist())
        return frozenset(obj.symbol_name(index) for index, home in homes if home in boot)

    def _section_at(self, address: int, size: int) -> int | None:
        if not self._span[0] <= address < self._span[1] and not self._per_cpu(address):
            return None
        for index, start in self._sections.items():
            if start <= address and address + size <= start + int(self._object.sections["size"][index]):
                return index
        return None

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
            if start == _PER_CPU_START
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
) -> LoadedModule:
    """Lay out module `name`. `file_of`: contents and path of another module by name.

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
    book = kernel.address_book().only(KERNEL)  # a live kernel may have the module already
    start = _behind(book)
    sections = _lay_out(obj, start)
    end = max((at + int(obj.sections["size"][i]) for i, at in sections.items() if at >= start), default=start)
    imports = _Imports(book, exports, name, file_of, _rounded(end, _PAGE))
    symbols = tuple(_addresses(obj, sections, imports))
    lines = (*_listed(obj, sections, name), *imports.lines)
    return LoadedModule(
        kernel, identity, obj, architecture(obj), MappingProxyType(sections), symbols, book.joined(lines)
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
    ) -> None:
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
        """Set room aside for every symbol of that name in the other module, in its order."""
        path, kinds = self._defined_by(owner)
        found = 0
        for kind in kinds.get(name, ()):
            self.lines.append((name, self._next, kind, owner))
            found = self._next if kind.isupper() else found
            self._next += _IMPORT
        if not found:
            raise KdiffError(
                "module.import",
                f"{owner} exports {name} and does not define it",
                place=path,
                remedy="use the modules and headers of the kernel's own packages",
            )
        return found

    def _defined_by(self, owner: str) -> tuple[str, Mapping[str, list[str]]]:
        """The path of another module, and the kinds of its symbols by name."""
        if owner not in self._others:
            data, path = self.file_of(owner)
            kinds: dict[str, list[str]] = {}
            for name, _, kind, _ in _listed(read_bytes(data, path), None, owner):
                kinds.setdefault(name, []).append(kind)
            self._others[owner] = path, kinds
        return self._others[owner]


def _behind(book: AddressBook) -> int:
    end = book.address("_end")
    if end is None:
        raise KdiffError("module.kernel", "kallsyms does not list _end exactly once")
    return _rounded(end, _PAGE) + _GAP


def _rounded(value: int, step: int) -> int:
    return value + -value % step


def _lay_out(obj: Object, start: int) -> dict[int, int]:
    """An address for each section that is loaded, in the order of the file.

    Between two is a gap: the address behind the end of one, which code may refer to, is not in the next.
    """
    placed = {}
    for index in range(1, len(obj.sections)):
        section = obj.sections[index]
        if not section["flags"] & SHF_ALLOC:
            continue
        if obj.section_name(index) == _PER_CPU:
            placed[index] = _PER_CPU_START
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


def _listed(obj: Object, sections: Mapping[int, int] | None, owner: str) -> Iterable[Line]:
    """What kallsyms shows of a module: named symbols of loaded sections, in the order of the symbol table.

    kernel/module/kallsyms.c, is_core_symbol() and module_get_kallsym() under CONFIG_KALLSYMS_ALL. Without
    `sections` addresses are 0.
    """
    letters = [_letter(obj, index) for index in range(len(obj.sections))]
    columns = (obj.symbols[name].tolist() for name in ("section", "value", "type", "binding"))
    for index, (home, value, type_, binding) in enumerate(zip(*columns, strict=True)):
        if type_ in (STT_FILE, STT_SECTION) or not 0 < home < len(letters) or not letters[home]:
            continue
        name = obj.symbol_name(index)
        if name:
            letter = letters[home] if binding == STB_LOCAL else letters[home].upper()
            yield name, sections[home] + value if sections is not None else 0, letter, owner


def _letter(obj: Object, index: int) -> str:
    """What nm prints for local symbols of a section; empty where kallsyms leaves them out."""
    section, name = obj.sections[index], obj.section_name(index)
    if not section["flags"] & SHF_ALLOC or name.startswith(_BOOT) or name in _UNLOADED:
        return ""
    if section["flags"] & SHF_EXECINSTR:
        return "t"
    if section["type"] == SHT_NOBITS:
        return "b"
    return "d" if section["flags"] & SHF_WRITE else "r"

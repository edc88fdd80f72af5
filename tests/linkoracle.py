# SPDX-License-Identifier: Apache-2.0
"""What another architecture's own compiler and linker do, as the oracle of its plugin's rows.

    CROSS = Cross(ARCHITECTURE, "aarch64-linux-gnu-", ("-mgeneral-regs-only",))
    assert not mismatches(link(CROSS, compiled(CROSS, UNIT)))

`link` lays each section of the object at an address of its own and binds what it leaves undefined, and `ld`
stores the fields. `fields` computes the same from kdiff's graph: each reference's target and addend, through
the reference's howto. Sections are linked as they are: none is merged.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import lief
import pytest
from compiled import HABITS

from kdiff.arch import Architecture
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.elf.read import SHF_ALLOC, SHF_MERGE, SHF_STRINGS, SHT_NOBITS, Object, read_bytes
from kdiff.graph import Reference, SectionGraph, build
from kdiff.split import Kind

FLAGS = (
    *("-O2", "-ffreestanding", "-std=gnu11", "-w", "-fno-common", "-fno-strict-aliasing", "-fno-pic"),
    *("-fno-pie", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-stack-protector"),
    *("-ffunction-sections", "-fdata-sections"),
)
"""How the kernel compiles on every architecture."""


EDITS = (
    ("return primes[limit % 6];", "return primes[limit % 5];", "choose"),
    ("hits += a; return helper(a + 1);", "hits += a; return helper(a + 2);", "tail"),
    ("return a ^ 0x55;", "return a ^ 0x57;", "weak_one"),
    ("return gauge[3];", "return gauge[4];", "choose"),
    ('"%s: negative"', '"%s: below zero"', "entry"),
    ("return other(1);", "return weak_one(1);", "choose"),
)
"""Edits of `compiled.UNIT` (old, new), and the only function that each changes."""


@dataclass(frozen=True, slots=True)
class Cross:
    """One architecture's tools. `text`, `data`, `externs`: where code, data and undefined symbols go."""

    architecture: Architecture
    prefix: str
    flags: tuple[str, ...]
    text: int
    data: int
    externs: int
    link_flags: tuple[str, ...] = ()
    emulation: str = ""
    """For `ld -m`, where the prefix alone does not say it."""
    compiler: tuple[str, ...] = ()
    """In place of the prefix's gcc: clang and its target."""
    linker: str = ""
    """In place of the prefix's ld."""
    bases: tuple[tuple[str, int], ...] = ()
    """Symbols that the linker places so many bytes behind the start of .got."""

    @property
    def commands(self) -> tuple[str, ...]:
        """The programs that must be installed."""
        compiler = self.compiler[:1] or (f"{self.prefix}gcc", f"{self.prefix}as")
        return (*compiler, self.linker or f"{self.prefix}ld")


@dataclass(frozen=True, slots=True)
class Linked:
    """A linked object: its graph, the address of each section by index, and what the linker wrote there."""

    graph: SectionGraph
    addresses: Mapping[int, int]
    contents: Mapping[int, bytes]
    externs: Mapping[str, int]
    slots: Mapping[int, int]
    """Addresses of the pointers that the linker made, by what they point to."""

    def address(self, node: int) -> int:
        found = self.graph.nodes[node]
        if found.kind is Kind.EXTERN:
            return self.externs[found.name]
        return self.addresses[found.section] + found.start


@dataclass(frozen=True, slots=True)
class FieldCheck:
    """One field: the container as the compiler left it, as kdiff fills it, as the linker filled it."""

    where: str
    reference: Reference
    value: int
    place: int
    before: bytes
    ours: bytes
    linker: bytes


def needs(cross: Cross) -> pytest.MarkDecorator:
    """Skip where this architecture's compiler or linker is not installed."""
    missing = [tool for tool in cross.commands if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@cache
def compiled(cross: Cross, text: str, *options: str, language: str = "c") -> bytes:
    """The bytes of the object that the architecture's gcc makes of C (or `language="assembler"`)."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "unit.o"
        command = [*(cross.compiler or (f"{cross.prefix}gcc",)), *FLAGS, *cross.flags, *options]
        _run([*command, "-x", language, "-c", "-o", str(path), "-"], text)
        return path.read_bytes()


def graph(cross: Cross, data: bytes) -> SectionGraph:
    return build(read_bytes(data, "unit.o"), cross.architecture, {}, HABITS)


def link(cross: Cross, data: bytes, externs: Mapping[str, int] | None = None) -> Linked:
    """Link one object at known addresses; `externs` places undefined symbols that the caller cares for."""
    data = _unmerged(data)
    found = graph(cross, data)
    obj = found.obj
    addresses = _layout(cross, obj)
    numbers = [index for index in range(1, len(obj.symbols)) if not obj.symbols["section"][index]]
    names = {node.name for node in found.nodes if node.kind is Kind.EXTERN}
    undefined = sorted(({obj.symbol_name(index) for index in numbers} | names) - {""})
    places = {name: cross.externs + 0x40 * index for index, name in enumerate(undefined)}
    places.update(externs or {})
    got = (max(addresses.values()) + 0x20000) & ~0xFF
    places.update({name: got + way for name, way in cross.bases})
    lines = [f"{name} = {places[name]:#x};" for name in undefined]
    lines.append("SECTIONS {")
    lines += [f".o{index} {at:#x} : {{ *({obj.section_name(index)}) }}" for index, at in addresses.items()]
    lines.append(f".got {got:#x} : {{ *(.got.plt) *(.got) }}")
    lines.append("}" if "lld" in cross.linker else "/DISCARD/ : { *(*) } }")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "unit.o").write_bytes(data)
        (folder / "script").write_text("\n".join(lines) + "\n")
        emulation = ("-m", cross.emulation) if cross.emulation else ()
        command = [cross.linker or f"{cross.prefix}ld", *emulation, "-static", "--build-id=none"]
        _run([*command, *cross.link_flags, "-T", "script", "-o", "image", "unit.o"], cwd=folder)
        image = lief.ELF.parse(str(folder / "image"))
        assert image is not None
        contents = {
            index: bytes(section.content)
            for index, at in addresses.items()
            if (section := image.get_section(f".o{index}")) is not None and section.virtual_address == at
        }
        pointers = slots(found.arch, image.get_section(".got"))
    return Linked(found, addresses, contents, places, pointers)


def fields(linked: Linked) -> Iterator[FieldCheck]:
    """Every field of every stored section, computed from the graph and read from the linker's output.

    Not those of instructions that the linker changed because a symbol is near: they need no slot any more.
    """
    found = linked.graph
    order = found.arch.byte_order
    for node in found.nodes:
        if node.kind is Kind.EXTERN or found.obj.sections["type"][node.section] == SHT_NOBITS:
            continue
        for reference in found.references[node.id]:
            howto = reference.howto
            if not howto.fields:
                continue
            start = node.start + reference.offset
            place = linked.addresses[node.section] + start
            before = bytes(found.obj.contents(node.section)[start : start + howto.size])
            target = linked.address(reference.target) + reference.addend
            if howto.slot:
                if target not in linked.slots:
                    continue
                target = linked.slots[target]
            if reference.minus is not None:
                target -= linked.address(reference.minus[0]) + reference.minus[1]
            target += reference.insn_addend + reference.entry
            value = howto.value(target, place, found.arch.elf_class)
            linker = linked.contents[node.section][start : start + howto.size]
            ours = howto.insert(before, value, order)
            where = f"{found.where(node, reference.offset)} {howto.name}"
            yield FieldCheck(where, reference, value, place, before, ours, linker)


def mismatches(linked: Linked) -> list[str]:
    """A line for each field that kdiff fills otherwise than the linker does."""
    return [
        f"{each.where}: value {each.value:#x} at {each.place:#x}: kdiff stores {each.ours.hex()},"
        f" the linker {each.linker.hex()}"
        for each in fields(linked)
        if each.ours != each.linker
    ]


def changed_functions(before: SectionGraph, after: SectionGraph) -> list[str]:
    """Labels of the functions that changed, or that only one of the graphs has."""
    delta = diff(before, after, correlate(before, after))
    found = [after.nodes[each] for each in (*(change.post for change in delta.changed), *delta.added)]
    found += [before.nodes[each] for each in delta.removed]
    return sorted(node.label for node in found if node.kind is Kind.FUNCTION)


def differs(before: SectionGraph, after: SectionGraph) -> bool:
    """Whether anything at all changed."""
    delta = diff(before, after, correlate(before, after))
    return bool(delta.changed or delta.added or delta.removed)


def howtos_used(linked: Linked) -> set[str]:
    """The names of the relocation types the object has."""
    return {each.howto.name for row in linked.graph.references for each in row}


def slots(arch: Architecture, section: lief.ELF.Section | None) -> dict[int, int]:
    """Addresses of the pointers in a section, by what they point to."""
    if section is None:
        return {}
    data, size = bytes(section.content), arch.elf_class // 8
    return {
        int.from_bytes(data[at : at + size], arch.byte_order): section.virtual_address + at
        for at in range(0, len(data), size)
    }


def _layout(cross: Cross, obj: Object) -> dict[int, int]:
    at = {True: cross.text, False: cross.data}
    addresses: dict[int, int] = {}
    for index, section in enumerate(obj.sections):
        if not section["flags"] & SHF_ALLOC:
            continue
        code = bool(section["flags"] & 4)
        align = max(int(section["align"]), 1)
        addresses[index] = (at[code] + align - 1) // align * align
        if section["size"]:
            # Not a multiple of anything large: every bit of a page offset is then worth checking.
            at[code] = addresses[index] + int(section["size"]) + 0x1128
    return addresses


def _unmerged(data: bytes) -> bytes:
    """The same object without SHF_MERGE: the linker must not move what is inside of a section."""
    obj = read_bytes(data)
    wide = obj.elf_class == 64
    shoff = int.from_bytes(data[0x28:0x30] if wide else data[0x20:0x24], obj.byte_order)
    entry, width = (64, 8) if wide else (40, 4)
    changed = bytearray(data)
    for index, section in enumerate(obj.sections):
        at = shoff + index * entry + 8
        flags = int(section["flags"]) & ~(SHF_MERGE | SHF_STRINGS)
        changed[at : at + width] = flags.to_bytes(width, obj.byte_order)
    return bytes(changed)


def _run(command: list[str], text: str = "", cwd: Path | None = None) -> None:
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False, cwd=cwd)
    assert not done.returncode, f"{' '.join(command)}\n{done.stderr.decode()}"

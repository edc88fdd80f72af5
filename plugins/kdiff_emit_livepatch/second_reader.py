# SPDX-License-Identifier: Apache-2.0
"""Read the finished module with another ELF reader, as the kernel's module loader would.

What is looked at: modinfo, undefined symbols against Module.symvers and `__versions`, the livepatch symbols,
the number of relocations of each section, which must be those of the module as it was linked, and on x86-64
whether what they write to is empty.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping

from kdiff.api import (
    Export,
    How,
    KdiffError,
    KernelFacts,
    ModuleDescription,
    Update,
    Workshop,
    describe_module,
    module_name,
    read_symvers,
)
from kdiff_emit_livepatch.convert import (
    SHF_ALLOC,
    SHF_RELA_LIVEPATCH,
    late_section,
    livepatch_name,
    looked_up,
)
from kdiff_emit_livepatch.review import EM_X86_64, LOADED_TYPES

SHT_RELA = 4
X86_64_WIDE = (1, 24)
"""R_X86_64_64 and R_X86_64_PC64; what else a module may have is 4 bytes wide (arch/x86/kernel/module.c)."""
MODVERSION = 64
"""sizeof(struct modversion_info): an unsigned long, then the name (include/linux/module.h)."""


def check(data: bytes, linked: bytes, update: Update, facts: KernelFacts, shop: Workshop) -> None:
    """Raise KdiffError `emit.vermagic`, or `emit.module` with everything that is wrong with module `data`."""
    name = module_name(update.id)
    seen = describe_module(data, name)
    vermagic = seen.modinfo.get("vermagic", ())
    release = vermagic[0].split(" ")[0] if vermagic else "an unknown kernel"
    if facts.release and release != facts.release:
        raise KdiffError(
            "emit.vermagic",
            f"the kernel headers make modules for {release}, the kernel is {facts.release}",
            place=str(shop.headers),
            remedy="let `build` in the configuration directory be the headers of that kernel",
        )
    exports = read_symvers(shop.headers / "Module.symvers")
    problems = [
        *_wrong_modinfo(seen, name),
        *_wrong_symbols(seen, update),
        *_wrong_versions(seen.undefined, versions(data, seen, update), exports),
        *_wrong_relocations(
            seen,
            describe_module(linked, name),
            data[4] == 2,
            {each.needed_by for each in looked_up(update)},
        ),
        *_not_loaded(seen, data),
    ]
    if problems:
        raise KdiffError(
            "emit.module", "; ".join(problems), place=name, remedy="report this as a defect of kdiff"
        )


def _wrong_modinfo(seen: ModuleDescription, name: str) -> Iterator[str]:
    for key, value in (("livepatch", "Y"), ("license", "GPL"), ("name", name)):
        if seen.modinfo.get(key) != (value,):
            yield f"modinfo has {key}={','.join(seen.modinfo.get(key, ())) or 'nothing'}, not {value}"


def _wrong_symbols(seen: ModuleDescription, update: Update) -> Iterator[str]:
    wanted = sorted(map(livepatch_name, looked_up(update)))
    if sorted(seen.livepatch) != wanted:
        yield f"livepatch symbols are [{', '.join(seen.livepatch)}], not [{', '.join(wanted)}]"
    missing = {each.symbol for each in update.borrowed if each.how is How.EXPORT} - set(seen.undefined)
    for name in sorted(missing):
        yield f"{name} is not looked up among the exports"


def _wrong_versions(
    undefined: tuple[str, ...], recorded: Mapping[str, int], exports: Mapping[str, Export]
) -> Iterator[str]:
    """Every undefined symbol is an export that needs no import, with the type it had for the kernel."""
    for name in undefined:
        export = exports.get(name)
        if export is None:
            yield f"{name} is undefined and not exported by the kernel"
        elif export.namespace:
            yield f"{name} is exported in namespace {export.namespace} only"
        elif export.crc and recorded.get(name) != export.crc:
            yield f"{name} has no version CRC, or another than {export.crc:#010x}"


def versions(data: bytes, seen: ModuleDescription, update: Update) -> dict[str, int]:
    """The CRCs in `__versions` by symbol name."""
    order = "<" if update.carried.byte_order == "little" else ">"
    word = update.carried.elf_class // 8
    record = struct.Struct(f"{order}{'Q' if word == 8 else 'I'}{MODVERSION - word}s")
    found: dict[str, int] = {}
    for section in seen.sections:
        if section.name == "__versions" and section.size % record.size == 0:
            table = data[section.offset : section.offset + section.size]
            found |= {name.split(b"\0")[0].decode(): crc for crc, name in record.iter_unpack(table)}
    return found


def _wrong_relocations(
    seen: ModuleDescription, linked: ModuleDescription, wide: bool, wanted: set[str]
) -> Iterator[str]:
    """Conversion loses no relocation, and livepatch's tables hold exactly those of livepatch's symbols.

    `wanted`: the kernel and modules whose tables there must be.
    """
    loaded = {section.name for section in linked.sections if section.flags & SHF_ALLOC}
    before = Counter(each.section for each in linked.relocations if each.section in loaded)
    after = Counter(each.section for each in seen.relocations)
    for name in sorted(before.keys() | after.keys()):
        if before[name] != after[name]:
            yield f"{name} had {before[name]} relocations when it was linked and has {after[name]}"
    late = set(seen.livepatch)
    of_livepatch = Counter(each.section for each in seen.relocations if each.symbol in late)
    record = 24 if wide else 12
    tables: Counter[str] = Counter()
    owners = set()
    for table in seen.sections:
        if table.type == SHT_RELA and table.flags & SHF_RELA_LIVEPATCH:
            owner, section = late_section(table.name)
            owners.add(owner)
            tables[section] += table.size // record
    if tables != of_livepatch or owners != wanted:
        wrong = sorted({*((tables - of_livepatch) + (of_livepatch - tables)), *(owners ^ wanted)})
        yield f"{', '.join(wrong)}: not exactly the relocations of livepatch symbols"


def _not_loaded(seen: ModuleDescription, data: bytes) -> Iterator[str]:
    """Relocations that x86-64's loader does not know, or to fields that are not zero, which it refuses."""
    if seen.machine != EM_X86_64:
        return
    begins = {section.name: section.offset for section in seen.sections}
    for each in seen.relocations:
        at = begins[each.section] + each.offset
        if each.type not in LOADED_TYPES[EM_X86_64]:
            yield f"{each.section}+{each.offset:#x} has a relocation of type {each.type}"
        if each.type and any(data[at : at + (8 if each.type in X86_64_WIDE else 4)]):
            yield f"{each.section}+{each.offset:#x}, which is relocated, is not empty"

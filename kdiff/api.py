# SPDX-License-Identifier: Apache-2.0
"""Everything a plugin may import, and the only module of kdiff it may import.

Values that every command needs are imported at once; the rest, when a plugin asks for it by name, so that
nobody waits for what nobody uses. `SectionGraph` and `Plan` are values of stages, for type checking only: a
plugin is handed them and makes none.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kdiff.addressbook import KERNEL, AddressBook, BookEntry
from kdiff.arch import (
    Architecture,
    Architectures,
    Argument,
    BitField,
    Branch,
    ByteOrder,
    ConstantLoad,
    Howto,
    Overflow,
    PageTables,
    Root,
    architecture_of,
)
from kdiff.errors import KdiffError, Refusal
from kdiff.habits import (
    CodeAhead,
    ConstantSection,
    Habit,
    Intrusion,
    LineTaker,
    ReadOnlyMemory,
    RemadeData,
    SectionClass,
    Standing,
)
from kdiff.hookspecs import hookimpl
from kdiff.kernel import (
    Contains,
    EntryView,
    Field,
    Form,
    Holds,
    Keep,
    KernelFacts,
    Listed,
    Literal,
    Meaning,
    Mixed,
    ModuleIdentity,
    OneOf,
    Pad,
    Part,
    Place,
    Shape,
    Site,
    SpecialSection,
    Structure,
    Through,
    ToCode,
    Without,
)
from kdiff.memory import Extent, MemoryScheme, MemorySource, merged

if TYPE_CHECKING:
    from kdiff.btf import structures as btf_structures
    from kdiff.distribution import Distribution, KernelSetup, Say
    from kdiff.elf.image import (
        ElfImage,
        Segment,
        image_sections,
        image_symbols,
        note_build_id,
        notes,
        open_image,
        read_program_headers,
        segment_at,
    )
    from kdiff.elf.model import model as object_model
    from kdiff.elf.read import Object, read_bytes
    from kdiff.elf.second import ModuleDescription, describe_module
    from kdiff.elf.write import NO_SYMBOL, Relocatable, Relocation, RelocationSection, Section, Symbol
    from kdiff.elf.write import write as write_object
    from kdiff.emit import EmittedModule, Emitter, Workshop
    from kdiff.exports import Export, read_symvers
    from kdiff.graph import SectionGraph as SectionGraph
    from kdiff.kallsyms import decode as decode_kallsyms
    from kdiff.kallsyms import parse_text as parse_kallsyms
    from kdiff.live import LiveKernel
    from kdiff.make import failure, run_make
    from kdiff.observe import observe
    from kdiff.paging import Run, Translation, find_kernel
    from kdiff.plan import Plan as Plan
    from kdiff.target.layout import module_file, module_name
    from kdiff.update import Borrowed, How, Replacement, Update

_HOMES = {
    "btf_structures": ("kdiff.btf", "structures"),
    "Distribution": ("kdiff.distribution", "Distribution"),
    "KernelSetup": ("kdiff.distribution", "KernelSetup"),
    "Say": ("kdiff.distribution", "Say"),
    "ElfImage": ("kdiff.elf.image", "ElfImage"),
    "ModuleDescription": ("kdiff.elf.second", "ModuleDescription"),
    "Segment": ("kdiff.elf.image", "Segment"),
    "describe_module": ("kdiff.elf.second", "describe_module"),
    "image_sections": ("kdiff.elf.image", "image_sections"),
    "image_symbols": ("kdiff.elf.image", "image_symbols"),
    "note_build_id": ("kdiff.elf.image", "note_build_id"),
    "notes": ("kdiff.elf.image", "notes"),
    "open_image": ("kdiff.elf.image", "open_image"),
    "read_program_headers": ("kdiff.elf.image", "read_program_headers"),
    "segment_at": ("kdiff.elf.image", "segment_at"),
    "object_model": ("kdiff.elf.model", "model"),
    "Object": ("kdiff.elf.read", "Object"),
    "read_bytes": ("kdiff.elf.read", "read_bytes"),
    "NO_SYMBOL": ("kdiff.elf.write", "NO_SYMBOL"),
    "Relocatable": ("kdiff.elf.write", "Relocatable"),
    "Relocation": ("kdiff.elf.write", "Relocation"),
    "RelocationSection": ("kdiff.elf.write", "RelocationSection"),
    "Section": ("kdiff.elf.write", "Section"),
    "Symbol": ("kdiff.elf.write", "Symbol"),
    "write_object": ("kdiff.elf.write", "write"),
    "EmittedModule": ("kdiff.emit", "EmittedModule"),
    "Emitter": ("kdiff.emit", "Emitter"),
    "Workshop": ("kdiff.emit", "Workshop"),
    "Export": ("kdiff.exports", "Export"),
    "read_symvers": ("kdiff.exports", "read_symvers"),
    "decode_kallsyms": ("kdiff.kallsyms", "decode"),
    "parse_kallsyms": ("kdiff.kallsyms", "parse_text"),
    "LiveKernel": ("kdiff.live", "LiveKernel"),
    "failure": ("kdiff.make", "failure"),
    "run_make": ("kdiff.make", "run_make"),
    "observe": ("kdiff.observe", "observe"),
    "Run": ("kdiff.paging", "Run"),
    "Translation": ("kdiff.paging", "Translation"),
    "find_kernel": ("kdiff.paging", "find_kernel"),
    "module_file": ("kdiff.target.layout", "module_file"),
    "module_name": ("kdiff.target.layout", "module_name"),
    "Borrowed": ("kdiff.update", "Borrowed"),
    "How": ("kdiff.update", "How"),
    "Replacement": ("kdiff.update", "Replacement"),
    "Update": ("kdiff.update", "Update"),
}
"""Name -> the module it lives in, and its name there."""


def __getattr__(name: str) -> object:
    """Import what is asked for the first time."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, there = _HOMES[name]
    found: object = getattr(import_module(home), there)
    globals()[name] = found
    return found


__all__ = [
    "KERNEL",
    "NO_SYMBOL",
    "AddressBook",
    "Architecture",
    "Architectures",
    "Argument",
    "BitField",
    "BookEntry",
    "Borrowed",
    "Branch",
    "ByteOrder",
    "CodeAhead",
    "ConstantLoad",
    "ConstantSection",
    "Contains",
    "Distribution",
    "ElfImage",
    "EmittedModule",
    "Emitter",
    "EntryView",
    "Export",
    "Extent",
    "Field",
    "Form",
    "Habit",
    "Holds",
    "How",
    "Howto",
    "Intrusion",
    "KdiffError",
    "Keep",
    "KernelFacts",
    "KernelSetup",
    "LineTaker",
    "Listed",
    "Literal",
    "LiveKernel",
    "Meaning",
    "MemoryScheme",
    "MemorySource",
    "Mixed",
    "ModuleDescription",
    "ModuleIdentity",
    "Object",
    "OneOf",
    "Overflow",
    "Pad",
    "PageTables",
    "Part",
    "Place",
    "ReadOnlyMemory",
    "Refusal",
    "Relocatable",
    "Relocation",
    "RelocationSection",
    "RemadeData",
    "Replacement",
    "Root",
    "Run",
    "Say",
    "Section",
    "SectionClass",
    "Segment",
    "Shape",
    "Site",
    "SpecialSection",
    "Standing",
    "Structure",
    "Symbol",
    "Through",
    "ToCode",
    "Translation",
    "Update",
    "Without",
    "Workshop",
    "architecture_of",
    "btf_structures",
    "decode_kallsyms",
    "describe_module",
    "failure",
    "find_kernel",
    "hookimpl",
    "image_sections",
    "image_symbols",
    "merged",
    "module_file",
    "module_name",
    "note_build_id",
    "notes",
    "object_model",
    "observe",
    "open_image",
    "parse_kallsyms",
    "read_bytes",
    "read_program_headers",
    "read_symvers",
    "run_make",
    "segment_at",
    "write_object",
]

# SPDX-License-Identifier: Apache-2.0
"""Everything a plugin may import, and the only module of kdiff it may import.

What is imported for type checking only are values of stages: a plugin is handed them and makes none.
"""

from typing import TYPE_CHECKING

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
from kdiff.btf import structures as btf_structures
from kdiff.distribution import Distribution, KernelSetup, Say
from kdiff.elf.image import (
    ElfImage,
    ModuleDescription,
    Segment,
    describe_module,
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
from kdiff.elf.write import NO_SYMBOL, Relocatable, Relocation, RelocationSection, Section, Symbol
from kdiff.elf.write import write as write_object
from kdiff.emit import EmittedModule, Emitter, Workshop
from kdiff.errors import KdiffError, Refusal
from kdiff.exports import Export, read_symvers
from kdiff.habits import (
    CodeAhead,
    ConstantSection,
    Habit,
    Intrusion,
    LineTaker,
    RemadeData,
    SectionClass,
    Standing,
)
from kdiff.hookspecs import hookimpl
from kdiff.kallsyms import decode as decode_kallsyms
from kdiff.kallsyms import parse_text as parse_kallsyms
from kdiff.kernel import (
    KERNEL,
    AddressBook,
    BookEntry,
    EntryView,
    Field,
    Form,
    Holds,
    Keep,
    KernelFacts,
    Listed,
    Literal,
    Meaning,
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
    Without,
)
from kdiff.live import LiveKernel
from kdiff.make import failure, run_make
from kdiff.memory import Extent, MemoryScheme, MemorySource, merged
from kdiff.observe import observe
from kdiff.paging import Run, Translation, find_kernel
from kdiff.target.layout import module_file, module_name
from kdiff.update import Borrowed, How, Replacement, Update

if TYPE_CHECKING:
    from kdiff.graph import SectionGraph as SectionGraph
    from kdiff.plan import Plan as Plan

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
    "ModuleDescription",
    "ModuleIdentity",
    "Object",
    "OneOf",
    "Overflow",
    "Pad",
    "PageTables",
    "Part",
    "Place",
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

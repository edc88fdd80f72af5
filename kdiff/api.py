# SPDX-License-Identifier: Apache-2.0
"""Everything a plugin may import, and the only module of kdiff it may import."""

from kdiff.arch import Architecture, BitField, Branch, ByteOrder, Howto, Overflow
from kdiff.distribution import Distribution, KernelSetup, Say
from kdiff.elf.read import Object, read_bytes
from kdiff.emit import EmittedModule, Emitter, Workshop
from kdiff.errors import KdiffError, Refusal
from kdiff.hookspecs import hookimpl
from kdiff.kernel import (
    AddressBook,
    BookEntry,
    EntryView,
    Field,
    Form,
    Keep,
    KernelFacts,
    Literal,
    OneOf,
    Pad,
    Part,
    Place,
    Site,
    SpecialSection,
    Structure,
    Through,
)
from kdiff.memory import MemoryScheme, MemorySource

__all__ = [
    "AddressBook",
    "Architecture",
    "BitField",
    "BookEntry",
    "Branch",
    "ByteOrder",
    "Distribution",
    "EmittedModule",
    "Emitter",
    "EntryView",
    "Field",
    "Form",
    "Howto",
    "KdiffError",
    "Keep",
    "KernelFacts",
    "KernelSetup",
    "Literal",
    "MemoryScheme",
    "MemorySource",
    "Object",
    "OneOf",
    "Overflow",
    "Pad",
    "Part",
    "Place",
    "Refusal",
    "Say",
    "Site",
    "SpecialSection",
    "Structure",
    "Through",
    "Workshop",
    "hookimpl",
    "read_bytes",
]

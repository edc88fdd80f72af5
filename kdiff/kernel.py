# SPDX-License-Identifier: Apache-2.0
"""What is known of a kernel: observed facts, its special sections and its rewrites.

Nothing here names a kernel feature. A plugin turns facts into `SpecialSection` rows; a row says how a
table is laid out, who owns an entry, and through `sites` what run memory may hold at the place an entry
names instead of the bytes the compiler wrote. Such a permission is a set of forms made of ten parts, so
that the engine, the proof and the machine that is updated compare without knowing any feature by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import field
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple, Protocol

from kdiff.arch import Architecture, Howto
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Structure:
    """Size and member offsets, in bytes, of a kernel structure as its own type information gives them."""

    size: int
    members: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What was observed of a kernel; an empty value means that nothing was found, never a default."""

    release: str = ""
    version: str = ""
    """The text of /proc/version or linux_banner, without the newline."""
    machine: str = ""
    build_id: str = ""
    """GNU build id, lower-case hex."""
    config: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """`CONFIG_` names to values as written in .config (`y`, `m`, `"text"`, `42`); unset names are absent."""
    structures: Mapping[str, Structure] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ModuleIdentity:
    """What tells builds of one module apart; empty where a module does not say."""

    name: str
    build_id: str
    source_version: str
    release: str
    """The kernel it was built for, from its vermagic."""


# What run memory may hold at a site ------------------------------------------------------------------


class Place(NamedTuple):
    """A destination: `offset` bytes into a node of the graph, or into a kernel symbol known by name."""

    node: int | None
    name: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly these bytes."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)


class Field(NamedTuple):
    """A relocated field: it must hold the value of `place` (+ insn_addend) as `howto` stores it.

    `background` holds the container's bits outside the field, which must be equal.
    """

    howto: Howto
    place: Place
    insn_addend: int
    background: bytes

    @property
    def size(self) -> int:
        return self.howto.size


@dataclass(frozen=True, slots=True)
class Through:
    """A field like `Field`, whose destination is the pointer that run memory holds at `place`."""

    howto: Howto
    place: Place
    insn_addend: int

    @property
    def size(self) -> int:
        return self.howto.size


@dataclass(frozen=True, slots=True)
class OneOf:
    """A field like `Field`, whose destination is any of the kernel symbols in `names` (at offset 0)."""

    howto: Howto
    names: tuple[str, ...]
    insn_addend: int

    @property
    def size(self) -> int:
        return self.howto.size


@dataclass(frozen=True, slots=True)
class Listed:
    """A field like `Field`, whose destination is code that the kernel itself made while it runs.

    Its kallsyms lists there a symbol of `owner`, which no module is, whose name begins with `name`.
    """

    howto: Howto
    owner: str
    name: str
    insn_addend: int

    @property
    def size(self) -> int:
        return self.howto.size


@dataclass(frozen=True, slots=True)
class ToCode:
    """A field like `Field`, whose destination holds exactly `code`, wherever that is.

    For code that the kernel makes while it runs and gives no name.
    """

    howto: Howto
    code: bytes
    insn_addend: int

    @property
    def size(self) -> int:
        return self.howto.size


@dataclass(frozen=True, slots=True)
class Pad:
    """`size` bytes of whole no-op instructions of any shape."""

    size: int


@dataclass(frozen=True, slots=True)
class Holds:
    """No bytes, but a condition: memory's pointer at `place` leads to one of the kernel symbols in `names`.

    The empty name stands for a null pointer.
    """

    place: Place
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Contains:
    """No bytes, but a condition: memory at `place` contains `data`."""

    place: Place
    data: bytes

    @property
    def size(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Mixed:
    """The number `data` with the number of the same size that memory has at `place`, by exclusive or.

    `negated`: it is negated before and afterwards.
    """

    data: bytes
    place: Place
    negated: bool = False

    @property
    def size(self) -> int:
        return len(self.data)


Part = Literal | Field | Through | OneOf | Listed | ToCode | Mixed | Pad | Holds | Contains
Form = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """`size` pre bytes at `offset` in a node, and the forms run memory may show instead of them.

    The bytes the compiler wrote are always allowed too. All forms of a site have its size.
    """

    offset: int
    size: int
    rewrite: str
    """The cause, for people and for the proof: `alternative`, `jump_label` ..."""
    forms: tuple[Form, ...]


# Special sections ------------------------------------------------------------------------------------


class EntryView(Protocol):
    """One entry of a special section as its row's functions see it."""

    @property
    def architecture(self) -> Architecture: ...

    @property
    def name(self) -> str:
        """The symbol at the entry's start, empty where there is none."""

    @property
    def section(self) -> str:
        """The name of the entry's section, which says more than its row's where that is of a family."""

    @property
    def data(self) -> bytes:
        """The entry's bytes, fields zero on RELA architectures."""

    def place(self, offset: int) -> Place | None:
        """Where the relocation at `offset` of the entry points, or None if there is none."""

    def code(self, place: Place, size: int) -> bytes:
        """`size` pre bytes at a place inside a node of the graph."""

    def parts(self, place: Place, size: int) -> Form:
        """The same bytes as literals and fields, ready to be used in a form."""

    def next_instruction(self, place: Place) -> int:
        """The length of the instruction at a place in code."""


class Keep(Enum):
    """When an entry travels with an update."""

    OWNER = "owner"
    """If the node that its owner field points into is carried."""
    REFERENCED = "referenced"
    """If a carried node refers to it."""
    ADDED = "added"
    """If the patch adds it: it is not for the kernel but for whoever takes the object (`--extract`)."""
    NEVER = "never"
    """The module loader makes its own, or nobody reads it."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """Why a table's entries cannot change in a running kernel, for a refusal."""

    key: str
    """The refusal's: `review.export_changed`."""
    what: str
    """One entry: `an export`."""
    why: str
    remedy: str
    may_come: bool = False
    """Whether an entry may be added, as nothing in the running kernel can ask for it: it is left out."""


ANY_TABLE = Meaning(
    "review.table_changed", "an entry", "which is only read at boot", "leave the table's entries as they are"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """One layout that a table's entries have had in some kernel, told by where they hold addresses.

    `addresses`: (offset, size) of the fields that hold one in every entry; `others`: of those that hold one
    in some. `named`: offsets of addresses that are always a global symbol's. `least`: the size of the last
    entry, where its padding may be missing. `payload`: as in `SpecialSection`.
    """

    size: int
    addresses: tuple[tuple[int, int], ...]
    others: tuple[tuple[int, int], ...] = ()
    named: tuple[int, ...] = ()
    least: int = 0
    owner: int | None = 0
    ignored: tuple[tuple[int, int], ...] = ()
    counts: tuple[tuple[int, int], ...] = ()
    """As in a `SpecialSection`."""
    payload: int | None = None


Without = Callable[[str, Mapping[str, Set[str]]], str]
"""Rewrites the assembly of a unit. The mapping: functions, and what their entries must not name any more."""


@dataclass(frozen=True, slots=True)
class SpecialSection:
    """A table the kernel reads, one row per entry.

    `entry_size` and offsets are bytes, from the facts of the kernel at hand. `owner` is the offset of
    the field that names the code an entry is about. `parallel` names another special section whose
    entry of the same index owns this one's. `pieces`: sections that are cut where entries point to; a name
    that ends in `*` is a family.
    `compared`: whether a difference in an entry makes its owner a changed function. `meaning`: what to say
    if a patch adds, removes or changes an entry that cannot travel.

    What an object must show for itself if nothing is known of its kernel: `shapes` are the layouts that
    entries have had, of which its relocations must fit one; `structure` is the C type of an entry, for its
    debugging information.
    """

    name: str
    entry_size: int
    """0: unknown, the object must tell."""
    keep: Keep
    owner: int | None = None
    parallel: str = ""
    pieces: tuple[str, ...] = ()
    compared: bool = True
    prefix: bool = False
    """`name` stands for every section whose name begins with it (`.discard.`, `___ksymtab`)."""
    ignored: tuple[tuple[int, int], ...] = ()
    """(offset, size) of fields whose contents are never a difference: line numbers."""
    counts: tuple[tuple[int, int], ...] = ()
    """(offset of an address, offset of the byte that counts what lies there): where the count is 0, the
    address is merely where something else begins."""
    code: bool = False
    """No table but code that the kernel rewrites as a whole: each function is its own entry and owner."""
    sites: Callable[[EntryView], Iterable[Site]] | None = None
    meaning: Meaning = ANY_TABLE
    structure: str = ""
    shapes: tuple[Shape, ...] = ()
    least: int = 0
    """The size of the last entry where its padding is missing; 0: it is as large as all others."""
    payload: int | None = None
    """Offset of the address of code that only the entry needs: perhaps behind the functions of a section."""
    from_start: bool = False
    """Relative addresses count from the entry's start, not from their own field."""
    ahead: bool = False
    """An address in the no-ops in front of a function is about that function, and they travel with it."""
    spare: bool = False
    """An entry may be left out where the kernel could not read it in time: code is right without it."""
    without: Without | None = None
    """For entries the kernel could not read in time: makes code do the same without them."""
    runs: bool = False
    """Entries about one function that lie side by side are one node: nobody asks for a single one."""
    finishes: bool = False
    """By an entry the kernel finishes code once, at boot: new code would stay as it was compiled."""
    opaque: str = ""
    """Set by kdiff: why this object's entries cannot be told apart. The whole table is one node then."""

    @property
    def indirect(self) -> bool:
        """Whether its fields do not simply name what lies where they point to."""
        return bool(self.from_start or self.ahead or self.counts)

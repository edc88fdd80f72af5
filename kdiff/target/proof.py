# SPDX-License-Identifier: Apache-2.0
"""What a machine's memory must hold before an update may be applied to it, as values.

docs/package.md describes the file; proof_reader.py reads it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from kdiff.target.layout import KERNEL

REPLACED = "replaced"
CONTEXT = "context"


class Howto(NamedTuple):
    """How a relocation type stores a value; kdiff.arch.Howto says more."""

    name: str
    size: int
    fields: tuple[tuple[int, int, int], ...]
    """Rows of (bit in the container, bit of the value, number of bits)."""
    overflow: str
    pc_relative: bool

    @property
    def mask(self) -> int:
        return sum(((1 << width) - 1) << lsb for lsb, _, width in self.fields)

    @property
    def span(self) -> int:
        return max(value_lsb + width for _, value_lsb, width in self.fields)


class Symbol(NamedTuple):
    """A place in the kernel, and how to find it in a running one."""

    name: str
    position: int
    """Which of `total` equal names of vmlinux in kallsyms, from 1; 0: only its link address is known."""
    total: int
    address: int
    """Where it was linked."""
    slides: bool
    """Whether it moves with the kernel when that is loaded elsewhere."""
    owner: str = KERNEL
    """The kernel or a module."""
    section: str = ""
    """Of a module: what `address` counts from; if empty, only kallsyms knows where it is."""


class Lit(NamedTuple):
    """Exactly these bytes."""

    data: bytes


class Relocated(NamedTuple):
    """A field that refers to one of `symbols` (+ addend); the bits around it are those of `background`."""

    howto: Howto
    symbols: tuple[int, ...]
    addend: int
    background: bytes


class Through(NamedTuple):
    """A field that refers to where the pointer at `symbol` + `slot` points (+ addend)."""

    howto: Howto
    symbol: int
    slot: int
    addend: int


class Listed(NamedTuple):
    """A field that refers to where kallsyms lists a name of `owner` that begins with `name` (+ addend)."""

    howto: Howto
    owner: str
    name: str
    addend: int


class ToCode(NamedTuple):
    """A field that refers to where exactly `code` is (+ addend)."""

    howto: Howto
    code: bytes
    addend: int


class Mixed(NamedTuple):
    """`data` with what memory has at `symbol` + `slot`, by exclusive or; `negated` before and afterwards."""

    symbol: int
    slot: int
    data: bytes
    negated: bool


class Contains(NamedTuple):
    """No bytes: memory has `data` at `symbol` + `slot`."""

    symbol: int
    slot: int
    data: bytes


class Holds(NamedTuple):
    """No bytes: the pointer at `symbol` + `slot` leads to one of `symbols`; None among them: it is null."""

    symbol: int
    slot: int
    symbols: tuple[int | None, ...]


class Pad(NamedTuple):
    """`size` bytes of whole no-operations."""

    size: int


class Site(NamedTuple):
    """`size` bytes that equal one of `forms`; `rewrite` says why there are several."""

    rewrite: str
    size: int
    forms: tuple[tuple[Plain, ...], ...]


Bytes = Lit | Relocated | Through | Listed | ToCode | Mixed | Pad
Plain = Bytes | Holds | Contains
Part = Plain | Site


class Node(NamedTuple):
    """`size` bytes of code from `symbol` + `offset` on, as the sequence of its parts."""

    name: str
    symbol: int
    offset: int
    size: int
    role: str
    parts: tuple[Part, ...]
    code: int | None = None
    """The symbol where its newest code begins, which a live patch has put in its place."""

    @property
    def start(self) -> int:
        """The symbol from which `offset` counts."""
        return self.symbol if self.code is None else self.code


class Module(NamedTuple):
    """Which build of a module is meant; what is empty is not known.

    `fresh`: it must be loaded after the update and unloaded before that is undone, since with the update its
    data is laid out in another way.
    """

    name: str
    build_id: str
    source_version: str
    fresh: bool = False


class Proof(NamedTuple):
    """What identifies the kernel, and every byte that must be there."""

    release: str
    version: str
    build_id: str
    byte_order: Literal["little", "big"]
    word: int
    """Bytes of a pointer."""
    anchor: int
    """The symbol whose address in kallsyms tells how far the kernel has slid."""
    nops: tuple[bytes, ...]
    symbols: tuple[Symbol, ...]
    nodes: tuple[Node, ...]
    modules: tuple[Module, ...] = ()
    """Those whose code is replaced."""

    @property
    def replaced(self) -> tuple[tuple[str, str, int], ...]:
        """Owner, name and position, as livepatch's sysfs directories have them, of what will be replaced."""
        symbols = (self.symbols[node.symbol] for node in self.nodes if node.role == REPLACED)
        return tuple((symbol.owner, symbol.name, symbol.position) for symbol in symbols)

    @property
    def stacked(self) -> dict[tuple[str, str, int], str]:
        """On whose code the replaced functions stand that a live patch has moved, keyed as in `replaced`."""
        nodes = [each for each in self.nodes if each.role == REPLACED]
        return {
            key: self.symbols[node.code].owner
            for key, node in zip(self.replaced, nodes, strict=True)
            if node.code is not None
        }

    def without(self, awaited: frozenset[str]) -> Proof:
        """What must hold while these modules are not loaded."""
        nodes = tuple(node for node in self.nodes if self.symbols[node.symbol].owner not in awaited)
        return self._replace(nodes=nodes)


def symbols_of(nodes: tuple[Node, ...]) -> frozenset[int]:
    """All symbols that nodes refer to, or begin at."""
    found = {symbol for node in nodes for symbol in (node.symbol, node.start)}
    for node in nodes:
        for part in node.parts:
            for form in part.forms if isinstance(part, Site) else ((part,),):
                for each in form:
                    if isinstance(each, Relocated):
                        found.update(each.symbols)
                    elif isinstance(each, (Through, Holds, Contains, Mixed)):
                        found.add(each.symbol)
                    if isinstance(each, Holds):
                        found.update(symbol for symbol in each.symbols if symbol is not None)
    return frozenset(found)


def size(part: Part) -> int:
    """The number of bytes a part stands for."""
    if isinstance(part, (Lit, Mixed)):
        return len(part.data)
    if isinstance(part, (Holds, Contains)):
        return 0
    return part.size if isinstance(part, (Pad, Site)) else part.howto.size

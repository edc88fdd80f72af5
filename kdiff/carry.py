# SPDX-License-Identifier: Apache-2.0
"""The carried object: nodes of one or more graphs laid out as sections, symbols and relocations.

Each function and datum keeps a section of its own, entries of one table share one section, strings share
one; a table's entries stay in the order of their table.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kdiff.elf.read import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_NOBITS,
    SHT_PROGBITS,
    STB_GLOBAL,
    STB_LOCAL,
    STT_FUNC,
    STT_NOTYPE,
    STT_OBJECT,
    Object,
)
from kdiff.elf.write import NO_SYMBOL, Relocatable, Relocation, Section, Symbol
from kdiff.errors import KdiffError
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.lead import lead
from kdiff.recompose import terms
from kdiff.split import Kind

STRINGS = ".rodata.str"


@dataclass(slots=True)
class _Growing:
    """A section while it is filled."""

    name: str
    type: int
    flags: int
    align: int
    entry_size: int
    data: bytearray = field(default_factory=bytearray)
    relocations: list[Relocation] = field(default_factory=list)


class Carrier:
    """Collects nodes, then references, then is finished once."""

    def __init__(self) -> None:
        self._sections: list[_Growing] = []
        self._shared: dict[str, int] = {}
        self._symbols: list[Symbol] = []
        self._undefined: dict[str, int] = {}
        self._places: dict[tuple[int, int], tuple[int, int, int]] = {}
        self._labels: dict[tuple[int, int, int], int] = {}
        self._graphs: dict[int, SectionGraph] = {}
        self._members: dict[int, set[int]] = {}

    def members(self, unit: int) -> set[int]:
        """The ids of the nodes of a unit that are carried."""
        return self._members.setdefault(unit, set())

    def place(
        self, graph: SectionGraph, unit: int, node: Node, binding: int = STB_LOCAL, other: int = 0
    ) -> None:
        """Lay out one node and give it a symbol. `other`: st_other."""
        self._graphs[unit] = graph
        index, offset = self._room(graph, node)
        kind = {Kind.FUNCTION: STT_FUNC, Kind.ENTRY: STT_NOTYPE}.get(node.kind, STT_OBJECT)
        name = self._symbol_name(graph, node)
        self._symbols.append(Symbol(name, index, offset, node.size, kind, binding, other))
        self._places[unit, node.id] = index, offset, len(self._symbols) - 1
        self.members(unit).add(node.id)

    def publish(self, unit: int, node: int, name: str) -> str:
        """Give a carried node a global name of its own, derived from `name`, and return it."""
        index, offset, local = self._places[unit, node]
        symbol = f"{name}.ksplice{unit}_{node}"
        self._symbols.append(Symbol(symbol, index, offset, self._symbols[local].size, STT_FUNC, STB_GLOBAL))
        return symbol

    def label(self, unit: int, node: int, symbol: Symbol) -> None:
        """Give a carried node a further symbol, whose value counts from the node's start."""
        index, offset, _ = self._places[unit, node]
        self._symbols.append(replace(symbol, section=index, value=offset + symbol.value))

    def refer(
        self, unit: int, source: int, reference: Reference, symbol: str, binding: int = STB_GLOBAL
    ) -> None:
        """Let a carried node's reference go to an undefined symbol; an empty name is no symbol."""
        if symbol and symbol not in self._undefined:
            self._undefined[symbol] = len(self._symbols)
            self._symbols.append(Symbol(symbol, None, binding=binding))
        self._relocate(unit, source, reference, self._undefined.get(symbol, NO_SYMBOL))

    def join(self, unit: int, source: int, reference: Reference) -> None:
        """Let a carried node's reference go to another carried node of the same unit."""
        self._relocate(unit, source, reference, self._places[unit, reference.target][2])

    def join_other(self, unit: int, source: int, reference: Reference, other: int, node: int) -> None:
        """Let a carried node's reference go to a carried node of another unit."""
        self._relocate(unit, source, reference, self._places[other, node][2])

    def finish(self, graph: SectionGraph) -> Relocatable:
        """Return the object; `graph` gives class, byte order, machine and flags."""
        sections = tuple(
            Section(
                each.name, each.type, each.flags, each.align,
                b"" if each.type == SHT_NOBITS else bytes(each.data), len(each.data), each.entry_size,
                tuple(sorted(each.relocations, key=lambda r: r.offset)),
            )
            for each in self._sections
        )  # fmt: skip
        obj = graph.obj
        return Relocatable(
            obj.elf_class, obj.byte_order, obj.machine, obj.flags, sections, tuple(self._symbols),
            explicit=not _is_implicit(obj),
        )  # fmt: skip

    def _relocate(self, unit: int, source: int, reference: Reference, symbol: int) -> None:
        """Write the records of one field; `symbol` is that of the reference's target.

        A whole field whose addend is in its record becomes zero: the assembler fills in branches within a
        section, and x86's module loader takes no field that is not empty (arch/x86/kernel/module.c).
        """
        graph = self._graphs[unit]
        index, offset, _ = self._places[unit, source]
        section, at = self._sections[index], offset + reference.offset
        for term in terms(graph, graph.nodes[source], reference):
            if term.node is None:
                named = NO_SYMBOL
            elif term.label is not None:
                named = self._label(unit, term.node, term.label)
            else:
                named = symbol if term.node == reference.target else self._own(unit, term.node)
            implicit, howto = _is_implicit(graph.obj), reference.howto
            if implicit or (howto.plain and howto.alone):
                field, kept = slice(at, at + howto.size), term.addend << howto.drops if implicit else 0
                old, order = bytes(section.data[field]), graph.arch.byte_order
                try:
                    section.data[field] = howto.insert(old, kept, order)
                except OverflowError as error:
                    where = graph.where(graph.nodes[source], reference.offset)
                    raise KdiffError("carry.relocation", str(error), place=where) from error
            section.relocations.append(Relocation(at, term.type, named, 0 if implicit else term.addend))

    def _own(self, unit: int, node: int) -> int:
        """The symbol of a carried node from which another one's reference counts."""
        if (unit, node) not in self._places:
            graph = self._graphs[unit]
            raise KdiffError(
                "carry.relocation",
                f"a difference of addresses counts from {graph.nodes[node].label}, which does not travel",
                place=graph.where(graph.nodes[node]),
            )
        return self._places[unit, node][2]

    def _label(self, unit: int, node: int, at: int) -> int:
        """A symbol inside a carried node, made once: records of low parts name the place of the high one."""
        if (unit, node, at) not in self._labels:
            index, offset, _ = self._places[unit, node]
            self._labels[unit, node, at] = len(self._symbols)
            self._symbols.append(Symbol(f".L{unit}.{node}.{at:x}", index, offset + at))
        return self._labels[unit, node, at]

    def _room(self, graph: SectionGraph, node: Node) -> tuple[int, int]:
        """The section and offset for a node, made or found."""
        obj = graph.obj
        ahead = lead(graph, node)
        flags = int(obj.sections["flags"][node.section]) & (SHF_ALLOC | SHF_WRITE | SHF_EXECINSTR)
        kind = SHT_NOBITS if obj.sections["type"][node.section] == SHT_NOBITS else SHT_PROGBITS
        together = node.table or graph.is_piece(node) or graph.is_pool_word(node)
        shared = STRINGS if node.kind is Kind.STRING else node.section_name if together else ""
        if shared and shared in self._shared:
            index = self._shared[shared]
        else:
            entry_size = int(obj.sections["entsize"][node.section]) if node.table else 0
            whole = ahead + node.size == int(obj.sections["size"][node.section])
            name = shared or (node.section_name if whole else f"{node.section_name}.{node.label}")
            self._sections.append(_Growing(name, kind, flags, node.align, entry_size))
            index = len(self._sections) - 1
            if shared:
                self._shared[shared] = index
        section = self._sections[index]
        section.align = max(section.align, node.align)
        step = node.align if node.table is None else node.table.entry_size
        section.data += bytes(-(len(section.data) + ahead) % (step or 1))
        section.data += bytes(obj.contents(node.section)[node.start - ahead : node.start])
        offset = len(section.data)
        section.data += graph.contents(node)
        return index, offset

    def _symbol_name(self, graph: SectionGraph, node: Node) -> str:
        return node.name or f".L{node.kind.value}.{node.section_name.lstrip('.')}.{node.start:x}"


def _is_implicit(obj: Object) -> bool:
    """Whether the object's addends lie in the fields; never in some of its tables only."""
    return len(obj.relocations) > 0 and bool(obj.relocations["implicit"][0])

# SPDX-License-Identifier: Apache-2.0
"""One relocatable object with all that is replaced or carried, and nothing else.

In: a plan. Out: an `Extract`. What an update would hold, without a kernel: functions with their data, strings
and the table entries they own; everything else is an undefined symbol. Globals become local unless the patch
makes them. A global that is borrowed keeps its name. A static that is borrowed is `NAME,FILE,POSITION`: its
name and source file in the pre object (the file symbol it follows), and which of this file's statics of that
name it is, counted from 1 in the order of the symbol table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kdiff.carry import Carrier
from kdiff.elf.read import RESERVED, SHN_ABS, STB_GLOBAL, STB_LOCAL, STB_WEAK, STT_FILE, STT_SECTION
from kdiff.elf.write import NO_SYMBOL, Relocatable, Symbol
from kdiff.errors import Refusal, Refused
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.plan import Plan, keeps_identity
from kdiff.split import Kind
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class BorrowedSymbol:
    """An undefined symbol: `symbol` stands for `name`, a static of the pre object or a global."""

    symbol: str
    name: str
    static: bool


@dataclass(frozen=True, slots=True)
class Extract:
    """The object, and what its undefined symbols mean, sorted by symbol."""

    obj: Relocatable
    borrowed: tuple[BorrowedSymbol, ...]


def extract(plan: Plan) -> Extract:
    """Make the object of a plan; Refused if it refers to something that neither travels nor exists."""
    work = _Extraction(plan)
    for index in plan.carried:
        work.place(plan.post.nodes[index])
    for index in plan.carried:
        for reference in plan.post.references[index]:
            work.bind(plan.post.nodes[index], reference)
    if work.refusals:
        raise Refused(*dict.fromkeys(work.refusals))
    return work.finish()


class _Extraction:
    """One object while it is made."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.carrier = Carrier()
        self.refusals: list[Refusal] = []
        self._borrowed: dict[str, BorrowedSymbol] = {}
        self._pre, self._post = _Table(plan.pre), _Table(plan.post)

    def place(self, node: Node) -> None:
        """Carry a node with all of its names, those inside of it, and the marks of code and data."""
        found = [replace(each, binding=self._binding(each)) for each in self._post.symbols(node)]
        own = next((each for each in found if not each.value and each.name == node.name), Symbol("", None))
        self.carrier.place(self.plan.post, 0, node, own.binding, own.other)
        for each in (*self._post.marks(node), *(each for each in found if each is not own)):
            self.carrier.label(0, node.id, each)

    def bind(self, source: Node, reference: Reference) -> None:
        """Let one reference go to what travels, or to an undefined symbol."""
        along = reference.target in self.carrier.members(0)
        if along and not keeps_identity(self.plan, source, reference):
            self.carrier.join(0, source.id, reference)
            return
        target = self.plan.post.nodes[reference.target]
        borrowed = self._borrow(target)
        if borrowed is not None:
            weak = target.kind is Kind.EXTERN and self._post.is_weak(target.name)
            self.carrier.refer(0, source.id, reference, borrowed.symbol, STB_WEAK if weak else STB_GLOBAL)
            self._borrowed[borrowed.symbol] = borrowed

    def finish(self) -> Extract:
        """The object without symbols that say nothing; those with a reserved place keep it."""
        obj = self.carrier.finish(self.plan.post)
        reserved = {
            each.name: replace(each, binding=STB_LOCAL if each.reserved == SHN_ABS else each.binding)
            for each in self._post.reserved()
            if each.reserved == SHN_ABS or each.name not in self._pre.globals
        }
        symbols = tuple(
            reserved.get(each.name, each) if each.section is None else each for each in obj.symbols
        )
        borrowed = [self._borrowed[name] for name in sorted(self._borrowed) if name and name not in reserved]
        return Extract(_without_idle_symbols(replace(obj, symbols=symbols)), tuple(borrowed))

    def _binding(self, symbol: Symbol) -> int:
        """Local, unless the symbol is a global that the pre object does not define."""
        return STB_LOCAL if symbol.name in self._pre.globals else symbol.binding

    def _borrow(self, target: Node) -> BorrowedSymbol | None:
        """The undefined symbol for a node that stays, without a name for no symbol; None after a refusal."""
        index = self.plan.pairing.to_pre(target.id)
        pre = None if index is None else self.plan.pre.nodes[index]
        if pre is not None and pre.kind is not Kind.EXTERN:
            name = pre.name or pre.label
            return BorrowedSymbol(self._pre.static_name(pre) if pre.local else name, name, pre.local)
        if target.kind is Kind.EXTERN:
            return BorrowedSymbol(target.name, target.name, False)
        self.refusals.append(
            Refusal(
                "bind.unresolved", self.plan.post.where(target),
                f"carried code refers to {target.label}, which is new and does not travel",
                "use what the kernel has",
            )
        )  # fmt: skip
        return None


class _Table:
    """An object's symbol table, by name and by place."""

    def __init__(self, graph: SectionGraph) -> None:
        self._graph = graph
        self._rows = graph.obj.symbols.tolist()
        self._names = [graph.obj.symbol_name(index) for index in range(len(self._rows))]
        self._by_section: dict[int, list[int]] = {}
        self._weak: set[str] = set()
        self.globals: set[str] = set()
        """Names of all globals that are defined."""
        for index, (_, _, _, kind, binding, _, section) in enumerate(self._rows):
            if section and binding != STB_LOCAL:
                self.globals.add(self._names[index])
            if not section and binding == STB_WEAK:
                self._weak.add(self._names[index])
            if kind not in (STT_SECTION, STT_FILE):
                self._by_section.setdefault(section, []).append(index)

    def is_weak(self, name: str) -> bool:
        """Whether an undefined symbol may stay undefined."""
        return name in self._weak

    def symbols(self, node: Node) -> tuple[Symbol, ...]:
        """The symbols at a node's start and inside of it, with values counted from its start."""
        return tuple(
            Symbol(self._names[index], None, value - node.start, size, kind, binding, other)
            for index, (_, value, size, kind, binding, other, _) in self._within(node)
            if self._names[index] and not self._is_mark(index)
        )

    def marks(self, node: Node) -> Iterator[Symbol]:
        """The mapping symbols of a node's bytes, the one in force at its start included."""
        if not self._graph.arch.mapping_symbols:
            return
        before = ""
        for index in sorted(
            self._by_section.get(node.section, ()), key=lambda each: int(self._rows[each][1])
        ):
            at = self._rows[index][1] - node.start
            if self._is_mark(index) and at <= 0:
                before = self._names[index]
            elif self._is_mark(index) and at < node.size:
                yield Symbol(self._names[index], None, at)
        if before:
            yield Symbol(before, None)

    def reserved(self) -> Iterator[Symbol]:
        """The symbols that have a value but no section (SHN_ABS), or none yet (SHN_COMMON)."""
        for name, (_, value, size, kind, binding, other, section) in zip(
            self._names, self._rows, strict=True
        ):
            if section >= RESERVED and kind != STT_FILE and name:
                yield Symbol(name, None, value, size, kind, binding, other, section - RESERVED)

    def static_name(self, node: Node) -> str:
        """`NAME,FILE,POSITION`; what has no symbol is named after its section and offset."""
        wanted = next((index for index, _ in self._within(node) if self._names[index] == node.name), 0)
        kinds = [row[3] for row in self._rows[:wanted]]
        file = max((index for index, kind in enumerate(kinds) if kind == STT_FILE), default=0)
        position = 1 + sum(
            self._names[index] == node.name and self._rows[index][6] and kinds[index] != STT_SECTION
            for index in range(file + 1, wanted)
        )
        return f"{node.name or node.label},{self._names[file]},{position}"

    def _within(self, node: Node) -> Iterator[tuple[int, tuple[int, ...]]]:
        for index in self._by_section.get(node.section, ()):
            if node.start <= self._rows[index][1] < node.start + max(node.size, 1):
                yield index, self._rows[index]

    def _is_mark(self, index: int) -> bool:
        marks, (_, _, _, kind, binding, _, _) = self._graph.arch.mapping_symbols, self._rows[index]
        return bool(marks) and not kind and binding == STB_LOCAL and self._names[index].startswith(marks)


def _without_idle_symbols(obj: Relocatable) -> Relocatable:
    """Drop labels of the assembler's kind that no relocation names."""
    used = {
        relocation.symbol
        for section in obj.sections
        for table in (section.relocations, *(more.relocations for more in section.more_relocations))
        for relocation in table
    }
    kept = [
        index for index, symbol in enumerate(obj.symbols) if index in used or not symbol.name.startswith(".L")
    ]
    place = {old: new for new, old in enumerate(kept)} | {NO_SYMBOL: NO_SYMBOL}
    sections = tuple(
        replace(
            section,
            relocations=tuple(replace(each, symbol=place[each.symbol]) for each in section.relocations),
        )
        for section in obj.sections
    )
    return replace(obj, sections=sections, symbols=tuple(obj.symbols[index] for index in kept))

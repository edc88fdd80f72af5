# SPDX-License-Identifier: Apache-2.0
"""Stage 10: what the machine that is updated compares, without decoding anything.

In: the run matches of the units and the functions that will be replaced. Out: the `proof.json` value that
`kdiff.target.verify` checks: for each replaced function every byte of its run copy as a literal, a field
(howto, symbol, addend) or a site with its allowed forms; and each symbol with its address at link time and
how kallsyms must list it. `docs/package.md` describes the format.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from typing import Any

from kdiff.addressbook import KERNEL, AddressBook, BookEntry
from kdiff.arch import Howto, Overflow
from kdiff.bind import Bound
from kdiff.errors import KdiffError
from kdiff.graph import Node
from kdiff.kernel import (
    Contains,
    Form,
    Holds,
    KernelFacts,
    Listed,
    Literal,
    Mixed,
    OneOf,
    Pad,
    Part,
    Place,
    Site,
    Through,
    ToCode,
)
from kdiff.sites import parts as pre_parts
from kdiff.split import Kind
from kdiff.update import Borrowed, Replacement
from kdiff.values import dataclass
from kdiff.verdict import Allowed, Fact

FORMAT = 5
Json = dict[str, Any]


def prove(
    units: tuple[Bound, ...],
    replacements: Iterable[Replacement],
    borrowed: Iterable[Borrowed],
    book: AddressBook,
    facts: KernelFacts,
    anchor: str,
    fresh: Container[str] = (),
) -> Json:
    """Write down the proof. `anchor`: a symbol that moves with the kernel's text, listed once.

    `fresh`: modules that must be loaded after the update.
    """
    work = _Writer(units, book, facts)
    base = book.address(anchor)
    if base is None:
        raise KdiffError("proof.anchor", f"kallsyms does not list {anchor} exactly once")
    work.kernel(BookEntry(anchor, base, "T"))
    nodes = [work.node(each) for each in replacements]
    for each in borrowed:
        work.borrow(each)
    arch = units[0].plan.pre.arch
    modules = {unit.plan.target: unit.module.identity for unit in units if unit.module is not None}
    return {
        "format": FORMAT,
        "release": facts.release,
        "version": facts.version,
        "build_id": facts.build_id,
        "byte_order": arch.byte_order,
        "word_size": arch.elf_class // 8,
        "anchor": anchor,
        "nops": [nop.hex() for nop in sorted(arch.nops, key=len, reverse=True)],
        "howtos": work.howtos,
        "modules": [
            {
                "name": each.name,
                "build_id": each.build_id,
                "source_version": each.source_version,
                "fresh": each.name in fresh,
            }
            for _, each in sorted(modules.items())
        ],
        "symbols": work.symbols,
        "nodes": nodes,
    }


class _Writer:
    """Numbers howtos and symbols as they are used."""

    def __init__(self, units: tuple[Bound, ...], book: AddressBook, facts: KernelFacts) -> None:
        self.units, self.book = units, book
        self.howtos: list[Json] = []
        self.symbols: list[Json] = []
        self._howto_names: set[str] = set()
        self._symbol_numbers: dict[tuple[str, str, str, int], int] = {}
        self._fixed = _fixed_range(book)

    def node(self, replacement: Replacement) -> Json:
        """One replaced function."""
        unit = self.units[replacement.unit]
        match = unit.run.matches[replacement.node]
        function = _Function(self, unit, {fact.place: fact for fact in match.facts})
        written: list[Any] = []
        at = match.address
        for part in match.parts:
            if isinstance(part, Allowed):
                written.append(function.site(replacement.node, part.site, at))
            else:
                one = function.part(part, at)
                if one is None:
                    raise KdiffError(
                        "proof.unknown_symbol", f"{replacement.name} refers to an unknown address"
                    )
                written.append(one)
            at += part.size
        listed = unit.book.named(replacement.name, replacement.target)
        entry = next(e for e in listed if e.address == unit.run.entry(replacement.address))
        made = self.made(replacement.address, unit) if replacement.on else None
        return {
            "name": replacement.name,
            "symbol": self.named(entry, unit),
            **({"code": made[0]} if made else {}),
            "offset": 0,
            "size": match.size,
            "role": "replaced",
            "parts": _joined(written),
        }

    def borrow(self, borrowed: Borrowed) -> None:
        """List a borrowed symbol."""
        for unit in self.units:
            if borrowed.needed_by in (KERNEL, unit.plan.target):
                for entry in unit.book.named(borrowed.name, borrowed.owner):
                    if entry.address == borrowed.address:
                        self.named(entry, unit)
                        return
        raise KdiffError("proof.unknown_symbol", f"{borrowed.name} of {borrowed.owner} is nowhere listed")

    def kernel(self, entry: BookEntry) -> int:
        """The number of a symbol of the kernel itself."""
        count = len(self.book.named(entry.name))
        return self._symbol(entry.name, entry.address, entry.position, count, self._slides(entry.address))

    def named(self, entry: BookEntry, unit: Bound) -> int:
        """The number of a symbol that kallsyms lists."""
        if entry.owner == KERNEL:
            return self.kernel(entry)
        count = len(unit.book.named(entry.name, entry.owner))
        if unit.module is None:
            return self._symbol(entry.name, 0, entry.position, count, False, entry.owner)
        place = unit.module.place(entry.address) if entry.owner == unit.plan.target else None
        if place is None or place.per_cpu:
            return self._symbol(entry.name, 0, entry.position, count, False, entry.owner)
        return self._symbol(
            entry.name, place.offset, entry.position, count, False, entry.owner, place.section
        )

    def made(self, address: int, unit: Bound) -> tuple[int, int] | None:
        """A symbol of a live patch's module and how far behind it an address is; None if it is in none."""
        if self._slides(address) or (unit.module is not None and unit.module.place(address) is not None):
            return None
        code = set(unit.run.redirects.values())
        owners = {entry.owner for entry in unit.book.entries if entry.address in code}
        below = [entry for entry in unit.book.entries if entry.address <= address]
        nearest = max(below, key=lambda each: each.address, default=None)
        if nearest is None or nearest.owner == KERNEL or nearest.owner not in owners:
            return None
        return self.named(nearest, unit), address - nearest.address

    def anonymous(self, address: int, unit: Bound) -> int:
        """The number of a place that kallsyms has no name for."""
        place = unit.module.place(address) if unit.module is not None else None
        if place is None:
            return self._symbol("", address, 0, 0, self._slides(address))
        if place.per_cpu:
            raise KdiffError(
                "proof.unknown_symbol",
                f"data without a name in {place.section} of module {unit.plan.target}",
                place=unit.plan.pre.obj.path,
                remedy="leave the function that uses it as it is",
            )
        return self._symbol("", place.offset, 0, 0, False, unit.plan.target, place.section)

    def _symbol(
        self,
        name: str,
        address: int,
        position: int,
        count: int,
        slides: bool,
        owner: str = KERNEL,
        section: str = "",
    ) -> int:
        key = (owner, section, name, address)
        if key not in self._symbol_numbers:
            self._symbol_numbers[key] = len(self.symbols)
            row: Json = {"name": name, "position": position, "count": count, "address": address}
            row |= {"slides": slides} if owner == KERNEL else {"owner": owner, "section": section}
            self.symbols.append(row)
        return self._symbol_numbers[key]

    def _slides(self, address: int) -> bool:
        return self._fixed[0] <= address < self._fixed[1]

    def howto(self, howto: Howto) -> str:
        """The name by which parts refer to a howto, written down when it is first used."""
        if howto.shape != Howto(
            0, "", howto.size, howto.fields, Overflow.WRAP, howto.pc_relative, howto.end_relative, howto.bias
        ):
            raise KdiffError("proof.howto", f"the proof cannot describe how {howto.name} stores a value yet")
        if howto.name not in self._howto_names:
            self._howto_names.add(howto.name)
            self.howtos.append(
                {
                    "name": howto.name,
                    "size": howto.size,
                    "fields": [[b.field_lsb, b.value_lsb, b.width] for b in howto.fields],
                    "overflow": howto.overflow.value,
                    "pc_relative": howto.pc_relative,
                }
            )
        return howto.name


@dataclass(frozen=True, slots=True)
class _Function:
    """Writes the parts of one function. `facts`: what its fields taught, by run address of the field."""

    writer: _Writer
    unit: Bound
    facts: Mapping[int, Fact]

    def site(self, node: int, site: Site, at: int) -> list[Any]:
        """A site with every form that this kernel can have."""
        pre = self.unit.plan.pre
        original = pre_parts(pre, pre.nodes[node], site.offset, site.offset + site.size)
        forms = [self.form(form, at) for form in (original, *site.forms)]
        return ["site", site.rewrite, site.size, [form for form in forms if form is not None]]

    def form(self, form: Form, at: int) -> list[Any] | None:
        """A form, or None if it needs a symbol this kernel does not have: then it cannot be there."""
        written: list[Any] = []
        for part in form:
            one = self.part(part, at)
            if one is None:
                return None
            written.append(one)
            at += part.size
        return _joined(written)

    def part(self, part: Part, at: int) -> list[Any] | None:
        """The part at run address `at`; None if it refers to what this kernel does not have."""
        if isinstance(part, Literal):
            return ["lit", part.data.hex()]
        if isinstance(part, Pad):
            return ["pad", part.size]
        if isinstance(part, Holds):
            return self.condition(part, at)
        if isinstance(part, (Contains, Mixed)):
            found = self.place(part.place, at)
            if found is None:
                return None
            if isinstance(part, Contains):
                return ["contains", *found, part.data.hex()]
            return ["mixed", *found, part.data.hex(), part.negated]
        howto = self.writer.howto(part.howto)
        if isinstance(part, OneOf):
            known = self.known(part.names)
            return ["oneof", howto, known, part.insn_addend] if known else None
        if isinstance(part, Listed):
            return ["listed", howto, part.owner, part.name, part.insn_addend]
        if isinstance(part, ToCode):
            return ["code", howto, part.code.hex(), part.insn_addend]
        found = self.place(part.place, at)
        if found is None:
            return None
        symbol, offset = found
        if isinstance(part, Through):
            return ["through", howto, symbol, offset, part.insn_addend]
        return ["field", howto, symbol, offset + part.insn_addend, part.background.hex()]

    def condition(self, part: Holds, at: int) -> list[Any] | None:
        """What a pointer must lead to; None if that cannot be."""
        found = self.place(part.place, at)
        allowed: list[int | None] = [*self.known(part.names), *([None] if "" in part.names else [])]
        return ["holds", *found, allowed] if found is not None and allowed else None

    def known(self, names: tuple[str, ...]) -> list[int]:
        """The numbers of all kernel symbols of these names."""
        return [self.writer.kernel(entry) for name in names for entry in self.writer.book.named(name)]

    def place(self, place: Place, at: int) -> tuple[int, int] | None:
        """(symbol number, offset) of what the field at run address `at` refers to."""
        if place.node is None:
            entries = self.writer.book.named(place.name)
            return (self.writer.kernel(entries[0]), place.offset) if len(entries) == 1 else None
        graph = self.unit.plan.pre
        node = graph.nodes[place.node]
        listed = [e for name in node.names for e in self.listed(node, name)]
        address = self.unit.run.addresses.get(place.node)
        if address is None:
            return (self.writer.named(listed[0], self.unit), place.offset) if len(listed) == 1 else None
        linked = self.unit.run.entry(address)
        if (graph.has_copies(node) or linked != address) and at in self.facts:
            address = self.facts[at].address - place.offset
        else:
            address = linked
        offset: int | None = place.offset
        if node.kind is Kind.FUNCTION and place.node in self.unit.run.matches:
            offset = self.unit.run.matches[place.node].run_offset(place.offset)
        if offset is None:
            return None
        for entry in listed:
            if entry.address == address:
                return self.writer.named(entry, self.unit), offset
        made = self.writer.made(address, self.unit)
        return (made[0], made[1] + offset) if made else (self.writer.anonymous(address, self.unit), offset)

    def listed(self, node: Node, name: str) -> tuple[BookEntry, ...]:
        """What kallsyms lists under a node's name, of its own target or of what that may import."""
        if node.kind is Kind.EXTERN:
            return self.unit.known(name)
        return self.unit.book.named(name, self.unit.plan.target)


def _fixed_range(book: AddressBook) -> tuple[int, int]:
    """The addresses that move with the kernel: from `_text` to `_end` (include/asm-generic/sections.h).

    Everything else that kallsyms lists for vmlinux is absolute or an offset into per-cpu areas.
    """
    start, stop = book.address("_text"), book.address("_end")
    if start is None or stop is None:
        raise KdiffError("proof.range", "kallsyms does not list _text and _end")
    return start, stop + 1


def _joined(parts: list[Any]) -> list[Any]:
    """Neighbouring literals as one."""
    result: list[Any] = []
    for part in parts:
        if part[0] == "lit" and result and result[-1][0] == "lit":
            result[-1] = ["lit", result[-1][1] + part[1]]
        elif part != ["lit", ""]:
            result.append(part)
    return result


def borrowed_summary(borrowed: Iterable[Borrowed]) -> list[Mapping[str, Any]]:
    """For the manifest: every borrowed symbol with how it was resolved."""
    return [
        {
            "name": each.name,
            "owner": each.owner,
            "position": each.position,
            "address": f"{each.address:#x}" if each.owner == KERNEL else "",
            "how": each.how.value,
            "learned": each.learned,
        }
        for each in borrowed
    ]


def dump(proof: Json) -> bytes:
    """The text of proof.json."""
    return (json.dumps(proof, sort_keys=True, separators=(",", ":")) + "\n").encode()

# SPDX-License-Identifier: Apache-2.0
"""Check that everything carried has arrived in the module: every byte, every reference and its destination.

The linker puts the sections of one name behind each other in the order of its inputs, of which the carried
object is the first. So it is known where each carried section must lie, and what each relocation must say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kdiff.api import NO_SYMBOL, KdiffError, Relocatable, Relocation, Section, Update
from kdiff_emit_livepatch.convert import (
    SHF_ALLOC,
    SHF_RELA_LIVEPATCH,
    SHN_LIVEPATCH,
    by_position,
    livepatch_name,
)

Place = tuple[int, int]
"""A section of the module and an offset in it."""
Destination = tuple[str, int, int]
"""A symbol's name, or "" and a place; an addend belongs to the number that follows the name or section."""
Record = tuple[int, int, Destination]
"""Offset, relocation type, destination."""


def check(update: Update, module: Relocatable) -> None:
    """Raise KdiffError `emit.lost` with the first section, or symbol, for which it is not so."""
    for problem in _problems(update, module):
        raise KdiffError(
            "emit.lost",
            problem,
            place=f"module of update {update.id}",
            remedy="report this as a defect of kdiff",
        )


def _problems(update: Update, module: Relocatable) -> Iterator[str]:
    carried = update.carried
    if (carried.machine, carried.elf_class, carried.byte_order) != (
        module.machine, module.elf_class, module.byte_order,
    ):  # fmt: skip
        yield f"the module is for ELF machine {module.machine}, the carried code for {carried.machine}"
    places = _places(carried, module)
    late = {each.symbol: livepatch_name(each) for each in by_position(update.borrowed)}
    for section, place in zip(carried.sections, places, strict=True):
        if place is None:
            yield f"section {section.name} is missing"
            continue
        home, start = place
        yield from _lost_bytes(section, module.sections[home], start)
        expected = Counter(
            (start + each.offset, each.type, _destination(carried, each, places, late))
            for each in section.relocations
        )
        found = Counter(
            record for record in _records(module, home) if start <= record[0] < start + section.size
        )
        if expected != found:
            offset = min((expected - found) or (found - expected))[0] - start
            yield f"the relocation at {section.name}+{offset:#x} is not as it was carried"
    yield from _mixed_tables(module)
    yield from _lost_successors(update, module)


def _places(carried: Relocatable, module: Relocatable) -> list[Place | None]:
    homes = {section.name: index for index, section in reversed(list(enumerate(module.sections)))}
    ends: dict[str, int] = {}
    places: list[Place | None] = []
    for section in carried.sections:
        start = ends.get(section.name, 0)
        start += -start % max(section.align, 1)
        ends[section.name] = start + section.size
        places.append((homes[section.name], start) if section.name in homes else None)
    return places


def _lost_bytes(section: Section, home: Section, start: int) -> Iterator[str]:
    if home.type != section.type or (home.flags ^ section.flags) & 7:
        yield f"section {section.name} has another type or other flags"
    if start + section.size > home.size or (
        section.data and home.data[start : start + section.size] != section.data
    ):
        yield f"section {section.name} has other contents"
    if section.align > home.align:
        yield f"section {section.name} is aligned to {home.align} bytes, not {section.align}"


def _destination(
    carried: Relocatable, relocation: Relocation, places: list[Place | None], late: dict[str, str]
) -> Destination:
    """What a carried relocation must refer to in the module."""
    if relocation.symbol == NO_SYMBOL:
        return "", NO_SYMBOL, relocation.addend
    symbol = carried.symbols[relocation.symbol]
    if symbol.reserved is not None:
        return "", symbol.reserved, symbol.value + relocation.addend
    if symbol.section is None:
        return late.get(symbol.name, symbol.name), relocation.addend, 0
    home, start = places[symbol.section] or (NO_SYMBOL, 0)
    return "", home, start + symbol.value + relocation.addend


def _records(module: Relocatable, section: int) -> Iterator[Record]:
    home = module.sections[section]
    for relocation in (*home.relocations, *(each for t in home.more_relocations for each in t.relocations)):
        yield relocation.offset, relocation.type, _reached(module, relocation)


def _reached(module: Relocatable, relocation: Relocation) -> Destination:
    if relocation.symbol == NO_SYMBOL:
        return "", NO_SYMBOL, relocation.addend
    symbol = module.symbols[relocation.symbol]
    if symbol.section is not None:
        return "", symbol.section, symbol.value + relocation.addend
    if symbol.reserved is not None and symbol.reserved != SHN_LIVEPATCH:
        return "", symbol.reserved, symbol.value + relocation.addend
    return symbol.name, relocation.addend, 0


def _mixed_tables(module: Relocatable) -> Iterator[str]:
    """livepatch and the module loader each apply their own tables and must not meet the other's symbols."""
    late = {i for i, symbol in enumerate(module.symbols) if symbol.reserved == SHN_LIVEPATCH}
    for section in module.sections:
        if any(each.symbol in late for each in section.relocations):
            yield f".rela{section.name} refers to symbols that livepatch resolves"
        for table in section.more_relocations:
            if table.flags != SHF_RELA_LIVEPATCH | SHF_ALLOC:
                yield f"{table.name} has flags {table.flags:#x}"
            if not all(each.symbol in late for each in table.relocations):
                yield f"{table.name} refers to symbols that livepatch does not resolve"


def _lost_successors(update: Update, module: Relocatable) -> Iterator[str]:
    defined = Counter(symbol.name for symbol in module.symbols if symbol.section is not None)
    for each in update.replacements:
        if defined[each.symbol] != 1:
            yield f"{each.symbol}, the successor of {each.name}, is defined {defined[each.symbol]} times"

# SPDX-License-Identifier: Apache-2.0
"""How the data of an object lies in memory, as its debugging entries tell.

In: an `Object` and its `Architecture`. Out: `Types`: the layout of every structure and union, with nameless
ones unfolded into what contains them, and the values of every enumerator. Sizes and places of members are in
bits, because of bit fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kdiff import dwarf
from kdiff.arch import Architecture
from kdiff.dwarf import Die, Unit
from kdiff.elf.debug import DebugSections, debug_sections
from kdiff.elf.read import Object

_QUALIFIERS = frozenset((dwarf.CONST, dwarf.VOLATILE, dwarf.RESTRICT, dwarf.ATOMIC))
_AGGREGATES = {dwarf.STRUCTURE: "struct", dwarf.UNION: "union"}
_NAMING = frozenset((dwarf.STRUCTURE, dwarf.UNION, dwarf.TYPEDEF, dwarf.VARIABLE))
_FLOATING = frozenset((3, 4))
"""DW_ATE_complex_float, DW_ATE_float."""
_ADDRESSES = frozenset((b"\x03", b"\xa1", b"\xfb"))
"""DW_OP_addr, DW_OP_addrx, DW_OP_GNU_addr_index."""
_LONGEST_CHAIN = 200
_MOST_LAYOUTS = 1000
"""Of one name."""
_MOST_MEMBERS = 1 << 19
"""Of all structures of a unit, nameless ones unfolded. Beyond that something contains itself."""
_LONGEST_PATH = 4096


class Key(NamedTuple):
    """What a layout is found by again in the other object."""

    unit: str
    """Source file, where an object has several."""
    scope: str
    """The function that declares the type, empty for all others."""
    kind: str
    """`struct`, `union`, `enum`, `typedef` (of a nameless type) or `variable` (of a nameless type)."""
    name: str


class Type(NamedTuple):
    """A type as far as it matters to what lies in memory."""

    bits: int | None
    text: str
    """`4-byte integer`, `pointer to struct sock`, `struct list_head [4]`: equal for equal representations."""
    aggregate: str = ""
    """`struct sock`, also behind pointers."""
    nameless: Die | None = None
    """The structure or union, also behind pointers, if it has no name."""


class Member(NamedTuple):
    """A member. `name` has a path where nameless structures are unfolded: `u.word`."""

    name: str
    at: int
    bits: int | None
    type: str
    aggregate: str


class Layout(NamedTuple):
    """A structure or union; `size` in bytes."""

    size: int | None
    members: tuple[Member, ...]


class Enumeration(NamedTuple):
    """`key.name` is the first enumerator's if the enumeration has no name."""

    key: Key
    size: int | None
    values: tuple[tuple[str, int], ...]


class Use(NamedTuple):
    """A variable or parameter. `function` is empty for variables of the whole unit."""

    unit: str
    function: str
    name: str
    type: Type


@dataclass(frozen=True)
class Types:
    """All types of an object. `units` are its source files."""

    layouts: Mapping[Key, tuple[Layout, ...]]
    enumerations: tuple[Enumeration, ...]
    variables: tuple[Use, ...]
    """Those that live as long as the kernel: of the whole unit, external ones included, and static ones."""
    units: tuple[str, ...]
    readers: tuple[_Reader, ...]

    @cached_property
    def locals(self) -> tuple[Use, ...]:
        """The variables and parameters of all functions, those inlined into others included."""
        return tuple(use for reader in self.readers for use in reader.locals())

    @cached_property
    def by_title(self) -> Mapping[str, tuple[Layout, ...]]:
        """The layouts of all that is called `struct NAME` or `union NAME`, or by a typedef's name."""
        found: dict[str, tuple[Layout, ...]] = {}
        for key, layouts in self.layouts.items():
            if key.kind != "variable":
                title = f"{key.kind} {key.name}"
                found[title] = (*found.get(title, ()), *layouts)
        return found


def types_of(obj: Object, arch: Architecture) -> Types:
    """Read the types of an object; empty without debugging information."""
    return types_in(debug_sections(obj, arch))


def types_in(sections: DebugSections) -> Types:
    """The same of an object's debugging sections, which tell all there is to know."""
    units = dwarf.units(sections)
    names = tuple(unit.name(unit.root) for unit in units)
    readers = tuple(
        _Reader(unit, name if len(units) > 1 else "") for unit, name in zip(units, names, strict=True)
    )
    layouts: dict[Key, tuple[Layout, ...]] = {}
    enumerations: list[Enumeration] = []
    variables: list[Use] = []
    for reader in readers:
        for scope, die in reader.declared():
            tag = die.abbrev.tag
            if tag == dwarf.ENUMERATION:
                enumerations += reader.enumeration(scope, die)
            elif tag == dwarf.VARIABLE and (not scope or reader.is_static(die)):
                variables += reader.variable(scope, die)
            if tag not in _NAMING:
                continue
            for key, layout in reader.named(scope, die):
                if layout not in layouts.get(key, ()):
                    layouts[key] = (*layouts.get(key, ()), layout)
                    if len(layouts[key]) > _MOST_LAYOUTS:
                        raise sections.wrong(f"{key.name} is declared over and over", die.offset)
    return Types(layouts, tuple(enumerations), tuple(variables), names, readers)


class _Reader:
    """Reads the types of one unit, each once."""

    def __init__(self, unit: Unit, name: str) -> None:
        self._unit, self._name = unit, name
        self._known: dict[int | None, Type] = {}
        self._seen = 0

    def declared(self) -> Iterator[tuple[str, Die]]:
        """Everything that is declared in the unit, with the function it is declared in."""
        waiting = [("", die) for die in reversed(self._unit.root.children)]
        while waiting:
            scope, die = waiting.pop()
            yield scope, die
            if die.abbrev.tag == dwarf.SUBPROGRAM:
                scope = self._function(die)
                waiting += [(scope, each) for each in reversed(die.children)]
            elif die.abbrev.tag in _AGGREGATES:
                waiting += [(scope, each) for each in die.children if each.abbrev.tag != dwarf.MEMBER]

    def locals(self) -> Iterator[Use]:
        for scope, die in self.declared():
            if scope and die.abbrev.tag in (dwarf.VARIABLE, dwarf.FORMAL_PARAMETER):
                yield from self.variable(scope, die)

    def is_static(self, die: Die) -> bool:
        """Whether a function's variable has one place in memory."""
        return self._unit.expression(die, dwarf.LOCATION)[:1] in _ADDRESSES

    def variable(self, scope: str, die: Die) -> Iterator[Use]:
        name = self._unit.name(die)
        if name:
            yield Use(self._name, scope, name, self._type(self._unit.reference(die, dwarf.TYPE)))

    def named(self, scope: str, die: Die) -> Iterator[tuple[Key, Layout]]:
        """The layout that a type or variable declares: its own, or the nameless one that it gives a name."""
        tag = die.abbrev.tag
        name = self._unit.name(die)
        if not name:
            return
        if tag in _AGGREGATES:
            if not self._unit.number(die, dwarf.DECLARATION):
                yield Key(self._name, scope, _AGGREGATES[tag], name), self._layout(die)
            return
        found = self._type(self._unit.reference(die, dwarf.TYPE))
        if found.nameless is not None:
            kind = "typedef" if tag == dwarf.TYPEDEF else "variable"
            yield Key(self._name, scope, kind, name), self._layout(found.nameless)

    def enumeration(self, scope: str, die: Die) -> Iterator[Enumeration]:
        number, name = self._unit.number, self._unit.name
        values = tuple(
            (name(each), number(each, dwarf.CONST_VALUE) or 0)
            for each in die.children
            if each.abbrev.tag == dwarf.ENUMERATOR
        )
        if values:
            key = Key(self._name, scope, "enum", name(die) or values[0][0])
            yield Enumeration(key, number(die, dwarf.BYTE_SIZE), values)

    def _function(self, die: Die) -> str:
        """A function's name; that of the function it is a copy of, if it is one."""
        for _ in range(_LONGEST_CHAIN):
            name = self._unit.name(die)
            origin = self._unit.reference(die, dwarf.ABSTRACT_ORIGIN)
            if name or origin is None:
                return name or f"function at {die.offset:#x}"
            die = self._entry(origin)
        raise self._unit.sections.wrong("a function is a copy of itself", die.offset)

    def _entry(self, offset: int) -> Die:
        found = self._unit.entries.get(offset)
        if found is None:
            raise self._unit.sections.wrong("a reference leads to no type of its unit", offset)
        return found

    def _layout(self, die: Die) -> Layout:
        members: list[Member] = []
        waiting = [(die, 0, "")]
        while waiting:
            outer, base, prefix = waiting.pop()
            self._seen += 1 + len(outer.children)
            if self._seen > _MOST_MEMBERS or len(prefix) > _LONGEST_PATH:
                raise self._unit.sections.wrong("a structure contains itself", die.offset)
            for each in outer.children:
                if each.abbrev.tag != dwarf.MEMBER:
                    continue
                name = self._unit.name(each)
                kind = self._type(self._unit.reference(each, dwarf.TYPE))
                at, bits = self._bits(each, kind)
                if name or kind.nameless is None:
                    members.append(Member(prefix + name, base + at, bits, kind.text, kind.aggregate))
                if kind.nameless is not None:
                    behind = kind.text.startswith("pointer")
                    path = f"{prefix}{name}{'->' if behind else '.'}" if name else prefix
                    waiting.append((kind.nameless, 0 if behind else base + at, path))
        members.sort(key=_place)
        return Layout(self._unit.number(die, dwarf.BYTE_SIZE), tuple(members))

    def _bits(self, member: Die, kind: Type) -> tuple[int, int | None]:
        """Where a member begins in its structure, and how long it is."""
        number = self._unit.number
        place = 8 * self._unit.place(member)
        if dwarf.BIT_SIZE not in member.abbrev.at and dwarf.BIT_SIZE not in member.abbrev.constants:
            return place, kind.bits
        bits = number(member, dwarf.BIT_SIZE) or 0
        modern, old = number(member, dwarf.DATA_BIT_OFFSET), number(member, dwarf.BIT_OFFSET)
        if modern is not None:
            return modern, bits
        if old is None:
            return place, bits
        size = number(member, dwarf.BYTE_SIZE)
        storage = 8 * size if size is not None else kind.bits or 0
        return place + (old if self._unit.sections.big else storage - old - bits), bits

    def _type(self, offset: int | None) -> Type:
        found = self._known.get(offset)
        if found is None:
            found = self._known[offset] = self._described(offset)
        return found

    def _described(self, offset: int | None) -> Type:
        """Go through typedefs, qualifiers, arrays and pointers to what a type is at last."""
        unit = self._unit
        prefix = alias = dimensions = ""
        count: int | None = 1
        bits: int | None = None
        for _ in range(_LONGEST_CHAIN):
            die = None if offset is None else self._entry(offset)
            tag = dwarf.UNSPECIFIED if die is None else die.abbrev.tag
            if die is None or tag in (dwarf.UNSPECIFIED, dwarf.SUBROUTINE):
                last = Type(0, "function" if tag == dwarf.SUBROUTINE else "void")
                break
            if tag == dwarf.ARRAY:
                lengths = [self._length(each) for each in die.children if each.abbrev.tag == dwarf.SUBRANGE]
                if not prefix:
                    dimensions += "".join("[]" if not each else f"[{each}]" for each in lengths)
                    for each in lengths:
                        count = None if count is None or each is None else count * each
                alias = ""
            elif tag == dwarf.POINTER:
                if not prefix:
                    bits = 8 * (unit.number(die, dwarf.BYTE_SIZE) or unit.pointer)
                prefix += "pointer to "
                alias = ""
            elif tag == dwarf.TYPEDEF:
                alias = unit.name(die)
            elif tag not in _QUALIFIERS:
                last = self._plain(die, alias)
                break
            offset = unit.reference(die, dwarf.TYPE)
        else:
            raise unit.sections.wrong("a type is made of itself", offset or 0)
        if prefix:
            text = f"{prefix}{last.text}" if last.aggregate or last.text == "function" else "pointer"
        else:
            bits, text = last.bits, last.text
        size = None if bits is None or count is None else bits * count
        return Type(size, f"{text} {dimensions}".rstrip(), last.aggregate, last.nameless)

    def _plain(self, die: Die, alias: str) -> Type:
        size = self._unit.number(die, dwarf.BYTE_SIZE)
        bits = None if size is None else 8 * size
        tag = die.abbrev.tag
        if tag in _AGGREGATES:
            name = self._unit.name(die)
            if name or alias:
                title = f"{_AGGREGATES[tag]} {name}" if name else f"typedef {alias}"
                return Type(bits, title, title)
            return Type(bits, _AGGREGATES[tag], _AGGREGATES[tag], die)
        floating = tag == dwarf.BASE and self._unit.number(die, dwarf.ENCODING) in _FLOATING
        return Type(bits, f"{size}-byte {'floating-point number' if floating else 'integer'}")

    def _length(self, subrange: Die) -> int | None:
        """The number of elements; 0 for arrays without one, None if only running code knows it."""
        count = self._unit.number(subrange, dwarf.COUNT)
        if count is not None:
            return count
        last = self._unit.number(subrange, dwarf.UPPER_BOUND)
        if last is None:
            return None if dwarf.UPPER_BOUND in subrange.abbrev.at else 0
        return 0 if last in (-1, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) else last + 1


def _place(member: Member) -> tuple[int, str]:
    return member.at, member.name

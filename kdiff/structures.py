# SPDX-License-Identifier: Apache-2.0
"""The sizes of structures by name, from the debugging information of an object.

Reading all types of a unit takes longer than comparing it. But the few sizes that are asked for can be found
from their names: the relocation records of .debug_info say where a name is used, and the entry that uses
it begins with its abbreviation code right in front. Wherever that leaves a doubt, all is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.debug import has_types, uncompressed
from kdiff.elf.read import SHT_RELA, Object
from kdiff.errors import KdiffError

_STRUCTURE = bytes((0x13, 1, 0x03, 0x0E, 0x0B))
"""DW_TAG_structure_type with children, DW_AT_name as DW_FORM_strp, DW_AT_byte_size (DWARF 5, 7.5.3)."""
_SIZES = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8}
"""Bytes of DW_FORM_data1 to data8."""
_IMPLICIT_CONST = 0x21


def size_of(obj: Object, arch: Architecture) -> Mapping[str, int]:
    """Bytes of each structure that the object declares in one way only; none where nothing can be read."""
    if not has_types(obj):
        return {}
    from kdiff.layouts import types_of

    try:
        layouts = types_of(obj, arch).layouts
    except KdiffError:
        return {}  # what cannot be read says nothing
    found: dict[str, set[int]] = {}
    for key, declared in layouts.items():
        if key.kind == "struct":
            found.setdefault(key.name, set()).update(each.size for each in declared if each.size)
    return {name: sizes.pop() for name, sizes in found.items() if len(sizes) == 1}


def declared_sizes(obj: Object, arch: Architecture) -> Callable[[str], int]:
    """The size of a structure by name, 0 if it is not there; the debugging information is read when asked."""
    every = cache(lambda: size_of(obj, arch))
    names = cache(lambda: _Names.of(obj))

    def size(name: str) -> int:
        known = names()
        found = None if known is None else known.size(name)
        return every().get(name, 0) if found is None else found

    return cache(size)


class _Names:
    """Where the debugging information of a single compilation unit uses its strings."""

    def __init__(self, obj: Object, info: int, strings: int, abbrev: int) -> None:
        self._info = uncompressed(obj, info)
        self._abbrev = b"\0\0" + uncompressed(obj, abbrev)
        self._strings = b"\0" + uncompressed(obj, strings)
        self._order = obj.byte_order
        records = obj.records(info)
        here = (obj.symbols["section"] == strings).take(records["symbol"])
        self._uses = records["offset"][here], records["addend"][here]

    @staticmethod
    def of(obj: Object) -> _Names | None:
        """Of an object with one unit and RELA records; None for others."""
        if b".debug_info" not in bytes(obj.contents(obj.section_names)):
            return None
        sections = obj.names_of_sections()
        found: dict[str, list[int]] = {}
        for index in np.flatnonzero(obj.sections["flags"] & 2 == 0).tolist()[1:]:
            found.setdefault(sections[index], []).append(index)
        parts = [found.get(name, []) for name in (".debug_info", ".debug_str", ".debug_abbrev")]
        tables = obj.sections["info"][obj.sections["type"] == SHT_RELA]
        if any(len(each) != 1 for each in parts) or parts[0][0] not in tables:
            return None
        try:
            names = _Names(obj, *(each[0] for each in parts))
        except KdiffError:
            return None
        return names if names._is_one_unit() else None

    def size(self, name: str) -> int | None:
        """Bytes of the structure, 0 if there is none of that name; None: it cannot be told this way."""
        text = name.encode() + b"\0"
        places = self._places(text)
        if not places:
            return None if text in self._info or text in self._strings else 0
        sizes = {self._entry(place) for place in places}
        return sizes.pop() if len(sizes) == 1 else None

    def _is_one_unit(self) -> bool:
        """Whether the first unit is all of .debug_info, in 32-bit DWARF."""
        return int.from_bytes(self._info[:4], self._order) == len(self._info) - 4

    def _places(self, text: bytes) -> list[int]:
        """Where .debug_info refers to a string."""
        offsets, targets = self._uses
        found: list[int] = []
        at = self._strings.find(b"\0" + text)
        while at >= 0:
            found += offsets[targets == at].tolist()
            at = self._strings.find(b"\0" + text, at + 1)
        return found

    def _entry(self, place: int) -> int | None:
        """The size that the structure says whose name is at `place`; None if it is none, or in doubt."""
        sizes = set(self._readings(place))
        return sizes.pop() if len(sizes) == 1 else None

    def _readings(self, place: int) -> Iterator[int | None]:
        """For each code that could end in front of `place`: what it would mean."""
        for width in (1, 2, 3):
            code = self._info[place - width : place]
            whole = all(byte & 0x80 for byte in code[:-1]) and not code[-1:] >= b"\x80"
            pattern = b"\0\0" + code + _STRUCTURE
            at = self._abbrev.find(pattern)
            if not whole or at < 0:
                continue
            if self._abbrev.find(pattern, at + 1) >= 0:
                yield None
            try:
                yield self._size(at + len(pattern), place + 4)
            except (IndexError, ValueError):
                yield None

    def _size(self, form_at: int, place: int) -> int | None:
        from kdiff.abbreviations import uleb

        form, after = uleb(self._abbrev, form_at)
        if form == _IMPLICIT_CONST:
            value = uleb(self._abbrev, after)[0]
            return value if not value & 0x40 else None
        if form in _SIZES:
            return int.from_bytes(self._info[place : place + _SIZES[form]], self._order)
        return None

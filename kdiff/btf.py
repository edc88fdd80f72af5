# SPDX-License-Identifier: Apache-2.0
"""Structure layouts from BTF, the type information a kernel carries.

In: the bytes of a .BTF section or of /sys/kernel/btf/vmlinux. Out: sizes and member offsets.
Format: Documentation/bpf/btf.rst of the kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType

from kdiff.errors import KdiffError
from kdiff.kernel import Structure
from kdiff.values import dataclass

_MAGIC = 0xEB9F
_HEADER = 24
_STRUCT, _UNION = 4, 5
_TAIL: Mapping[int, tuple[int, int]] = {
    1: (4, 0),  # INT
    2: (0, 0),  # PTR
    3: (12, 0),  # ARRAY
    4: (0, 12),  # STRUCT
    5: (0, 12),  # UNION
    6: (0, 8),  # ENUM
    7: (0, 0),  # FWD
    8: (0, 0),  # TYPEDEF
    9: (0, 0),  # VOLATILE
    10: (0, 0),  # CONST
    11: (0, 0),  # RESTRICT
    12: (0, 0),  # FUNC
    13: (0, 8),  # FUNC_PROTO
    14: (4, 0),  # VAR
    15: (0, 12),  # DATASEC
    16: (0, 0),  # FLOAT
    17: (4, 0),  # DECL_TAG
    18: (0, 0),  # TYPE_TAG
    19: (0, 12),  # ENUM64
}
"""Kind to the bytes behind a type's 12: fixed, and for each of its `vlen` parts."""
_MOST_MEMBERS = 1 << 18
_MOST_QUALIFIERS = 8


@dataclass(frozen=True, slots=True)
class _Types:
    """All types: `places[i]` is where type i begins in `data`; 0 is void."""

    data: bytes
    endian: str
    places: tuple[int, ...]
    strings: bytes

    def header(self, index: int) -> tuple[int, int, int]:
        """Name offset, info, and size or type."""
        name, info, size = struct.unpack_from(f"{self.endian}III", self.data, self.places[index])
        return name, info, size


def structures(btf: bytes, names: Iterable[str] | None = None) -> Mapping[str, Structure]:
    """Lay out the structures of these names, by default all; a bit field is at the offset of its first byte.

    Members of unnamed structures and unions inside belong to the structure, as in C. A name with two
    different definitions is left out. KdiffError `btf.*` if the bytes are no sound BTF.
    """
    found = when_asked(btf)
    wanted = found if names is None else [name for name in sorted(set(names)) if name in found]
    return MappingProxyType({name: found[name] for name in wanted})


def when_asked(btf: bytes) -> Mapping[str, Structure]:
    """The same as all `structures`, each laid out when it is asked for: a kernel has thousands, few of use.

    KdiffError `btf.*` also then.
    """
    return _Structures(_read(btf))


class _Structures(Mapping[str, Structure]):
    """Name -> structure, of those with a single definition."""

    def __init__(self, types: _Types) -> None:
        self._types = types
        self._known: dict[str, Structure | None] = {}

    def __getitem__(self, name: str) -> Structure:
        if name not in self._known:
            self._known[name] = self._laid_out(name)
        found = self._known[name]
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name in sorted(self._indices) if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @cached_property
    def _indices(self) -> Mapping[str, list[int]]:
        """The types that are structures, by name."""
        named: dict[int, list[int]] = {}
        unpack = struct.Struct(f"{self._types.endian}II").unpack_from
        for index, place in enumerate(self._types.places[1:], 1):
            name, info = unpack(self._types.data, place)
            if name and info >> 24 & 0x1F == _STRUCT:
                named.setdefault(name, []).append(index)
        found: dict[str, list[int]] = {}
        for offset, indices in named.items():
            found.setdefault(_string(self._types, offset), []).extend(indices)
        return found

    def _laid_out(self, name: str) -> Structure | None:
        """None for a name with no definition, or with different ones."""
        types = self._types
        made = [Structure(types.header(i)[2], _members(types, i)) for i in self._indices.get(name, ())]
        return made[0] if made and made.count(made[0]) == len(made) else None


def _read(btf: bytes) -> _Types:
    if len(btf) < _HEADER:
        raise KdiffError("btf.truncated", f"{len(btf)} bytes cannot hold a BTF header")
    endian = "<" if btf[:2] == b"\x9f\xeb" else ">"
    magic, version, _, header, type_at, type_size, string_at, string_size = struct.unpack_from(
        f"{endian}HBBIIIII", btf
    )
    if magic != _MAGIC or version != 1:
        raise KdiffError("btf.magic", f"magic {magic:#x} and version {version} are not BTF version 1")
    types_end, strings_end = header + type_at + type_size, header + string_at + string_size
    if header < _HEADER or max(types_end, strings_end) > len(btf):
        raise KdiffError("btf.truncated", "the type information is cut off")
    strings = bytes(btf[header + string_at : strings_end])
    if not strings or strings[0] or strings[-1]:
        raise KdiffError("btf.strings", "the table of strings does not begin and end with an empty string")
    return _Types(btf, endian, tuple(_places(btf, endian, header + type_at, types_end)), strings)


def _places(data: bytes, endian: str, start: int, end: int) -> Iterator[int]:
    yield 0
    info_at = struct.Struct(f"{endian}4xI").unpack_from
    place = start
    while place < end:
        if place + 12 > end:
            raise KdiffError("btf.truncated", f"the type at {place:#x} is cut off")
        (info,) = info_at(data, place)
        tail = _TAIL.get(info >> 24 & 0x1F)
        if tail is None:
            raise KdiffError("btf.kind", f"unknown kind {info >> 24 & 0x1F} at {place:#x}")
        size = 12 + tail[0] + tail[1] * (info & 0xFFFF)
        if place + size > end:
            raise KdiffError("btf.truncated", f"the type at {place:#x} is cut off")
        yield place
        place += size


def _members(types: _Types, index: int) -> Mapping[str, int]:
    members = {}
    waiting = [(index, 0)]
    looked_at = 0
    while waiting:
        index, base = waiting.pop()
        _, info, _ = types.header(index)
        start = types.places[index] + 12
        for place in range(start, start + 12 * (info & 0xFFFF), 12):
            name, kind, offset = struct.unpack_from(f"{types.endian}III", types.data, place)
            byte = base + (offset & 0xFFFFFF if info >> 31 else offset) // 8
            if name:
                members[_string(types, name)] = byte
            elif inner := _unqualified(types, kind):
                waiting.append((inner, byte))
            looked_at += 1
        if looked_at > _MOST_MEMBERS:
            raise KdiffError(
                "btf.nesting", f"type {index} has over {_MOST_MEMBERS} members or contains itself"
            )
    return MappingProxyType(dict(sorted(members.items(), key=lambda item: item[1])))


def _unqualified(types: _Types, index: int) -> int:
    """The structure or union that a type is, behind `const` and `volatile`; 0 if it is something else."""
    for _ in range(_MOST_QUALIFIERS):
        if not 0 < index < len(types.places):
            return 0
        _, info, target = types.header(index)
        kind = info >> 24 & 0x1F
        if kind in (_STRUCT, _UNION):
            return index
        if kind not in (9, 10):
            return 0
        index = target
    return 0


def _string(types: _Types, offset: int) -> str:
    if offset >= len(types.strings):
        raise KdiffError("btf.strings", f"string offset {offset:#x} is outside of the table")
    end = types.strings.index(0, offset)
    return types.strings[offset:end].decode("utf-8", "surrogateescape")

# SPDX-License-Identifier: Apache-2.0
"""The sizes of structures by name, from the debugging information of an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from kdiff.arch import Architecture
from kdiff.elf.debug import has_types
from kdiff.elf.read import Object
from kdiff.errors import KdiffError
from kdiff.layouts import types_of


def size_of(obj: Object, arch: Architecture) -> Mapping[str, int]:
    """Bytes of each structure that the object declares in one way only; none where nothing can be read."""
    if not has_types(obj):
        return {}
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
    found = cache(lambda: size_of(obj, arch))
    return lambda name: found().get(name, 0)

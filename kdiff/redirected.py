# SPDX-License-Identifier: Apache-2.0
"""Functions that a kernel in use has redirected, out of livepatch's own list.

In: a memory. Out: the address of each such function, and of the code that runs in its place: the newest of
its successors (kernel/livepatch/patch.c, klp_ops and klp_ftrace_handler). Callers go on naming the old one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from kdiff.errors import KdiffError
from kdiff.kernel import Structure
from kdiff.memory import MemorySource

_NEEDED = {"klp_ops": ("node", "func_stack"), "klp_func": ("stack_node", "old_func", "new_func")}
_WORD = 8
_MOST = 1 << 16

NOTHING: Mapping[int, int] = MappingProxyType({})


def redirected(memory: MemorySource) -> Mapping[int, int]:
    """Old address to new, of 64-bit kernels; nothing where nothing has run yet, or no BTF describes the list.

    KdiffError `memory.redirected` if the list is broken.
    """
    if memory.pristine:
        return NOTHING
    head, structures = memory.address_book().address("klp_ops"), memory.facts().structures
    known = all(
        name in structures and set(members) <= structures[name].members.keys()
        for name, members in _NEEDED.items()
    )
    return MappingProxyType(dict(_pairs(memory, head, structures))) if head and known else NOTHING


def _pairs(memory: MemorySource, head: int, structures: Mapping[str, Structure]) -> Iterator[tuple[int, int]]:
    ops, function = structures["klp_ops"].members, structures["klp_func"].members
    seen = {head}
    at = _word(memory, head)
    while at != head:
        if at in seen or len(seen) > _MOST:
            raise _broken(at, "runs in circles")
        seen.add(at)
        newest = _word(memory, at - ops["node"] + ops["func_stack"]) - function["stack_node"]
        old, new = (_word(memory, newest + function[name]) for name in ("old_func", "new_func"))
        if old != new:  # a function that a patch takes back keeps an entry that leads to itself
            yield old, new
        at = _word(memory, at)


def _word(memory: MemorySource, address: int) -> int:
    data = memory.read(address, _WORD)
    if data is None:
        raise _broken(address, f"leads to {address:#x}, where no memory is")
    return int.from_bytes(data, "little")


def _broken(address: int, what: str) -> KdiffError:
    return KdiffError(
        "memory.redirected",
        f"the kernel's list of redirected functions {what}",
        place=f"{address:#x}",
        remedy="take the memory again, while no live patch is applied or undone",
    )

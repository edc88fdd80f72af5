# SPDX-License-Identifier: Apache-2.0
"""What a module's own code looks like, of functions of which an update replaces the code of a live patch.

In: an update, its units, and how to read a module's file. Out: the update, of which each such replacement
says what the module itself must hold. A module may be loaded long after the update was applied, and what is
then in it is its own code: that is what the update looks at (`Replacement.code`), not what it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from kdiff.addressbook import KERNEL
from kdiff.bind import Bound
from kdiff.elf.read import Object
from kdiff.errors import KdiffError
from kdiff.graph import SectionGraph
from kdiff.sites import sites
from kdiff.split import Kind
from kdiff.update import Replacement, Update

Read = Callable[[Object], SectionGraph]


def with_original_code(update: Update, units: tuple[Bound, ...], read: Read) -> Update:
    """Let an update know a module's own code where it was made of other code."""
    if not any(each.on and each.target != KERNEL for each in update.replacements):
        return update
    return replace(update, replacements=tuple(_with_original_code(update.replacements, units, read)))


def _with_original_code(
    replacements: Iterable[Replacement], units: tuple[Bound, ...], read: Read
) -> Iterable[Replacement]:
    graphs: dict[str, SectionGraph] = {}
    for each in replacements:
        module = units[each.unit].module
        if not each.on or module is None:
            yield each
            continue
        if each.target not in graphs:
            graphs[each.target] = read(module.file)
        entry = units[each.unit].run.entry(each.address)
        place = module.place(entry)
        code, known = fixed(graphs[each.target], place.section, place.offset) if place else (b"", b"")
        if not any(known):
            raise KdiffError(
                "module.original",
                f"the module's own code of {each.name}, at {entry:#x}, is not to be told from other code",
                place=module.file.path,
                remedy="undo the live patch below, and make one update of both patches",
            )
        yield replace(each, code=code, known=known)


def fixed(graph: SectionGraph, section: str, offset: int) -> tuple[bytes, bytes]:
    """A function's bytes where nothing but these can be once it is loaded, and the mask of them.

    Nothing is known of fields that the loader fills in and of sites that the kernel rewrites.
    """
    node = next(
        (
            node
            for node in graph.nodes
            if node.kind is Kind.FUNCTION and node.section_name == section and node.start == offset
        ),
        None,
    )
    if node is None:
        return b"", b""
    code, known = graph.contents(node), bytearray(b"\xff" * node.size)
    spans = [(each.offset, each.size) for each in sites(graph).get(node.id, ())]
    spans += [(each.offset, each.howto.size) for each in graph.references[node.id]]
    for start, size in spans:
        known[start : start + size] = bytes(min(size, node.size - start))
    return bytes(byte & mask for byte, mask in zip(code, known, strict=True)), bytes(known)

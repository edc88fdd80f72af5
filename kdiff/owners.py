# SPDX-License-Identifier: Apache-2.0
"""What belongs to what: table entries to the code they are about, nameless code to those who enter it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kdiff.kernel import Keep
from kdiff.split import Kind

if TYPE_CHECKING:
    from kdiff.elf.read import Object
    from kdiff.nodes import Node, Reference


def follows(entry: Node) -> bool:
    """Whether an entry travels with its owner."""
    return entry.table is not None and entry.table.keep is Keep.OWNER


def owners_of(nodes: Sequence[Node], references: Sequence[tuple[Reference, ...]]) -> Mapping[int, int]:
    """Entry -> owner, through the row's owner field or through the parallel table's entry of equal index."""
    owners: dict[int, int] = {}
    parallel: dict[tuple[str, int], int] = {}
    for node in nodes:
        if node.table is None:
            continue
        parallel[node.section_name, node.row] = node.id
        if node.table.owner is not None:
            for reference in references[node.id]:
                if reference.offset == node.table.owner:
                    owners[node.id] = reference.target
    for node in nodes:
        if node.table is not None and node.table.parallel:
            leader = parallel.get((node.table.parallel, node.row))
            if leader is not None and leader in owners:
                owners[node.id] = owners[leader]
    return owners


def behind_padding(nodes: Sequence[Node], target: int, addend: int) -> tuple[int, int]:
    """For a place in padding, or in code without a name: the function behind it, and the place in that."""
    if target + 1 >= len(nodes):
        return target, addend
    here, behind = nodes[target], nodes[target + 1]
    if behind.section != here.section or (here.names and addend < here.size):
        return target, addend
    return behind.id, here.start + addend - behind.start


def tails_of(nodes: Sequence[Node], references: Sequence[tuple[Reference, ...]]) -> frozenset[int]:
    """Code without a name behind the functions of a section that something refers to."""
    nameless = {node.id for node in nodes if node.kind is Kind.FUNCTION and node.start and not node.names}
    return frozenset(each.target for found in references for each in found if each.target in nameless)


def stands_alone(obj: Object, nodes: Sequence[Node], node: Node, marks: Sequence[str]) -> bool:
    """Whether a section, given by `nodes`, holds but a node and what `kdiff.lead` takes along with it.

    That is in front of it, named after it (`CodeAhead`), and refers to nothing: wherever the node goes, a
    branch from it to there stays right.
    """
    if len(nodes) == 1:
        return True
    before = nodes[0]
    if (
        len(nodes) > 2
        or nodes[1] is not node
        or before.kind is not Kind.FUNCTION
        or before.start >= node.start
    ):
        return False
    if not before.names or before.name not in {f"{mark}{name}" for mark in marks for name in node.names}:
        return False
    low, high = obj.relocation_bounds[node.section : node.section + 2].tolist()
    return low == high or int(obj.relocations["offset"][low]) >= node.start

# SPDX-License-Identifier: Apache-2.0
"""Who owns a table entry: the code its owner field names, or what owns the entry beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdiff.graph import Node, Reference


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

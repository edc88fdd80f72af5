# SPDX-License-Identifier: Apache-2.0
"""Stage 2 for matching alone: the graph of an object without the tables that matching does not need.

Most nodes of a unit are entries of the unwinder's tables. Matching asks tables only where memory may differ
from the compiler's bytes, so a table without such rows is left out, unless something else refers to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdiff.alike import Scope
from kdiff.arch import Architecture
from kdiff.elf.read import SHF_ALLOC, Object
from kdiff.graph import SectionGraph, build
from kdiff.habits import Habits
from kdiff.kernel import SpecialSection
from kdiff.split import Kind
from kdiff.structures import declared_sizes
from kdiff.tables import tables_of


def graph_to_match(
    obj: Object, arch: Architecture, special: Mapping[str, SpecialSection], habits: Habits
) -> SectionGraph:
    """The graph of an object, in which run-pre matching finds what it finds in the whole."""
    graph = build(obj, arch, special, habits, _needed(obj, arch, special))
    nameless = (n for n in graph.nodes if n.kind is Kind.FUNCTION and n.start and not n.names)
    if all(graph.is_piece(node) for node in nameless):
        return graph
    return build(obj, arch, special, habits)  # whether tables refer to that code decides what it is


def _needed(obj: Object, arch: Architecture, special: Mapping[str, SpecialSection]) -> Scope:
    tables = tables_of(obj, arch, special, declared_sizes(obj, arch))
    loaded = obj.sections["flags"] & SHF_ALLOC > 0
    leaders = {row.parallel for row in tables.values() if row.sites is not None}
    idle = [i for i, row in tables.items() if row.sites is None and obj.section_name(i) not in leaders]
    silent = np.zeros(len(obj.sections), bool)
    silent[idle] = True
    speaking = obj.relocations[(loaded & ~silent)[obj.relocations["section"]]]
    targets = obj.symbols["section"][speaking["symbol"]]
    silent[targets[targets < len(silent)]] = False
    return Scope(loaded & ~silent, loaded, {}, tables)

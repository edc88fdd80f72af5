# SPDX-License-Identifier: Apache-2.0
"""Stage 2 for matching alone: the graph of an object without the tables that matching does not need.

Most nodes of a unit are entries of the unwinder's tables. Matching asks tables only where memory may differ
from the compiler's bytes, so a table without such rows is left out, unless something else refers to it.
Where nothing has run yet, nothing has been rewritten, and all tables are left out that only tell of that.
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
    obj: Object, arch: Architecture, special: Mapping[str, SpecialSection], habits: Habits,
    pristine: bool = False,
) -> SectionGraph:  # fmt: skip
    """The graph of an object, in which run-pre matching finds what it finds in the whole.

    `pristine`: only for memory in which nothing has run yet (`MemorySource.pristine`).
    """
    graph = build(obj, arch, special, habits, _needed(obj, arch, special, pristine))
    nameless = (n for n in graph.nodes if n.kind is Kind.FUNCTION and n.start and not n.names)
    if all(graph.is_piece(node) for node in nameless):
        return graph
    return build(obj, arch, special, habits)  # whether tables refer to that code decides what it is


def _needed(obj: Object, arch: Architecture, special: Mapping[str, SpecialSection], pristine: bool) -> Scope:
    tables = tables_of(obj, arch, special, declared_sizes(obj, arch))
    loaded = obj.sections["flags"] & SHF_ALLOC > 0
    asked = {i for i, row in tables.items() if row.sites is not None and not pristine}
    leaders = {tables[i].parallel for i in asked}
    named = obj.names_of_sections()
    idle = [i for i, row in tables.items() if i not in asked and not row.ahead and named[i] not in leaders]
    silent = np.zeros(len(obj.sections), bool)
    silent[idle] = True
    speaking = obj.relocations.of((loaded & ~silent)[obj.relocations["section"]])
    targets = obj.symbols["section"][speaking["symbol"]]
    silent[targets[targets < len(silent)]] = False
    return Scope(loaded & ~silent, loaded, {}, tables)

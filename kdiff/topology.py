# SPDX-License-Identifier: Apache-2.0
"""A graph of nodes as networkx has it, for pictures; the only import of networkx.

Comparing two objects needs no more than `SectionGraph.closure`, and should not wait for this import.
"""

from __future__ import annotations

import networkx as nx

from kdiff.graph import SectionGraph


def topology(graph: SectionGraph) -> nx.DiGraph[int]:
    """Node ids, with an edge for each reference and from each owner to the entries that travel with it."""
    found: nx.DiGraph[int] = nx.DiGraph()
    found.add_nodes_from(range(len(graph.nodes)))
    for source in range(len(graph.nodes)):
        found.add_edges_from((source, target) for target in graph.leads_to(source))
    return found

# SPDX-License-Identifier: Apache-2.0
"""Static variables of one name in a function that changed: told apart by the code around their uses.

In: the same function in two graphs and, on either side, the variables of one name it uses. Out: the partner
of each variable of the pre object, if there is but one way to lay the uses side by side. The instructions
that refer to something are compared in order, from the front and from the back; where a use could stand
beside more than one other, the two disagree, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from kdiff.graph import Node, Reference, SectionGraph
from kdiff.insn import texts

Name = Callable[[Reference], Hashable]
"""What a reference's target is called on both sides."""
_MOST = 4000
"""References; laying longer lists side by side takes too long."""


def told_apart(
    pre: tuple[SectionGraph, Node, Name, Sequence[int]], post: tuple[SectionGraph, Node, Name, Sequence[int]]
) -> dict[int, int]:
    """(pre id -> post id) for all variables, or nothing; one more or less of them is never told apart."""
    most = max(len(graph.references[node.id]) for graph, node, *_ in (pre, post))
    if len(pre[3]) != len(post[3]) or most > _MOST:
        return {}
    ours, theirs = _uses(*pre[:3]), _uses(*post[:3])
    forth = _partners(ours, theirs, pre[3], post[3])
    back = _partners(ours[::-1], theirs[::-1], pre[3], post[3])
    return forth if forth == back else {}


def _uses(graph: SectionGraph, node: Node, name: Name) -> list[tuple[Hashable, int]]:
    """(what is done since the reference before, and to what; target) of each reference of a function."""
    found: list[tuple[Hashable, int]] = []
    contents = graph.contents(node)
    code = iter(texts(graph.arch, contents))
    for reference in graph.references[node.id]:
        done = []
        for at, size, text in code:
            plain = reference.offset < at + size
            short = plain or graph.arch.branch(contents[at : at + size]) is not None
            done.append(text.partition(" ")[0] if short else text)
            if plain:
                break
        found.append(((*done, reference.howto.name, reference.addend, name(reference)), reference.target))
    return found


def _partners(
    ours: list[tuple[Hashable, int]],
    theirs: list[tuple[Hashable, int]],
    mine: Sequence[int],
    others: Sequence[int],
) -> dict[int, int]:
    from difflib import SequenceMatcher

    matcher = SequenceMatcher(None, [use for use, _ in ours], [use for use, _ in theirs], autojunk=False)
    found: dict[int, set[int]] = {}
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            one, other = ours[block.a + step][1], theirs[block.b + step][1]
            if one in mine and other in others:
                found.setdefault(one, set()).add(other)
    sole = {one: next(iter(beside)) for one, beside in found.items() if len(beside) == 1}
    return sole if len(sole) == len(mine) == len(set(sole.values())) else {}

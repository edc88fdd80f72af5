# SPDX-License-Identifier: Apache-2.0
"""What a graph of an object is made of (stage 2): nodes, and references between them."""

from __future__ import annotations

from typing import NamedTuple

from kdiff.arch import Howto
from kdiff.habits import RemadeData, Standing
from kdiff.kernel import SpecialSection
from kdiff.naming import is_fragment
from kdiff.split import Kind


class Node(NamedTuple):
    """A node. `names`: the symbols at its start, preferred first; `label` is unique within the graph.

    `start` and `size` are bytes in section `section` (index; 0 for externs). `table` and `row` are set for
    entries of special sections only. A tuple, as a reference is, because they are made quickly.
    """

    id: int
    label: str
    kind: Kind
    section: int = 0
    section_name: str = ""
    start: int = 0
    size: int = 0
    align: int = 1
    names: tuple[str, ...] = ()
    local: bool = True
    weak: bool = False
    table: SpecialSection | None = None
    row: int = -1
    standing: Standing = Standing.ORDINARY
    remade: RemadeData | None = None
    """Set where macro or compiler makes this anew at each use."""

    @property
    def name(self) -> str:
        """The preferred symbol name, empty where there is none."""
        return self.names[0] if self.names else ""

    @property
    def is_fragment(self) -> bool:
        """Whether the compiler split it off another function (`foo.cold`): it is never entered by itself."""
        return self.kind is Kind.FUNCTION and is_fragment(self.name)


class Reference(NamedTuple):
    """A relocation seen from the graph: the field at `offset` of its node reaches `target` + `addend`.

    The stored value is target + addend + insn_addend + entry (- the field's address, or - `minus`: a node and
    an offset in it). `branch`: the field is the displacement of a jump or call. `entry`: where such a jump
    enters a function that its own module calls, counted from its address.
    """

    offset: int
    howto: Howto
    target: int
    addend: int
    insn_addend: int
    branch: bool
    minus: tuple[int, int] | None = None
    entry: int = 0

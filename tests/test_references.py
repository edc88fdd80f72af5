# SPDX-License-Identifier: Apache-2.0
"""What records say when they are looked at together is what each says alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compiled import ASSEMBLY, UNIT, WHOLE, compiled, graph_of
from hypothesis import given, settings
from linkoracle import Cross
from linkoracle import compiled as cross_compiled
from linkoracle import graph as cross_graph
from strategies import units
from test_linenumbers import AARCH64, LOONGARCH64, PPC64LE, RISCV64, S390X

from kdiff import references
from kdiff.arch import Architecture
from kdiff.graph import SectionGraph
from kdiff.howtos import Howtos, howtos_of

FAR_APART = """\
.data
.type first,@object
first: .quad second+4, .data+8, .data+20, gone+3, .text.f-0, .Ltext+2
.size first,48
.type second,@object
second: .quad first-16, second+100
.size second,16
.section .text.f,"ax"
.type f,@function
f: lea second+3(%rip),%rax; movl $7,second(%rip); cmpb $1,second-8(%rip); call gone; mov $.data+48,%rdx; ret
.size f,.-f
.section .rodata.str1.1,"aMS",@progbits,1
.Ltext: .string "one", "two"
"""


def said(graph: SectionGraph) -> list[list[tuple[object, ...]]]:
    """The references of all nodes, by names: nodes of other units are numbered as they are met."""
    return [
        [(*each[:2], graph.nodes[each.target].label, *each[3:]) for each in found]
        for found in graph.references
    ]


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every record be read by itself."""

    def none_alone(arch: Architecture) -> Howtos:
        howtos = howtos_of(arch)
        return replace(howtos, alone=howtos.alone & False)

    monkeypatch.setattr(references, "howtos_of", none_alone)


@settings(max_examples=30, deadline=None)
@given(units())
def test_records_say_together_what_they_say_alone(text: str) -> None:
    for options in ((), (WHOLE,)):
        together = graph_of(compiled(text, *options))
        with pytest.MonkeyPatch.context() as patch:
            alone(patch)
            assert said(graph_of(compiled(text, *options))) == said(together)
        assert any(together.references)


def test_places_far_from_their_symbols_are_told_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    together = graph_of(compiled(FAR_APART, ASSEMBLY))
    alone(monkeypatch)
    assert said(graph_of(compiled(FAR_APART, ASSEMBLY))) == said(together)
    assert sum(map(len, together.references)) == 13


@pytest.mark.parametrize(
    "cross", [AARCH64, LOONGARCH64, PPC64LE, RISCV64, S390X], ids=lambda c: c.architecture.name
)
def test_records_of_every_architecture_say_it(cross: Cross, monkeypatch: pytest.MonkeyPatch) -> None:
    together = cross_graph(cross, cross_compiled(cross, UNIT))
    alone(monkeypatch)
    assert said(cross_graph(cross, cross_compiled(cross, UNIT))) == said(together)
    assert any(together.references)

# SPDX-License-Identifier: Apache-2.0
"""Tests of what stands in front of a function: `__pfx_f`, `__cfi_f`, no-ops of patchable entries."""

from __future__ import annotations

import linkoracle
import pytest
from compiled import ASSEMBLY, UNIT, changes, delta, graph, labels
from kdiff_arch_aarch64 import ARCHITECTURE as AARCH64
from linkoracle import Cross, compiled

from kdiff.graph import SectionGraph


def unit(prefix: str, filler: str, *functions: tuple[str, int]) -> SectionGraph:
    """Functions of one section, each behind its prefix, which returns a number."""
    text = "".join(
        f".p2align 4\n.globl {prefix}{name}\n.type {prefix}{name},@function\n{prefix}{name}: {filler}\n"
        f".size {prefix}{name},.-{prefix}{name}\n.globl {name}\n.type {name},@function\n"
        f"{name}: mov ${number},%eax\nret\n.size {name},.-{name}\n"
        for name, number in functions
    )
    return graph(text, ASSEMBLY)


FORMS = [("__pfx_", ".fill 16,1,0x90"), ("__cfi_", ".fill 11,1,0x90; mov $0x12345678,%eax")]


@pytest.mark.parametrize(("prefix", "filler"), FORMS)
def test_the_prefix_of_a_changed_or_moved_function_is_no_change_of_its_own(prefix: str, filler: str) -> None:
    before = unit(prefix, filler, ("f", 1), ("g", 2))
    after = unit(prefix, filler, ("g", 2), ("f", 3))
    assert list(changes(before, after)) == ["f"]
    assert not delta(before, after).added
    assert not delta(before, after).removed


@pytest.mark.parametrize(("prefix", "filler"), FORMS)
def test_a_new_function_comes_with_its_prefix(prefix: str, filler: str) -> None:
    before, after = unit(prefix, filler, ("f", 1)), unit(prefix, filler, ("h", 4), ("f", 1))
    found = delta(before, after)
    assert not found.changed
    assert labels(after, found.added) == [f"{prefix}h", "h"]


BTI = Cross(
    AARCH64,
    "aarch64-linux-gnu-",
    ("-mgeneral-regs-only", "-mbranch-protection=bti", "-fpatchable-function-entry=4,2"),
    *(0x100000, 0x1000000, 0x1800000),
)
"""How arm64 compiles for call operations with BTI (arch/arm64/Makefile)."""


@linkoracle.needs(BTI)
@pytest.mark.parametrize(("old", "new", "name"), linkoracle.EDITS)
def test_no_ops_in_front_of_a_function_with_bti_change_nothing(old: str, new: str, name: str) -> None:
    before, after = (linkoracle.graph(BTI, compiled(BTI, text)) for text in (UNIT, UNIT.replace(old, new)))
    assert linkoracle.changed_functions(before, after) == [name]


@linkoracle.needs(BTI)
def test_the_linker_agrees_on_every_field_behind_no_ops_with_bti() -> None:
    assert not linkoracle.mismatches(linkoracle.link(BTI, compiled(BTI, UNIT)))


@pytest.mark.parametrize("protection", ["none", "branch"])
@pytest.mark.parametrize(("old", "new", "name"), linkoracle.EDITS)
def test_sixteen_no_ops_in_front_of_a_function_change_nothing(
    old: str, new: str, name: str, protection: str
) -> None:
    options = ("-fpatchable-function-entry=16,16", f"-fcf-protection={protection}")
    before, after = (graph(text, *options) for text in (UNIT, UNIT.replace(old, new)))
    assert linkoracle.changed_functions(before, after) == [name]

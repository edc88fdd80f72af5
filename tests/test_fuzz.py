# SPDX-License-Identifier: Apache-2.0
"""Broken files end in an error of kdiff, or in a result; benchmarks/bench_fuzz.py runs this for hours."""

from __future__ import annotations

from random import Random

import pytest
from fuzztargets import MANY, OBJECTS, Case, Target, judge, objects, others
from linkoracle import compiled
from test_plugin_arch_ppc64le import GCC

CASES = [*((target, case) for target in (OBJECTS, MANY) for case in objects()), *others()]
ROUNDS = 12


@pytest.mark.parametrize("target, case", CASES, ids=lambda value: value.name)
def test_a_broken_file_is_an_error_of_kdiff_or_harmless(target: Target, case: Case) -> None:
    assert judge(target, case.data, case.partner).key == ""
    random = Random(20261125)
    for _ in range(ROUNDS):
        outcome = judge(target, target.damage(case.data, random), case.partner)
        assert not outcome.bug, outcome.trace


OWN_WORD = """
.section .toc,"aw"
.quad .toc
.section .text.f,"ax"
.globl f
.type f,@function
f: addis 3,2,.toc@toc@ha
addi 3,3,.toc@toc@l
li 4,{}
blr
.size f,.-f
"""


def test_a_pool_word_that_is_its_own_address_is_no_way_to_go_on() -> None:
    pre, post = (compiled(GCC, OWN_WORD.format(each), language="assembler") for each in (1, 2))
    assert not judge(OBJECTS, pre, post).bug
    assert not judge(OBJECTS, pre, pre).bug

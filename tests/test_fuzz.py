# SPDX-License-Identifier: Apache-2.0
"""Broken files end in an error of kdiff, or in a result; benchmarks/bench_fuzz.py runs this for hours."""

from __future__ import annotations

from random import Random

import pytest
from fuzztargets import OBJECTS, Case, Target, judge, objects, others

CASES = [*((OBJECTS, case) for case in objects()), *others()]
ROUNDS = 12


@pytest.mark.parametrize("target, case", CASES, ids=lambda value: value.name)
def test_a_broken_file_is_an_error_of_kdiff_or_harmless(target: Target, case: Case) -> None:
    assert judge(target, case.data, case.partner).key == ""
    random = Random(20261125)
    for _ in range(ROUNDS):
        outcome = judge(target, target.damage(case.data, random), case.partner)
        assert not outcome.bug, outcome.trace

# SPDX-License-Identifier: Apache-2.0
"""The patches that benchmarks/bench_pairs.py builds and compares say what is expected of them."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from unidiff import PatchSet

LAB = Path(__file__).parents[1] / "benchmarks" / "pairlab.py"


def lab() -> ModuleType:
    spec = spec_from_file_location("pairlab", LAB)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["pairlab"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAIRLAB = lab()
CASES = PAIRLAB.cases()


def test_there_are_pairs_for_every_architecture() -> None:
    assert len(CASES) > 100
    machines = {build.name.removesuffix("-debug") for build in PAIRLAB.builds()}
    assert machines >= {"x86", "ppc64le", "s390x", "arm64", "loongarch"}
    for build in PAIRLAB.builds():
        assert sum(case.about(build) for case in CASES) > 80


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_pair_is_one_unit_and_has_an_expectation(case: object) -> None:
    patch = PatchSet(case.file.read_text())  # type: ignore[attr-defined]
    assert [each.path for each in patch] == [case.unit]  # type: ignore[attr-defined]
    rows = case.expected  # type: ignore[attr-defined]
    assert {verb for verb, _, _ in rows} <= {"changed", "new", "refused", "constant", "nothing"}
    assert any(not build for _, _, build in rows)
    assert all(bool(what) is (verb != "nothing") for verb, what, _ in rows)

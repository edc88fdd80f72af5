# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of stages times by name is there under that name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdiff import pipeline

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from bench_stages import STAGES


@pytest.mark.parametrize("function", STAGES)
def test_a_stage_that_is_timed_is_a_function_of_the_pipeline(function: str) -> None:
    assert callable(getattr(pipeline, function, None))

# SPDX-License-Identifier: Apache-2.0
"""Both matchers agree on changes of a real kernel's memory, and accept rewrites only."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from kdiff.addressbook import KERNEL
from kdiff.buildtree import BuiltUnit
from kdiff.confdir import read_config
from kdiff.distribution import KernelSetup
from kdiff.kbuild import pristine_units

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from bench_strictness import judged
from memorychanges import KINDS

pytestmark = pytest.mark.kernel

UNITS = ("fs/proc/cmdline.c", "mm/util.c", "net/ipv4/tcp_ipv4.c")


def test_engine_and_target_agree_and_accept_nothing_but_rewrites(kernel: KernelSetup, tmp_path: Path) -> None:
    config = read_config(kernel.config)
    counts: Counter[tuple[str, str]] = Counter()
    for unit in pristine_units(config, kernel.source, UNITS, say=print):
        path = tmp_path / Path(unit.source).with_suffix(".o").name
        path.write_bytes(unit.pre)
        _, found, wrong = judged(BuiltUnit(path.name, path, unit.source, KERNEL), 6, 60, 1)
        assert wrong == []
        counts.update(found)
    made = {kind: number for (kind, what), number in counts.items() if what == "made"}
    assert made.keys() == set(KINDS)
    assert min(made.values()) > 30, made
    allowed = {what for _, what in counts if what != "made"}
    assert all(what.endswith(" site") or what == "no-ops of another shape" for what in allowed)

# SPDX-License-Identifier: Apache-2.0
"""Stages 2 to 5 for one pair of objects, where no kernel is at hand: what would an update hold?

In: two `Object`s and the registry. Out: a `Plan`. Unless the whole is asked for, or pairs are given, large
objects are cut down first (`kdiff.narrow`), and of others graphs are made only of what is not alike in both
(`kdiff.alike`): the plan is the same, but it does not list what stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from kdiff.alike import alike
from kdiff.arch import Architecture
from kdiff.correlate import NOTHING, correlate
from kdiff.diff import diff
from kdiff.elf.read import Object
from kdiff.errors import KdiffError
from kdiff.graph import build
from kdiff.habits import Habits
from kdiff.kernel import KernelFacts
from kdiff.narrow import narrow
from kdiff.pairs import PairsFile, object_unit, wishes
from kdiff.plan import Plan, plan
from kdiff.registry import Registry
from kdiff.sectionrows import Rows

NO_FACTS = KernelFacts()
Compare = Callable[[Object, Object, bool, PairsFile | None], Plan]
"""Pre and post object, whether the whole is wanted, and what the author says of pairs."""


def comparer(plugins: Registry, facts: KernelFacts = NO_FACTS) -> Compare:
    """Return the comparison; what plugins know is asked once for each architecture."""

    @cache
    def rules(arch: Architecture) -> tuple[Rows, Habits]:
        known = replace(facts, machine=arch.name)
        return Rows(plugins.special_sections(known)), plugins.habits(known)

    def compare(pre: Object, post: Object, whole: bool, pairs: PairsFile | None) -> Plan:
        arch = plugins.architecture(pre.machine, pre.byte_order, pre.path)
        if plugins.architecture(post.machine, post.byte_order, post.path) is not arch:
            raise KdiffError("diff.architecture", "built for another architecture", place=post.path)
        if facts.machine not in ("", arch.name):
            raise KdiffError(
                "facts.machine", f"built for {arch.name}, the facts are of {facts.machine}", place=pre.path
            )
        return planned(pre, post, arch, *rules(arch), whole, pairs)

    return compare


def planned(
    pre: Object,
    post: Object,
    arch: Architecture,
    rows: Rows,
    habits: Habits,
    whole: bool = False,
    pairs: PairsFile | None = None,
) -> Plan:
    """Plan the update that turns one object into the other."""
    special = rows.special
    small = None if whole or pairs is not None else narrow(pre, post, arch, special, habits)
    if small is not None:
        pre, post = small.pre, small.post
    whole = whole or pairs is not None or small is not None
    common = None if whole else alike(pre, post, arch, rows, habits)
    before = build(pre, arch, special, habits, None if common is None else common.pre)
    after = build(post, arch, special, habits, None if common is None else common.post)
    wished = None
    if pairs is not None:
        chosen = [each for each in (*pairs.pin, *pairs.forbid) if object_unit(each, Path(pre.path))]
        wished = wishes(pairs, chosen, before, after)
    pairing = correlate(
        before,
        after,
        wished,
        NOTHING if common is None else common.sections,
        {} if small is None else small.places,
    )
    return plan(before, after, pairing, diff(before, after, pairing), "")

# SPDX-License-Identifier: Apache-2.0
"""Stages 2 to 5 for pairs of objects, where no kernel is at hand: what would an update hold?

In: two `Object`s and the registry. Out: a `Plan`. Unless the whole is asked for, or pairs are given, large
objects are cut down first (`kdiff.narrow`), and of others graphs are made only of what is not alike in both
(`kdiff.alike`): the plan is the same, but it does not list what stays the same. What is alike in many pairs
can be asked at once, which takes less time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from kdiff.alike import alike
from kdiff.arch import Architecture
from kdiff.correlate import NOTHING, correlate
from kdiff.diff import diff
from kdiff.elf.read import Object
from kdiff.elf.stack import Stack
from kdiff.errors import KdiffError
from kdiff.graph import SectionGraph, build, build_each
from kdiff.habits import Habits
from kdiff.kernel import KernelFacts
from kdiff.narrow import is_large, narrow
from kdiff.pairs import PairsFile, object_unit, wishes
from kdiff.plan import Plan, plan
from kdiff.registry import Registry
from kdiff.sectionrows import Rows

NO_FACTS = KernelFacts()


class Comparer:
    """The comparison of objects; what plugins know is asked once for each architecture."""

    def __init__(self, plugins: Registry, facts: KernelFacts = NO_FACTS) -> None:
        self._plugins, self._facts = plugins, facts
        self._rules: dict[Architecture, tuple[Rows, Habits]] = {}

    def __call__(self, pre: Object, post: Object, whole: bool, said: PairsFile | None) -> Plan:
        """`whole`: whether the graphs are wanted whole. `said`: what the author says of pairs."""
        arch = self._architecture(pre, post)
        return planned(pre, post, arch, *self._rules_of(arch), whole, said)

    def each(
        self, pairs: Sequence[tuple[Object, Object]], said: PairsFile | None = None
    ) -> list[Callable[[], Plan]]:
        """For each pair what returns its plan or raises its error; graphs are made of all pairs at once."""
        found: list[Callable[[], Plan]] = [partial(self, *pair, False, said) for pair in pairs]
        groups: dict[Architecture, list[int]] = {}
        for number, pair in enumerate(pairs if said is None else ()):
            with suppress(KdiffError):  # which its own comparison raises
                arch = self._architecture(*pair)
                if not is_large(*pair):
                    groups.setdefault(arch, []).append(number)
        for arch, numbers in groups.items():
            with suppress(KdiffError):  # each by itself tells which it is
                parts = _parts([pairs[each] for each in numbers], arch, *self._rules_of(arch))
                for number, part in zip(numbers, parts, strict=True):
                    found[number] = partial(_planned, *part)
        return found

    def _architecture(self, pre: Object, post: Object) -> Architecture:
        arch = self._plugins.architecture(pre.machine, pre.byte_order, pre.path)
        if self._plugins.architecture(post.machine, post.byte_order, post.path) is not arch:
            raise KdiffError("diff.architecture", "built for another architecture", place=post.path)
        if self._facts.machine not in ("", arch.name):
            raise KdiffError(
                "facts.machine",
                f"built for {arch.name}, the facts are of {self._facts.machine}",
                place=pre.path,
            )
        return arch

    def _rules_of(self, arch: Architecture) -> tuple[Rows, Habits]:
        found = self._rules.get(arch)
        if found is None:
            known = replace(self._facts, machine=arch.name)
            rows = Rows(self._plugins.special_sections(known))
            found = self._rules[arch] = rows, self._plugins.habits(known)
        return found


def planned(
    pre: Object,
    post: Object,
    arch: Architecture,
    rows: Rows,
    habits: Habits,
    whole: bool = False,
    said: PairsFile | None = None,
) -> Plan:
    """Plan the update that turns one object into the other."""
    if whole or said is not None:
        return _planned(*_graphs(pre, post, arch, rows, habits), NOTHING, said)
    small = narrow(pre, post, arch, rows.special, habits)
    if small is not None:
        return _planned(*_graphs(small.pre, small.post, arch, rows, habits), NOTHING, places=small.places)
    (part,) = _parts([(pre, post)], arch, rows, habits)
    return _planned(*part)


def _graphs(
    pre: Object, post: Object, arch: Architecture, rows: Rows, habits: Habits
) -> tuple[SectionGraph, SectionGraph]:
    return build(pre, arch, rows.special, habits), build(post, arch, rows.special, habits)


def _parts(
    pairs: Sequence[tuple[Object, Object]], arch: Architecture, rows: Rows, habits: Habits
) -> list[tuple[SectionGraph, SectionGraph, Mapping[int, int]]]:
    """Graphs of what is not alike in each pair, and which sections are (`Alike.sections`)."""
    pre, post = (Stack.of(objects) for objects in zip(*pairs, strict=True))
    common = alike(pre, post, arch, rows, habits)
    before = build_each(pre, arch, rows.special, habits, [each.pre for each in common])
    after = build_each(post, arch, rows.special, habits, [each.post for each in common])
    return list(zip(before, after, [each.sections for each in common], strict=True))


def _planned(
    before: SectionGraph, after: SectionGraph, same: Mapping[int, int], said: PairsFile | None = None,
    places: Mapping[tuple[int, int], tuple[int, int]] | None = None,
) -> Plan:  # fmt: skip
    wished = None
    if said is not None:
        path = Path(before.obj.path)
        chosen = [each for each in (*said.pin, *said.forbid) if object_unit(each, path)]
        wished = wishes(said, chosen, before, after)
    pairing = correlate(before, after, wished, same, places or {})
    return plan(before, after, pairing, diff(before, after, pairing), "")

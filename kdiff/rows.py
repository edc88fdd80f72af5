# SPDX-License-Identifier: Apache-2.0
"""Rows of two tables side by side, in columns: keys, joins, runs. Nothing here knows what the rows mean."""

from __future__ import annotations

import numpy as np

from kdiff.elf.read import Column
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Grouped:
    """Rows of integers in columns; `group`: a number for each row."""

    group: Column
    columns: tuple[Column, ...]

    def of(self, chosen: Column) -> Grouped:
        """Some rows: those of a column of numbers or of booleans."""
        if chosen.dtype == bool:
            chosen = chosen.nonzero()[0]
        return Grouped(self.group.take(chosen), tuple([each.take(chosen) for each in self.columns]))

    def in_groups(self) -> Grouped:
        """In the order of groups, those of one group as they are; without those of none (-1)."""
        if not np.count_nonzero(self.group[1:] < self.group[:-1]):
            return self if not len(self.group) or self.group[0] >= 0 else self.of(self.group >= 0)
        order = self.group.argsort(kind="stable")
        return self.of(order[self.group[order] >= 0])

    def sorted(self) -> Grouped:
        """In the order of groups, and of their columns."""
        return self.of(np.lexsort((*self.columns[::-1], self.group)))

    def same(self, other: Grouped, count: int) -> Column:
        """For each of `count` groups whether its rows are equal in both; both are in the order of groups."""
        ours, theirs = self, other
        before, after = (np.bincount(each.group, minlength=count) for each in (ours, theirs))
        same: Column = before == after
        if np.count_nonzero(same) < count:
            ours, theirs = ours.of(same.take(ours.group)), theirs.of(same.take(theirs.group))
        different = np.zeros(len(ours.group), bool)
        for mine, yours in zip(ours.columns, theirs.columns, strict=True):
            different |= mine != yours
        same[ours.group[different]] = False
        return same


def rows(
    ours: Column, theirs: Column, to_post: Column, wanted: Column
) -> tuple[Column, Column, Column, Column]:
    """Rows side by side, given the atom of each row, in order: (equal, pre rows, post rows, atom of each).

    `equal`: by pre atom, whether it has a pair with as many rows; those not `wanted` count as equal.
    """
    there = np.zeros(max(int(to_post.max(initial=0)), int(theirs.max(initial=0))) + 1, bool)
    there[theirs] = True
    chosen = there[to_post] & (to_post >= 0)
    chosen[ours] = True
    atoms = (chosen & wanted & (to_post >= 0)).nonzero()[0]
    begins, before = _spans(ours, atoms)
    begins_there, after = _spans(theirs, to_post[atoms])
    fit = before == after
    equal = np.ones(len(to_post), bool)
    equal[atoms[~fit]] = False
    atoms, counts = atoms[fit], before[fit]
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    one, other = (np.repeat(each[fit], counts) + within for each in (begins, begins_there))
    return equal, one, other, np.repeat(atoms, counts)


def _spans(ordered: Column, numbers: Column) -> tuple[Column, Column]:
    """Where each of `numbers` begins in an ordered column, and how often it is there."""
    first = np.searchsorted(ordered, numbers)
    return first, np.searchsorted(ordered, numbers, "right") - first


def runs(column: Column) -> list[slice]:
    """Ranges of equal rows, without gaps."""
    if not len(column):
        return []
    steps = column[1:] != column[:-1]
    breaks = ((steps.any(axis=1) if steps.ndim > 1 else steps).nonzero()[0] + 1).tolist()
    return [slice(a, b) for a, b in zip([0, *breaks], [*breaks, len(column)], strict=True)]


def packed(ours: list[Column], theirs: list[Column]) -> tuple[Column, Column]:
    """One number for each row of several columns, equal where the rows are."""
    count = len(ours[0])
    total = np.zeros(count + len(theirs[0]), "i8")
    for mine, yours in zip(ours, theirs, strict=True):
        _, number = np.unique(np.concatenate((mine, yours)), return_inverse=True)
        _, total = np.unique(total * (int(number.max(initial=0)) + 1) + number, return_inverse=True)
    return total[:count], total[count:]


def distinct(column: Column) -> Column:
    """The values of a column in order, each once. np.unique imports masked arrays for that, which is slow."""
    ordered = np.sort(column)
    found: Column = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    return found


def paired(ours: Column, theirs: Column) -> tuple[Column, Column]:
    """Positions of equal keys in either, the first of a key with the first, the second with the second."""
    one, other = (np.argsort(each, kind="stable") for each in (ours, theirs))
    keys, there = ours[one], theirs[other]
    rank = np.arange(len(keys)) - np.searchsorted(keys, keys)
    place = np.searchsorted(there, keys) + rank
    found = place < len(there)
    found[found] = there[place[found]] == keys[found]
    return one[found], other[place[found]]


def aligned(ours: Column, theirs: Column, most: int = 1000) -> list[tuple[int, int, int]]:
    """Equal keys side by side, in order: (place in one, in the other, how many).

    What differs is stepped over. Ends after `most` differences: columns with little in common cost no more.
    """
    found: list[tuple[int, int, int]] = []
    i = j = 0
    while i < len(ours) and j < len(theirs) and len(found) < most:
        count = _equal(ours[i:], theirs[j:])
        if count:
            found.append((i, j, count))
        i, j = i + count, j + count
        steps = _steps(ours[i:], theirs[j:])
        if steps is None:
            break
        i, j = i + steps[0], j + steps[1]
    return found


def _equal(ours: Column, theirs: Column) -> int:
    """How many keys at the start are equal."""
    size, done, step = min(len(ours), len(theirs)), 0, 64
    while done < size:
        end = min(done + step, size)
        differ = ours[done:end] != theirs[done:end]
        if differ.any():
            return done + int(differ.argmax())
        done, step = end, step * 4
    return size


def _steps(ours: Column, theirs: Column) -> tuple[int, int] | None:
    """How far ahead in either the nearest key lies that both have."""
    width = 64
    while len(ours) and len(theirs):
        _, one, other = np.intersect1d(ours[:width], theirs[:width], return_indices=True)
        if len(one):
            nearest = int((one + other).argmin())
            return int(one[nearest]), int(other[nearest])
        if width >= max(len(ours), len(theirs)):
            break
        width *= 16
    return None

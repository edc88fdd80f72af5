# SPDX-License-Identifier: Apache-2.0
"""Rows of two tables side by side, in columns: keys, joins, runs. Nothing here knows what the rows mean."""

from __future__ import annotations

import numpy as np

from kdiff.elf.read import Column


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
    atoms = np.flatnonzero(chosen & wanted & (to_post >= 0))
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
    breaks = (np.flatnonzero(steps.any(axis=1) if steps.ndim > 1 else steps) + 1).tolist()
    return [slice(a, b) for a, b in zip([0, *breaks], [*breaks, len(column)], strict=True)]


def packed(ours: list[Column], theirs: list[Column]) -> tuple[Column, Column]:
    """One number for each row of several columns, equal where the rows are."""
    count = len(ours[0])
    total = np.zeros(count + len(theirs[0]), "i8")
    for mine, yours in zip(ours, theirs, strict=True):
        _, number = np.unique(np.concatenate((mine, yours)), return_inverse=True)
        _, total = np.unique(total * (int(number.max(initial=0)) + 1) + number, return_inverse=True)
    return total[:count], total[count:]


def told_apart(keys: Column) -> Column:
    """Equal keys made different by their rank."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(keys) else np.zeros(0, "i8")
    rank = np.arange(len(keys)) - np.repeat(first, np.diff(np.append(first, len(keys))))
    found = np.zeros(len(keys), "i8")
    found[order] = ordered << 32 | rank
    return found


def joined(ours: Column, theirs: Column) -> tuple[Column, Column]:
    """Positions of the keys that both have, in either."""
    _, one, other = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    return one, other

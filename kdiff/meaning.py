# SPDX-License-Identifier: Apache-2.0
"""Whether records of two large objects mean the same, given what is paired.

In: `Pairs`, and records side by side as `Reach`. Out: a column with the answers. A record means the same if
it reaches paired atoms at one distance, the same entry of a table, or equal strings.
"""

from __future__ import annotations

import numpy as np

from kdiff.counterparts import Pairs
from kdiff.elf.read import Column
from kdiff.reach import OPERAND, Reach
from kdiff.rows import runs


def mean_the_same(pairs: Pairs, equal: Column, one: Reach, other: Reach) -> Column:
    """Whether records of the pre and of the post object mean the same, row by row.

    `equal`: of pre atoms, whether they hold the same bytes as their pair.
    """
    pre, post = pairs.pre, pairs.post
    same: Column = (one.kind == other.kind) & (one.whole == other.whole)
    ways, there = pre.obj.symbols["other"], post.obj.symbols["other"]
    same &= ways[one.symbol] == there[other.symbol]
    inside = one.defined & other.defined
    same &= one.whole | (one.addend == other.addend)
    outside = np.flatnonzero(~one.defined & ~other.defined & ~one.whole)
    ours, theirs = one.symbol[outside], other.symbol[outside]
    named = pre.symbol_ids[ours] == post.symbol_ids[theirs]
    named &= pre.obj.symbols["section"][ours] == post.obj.symbols["section"][theirs]
    reached = pairs.same_place(one.low, other.low, one.target, other.target)
    again = np.flatnonzero(one.unsure & inside)
    i, j = one[again], other[again]
    reached[again] &= j.unsure & pairs.same_place(i.high, j.high, i.target + OPERAND, j.target + OPERAND)
    home = pre.section[np.maximum(one.low, 0)]
    merged = np.flatnonzero(inside & pre.merged[home])
    reached[merged] = _same_text(pairs, equal, one[merged], other[merged])
    tables = np.flatnonzero(inside & pre.is_table[home])
    reached[tables] = _same_entry(pairs, one[tables], other[tables])
    reached &= inside
    reached[outside] = named
    same &= reached
    return same


def _same_entry(pairs: Pairs, one: Reach, other: Reach) -> Column:
    """Whether records reach the same entry of a table: by its owner, and its rank among that one's."""
    same = np.zeros(len(one.rows), bool)
    for number, table in pairs.pre.tables.items():
        there = pairs.post.tables.get(int(pairs.sections[number]))
        mine = np.flatnonzero((one.home == number) & (other.home == pairs.sections[number]))
        if there is None or there.row.entry_size != table.row.entry_size or not len(mine):
            continue
        owner, rank, within = pairs.pre.entry_at(table, one.target[mine])
        owner_there, rank_there, within_there = pairs.post.entry_at(there, other.target[mine])
        same[mine] = (owner >= 0) & (pairs.to_post[owner] == owner_there) & (rank == rank_there)
        same[mine] &= within == within_there
    return same


def _same_text(pairs: Pairs, equal: Column, one: Reach, other: Reach) -> Column:
    """Whether records reach equal strings, or equal constants of a section of such."""
    pre, post = pairs.pre, pairs.post
    homes = one.home, other.home
    same: Column = (pairs.sections[homes[0]] == homes[1]) & (one.unsure == other.unsure)
    ours, theirs = one.target - pre.base[homes[0]], other.target - post.base[homes[1]]
    same &= (ours >= 0) & (theirs >= 0) & (ours < pre.size[homes[0]]) & (theirs < post.size[homes[1]])
    easy = equal[one.low] & (pairs.to_post[one.low] == other.low) & (ours == theirs)
    chosen = np.flatnonzero(same & ~easy)
    chosen = chosen[np.lexsort((ours[chosen], homes[0][chosen]))]
    apart = np.column_stack([homes[0][chosen], theirs[chosen] - ours[chosen]])
    for run in runs(apart):
        part = chosen[run]
        home = int(homes[0][part[0]]), int(homes[1][part[0]])
        same[part] = _same_run(
            pairs, home, ours[part], int(theirs[part[0]] - ours[part[0]]), one.unsure[part]
        )
    return same


def _same_run(pairs: Pairs, home: tuple[int, int], begin: Column, apart: int, unsure: Column) -> Column:
    """Whether the texts at `begin` of a section equal those that are `apart` from them in the other."""
    pre, post = (
        np.frombuffer(s.obj.contents(h), "u1") for s, h in zip((pairs.pre, pairs.post), home, strict=True)
    )
    step = int(pairs.pre.obj.sections["entsize"][home[0]])
    furthest = begin + np.where(unsure, OPERAND, 0)
    begin = begin - begin % step
    if apart % step:
        return np.zeros(len(begin), bool)
    low, high = int(begin[0]), min(len(pre), len(post) - apart)
    ours, theirs = pre[low:high], post[low + apart : high + apart]
    furthest = furthest - low
    if pairs.pre.strings[home[0]]:
        ends = np.flatnonzero(ours[: int(furthest.max()) + 1] == 0)
        rest = np.flatnonzero(ours[int(furthest.max()) :][:4096] == 0)
        ends = np.append(ends, rest[:1] + int(furthest.max()))
        last = np.searchsorted(ends, furthest)
        stop = (
            np.where(last < len(ends), ends[np.minimum(last, len(ends) - 1)] if len(ends) else 0, len(ours))
            + 1
        )
    else:
        stop = furthest // step * step + step
    most = min(int(stop.max()), len(ours))
    different = np.flatnonzero(ours[:most] != theirs[:most])
    whole: Column = (np.searchsorted(different, begin - low) == np.searchsorted(different, stop)) & (
        stop <= len(ours)
    )
    return whole

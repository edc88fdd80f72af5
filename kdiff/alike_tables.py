# SPDX-License-Identifier: Apache-2.0
"""Stage 1, continued: which sections have table entries that say the same in both objects (`kdiff.alike`).

In: both sides, which sections are pairs, and what each record means. Out: by pre section, whether the entries
that are about it are equal, in each table. Tables of one name are looked at together, those of all pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kdiff.elf.read import Column
from kdiff.elf.stack import joined
from kdiff.rows import Grouped
from kdiff.sides import Side, Table
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Told:
    """A side and what its records say. `own`: the pre section of each of its sections, if it has one."""

    side: Side
    own: Column
    meaning: tuple[Column, ...]


def same_entries(pre: Told, post: Told, same_records: Column, found: Column) -> Column:
    """Those of the sections found to be alike whose entries say the same.

    A table without a counterpart says something else. `same_records`: by pre section.
    """
    ours, theirs = _by_name(pre.side), _by_name(post.side)
    same: Column = found.copy()
    open_: dict[tuple[object, ...], list[tuple[Table, Table]]] = {}
    for key in sorted(ours.keys() | theirs.keys()):
        mine, yours = ours.get(key, []), theirs.get(key, [])
        if len(mine) == len(yours) == 1 and mine[0].step == yours[0].step:
            before, after = mine[0], yours[0]
            if not _same_table(pre, post, before, after, same_records):
                ignored = before.row.ignored, after.row.ignored
                open_.setdefault((key[0], before.step, ignored), []).append((before, after))
        else:
            same &= ~_owners(pre, mine, len(same)) & ~_owners(post, yours, len(same))
    for tables in open_.values():
        befores, afters = zip(*tables, strict=True)
        entries, records = _entry_rows(pre, befores, same)
        entries_there, records_there = _entry_rows(post, afters, same)
        same &= entries.same(entries_there, len(same)) & records.same(records_there, len(same))
    return same


def _by_name(side: Side) -> dict[tuple[str, int], list[Table]]:
    """The tables whose entries are compared, by name and by the number of the pair."""
    found: dict[tuple[str, int], list[Table]] = {}
    for table in side.tables.values():
        if table.row.compared:
            key = side.section_name(table.section), side.stack.number(table.section)
            found.setdefault(key, []).append(table)
    return found


def _same_table(pre: Told, post: Told, before: Table, after: Table, same_records: Column) -> bool:
    """Whether two tables say the same, entry by entry, about the same code."""
    if post.own[after.section] != before.section or not same_records[before.section]:
        return False
    ours, theirs = pre.side.stack.contents(before.section), post.side.stack.contents(after.section)
    return bytes(ours) == bytes(theirs) and before.owners.tobytes() == post.own.take(after.owners).tobytes()


def _owners(told: Told, tables: Iterable[Table], count: int) -> Column:
    """The pre sections that entries of these tables are about."""
    marked = np.zeros(count, bool)
    for table in tables:
        homes = told.own[table.owners]
        marked[homes[homes > 0]] = True
    return marked


def _entry_rows(told: Told, tables: Sequence[Table], found: Column) -> tuple[Grouped, Grouped]:
    """Of those owners that are alike so far: the bytes of each entry, and the records of each entry.

    The tables have one name, and entries of one size.
    """
    side, step = told.side, tables[0].step
    counts = [len(table.owners) for table in tables]
    owner = told.own.take(joined([table.owners for table in tables]))
    order = ((owner > 0) & found.take(owner)).nonzero()[0]
    owners = owner.take(order)
    if np.count_nonzero(owners[1:] < owners[:-1]):
        order = order.take(owners.argsort(kind="stable"))
        owners = owner.take(order)
    data = [
        bytes(side.stack.contents(table.section))[: step * count].ljust(step * count, b"\0")
        for table, count in zip(tables, counts, strict=True)
    ]
    rows = np.frombuffer(b"".join(data), f"V{step}", len(owner)).take(order)
    for at, size in tables[0].row.ignored:
        rows.view("u1").reshape(-1, step)[:, at : at + size] = 0
    rank = np.full(len(owner), -1, "i8")
    rank[order] = np.arange(len(order))
    firsts = [0, *np.cumsum(counts).tolist()]
    entries = joined([table.entries + at for table, at in zip(tables, firsts, strict=False)])
    ranks = rank.take(entries)
    chosen = (ranks >= 0).nonzero()[0]
    ranks = ranks.take(chosen)
    if np.count_nonzero(ranks[1:] < ranks[:-1]):
        chosen = chosen.take(ranks.argsort(kind="stable"))
    columns = [
        joined([side.records.offset[table.records] - table.entries * step for table in tables]),
        *(joined([column[table.records] for table in tables]) for column in told.meaning),
    ]
    said = tuple([each.take(chosen) for each in columns])
    return Grouped(owners, (rows,)), Grouped(owner.take(entries.take(chosen)), said)

# SPDX-License-Identifier: Apache-2.0
"""Keys side by side."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdiff.rows import aligned, distinct, paired

KEYS = st.lists(st.integers(-2, 6), max_size=40)


@settings(deadline=None)
@given(KEYS, KEYS)
def test_the_first_of_a_key_is_paired_with_the_first_and_so_on(ours: list[int], theirs: list[int]) -> None:
    one, other = paired(np.array(ours, "i8"), np.array(theirs, "i8"))
    found = set(zip(one.tolist(), other.tolist(), strict=True))
    expected = set()
    for key in set(ours) & set(theirs):
        places = ([i for i, each in enumerate(side) if each == key] for side in (ours, theirs))
        expected |= set(zip(*places, strict=False))
    assert found == expected


@settings(deadline=None)
@given(KEYS, KEYS, st.integers(1, 9))
def test_what_lies_side_by_side_is_equal_and_in_order(ours: list[int], theirs: list[int], most: int) -> None:
    i = j = 0
    runs = aligned(np.array(ours, "i8"), np.array(theirs, "i8"), most)
    for one, other, count in runs:
        assert count > 0
        assert one >= i
        assert other >= j
        assert ours[one : one + count] == theirs[other : other + count]
        i, j = one + count, other + count
    assert len(runs) <= most


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=300, unique=True), st.data())
def test_nothing_is_left_over_but_what_was_added_and_removed(keys: list[int], data: st.DataObject) -> None:
    choose = st.lists(st.booleans(), min_size=len(keys), max_size=len(keys))
    ours, theirs = (
        [key for key, kept in zip(keys, data.draw(choose), strict=True) if kept] for _ in range(2)
    )
    numbers = {key: number for number, key in enumerate(keys)}
    columns = (np.array([numbers[key] for key in side], "i8") for side in (ours, theirs))
    assert sum(count for _, _, count in aligned(*columns)) == len(set(ours) & set(theirs))


@settings(deadline=None)
@given(KEYS)
def test_distinct_values_come_in_order(keys: list[int]) -> None:
    assert distinct(np.array(keys, "i8")).tolist() == sorted(Counter(keys))

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdiff.addressbook import AddressBook

LINES = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.sampled_from("tD"), st.sampled_from("xy"))
)
"""Few names, addresses and owners, so that all of them repeat."""


@given(LINES)
def test_every_answer_is_what_reading_the_whole_table_finds(lines: list[tuple[str, int, str, str]]) -> None:
    book = AddressBook(iter(lines))
    rows = [
        (*line, sum((each[0], each[3]) == (line[0], line[3]) for each in lines[: at + 1]))
        for at, line in enumerate(lines)
    ]
    assert list(book.lines()) == lines
    assert list(book.entries) == rows
    for name in "abc":
        assert list(book.of_any(name)) == [row for row in rows if row[0] == name]
        for owner in "xy":
            found = [row for row in rows if (row[0], row[3]) == (name, owner)]
            assert list(book.named(name, owner)) == found
            assert [book.sympos(entry) for entry in book.named(name, owner)] == (
                [0] if len(found) == 1 else [row[4] for row in found]
            )
    for address in range(6):
        assert list(book.at(address)) == [row for row in rows if row[1] == address]
    assert list(book.only("x").lines()) == [line for line in lines if line[3] == "x"]
    assert list(book.joined(lines[:2]).entries) == list(AddressBook([*lines, *lines[:2]]).entries)


def test_columns_are_the_kernels_own_symbols() -> None:
    book = AddressBook.of_columns(["a", "b", "a"], [3, 1, 2], "tDd")
    assert list(book.lines()) == [
        ("a", 3, "t", "vmlinux"),
        ("b", 1, "D", "vmlinux"),
        ("a", 2, "d", "vmlinux"),
    ]
    assert (book.address("a"), book.address("b")) == (None, 1)


def test_columns_of_different_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="2, 1 and 2 symbols"):
        AddressBook.of_columns(["a", "b"], [1], "tt")

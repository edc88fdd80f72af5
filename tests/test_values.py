# SPDX-License-Identifier: Apache-2.0
"""kdiff's values behave as frozen dataclasses of the standard library do."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from kdiff import values


class Plain:
    """Two fields."""

    a: int
    b: str = "b"


class Rich:
    """One of every kind of field."""

    a: int
    parts: list[int] = dataclasses.field(default_factory=list)
    hidden: int = dataclasses.field(default=3, repr=False)
    aside: int = dataclasses.field(default=4, compare=False)
    made: dict[int, int] = dataclasses.field(default_factory=dict, init=False, compare=False)
    fixed: int = dataclasses.field(default=5, init=False)


class Checked:
    """Looks at what it is given."""

    a: int

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError(self.a)

    def __repr__(self) -> str:
        return "own"


class One:
    """One field."""

    a: int


class Empty:
    """No field."""


@values.dataclass(frozen=True, slots=True)
class Kept:
    """One that pickle finds by its name."""

    a: int
    b: tuple[int, ...] = ()


@values.dataclass(frozen=True, slots=True)
class Wider(Kept):
    """One that has further fields than its base."""

    c: int = 0


def both(body: type, **more: bool) -> tuple[Any, Any]:
    """The class as kdiff makes it, and as the standard library does."""
    ours, theirs = (
        make(frozen=True, slots=True, **more)(type(body.__name__, (), dict(vars(body))))
        for make in (values.dataclass, dataclasses.dataclass)
    )
    return ours, theirs


@pytest.mark.parametrize(
    "body, words",
    [
        (Plain, ({"a": 1}, {"a": 1, "b": "c"}, {"b": "c", "a": 2}, {}, {"c": 1})),
        (Rich, ({"a": 1}, {"a": 1, "parts": [2]}, {"a": 1, "hidden": 9}, {"a": 1, "aside": 7})),
        (Rich, ({"a": 1}, {"a": 1, "fixed": 1}, {"a": 1, "made": {}})),
        (Checked, ({"a": 1}, {"a": -1})),
        (One, ({"a": 1}, {"a": (1,)})),
        (Empty, ({},)),
    ],
)  # fmt: skip
def test_it_is_made_shown_and_compared_alike(body: type, words: tuple[dict[str, Any], ...]) -> None:
    ours, theirs = both(body)
    made = []
    for given in words:
        try:
            theirs(**given)
        except (TypeError, ValueError) as error:
            with pytest.raises(type(error)):
                ours(**given)
            continue
        made.append((ours(**given), theirs(**given)))
    assert made
    for mine, its in made:
        assert repr(mine).rpartition(".")[2] == repr(its).rpartition(".")[2]
        assert dataclasses.asdict(mine) == dataclasses.asdict(its)
        assert [mine == other for other, _ in made] == [its == other for _, other in made]
        assert mine != its
        assert mine.__eq__(its) is NotImplemented


def test_equal_values_have_equal_hashes() -> None:
    ours, _ = both(Plain)
    assert len({ours(1), ours(1, "b"), ours(2)}) == 2
    ours, _ = both(Empty)
    assert len({ours(), ours()}) == 1


def test_without_equality_a_value_equals_itself_only() -> None:
    ours, _ = both(Plain, eq=False)
    one = ours(1)
    assert one == one  # that is what is asked
    assert one != ours(1)
    assert len({one, ours(1)}) == 2


def test_factories_make_a_new_value_each_time() -> None:
    ours, _ = both(Rich)
    assert ours(1).parts is not ours(1).parts
    assert ours(1).made is not ours(1).made


@pytest.mark.parametrize("body", [Plain, Rich, One])
def test_nothing_of_it_can_be_changed(body: type) -> None:
    ours, _ = both(body)
    made = ours(1)
    for change in (lambda: setattr(made, "a", 2), lambda: setattr(made, "z", 2), lambda: delattr(made, "a")):
        with pytest.raises(AttributeError):
            change()
    assert made.a == 1
    assert not hasattr(made, "__dict__")


def test_it_can_be_replaced_and_pickled() -> None:
    made = Kept(1, (2,))
    assert dataclasses.replace(made, a=3) == Kept(3, (2,))
    assert pickle.loads(pickle.dumps(made)) == made


def test_what_is_not_frozen_is_no_value() -> None:
    with pytest.raises(TypeError):
        values.dataclass(frozen=False, slots=True)


def test_a_value_of_a_value_has_the_fields_of_both() -> None:
    made = Wider(1, b=(3,), c=4)
    assert (made.a, made.b, made.c) == (1, (3,), 4)
    assert made == Wider(1, (3,), 4)
    assert made != Kept(1, (3,))
    assert [each.name for each in dataclasses.fields(made)] == ["a", "b", "c"]
    assert not hasattr(made, "__dict__")

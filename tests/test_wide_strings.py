# SPDX-License-Identifier: Apache-2.0
"""Strings of wide characters, as EFI's names are: whole, never a character at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiled import changes, compiled, graph, graph_of, named
from hypothesis import given, settings
from hypothesis import strategies as some

from kdiff import registry
from kdiff.compare import Comparer
from kdiff.elf.read import read_bytes
from kdiff.elf.write import write
from kdiff.extract import extract
from kdiff.split import Kind

KINDS = {"u": "unsigned short", "U": "unsigned int", "L": "int"}
WORDS = ("db", "dbx", "", "KEK", "KEKx", "a long one")


def unit(kind: str, *words: str) -> str:
    uses = "".join(
        f'int f{number}(int a) {{ return use({kind}"{word}", a) + {number}; }}\n'
        for number, word in enumerate(words)
    )
    return f"typedef {KINDS[kind]} wide; int use(const wide *, int);\n{uses}"


def expected(pre: tuple[str, ...], post: tuple[str, ...]) -> list[str]:
    return [f"f{number}" for number, (one, other) in enumerate(zip(pre, post, strict=True)) if one != other]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_wide_string_is_one_node(kind: str) -> None:
    found = graph(unit(kind, "db", "dbx"))
    width = 2 if kind == "u" else 4
    contents = {found.contents(node) for node in found.nodes if node.kind is Kind.STRING}
    code = f"utf-{8 * width}-le"
    assert contents == {"db\0".encode(code), "dbx\0".encode(code)}


words = some.tuples(*(some.sampled_from(WORDS) for _ in range(3)))


@given(some.sampled_from(sorted(KINDS)), words, words)
@settings(deadline=None, max_examples=25)
def test_exactly_the_users_of_changed_wide_strings_change(
    kind: str, pre: tuple[str, ...], post: tuple[str, ...]
) -> None:
    before, after = (compiled(unit(kind, *each)) for each in (pre, post))
    assert sorted(changes(graph_of(before), graph_of(after))) == expected(pre, post)
    plan = Comparer(registry.load())(read_bytes(before), read_bytes(after), False, None)
    assert sorted(plan.post.nodes[each].label for _, each in plan.replaced) == expected(pre, post)


def test_a_changed_wide_string_is_told_as_text() -> None:
    (change,) = changes(graph(unit("u", "db")), graph(unit("u", "dbx"))).values()
    assert any("'dbx'" in cause.text for cause in change.causes)


def test_a_wide_string_travels_whole(tmp_path: Path) -> None:
    before, after = (read_bytes(compiled(unit("u", *each))) for each in (("db", "KEK"), ("dbx", "KEK")))
    made = extract(Comparer(registry.load())(before, after, True, None))
    again = graph_of(write(made.obj))
    held = b"".join(
        again.contents(again.nodes[each.target]) for each in again.references[named(again, "f0").id]
        if again.nodes[each.target].kind is not Kind.EXTERN
    )  # fmt: skip
    assert "dbx\0".encode("utf-16-le") in held

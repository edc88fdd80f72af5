# SPDX-License-Identifier: Apache-2.0
"""Line numbers of what a patch does not change."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdiff.lines import pin_lines, scan
from kdiff.texts import split_lines

GCC = shutil.which("gcc-12") or shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="needs gcc")


def numbers(source: str, *options: str) -> dict[str, int]:
    """What the compiler takes __LINE__ for at each `mark_N __LINE__` of a source."""
    found = re.findall(r"(mark_\d+) (\d+);", preprocessed(source, *options))
    return {mark: int(number) for mark, number in found}


def tokens(source: str, *options: str) -> list[str]:
    """What the compiler sees, __LINE__ left alone."""
    return preprocessed(source.replace("__LINE__", "line"), *options).split()


def preprocessed(source: str, *options: str) -> str:
    assert GCC is not None
    command = [GCC, "-E", "-P", "-pedantic-errors", *options, "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + source
    return done.stdout


def pinned(pristine: str, patched: str) -> str:
    """Pin `patched`, whose added lines end in `// new`, and whose removed lines end in `// old`."""
    remaining = [
        (n, line) for n, line in enumerate(split_lines(pristine), 1) if not line.endswith("// old\n")
    ]
    origin = [None if line.endswith("// new\n") else remaining.pop(0)[0] for line in split_lines(patched)]
    assert not remaining
    return pin_lines(patched, origin)


def safe_lines(source: str) -> list[int]:
    """Line numbers, from 1."""
    return [at + 1 for at in sorted(scan(source).safe) if at < len(split_lines(source))]


def test_an_unchanged_text_stays_as_it_is() -> None:
    assert pin_lines("a\nb\n", (1, 2)) == "a\nb\n"


def test_a_change_that_keeps_the_number_of_lines_needs_no_directive() -> None:
    assert pin_lines("a\nnew\nc\n", (1, None, 3)) == "a\nnew\nc\n"


def test_numbers_continue_after_inserted_and_after_deleted_lines() -> None:
    assert pin_lines("a\nnew\nnew\nb\nd\n", (1, None, None, 2, 4)) == (
        "a\nnew\nnew\n#line 2\nb\n#line 4\nd\n"
    )


def test_a_change_at_the_end_needs_no_directive() -> None:
    assert pin_lines("a\nnew\nnew", (1, None, None)) == "a\nnew\nnew"


@pytest.mark.parametrize(
    "source, safe",
    [
        ("a;\n/* b\nc\n*/ d;\ne;\n", [1, 2, 5]),
        ("a; // b \\\nc\nd;\n", [1, 3]),
        ("#define f(x) \\\n\tg(x \\\n\t, 1)\nb;\n", [1, 4]),
        ("#define Q '\"' /* a\nb */ c\nd;\n", [1, 3]),
        ("warn(a,\n     b,\n     c);\nd;\n", [1, 4]),
        ('s = "(" "a\\\nb";\nc = \'"\';\nd;\n', [1, 3, 4]),
        ("name\n(a);\nb;\n", [1, 3]),
        ("name /* why\n*/\n\n(a);\nb;\n", [1, 5]),
        ("#if 0\ndon't ( say \"so\n#endif\na;\n", [1, 2, 3, 4]),
        ("if (a\n#ifdef X\n && b\n#endif\n) c;\nd;\n", [1, 6]),
        ("#ifdef X\nf(a,\n#else\ng(b,\n#endif\n c);\nd;\n", [1, 2, 4, 7]),
        ("#if 0\n(((\n#else\na;\n#endif\nb;\n", [1, 4, 5, 6]),
    ],
)
def test_directives_go_only_where_they_cannot_disturb(source: str, safe: list[int]) -> None:
    assert safe_lines(source) == safe


def test_a_source_that_numbers_its_own_lines_is_left_alone() -> None:
    assert pin_lines("#line 7\nnew\na\n", (1, None, 2)) == "#line 7\nnew\na\n"


@needs_gcc
@pytest.mark.parametrize("option", ["-DX", "-UX"])
def test_numbers_hold_whichever_branch_the_change_is_in(option: str) -> None:
    old = (
        "mark_1 __LINE__;\n#ifdef X\nmark_2 __LINE__;\n#else\nmark_3 __LINE__;\n"
        "#endif\nmark_4 __LINE__;\n#ifndef X\nmark_5 __LINE__;\n#endif\nmark_6 __LINE__;\n"
    )
    new = old.replace("#ifdef X\n", "#ifdef X\na; // new\nb; // new\n").replace(
        "#ifndef X\n", "#ifndef X\nc; // new\n"
    )
    assert numbers(pinned(old, new), option) == numbers(old, option)
    assert numbers(new, option) != numbers(old, option)


@needs_gcc
def test_numbers_hold_behind_code_that_is_switched_off() -> None:
    old = "mark_1 __LINE__;\nmark_2 __LINE__;\nmark_3 __LINE__;\n"
    new = "mark_1 __LINE__;\n#if 0 // new\nmark_2 __LINE__;\n#endif // new\nmark_3 __LINE__;\n"
    assert numbers(pinned(old, new)) == {"mark_1": 1, "mark_3": 3}


@needs_gcc
def test_no_directive_gets_between_a_macro_and_its_arguments() -> None:
    old = "#define twice(x) x x\ntwice // old\n (mark_1) a;\nmark_2 __LINE__;\n"
    new = "#define twice(x) x x\nb; // new\nc; // new\ntwice // new\n (mark_1) a;\nmark_2 __LINE__;\n"
    done = pinned(old, new)
    assert "twice // new\n (mark_1)" in done
    assert numbers(done.replace("(mark_1)", "(x)")) == {"mark_2": 4}


# Any source and any change, against the real preprocessor ---------------------------------------------


@dataclass(frozen=True)
class Block:
    """Some lines (`@` becomes a number), and one more that a change may put before line `at`."""

    lines: tuple[str, ...]
    at: int = 0
    more: str = "new;\n"


PLAIN = (
    Block(("mark_@ __LINE__;\n",)),
    Block(("if (a) {\n", "mark_@ __LINE__;\n", "}\n"), 1),
    Block(("/* it's a\n", " * (comment */ mark_@ __LINE__;\n"), 1, " \" more '\n"),
    Block(("// it's \\\n", " (more\n"), 1, "and ( more \\\n"),
    Block(('s("a ( \\\n', 'b" );\n'), 1, "and ( // more \\\n"),
    Block(("#define m@(a) (a \\\n", "\t+ __LINE__)\n"), 1, "\t+ a \\\n"),
    Block(("#define n@ /* (\n", "*/ ( __LINE__\n"), 1, " more\n"),
    Block(
        ("#define f@(...) x __VA_ARGS__\n", "f@(a,\n", "  \"(\", '(', /* ( */\n", "  b);\n"),
        2,
        "  c, /*\n)*/\n",
    ),
    Block(("#define twice@(x) x x\n", "twice@\n", "(a);\n"), 1),
    Block(("#define twice@(x) x x\n", "twice@\n", "(a);\n"), 2, "/* more */\n"),
    Block(("\n", "\f\n"), 1),
)
HEADS = st.sampled_from(["#if 0\n", "#if 1\n", "# ifdef X\n", "#ifndef X\n"])
Tree = st.SearchStrategy[list[Any]]


def conditional(inner: Tree) -> Tree:
    with_else = st.tuples(HEADS, inner, st.just("#else\n"), inner, st.just("#endif // (\n"))
    return with_else.map(list) | st.tuples(HEADS, inner, st.just("#endif\n")).map(list)


TREES: Tree = st.recursive(
    st.lists(st.sampled_from(PLAIN), max_size=4).map(list),
    lambda inner: st.lists(conditional(inner) | inner, max_size=3).map(list),
    max_leaves=12,
)


def blocks_of(tree: Any) -> list[Block]:
    if isinstance(tree, str):
        return [Block((tree,))]
    return [tree] if isinstance(tree, Block) else [block for each in tree for block in blocks_of(each)]


@needs_gcc
@settings(max_examples=100, deadline=None)
@given(TREES, st.data())
def test_every_unchanged_line_has_its_number_for_the_real_compiler(tree: Any, data: st.DataObject) -> None:
    before: list[str] = []
    after: list[str] = []
    origin: list[int | None] = []
    changed = set()
    for number, block in enumerate(blocks_of(tree)):
        structural = block.lines[0].startswith(("#if", "# if", "#else", "#endif"))
        changes = ["keep", "insert"] if structural else ["keep", "keep", "insert", "inside", "delete"]
        change = data.draw(st.sampled_from(changes))
        lines = [line.replace("@", str(number)) for line in block.lines]
        if change == "insert":
            after.append("new;\n")
            origin.append(None)
        for at, line in enumerate(lines):
            if change == "inside" and at == block.at:
                changed.add(f"mark_{number}")
                after += split_lines(block.more)
                origin += [None] * block.more.count("\n")
            before.append(line)
            if change != "delete":
                after.append(line)
                origin.append(len(before))
    plain = "".join(after)
    result = pin_lines(plain, origin)
    assert "".join(line for line in split_lines(result) if not line.startswith("#line ")) == plain
    for option in ("-DX", "-UX"):
        assert tokens(result, option) == tokens(plain, option)
        old, new = numbers("".join(before), option), numbers(result, option)
        assert {mark: at for mark, at in new.items() if mark not in changed} == {
            mark: old[mark] for mark in new if mark not in changed
        }

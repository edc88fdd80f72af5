# SPDX-License-Identifier: Apache-2.0
"""Branches that the configuration rules out: what is left is the same to the preprocessor."""

from __future__ import annotations

import subprocess
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdiff.configured import Configured, disputed

DEFINED = {b"CONFIG_Y": b"1", b"CONFIG_M_MODULE": b"1", b"CONFIG_N": b"5"}
NAMES = (b"CONFIG_Y", b"CONFIG_M", b"CONFIG_M_MODULE", b"CONFIG_N", b"CONFIG_OFF")
KNOWN = Configured(DEFINED, frozenset(NAMES))

ATOMS = st.sampled_from(
    [f"defined({name.decode()})" for name in NAMES]
    + [f"defined {name.decode()}" for name in NAMES]
    + [f"IS_ENABLED({name.decode()})" for name in NAMES]
    + ["0", "1", "defined(U)", "defined(V)", "U > 1", "F(2, 3)", "CONFIG_N > 4", "CONFIG_Y", "IS_ENABLED(U)"]
)
CONDITIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        inner.map("!({})".format),
        inner.map("({}) == 1".format),
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(" ".join),
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda each: f"({' '.join(each)})"),
    ),
    max_leaves=5,
)
OPENINGS = st.one_of(
    CONDITIONS.map("#if {}".format),
    st.sampled_from([name.decode() for name in NAMES] + ["U"]).map("#ifdef {}".format),
    st.sampled_from([name.decode() for name in NAMES] + ["U"]).map(" # ifndef {} /* why */".format),
)


def blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    branch = st.tuples(CONDITIONS.map("#elif {}".format), inner).map("\n".join)
    return st.builds(
        lambda opening, first, others, last: "\n".join(
            [opening, first, *others, *(["#else", last] if last is not None else []), "#endif"]
        ),
        OPENINGS,
        inner,
        st.lists(branch, max_size=2),
        st.none() | inner,
    )


LINES = st.integers(0, 99).map("int x{};".format)
TEXTS = st.recursive(
    LINES, lambda inner: st.one_of(blocks(inner), st.tuples(inner, inner).map("\n".join)), max_leaves=8
)


def preprocessed(text: bytes, *more: str) -> bytes:
    given = [f"-D{name.decode()}={value.decode()}" for name, value in DEFINED.items()]
    enabled = "-DIS_ENABLED(x)=E_##x"
    values = [f"-DE_{name}=1" for name in ("CONFIG_Y", "CONFIG_M", "CONFIG_M_MODULE")]
    done = subprocess.run(
        ["gcc", "-E", "-P", *given, enabled, *values, "-DF(a,b)=((a)<(b))", *more, "-"],
        input=text + b"\n",
        capture_output=True,
        check=True,
    )
    return b"".join(done.stdout.split())


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_what_is_left_is_the_same_to_the_preprocessor(text: str) -> None:
    left = KNOWN.settled(text.encode())
    for more in product(("-DU=1", "-DU=2", "-UU"), ("-DV", "-UV")):
        assert preprocessed(left, *more) == preprocessed(text.encode(), *more)
    assert KNOWN.settled(left) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("#ifdef CONFIG_Y\na\n#else\nb\n#endif\n", "a\n"),
        ("#ifdef CONFIG_OFF\na\n#endif\n", ""),
        ("#ifndef CONFIG_OFF\na\n#endif\n", "a\n"),
        ("#if IS_ENABLED(CONFIG_M)\na\n#endif", "a\n"),
        ("#if IS_BUILTIN(CONFIG_M)\na\n#endif", ""),
        ("#if IS_MODULE(CONFIG_M)\na\n#endif", "a\n"),
        ("#if IS_REACHABLE(CONFIG_M)\na\n#endif", "#if IS_REACHABLE(CONFIG_M)\na\n#endif\n"),
        ("#ifdef CONFIG_OTHER\na\n#endif", "#ifdef CONFIG_OTHER\na\n#endif\n"),
        ("#if defined(CONFIG_Y) || U > 3\na\n#endif", "a\n"),
        ("#if defined(CONFIG_Y) && U > 3\na\n#endif", "#if defined(CONFIG_Y) && U > 3\na\n#endif\n"),
        ("#if defined(CONFIG_OFF) && U > 3\na\n#endif", ""),
        ("#if defined(CONFIG_OFF) || \\\n    defined(CONFIG_Y)\na\n#endif", "a\n"),
        ("#if !defined(CONFIG_Y) == 0\na\n#endif", "#if !defined(CONFIG_Y) == 0\na\n#endif\n"),
        ("#if U ? 1 : defined(CONFIG_Y)\na\n#endif", "#if U ? 1 : defined(CONFIG_Y)\na\n#endif\n"),
        ("#if U\na\n#elif defined(CONFIG_Y)\nb\n#else\nc\n#endif", "#if U\na\n#else\nb\n#endif\n"),
        ("#ifdef CONFIG_OFF\na\n#elif U\nb\n#endif", "#if U\nb\n#endif\n"),
        ("#ifdef CONFIG_OFF\n#if U\na\n#endif\n#define B\n#else\nc\n#endif", "c\n"),
        ("#endif\n#else\na\n", "#endif\n#else\na\n"),
    ],
)
def test_what_is_left_of_conditions(text: str, left: str) -> None:
    assert KNOWN.settled(text.encode()) == left.encode()


@pytest.mark.parametrize(
    ("pre", "post", "words"),
    [
        ("#ifdef A\nx\n#endif\n#ifdef B\ny\n#endif\n", "#ifdef A\nx\n#endif\n#ifdef B\nz\n#endif\n", "B"),
        ("#ifdef A\nx\n#endif\n", "#ifdef A\nx\n#endif\ny\n", ""),
        ("#if A\nx\n#else\ny\n#endif\n", "#if A\nx\n#else\nz\n#endif\n", "A"),
        ("#ifdef CONFIG_A\nx\n#endif\n", "#ifdef CONFIG_B\nx\n#endif\n", "CONFIG_A CONFIG_B"),
        ("#ifdef A\nx\n#endif\n", "#ifdef A\n#endif\nx\n", "A"),
        ("#ifdef A\nx /* y */\n#endif\n", "#ifdef A\n\n x\n#endif\n", ""),
        ("#if A\n#ifdef B\n#endif\n#endif\n", "#if A\n#ifdef C\n#endif\n#endif\n", "A B C"),
    ],
)
def test_conditions_around_what_differs(pre: str, post: str, words: str) -> None:
    found = {word for word in disputed(pre.encode(), post.encode()) if not word.endswith(b"_MODULE")}
    assert found - {b"if", b"ifdef", b"else", b"define"} == set(words.encode().split())

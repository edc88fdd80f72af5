# SPDX-License-Identifier: Apache-2.0
"""Which units a changed header reaches: names, preprocessed texts, objects that are the same."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from difflib import unified_diff
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from updates import PATCHES, make

from kdiff.distribution import KernelSetup
from kdiff.elf.same import same_code
from kdiff.errors import Refused
from kdiff.macros import Part
from kdiff.mentions import Change, change, mentioning
from kdiff.parts import chunks, directives
from kdiff.pastes import Paste
from kdiff.pointers import Name
from kdiff.preprocess import Judge, bounds, declared, preprocess

ATTRIBUTES = "__attribute__((__gnu_inline__)) __attribute__((__unused__))"
HEADER = f"""\
struct thing {{ int a; }};
extern int far(struct thing *t);
static inline {ATTRIBUTES} int near(struct thing *t)
{{
	return t->a;
}}
int kept;
"""


@pytest.mark.parametrize(
    "text, names",
    [
        ("static inline __attribute__((__gnu_inline__)) int f(int (*g)(int)) { return 1; }", {"f"}),
        ("extern int f(int);", {"f"}),
        ("int *f(void) __attribute__((__cold__));", {"f"}),
        ("extern struct a b[];", {"b"}),
        ("struct foo { int a; struct { int c; }; } __attribute__((packed));", {"foo"}),
        ("struct __attribute__((packed)) foo { int a; };", {"foo"}),
        ("struct foo { struct __attribute__((__packed__)) bar { int a; } b; };", {"foo", "bar"}),
        ("enum __attribute__((mode(QI))) kind { ONE, TWO };", {"kind", "ONE", "TWO"}),
        ("struct foo { enum kind { ONE, TWO = 2 } x; };", {"foo", "kind", "ONE", "TWO"}),
        ("enum { A, B };", {"A", "B"}),
        ("struct foo;", set()),
        ("int f;", None),
        ("static int (*f)(int);", None),
        ("static int (*f[3])(int);", None),
        ("static int f = g(3);", None),
        ("static inline __attribute__((__used__)) int f(void) { }", None),
        ("static __attribute__((constructor)) inline void f(void) { }", None),
        ("struct foo { int a; } f;", None),
        ("struct foo { int a; } f = { 1 };", None),
        ("int f(void) { }", None),
        ("static int f(void) { }", None),
        ('asm("nop");', None),
        ('void f(int) __asm__("g");', None),
        ("int f(int), g(int);", None),
        ("static inline int f(void) { if (1) { }", None),
        ("#pragma pack(1)\nextern int f(int);", None),
    ],
)
def test_a_declaration_is_known_to_leave_nothing_behind_or_counts_as_code(
    text: str, names: set[str] | None
) -> None:
    expected = None if names is None else {name.encode() for name in names}
    assert declared(text.encode()) == expected


def test_what_may_be_a_macro_is_no_prototype_before_preprocessing() -> None:
    assert declared(b"DEFINE_THING(f);", expanded=False) is None
    assert declared(b"int f(int);", expanded=False) == {b"f"}
    assert declared(b"struct foo { int a; } __packed;", expanded=False) == {b"foo"}


@pytest.mark.parametrize(
    "old, new, user, affected",
    [
        ("return t->a", "return -t->a", "int x(void) { return 1; }", False),
        ("return t->a", "return -t->a", "int x(struct thing *t) { return near(t); }", True),
        ("return t->a", "return -t->a", 'asm("call near");', True),
        ("int a;", "int b, a;", "int x;", True),
        ("extern int far(struct thing *t);", "extern int far(int);", "int x;", False),
        ("extern int far(struct thing *t);", "extern int far(int);", "int x(void) { return far(0); }", True),
        ("int kept;", "int kept = 1;", "", True),
        ("int kept;", "int kept; static inline int more(void) { return 1; }", "", False),
        ("int kept;", "int kept; static int more(void) { return 1; }", "", True),
    ],
)
def test_a_unit_is_affected_if_it_uses_what_changes(old: str, new: str, user: str, affected: bool) -> None:
    assert HEADER.count(old) == 1
    pre, post = (f"int first;\n{text}\n{user}\n".encode() for text in (HEADER, HEADER.replace(old, new)))
    judge = Judge()
    assert judge.affected(pre, post) is affected
    assert judge.affected(b"int zero;\n" + pre, b"int zero;\n" + post) is affected
    assert not judge.affected(pre, pre)


def test_an_edit_that_is_known_is_not_taken_for_another() -> None:
    judge = Judge()
    pre, post = HEADER.encode(), HEADER.replace("return t->a", "return -t->a").encode()
    assert not judge.affected(pre, post)
    assert judge.affected(pre + b"int y;\n", post + b"int y = 2;\n")
    assert judge.affected(pre + b"int y;\n", post + b"int z;\n")


def test_markers_and_empty_lines_do_not_count_and_line_numbers_do(tmp_path: Path) -> None:
    texts = []
    for number, lines in enumerate(
        ("int a = 1;\n", "\n\n/* more */\nint a = 1;\n", "int a = __LINE__;\n" * 2)
    ):
        source = tmp_path / f"{number}.c"
        source.write_text(f'#include "{number}.h"\n{lines}')
        (tmp_path / f"{number}.h").write_text("")
        text = preprocess("gcc -Wp,-MMD,none.d", source, tmp_path)
        assert text is not None
        assert any(name.endswith(f"{number}.h") for name in text.files)
        texts.append(text.code)
    assert texts == [b"int a = 1;\n", b"int a = 1;\n", b"int a = 2;\nint a = 3;\n"]
    assert preprocess("gcc", tmp_path / "none.c", tmp_path) is None


def one_by_one(text: bytes) -> list[int]:
    """What `bounds` does, sign by sign."""
    found, depth, function = [0], 0, False
    for sign in re.finditer(rb""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[{}();]""", text):
        if sign[0] in (b"(", b"{"):
            if sign[0] == b"{" and depth == 0:
                function = text[: sign.start()].rstrip().endswith(b")")
            depth += 1
        elif sign[0] in (b")", b"}"):
            depth -= 1
            if depth == 0 and sign[0] == b"}" and function:
                found.append(sign.end())
        elif sign[0] == b";" and depth == 0:
            found.append(sign.end())
    return [*found, len(text)] if found[-1] != len(text) else found


@given(
    st.lists(st.sampled_from(list("(){};\" '\\\nax,=")), max_size=40).map(lambda each: "".join(each).encode())
)
def test_declarations_end_where_a_count_of_brackets_says(text: bytes) -> None:
    assert bounds(text) == one_by_one(text)


def test_declarations_end_behind_semicolons_and_bodies() -> None:
    text = b"int a; struct s { int b; } c; int f(void) { g(';'); } int d[] = { 1 };"
    parts = [text[left:right].strip() for left, right in pairwise(bounds(text))]
    assert parts == [
        b"int a;", b"struct s { int b; } c;", b"int f(void) { g(';'); }", b"int d[] = { 1 };"
    ]  # fmt: skip


# Names -----------------------------------------------------------------------------------------------


def changed_names(pre: bytes, post: bytes) -> frozenset[bytes] | None:
    found = change(pre, post).names
    return None if found is None else frozenset(name.word for name in found)


def test_names_of_what_differs_are_told_and_comments_are_not_differences() -> None:
    old = b"#define ONE 1 /* one */\nstatic inline int f(void)\n{\n\treturn ONE;\n}\n"
    assert not change(old, old.replace(b"/* one */", b"// two"))
    assert changed_names(old, old.replace(b"ONE 1", b"ONE \\\n 2")) == {b"ONE"}
    assert changed_names(old, old.replace(b"return ONE", b"return 2")) == {b"f"}
    assert changed_names(old, old + b"#define NEW\n") == {b"NEW"}
    assert not change(old, old.replace(b"\treturn", b"#line 9\n\treturn"))
    assert changed_names(b'#define A "a b"\n', b'#define A "a  b"\n') == {b"A"}
    assert not change(old, old + b"#ifdef NEW\n#endif\n")
    assert changed_names(old, old + b"#ifdef NEW\n#error no\n#endif\n") is None
    assert changed_names(old, old + b"DEFINE(x);\n") is None


TWO = b"#ifdef A\n#define X 1\n#else\n#define X 2\n#endif\nextern int y;\n#define Z 1\n"


@pytest.mark.parametrize(
    "old, new, names",
    [
        (b"ifdef A", b"ifdef B", {b"X"}),
        (b"ifdef A", b"ifndef A", {b"X"}),
        (b"X 1\n#else\n#define X 2", b"X 2\n#else\n#define X 1", {b"X"}),
        (b"#endif\nextern int y;\n", b"extern int y;\n#endif\n", {b"y"}),
        (b"#else\n", b"#elif B\n", {b"X"}),
        (b"extern int y;\n#define Z 1\n", b"#define Z 1\nextern int y;\n", {b"Z"}),
        (b"#ifdef A\n", b"#define A\n#ifdef A\n", {b"A"}),
        (TWO, b"#ifndef G\n" + TWO + b"#endif", {b"X", b"y", b"Z"}),
    ],
)
def test_what_moves_and_what_conditions_hold_has_changed(old: bytes, new: bytes, names: set[bytes]) -> None:
    found = changed_names(TWO, TWO.replace(old, new))
    assert found is not None
    assert found == names or (found, names) == ({b"y"}, {b"Z"})


THING = b"struct thing {\n\tint a;\n#ifdef A\n\tint b;\n#endif\n\tint c;\n};\n"
CUT = b"#ifdef A\nint f(void) {\n#else\nint f(int x) {\n#endif\n\treturn 1; }\nextern int y;\n"


@pytest.mark.parametrize(
    "text, old, new, names",
    [
        (THING, b"ifdef", b"ifndef", {b"thing"}),
        (THING, b"#endif\n\tint c;\n", b"\tint c;\n#endif\n", {b"thing"}),
        (THING, b"int b", b"long b", {b"thing"}),
        (CUT, b"int y", b"long y", None),
        (b"#ifdef A\nextern\n#endif\nint y;\n", b"ifdef", b"ifndef", None),
        (b"int f(void)\n#ifdef A\n{ return 1; }\n#else\n;\n#endif\n", b"1", b"2", None),
    ],
)
def test_conditions_inside_a_declaration_are_a_part_of_it(
    text: bytes, old: bytes, new: bytes, names: set[bytes] | None
) -> None:
    assert changed_names(text, text.replace(old, new)) == names


@pytest.mark.parametrize(
    "text, names",
    [
        (b"extern DECLARE_BITMAP(seen, 9);", None),
        (b"static DEFINE_LIMIT(seen, 5 * HZ);", None),
        (b"static int DEFINE_LIMIT(seen);", None),
        (b"extern int f(struct a *, size_t, u8 x, void (*g)(int), ...);", {b"f"}),
        (b"extern int f(void);", {b"f"}),
    ],
)
def test_what_a_macro_declares_is_not_known(text: bytes, names: set[bytes] | None) -> None:
    assert changed_names(b"", text) == names


def test_what_is_included_is_told_apart_from_names() -> None:
    old = b'#include <a.h>\n#include "b.h"\nextern int y;\n'
    assert change(old, old.replace(b"<a.h>", b"<c.h>")) == Change(
        frozenset(), frozenset({b"<a.h>"}), frozenset({b"<c.h>"})
    )
    assert changed_names(old, old.replace(b"<a.h>", b"MACRO(a)")) is None
    assert changed_names(old, old.replace(b"<a.h>", b"<a.h>\n#define Y")) == {b"Y"}


def test_a_string_is_no_comment() -> None:
    assert changed_names(b'#define A "/* 1 */"\n', b'#define A "/* 2 */"\n') == {b"A"}
    assert [part.text for part in chunks(b'#define A "//" /* x */ B\n')] == [b'#define A "//"   B']


class Tree(dict[str, bytes]):
    """Files, and which units see them: all see a header, but what only one names."""

    def __init__(self, texts: Mapping[str, bytes], private: Mapping[str, str] | None = None) -> None:
        super().__init__(texts)
        self.sources = [path for path in self if path.endswith(".c")]
        self.private = dict(private or {})

    def units(self, file: str) -> int:
        mine = self.private.get(file, file)
        return 1 << self.sources.index(mine) if mine in self.sources else (1 << len(self.sources)) - 1

    def find(self, words: Iterable[bytes]) -> dict[str, frozenset[bytes]]:
        wanted = frozenset(words)
        return {path: wanted & set(re.findall(rb"\w+", text)) for path, text in self.items()}

    def parts(self, path: str) -> list[Part]:
        return (directives if path in self.sources else chunks)(self[path])

    def users(self, *names: bytes, pastes: Iterable[Paste] = ()) -> set[str] | None:
        def pasted(wanted: Iterable[bytes]) -> list[Paste]:
            return [each for each in pastes if each.name in set(wanted)]

        found = mentioning(map(Name, names), self.units("all.h"), self, self.parts, pasted)
        if found is None:
            return None
        return {path for bit, path in enumerate(self.sources) if found >> bit & 1}


def test_a_name_is_followed_through_inline_functions_and_macros() -> None:
    tree = Tree(
        {
            "a.h": b"static inline int f_one( int x ) { return 1; }",
            "b.h": b"static inline int g( int x ) { return f_one( x ); }\n#define TWO g( 2 )\n",
            "direct.c": b"int a = f_one( 1 );",
            "through.c": b"int a = TWO ;",
            "none.c": b"int a;",
        }
    )
    assert tree.users(b"f_one") == {"direct.c", "through.c"}


def test_a_name_counts_only_for_those_who_see_where_it_is_used() -> None:
    tree = Tree(
        {
            "own.h": b"#define TWO f_one( 2 )\n",
            "first.c": b"int a = TWO ;",
            "second.c": b"enum { TWO };",
        },
        {"own.h": "first.c"},
    )
    assert tree.users(b"f_one") == {"first.c"}


def test_a_header_that_does_more_than_declare_is_used_by_all_who_see_it() -> None:
    tree = Tree({"a.h": b"DEFINE( f );", "a.c": b"", "b.c": b""})
    assert tree.users(b"f") == {"a.c", "b.c"}
    assert Tree(tree, {"a.h": "b.c"}).users(b"f") == {"b.c"}


def test_what_macros_paste_is_mentioned_where_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree({"a.h": b"#define IT CALL( get_ , thing )\n", "b.c": b"IT", "c.c": b""})
    (part,) = [each for each in tree.parts("a.h") if each.declares]
    paste = Paste("a.h", part, b"get_thing", 3)
    assert tree.users(b"get_thing") == set()
    assert tree.users(b"get_thing", pastes=[paste]) == {"b.c", "c.c"}  # few see it: not followed
    monkeypatch.setattr("kdiff.mentions._FEW", 1)
    assert tree.users(b"get_thing", pastes=[paste]) == {"b.c"}


def test_too_many_names_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdiff.mentions._MOST_NAMES", 1)
    tree = Tree({"a.h": b"#define IT get_thing\n", "b.c": b"IT"})
    assert tree.users(b"get_thing") is None
    assert tree.users(b"other") == set()


# Objects ---------------------------------------------------------------------------------------------


def compiled(folder: Path, text: str, *flags: str) -> bytes:
    (folder / "x.c").write_text(text)
    subprocess.run(["gcc", "-c", "-O2", "-ffunction-sections", *flags, "x.c"], cwd=folder, check=True)
    return (folder / "x.o").read_bytes()


@pytest.mark.parametrize(
    "new, same",
    [
        ("int f(int x) { return g(x) + 1; }\n\n\nint *p = &a;", True),
        ("int f(int x) { return g(x) + 2; }\nint *p = &a;", False),
        ("int f(int x) { return h(x) + 1; }\nint *p = &a;", False),
        ("int f(int x) { return g(x) + 1; }\nint *p = &b;", False),
        ("int f(int x) { return g(x) + 1; }\nint *p = &a;\nint more;", False),
        ("int f(int x) { return g(x) + 1; }\nint *p;", False),
    ],
)
def test_objects_are_the_same_if_only_debugging_information_differs(
    tmp_path: Path, new: str, same: bool
) -> None:
    head = "int g(int), h(int); extern int a, b;\n"
    first = compiled(tmp_path, head + "int f(int x) { return g(x) + 1; }\nint *p = &a;", "-g")
    assert same_code(first, compiled(tmp_path, head + new, "-g")) is same


# A real kernel ---------------------------------------------------------------------------------------


@pytest.mark.kernel
def test_a_changed_inline_function_replaces_its_callers(kernel: KernelSetup) -> None:
    said: list[str] = []
    package = make(kernel, PATCHES / "header.patch", said.append)
    replaced = package.manifest["replaced"]
    assert isinstance(replaced, list)
    assert [each["name"] for each in replaced] == ["proc_ipc_sem_dointvec"]
    unit = "compiling ipc/ipc_sysctl.c"
    assert {line for line in said if "compiling" in line} <= {f"{unit} (pre)", f"{unit} (post)"}


@pytest.mark.kernel
def test_a_changed_structure_is_refused_as_soon_as_a_unit_shows_it(
    kernel: KernelSetup, tmp_path: Path
) -> None:
    header = "include/linux/ipc_namespace.h"
    before = (kernel.source / header).read_text()
    after = before.replace("struct ipc_ids {\n", "struct ipc_ids {\n\tint more;\n")
    lines = (text.splitlines(keepends=True) for text in (before, after))
    patch = tmp_path / "grown.patch"
    patch.write_text("".join(unified_diff(*lines, f"a/{header}", f"b/{header}")))
    said: list[str] = []
    with pytest.raises(Refused) as caught:
        make(kernel, patch, said.append)
    assert {each.key for each in caught.value.refusals} == {"review.layout_changed"}
    compiled = {unit for line in said if "compiling" in line for unit in re.findall(r"\S+\.c", line)}
    assert len(compiled) <= 4  # fewer if some are kept from before
    (including,) = (int(found[1]) for line in said if (found := re.match(r"(\d+) units may include", line)))
    assert including > 2 * len(compiled)

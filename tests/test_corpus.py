# SPDX-License-Identifier: Apache-2.0
"""The difference of two trees is cut into patches that stand alone, and nothing of it is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from corpus import changelog, manifest, ties
from corpus.built import kept, users
from corpus.hunks import difference, owner, render
from corpus.split import Candidate, known_words, split

from kdiff.edits import patch_texts
from kdiff.patch import parse_patch

Cut = Callable[[Mapping[str, str], Mapping[str, str]], tuple[Candidate, ...]]
"""Takes two trees, each as texts by name."""
PAD = "".join(f"/* {number} */\n" for number in range(8))
FIRST = "int first(int a)\n{\n\treturn a;\n}\n"
SECOND = "static int second(int a)\n{\n\tint b = a;\n" + "\n" * 8 + "\treturn b;\n}\n"


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.fixture
def cut(tmp_path: Path) -> Cut:
    def cutting(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Candidate, ...]:
        one, other = tree(tmp_path / "before", before), tree(tmp_path / "after", after)
        hunks = difference(one, other)
        return split(hunks, *known_words(hunks, one, other), ties.find(hunks, one, other))

    return cutting


def test_hunks_of_different_functions_are_candidates_of_their_own(cut: Cut) -> None:
    before = FIRST + PAD + SECOND
    after = before.replace("return a;", "return a + 1;").replace("int b = a;", "int b = a * 2;")
    found = cut({"a.c": before}, {"a.c": after})
    assert [len(each.hunks) for each in found] == [1, 1]
    assert [each.hunks[0].declares for each in found] == [
        ("int first(int a)",),
        ("static int second(int a)",),
    ]


def test_hunks_of_one_function_stay_together(cut: Cut) -> None:
    after = SECOND.replace("int b = a;", "int b = a * 2;").replace("return b;", "return b - 1;")
    found = cut({"a.c": PAD + SECOND}, {"a.c": PAD + after})
    assert [len(each.hunks) for each in found] == [2]


def test_who_calls_a_new_helper_takes_it_along(cut: Cut) -> None:
    header = "#ifndef H\n#define H\n#endif\n"
    users = {"a.c": FIRST + PAD + SECOND, "b.c": FIRST}
    helped = {name: text.replace("return a;", "return clamped(a);") for name, text in users.items()}
    found = cut(
        {"h.h": header, **users},
        {"h.h": header.replace("H\n#endif", "H\nint clamped(int);\n#endif"), **helped},
    )
    assert sorted(each.paths for each in found) == [("a.c", "h.h"), ("b.c", "h.h")]
    assert {each.kind for each in found} == {"header"}


def test_the_end_of_a_helper_takes_its_callers_along_who_also_stand_alone(cut: Cut) -> None:
    header = "#ifndef H\n#define H\nint clamped(int);\n#endif\n"
    users = {"a.c": FIRST.replace("return a;", "return clamped(a);")}
    found = cut({"h.h": header, **users}, {"h.h": header.replace("int clamped(int);\n", ""), "a.c": FIRST})
    assert sorted(each.paths for each in found) == [("a.c",), ("a.c", "h.h")]


STRUCT = "struct %s {\n\tint size;\n" + PAD + "};\n"
"""A structure of some name."""
USER = '#include "h.h"\nint get(struct box *box)\n{\n\treturn box->size;\n}\n'


def test_who_uses_a_new_member_of_a_common_name_takes_it_along(cut: Cut) -> None:
    others = {"c.c": "int count(struct bag *bag)\n{\n\treturn bag->count;\n}\n"}
    header = STRUCT % "box"
    found = cut(
        {"h.h": header, "a.c": USER, **others},
        {
            "h.h": header.replace("size;", "size;\n\tint count;"),
            "a.c": USER.replace("box->size", "box->count"),
            "c.c": others["c.c"].replace("bag->count", "bag->count + 1"),
        },
    )
    assert sorted(each.paths for each in found) == [("a.c", "h.h"), ("c.c",)]


def test_a_member_of_another_type_changes_with_those_who_use_it(cut: Cut) -> None:
    header = STRUCT % "box" + STRUCT % "bag"
    found = cut(
        {"h.h": header, "a.c": USER, "b.c": USER.replace("box", "bag")},
        {
            "h.h": header.replace("int size;", "long size;", 1),
            "a.c": USER.replace("box->size", "(int)box->size"),
            "b.c": USER.replace("box", "bag").replace("bag->size", "(int)bag->size"),
        },
    )
    assert sorted(each.paths for each in found) == [("a.c", "h.h"), ("b.c",)]


def test_the_end_of_a_member_takes_its_users_along(cut: Cut) -> None:
    header = (STRUCT % "box").replace("size;", "size;\n\tint count;")
    user = USER.replace("box->size", "box->count")
    other = {"c.c": "int count;\n"}
    found = cut({"h.h": header, "a.c": user, **other}, {"h.h": STRUCT % "box", "a.c": USER, **other})
    assert sorted(each.paths for each in found) == [("a.c",), ("a.c", "h.h")]


def test_functions_behind_a_pointer_that_takes_another_argument_change_with_it(cut: Cut) -> None:
    header = (STRUCT % "box").replace("int size;", "int (*size)(int a);")
    user = f'#include "h.h"\nstatic {FIRST}{PAD}static struct box one = {{\n\t.size = first,\n}};\n'
    found = cut(
        {"h.h": header, "a.c": user, "b.c": user.replace("first", "other")},
        {name: text.replace("(int a)", "(long a)") for name, text in (("h.h", header), ("a.c", user))}
        | {"b.c": user.replace("first", "other").replace("return a", "return 1")},
    )
    assert sorted(each.paths for each in found) == [("a.c", "h.h"), ("b.c",)]


def test_a_member_may_be_reached_through_others_and_declared_between_directives(cut: Cut) -> None:
    box = "struct box {\n#if IS_ENABLED(CONFIG_BOX)\n\tint size;\n#endif\n};\n"
    header = box + "struct all {\n\tstruct box box;\n};\n"
    user = '#include "h.h"\nint get(struct all *all)\n{\n\treturn all->box.size;\n}\n'
    other = {"c.c": "int count;\n"}
    found = cut(
        {"h.h": header, "a.c": user, **other},
        {
            "h.h": header.replace("size;", "size;\n#endif\n#if IS_ENABLED(CONFIG_BOX)\n\tint count;"),
            "a.c": user.replace(".size", ".count"),
            **other,
        },
    )
    assert [each.paths for each in found] == [("a.c", "h.h")]


def test_the_name_of_a_member_does_not_tell_a_structure(cut: Cut) -> None:
    header = "struct all {\n\tvoid *box;\n};\nstruct bag {\n\tint size;\n};\n"
    user = '#include "h.h"\nint get(struct all *all)\n{\n\treturn ((struct bag *)all->box)->size;\n}\n'
    found = cut(
        {"h.h": header, "a.c": user},
        {name: text.replace("struct bag", "struct box") for name, text in (("h.h", header), ("a.c", user))},
    )
    assert [each.paths for each in found] == [("a.c", "h.h")]


def test_a_declaration_of_more_than_one_line_is_found_by_its_first(cut: Cut) -> None:
    header = (STRUCT % "box").replace("int size;", "int (*size)(int a,\n\t\t    int b);")
    user = f'#include "h.h"\nstatic {FIRST}{PAD}static struct box one = {{\n\t.size = first,\n}};\n'
    user = user.replace("(int a)", "(int a,\n\t\t int b)")
    found = cut(
        {"h.h": header, "a.c": user},
        {name: text.replace("int b)", "long b)") for name, text in (("h.h", header), ("a.c", user))},
    )
    assert [each.paths for each in found] == [("a.c", "h.h")]


def test_a_word_that_is_new_to_a_file_comes_with_the_header_that_has_it(cut: Cut) -> None:
    own = {"c.c": "static int clamped(int a)\n{\n\treturn a;\n}\n"}
    helped = FIRST.replace("return a;", "return clamped(a);")
    found = cut(
        {"h.h": "/* empty */\n", "a.c": f'#include "h.h"\n{FIRST}', "d.c": FIRST, **own},
        {"h.h": "int clamped(int);\n", "a.c": f'#include "h.h"\n{helped}', "d.c": helped, **own},
    )
    assert sorted(each.paths for each in found) == [("a.c", "h.h"), ("d.c",)]


def test_a_new_line_that_includes_a_header_comes_with_those_who_need_it(cut: Cut) -> None:
    header = {"h.h": "int clamped(int);\n"}
    text = "/* top */\n" + PAD + FIRST + PAD + SECOND
    after = '#include "h.h"\n' + text.replace("return a;", "return clamped(a);").replace(
        "return b;", "return 1;"
    )
    found = cut({"a.c": text, **header}, {"a.c": after, **header})
    assert sorted(len(each.hunks) for each in found) == [1, 2]


def test_a_function_of_a_type_that_changes_changes_with_it(cut: Cut) -> None:
    text = (
        f"typedef int (shape)(int a);\n{PAD}static {FIRST}{PAD}int run(void)\n{{\n\treturn call(first);\n}}\n"
    )
    found = cut({"a.c": text + PAD + SECOND}, {"a.c": (text + PAD + SECOND).replace("(int a)", "(long a)")})
    assert sorted(len(each.hunks) for each in found) == [1, 2]


def test_a_candidate_that_stays_keeps_its_place(cut: Cut) -> None:
    before = {f"{name}.c": FIRST for name in "abcdefgh"}
    after = {name: text.replace("return a", f"return {name[0]}") for name, text in before.items()}
    rows = manifest.rows(cut(before, after), {})
    earlier = tuple(reversed(rows))
    assert manifest.placed(rows, earlier) == earlier
    assert [row for row in manifest.placed(rows, earlier[:4]) if row in earlier[:4]] == list(earlier[:4])
    assert sorted(manifest.placed(rows, ()), key=lambda row: row.id) == sorted(rows, key=lambda row: row.id)


def test_a_function_that_takes_another_argument_changes_with_its_callers(cut: Cut) -> None:
    caller = "int third(void)\n{\n\treturn first(3);\n}\n"
    after = FIRST.replace("(int a)", "(int a, int b)")
    found = cut({"a.c": FIRST, "b.c": caller}, {"a.c": after, "b.c": caller.replace("(3)", "(3, 4)")})
    assert [each.paths for each in found] == [("a.c", "b.c")]


def test_a_parameter_on_a_line_of_its_own_is_one_too(cut: Cut) -> None:
    head = "static int\nfar(int a,\n    int b)\n{\n\treturn a;\n}\n"
    caller = "int third(void)\n{\n\treturn far(3, 4);\n}\n"
    for wider in (head.replace("int b)", "int b, int c)"), head.replace("int a,\n", "int a,\n    int c,\n")):
        found = cut(
            {"a.c": head + PAD + caller, "b.c": caller},
            {"a.c": wider + PAD + caller.replace("4", "4, 5"), "b.c": caller.replace("3", "7")},
        )
        assert [(each.paths, len(each.hunks)) for each in found] == [(("a.c",), 2), (("b.c",), 1)]


def test_a_macro_at_the_margin_declares_nothing(cut: Cut) -> None:
    texts = {"a.c": f"{FIRST}module_init(first);\n", "b.c": f"{SECOND}module_init(second);\n"}
    found = cut(texts, {name: text.replace("init(", "init( ") for name, text in texts.items()})
    assert [each.paths for each in found] == [("a.c",), ("b.c",)]


def test_comments_and_blank_lines_are_no_candidate(cut: Cut) -> None:
    assert cut({"a.c": FIRST + PAD}, {"a.c": FIRST + "\n/* more */\n" + PAD}) == ()


def test_static_functions_of_one_name_do_not_join_files(cut: Cut) -> None:
    after = SECOND.replace("second(int a)", "second(long a)")
    found = cut({"a.c": SECOND, "b.c": SECOND}, {"a.c": after, "b.c": after})
    assert [each.paths for each in found] == [("a.c",), ("b.c",)]


def test_boot_code_is_told_by_its_own_words(cut: Cut) -> None:
    boot = FIRST.replace("int first", "int __init first")
    found = cut(
        {"a.c": boot, "b.c": FIRST},
        {"a.c": boot.replace("return a", "return 5"), "b.c": FIRST.replace("return a", "return 5")},
    )
    assert [each.boot_only for each in found] == [True, False]


def test_a_new_file_comes_with_its_makefile(cut: Cut) -> None:
    found = cut(
        {"lib/Makefile": "obj-y += a.o\n"}, {"lib/Makefile": "obj-y += a.o\nobj-y += b.o\n", "lib/b.c": FIRST}
    )
    assert [(each.paths, each.kind) for each in found] == [(("lib/Makefile", "lib/b.c"), "new")]


def test_labels_and_closed_functions_own_nothing() -> None:
    text = (FIRST.replace("\treturn a;", "out:\n\treturn a;") + "\n" + PAD).split("\n")
    assert owner(text, 4) == 1
    assert owner(text, 7) == 0


def test_all_candidates_together_are_the_whole_difference(cut: Cut, tmp_path: Path) -> None:
    before = {"d/a.c": FIRST + PAD + SECOND + PAD + FIRST.replace("first", "last")}
    after = {
        "d/a.c": before["d/a.c"].replace("return b;", "return b;\n\tb++;").replace("int first", "long first")
        + "int end;\n"
    }
    candidates = cut(before, after)
    assert len(candidates) == 3
    whole = parse_patch(render(hunk for each in candidates for hunk in each.hunks).encode(), "all")
    edits = patch_texts(tmp_path / "before", whole)
    assert {name: edit.patched.text for name, edit in edits.items() if edit.patched} == after
    for each in candidates:
        patched = patch_texts(tmp_path / "before", parse_patch(each.patch.encode(), each.id))
        text = patched["d/a.c"].patched
        assert text is not None
        assert not text.moved


def test_files_that_are_not_built_are_left_out_of_a_candidate(cut: Cut) -> None:
    caller = "int third(void)\n{\n\treturn first(3);\n}\n"
    found = cut(
        {"a.c": FIRST, "b.c": caller, "Makefile": "x\n"},
        {
            "a.c": FIRST.replace("(int a)", "(int a, int b)"),
            "b.c": caller.replace("(3)", "(3, 4)"),
            "Makefile": "y\n",
        },
    )
    assert [each.paths for each in kept(found, frozenset({"a.c", "Makefile"}))] == [("a.c",)]
    assert kept(found, frozenset({"Makefile"})) == ()


CHANGELOG = """\
linux (6.1.187-1) bookworm-security; urgency=high

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.1.181
    - [x86] can: a: validate frame length in first()
      (CVE-2026-72114, CVE-2026-72115)
    - net: b: no more leaks (CVE-2026-1)

 -- Somebody <a@example.org>  Mon, 01 Jan 2026 00:00:00 +0000

linux (6.1.176-1) bookworm-security; urgency=high

    - net: b: old news (CVE-2025-1)
"""


def test_a_new_header_counts_for_those_who_will_include_it(tmp_path: Path) -> None:
    old = tree(tmp_path / "before", {"a.c": "", "old.h": "", "b.c": '#include "old.h"\n'})
    new = tree(tmp_path / "after", {"a.c": '#include "new.h"\n', "new.h": "", "old.h": ""})
    assert users(["new.h", "old.h"], old, new) == {"new.h": frozenset({"a.c"}), "old.h": frozenset({"b.c"})}


def test_a_line_of_the_changelog_goes_where_there_is_no_doubt(cut: Cut) -> None:
    found = changelog.entries(CHANGELOG, "6.1.176-1")
    assert [(each.title, each.cves) for each in found] == [
        ("can: a: validate frame length in first()", ("CVE-2026-72114", "CVE-2026-72115")),
        ("net: b: no more leaks", ("CVE-2026-1",)),
    ]
    one, two, other = FIRST + PAD + SECOND, FIRST + PAD + SECOND, SECOND
    candidates = cut(
        {"a.c": one, "b.c": other},
        {
            "a.c": two.replace("return a", "return 5").replace("return b", "return 6"),
            "b.c": other.replace("return b", "return 7"),
        },
    )
    about = changelog.attached(candidates, found)
    titles = {
        each.paths: [entry.subject for entry in about[each.id]] for each in candidates if each.id in about
    }
    assert titles == {("a.c",): ["a"], ("b.c",): ["b"]}


def test_a_manifest_is_read_as_it_was_written(cut: Cut, tmp_path: Path) -> None:
    candidates = cut(
        {"a.c": FIRST, "b.c": SECOND},
        {"a.c": FIRST.replace("5", "6").replace("a;", "5;"), "b.c": SECOND + FIRST},
    )
    rows = manifest.rows(candidates, {candidates[0].id: (changelog.Entry("x", ("CVE-1-1",)),)})
    manifest.write(tmp_path / "m.tsv", rows)
    assert manifest.read(tmp_path / "m.tsv") == rows
    assert [(row.paths, row.cves, row.added, row.removed) for row in rows] == [
        (("a.c",), ("CVE-1-1",), 1, 1),
        (("b.c",), (), 4, 0),
    ]

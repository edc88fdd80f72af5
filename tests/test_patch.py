# SPDX-License-Identifier: Apache-2.0
"""Reading unified diffs and applying them in memory."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdiff.errors import KdiffError, Refused
from kdiff.patch import NO_CODE, Patch, parse_patch, read_patch
from kdiff.texts import Patched, apply_change, decode, encode, pristine, split_lines

EXAMPLE = Path(__file__).parent.parent / "examples/tcp_ipv4.patch"
OLD = "".join(f"line {number}\n" for number in range(1, 31))
ONE = """\
--- a/net/core.c
+++ b/net/core.c
@@ -9,7 +9,8 @@ static int f(void)
 line 9
 line 10
 line 11
-line 12
+new 12
+new 12 and a half
 line 13
 line 14
 line 15
"""


def parse(text: str) -> Patch:
    return parse_patch(text.encode(), "x.patch")


def apply(text: str, old: str) -> Patched:
    result = pristine(old)
    for change in parse(text).changes:
        result = apply_change(change, result)
    return result


def key_of(text: str | bytes) -> str:
    """The key of the error or of the only refusal that parsing raises; each must explain itself."""
    try:
        parse_patch(text.encode() if isinstance(text, str) else text, "x.patch")
    except KdiffError as error:
        return error.key if error.message and error.place else "unexplained"
    except Refused as refused:
        (refusal,) = refused.refusals
        return refusal.key if refusal.reason and refusal.remedy else "unexplained"
    return "accepted"


def diff(old: str, new: str, path: str = "net/core.c", context: int = 3) -> str:
    lines = difflib.unified_diff(
        list(split_lines(old)), list(split_lines(new)), f"a/{path}", f"b/{path}", n=context
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def test_the_example_patch_changes_one_file() -> None:
    assert read_patch(EXAMPLE).paths == ("net/ipv4/tcp_ipv4.c",)


def test_a_hunk_replaces_its_lines_and_every_other_line_knows_its_origin() -> None:
    result = apply(ONE, OLD)
    assert result.text == OLD.replace("line 12\n", "new 12\nnew 12 and a half\n")
    assert result.origin == (*range(1, 12), None, None, *range(13, 31))
    assert result.moved == ()


def test_a_git_patch_with_a_message_and_a_signature_is_read() -> None:
    text = (
        "From 0123 Mon Sep 17 00:00:00 2001\nSubject: [PATCH] net: fix\n\n- a list\n+ in the text\n---\n"
        " net/core.c | 3 ++-\n 1 file changed\n\ndiff --git a/net/core.c b/net/core.c\n"
        f"index 0123abc..4567def 100644\n{ONE}-- \n2.39.2\n\n"
    )
    assert apply(text, OLD).text == apply(ONE, OLD).text


def test_two_patches_to_one_file_apply_one_after_the_other() -> None:
    between = apply(ONE, OLD).text
    last = between.replace("new 12 and a half\n", "").replace("line 20\n", "line 20\nnew 21\n")
    both = apply(ONE + diff(between, last), OLD)
    assert both.text == last
    assert [line for line, origin in zip(both.lines, both.origin, strict=True) if origin is None] == [
        "new 12\n",
        "new 21\n",
    ]


@pytest.mark.parametrize("shift", [-5, 40])
def test_a_hunk_is_found_where_its_lines_have_moved_to(shift: int) -> None:
    old = "".join(f"other {n}\n" for n in range(shift)) + OLD if shift > 0 else OLD[7 * -shift :]
    result = apply(ONE, old)
    assert "new 12\n" in result.text
    assert result.moved == (f"net/core.c:9: applied with an offset of {shift:+d} lines",)


def test_context_that_differs_in_one_letter_does_not_apply() -> None:
    with pytest.raises(KdiffError) as caught:
        apply(ONE, OLD.replace("line 14", "line 14 "))
    assert caught.value.key == "patch.does_not_apply"
    assert caught.value.place == "net/core.c:9"


@pytest.mark.parametrize(
    "old, fuzz, fits",
    [
        ("A\nb\nc\nd\ne\nf\ng\n", 0, False),
        ("A\nb\nc\nd\ne\nf\ng\n", 1, True),
        ("A\nB\nc\nd\ne\nf\nG\n", 1, False),
        ("A\nB\nc\nd\ne\nf\nG\n", 2, True),
        ("new\nA\nb\nc\nd\ne\nf\ng\n", 1, True),
        ("a\nb\nC\nd\ne\nf\ng\n", 2, False),
        ("a\nb\nc\nD\ne\nf\ng\n", 2, False),
    ],
)
def test_context_may_differ_at_the_ends_of_a_hunk_where_fuzz_is_asked_for(
    old: str, fuzz: int, fits: bool
) -> None:
    given = "a\nb\nc\nd\ne\nf\ng\n"
    (change,) = parse(diff(given, given.replace("d", "X"))).changes
    if not fits:
        with pytest.raises(KdiffError, match="does not apply"):
            apply_change(change, pristine(old), fuzz)
        return
    done = apply_change(change, pristine(old), fuzz)
    assert done.text == old.replace("d", "X")
    assert done.origin == tuple(None if line == "X\n" else at for at, line in enumerate(done.lines, 1))
    assert any("of context" in line for line in done.moved)


def test_a_moved_hunk_that_fits_twice_is_an_error() -> None:
    with pytest.raises(KdiffError) as caught:
        apply(ONE, "x\n" * 100 + OLD + OLD)
    assert caught.value.key == "patch.ambiguous"
    assert "109, 139" in caught.value.message


def test_a_hunk_that_fits_twice_goes_where_the_patch_says() -> None:
    result = apply(ONE, OLD + OLD)
    assert result.text == apply(ONE, OLD).text + OLD


def test_hunks_do_not_apply_out_of_order() -> None:
    hunks = ONE[ONE.index("@@") :]
    with pytest.raises(KdiffError) as caught:
        apply(ONE + hunks, OLD)
    assert caught.value.key == "patch.does_not_apply"


def test_a_patch_sent_with_dos_line_ends_applies_to_unix_source() -> None:
    assert apply(ONE.replace("\n", "\r\n"), OLD).text == apply(ONE, OLD).text


def test_a_patch_to_a_file_with_dos_line_ends_keeps_them() -> None:
    head, body = ONE[: ONE.index(" line 9")], ONE[ONE.index(" line 9") :]
    result = apply(head + body.replace("\n", "\r\n"), OLD.replace("\n", "\r\n"))
    assert result.text == apply(ONE, OLD).text.replace("\n", "\r\n")


def test_a_missing_line_end_at_the_end_of_the_file_is_kept_and_can_be_repaired() -> None:
    old = OLD + "last"
    assert apply(diff(old, OLD + "last\n"), old).text == OLD + "last\n"
    assert apply(diff(OLD + "last\n", old), OLD + "last\n").text == old


def test_a_file_made_with_orig_beside_it_is_the_file_itself() -> None:
    assert parse(ONE.replace("--- a/net/core.c", "--- a/net/core.c.orig")).paths == ("net/core.c",)


@pytest.mark.parametrize("name, strip", [("net/core.c", 0), ("a/net/core.c", 1), ("a/b/net/core.c", 2)])
def test_names_are_stripped_as_often_as_asked(name: str, strip: int) -> None:
    text = f"--- {name}\n+++ {name}\n{ONE[ONE.index('@@') :]}"
    assert parse_patch(text.encode(), "x.patch", strip).paths == ("net/core.c",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "hello\nworld\n",
        "--- a/net/core.c\n+++ b/net/core.c\n",
        ONE[:-9],
        ONE.replace("+new 12\n", "?new 12\n"),
        ONE.replace("@@ -9,7 +9,8 @@", "@@ -9,7 +9,8"),
        ONE.replace("@@ -9,7 +9,8 @@", "@@ -9,6 +9,7 @@"),
        ONE + "@@ -20 nonsense\n",
        ONE + "+one more\n",
        "".join(line for line in ONE.splitlines(True) if not line.startswith("---")),
        "--- a/MAINTAINERS\n+++ b/MAINTAINERS\n@@ -1 +1 @@\n-a\n+b\n",
    ],
)
def test_what_is_no_well_formed_diff_is_an_error(text: str) -> None:
    assert key_of(text) == "patch.not_a_diff"


def test_a_missing_patch_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        read_patch(tmp_path / "none.patch")
    assert caught.value.key == "patch.missing"


@pytest.mark.parametrize(
    "path", ["/etc/passwd.c", "a/../../etc/x.c", "a/net/../../x.c", "a//net/x.c", "core.c", "a/./x.c"]
)
def test_a_file_outside_the_tree_is_an_error(path: str) -> None:
    assert key_of(ONE.replace("a/net/core.c", path).replace("b/net/core.c", path)) == "patch.outside"


@pytest.mark.parametrize(
    "path, key",
    [
        ("include/linux/tcp.h", "accepted"),
        ("arch/x86/entry/entry_64.S", "accepted"),
        ("arch/x86/kernel/vmlinux.lds.S", "patch.not_c"),
        ("net/Kconfig", "accepted"),
        ("net/Makefile", "accepted"),
        ("Makefile", "patch.global_makefile"),
        ("arch/x86/Makefile", "patch.global_makefile"),
        ("scripts/Makefile.lib", "patch.global_makefile"),
        ("rust/kernel/lib.rs", "patch.not_c"),
        ("net/core.c", "accepted"),
    ],
)
def test_sources_and_headers_are_accepted(path: str, key: str) -> None:
    assert key_of(ONE.replace("net/core.c", path)) == key


@pytest.mark.parametrize(
    "text, before, after, copies",
    [
        ("--- /dev/null\n+++ b/net/a.c\n@@ -0,0 +1 @@\n+int x;\n", None, "net/a.c", False),
        ("diff --git a/net/a.c b/net/a.c\nnew file mode 100644\nindex 000..e69\n", None, "net/a.c", False),
        ("--- a/net/a.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-int x;\n", "net/a.c", None, False),
        (
            "diff --git a/net/a.c b/net/b.c\nsimilarity index 100%\nrename from net/a.c\nrename to net/b.c\n",
            "net/a.c", "net/b.c", False,
        ),
        (
            "diff --git a/net/a.c b/net/b.c\nsimilarity index 100%\ncopy from net/a.c\ncopy to net/b.c\n",
            "net/a.c", "net/b.c", True,
        ),
    ],
)  # fmt: skip
def test_files_that_come_go_and_change_their_names_are_read(
    text: str, before: str | None, after: str | None, copies: bool
) -> None:
    (change,) = parse(text).changes
    assert (change.before, change.after, change.copies) == (before, after, copies)


def test_two_names_without_a_rename_and_binary_files_are_refused() -> None:
    git = "diff --git a/net/a.c b/net/a.c\n"
    assert key_of(ONE.replace("--- a/net/core.c", "--- a/net/other.c")) == "patch.renamed_file"
    assert key_of(git + "Binary files a/net/a.c and b/net/a.c differ\n") == "patch.binary"


def test_every_reason_to_refuse_is_reported_at_once() -> None:
    with pytest.raises(Refused) as caught:
        parse(ONE.replace("core.c", "core.rs") + ONE.replace("a/net/core.c", "a/net/other.c") + ONE)
    assert [refusal.key for refusal in caught.value.refusals] == ["patch.not_c", "patch.renamed_file"]


def test_documentation_beside_code_is_left_out() -> None:
    other = ONE.replace("net/core.c", "Documentation/networking/tcp.rst")
    patch = parse(other + ONE)
    assert patch.paths == ("net/core.c",)
    assert patch.ignored == ("Documentation/networking/tcp.rst",)
    assert not NO_CODE.fullmatch("Documentation/Kconfig")


@given(st.binary(max_size=300) | st.text(alphabet="-+@ \n\\\rab/,019", max_size=200).map(str.encode))
def test_garbage_never_raises_anything_but_a_plain_error(data: bytes) -> None:
    assert key_of(data).startswith(("patch.", "accepted"))


LINES = st.lists(
    st.sampled_from(["a\n", "b\n", "\n", "-- x\n", "++ y\n", "@@ z\n", "\f\r\n", "ü\n"]), max_size=25
)


@given(LINES, LINES, st.integers(1, 4))
def test_the_difference_of_two_files_applied_to_the_first_gives_the_second(
    before: list[str], after: list[str], context: int
) -> None:
    old, new = "first\n" + "".join(before), "first\n" + "".join(after)
    if old == new:
        return
    result = apply(diff(old, new, context=context), old)
    assert result.text == new
    lines = split_lines(old)
    kept = [(line, lines[at - 1]) for line, at in zip(result.lines, result.origin, strict=True) if at]
    assert all(new_line == old_line for new_line, old_line in kept)
    numbers = [at for at in result.origin if at]
    assert numbers == sorted(set(numbers))


@given(st.binary())
def test_source_bytes_survive(data: bytes) -> None:
    assert encode(decode(data)) == data
    assert "".join(split_lines(decode(data))) == decode(data)

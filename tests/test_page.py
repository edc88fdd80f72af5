# SPDX-License-Identifier: Apache-2.0
"""The page: self-contained, complete, and marked where versions differ; its picture and its listings."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from compiled import UNIT, compiled, graph, named, planned

from kdiff.cli.main import main
from kdiff.dwarflines import NONE, source_lines
from kdiff.listing import Row, first_difference, side_by_side, spelled
from kdiff.page import page
from kdiff.picture import LIMIT, svg
from kdiff.plan import Plan
from kdiff.review import review

VOID = {"meta", "col", "br"}
BEFORE = """
int printk(const char *, ...);
extern int limit;
static __attribute__((noinline)) int helper(int a) { return a * limit; }
int f(int a)
{
    if (a > 3)
        a = helper(a);
    while (a-- > limit)
        printk("round %d", a);
    return a + 5;
}
"""
AFTER = BEFORE.replace(
    "    if (a > 3)", '    if (a == 77)\n        return printk("<none> & so");\n    if (a > 3)'
)


def rows(before: str, after: str, name: str) -> tuple[Plan, tuple[Row, ...]]:
    pre, post = graph(before), graph(after)
    plan = planned(pre, post)
    return plan, side_by_side(plan, named(pre, name).id, named(post, name).id)


def made(before: str, after: str, *options: str) -> str:
    pre, post = graph(before, *options), graph(after, *options)
    plan = planned(pre, post)
    return page(plan, review(plan), *(source_lines(each.obj, each.arch) for each in (pre, post)))


class Reader(HTMLParser):
    """Checks that tags are closed in order; collects them, their text, and what they would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.words.setdefault(self.open[-1], []).append(data.strip())

    def cells(self, kind: str) -> int:
        return sum(tag == "td" and kind in (found.get("class") or "").split() for tag, found in self.seen)


# Listing ---------------------------------------------------------------------------------------------


def test_equal_instructions_stand_beside_each_other_however_far_they_moved() -> None:
    _, found = rows(BEFORE, AFTER, "f")
    assert all(row.same or row.before is None or row.after is None or row.before.key for row in found)
    moved = [row for row in found if row.same and row.before and row.after]
    assert any(row.before.offset != row.after.offset for row in moved if row.before and row.after)
    assert len(moved) > len(found) / 2


def test_no_instruction_is_lost() -> None:
    plan, found = rows(BEFORE, AFTER, "f")
    for side, source in (("before", plan.pre), ("after", plan.post)):
        offsets = [line.offset for row in found if (line := getattr(row, side)) is not None]
        assert offsets == [each.offset for each in source.code(named(source, "f"))]


def test_a_function_beside_itself_has_no_difference() -> None:
    _, found = rows(BEFORE, BEFORE, "f")
    assert first_difference(found) is None


def test_a_jump_that_goes_elsewhere_differs() -> None:
    text = """
    asm(".section .text.f,\\"ax\\"\\n.globl f\\n.type f,@function\\nf: cmp $1,%%edi\\nje %s\\nnop\\n"
        "1: inc %%eax\\n2: dec %%eax\\nret\\n.size f,.-f");
    """
    plain = text.replace("%%", "%")
    _, found = rows(plain.replace("je %s", "je 1f"), plain.replace("je %s", "je 2f"), "f")
    assert [row.before.text[:2] for row in found if not row.same and row.before] == ["je"]


def test_references_are_spelled_as_a_person_reads_them() -> None:
    _, found = rows(BEFORE, AFTER, "f")
    texts = [row.after.text for row in found if row.after]
    assert any(text in ("call helper", "jmp helper") for text in texts)
    assert any(text.endswith("; '<none> & so'") for text in texts)
    assert any(text.endswith("; limit") for text in texts)


def test_a_reference_behind_a_symbol_says_how_far() -> None:
    found = graph("extern int gauge[8]; int f(void) { return gauge[3]; }")
    (reference,) = found.references[named(found, "f").id]
    assert spelled(found, reference) == "gauge+0xc"


# Page ------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    text = made(BEFORE, AFTER, "-g")
    reader = Reader(text)
    tags = {tag for tag, _ in reader.seen}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base"})
    assert not any(
        name in ("src", "href") or name.startswith("on") for _, found in reader.seen for name in found
    )
    assert "url(" not in text
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_names_and_strings_are_escaped() -> None:
    text = made(BEFORE, AFTER)
    assert "&lt;none&gt; &amp; so" in text
    assert "<none>" not in text


def test_differing_lines_are_marked_on_their_side() -> None:
    reader = Reader(made(BEFORE, AFTER))
    _, found = rows(BEFORE, AFTER, "f")
    differ = [row for row in found if not row.same]
    assert reader.cells("gone") // 2 >= sum(row.before is not None for row in differ) > 0
    assert reader.cells("new") // 2 >= sum(row.after is not None for row in differ) > 0
    assert Reader(made(BEFORE, BEFORE)).cells("new") == 0


def test_source_lines_stand_beside_instructions() -> None:
    assert any(word.endswith(":7") for word in Reader(made(BEFORE, AFTER, "-g")).words["td"])


def test_long_runs_of_equal_instructions_are_folded() -> None:
    filler = "".join(f"x[{at}] = a + {at * 7};" for at in range(60))
    text = f"extern volatile int x[60]; int f(int a) {{ {filler} return a + %d; }}"
    words = Reader(made(text % 1, text % 2)).words["summary"]
    assert len(words) == 1
    assert int(words[0].split()[0]) > 50


def test_findings_are_listed_with_their_keys() -> None:
    text = made("int counter = 5;" + BEFORE, "int counter = 6;" + AFTER)
    assert "review.data_changed" in text
    assert "Nothing speaks against" not in text
    assert "Nothing speaks against" in made(BEFORE, AFTER)


# Picture ---------------------------------------------------------------------------------------------


def boxes(text: str) -> dict[str, list[str]]:
    """Texts of the boxes by kind."""
    found: dict[str, list[str]] = {}
    for kind, label in re.findall(r'<g class="(\w+)">.*?<text[^>]*>(.*?)</text>', text, re.DOTALL):
        found.setdefault(kind, []).append(label)
    return found


def drawn(before: str, after: str) -> str:
    return svg(planned(graph(before), graph(after)))


def test_the_picture_shows_replaced_carried_and_borrowed_nodes_and_their_edges() -> None:
    text = drawn(BEFORE, AFTER)
    found = boxes(text)
    assert found["replaced"] == ["f"]
    assert any("so" in label for label in found["carried"])
    assert {"helper", "limit", "printk"} == set(found["borrowed"])
    edges = re.findall(r"<title>([^<]* → [^<]*)</title>", text)
    assert {"f → helper", "f → limit", "f → printk"} <= set(edges)
    assert "helper → limit" not in edges


def rectangles(text: str) -> list[tuple[float, float, float, float]]:
    found = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', text)
    return [(float(x), float(y), float(x) + float(w), float(y) + float(h)) for x, y, w, h in found]


def large(count: int) -> tuple[str, str]:
    text = "".join(f"int g{at}(int);" for at in range(count))
    text += "int printk(const char *, ...);"
    text += "".join(
        f'int f{at % 3}_{at}(int a) {{ printk("text {at}"); return g{at}(a) + %d; }}' for at in range(count)
    )
    return text.replace("%d", "1"), text.replace("%d", "2")


@pytest.mark.parametrize("count", [3, 25, 60])
def test_no_box_covers_another(count: int) -> None:
    text = drawn(*large(count))
    found = rectangles(text)
    assert len(found) > count
    width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', text)[0])
    for index, (left, top, right, bottom) in enumerate(found):
        assert (0 <= left < right <= width, 0 <= top < bottom <= height) == (True, True)
        for other in found[index + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_too_many_nodes_are_drawn_together() -> None:
    before = "int printk(const char *, ...);"
    calls = "".join(f'g{at}(a); printk("text {at}");' for at in range(LIMIT))
    before += (
        "".join(f"int g{at}(int);" for at in range(LIMIT)) + f"int f(int a) {{ {calls} return a + %d; }}"
    )
    found = boxes(drawn(before % 1, before % 2))
    assert len(found["borrowed"]) + len(found["carried"]) < 10
    assert f"{LIMIT + 1} borrowed symbols" in found["borrowed"]


def test_a_cycle_is_drawn() -> None:
    text = """
    __attribute__((noinline)) int odd(int a);
    __attribute__((noinline)) int even(int a) { return a ? odd(a - 1) + %d : 1; }
    __attribute__((noinline)) int odd(int a) { return a ? even(a - 1) + %d : 0; }
    """
    shown = drawn(text % (1, 1), text % (2, 2))
    assert {"even → odd", "odd → even"} <= set(re.findall(r"<title>([^<]* → [^<]*)</title>", shown))


def test_equal_plans_are_drawn_alike() -> None:
    assert drawn(UNIT, UNIT.replace("return 9", "return 8")) == drawn(
        UNIT, UNIT.replace("return 9", "return 8")
    )


# Command ---------------------------------------------------------------------------------------------


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pre, post, out = tmp_path / "pre.o", tmp_path / "post.o", tmp_path / "page.html"
    pre.write_bytes(compiled(BEFORE))
    post.write_bytes(compiled(AFTER))
    assert main(["diff", str(pre), str(post), "--html", str(out)]) == 0
    text = out.read_text()
    assert Reader(text).words["h3"] == ["f"]
    assert str(out) in capsys.readouterr().out
    plan = planned(graph(BEFORE), graph(AFTER))
    assert len(text) > len(page(plan, (), NONE, NONE)) / 2

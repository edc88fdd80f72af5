# SPDX-License-Identifier: Apache-2.0
"""Constants that must be written to where they lie: which, what of them, and who says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import test_plugin_arch_aarch64 as aarch64
import test_plugin_arch_ppc64le as ppc64le
import test_plugin_arch_s390x as s390x
from compiled import compiled, graph, labels, named, planned
from kdiff_emit_livepatch import LivepatchEmitter
from linkoracle import Cross, needs
from linkoracle import compiled as cross_compiled
from linkoracle import graph as cross_graph

from kdiff.cli.main import main
from kdiff.dwarflines import NONE
from kdiff.elf.model import model
from kdiff.elf.read import read
from kdiff.graph import Reference
from kdiff.inplace_text import changes, leads_into_update, reason
from kdiff.kernel import Keep, KernelFacts, SpecialSection
from kdiff.page import page
from kdiff.plan import Plan
from kdiff.review import review
from kdiff.why import why

OPERATIONS = """
struct file;
struct operations { long flags; long (*open)(struct file *); long (*read)(struct file *); const char *name; };
long generic_read(struct file *), another_read(struct file *), limit(long);
int publish(const char *, const struct operations *);
static long demo_open(struct file *f) { return limit(7); }
static long demo_read(struct file *f) { return limit(8); }
"""
"""What a driver's table of operations needs."""
FIXED = OPERATIONS + 'static const struct operations demo = { 3, demo_open, generic_read, "demo" };\n'
INIT = 'static int __attribute__((section(".init.text"))) start(void) { return publish("demo", &demo); }\n'
INIT += 'int (*const entry)(void) __attribute__((section(".initcall6.init"))) = start;\n'
HELD = "const struct operations *registered = &demo;\n"
NUMBERS = "{} int sizes[4] = {{1, 2, {}, 4}}; int size(int a) {{ return sizes[a]; }} {}"


def plan(before: str, after: str, *options: str) -> Plan:
    assert before != after
    return planned(graph(before, *options), graph(after, *options))


def written(found: Plan) -> dict[str, tuple[str, ...]]:
    return {found.post.nodes[each.post].label: changes(found, each) for each in found.in_place}


def keys(found: Plan) -> set[str]:
    return {each.key for each in review(found)}


def replaced(found: Plan) -> list[str]:
    return labels(found.post, (post for _, post in found.replaced))


# Which ---------------------------------------------------------------------------------------------


def test_a_global_constant_is_written_in_place_and_its_users_stay_as_they_are() -> None:
    found = plan(NUMBERS.format("const", 3, ""), NUMBERS.format("const", 0x01020304, ""))
    assert written(found) == {"sizes": ("4 bytes at +0x8: 03000000 -> 04030201",)}
    assert (found.replaced, found.carried, found.borrowed) == ((), (), ())
    assert review(found) == ()


def test_a_static_constant_that_only_replaced_functions_use_is_carried() -> None:
    found = plan(NUMBERS.format("static const", 3, ""), NUMBERS.format("static const", 9, ""))
    assert found.in_place == ()
    assert labels(found.post, found.carried) == ["size", "sizes"]


@pytest.mark.parametrize(
    "holder",
    [
        "const int *registered = sizes;",
        "const struct { long a; const int *p; } table = { 5, sizes };",
        "static const struct { long a; const int *p; } table = { 5, sizes }; const void *all[] = { &table };",
        "int publish(const int *);"
        ' int __attribute__((section(".init.text"))) start(void) { return publish(sizes); }',
    ],
)
def test_a_static_constant_whose_address_stays_in_the_kernel_is_written_in_place(holder: str) -> None:
    found = plan(NUMBERS.format("static const", 3, holder), NUMBERS.format("static const", 9, holder))
    assert written(found) == {"sizes": ("1 byte at +0x8: 03 -> 09",)}
    assert (found.replaced, keys(found)) == ((), set())


def test_a_constant_that_an_entry_of_a_table_leads_to_is_written_in_place() -> None:
    entry = '; void *const entry __attribute__((section("__demo"), used)) = (void *)sizes;'
    texts = [NUMBERS.format("static const", number, entry) for number in (3, 9)]
    for keep in Keep:
        rows = (SpecialSection("__demo", 8, keep, owner=0),)
        found = planned(*(graph(text, special=rows) for text in texts))
        assert list(written(found)) == ["sizes"]
        assert reason(found, found.in_place[0]) == "entry entry stays in the kernel and leads to it"


def test_layouts_are_compared_where_only_constants_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "struct s {{ {} }}; struct s v; const struct s c = {{ {} }}; const struct s *p = &v;"
    paths = [tmp_path / "pre.o", tmp_path / "post.o"]
    for path, parts in zip(paths, (("int a, b;", "1, 2"), ("int b, a;", "1, 3")), strict=True):
        path.write_bytes(compiled(text.format(*parts), "-g"))
    assert main(["diff", *map(str, paths), "--json"]) == 3
    shown = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in shown["in_place"]] == ["c"]
    assert {each["key"] for each in shown["refusals"]} == {"review.layout_changed"}


def test_a_function_that_changes_too_is_replaced_and_uses_the_kernels_constant() -> None:
    before = NUMBERS.format("const", 3, "")
    found = plan(before, NUMBERS.format("const", 9, "").replace("sizes[a]", "sizes[a] * 3"))
    assert list(written(found)) == ["sizes"]
    assert replaced(found) == ["size"]
    assert "sizes" in labels(found.post, found.borrowed)
    assert review(found) == ()


def test_a_constant_whose_value_was_compiled_into_code_is_written_and_the_code_replaced() -> None:
    text = "const int most = {}; const int *registered = &most; int f(int a) {{ return a > most; }}"
    found = plan(text.format(40), text.format(41))
    assert list(written(found)) == ["most"]
    assert replaced(found) == ["f"]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("sizes[4]", "sizes[5]", "review.constant_resized"),
        ("int sizes", "__attribute__((aligned(64))) int sizes", "review.constant_moved"),
        ("const int sizes[4]", "__attribute__((weak)) const int sizes[4]", "review.constant_changed"),
    ],
)
def test_what_cannot_be_written_in_place_is_refused(old: str, new: str, key: str) -> None:
    before = NUMBERS.format("const", 3, "const int *registered = sizes;")
    found = plan(before, before.replace(old, new).replace("2, 3,", "2, 9,"))
    assert found.in_place == ()
    assert key in keys(found)
    assert all(each.place and each.remedy for each in review(found))


def test_a_variable_that_becomes_a_constant_is_refused() -> None:
    text = "{} int n = {}; int f(void) {{ return n; }}"
    found = plan(text.format("", 3), text.format("const", 3))
    assert found.in_place == ()
    assert keys(found) == {"review.constant_moved"}


def test_a_constant_of_boot_code_is_refused() -> None:
    text = '__attribute__((section(".init.rodata"))) const int n = {}; const int *const p = &n;'
    found = plan(text.format(3), text.format(4))
    assert found.in_place == ()
    assert "review.init_data" in keys(found)


def test_strings_are_never_written_in_place() -> None:
    text = 'const char *const names[] = {{"one", "{}"}}; const char *name(int a) {{ return names[a]; }}'
    found = plan(text.format("two"), text.format("TWO"))
    assert written(found) == {"names": ("reference at +0x8: 'two' -> 'TWO' (in the update)",)}
    assert "TWO" in [found.post.contents(found.post.nodes[i])[:-1].decode() for i in found.carried]


def test_a_static_constant_that_only_boot_code_and_replaced_functions_know_by_number_is_sure() -> None:
    text = "int far(const int *); int publish(const int *);"
    text += ' __attribute__((section(".init.text"))) int f(void)'
    text += " {{ static const int n[] = {{1, {}}}; return publish(n); }}"
    found = plan(text.format(2), text.format(3))
    (name,) = written(found)
    assert name.startswith("n.")


# References ----------------------------------------------------------------------------------------


def operations(old: str, new: str, more: str = INIT) -> Plan:
    assert old in FIXED
    return plan(FIXED + more, FIXED.replace(old, new) + more)


@pytest.mark.parametrize("more", [INIT, HELD])
def test_another_function_in_a_table_of_operations_is_a_reference_to_write(more: str) -> None:
    found = operations("generic_read", "another_read", more)
    assert written(found) == {"demo": ("reference at +0x10: generic_read -> another_read",)}
    assert labels(found.post, found.borrowed) == ["another_read"]
    assert (found.carried, keys(found)) == ((), set())


def test_a_pointer_that_was_null_becomes_a_reference() -> None:
    without = FIXED.replace(", generic_read", ", 0") + INIT
    found = plan(without, FIXED + INIT)
    assert written(found) == {"demo": ("reference at +0x10: 0000000000000000 -> generic_read",)}
    back = plan(FIXED + INIT, without)
    assert written(back) == {"demo": ("reference at +0x10: generic_read -> 0000000000000000",)}


def test_a_new_function_in_a_table_of_operations_travels_with_what_it_needs() -> None:
    new = "static long anew(struct file *f) { static int n; return limit(n++); }\n"
    after = FIXED.replace("static const struct", new + "static const struct")
    after = after.replace("demo_open, generic_read", "demo_open, anew")
    found = plan(FIXED + HELD, after + HELD)
    assert written(found) == {"demo": ("reference at +0x10: generic_read -> anew (in the update)",)}
    assert {each.partition(".")[0] for each in labels(found.post, found.carried)} == {"anew", "n"}
    assert "limit" in labels(found.post, found.borrowed)
    (item,) = found.in_place
    assert [leads_into_update(found, each) for each in item.writes] == [True]


def test_a_reference_to_a_replaced_function_goes_to_the_kernels_own() -> None:
    before = FIXED + INIT
    after = before.replace("demo_open, generic_read", "demo_open, demo_read").replace("limit(8)", "limit(9)")
    before = before.replace("struct file;", "struct file; long demo_keep(void);")
    after = after.replace("struct file;", "struct file; long demo_keep(void);")
    use = "long demo_keep(void) { return (long)demo_read; }"
    found = plan(before + use, after + use)
    assert replaced(found) == ["demo_read"]
    (item,) = found.in_place
    assert changes(found, item) == ("reference at +0x10: generic_read -> demo_read",)
    assert [leads_into_update(found, each) for each in item.writes] == [False]


def test_bytes_and_references_are_told_apart() -> None:
    found = operations("{ 3, demo_open, generic_read", "{ 0x10003, demo_open, another_read")
    assert written(found) == {
        "demo": ("1 byte at +0x2: 00 -> 01", "reference at +0x10: generic_read -> another_read")
    }


def test_a_changed_constant_behind_a_constant_that_stays_is_the_only_one_written() -> None:
    text = "static const int inner[] = {{1, {}}}; const struct {{ const int *p; }} outer = {{ inner }};"
    found = plan(text.format(2), text.format(3))
    assert list(written(found)) == ["inner"]
    assert keys(found) == set()


def test_a_resized_constant_behind_one_that_is_written_is_refused() -> None:
    text = "static const int inner[] = {{1, {0}}};"
    text += " const struct {{ int a; const int *p; }} outer = {{ {1}, inner }};"
    found = plan(text.format("2", 5), text.format("2, 3", 6))
    assert "review.constant_resized" in keys(found)


CROSSES = (aarch64.CROSS, ppc64le.GCC, s390x.GCC)


@pytest.mark.parametrize(
    "cross", [pytest.param(each, marks=needs(each), id=each.architecture.name) for each in CROSSES]
)
def test_every_architecture_writes_constants_in_place(cross: Cross) -> None:
    texts = FIXED + HELD, FIXED.replace("{ 3, demo_open, generic_read", "{ 4, demo_open, another_read") + HELD
    found = planned(*(cross_graph(cross, cross_compiled(cross, text)) for text in texts))
    (item,) = found.in_place
    plain, field = item.writes
    assert (plain.size, field.offset, field.size) == (1, 0x10, 8)
    assert plain.offset == (0 if cross.architecture.byte_order == "little" else 7)
    assert isinstance(field.new, Reference)
    assert found.post.nodes[field.new.target].label == "another_read"
    assert review(found) == ()


# Who says so ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (INIT, "boot code uses it (start), and may have handed its address on"),
        (HELD, "variable registered stays in the kernel and leads to it"),
    ],
)
def test_the_reason_names_what_holds_the_constant(more: str, words: str) -> None:
    found = operations("generic_read", "another_read", more)
    assert reason(found, found.in_place[0]) == words


def test_a_global_constant_is_its_own_reason() -> None:
    found = plan(NUMBERS.format("const", 3, ""), NUMBERS.format("const", 9, ""))
    assert reason(found, found.in_place[0]) == "it is global, and other units use the kernel's own"


def test_livepatch_refuses_to_write_in_place() -> None:
    found = operations("generic_read", "another_read")
    (refusal,) = LivepatchEmitter().review(found, KernelFacts())
    assert (refusal.key, refusal.place) == ("emit.in_place", "unit.o: .rodata.demo")
    assert refusal.remedy


def test_why_tells_what_is_written_and_why_no_copy_would_do() -> None:
    found = operations("generic_read", "another_read")
    (answer,) = why(found, "demo", NONE, NONE)
    assert (answer.kind, answer.fate) == ("constant", "in place")
    texts = [step.text for step in answer.steps]
    assert "boot code uses it (start)" in texts[0]
    assert texts[1] == "reference at +0x10: generic_read -> another_read"
    assert any("referred to generic_read, refers to another_read" in text for text in texts)


def test_the_page_shows_what_is_written() -> None:
    found = operations("generic_read", "another_read")
    text = page(found, review(found), NONE, NONE)
    assert "<h2>Written in place</h2>" in text
    assert "reference at +0x10: generic_read -&gt; another_read" in text
    assert "<h2>Changed data</h2>" not in text


@pytest.fixture
def objects(tmp_path: Path) -> tuple[str, str, Path]:
    """A pair of objects whose only change is written in place, and a path for a third."""
    pre, post = tmp_path / "pre.o", tmp_path / "post.o"
    pre.write_bytes(compiled(FIXED + HELD))
    post.write_bytes(compiled(FIXED.replace("{ 3,", "{ 0x11223344,") + HELD))
    return str(pre), str(post), tmp_path / "out.o"


def test_diff_shows_what_is_written_and_succeeds(
    objects: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *objects[:2]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "in place  demo: 4 bytes at +0x0: 03000000 -> 44332211" in lines


def test_diff_gives_what_is_written_to_programs(
    objects: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *objects[:2], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    (item,) = shown["in_place"]
    assert item["name"] == "demo"
    assert item["bytes"] == [{"offset": 0, "old": "03000000", "new": "44332211"}]
    assert item["references"] == []
    assert item["size"] == 32
    assert shown["refusals"] == []


def test_an_extract_of_nothing_is_not_written_and_says_so(
    objects: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    *pair, out = objects
    assert main(["diff", *map(str, pair), "--extract", str(out)]) == 0
    text = capsys.readouterr().out
    assert "not in the object, to be written in place: demo" in text
    assert f"nothing travels: {out} is not written" in text
    assert not out.exists()
    assert main(["diff", *map(str, pair), "--extract", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["extract"] is None


def test_an_extract_names_what_is_written_in_place_besides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / name for name in ("pre.o", "post.o", "out.o")]
    paths[0].write_bytes(compiled(FIXED + HELD))
    paths[1].write_bytes(compiled(FIXED.replace("{ 3,", "{ 4,").replace("limit(7)", "limit(9)") + HELD))
    pre, post, out = map(str, paths)
    assert main(["diff", pre, post, "--extract", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["extract"]["in_place"] == ["demo"]
    assert main(["diff", pre, post, "--extract", out]) == 0
    assert "to be written in place: demo" in capsys.readouterr().out
    assert {".text.demo_open", ".rodata.demo"} & {s.name for s in model(read(paths[2])).sections} == {
        ".text.demo_open"
    }


def test_nothing_is_written_where_nothing_changed() -> None:
    one = graph(FIXED + HELD)
    assert planned(one, one).in_place == ()
    assert named(one, "demo").size == 32


def test_data_that_points_to_itself_holds_nothing_for_ever() -> None:
    text = "struct list {{ const struct list *next; }} head = {{ &head }}; extern const struct list a, b;"
    text += " const struct list a = {{ &b }}, b = {{ &a }}; const int number = {};"
    made = plan(text.format(1), text.format(2))
    assert [made.post.nodes[each.post].label for each in made.in_place] == ["number"]

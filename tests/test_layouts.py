# SPDX-License-Identifier: Apache-2.0
"""Types of objects: what the compilers say of them, what changed, and what of it is refused."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path

import pytest
from compiled import compiled, graph, graph_of, planned
from elftools.elf.elffile import ELFFile
from kdiff_arch_x86_64 import ARCHITECTURE
from updates import make

from kdiff import layouts as layouts_module
from kdiff.cli.main import run_command
from kdiff.confdir import read_config
from kdiff.distribution import KernelSetup
from kdiff.elf.debug import DebugSections, has_types
from kdiff.elf.read import Object, read_bytes
from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.kbuild import Unit, build
from kdiff.layoutdiff import LayoutChange, layout_changes
from kdiff.layouts import Layout, Types, types_of
from kdiff.patch import read_patch
from kdiff.review import review
from kdiff.review_types import retyped, review_types

EVERYTHING = """
enum color { RED, GREEN = -5, BLUE, WHITE = 200, LONG = 70000 };
enum { FIRST = 3, SECOND };
struct inner { int a : 3; unsigned b : 7; enum color c; long long d : 40; };
struct list { struct list *next, **back; };
typedef struct { char x[3]; union { int u; long w; }; struct { short q; } named[2]; } nameless_t;
typedef int array_t[4];
union word { double f; const volatile char bytes[8]; struct { _Bool low : 1, high : 1; } bits; };
struct tail { int (*call)(struct list *); array_t grid[2]; int n; struct inner more[]; };
struct packed { char c; int i; } __attribute__((packed));
struct zero { int n; int none[0]; };
static struct { int z; struct inner *p; } state;
nameless_t global;
struct packed tight;
extern struct opaque *somebody;
int use(struct inner *i, union word w, struct tail *t, struct zero *zero, enum color color)
{
    struct local { int only; struct list *here; } local = { i->a, 0 };
    static struct { int kept; } cache;
    cache.kept += t->call(local.here) + zero->none[1];
    color += (somebody != 0) + t->n;
    return local.only + state.z++ + global.x[1] + w.bytes[2] + SECOND + tight.i + color;
}
"""


def x86(data: bytes) -> Object:
    return read_bytes(data, "unit.o")


def types(text: str, *options: str) -> Types:
    return types_of(x86(compiled(text, *(options or ("-g",)))), ARCHITECTURE)


def only(found: Types, kind: str, name: str) -> Layout:
    (layouts,) = (each for key, each in found.layouts.items() if (key.kind, key.name) == (kind, name))
    (layout,) = layouts
    return layout


def places(layout: Layout) -> list[tuple[str, int, int | None]]:
    return [(member.name, member.at, member.bits) for member in layout.members]


# What an object says ---------------------------------------------------------------------------------


def test_members_have_their_places_and_sizes_in_bits() -> None:
    found = only(types(EVERYTHING), "struct", "inner")
    assert found.size == 16
    assert places(found) == [("a", 0, 3), ("b", 3, 7), ("c", 32, 32), ("d", 64, 40)]


def test_nameless_structures_are_unfolded_into_what_has_them() -> None:
    found = only(types(EVERYTHING), "typedef", "nameless_t")
    assert found.size == 24
    assert [name for name, _, _ in places(found)] == ["x", "u", "w", "named", "named.q"]
    assert places(only(types(EVERYTHING), "variable", "state")) == [("z", 0, 32), ("p", 64, 64)]
    assert places(only(types(EVERYTHING), "variable", "cache")) == [("kept", 0, 32)]


def test_types_are_described_by_how_they_are_represented() -> None:
    found = types(EVERYTHING)
    text = {m.name: m.type for name in ("list", "tail", "zero") for m in only(found, "struct", name).members}
    assert text["next"] == "pointer to struct list"
    assert text["back"] == "pointer to pointer to struct list"
    assert text["call"] == "pointer to function"
    assert text["grid"] == "4-byte integer [2][4]"
    assert text["more"] == "struct inner []"
    assert text["none"] == "4-byte integer []"
    text = {m.name: m.type for m in only(found, "union", "word").members}
    assert text["f"] == "8-byte floating-point number"
    assert text["bytes"] == "1-byte integer [8]"


def test_enumerators_have_their_values() -> None:
    colors, nameless = (
        each for each in sorted(types(EVERYTHING).enumerations, key=lambda e: e.key.name)[::-1]
    )
    assert dict(colors.values) == {"RED": 0, "GREEN": -5, "BLUE": -4, "WHITE": 200, "LONG": 70000}
    assert (nameless.key.name, nameless.values) == ("FIRST", (("FIRST", 3), ("SECOND", 4)))


def test_a_type_of_a_function_knows_its_function() -> None:
    assert [key.scope for key in types(EVERYTHING).layouts if key.name == "local"] == ["use"]


def test_an_incomplete_structure_has_no_layout() -> None:
    assert not [key for key in types(EVERYTHING).layouts if key.name == "opaque"]


FORMATS = {
    "dwarf 5": ("-g", "-gdwarf-5"),
    "dwarf 4": ("-g", "-gdwarf-4"),
    "dwarf 3": ("-g", "-gdwarf-3"),
    "dwarf 2, strictly": ("-g", "-gdwarf-2", "-gstrict-dwarf"),
    "64-bit dwarf": ("-g", "-gdwarf64"),
    "compressed": ("-g", "-gz=zlib"),
    "without optimization": ("-g", "-O0"),
}


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_every_format_says_the_same(options: tuple[str, ...]) -> None:
    usual, other = types(EVERYTHING), types(EVERYTHING, *options)
    assert usual.layouts == other.layouts
    assert set(usual.enumerations) == set(other.enumerations)
    assert layout_changes(usual, other) == ()


def cross(command: str, plugin: str, text: str, path: Path, *options: str) -> Types:
    if not shutil.which(command.split()[0]):
        pytest.skip(f"{command} is not installed")
    file = path / "unit.o"
    words = [
        *command.split(),
        "-O2",
        "-w",
        "-g",
        "-ffreestanding",
        *options,
        "-x",
        "c",
        "-c",
        "-o",
        str(file),
        "-",
    ]
    subprocess.run(words, input=text.encode(), check=True)
    arch = import_module(f"kdiff_arch_{plugin}").ARCHITECTURE
    return types_of(read_bytes(file.read_bytes(), "unit.o"), arch)


@pytest.mark.parametrize("version", ["5", "4"])
def test_another_compiler_says_the_same(version: str, tmp_path: Path) -> None:
    clang = next((name for name in ("clang", "clang-19", "clang-14") if shutil.which(name)), "clang")
    other = cross(clang, "x86_64", EVERYTHING, tmp_path, f"-gdwarf-{version}")
    usual = types(EVERYTHING)
    assert usual.layouts == other.layouts
    assert set(usual.enumerations) == set(other.enumerations)


@pytest.mark.parametrize(
    ("name", "plugin"),
    [("aarch64", "aarch64"), ("powerpc64le", "ppc64le"), ("riscv64", "riscv64"), ("s390x", "s390x")],
)
@pytest.mark.parametrize("version", ["5", "4"])
def test_other_processors_have_the_same_names_and_sizes(
    name: str, plugin: str, version: str, tmp_path: Path
) -> None:
    other = cross(f"{name}-linux-gnu-gcc", plugin, EVERYTHING, tmp_path, f"-gdwarf-{version}")
    usual = types(EVERYTHING)
    assert {key: each[0].size for key, each in usual.layouts.items()} == {
        key: each[0].size for key, each in other.layouts.items()
    }
    assert places(only(other, "struct", "inner"))[:2] == [("a", 0, 3), ("b", 3, 7)]


def test_a_32_bit_object_with_addends_in_its_fields_can_be_read(tmp_path: Path) -> None:
    found = cross("i686-linux-gnu-gcc", "i386", EVERYTHING, tmp_path)
    assert places(only(found, "struct", "list")) == [("next", 0, 32), ("back", 32, 32)]


def test_objects_that_were_linked_together_keep_their_types_apart(tmp_path: Path) -> None:
    texts = ("struct s { int a; }; struct s one;", "struct s { long a, b; }; struct s two;")
    for name, text in zip("ab", texts, strict=True):
        (tmp_path / f"{name}.c").write_text(text)
        subprocess.run(["gcc", "-g", "-c", f"{name}.c"], cwd=tmp_path, check=True)
    subprocess.run(["ld", "-r", "-o", "both.o", "a.o", "b.o"], cwd=tmp_path, check=True)
    found = types_of(x86((tmp_path / "both.o").read_bytes()), ARCHITECTURE)
    assert {(key.unit, key.name): each[0].size for key, each in found.layouts.items()} == {
        ("a.c", "s"): 4,
        ("b.c", "s"): 16,
    }


# pyelftools is the oracle ----------------------------------------------------------------------------


def oracle(data: bytes) -> Iterator[tuple[str, int, list[tuple[str, int]]]]:
    """(name, size, [(member, byte)]) of all structures and unions with a name, as pyelftools reads them."""
    for unit in ELFFile(BytesIO(data)).get_dwarf_info().iter_CUs():
        for die in unit.iter_DIEs():
            if (
                die.tag not in ("DW_TAG_structure_type", "DW_TAG_union_type")
                or "DW_AT_name" not in die.attributes
            ):
                continue
            if "DW_AT_declaration" in die.attributes:
                continue
            members = [
                (
                    child.attributes["DW_AT_name"].value.decode(),
                    child.attributes["DW_AT_data_member_location"].value,
                )
                for child in die.iter_children()
                if {"DW_AT_name", "DW_AT_data_member_location"} <= child.attributes.keys()
            ]
            yield (
                die.attributes["DW_AT_name"].value.decode(),
                die.attributes["DW_AT_byte_size"].value,
                members,
            )


def agree(data: bytes) -> int:
    """Compare with the oracle; the number of structures."""
    found = types_of(x86(data), ARCHITECTURE)
    known: dict[str, list[Layout]] = {}
    for key, layouts in found.layouts.items():
        if key.kind in ("struct", "union"):
            known.setdefault(key.name, []).extend(layouts)
    count = 0
    for name, size, members in oracle(data):
        count += 1
        assert any(
            layout.size == size and set(members) <= {(m.name, m.at // 8) for m in layout.members}
            for layout in known[name]
        ), name
    assert count >= sum(map(len, known.values()))
    return count


def test_pyelftools_reads_the_same() -> None:
    assert agree(compiled(EVERYTHING, "-g")) >= 7


# What changed ----------------------------------------------------------------------------------------

TEXT = """
void *alloc(unsigned long);
enum phase { IDLE, RUN, DONE };
enum { LOW, HIGH };
struct item { int id; char name[10]; struct item *next; };
struct box { struct item *first; unsigned flags : 3; unsigned mode : 5; };
typedef struct { long sum; int count; } total_t;
union either { int number; char text[8]; };
static struct { int hits; long misses; } cache;
static struct box boxes[4];
static total_t total;
static void *owner;
int use(struct box *box, enum phase phase, union either *either)
{
    struct item *item = alloc(sizeof(*item));
    item->id = phase == RUN;
    item->next = box->first;
    box->first = item;
    boxes[1] = *box;
    total.sum += cache.hits++ + HIGH;
    return item->name[2] + either->number + (owner == box) + box->mode;
}
"""


INT, FLOAT = "4-byte integer", "4-byte floating-point number"


def changes(old: str, new: str, text: str = TEXT) -> tuple[LayoutChange, ...]:
    assert text.count(old) == 1, old
    return layout_changes(types(text), types(text.replace(old, new)))


def change(old: str, new: str, text: str = TEXT) -> LayoutChange:
    (found,) = changes(old, new, text)
    return found


def test_a_member_in_the_middle_moves_what_follows() -> None:
    found = change("int id; char", "int id; int extra; char")
    assert found.title == "struct item"
    assert found.what == (
        "was 24 bytes long, is 32",
        "member extra is new, at 4",
        "member name moved from 4 to 8",
        "member next moved from 16 to 24",
    )


def test_a_member_at_the_end_changes_the_size() -> None:
    assert change("struct item *next; };", "struct item *next; int extra; };").what == (
        "was 24 bytes long, is 32",
        "member extra is new, at 24",
    )


def test_a_size_that_changes_without_its_members_is_a_change() -> None:
    found = change("unsigned mode : 5; };", "unsigned mode : 5; } __attribute__((aligned(64)));")
    assert found.what == ("was 16 bytes long, is 64",)


def test_a_member_that_fits_into_padding_is_a_change() -> None:
    found = change("name[10];", "name[10]; char extra;")
    assert found.what == ("member extra is new, at 14",)


def test_an_array_that_grows_into_padding_is_a_change() -> None:
    assert change("name[10]", "name[11]").what == (
        "member name was 1-byte integer [10], is 1-byte integer [11]",
    )


@pytest.mark.parametrize(
    ("old", "new", "title", "what"),
    [
        ("int id;", "short id;", "struct item", f"member id was {INT}, is 2-byte integer"),
        ("long misses", "long losses", "variable cache", "member losses is new, at 8"),
        ("flags : 3", "flags : 2", "struct box", "member flags had 3 bits, has 2 bits"),
        ("mode : 5", "mode : 6", "struct box", "member mode had 5 bits, has 6 bits"),
        ("long sum; int count;", "int count; long sum;", "type total_t", "member sum moved from 0 to 8"),
        ("text[8]", "text[9]", "union either", "was 8 bytes long, is 12"),
        ("int hits; long", "long hits; long", "variable cache", f"member hits was {INT}, is 8-byte integer"),
        ("int id; char", "float id; char", "struct item", f"member id was {INT}, is {FLOAT}"),
        ("IDLE, RUN", "IDLE, WAIT, RUN", "enum phase", "RUN was 1, is 2"),
        ("RUN, DONE }", "RUN, OVER }", "enum phase", "2 was DONE, is OVER"),
        ("LOW, HIGH", "NONE, LOW, HIGH", "enum LOW", "LOW was 0, is 1"),
        (
            *("static void *owner", "static unsigned long owner"),
            *("variable owner", "was pointer, is 8-byte integer"),
        ),
    ],
)  # fmt: skip
def test_what_is_reported(old: str, new: str, title: str, what: str) -> None:
    found = change(old, new)
    assert found.title == title
    assert what in found.what


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("item->name[2]", "item->name[3]"),
        ("int id;", "unsigned id;"),
        ("struct item *next; };", "struct item *next; }; struct fresh { int a; } fresh;"),
        ("RUN, DONE }", "RUN, DONE, MORE }"),
        ("static void *owner", "static struct box *owner"),
        ("char name[10]", "unsigned char name[10]"),
        (
            "unsigned flags : 3; unsigned mode : 5;",
            "union { struct { unsigned flags : 3; unsigned mode : 5; }; };",
        ),
        ("total.sum += cache.hits++ + HIGH;", ""),
    ],
)
def test_what_is_no_change(old: str, new: str) -> None:
    assert changes(old, new) == ()
    assert layout_changes(types(TEXT.replace(old, new)), types(TEXT)) == ()


def test_nothing_changes_between_equal_objects() -> None:
    for text in (TEXT, EVERYTHING):
        assert layout_changes(types(text), types(text)) == ()


def test_a_structure_under_another_name_is_no_change() -> None:
    renamed = TEXT.replace("struct item", "struct thing")
    assert layout_changes(types(TEXT), types(renamed)) == ()


def test_a_structure_under_another_name_with_another_layout_is_found() -> None:
    renamed = TEXT.replace("struct item", "struct thing").replace("int id;", "int id; int extra;")
    found = {each.title: each for each in layout_changes(types(TEXT), types(renamed))}
    assert "struct box" in found
    assert found["struct item"].what[0] == "is called struct thing now"


def test_a_local_variable_of_another_type_is_no_change() -> None:
    text = "int far(void *); int f(int a) {{ {} x = a; return far(&x); }}"
    assert layout_changes(types(text.format("long")), types(text.format("void *"))) == ()


def test_a_static_local_variable_of_another_type_is_a_change() -> None:
    text = "int far(void *); int f(int a) {{ static {} x; return far(&x); }}"
    (found,) = layout_changes(types(text.format("long")), types(text.format("void *")))
    assert found.title == "variable x of f()"


def test_structures_inside_of_others_change_with_them() -> None:
    text = "struct in { int a; }; struct out { struct in in; int b; } out; int f(void) { return out.b; }"
    found = layout_changes(types(text), types(text.replace("int a;", "int a, c;")))
    assert [each.title for each in found] == ["struct in", "struct out"]
    assert found[0].users == ("struct out",)


def test_who_has_a_structure_is_told() -> None:
    found = change("unsigned flags : 3;", "unsigned more; unsigned flags : 3;")
    assert found.users == ("variable boxes", "use()")
    found = change("int id; char", "int id; int extra; char")
    assert found.users == ("struct box", "use()")


# What is refused -------------------------------------------------------------------------------------


def refused(before: str, after: str, *accepted: str) -> tuple[Refusal, ...]:
    plan = planned(graph(before, "-g"), graph(after, "-g"))
    assert plan.replaced
    return review_types(retyped((plan,)), accepted)


GROWN = TEXT.replace("int id; char", "int id; int extra; char")


def test_a_changed_layout_is_refused_with_members_users_and_a_way_out() -> None:
    (refusal,) = refused(TEXT, GROWN)
    assert (refusal.key, refusal.place) == ("review.layout_changed", "unit.o")
    assert "struct item changes (was 24 bytes long, is 32; member extra is new, at 4" in refusal.reason
    assert "--accept-layout item" in refusal.remedy
    assert refusal.details == ("struct item in unit.o: its size in use(), struct box, use()",)


def test_a_changed_enumerator_is_refused() -> None:
    (refusal,) = refused(TEXT, TEXT.replace("IDLE, RUN", "IDLE, WAIT, RUN"))
    assert refusal.key == "review.enum_changed"
    assert "RUN was 1, is 2" in refusal.reason


@pytest.mark.parametrize("name", ["item", "struct item"])
def test_an_accepted_layout_is_not_refused(name: str) -> None:
    assert refused(TEXT, GROWN, name) == ()


@pytest.mark.parametrize("name", ["box", "union item", "items", ""])
def test_another_name_accepts_nothing(name: str) -> None:
    assert len(refused(TEXT, GROWN, name)) == 1


def test_what_is_accepted_can_be_recorded_and_what_accepts_nothing_is_known() -> None:
    found = retyped((planned(graph(TEXT, "-g"), graph(GROWN, "-g")),))
    assert [each.title for each in found.accepted(("item", "nobody"))] == ["struct item"]
    assert found.unknown(("item", "nobody")) == ("nobody",)


def test_a_change_that_many_units_show_is_refused_once() -> None:
    plan = planned(graph(TEXT, "-g"), graph(GROWN, "-g"))
    (refusal,) = review_types(retyped((plan, plan, plan)), ())
    assert refusal.place == "unit.o and 2 more"


def test_without_debugging_information_a_note_says_that_nothing_was_compared() -> None:
    found = retyped((planned(graph(TEXT), graph(GROWN)),))
    assert found.changes == ()
    assert found.notes == ("unit.o: no debugging information, so layouts of structures were not compared",)


def test_types_that_are_kept_elsewhere_are_not_compared_and_a_note_says_so() -> None:
    options = ("-g", "-gdwarf-5", "-fdebug-types-section")
    found = retyped((planned(graph(TEXT, *options), graph(GROWN, *options)),))
    assert "-fdebug-types-section" in found.notes[0]


def test_equal_debugging_information_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = layouts_module.types_in

    def counted(sections: DebugSections) -> Types:
        asked.append(sections.path)
        return read(sections)

    monkeypatch.setattr(layouts_module, "types_in", counted)
    for text, times, changed in (
        (TEXT.replace("item->name[2]", "item->name[3]"), 1, []),
        (TEXT.replace("item->id = phase == RUN;", "int is = phase == RUN; item->id = is + 1;"), 2, []),
        (GROWN, 2, ["struct item"]),
    ):
        asked.clear()
        plan = planned(graph(TEXT, "-g"), graph(text, "-g"))
        assert plan.replaced
        assert [each.change.title for each in retyped((plan,)).changes] == changed
        assert len(asked) == times


def test_a_name_alone_makes_debugging_information_unequal() -> None:
    """All that differs is a string of .debug_str."""
    text = TEXT.replace("int id;", "int identity;").replace("item->id", "item->identity")
    before = compiled(text, "-g")
    after = before.replace(b"\0identity\0", b"\0idendity\0")
    assert after != before
    (change,) = retyped((planned(graph_of(before), graph_of(after)),)).changes
    assert change.change.title == "struct item"


def test_types_that_are_kept_elsewhere_are_not_taken_for_equal() -> None:
    """What is left of them in the object is equal, though a structure grew."""
    options = ("-g", "-gdwarf-4", "-fdebug-types-section")
    found = retyped((planned(graph(TEXT, *options), graph(GROWN, *options)),))
    assert "-fdebug-types-section" in found.notes[0]


def write_pair(path: Path, before: str, after: str, *options: str) -> list[str]:
    files = [path / "pre.o", path / "post.o"]
    for file, text in zip(files, (before, after), strict=True):
        file.write_bytes(compiled(text, *options))
    return [str(file) for file in files]


def test_diff_refuses_and_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = write_pair(tmp_path, TEXT, GROWN, "-g")
    assert run_command("diff", pair, "kdiff diff") == 3
    assert "refused  review.layout_changed" in capsys.readouterr().out
    assert run_command("diff", [*pair, "--accept-layout", "item"], "kdiff diff") == 0
    assert run_command("diff", [*pair, "--accept-layout", "box"], "kdiff diff") == 3


def test_diff_says_if_it_cannot_compare_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("diff", write_pair(tmp_path, TEXT, GROWN), "kdiff diff") == 0
    assert "not compared" in capsys.readouterr().err


def test_a_layout_that_no_code_depends_on_changes_nothing(tmp_path: Path) -> None:
    text = "struct s { int a; }; int f(struct s *s) { return s->a; }"
    assert (
        run_command(
            "diff", write_pair(tmp_path, text, text.replace("int a;", "int a, b;"), "-g"), "kdiff diff"
        )
        == 66
    )


# Broken input ----------------------------------------------------------------------------------------


def section_range(data: bytes, name: str) -> slice:
    obj = x86(data)
    (index,) = (i for i in range(1, len(obj.sections)) if obj.section_name(i) == name)
    start = int(obj.sections["offset"][index])
    return slice(start, start + int(obj.sections["size"][index]))


@pytest.mark.parametrize("name", [".debug_info", ".debug_abbrev", ".debug_str"])
def test_any_broken_byte_is_an_error_or_harmless_never_a_crash(name: str) -> None:
    data = compiled(EVERYTHING, "-g")
    place = section_range(data, name)
    wrong = 0
    for offset in range(place.start, place.stop):
        for value in (0, 0x7F, 0xFF, data[offset] ^ 1):
            broken = bytearray(data)
            broken[offset] = value
            try:
                types_of(x86(bytes(broken)), ARCHITECTURE)
            except KdiffError as error:
                assert error.key.startswith("dwarf.")  # noqa: PT017
                wrong += 1
    assert wrong or name == ".debug_str"


def test_a_cut_off_unit_is_an_error() -> None:
    data = bytearray(compiled(EVERYTHING, "-g"))
    place = section_range(bytes(data), ".debug_info")
    struct.pack_into("<I", data, place.start, place.stop - place.start)
    with pytest.raises(KdiffError, match="beyond the end") as caught:
        types_of(x86(bytes(data)), ARCHITECTURE)
    assert caught.value.key == "dwarf.malformed"


def test_a_compressed_section_that_claims_too_much_is_an_error() -> None:
    data = bytearray(compiled(EVERYTHING, "-g", "-gz=zlib"))
    place = section_range(bytes(data), ".debug_info")
    struct.pack_into("<Q", data, place.start + 8, 1 << 40)
    with pytest.raises(KdiffError, match="claims"):
        types_of(x86(bytes(data)), ARCHITECTURE)


def test_an_object_without_debugging_information_has_no_types() -> None:
    obj = x86(compiled(EVERYTHING))
    assert not has_types(obj)
    assert types_of(obj, ARCHITECTURE).layouts == {}


# Data that exists ------------------------------------------------------------------------------------


def keys(before: str, after: str) -> set[str]:
    assert before != after
    return {each.key for each in review(planned(graph(before), graph(after)))}


def variable(section: str, text: str) -> str:
    return f'__attribute__((section("{section}"))) int n = {text}; int f(void) {{ return n++; }}'


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (".data..read_mostly", "review.data_changed"),
        (".data..percpu", "review.per_cpu_changed"),
        (".data..ro_after_init", "review.ro_after_init"),
        (".init.data", "review.init_data"),
    ],
)
def test_another_initial_value_is_refused_by_what_the_variable_is(section: str, key: str) -> None:
    assert keys(variable(section, "3"), variable(section, "4")) == {key}


def test_a_variable_that_changes_place_is_refused() -> None:
    text = "__attribute__((aligned({}))) int n = 3; int f(void) {{ return n++; }}"
    assert keys(text.format(4), text.format(64)) == {"review.data_moved"}


def test_a_variable_that_may_be_written_from_now_on_is_refused() -> None:
    before, after = variable(".data..ro_after_init", "3"), variable(".data", "3")
    assert keys(before, after) == {"review.data_moved"}
    assert keys(after, before) == set()


def test_every_refusal_of_data_has_a_place_and_a_remedy() -> None:
    for section in (".data", ".data..percpu", ".data..ro_after_init", ".init.data"):
        found = review(planned(graph(variable(section, "3")), graph(variable(section, "4"))))
        assert all(section in each.place and each.remedy for each in found)
        assert found


# The real kernel -------------------------------------------------------------------------------------


@cache
def units_of(kernel: KernelSetup, patch: Path) -> tuple[Unit, ...]:
    return build(read_config(kernel.config), kernel.source, read_patch(patch), say=print).units


REAL = Path(__file__).parent / "patches"


@pytest.mark.kernel
def test_pyelftools_reads_the_same_of_a_real_unit(kernel: KernelSetup) -> None:
    (unit,) = units_of(kernel, REAL / "fs_cmdline.patch")
    assert agree(unit.pre) > 100


@pytest.mark.kernel
def test_types_of_a_real_unit_are_compared_in_a_blink(kernel: KernelSetup) -> None:
    (unit,) = units_of(kernel, REAL.parent.parent / "examples" / "tcp_ipv4.patch")
    start = time.process_time()
    before, after = (types_of(x86(data), ARCHITECTURE) for data in (unit.pre, unit.post))
    assert layout_changes(before, after) == ()
    assert time.process_time() - start < 1.5
    assert len(before.layouts) > 500


@pytest.mark.kernel
def test_a_real_structure_that_grows_is_refused(kernel: KernelSetup) -> None:
    with pytest.raises(Refused) as caught:
        make(kernel, REAL / "refused" / "layout.patch")
    (refusal,) = caught.value.refusals
    assert refusal.key == "review.layout_changed"
    assert "struct eventfd_ctx changes (was 48 bytes long, is 56; member wakeups is new" in refusal.reason
    assert any("its size in do_eventfd()" in line for line in refusal.details)


@pytest.mark.kernel
def test_a_real_structure_that_grows_can_be_accepted_and_is_recorded(kernel: KernelSetup) -> None:
    package = make(kernel, REAL / "refused" / "layout.patch", accept_layouts=("eventfd_ctx",))
    assert package.manifest["accepted_layouts"] == [
        {
            "name": "struct eventfd_ctx",
            "changes": [
                "was 48 bytes long, is 56",
                "member wakeups is new, at 32",
                "member count moved from 32 to 40",
                "member flags moved from 40 to 48",
                "member id moved from 44 to 52",
            ],
        }
    ]

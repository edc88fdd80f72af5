# SPDX-License-Identifier: Apache-2.0
"""Stage 2: nodes and references, freed of how an object happens to spell them."""

from __future__ import annotations

import pytest
from compiled import ASSEMBLY, UNIT, WHOLE, compiled, graph, graph_of, named
from elfwriter import ABS, FUNC, LOCAL, NOBITS, OBJECT, Sec, Sym, elf
from hypothesis import given, settings
from strategies import units

from kdiff.errors import KdiffError
from kdiff.graph import Node, SectionGraph
from kdiff.kernel import Keep, SpecialSection
from kdiff.split import Kind
from kdiff.topology import topology

PC32, PLT32, ABS64, ABS32S = 2, 4, 1, 11


def edges(graph: SectionGraph, name: str) -> list[tuple[str, int, int]]:
    """(target, addend, what the instruction adds) of each reference of a node."""
    return [
        (graph.nodes[r.target].label, r.addend, r.insn_addend)
        for r in graph.references[named(graph, name).id]
    ]


# References ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "share"),
    [("n = m;", -4), ("flag = 1;", -5), ("n = 70000;", -8), ("if (flag == 1) n = m;", -5), ("far();", -4)],
)
def test_what_the_instruction_adds_to_a_reference_is_decoded(statement: str, share: int) -> None:
    found = graph(f"extern char flag; extern int n, m; void far(void); void f(void) {{ {statement} m = 0; }}")
    references = edges(found, "f")
    assert all(addend == 0 for _, addend, _ in references)
    assert share in {added for _, _, added in references}


def test_absolute_fields_have_no_share_of_an_instruction() -> None:
    found = graph("extern int table[]; int f(long i) { return table[i + 2]; } int *p = &table[1];")
    assert edges(found, "f") == [("table", 8, 0)]
    assert edges(found, "p") == [("table", 4, 0)]


def test_a_section_symbol_and_a_symbol_with_an_addend_are_the_same_reference() -> None:
    code = Sec(".text.f", b"\x8b\x05\0\0\0\0\xc3", "ax", relocs=((2, PC32, ".data", 4),))
    other = Sec(".text.f", b"\x8b\x05\0\0\0\0\xc3", "ax", relocs=((2, PC32, "second", -4),))
    rest = (
        Sec(".data", bytes(16), "wa", 8), Sym("first", ".data", 0, 8, OBJECT, LOCAL),
        Sym("second", ".data", 8, 8, OBJECT, LOCAL), Sym("f", ".text.f", 0, 7, FUNC),
    )  # fmt: skip
    for each in (code, other):
        assert edges(graph_of(elf(each, *rest)), "f") == [("second", 0, -4)]


def test_calls_and_jumps_are_branches_and_addresses_are_none() -> None:
    found = graph("void far(void); void g(int); void f(void) { far(); g(3); } void *p(void) { return far; }")
    assert [r.branch for r in found.references[named(found, "f").id]] == [True, True]
    assert [r.branch for r in found.references[named(found, "p").id]] == [False]


def test_fields_in_data_are_never_branches() -> None:
    found = graph("void far(void); void (*p)(void) = far;")
    assert [r.branch for r in found.references[named(found, "p").id]] == [False]


def test_each_other_unit_s_symbol_is_one_node() -> None:
    found = graph("void far(void); void f(void) { far(); far(); } void g(void) { far(); }")
    externs = [node for node in found.nodes if node.kind is Kind.EXTERN]
    assert [node.name for node in externs] == ["far"]
    assert (externs[0].local, externs[0].section) == (False, 0)


def test_an_absolute_symbol_is_a_node_without_a_section() -> None:
    text = elf(Sec(".data", bytes(8), "wa", relocs=((0, ABS64, "there", 2),)), Sym("there", ABS, 64))
    found = graph_of(text)
    assert [(n.name, n.kind) for n in found.nodes if n.name == "there"] == [("there", Kind.EXTERN)]


def test_relocations_that_do_nothing_are_no_references() -> None:
    found = graph_of(elf(Sec(".data", bytes(8), "wa", relocs=((0, 0, "", 0),))))
    assert found.references == ((),)


def test_a_relocation_type_nobody_described_is_an_error() -> None:
    with pytest.raises(KdiffError) as caught:
        graph_of(elf(Sec(".data", bytes(8), "wa", relocs=((0, 42, "x", 0),))))
    assert (caught.value.key, caught.value.place) == ("arch.relocation", "unit.o: .data+0x0")


def test_a_field_that_reaches_beyond_its_node_is_an_error() -> None:
    with pytest.raises(KdiffError) as caught:
        graph_of(elf(Sec(".data", bytes(6), "wa", relocs=((0, ABS64, "x", 0),))))
    assert caught.value.key == "elf.relocations"


def test_a_jump_table_refers_to_the_inside_of_its_function() -> None:
    found = graph(UNIT)
    table = next(n for n in found.nodes if n.section_name == ".rodata.choose")
    choose = named(found, "choose")
    offsets = {r.addend for r in found.references[table.id]}
    assert {r.target for r in found.references[table.id]} == {choose.id}
    assert offsets <= {i.offset for i in found.code(choose)}
    assert len(offsets) > 3


def test_a_reference_to_the_end_of_an_object_stays_with_it() -> None:
    found = graph("char a[4] = {1}; char b[4] = {2}; char *end = a + 4; char *start = b;")
    assert edges(found, "end") == [("a", 4, 0)]


def test_a_reference_to_the_end_of_an_object_stays_with_it_where_objects_share_a_section() -> None:
    found = graph("char a[4] = {1}; char b[4] = {2}; char *end = a + 4; char *start = b;", WHOLE)
    assert edges(found, "end") == [("a", 4, 0)]


def test_strings_are_reached_at_their_start_wherever_they_stand() -> None:
    text = 'void f(char *); void g(void) { f("alpha"); f("beta"); f("gamma delta" + 6); }'
    found = graph(text)
    reached = {
        found.contents(found.nodes[r.target])[r.addend :]
        for r in found.references[named(found, "g").id]
        if found.nodes[r.target].kind is Kind.STRING
    }
    assert reached == {b"alpha\0", b"beta\0", b"delta\0"}


@given(units())
@settings(deadline=None, max_examples=8)
def test_a_unit_means_the_same_with_function_sections_and_without(text: str) -> None:
    one, whole = graph(text), graph(text, WHOLE)
    for node in one.nodes:
        if node.kind is not Kind.DATA or not node.name or node.name.startswith("calls"):
            continue
        other = named(whole, node.name)
        assert (node.kind, node.size, node.local) == (other.kind, other.size, other.local)
        assert one.contents(node) == whole.contents(other)
    names = {node.name for node in one.nodes if node.kind is Kind.FUNCTION}
    assert names == {node.name for node in whole.nodes if node.kind is Kind.FUNCTION}


# Nodes -----------------------------------------------------------------------------------------------


def test_a_node_knows_its_binding_and_all_its_names() -> None:
    found = graph(
        """
        int f(void) { return 1; }
        int g(void) __attribute__((alias("f")));
        static __attribute__((used)) int h(void) { return 2; }
        __attribute__((weak)) int w(void) { return 3; }
        """
    )
    f, h, w = (named(found, name) for name in "fhw")
    assert set(f.names) == {"f", "g"}
    assert (f.local, h.local, w.local) == (False, True, False)
    assert (f.weak, w.weak) == (False, True)


def test_labels_are_unique_even_where_names_are_not() -> None:
    found = graph_of(
        elf(
            Sec(".text.a", b"\xc3", "ax"), Sec(".text.b", b"\xc3", "ax"),
            Sym("f", ".text.a", 0, 1, FUNC, LOCAL), Sym("f", ".text.b", 0, 1, FUNC, LOCAL),
        )
    )  # fmt: skip
    assert [node.label for node in found.nodes] == ["f@.text.a+0x0", "f@.text.b+0x0"]
    assert [node.name for node in found.nodes] == ["f", "f"]


@pytest.mark.parametrize("options", [(), (WHOLE,)])
def test_labels_of_compiled_units_are_unique(options: tuple[str, ...]) -> None:
    found = graph(UNIT, *options)
    assert len({node.label for node in found.nodes}) == len(found.nodes)
    assert [node.id for node in found.nodes] == list(range(len(found.nodes)))


def test_alignment_is_that_of_the_node_and_not_of_its_section() -> None:
    data = elf(
        Sec(".data", bytes(40), "wa", 32),
        Sym("a", ".data", 0, 32, OBJECT), Sym("b", ".data", 36, 4, OBJECT),
    )  # fmt: skip
    found = graph_of(data)
    assert [(node.name, node.align) for node in found.nodes] == [("a", 32), ("b", 4)]


def test_what_has_no_bits_reads_as_zeros() -> None:
    found = graph_of(elf(Sec(".bss", type=NOBITS, size=16, flags="wa"), Sym("a", ".bss", 0, 16, OBJECT)))
    assert found.contents(found.nodes[0]) == bytes(16)


def test_symbols_inside_of_a_node_are_remembered() -> None:
    data = elf(
        Sec(".text", b"\x90\x90\xc3", "ax"), Sym("f", ".text", 0, 3, FUNC), Sym("middle", ".text", 1, 0)
    )
    found = graph_of(data)
    assert found.inner == {0: ((1, "middle"),)}


def test_a_place_names_the_object_the_section_and_the_offset() -> None:
    found = graph(UNIT, WHOLE)
    node = named(found, "tail")
    assert found.where(node, 2) == f"unit.o: .text+{node.start + 2:#x}"
    assert found.where(named(found, "limit")) == "unit.o: limit"


# Entries and owners ----------------------------------------------------------------------------------

TABLE = """
.section .text.f,"ax"
.globl f
.type f,@function
f: nop
1: ret
.size f,.-f
.section .text.g,"ax"
.globl g
.type g,@function
g: nop
2: ret
.size g,.-g
.section __sites,"a"
.long 2b - . , 0
.long 1b - . , 0
.long f - . , 0
.section __more,"a"
.byte 2, 1, 1
"""
ROWS = (
    SpecialSection("__sites", 8, Keep.OWNER, owner=0),
    SpecialSection("__more", 1, Keep.OWNER, parallel="__sites"),
)


def owned(found: SectionGraph, name: str) -> list[str]:
    return [found.nodes[entry].label for entry in found.entries.get(named(found, name).id, ())]


def test_an_entry_belongs_to_the_code_its_owner_field_names() -> None:
    found = graph_of(compiled(TABLE, ASSEMBLY), ROWS[:1])
    assert owned(found, "f") == ["__sites+0x8", "__sites+0x10"]
    assert owned(found, "g") == ["__sites+0x0"]


def test_an_entry_of_a_parallel_table_has_the_owner_of_the_entry_beside_it() -> None:
    found = graph_of(compiled(TABLE, ASSEMBLY), ROWS)
    assert owned(found, "g") == ["__sites+0x0", "__more+0x0"]
    assert found.contents(named_entry(found, "__more+0x0")) == b"\2"


def named_entry(found: SectionGraph, label: str) -> Node:
    (node,) = (node for node in found.nodes if node.label == label)
    return node


def test_an_entry_without_an_owner_field_belongs_to_nobody() -> None:
    found = graph_of(compiled(TABLE, ASSEMBLY), (SpecialSection("__sites", 8, Keep.REFERENCED),))
    assert found.owners == {}
    assert found.entries == {}


def test_the_topology_has_an_edge_for_each_reference_and_each_owned_entry() -> None:
    found = graph_of(compiled(TABLE, ASSEMBLY), ROWS)
    edges = topology(found)
    assert sorted(edges.nodes) == list(range(len(found.nodes)))
    f, entry = named(found, "f").id, named_entry(found, "__sites+0x8").id
    assert edges.has_edge(f, entry)
    assert edges.has_edge(entry, f)
    assert not edges.has_edge(f, named(found, "g").id)


def test_code_that_only_entries_use_is_known_as_such() -> None:
    row = SpecialSection("__sites", 8, Keep.OWNER, owner=0, pieces=(".text.g",))
    found = graph_of(compiled(TABLE, ASSEMBLY), (row,))
    assert {node.section_name for node in found.nodes if found.is_piece(node)} == {".text.g"}


def test_instructions_of_a_function_cover_it() -> None:
    found = graph(UNIT)
    for node in found.nodes:
        if node.kind is Kind.FUNCTION:
            code = found.code(node)
            assert [i.offset for i in code[1:]] == [i.offset + i.size for i in code[:-1]]
            assert code[-1].offset + code[-1].size == node.size

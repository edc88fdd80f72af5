# SPDX-License-Identifier: Apache-2.0
"""The carried object: how nodes become sections, symbols and relocations."""

from __future__ import annotations

import pytest
from compiled import ASSEMBLY, UNIT, WHOLE, compiled, graph, graph_of, named
from elfwriter import Sec, elf
from linkoracle import compiled as cross_compiled
from linkoracle import graph as cross_graph
from test_linenumbers import ARM

from kdiff.carry import Carrier
from kdiff.elf.read import SHT_NOBITS, SHT_PROGBITS, STB_GLOBAL, STT_FUNC, STT_OBJECT, read_bytes
from kdiff.elf.write import Relocatable, Section, write
from kdiff.errors import KdiffError
from kdiff.graph import SectionGraph
from kdiff.kernel import Keep, SpecialSection
from kdiff.split import Kind

PLT32 = 4


def carried(graph: SectionGraph, *names: str) -> Relocatable:
    """An object of the nodes with these names, references between them joined and others left out."""
    carrier = Carrier()
    nodes = [named(graph, name) for name in names]
    for node in nodes:
        carrier.place(graph, 0, node)
    for node in nodes:
        for reference in graph.references[node.id]:
            if reference.target in carrier.members(0):
                carrier.join(0, node.id, reference)
            else:
                carrier.refer(0, node.id, reference, f"to_{graph.nodes[reference.target].label}")
    return carrier.finish(graph)


def section(made: Relocatable, name: str) -> Section:
    (found,) = (each for each in made.sections if each.name == name)
    return found


def test_a_function_keeps_its_section_bytes_and_alignment() -> None:
    found = graph(UNIT)
    made = section(carried(found, "helper"), ".text.helper")
    assert made.data == found.contents(named(found, "helper"))
    assert (made.align, made.type) == (16, SHT_PROGBITS)


def test_a_function_out_of_a_section_of_many_gets_a_section_of_its_own() -> None:
    made = carried(graph(UNIT, WHOLE), "helper", "tail")
    assert [each.name for each in made.sections] == [".text.helper", ".text.tail"]


def test_a_variable_without_bits_stays_without() -> None:
    made = section(carried(graph(UNIT), "hits"), ".bss.hits")
    assert (made.type, made.data, made.size) == (SHT_NOBITS, b"", 4)


def test_nodes_become_local_symbols_of_their_kind_and_size() -> None:
    found = graph(UNIT)
    made = carried(found, "helper", "counter")
    symbols = {each.name: each for each in made.symbols}
    helper, counter = symbols["helper"], symbols["counter"]
    assert (helper.type, helper.size, helper.binding) == (STT_FUNC, named(found, "helper").size, 0)
    assert (counter.type, counter.size, counter.binding) == (STT_OBJECT, 4, 0)


def test_a_published_node_has_a_global_name_that_occurs_nowhere_else() -> None:
    found = graph(UNIT)
    carrier = Carrier()
    for unit in (0, 1):
        carrier.place(found, unit, named(found, "helper"))
    names = [carrier.publish(unit, named(found, "helper").id, "helper") for unit in (0, 1)]
    assert len({*names, "helper"}) == 3
    made = {each.name: each for each in carrier.finish(found).symbols}
    assert all(made[name].binding == STB_GLOBAL and made[name].section is not None for name in names)


def test_references_keep_their_whole_addend() -> None:
    text = "extern char flag[]; extern int n; int f(void) { flag[3] = 1; n = 70000; return 0; }"
    found = graph(text)
    made = carried(found, "f")
    before = [
        (r.offset, r.howto.type, r.addend + r.insn_addend) for r in found.references[named(found, "f").id]
    ]
    after = [(r.offset, r.type, r.addend) for r in section(made, ".text.f").relocations]
    assert after == before
    assert {addend for *_, addend in after} == {3 - 5, -8}


def test_branches_that_the_assembler_filled_in_get_records_and_empty_fields() -> None:
    text = """
        .section .sched.text, "ax"
        .type callee, @function
        .type caller, @function
        callee: ret
        .size callee, . - callee
        .fill 300, 1, 0xcc
        caller: call callee; jne callee; ret
        .size caller, . - caller
    """
    found = graph(text, ASSEMBLY)
    assert not len(found.obj.relocations)
    for names in (["caller"], ["callee", "caller"]):
        made = section(carried(found, *names), ".sched.text.caller")
        assert made.data == bytes.fromhex("e800000000 0f8500000000 c3")
        found_records = [(each.offset, each.type, each.addend) for each in made.relocations]
        assert found_records == [(1, PLT32, -4), (7, PLT32, -4)]


def test_a_distance_that_its_field_cannot_hold_is_an_error() -> None:
    """Records of arm have their addends in the fields, and a branch goes to whole words."""
    text = "void g(void); void f(void) { g(); g(); }"
    found = cross_graph(ARM, cross_compiled(ARM, text, "-O2", "-ffunction-sections"))
    node = named(found, "f")
    carrier = Carrier()
    carrier.place(found, 0, node)
    reference = found.references[node.id][0]
    carrier.refer(0, node.id, reference, "g")
    with pytest.raises(KdiffError) as caught:
        carrier.refer(0, node.id, reference._replace(addend=reference.addend + 1), "g")
    assert caught.value.key == "carry.relocation"
    assert "cannot hold" in caught.value.message


def test_an_undefined_symbol_is_made_once() -> None:
    made = carried(graph("void far(void); void f(void) { far(); far(); }"), "f")
    assert [each.name for each in made.symbols if each.section is None] == ["to_far"]


def test_strings_share_a_section_and_stay_whole() -> None:
    found = graph(UNIT)
    carrier = Carrier()
    strings = [node for node in found.nodes if node.kind is Kind.STRING]
    for node in strings:
        carrier.place(found, 0, node)
    (made,) = carrier.finish(found).sections
    assert made.name == ".rodata.str"
    assert made.data == b"".join(found.contents(node) for node in strings)


def test_strings_that_are_aligned_stay_aligned() -> None:
    found = graph_of(elf(Sec(".rodata.str1.8", b"one\0\0\0\0\0two\0", "aMS", 8, entry_size=1)))
    carrier = Carrier()
    for node in (node for node in found.nodes if node.size > 1):
        carrier.place(found, 0, node)
    made = carrier.finish(found)
    assert made.sections[0].data == b"one\0\0\0\0\0two\0"
    assert [each.value for each in made.symbols] == [0, 8]


TABLE = """
.section .text.f,"ax"
.type f,@function
f: ret
.size f,.-f
.section __sites,"a"
.long f - . , 1
.long f - . , 2
.long f - . , 3
"""


def test_entries_of_one_table_share_a_section_without_gaps_and_keep_their_order() -> None:
    row = SpecialSection("__sites", 8, Keep.OWNER, owner=0)
    found = graph_of(compiled(TABLE, ASSEMBLY), (row,))
    carrier = Carrier()
    entries = [node for node in found.nodes if node.table is not None and node.row != 1]
    for node in (named(found, "f"), *entries):
        carrier.place(found, 0, node)
    for entry in entries:
        carrier.join(0, entry.id, found.references[entry.id][0])
    made = section(carrier.finish(found), "__sites")
    assert made.data == bytes(4) + b"\1\0\0\0" + bytes(4) + b"\3\0\0\0"
    assert [each.offset for each in made.relocations] == [0, 8]


def test_what_was_made_is_a_sound_object() -> None:
    found = graph(UNIT)
    again = read_bytes(write(carried(found, "entry", "helper", "tail", "counter", "hits", "names")))
    assert again.machine == found.obj.machine
    assert len(again.relocations) == sum(
        len(found.references[named(found, name).id]) for name in ("entry", "helper", "tail", "names")
    )

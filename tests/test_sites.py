# SPDX-License-Identifier: Apache-2.0
"""Where run memory may differ: what a table's row sees of an entry, and how sites that overlap are merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from compiled import ASSEMBLY, compiled, graph_of, named
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff.errors import KdiffError
from kdiff.graph import SectionGraph
from kdiff.kernel import EntryView, Field, Form, Keep, Literal, Pad, Place, Site, SpecialSection
from kdiff.sites import View, parts, sites

UNIT = """
.section .text.f,"ax"
.globl f
.type f,@function
f:  nop; nop; nop
1:  call far_away
2:  lock incl (%rdi)
3:  ret
.size f,.-f
.section .data.d,"aw"
.globl d
d: .long 4
.section __sites,"a"
    .long 1b - . ; .byte 5, 0, 0, 0
    .long 2b - . ; .byte 1, 0, 0, 0
    .long f - .  ; .byte 11, 0, 0, 0
"""
SITE = (3, 5)


def graph(row: Callable[[EntryView], Iterable[Site]] | None, text: str = UNIT) -> SectionGraph:
    table = SpecialSection("__sites", 8, Keep.OWNER, owner=0, sites=row)
    return graph_of(compiled(text, ASSEMBLY), (table,))


def view(number: int = 0) -> tuple[View, Place]:
    """An entry of the table and the place it names."""
    found = graph(None)
    entry = next(node for node in found.nodes if node.table is not None and node.row == number)
    seen = View(found, entry, whole)
    place = seen.place(0)
    assert place is not None
    return seen, place


def whole(view: EntryView) -> list[Site]:
    """A site at the place an entry names, of the size it names, that may be filled with int3."""
    place = view.place(0)
    assert place is not None
    return [Site(place.offset, view.data[4], "trap", ((Literal(b"\xcc" * view.data[4]),),))]


def bytes_of(form: Form) -> bytes:
    return b"".join(part.data if isinstance(part, Literal) else b"?" * part.size for part in form)


# What a row sees -------------------------------------------------------------------------------------


def test_an_entry_names_a_place_in_its_owner() -> None:
    seen, place = view()
    assert place == Place(named(seen.graph, "f").id, "f", 3)
    assert seen.place(1) is None
    assert seen.architecture is ARCHITECTURE
    assert seen.data == bytes(4) + b"\5\0\0\0"


def test_a_row_reads_the_code_at_a_place() -> None:
    seen, place = view()
    assert seen.code(place, 5) == b"\xe8" + bytes(4)


def test_the_bytes_at_a_place_come_as_literals_and_fields() -> None:
    seen, place = view()
    opcode, field = seen.parts(place, 5)
    assert opcode == Literal(b"\xe8")
    assert isinstance(field, Field)
    assert (field.place.name, field.place.offset, field.insn_addend) == ("far_away", 0, -4)


def test_a_row_asks_how_long_an_instruction_is() -> None:
    seen, place = view()
    assert seen.next_instruction(place) == 5


def test_a_place_within_an_instruction_is_an_error() -> None:
    seen, place = view()
    with pytest.raises(KdiffError) as caught:
        seen.next_instruction(Place(place.node, "f", 4))
    assert caught.value.key == "sites.instruction"


@pytest.mark.parametrize(("offset", "size"), [(0, 100), (-1, 2), (11, 5)])
def test_a_place_that_reaches_beyond_its_function_is_an_error(offset: int, size: int) -> None:
    seen, place = view()
    with pytest.raises(KdiffError) as caught:
        seen.code(Place(place.node, "f", offset), size)
    assert caught.value.key == "sites.outside"


def test_an_entry_about_code_of_another_unit_is_an_error() -> None:
    seen, _ = view()
    far = Place(named(seen.graph, "far_away").id, "far_away")
    for ask in (lambda: seen.code(far, 1), lambda: seen.next_instruction(Place(None, "new"))):
        with pytest.raises(KdiffError) as caught:
            ask()
        assert caught.value.key == "sites.extern"


# Which sites there are -------------------------------------------------------------------------------


def test_sites_that_touch_but_do_not_overlap_stay_apart() -> None:
    found = graph(lambda view: whole(view) if view.data[4] < 10 else ())
    (all_sites,) = sites(found).values()
    assert [(site.offset, site.size) for site in all_sites] == [(3, 5), (8, 1)]


def test_sites_belong_to_the_function_that_owns_the_entry() -> None:
    found = graph(lambda view: whole(view) if view.data[4] < 10 else ())
    assert set(sites(found)) == {named(found, "f").id}


def test_a_table_without_rewrites_has_no_sites() -> None:
    assert sites(graph(None)) == {}


def test_an_entry_about_data_has_no_site() -> None:
    text = UNIT.replace(".long f - . ", ".long d - . ")
    found = graph(whole, text)
    assert set(sites(found)) == {named(found, "f").id}


def test_a_section_the_kernel_rewrites_as_a_whole_has_sites_without_a_table() -> None:
    row = SpecialSection(
        ".text.f", 0, Keep.REFERENCED, code=True, sites=lambda view: [Site(0, 1, view.name, ())]
    )
    found = graph_of(compiled(UNIT, ASSEMBLY), (row,))
    assert sites(found) == {named(found, "f").id: (Site(0, 1, "f", ()),)}


# Sites that overlap ----------------------------------------------------------------------------------


def test_sites_that_overlap_become_one_whose_forms_are_completed_by_the_bytes_around() -> None:
    found = graph(whole)
    ((merged,),) = sites(found).values()
    assert (merged.offset, merged.size) == (0, 11)
    assert {bytes_of(form) for form in merged.forms} == {
        b"\xcc" * 11,
        b"???" + b"\xcc" * 5 + b"\xf0\xff\x07",
        b"???\xe8????" + b"\xcc" + b"\xff\x07",
    }


def test_in_bytes_around_an_inner_site_no_ops_may_have_any_shape_and_fields_stay_fields() -> None:
    found = graph(whole)
    ((merged,),) = sites(found).values()
    form = next(form for form in merged.forms if bytes_of(form).endswith(b"\xcc\xff\x07"))
    assert form[0] == Pad(3)
    assert isinstance(form[2], Field)
    assert form[2].place.name == "far_away"


def test_all_forms_of_a_merged_site_have_its_size() -> None:
    ((merged,),) = sites(graph(whole)).values()
    assert {sum(part.size for part in form) for form in merged.forms} == {merged.size}


def test_a_merged_site_names_every_cause_once() -> None:
    def rows(view: EntryView) -> list[Site]:
        return [Site(each.offset, each.size, f"cause{view.data[4] % 2}", each.forms) for each in whole(view)]

    ((merged,),) = sites(graph(rows)).values()
    assert merged.rewrite == "cause1"
    ((merged,),) = sites(graph(lambda view: [Site(0, 3 + view.data[4] // 5, f"{view.data[4]}", ())])).values()
    assert merged.rewrite == "1+5+11"


def test_equal_forms_are_listed_once() -> None:
    def rows(view: EntryView) -> list[Site]:
        return [Site(0, 3, "a", ((Pad(3),),)), Site(0, 3, "b", ((Pad(3),),))]

    ((merged,),) = sites(graph(rows)).values()
    assert merged.forms == ((Pad(3),),)


def test_the_pre_bytes_of_a_range_join_up_again() -> None:
    found = graph(None)
    node = named(found, "f")
    for start in (0, 3, 8):
        form = parts(found, node, start, node.size)
        assert sum(part.size for part in form) == node.size - start
    loose = parts(found, node, 0, node.size, loose_nops=True)
    assert loose[0] == Pad(3)
    assert parts(found, node, 0, 3)[0] == Literal(b"\x90\x90\x90")

# SPDX-License-Identifier: Apache-2.0
"""Stage 7: one node at one address of run memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from compiled import ASSEMBLY, REST, UNIT, WHOLE, compiled, graph, graph_of, named
from kdiff_arch_x86_64 import ARCHITECTURE
from run_memory import BASE, LinkedMemory, link

from kdiff.fields import is_pad
from kdiff.graph import SectionGraph
from kdiff.kernel import Field, Form, Literal, OneOf, Pad, Place, Site, Through
from kdiff.runpre import Matcher
from kdiff.verdict import Allowed, Match, Mismatch

PC32 = ARCHITECTURE.howtos[2]
CALL = b"\xe8"


def matched(
    graph: SectionGraph, memory: LinkedMemory, name: str, sites: Mapping[str, Site] | None = None,
    address: int | None = None,
) -> Match | Mismatch:  # fmt: skip
    """Match a function, by default where the book lists it, with at most one site each."""
    by_id = {named(graph, each).id: (site,) for each, site in (sites or {}).items()}
    matcher = Matcher(graph, by_id, memory, memory.address_book())
    return matcher.match(named(graph, name), memory.at(name) if address is None else address)


def proved(found: Match | Mismatch) -> Match:
    assert isinstance(found, Match), found
    return found


def differs(found: Match | Mismatch) -> Mismatch:
    assert isinstance(found, Mismatch), found
    return found


def kernel() -> LinkedMemory:
    return link(compiled(REST), compiled(UNIT, WHOLE))


# Bytes and fields ------------------------------------------------------------------------------------


def test_a_match_covers_every_run_byte_and_teaches_where_the_targets_are() -> None:
    memory = kernel()
    match = proved(matched(graph(UNIT), memory, "helper"))
    assert sum(part.size for part in match.parts) == match.size
    assert {(fact.name, fact.address) for fact in match.facts} == {
        ("limit", memory.at("limit")),
        ("hits", memory.at("hits")),
    }
    assert match.moved == ()


def test_a_match_tells_from_where_it_learned() -> None:
    pre = graph(UNIT)
    match = proved(matched(pre, kernel(), "helper"))
    assert {fact.source(pre).partition("+")[0] for fact in match.facts} == {"unit.o: .text.helper"}


def test_the_first_different_byte_is_the_place_of_a_mismatch() -> None:
    memory = kernel()
    found = differs(matched(graph(UNIT), memory.flipped(memory.at("helper") + 15, 2), "helper"))
    assert (found.offset, found.run_offset) == (15, 15)


def test_every_flipped_bit_outside_of_fields_is_a_mismatch() -> None:
    memory, pre = kernel(), graph(UNIT)
    node = named(pre, "helper")
    fields = {r.offset + i for r in pre.references[node.id] for i in range(r.howto.size)}
    tried = [(at, bit) for at in range(node.size) if at not in fields for bit in range(8)]
    assert len(tried) > 50
    for at, bit in tried:
        found = matched(pre, memory.flipped(memory.at("helper") + at, bit), "helper")
        assert isinstance(found, Mismatch), (at, bit)


def test_a_field_that_reaches_a_place_kallsyms_gives_to_others_is_a_mismatch() -> None:
    memory = kernel()
    found = differs(matched(graph(UNIT), memory.flipped(memory.at("helper") + 2, 5), "helper"))
    assert "which is not hits" in found.reason


def test_a_symbol_the_book_does_not_know_may_be_anywhere() -> None:
    source = "\n.globl f\n.type f,@function\nf: mov .Lnameless(%rip),%eax\nret\n.size f,.-f\n"
    data = compiled(f".text{source}.data\n.long 1\n.Lnameless: .long 2\n", ASSEMBLY)
    memory = link(data)
    match = proved(matched(graph_of(data), memory.flipped(memory.at("f") + 2, 3), "f"))
    assert len(match.facts) == 1


def test_memory_that_is_not_there_is_a_mismatch() -> None:
    found = differs(matched(graph(UNIT), kernel(), "helper", address=BASE - 4096))
    assert found.reason == "no memory at this address"


def test_constants_and_strings_match_wherever_their_contents_are() -> None:
    memory, pre = kernel(), graph(UNIT)
    matcher = Matcher(pre, {}, memory, memory.book)
    primes = named(pre, "primes")
    assert isinstance(matcher.match(primes, memory.at("primes")), Match)
    assert isinstance(matcher.match(primes, memory.at("primes") + 2), Mismatch)


def test_immediates_behind_a_field_count_into_its_addend() -> None:
    text = "extern char flag; extern int count; int f(void) { count = 5; return flag == 1; }"
    memory = link(compiled(text), compiled("char flag; int count;"))
    match = proved(matched(graph(text), memory, "f"))
    assert {(fact.name, fact.address) for fact in match.facts} == {
        ("flag", memory.at("flag")),
        ("count", memory.at("count")),
    }


def test_initial_values_are_compared_by_their_references_only() -> None:
    memory, pre = kernel(), graph(UNIT)
    matcher = Matcher(pre, {}, memory, memory.book)
    table = named(pre, "table")
    found = matcher.references(table, memory.at("table"))
    assert isinstance(found, Match)
    assert {f.address for f in found.facts if f.name} == {memory.at("entry"), memory.at("choose")}
    assert isinstance(matcher.references(table, 4096), Mismatch)
    other = Matcher(pre, {}, memory.patched(memory.at("table"), bytes(8)), memory.book)
    assert isinstance(other.references(table, memory.at("table")), Mismatch)


# Layout ----------------------------------------------------------------------------------------------

JUMPS = """
extern int limit;
static __attribute__((noinline)) int near_one(int a) { return a * limit; }
int jumps(int a) { if (a) return near_one(a + 3); return 9; }
"""


def jumps() -> tuple[SectionGraph, LinkedMemory]:
    return graph(JUMPS), link(compiled(JUMPS, WHOLE), compiled("int limit;"))


def test_a_jump_that_is_near_in_pre_and_short_in_run_matches() -> None:
    pre, memory = jumps()
    match = proved(matched(pre, memory, "jumps"))
    assert match.size < named(pre, "jumps").size
    assert ("near_one", memory.at("near_one")) in {(fact.name, fact.address) for fact in match.facts}
    assert sum(part.size for part in match.parts) == match.size


def test_offsets_behind_a_shorter_jump_are_translated() -> None:
    pre, memory = jumps()
    match = proved(matched(pre, memory, "jumps"))
    size = named(pre, "jumps").size
    assert match.run_offset(0) == 0
    assert match.run_offset(size) == match.size
    assert match.run_offset(1) is None


def test_any_flipped_bit_of_a_function_with_another_layout_is_a_mismatch_or_another_fact() -> None:
    pre, memory = jumps()
    before = proved(matched(pre, memory, "jumps"))
    for at in range(before.size):
        for bit in range(8):
            found = matched(pre, memory.flipped(memory.at("jumps") + at, bit), "jumps")
            assert isinstance(found, Mismatch) or found.facts != before.facts, (at, bit)


LOOP = """
extern int limit;
void other(int);
int loop(int a) { int sum = a * a; for (int i = 0; i < limit; i++) { other(i); sum ^= i; } return sum; }
"""


def test_no_ops_that_align_differently_match() -> None:
    memory = link(compiled("int limit; void other(int a) {}"), compiled(LOOP, "-falign-loops=64"))
    match = proved(matched(graph(LOOP, "-falign-loops=16"), memory, "loop"))
    assert match.moved
    assert any(isinstance(part, Pad) for part in match.parts)
    back = proved(
        matched(
            graph(LOOP, "-falign-loops=64"),
            link(compiled("int limit; void other(int a) {}"), compiled(LOOP, "-falign-loops=1")),
            "loop",
        )
    )
    assert back.size < named(graph(LOOP, "-falign-loops=64"), "loop").size


def branching(body: str) -> bytes:
    return compiled(f".text\n.globl f\n.type f,@function\nf: {body}\n.size f,.-f\n", ASSEMBLY)


NEAR_JUMP = "test %edi,%edi; .byte 0x0f,0x85; .long 1f-2f; 2: inc %eax; 1: dec %ebx; ret"


def test_a_branch_inside_of_a_function_may_be_shorter_but_must_reach_the_same_instruction() -> None:
    pre = graph_of(branching(NEAR_JUMP))
    good = link(branching("test %edi,%edi; jne 1f; inc %eax; 1: dec %ebx; ret"))
    assert proved(matched(pre, good, "f")).size == named(pre, "f").size - 4
    early = link(branching("test %edi,%edi; jne 1f; 1: inc %eax; dec %ebx; ret"))
    assert differs(matched(pre, early, "f")).reason == "branches to another place"


def test_a_branch_of_another_condition_is_a_mismatch() -> None:
    pre = graph_of(branching(NEAR_JUMP))
    other = link(branching("test %edi,%edi; je 1f; inc %eax; 1: dec %ebx; ret"))
    assert "run has 74" in differs(matched(pre, other, "f")).reason


def test_an_instruction_that_only_run_has_is_a_mismatch() -> None:
    pre = graph_of(branching("inc %eax; ret"))
    assert differs(matched(pre, link(branching("inc %eax; inc %eax; ret")), "f")).offset == 2


def test_run_memory_that_ends_right_behind_a_function_is_enough() -> None:
    pre = graph_of(branching("inc %eax; ret"))
    memory = link(branching("nop; inc %eax; ret"))
    assert proved(matched(pre, memory, "f")).size == 4


# Sites -----------------------------------------------------------------------------------------------

PATCHABLE = "nop; nop; nop; nop; nop; mov %edi,%eax; ret; .globl new; new: ret; .globl old; old: ret"
NOP5 = b"\x0f\x1f\x44\0\0"


def call(memory: LinkedMemory, place: int, target: int) -> bytes:
    return CALL + (target - place - 5 & 0xFFFFFFFF).to_bytes(4, "little")


Case = tuple[Form, Callable[[LinkedMemory], bytes]]
CASES: dict[str, Case] = {
    "literal": ((Literal(b"\xcc" * 5),), lambda m: b"\xcc" * 5),
    "pad": ((Pad(5),), lambda m: NOP5),
    "pad of two": ((Pad(5),), lambda m: b"\x66\x90\x0f\x1f\0"),
    "field": (
        (Literal(CALL), Field(PC32, Place(None, "new"), -4, bytes(4))),
        lambda m: call(m, m.at("f"), m.at("new")),
    ),
    "one of": (
        (Literal(CALL), OneOf(PC32, ("gone", "old", "new"), -4)),
        lambda m: call(m, m.at("f"), m.at("old")),
    ),
    "through": (
        (Literal(CALL), Through(PC32, Place(None, "slot"), -4)),
        lambda m: call(m, m.at("f"), m.at("old")),
    ),
}


def patchable() -> tuple[SectionGraph, LinkedMemory]:
    unit = branching(PATCHABLE)
    return graph_of(unit), link(unit, compiled("extern char old[]; void *slot = old;"))


@pytest.mark.parametrize("case", CASES)
def test_a_site_may_have_an_allowed_form_where_code_has_run(case: str) -> None:
    form, run_bytes = CASES[case]
    pre, memory = patchable()
    memory = memory.patched(memory.at("f"), run_bytes(memory))
    site = Site(0, 5, "rewrite", (form,))
    match = proved(matched(pre, memory.alive(), "f", {"f": site}))
    assert match.parts[0] == Allowed(site, 5)


@pytest.mark.parametrize("case", CASES)
def test_a_site_is_as_compiled_where_nothing_has_run(case: str) -> None:
    form, run_bytes = CASES[case]
    pre, memory = patchable()
    site = Site(0, 5, "rewrite", (form,))
    assert proved(matched(pre, memory, "f", {"f": site})).parts[0] == Allowed(site, 5)
    found = differs(matched(pre, memory.patched(memory.at("f"), run_bytes(memory)), "f", {"f": site}))
    assert found.offset < site.size


@pytest.mark.parametrize("case", CASES)
def test_any_flipped_bit_of_a_rewritten_site_is_a_mismatch(case: str) -> None:
    form, run_bytes = CASES[case]
    pre, memory = patchable()
    memory = memory.patched(memory.at("f"), run_bytes(memory)).alive()
    site = Site(0, 5, "rewrite", (form,))
    accepted = [
        (at, bit)
        for at in range(5)
        for bit in range(8)
        if isinstance(matched(pre, memory.flipped(memory.at("f") + at, bit), "f", {"f": site}), Match)
    ]
    assert accepted == []


def test_a_site_keeps_the_original_bytes_as_a_form_in_live_memory() -> None:
    pre, memory = patchable()
    site = Site(0, 5, "rewrite", ((Literal(b"\xcc" * 5),),))
    assert isinstance(matched(pre, memory.alive(), "f", {"f": site}), Match)


def test_a_site_that_holds_none_of_its_forms_is_a_mismatch() -> None:
    pre, memory = patchable()
    site = Site(0, 5, "rewrite", ((Literal(b"\xcc" * 5),), (Pad(5),)))
    found = differs(matched(pre, memory.alive().patched(memory.at("f"), b"\x0f\x0b"), "f", {"f": site}))
    assert found.reason == "rewrite site holds 0f 0b 90 90 90, none of its 3 allowed forms"


def test_a_call_through_a_pointer_follows_what_the_pointer_holds_now() -> None:
    form, _ = CASES["through"]
    pre, memory = patchable()
    site = Site(0, 5, "rewrite", (form,))
    memory = memory.alive().patched(memory.at("slot"), memory.at("new").to_bytes(8, "little"))
    old = memory.patched(memory.at("f"), call(memory, memory.at("f"), memory.at("old")))
    new = memory.patched(memory.at("f"), call(memory, memory.at("f"), memory.at("new")))
    assert isinstance(matched(pre, old, "f", {"f": site}), Mismatch)
    assert isinstance(matched(pre, new, "f", {"f": site}), Match)


def test_a_field_of_a_form_teaches_like_any_other() -> None:
    pre, memory = patchable()
    target = named(pre, "f")
    form: Form = (Literal(CALL), Field(PC32, Place(target.id, "f"), -4, bytes(4)))
    memory = memory.patched(memory.at("f"), call(memory, memory.at("f"), memory.at("f"))).alive()
    match = proved(matched(pre, memory, "f", {"f": Site(0, 5, "rewrite", (form,))}))
    assert [(fact.node, fact.address) for fact in match.facts] == [(target.id, memory.at("f"))]


def test_a_rewritten_site_matches_where_the_layout_moved_too() -> None:
    pre = graph_of(branching(f"jne 9f; {PATCHABLE}; .fill 200, 1, 0xcc; 9: ret"))
    run = link(branching(f"nop; jne 9f; {PATCHABLE}; .fill 200, 1, 0xcc; 9: ret"))
    site = Site(6, 5, "rewrite", ((Literal(b"\xcc" * 5),),))
    assert proved(matched(pre, run, "f", {"f": site})).moved
    written = run.alive().patched(run.at("f") + 7, b"\xcc" * 5)
    assert proved(matched(pre, written, "f", {"f": site})).run_offset(6) == 7
    assert isinstance(matched(pre, written.flipped(run.at("f") + 8, 0), "f", {"f": site}), Mismatch)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ("", True),
        ("90", True),
        ("0f1f4400006690", True),
        ("0f1f44", False),
        ("0f1f440000cc", False),
        ("66", False),
    ],
)
def test_padding_is_whole_no_ops_of_any_shape(data: str, answer: bool) -> None:
    assert is_pad(ARCHITECTURE.nops, bytes.fromhex(data)) is answer

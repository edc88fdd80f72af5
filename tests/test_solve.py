# SPDX-License-Identifier: Apache-2.0
"""Stage 8: one consistent address per node. Run memory is what a real linker made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from compiled import ASSEMBLY, REST, UNIT, WHOLE, compiled, graph, graph_of, inside, inside_whole, named
from hypothesis import given, settings
from kdiff_kernel_linux import kdiff_special_sections
from run_memory import BASE, SLIDE, LinkedMemory, link
from strategies import units

from kdiff.addressbook import AddressBook
from kdiff.graph import SectionGraph
from kdiff.habits import Habits, ReadOnlyMemory
from kdiff.kernel import KernelFacts
from kdiff.memory import Extent
from kdiff.readonly import ReadOnly
from kdiff.sites import sites
from kdiff.solve import RunMatch, solve
from kdiff.split import Kind


def solved(graph: SectionGraph, memory: LinkedMemory) -> RunMatch:
    return solve(graph, sites(graph), memory, memory.address_book())


def kernel(base: int = BASE) -> LinkedMemory:
    return link(compiled(REST), compiled(UNIT, WHOLE), base=base)


def proves(run: RunMatch, name: str) -> bool:
    """Whether the run match would let a function be replaced."""
    node = named(run.graph, name)
    match = run.matches.get(node.id)
    return match is not None and not run.refusals and not run.unconfirmed(match)


def keys(run: RunMatch) -> set[str]:
    return {each.key for each in run.refusals}


# Pre linked anywhere matches and teaches the true addresses ------------------------------------------


@pytest.mark.parametrize("base", [BASE, BASE + SLIDE, 0xFFFFFFFFC0000000])
@pytest.mark.parametrize("pristine", [True, False])
def test_pre_code_linked_anywhere_matches_and_teaches_the_true_addresses(base: int, pristine: bool) -> None:
    memory = kernel(base)
    run = solved(graph(UNIT), memory if pristine else memory.alive())
    assert run.refusals == ()
    for node in run.graph.nodes:
        if node.name and node.name != "table":
            assert run.addresses[node.id] in {each.address for each in memory.book.named(node.name)}
    functions = {node.name for node in run.graph.nodes if node.kind is Kind.FUNCTION and not node.weak}
    assert all(proves(run, name) for name in functions)


def test_strings_and_unnamed_constants_are_found_by_their_contents() -> None:
    memory = kernel()
    run = solved(graph(UNIT), memory)
    unnamed = [
        node
        for node in run.graph.nodes
        if node.kind in (Kind.STRING, Kind.CONSTANT) and not run.graph.references[node.id]
    ]
    assert len(unnamed) > 4
    for node in unnamed:
        assert memory.read(run.addresses[node.id], node.size) == run.graph.contents(node)


def test_equal_code_under_another_name_is_not_the_function_that_kallsyms_lists_nowhere() -> None:
    """A later release may split a function: its body then has a new name, and the old one is a wrapper."""
    text = """
extern int limit;
__attribute__((noinline)) int %s(int a) { return a * limit + 3; }
int caller(int a) { return %s(a) + 1; }
"""
    memory = link(compiled(REST), compiled(text % ("whole", "whole"), WHOLE))
    run = solved(graph(text % ("inner", "inner")), memory)
    refusal = run.open[named(run.graph, "inner").id]
    assert refusal.reason.endswith("kallsyms lists whole here, and inner nowhere")
    assert not proves(run, "caller")
    assert proves(solved(graph(text % ("whole", "whole")), memory), "caller")


BUFFER = """
int printk(const char *, ...);
char buffer[16] = "case %d";
const char constant[16] __attribute__((section(".rodata.other"))) = "case %d";
"""
"""A buffer that at this moment holds what a string of `UNIT` does, and a place where nobody can write."""


@pytest.mark.parametrize(("place", "proved"), [("buffer", False), ("constant", True)])
def test_a_string_is_not_what_a_buffer_holds_at_this_moment(place: str, proved: bool) -> None:
    memory, pre = link(compiled(REST), compiled(UNIT, WHOLE), compiled(BUFFER)), graph(UNIT)
    run = solved(pre, memory)
    assert proves(run, "choose")
    text = next(n for n in pre.nodes if n.kind is Kind.STRING and pre.contents(n) == b"case %d\0")
    (field,) = (r for r in pre.references[named(pre, "choose").id] if r.target == text.id)
    at = run.addresses[named(pre, "choose").id] + field.offset
    moved = field.howto.insert(bytes(4), memory.at(place) - (1 << 64), "little")
    run = solved(pre, memory.patched(at, moved))
    assert proves(run, "choose") is proved
    if not proved:
        assert run.unverified == {text.id: "the kernel may write to the memory at this address"}


FREED = """
.section .init.rodata.str1.1,"aMS",@progbits,1
1: .asciz "boot only"
.section .text.f,"ax"
.globl f
.type f, @function
f: mov $1b, %rdi
   ret
.size f, . - f
"""


@pytest.mark.parametrize("pristine", [True, False])
def test_a_string_that_is_freed_after_boot_is_told_by_contents_only_before(pristine: bool) -> None:
    memory, pre = link(compiled(REST), compiled(FREED, ASSEMBLY)), graph(FREED, ASSEMBLY)
    assert proves(solved(pre, memory if pristine else memory.alive()), "f") is pristine


def test_no_string_is_proved_where_the_kernel_does_not_say_which_memory_is_read_only() -> None:
    memory = kernel()
    book = AddressBook(
        each for each in memory.book.lines() if each[0] not in ("__start_rodata", "__end_rodata")
    )
    assert not proves(solved(graph(UNIT), replace(memory, book=book)), "choose")
    start, end = memory.at("__start_rodata"), memory.at("__end_rodata")
    for rows, told in (((), False), ((ReadOnlyMemory("__start_rodata", "__end_rodata"),), True)):
        assert ReadOnly(Habits(rows), memory, memory.book, "little").holds(start, end - start) is told


def test_a_tail_merged_string_is_found_inside_of_the_longer_one() -> None:
    text = 'int f(char *); int g(void) { return f("needle") + f("haystack needle"); }'
    memory = link(compiled(text), compiled("int f(char *s) { return *s; }"))
    run = solved(graph(text), memory)
    short, long = sorted((n for n in run.graph.nodes if n.kind is Kind.STRING), key=lambda n: n.size)
    assert run.addresses[short.id] == run.addresses[long.id] + len("haystack ")
    assert proves(run, "g")


def test_initial_values_in_pristine_memory_teach_where_functions_are_that_nothing_else_names() -> None:
    two = "static __attribute__((noinline)) int f(int a) { return a + 1; } int (*%s)(int) = f;"
    first, second = two % "one", two % "two"
    memory = link(compiled(first), compiled(second))
    for text, name in ((first, "one"), (second, "two")):
        run = solved(graph(text), memory)
        pointer = memory.read(memory.at(name), 8)
        assert pointer is not None
        assert run.addresses[named(run.graph, "f").id] == int.from_bytes(pointer, "little")
        alive = solved(graph(text), memory.alive())
        assert named(alive.graph, "f").id not in alive.matches


def test_a_weak_undefined_symbol_that_nobody_defines_is_at_zero_and_no_reason_to_refuse() -> None:
    text = "extern int maybe(int) __attribute__((weak)); int f(int a) { return maybe ? 1 : a; }"
    run = solved(graph(text), link(compiled(text)))
    assert run.addresses[named(run.graph, "maybe").id] == 0
    assert proves(run, "f")


INSIDE_WEAK = """
.section .text.f,"ax"
.globl f
.type f,@function
f: mov $inside,%rcx
ret
.size f,.-f
.section .text.start,"ax"
.globl start
.type start,@function
start: mov $g,%rcx
ret
.size start,.-start
.section .text.g,"ax"
.weak g
.type g,@function
g: mov $7,%eax
inside: inc %eax
ret
.size g,.-g
"""


def test_a_symbol_that_somebody_must_define_is_not_at_zero() -> None:
    """Where kallsyms does not list data, nothing but the field itself says so."""
    text = "extern int some[]; int f(int a) { return (long)some + a; }"
    memory = link(compiled(text), compiled("int some[3];"))
    listed = ((e.name, e.address, e.kind, e.owner) for e in memory.book.entries if e.name != "some")
    memory, pre = replace(memory, book=AddressBook(listed)), graph(text)
    (field,) = pre.references[named(pre, "f").id]
    memory = memory.patched(memory.at("f") + field.offset, bytes(field.howto.size))
    run = solved(pre, memory)
    assert run.addresses[named(pre, "some").id] == 0
    assert not proves(run, "f")


def test_a_reference_into_code_that_is_not_matched_is_confirmed_by_nothing() -> None:
    """kallsyms lists `g`, which another definition took; nobody knows what is 5 bytes behind its start."""
    pre = graph_of(compiled(INSIDE_WEAK, ASSEMBLY))
    memory = link(compiled(INSIDE_WEAK, ASSEMBLY), compiled("int g(int a) { return a * 77 + 5; }"))
    run = solved(pre, memory)
    assert named(pre, "f").id in run.matches
    assert not proves(run, "f")
    assert proves(run, "start"), "kallsyms says where g starts"


@given(units())
@settings(deadline=None, max_examples=10)
def test_whatever_was_compiled_and_linked_is_proved(text: str) -> None:
    memory = link(compiled(REST), compiled(text, WHOLE))
    run = solved(graph(text), memory)
    assert run.refusals == ()
    assert all(
        proves(run, node.name) for node in run.graph.nodes if node.kind is Kind.FUNCTION and not node.weak
    )


# Any flipped bit is noticed --------------------------------------------------------------------------


def bits(memory: LinkedMemory, run: RunMatch, name: str) -> Iterator[tuple[int, int, bool]]:
    """Every (address, bit) of a matched function, and whether it lies in a field."""
    node = named(run.graph, name)
    match = run.matches[node.id]
    in_fields = set()
    for reference in run.graph.references[node.id]:
        at = match.run_offset(reference.offset)
        if at is not None:
            in_fields |= {at + step for step in range(reference.howto.size)}
    for offset in range(match.size):
        for bit in range(8):
            yield match.address + offset, bit, offset in in_fields


@pytest.mark.parametrize("name", ["helper", "tail", "choose", "entry"])
@pytest.mark.parametrize("pristine", [True, False])
def test_any_flipped_bit_of_a_function_is_refused(name: str, pristine: bool) -> None:
    memory = kernel() if pristine else kernel().alive()
    pre = graph(UNIT)
    accepted = [
        (hex(address), bit, in_field)
        for address, bit, in_field in bits(memory, solved(pre, memory), name)
        if proves(solved(pre, memory.flipped(address, bit)), name)
    ]
    assert accepted == []


def test_a_flipped_bit_outside_of_fields_is_other_code_and_inside_a_contradiction() -> None:
    memory, pre = kernel(), graph(UNIT)
    before = solved(pre, memory)
    outside, inside = memory.at("helper"), memory.at("helper") + 2
    assert before.matches[named(pre, "helper").id].address == outside
    assert keys(solved(pre, memory.flipped(outside, 0))) == {"runpre.content"}
    run = solved(pre, memory.flipped(inside, 4))
    assert not proves(run, "helper")


def test_a_refusal_shows_both_sides_and_the_place_of_the_first_difference() -> None:
    memory, pre = kernel(), graph(UNIT)
    address = memory.at("helper")
    run = solved(pre, memory.patched(address, b"\x0f\x0b"))
    refusal = next(each for each in run.refusals if "helper" in each.place)
    assert refusal.place == "unit.o: .text.helper+0x0"
    assert {"pre:", "run:"} <= set(refusal.details)
    assert any("ud2" in line for line in refusal.details)


def test_any_flipped_bit_of_a_string_or_a_constant_leaves_the_functions_that_use_it_unproved() -> None:
    memory, pre = kernel(), graph(UNIT)
    run = solved(pre, memory)
    accepted, tried = [], 0
    for node in pre.nodes:
        if node.kind not in (Kind.STRING, Kind.CONSTANT) or (node.names and not pre.references[node.id]):
            continue
        users = [
            user.name
            for user in pre.nodes
            if user.kind is Kind.FUNCTION and any(r.target == node.id for r in pre.references[user.id])
        ]
        for address in range(run.addresses[node.id], run.addresses[node.id] + node.size):
            for user in users:
                tried += 1
                if proves(solved(pre, memory.flipped(address, tried % 8)), user):
                    accepted.append((node.label, hex(address), tried % 8, user))
    assert tried > 80
    assert accepted == []


def test_a_named_constant_with_another_content_is_open() -> None:
    memory, pre = kernel(), graph(UNIT)
    run = solved(pre, memory.flipped(memory.at("primes"), 3))
    assert run.open[named(pre, "primes").id].key == "runpre.content"


def test_a_reference_to_the_inside_of_a_function_is_held_against_its_run_layout() -> None:
    memory, pre = link(inside_whole(1)), graph_of(inside(1))
    run = solved(pre, memory)
    assert run.refusals == ()
    (field,) = pre.references[named(pre, "f").id]
    for bit in range(8):
        flipped = solved(pre, memory.flipped(memory.at("f") + field.offset, bit))
        assert keys(flipped) & {"solve.contradiction", "runpre.content"}, bit


# Names that mean several things ----------------------------------------------------------------------

TWIN = """
static __attribute__((noinline)) int twin(int a) { return a * 3 + 1; }
int %s(int a) { return twin(a) + twin(a + 2); }
"""
LONELY = "static __attribute__((used, noinline)) int twin(int a) { return a * 3 + 1; }"


def test_equal_functions_of_one_name_are_told_apart_by_the_reference_of_a_caller() -> None:
    memory = link(compiled(TWIN % "first"), compiled(TWIN % "second"))
    one, two = (solved(graph(TWIN % name), memory) for name in ("first", "second"))
    places = [run.addresses[named(run.graph, "twin").id] for run in (one, two)]
    assert sorted(places) == sorted(each.address for each in memory.book.named("twin"))
    assert places[0] < memory.at("first") < places[1] < memory.at("second")


def test_equal_functions_of_one_name_that_nothing_tells_apart_are_ambiguous() -> None:
    memory = link(compiled(LONELY), compiled(LONELY))
    run = solved(graph(LONELY), memory)
    node = named(run.graph, "twin")
    assert node.id not in run.addresses
    assert run.open[node.id].key == "solve.ambiguous"
    assert all(f"{each.address:#x}" in run.open[node.id].reason for each in memory.book.named("twin"))


@pytest.mark.parametrize(("written", "known"), [(b"\xcc", False), (b"\xcd", True)])
def test_a_copy_is_no_proof_while_a_probe_may_hide_the_true_one(written: bytes, known: bool) -> None:
    memory = link(compiled(LONELY), compiled(LONELY)).alive()
    first, second = sorted(each.address for each in memory.book.named("twin"))
    run = solved(graph(LONELY), memory.patched(first, written))
    node = named(run.graph, "twin")
    assert run.addresses.get(node.id) == (second if known else None)
    if not known:
        assert run.open[node.id].key == "solve.ambiguous"
        assert f"{first:#x}, {second:#x}" in run.open[node.id].reason


def test_a_copy_is_no_proof_while_the_true_ones_memory_cannot_be_read() -> None:
    memory = link(compiled(LONELY), compiled(LONELY))
    first = min(each.address for each in memory.book.named("twin"))
    run = solved(graph(LONELY), Torn(memory, first))
    assert run.open[named(run.graph, "twin").id].key == "solve.ambiguous"


@dataclass(frozen=True)
class Torn:
    """A memory that lacks what lies at one address."""

    whole: LinkedMemory
    gone: int
    pristine: bool = True
    name: str = "torn"

    def read(self, address: int, size: int) -> bytes | None:
        return None if address <= self.gone < address + size else self.whole.read(address, size)

    def extents(self) -> tuple[Extent, ...]:
        return self.whole.extents()

    def address_book(self) -> AddressBook:
        return self.whole.book

    def facts(self) -> KernelFacts:
        return self.whole.facts()


def test_a_copy_is_no_proof_where_another_one_goes_on() -> None:
    """Whether a function goes on is told by what lies behind it, which says nothing of its own code."""
    next_one = "int next(int a) { return a + 1; }"
    last = "void die(void); static __attribute__((used)) void last(void) { die();%s }" + next_one
    long, short = last % " more();", ("_Noreturn " + last) % ""
    other = short.replace("next", "third")
    memory = link(compiled("void more(void);" + long, WHOLE), compiled(DEAD), compiled(other, WHOLE))
    run = solved(graph(short), memory)
    assert run.open[named(run.graph, "last").id].key == "solve.ambiguous"


TRACED = """
static __attribute__((used, naked, aligned(16))) int twin(int a)
{
    asm("1: call __fentry__; mov $%d, %%eax; ret; .pushsection __mcount_loc, \\"a\\"; .quad 1b; .popsection");
}
"""


@pytest.mark.parametrize(("other", "known"), [(1, False), (2, True)])
def test_a_copy_is_no_proof_while_the_true_one_has_a_site_that_holds_something_unknown(
    other: int, known: bool
) -> None:
    memory = link(compiled(TRACED % 1), compiled(TRACED % other), compiled(LOSER)).alive()
    first, second = sorted(each.address for each in memory.book.named("twin"))
    pre = graph(TRACED % 1, special=kdiff_special_sections(memory.facts()))
    if known:
        first, second = second, first
    run = solved(pre, memory.patched(first, bytes.fromhex("eb03909090")))
    assert run.addresses.get(named(pre, "twin").id) == (second if known else None)


COUNTED = "int f(void) { static int once; return once++; }"


def test_a_copy_is_no_proof_where_only_a_compilers_number_speaks_against_another() -> None:
    """The compiler of the kernel counted on from another static of this name."""
    twin = "static __attribute__((used)) int twin(int a) { static int once; return a * once++; }"
    more = "int g(void) { static int once; return once--; }"
    pre, run, copy = compiled(twin + COUNTED), compiled(more + twin + COUNTED), compiled(twin)
    numbers = [
        {each.name for each in graph_of(data).nodes if "once" in each.name} for data in (pre, run, copy)
    ]
    assert numbers[0] != numbers[1]
    assert numbers[0] & numbers[2]
    found = solved(graph_of(pre), link(run, copy))
    assert named(found.graph, "twin").id not in found.matches


ROW = """
int head_%(own)s(int a) { return a + 100; }
static __attribute__((used, noinline)) int twin(int a) { return a * 3 + 1; }
static __attribute__((used, noinline)) int other(int a) { return a * 5 + 2; }
int tail_%(own)s(int a) { return a - 100; }
"""


@pytest.mark.parametrize("pristine", [True, False])
def test_equal_functions_that_nothing_refers_to_are_told_apart_by_what_lies_beside_them(
    pristine: bool,
) -> None:
    memory = link(*(compiled(ROW % {"own": own}, WHOLE) for own in ("one", "two", "three")))
    for own in ("one", "two", "three"):
        run = solved(graph(ROW % {"own": own}), memory if pristine else memory.alive())
        assert run.refusals == ()
        head, tail = memory.at(f"head_{own}"), memory.at(f"tail_{own}")
        places = [run.addresses[named(run.graph, name).id] for name in ("twin", "other")]
        assert head < places[0] < places[1] < tail
        assert "beside" in run.learned[named(run.graph, "twin").id]


def test_a_neighbour_that_other_code_separates_tells_nothing() -> None:
    memory = link(*(compiled(ROW % {"own": own}, WHOLE) for own in ("one", "two")))
    head = memory.at("head_one")
    for address in range(head + 4, head + 16):
        code = memory.read(address, 1)
        if code == b"\x90" or code == b"\xcc":
            memory = memory.patched(address, b"\x01")
    run = solved(graph(ROW.replace("int other(int a) {", "int gone(int a) {") % {"own": "one"}), memory)
    assert run.open[named(run.graph, "twin").id].key == "solve.ambiguous"


def test_neighbours_that_disagree_tell_nothing() -> None:
    """The kernel has another function between this one and the next: not what the unit compiles to."""
    text = ROW % {"own": "one"}
    other = next(line for line in text.splitlines() if "other" in line)
    pre, run = text.replace(other, ""), text.replace(other, "int more(int a) { return a * 7; }")
    memory = link(compiled(run, WHOLE), compiled(ROW % {"own": "two"}, WHOLE))
    found = solved(graph(pre), memory)
    assert found.open[named(found.graph, "twin").id].key == "solve.ambiguous"
    memory = link(compiled(pre, WHOLE), compiled(ROW % {"own": "two"}, WHOLE))
    assert named(graph(pre), "twin").id in solved(graph(pre), memory).matches


HEADS = (
    "int head(int a) { return a + 100; }",
    "int head(int a, int b) { return 2000 * a * a - b * b * b + a * b * 77 + 1234567; }",
    '__attribute__((aligned(16), naked)) int head(int a) { asm(".fill 13, 1, 0x90; ret; .short 0xcccc"); }',
)


@pytest.mark.parametrize("head", HEADS)
def test_a_copy_of_another_unit_beside_a_neighbour_is_not_this_one(head: str) -> None:
    """The kernel's unit has no such function; the unit behind begins, or the one before ends, with a copy."""
    one, two = "int one(int a) { return a - 1; }", "int two(int a) { return a - 2; }"
    memory = link(compiled(head, WHOLE), compiled(LONELY + one, WHOLE), compiled(two + LONELY, WHOLE))
    run = solved(graph(head + LONELY), memory)
    assert run.open[named(run.graph, "twin").id].key == "solve.ambiguous"
    memory = link(compiled(two + LONELY, WHOLE), compiled(head, WHOLE), compiled(LONELY + one, WHOLE))
    run = solved(graph(LONELY + head), memory)
    assert run.open[named(run.graph, "twin").id].key == "solve.ambiguous"


def test_functions_of_one_name_and_different_code_are_told_apart_by_their_code() -> None:
    other = LONELY.replace("a * 3", "a * 5")
    memory = link(compiled(other), compiled(LONELY))
    run = solved(graph(LONELY), memory)
    assert run.addresses[named(run.graph, "twin").id] == max(e.address for e in memory.book.named("twin"))
    assert run.refusals == ()


def test_a_weak_function_that_lost_is_no_reason_to_refuse() -> None:
    memory, pre = kernel(), graph(UNIT)
    run = solved(pre, memory)
    weak = named(pre, "weak_one")
    assert weak.weak
    assert weak.id not in run.matches
    assert run.addresses[weak.id] == memory.at("weak_one")
    assert run.refusals == ()


GOES_ON = """
void die(void); void more(void);
void last(void) { die(); more(); }
int next(int a) { return a + 1; }
"""
ENDS = GOES_ON.replace("void die", "_Noreturn void die").replace(" more(); ", "")
DEAD = "void die(void) { for (;;); } void more(void) {}"


def test_a_function_that_goes_on_where_the_pre_function_ends_is_other_code() -> None:
    memory = link(compiled(GOES_ON, WHOLE), compiled(DEAD))
    for each in (memory, memory.alive()):
        run = solved(graph(ENDS), each)
        assert keys(run) == {"runpre.content"}
        assert "goes on" in run.refusals[0].reason
    assert proves(solved(graph(GOES_ON), memory), "last")
    assert proves(solved(graph(ENDS), link(compiled(ENDS, WHOLE), compiled(DEAD))), "last")


def test_the_last_function_of_a_unit_may_not_go_on_either() -> None:
    lines = "int next(int a) { return a + 1; }"
    memory = link(compiled(GOES_ON.replace(lines, ""), WHOLE), compiled(DEAD))
    assert keys(solved(graph(ENDS.replace(lines, "")), memory)) == {"runpre.content"}


@pytest.mark.parametrize("first", ["", "int first(int a) { return a + 9; }"])
def test_a_weak_function_that_lost_may_follow_without_a_symbol(first: str) -> None:
    """In the same unit, or as the first of the next one."""
    head = "int head(int a) { return a + 2; }"
    lost = "__attribute__((weak)) int lost(int a) { return a * 5; } int behind(int a) { return a; }"
    strong = compiled("int lost(int a) { return a; }")
    memory = link(compiled(head, WHOLE), compiled(first + lost, WHOLE), strong)
    assert proves(solved(graph(head), memory), "head")
    run = solved(graph(first + lost), memory)
    assert run.refusals == ()
    memory = link(compiled(head + lost, WHOLE), strong)
    assert proves(solved(graph(head + lost), memory), "head")


TRACEABLE = """
int head(int a) { return a + 2; }
__attribute__((weak, naked, aligned(16))) int lost(int a)
{
    asm("1: call __fentry__; jmp head; .short 0xcccc;"
        ".pushsection __mcount_loc, \\"a\\"; .quad 1b; .popsection");
}
"""
LOSER = "int lost(int a) { return a; } void __fentry__(void) {}"


def test_a_weak_function_that_lost_may_begin_with_no_ops_as_those_in_front_of_it() -> None:
    """As it does once ftrace has taken away the call at its entry."""
    memory = link(compiled(TRACEABLE, WHOLE), compiled(LOSER)).alive()
    pre = graph(TRACEABLE, special=kdiff_special_sections(memory.facts()))
    assert sites(pre)[named(pre, "lost").id][0].rewrite == "fentry"
    assert proves(solved(pre, memory), "head")
    site = memory.at("head") + 16
    memory = memory.patched(site, bytes.fromhex("0f1f440000"))
    assert proves(solved(pre, memory), "head")
    assert not proves(solved(pre, memory.patched(site, b"\x55")), "head")


def test_a_function_the_kernel_does_not_have_is_open_and_says_so() -> None:
    pre = graph(UNIT + "int extra(int a) { return a; }")
    run = solved(pre, kernel())
    assert run.open[named(pre, "extra").id].key == "solve.no_candidate"


def test_a_listed_function_with_other_code_is_a_refusal_for_the_whole_unit() -> None:
    pre = graph(UNIT.replace("a * limit", "a * limit * 3"))
    assert keys(solved(pre, kernel())) == {"runpre.content"}


@pytest.mark.parametrize(
    ("written", "listed", "said"),
    [
        (b"\xcc", "", "a breakpoint is set, perhaps a kprobe's, at choose+{at}"),
        (
            b"\xe9\0\0\0\x60",
            "",
            "a jump leads out of the kernel, perhaps an optimized kprobe's, at choose+{at}",
        ),
        (b"\xe9\0\0\0\x60", "kprobe_optinsn_page", "an optimized kprobe is set at choose+{at}"),
        (b"\xe9\0\x01\0\0", "", ""),
        (b"\xcd", "", ""),
    ],
)
def test_a_refusal_names_the_probe_that_wrote_over_code(written: bytes, listed: str, said: str) -> None:
    memory = kernel().alive()
    node = named(graph(UNIT), "choose")
    start, at = memory.at("choose"), _instruction(node.size)
    memory = memory.patched(start + at, written)
    target = start + at + 5 + int.from_bytes(written[1:], "little", signed=True)
    if listed:
        memory = replace(
            memory, book=memory.book.joined([(listed, target & ~0xFFF, "t", "__builtin__kprobes")])
        )
    (refusal,) = (each for each in solved(graph(UNIT), memory).refusals if each.key == "runpre.content")
    assert refusal.reason.endswith(said.format(at=f"{at:#x}")) if said else ";" not in refusal.reason


def _instruction(size: int) -> int:
    """Where an instruction of `choose` begins that its fields do not touch."""
    graph_ = graph(UNIT)
    node = named(graph_, "choose")
    fields = {each.offset + n for each in graph_.references[node.id] for n in range(each.howto.size)}
    return next(
        each.offset for each in graph_.code(node)
        if each.offset and each.offset + 5 <= size and not fields & set(range(each.offset, each.offset + 5))
        and graph_.contents(node)[each.offset] not in b"\xcc\xcd\xe9"
    )  # fmt: skip


def test_code_of_another_compiler_option_is_a_refusal() -> None:
    run = solved(graph(UNIT, "-O1"), kernel())
    assert "runpre.content" in keys(run)


ARRAYS = """
extern char array[9];
int f(void) { return array[1] * array[2]; }
int g(void) { return array[3]; }
"""
OTHER_ARRAY = "static char array[9] = {1}; char *other_array(void) { return array; }"


def redirected(function: str, which: int) -> RunMatch:
    """Solve with a function's reference number `which` to `array` going to another variable of that name."""
    memory = link(compiled(ARRAYS), compiled(OTHER_ARRAY), compiled("char array[9] = {3};"))
    pre = graph(ARRAYS)
    here = solved(pre, memory).addresses[named(pre, "array").id]
    (there,) = {each.address for each in memory.book.named("array")} - {here}
    place = memory.at(function) + pre.references[named(pre, function).id][which].offset
    field = memory.read(place, 4)
    assert field is not None
    value = (int.from_bytes(field, "little") + there - here) & 0xFFFFFFFF
    return solved(pre, memory.patched(place, value.to_bytes(4, "little")))


def test_references_of_one_function_to_one_symbol_must_agree() -> None:
    run = redirected("f", 1)
    assert "solve.contradiction" in keys(run)
    assert (
        "unit.o: .text.f+" in next(each for each in run.refusals if each.key == "solve.contradiction").place
    )


def test_references_of_two_functions_to_one_symbol_must_agree() -> None:
    run = redirected("g", 0)
    assert keys(run) == {"runpre.content"}
    assert "contradict" in run.refusals[0].reason


def test_an_address_that_only_one_reference_tells_is_unverified() -> None:
    text = ".text\n.globl f\n.type f,@function\nf: mov hidden(%rip),%eax\nret\n.size f,.-f\n"
    text += ".data\n.Lpad: .long 1\n.type .Lhidden,@object\n"
    text = text.replace("hidden(", ".Lhidden(") + ".Lhidden: .long 2\n.size .Lhidden,4\n"
    data = compiled(text, ASSEMBLY)
    run = solved(graph_of(data), link(data))
    data_node = next(n for n in run.graph.nodes if n.kind is Kind.DATA)
    assert data_node.id in run.unverified
    assert not proves(run, "f")


# Boot code -------------------------------------------------------------------------------------------

INIT = """
int limit2; int __attribute__((section(".init.text"))) setup(int a) { return a * 77 + limit2; }
int stays(int a) { return a + limit2; }
"""


def test_boot_code_is_compared_in_pristine_memory_only() -> None:
    pre, memory = graph(INIT), link(compiled(INIT, WHOLE))
    broken = memory.flipped(memory.at("setup"), 1)
    assert keys(solved(pre, broken)) == {"runpre.content"}
    assert solved(pre, broken.alive()).refusals == ()

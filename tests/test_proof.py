# SPDX-License-Identifier: Apache-2.0
"""Stage 10: what the engine proved is what the machine that is updated accepts, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from compiled import (
    ASSEMBLY,
    REST,
    UNIT,
    WHOLE,
    compiled,
    graph,
    graph_of,
    inside,
    inside_whole,
    named,
    planned,
)
from fakemachine import BUILD_ID, RELEASE, VERSION, FakeMachine, core
from hypothesis import assume, given, settings
from kdiff_arch_x86_64 import ARCHITECTURE
from run_memory import BASE, SLIDE, LinkedMemory, link
from strategies import pairs

from kdiff.bind import Bound, bind
from kdiff.errors import KdiffError
from kdiff.graph import SectionGraph
from kdiff.kernel import (
    Contains,
    EntryView,
    Field,
    Form,
    Holds,
    Keep,
    KernelFacts,
    Listed,
    Literal,
    Mixed,
    OneOf,
    Pad,
    Place,
    Site,
    SpecialSection,
    Through,
    ToCode,
)
from kdiff.proof import dump, prove
from kdiff.sites import sites
from kdiff.solve import solve
from kdiff.target import proof_reader
from kdiff.target.match import Run, difference
from kdiff.target.proof import Proof, Relocated
from kdiff.target.proof import Site as TargetSite
from kdiff.target.verify import locate, verify

FACTS = KernelFacts(release=RELEASE, version=VERSION, build_id=BUILD_ID, machine="x86_64")
PC32 = ARCHITECTURE.howtos[2]
CALL = b"\xe8"
AFTER = (
    UNIT.replace("a * limit", "a ^ limit")
    .replace("gauge[2] = 77", "gauge[2] = 78")
    .replace("calls++", "calls--")
)


def kernel(base: int = BASE) -> LinkedMemory:
    return link(compiled(REST), compiled(UNIT, WHOLE), base=base)


def proved(pre: SectionGraph, post: SectionGraph, memory: LinkedMemory) -> dict[str, Any]:
    unit = Bound(planned(pre, post), solve(pre, sites(pre), memory, memory.book), memory.book)
    made = bind("test", (unit,), {})
    return prove((unit,), made.replacements, made.borrowed, memory.address_book(), FACTS, "_text")


def proof_of_unit() -> dict[str, Any]:
    return proved(graph(UNIT), graph(AFTER), kernel())


def read(proof: dict[str, Any]) -> Proof:
    return proof_reader.read(dump(proof))


def machine(root: Path, memory: LinkedMemory) -> FakeMachine:
    fake = FakeMachine(root)
    fake.put("proc/kallsyms", memory.kallsyms())
    fake.put("proc/kcore", core(memory.ranges()))
    return fake


def listed(memory: LinkedMemory, owner: str, start: str) -> tuple[int, ...]:
    """What kallsyms would list."""
    return tuple(e.address for e in memory.book.entries if e.owner == owner and e.name.startswith(start))


def accepts(proof: Proof, memory: LinkedMemory, addresses: tuple[int, ...]) -> bool:
    """Whether the target finds every node of the proof in memory."""
    run = Run(memory.read, proof.word, proof.byte_order, addresses, proof.nops, partial(listed, memory))
    for node in proof.nodes:
        place = addresses[node.symbol] + node.offset
        data = memory.read(place, node.size)
        if data is None or difference(node.parts, data, place, run) is not None:
            return False
    return True


def addresses(proof: Proof, memory: LinkedMemory, root: Path) -> tuple[int, ...]:
    found, refusals = locate(proof, machine(root, memory).machine)
    assert refusals == ()
    return found


# The same memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [BASE, BASE + SLIDE, BASE + 0x200000])
def test_the_machine_accepts_the_kernel_the_proof_was_made_for_wherever_it_was_loaded(
    tmp_path: Path, base: int
) -> None:
    proof = read(proof_of_unit())
    assert len(proof.nodes) == 3
    assert verify(proof, machine(tmp_path, kernel(base).alive()).machine) == ()


def test_the_machine_refuses_another_kernel(tmp_path: Path) -> None:
    other = link(compiled(REST), compiled(AFTER, WHOLE))
    keys = {each.key for each in verify(read(proof_of_unit()), machine(tmp_path, other).machine)}
    assert keys & {"verify.content", "verify.symbol"}


@pytest.mark.parametrize("base", [BASE, BASE + SLIDE])
def test_the_machine_refuses_any_flipped_bit_of_a_replaced_function(tmp_path: Path, base: int) -> None:
    proof, memory = read(proof_of_unit()), kernel(base)
    where = addresses(proof, memory, tmp_path)
    assert accepts(proof, memory, where)
    accepted = [
        (node.name, offset, bit)
        for node in proof.nodes
        for offset in range(node.size)
        for bit in range(8)
        if accepts(proof, memory.flipped(where[node.symbol] + node.offset + offset, bit), where)
    ]
    assert accepted == []


def test_a_flipped_bit_is_refused_with_its_place_and_both_sides(tmp_path: Path) -> None:
    memory = kernel(BASE + SLIDE)
    fake = machine(tmp_path, memory.flipped(memory.at("helper") + 15, 2))
    (refusal,) = verify(read(proof_of_unit()), fake.machine)
    assert (refusal.key, refusal.place) == ("verify.content", "helper+0xf")
    assert len(refusal.details) == 2


def test_what_lies_outside_of_replaced_functions_may_change(tmp_path: Path) -> None:
    memory = kernel()
    changed = memory.patched(memory.at("counter"), b"\xff").patched(memory.at("other"), b"\x0f\x0b")
    assert verify(read(proof_of_unit()), machine(tmp_path, changed).machine) == ()


def test_a_symbol_that_moved_by_another_distance_is_refused(tmp_path: Path) -> None:
    memory = kernel()
    fake = machine(tmp_path, memory)
    listed = memory.kallsyms().replace(
        f"{memory.at('limit'):016x} D limit", f"{memory.at('limit') + 8:016x} D limit"
    )
    fake.put("proc/kallsyms", listed)
    keys = {each.key for each in verify(read(proof_of_unit()), fake.machine)}
    assert keys == {"verify.symbol"}


@given(pairs())
@settings(deadline=None, max_examples=8)
def test_whatever_was_proved_is_accepted_by_the_machine(
    tmp_path_factory: Any, texts: tuple[str, str]
) -> None:
    here, there = (
        link(compiled(REST), compiled(texts[0], WHOLE), base=base) for base in (BASE, BASE + SLIDE)
    )
    made = proved(graph(texts[0]), graph(texts[1]), here)
    assume(made["nodes"])
    proof = read(made)
    where = addresses(proof, there, tmp_path_factory.mktemp("machine"))
    assert accepts(proof, there, where)
    node = proof.nodes[0]
    assert not accepts(proof, there.flipped(where[node.symbol] + node.size - 1, 0), where)


# What the proof says ---------------------------------------------------------------------------------


def test_parts_add_up_to_each_function() -> None:
    proof = proof_of_unit()
    assert [node["name"] for node in proof["nodes"]] == ["helper", "choose", "entry"]
    assert {node["role"] for node in proof["nodes"]} == {"replaced"}
    assert not any(
        part[0] == before[0] == "lit"
        for node in proof["nodes"]
        for before, part in zip(node["parts"], node["parts"][1:], strict=False)
    )


def test_fields_name_the_symbols_they_refer_to() -> None:
    proof = read(proof_of_unit())
    node = next(each for each in proof.nodes if each.name == "helper")
    names = [proof.symbols[part.symbols[0]].name for part in node.parts if isinstance(part, Relocated)]
    assert sorted(names) == ["hits", "hits", "limit"]


def test_a_reference_to_the_inside_of_a_function_goes_where_run_has_that_instruction() -> None:
    pre, post = (graph_of(inside(number)) for number in (1, 2))
    memory = link(inside_whole(1))
    proof = read(proved(pre, post, memory))
    (field,) = (part for part in proof.nodes[0].parts if isinstance(part, Relocated))
    assert (proof.symbols[field.symbols[0]].name, field.addend) == ("g", 2)
    assert accepts(proof, memory, tuple(each.address for each in proof.symbols))


def test_symbols_say_how_kallsyms_must_list_them() -> None:
    rest = "static int n = 1; int one(int a) { return n += a; }"
    text = "static int n = 2; int two(int a) {{ return n += a * {}; }}"
    memory = link(compiled(rest), compiled(text.format(3), WHOLE))
    proof = read(proved(graph(text.format(3)), graph(text.format(5)), memory))
    found = next(each for each in proof.symbols if each.name == "n")
    assert (found.position, found.total, found.slides) == (2, 2, True)


def test_what_kallsyms_does_not_list_is_known_by_its_address_alone() -> None:
    proof = read(proof_of_unit())
    unnamed = [each for each in proof.symbols if not each.name]
    assert unnamed
    assert all((each.position, each.total, each.slides) == (0, 0, True) for each in unnamed)


def test_equal_inputs_give_equal_bytes() -> None:
    assert dump(proof_of_unit()) == dump(proof_of_unit())
    assert json.loads(dump(proof_of_unit())) == proof_of_unit()


def test_an_anchor_that_is_not_listed_once_is_an_error() -> None:
    memory = kernel()
    unit = Bound(planned(graph(UNIT), graph(AFTER)), solve(graph(UNIT), {}, memory, memory.book), memory.book)
    made = bind("test", (unit,), {})
    with pytest.raises(KdiffError) as caught:
        prove((unit,), made.replacements, made.borrowed, memory.book, FACTS, "nowhere")
    assert caught.value.key == "proof.anchor"


# Sites -----------------------------------------------------------------------------------------------

SITES = """
.section .text.f,"ax"
.globl f
.type f,@function
f: mov ${},%eax
1: nop; nop; nop; nop; nop
   ret
.size f,.-f
.globl new, old
.type new,@function
new: ret
.size new,.-new
.type old,@function
old: ret
.size old,.-old
.globl thunk
.type thunk,@function
thunk: jmp *%rax
int3
.size thunk,.-thunk
.section .data.slot,"aw"
.globl slot
slot: .quad old
.size slot,8
.type slot,@object
.globl other
other: .quad 0
.size other,8
.type other,@object
.section __sites,"a"
.long 1b - .
"""


def forms(view: EntryView) -> Iterator[Site]:
    place = view.place(0)
    assert place is not None
    listed: tuple[Form, ...] = (
        (Literal(b"\xcc" * 5),),
        (Pad(5),),
        (Literal(CALL), Field(PC32, Place(None, "new"), -4, bytes(4))),
        (Literal(b"\x9a"), OneOf(PC32, ("gone", "old", "new"), -4)),
        (Literal(b"\x0f"), Through(PC32, Place(None, "slot"), -4)),
        (Literal(CALL), Field(PC32, Place(None, "gone"), -4, bytes(4))),
        (Holds(Place(None, "slot"), ("gone", "old")), Literal(b"\x31\xc0\x90\x90\x90")),
        (Holds(Place(None, "other"), ("", "new")), Literal(b"\x31\xd2\x90\x90\x90")),
        (Literal(b"\xe0"), Listed(PC32, "made", "trampoline_", -4)),
        (Literal(b"\xe3"), Mixed(b"\1\2\3\4", Place(None, "other", 4), negated=True)),
        (Contains(Place(None, "other", 4), b"\0\0\0"), Literal(b"\xe4\1\2\3\4")),
        (Contains(Place(None, "other", 4), b"\1"), Literal(b"\xe5\1\2\3\4")),
        (Contains(Place(None, "gone", 4), b"\1"), Literal(b"\xe6\1\2\3\4")),
        (Literal(b"\xe2"), ToCode(PC32, b"\xff\xe0\xcc", -4)),
        (Holds(Place(None, "slot"), ("gone",)), Literal(b"\x31\xdb\x90\x90\x90")),
    )
    yield Site(place.offset, 5, "rewrite", listed)


def sited(number: int) -> SectionGraph:
    row = SpecialSection("__sites", 4, Keep.OWNER, owner=0, sites=forms)
    return graph_of(compiled(SITES.format(number), ASSEMBLY), (row,))


def at_site(memory: LinkedMemory, data: bytes) -> LinkedMemory:
    return memory.patched(memory.at("f") + 5, data).alive()


def branch(memory: LinkedMemory, opcode: bytes, name: str) -> bytes:
    return opcode + (memory.at(name) - memory.at("f") - 10 & 0xFFFFFFFF).to_bytes(4, "little")


def written(memory: LinkedMemory) -> dict[str, bytes]:
    """Everything that may stand at the site."""
    return {
        "original": b"\x90" * 5,
        "literal": b"\xcc" * 5,
        "pad": b"\x0f\x1f\x44\0\0",
        "field": branch(memory, CALL, "new"),
        "one": branch(memory, b"\x9a", "old"),
        "other": branch(memory, b"\x9a", "new"),
        "through": branch(memory, b"\x0f", "old"),
        "holds": b"\x31\xc0\x90\x90\x90",
        "null": b"\x31\xd2\x90\x90\x90",
        "listed": branch(memory, b"\xe0", "old"),
        "mixed": b"\xe3\1\2\3\4",
        "contains": b"\xe4\1\2\3\4",
        "code": branch(memory, b"\xe2", "thunk"),
    }


def engine_accepts(memory: LinkedMemory) -> bool:
    run = solve(sited(1), sites(sited(1)), memory, memory.address_book())
    match = run.matches.get(named(run.graph, "f").id)
    return match is not None and not run.refusals and not run.unconfirmed(match)


@pytest.mark.parametrize(
    "case",
    [
        "original",
        "literal",
        "pad",
        "field",
        "one",
        "other",
        "through",
        "holds",
        "null",
        "listed",
        "code",
        "mixed",
        "contains",
    ],
)
def test_engine_and_machine_allow_the_same_forms_and_refuse_the_same_bits(tmp_path: Path, case: str) -> None:
    here, there = (link(compiled(SITES.format(1), ASSEMBLY), base=base) for base in (BASE, BASE + SLIDE))
    proof = read(proved(sited(1), sited(2), here))
    where = addresses(proof, there, tmp_path)
    memory = at_site(there, written(there)[case])
    memory = replace(memory, book=memory.book.joined([("trampoline_7", there.at("old"), "t", "made")]))
    assert accepts(proof, memory, where)
    assert engine_accepts(memory)
    for offset in range(5):
        for bit in range(8):
            flipped = memory.flipped(memory.at("f") + 5 + offset, bit)
            assert accepts(proof, flipped, where) is engine_accepts(flipped) is False, (offset, bit)


def test_code_made_at_run_time_counts_only_under_its_owner_and_name(tmp_path: Path) -> None:
    memory = link(compiled(SITES.format(1), ASSEMBLY))
    proof = read(proved(sited(1), sited(2), memory))
    where = addresses(proof, memory, tmp_path)
    plain = at_site(memory, written(memory)["listed"])
    for name, owner, address, allowed in (
        ("trampoline_7", "made", memory.at("old"), True),
        ("trampoline_7", "vmlinux", memory.at("old"), False),
        ("trampoline", "made", memory.at("old"), False),
        ("trampoline_7", "made", memory.at("old") + 1, False),
    ):  # fmt: skip
        there = replace(plain, book=plain.book.joined([(name, address, "t", owner)]))
        assert accepts(proof, there, where) is engine_accepts(there) is allowed, (name, owner)


def test_a_number_that_memory_changes_and_a_condition_on_memory_are_asked_of_each_machine(
    tmp_path: Path,
) -> None:
    here = link(compiled(SITES.format(1), ASSEMBLY))
    proof = read(proved(sited(1), sited(2), here))
    where = addresses(proof, here, tmp_path)
    number = here.at("other") + 4
    for value, data, allowed in (
        (0, "e301020304", True), (0, "e401020304", True), (0, "e501020304", False),
        (1, "e301020304", False), (1, "e3ff010304", False), (1, "e302020304", True),
        (1, "e401020304", False), (1, "e501020304", True), (1, "e601020304", False),
        (1 << 24, "e401020304", True), (1 << 16, "e401020304", False),
    ):  # fmt: skip
        memory = at_site(here, bytes.fromhex(data)).patched(number, value.to_bytes(4, "little"))
        assert accepts(proof, memory, where) is engine_accepts(memory) is allowed, (value, data)


@pytest.mark.parametrize("offset", range(3))
def test_a_branch_to_code_is_refused_once_that_is_another(tmp_path: Path, offset: int) -> None:
    memory = link(compiled(SITES.format(1), ASSEMBLY))
    proof = read(proved(sited(1), sited(2), memory))
    where = addresses(proof, memory, tmp_path)
    plain = at_site(memory, written(memory)["code"])
    assert accepts(proof, plain, where) is engine_accepts(plain) is True
    changed = plain.flipped(plain.at("thunk") + offset, 0)
    assert accepts(proof, changed, where) is engine_accepts(changed) is False


def test_forms_that_need_a_symbol_the_kernel_does_not_have_are_left_out() -> None:
    memory = link(compiled(SITES.format(1), ASSEMBLY))
    proof = read(proved(sited(1), sited(2), memory))
    (site,) = (part for part in proof.nodes[0].parts if isinstance(part, TargetSite))
    assert len(site.forms) == 13
    assert {each.name for each in proof.symbols} == {"_text", "f", "new", "old", "slot", "other"}


def test_a_call_through_a_pointer_follows_the_pointer_on_the_machine(tmp_path: Path) -> None:
    memory = link(compiled(SITES.format(1), ASSEMBLY))
    proof = read(proved(sited(1), sited(2), memory))
    where = addresses(proof, memory, tmp_path)
    old, new = (at_site(memory, branch(memory, b"\x0f", name)) for name in ("old", "new"))
    assert (accepts(proof, old, where), accepts(proof, new, where)) == (True, False)
    moved = memory.at("new").to_bytes(8, "little")
    old, new = (each.patched(memory.at("slot"), moved) for each in (old, new))
    assert (accepts(proof, old, where), accepts(proof, new, where)) == (False, True)


@pytest.mark.parametrize(("case", "pointer"), [("holds", "slot"), ("null", "other")])
def test_a_form_with_a_condition_is_allowed_only_while_that_holds(
    tmp_path: Path, case: str, pointer: str
) -> None:
    here = link(compiled(SITES.format(1), ASSEMBLY))
    proof = read(proved(sited(1), sited(2), here))
    where = addresses(proof, here, tmp_path)
    memory = at_site(here, written(here)[case])
    original = at_site(here, written(here)["original"])
    for value, allowed in (
        (here.at("old"), case == "holds"), (here.at("new"), case == "null"), (0, case == "null"),
        (here.at("f"), False), (here.at("old") + 1, False),
    ):  # fmt: skip
        held = memory.patched(here.at(pointer), value.to_bytes(8, "little"))
        assert accepts(proof, held, where) is engine_accepts(held) is allowed, hex(value)
        untouched = original.patched(here.at(pointer), value.to_bytes(8, "little"))
        assert accepts(proof, untouched, where) is engine_accepts(untouched) is True


def test_a_proof_of_a_kernel_without_version_or_build_id_compares_bytes_only(tmp_path: Path) -> None:
    made = proof_of_unit()
    made["version"] = made["build_id"] = ""
    assert verify(read(made), machine(tmp_path, kernel()).machine) == ()

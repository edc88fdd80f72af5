# SPDX-License-Identifier: Apache-2.0
"""Stage 9: every reference of every carried byte has a destination.

What was bound is placed by a real linker where a module would be, and its fields are read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from compiled import REST, UNIT, WHOLE, compiled, graph, named, planned
from hypothesis import assume, given, settings
from run_memory import LinkedMemory, link, place_module
from strategies import pairs

from kdiff.addressbook import AddressBook, BookEntry
from kdiff.bind import Bound, _Binder, bind
from kdiff.elf.write import write
from kdiff.errors import Refused
from kdiff.exports import Export
from kdiff.graph import SectionGraph
from kdiff.plan import Plan
from kdiff.sites import sites
from kdiff.solve import solve
from kdiff.split import Kind
from kdiff.update import How, Update

WORD = (1 << 64) - 1


def bound(pre: SectionGraph, post: SectionGraph, memory: LinkedMemory) -> Bound:
    return Bound(planned(pre, post), solve(pre, sites(pre), memory, memory.book), memory.book)


def update(
    before: str, after: str, *rest: str, exports: Mapping[str, Export] | None = None
) -> tuple[Update, Plan, LinkedMemory]:
    """Bind the change of a unit against the kernel it makes together with others."""
    memory = link(*(compiled(each) for each in rest), compiled(before, WHOLE))
    unit = bound(graph(before), graph(after), memory)
    return bind("test", (unit,), exports or {}), unit.plan, memory


def refused(before: str, after: str, *rest: str) -> set[str]:
    with pytest.raises(Refused) as caught:
        update(before, after, *rest)
    return {each.key for each in caught.value.refusals}


def patched(old: str, new: str) -> tuple[Update, Plan, LinkedMemory]:
    assert old in UNIT
    return update(UNIT, UNIT.replace(old, new), REST)


def loaded(made: Update) -> LinkedMemory:
    """The update's carried object as the module loader would place it."""
    return place_module(write(made.carried), {each.symbol: each.address for each in made.borrowed})


def destinations(made: Update, plan: Plan, module: LinkedMemory, name: str) -> list[tuple[str, int]]:
    """(what a reference of a replaced function goes to in the source, where it goes in memory)."""
    (replacement,) = (each for each in made.replacements if each.name == name)
    (start,) = (each.address for each in module.book.named(replacement.symbol, "module"))
    node = named(plan.post, name)
    found = []
    for reference in plan.post.references[node.id]:
        place = start + reference.offset
        field = module.read(place, reference.howto.size)
        assert field is not None
        value = reference.howto.extract(field, "little") + (place if reference.howto.pc_relative else 0)
        label = plan.post.nodes[reference.target].label
        found.append((label, (value - reference.insn_addend - reference.addend) & WORD))
    return found


# Destinations ----------------------------------------------------------------------------------------


def test_what_stays_is_reached_in_the_kernel_and_what_travels_in_the_update() -> None:
    made, plan, memory = patched("calls++;", "calls += 2;")
    module = loaded(made)
    found = destinations(made, plan, module, "entry")
    assert len(found) > 6
    for label, address in found:
        node = next(n for n in plan.post.nodes if n.label == label)
        if node.id in plan.carried:
            assert module.image.read(address, 1) is not None
            assert module.read(address, node.size) == plan.post.contents(node)
        else:
            pre_name = (
                label
                if not label.startswith("calls")
                else next(each.name for each in memory.book.entries if each.name.startswith("calls"))
            )
            assert address == memory.at(pre_name)


def test_every_reference_of_every_carried_node_is_bound_exactly_once() -> None:
    made, plan, _ = patched("gauge[2] = 77", "gauge[2] = 78")
    expected = sum(len(plan.post.references[node]) for node in plan.carried)
    places = [
        (index, each.offset)
        for index, section in enumerate(made.carried.sections)
        for each in section.relocations
    ]
    assert len(places) == len(set(places)) == expected > 5


@given(pairs())
@settings(deadline=None, max_examples=10)
def test_any_update_is_bound_completely(texts: tuple[str, str]) -> None:
    memory = link(compiled(REST), compiled(texts[0], WHOLE))
    pre, post = (graph(text) for text in texts)
    unit = bound(pre, post, memory)
    assume(unit.plan.replaced)
    made = bind("test", (unit,), {})
    undefined = {each.name for each in made.carried.symbols if each.section is None}
    assert undefined == {each.symbol for each in made.borrowed}
    assert sum(len(each.relocations) for each in made.carried.sections) == sum(
        len(post.references[node]) for node in unit.plan.carried
    )
    for each in made.borrowed:
        assert each.address in {entry.address for entry in memory.book.named(each.name)}
    module = loaded(made)
    for replacement in made.replacements:
        for label, address in destinations(made, unit.plan, module, replacement.name):
            node = next(n for n in post.nodes if n.label == label)
            if node.id not in unit.plan.carried:
                assert memory.read(address, 1) is not None or node.size == 0


def test_replacements_say_what_is_replaced_and_by_what() -> None:
    made, plan, memory = patched("gauge[2] = 77", "gauge[2] = 78")
    (only,) = made.replacements
    assert (only.name, only.position, only.address) == ("choose", 0, memory.at("choose"))
    assert plan.pre.nodes[only.node].name == "choose"
    (symbol,) = (each for each in made.carried.symbols if each.name == only.symbol)
    assert symbol.section is not None
    assert made.carried.sections[symbol.section].name == ".text.choose"


def test_a_replaced_static_function_is_named_by_its_position_among_equal_names() -> None:
    twin = "static __attribute__((noinline)) int twin(int a) {{ return a * {}; }}"
    twin += "int {}(int a) {{ return twin(a + 1); }}"
    other, before, after = twin.format(5, "one"), twin.format(3, "two"), twin.format(7, "two")
    made, _, memory = update(before, after, other)
    by_name = {each.name: each for each in made.replacements}
    assert by_name["twin"].position == 2
    assert by_name["twin"].address == memory.book.named("twin")[1].address


# Borrowed symbols ------------------------------------------------------------------------------------


def test_an_exported_symbol_is_borrowed_by_the_module_loader() -> None:
    export = Export("other", 0x1234, "vmlinux", True, "")
    made, *_ = update(UNIT, UNIT.replace("gauge[2] = 77", "gauge[2] = 78"), REST, exports={"other": export})
    found = {each.name: each for each in made.borrowed}
    assert (found["other"].how, found["other"].symbol) == (How.EXPORT, "other")
    assert (found["printk"].how, found["printk"].symbol) == (How.POSITION, "printk,vmlinux,1")


@pytest.mark.parametrize(("owner", "namespace"), [("another_module", ""), ("vmlinux", "PRIVATE")])
def test_an_export_of_another_owner_or_of_a_namespace_is_borrowed_by_position(
    owner: str, namespace: str
) -> None:
    export = Export("other", 0x1234, owner, True, namespace)
    made, *_ = update(UNIT, UNIT.replace("gauge[2] = 77", "gauge[2] = 78"), REST, exports={"other": export})
    assert {each.how for each in made.borrowed} == {How.POSITION}


def test_borrowed_symbols_are_sorted_and_say_how_they_were_learned() -> None:
    made, *_ = patched("gauge[2] = 77", "gauge[2] = 78")
    assert [each.symbol for each in made.borrowed] == sorted(each.symbol for each in made.borrowed)
    assert all(each.learned for each in made.borrowed)
    assert any(each.learned.startswith("reference at unit.o: .text.") for each in made.borrowed)


def test_a_static_variable_among_equal_names_is_the_one_the_running_code_uses() -> None:
    text = "static int n = {}; int {}(int a) {{ return n += {} * a; }}"
    others = [text.format(1, "one", 2), text.format(2, "two", 2)]
    before, after = text.format(3, "three", 5), text.format(3, "three", 7)
    made, _, memory = update(before, after, *others)
    (found,) = made.borrowed
    assert found.position == 3
    value = memory.read(found.address, 4)
    assert value == (3).to_bytes(4, "little")


def test_a_symbol_the_patch_uses_first_is_found_if_its_name_means_one_thing() -> None:
    before = "int f(int a) { return a + 1; }"
    after = "int fresh_use(int); int f(int a) { return fresh_use(a) + 1; }"
    made, _, memory = update(before, after, "int fresh_use(int a) { return a; }")
    assert [(each.name, each.address) for each in made.borrowed] == [("fresh_use", memory.at("fresh_use"))]


def test_a_global_is_meant_where_statics_have_its_name_too() -> None:
    before = "int f(int a) { return a + 1; }"
    after = "int used(int); int f(int a) { return used(a) + 1; }"
    static = "static __attribute__((used)) int used(int a) { return a * 9; }"
    made, _, memory = update(before, after, static, "int used(int a) { return a; }")
    (found,) = made.borrowed
    assert found.learned == "kallsyms: only global of this name"
    assert [each.kind for each in memory.book.at(found.address) if each.name == "used"] == ["T"]
    assert found.position == 2


def test_a_symbol_that_could_be_several_things_is_refused() -> None:
    before = "int f(int a) { return a + 1; }"
    after = "int used(int); int f(int a) { return used(a) + 1; }"
    statics = [f"static __attribute__((used)) int used(int a) {{ return a * {n}; }}" for n in (5, 9)]
    assert refused(before, after, *statics) == {"bind.ambiguous"}


def test_a_symbol_the_kernel_does_not_have_is_refused() -> None:
    before = "int f(int a) { return a + 1; }"
    after = "int nowhere(int); int f(int a) { return nowhere(a) + 1; }"
    assert refused(before, after, REST) == {"bind.unresolved"}


def test_an_unsure_match_of_a_replaced_function_is_refused() -> None:
    text = "static __attribute__((used, noinline)) int twin(int a) {{ return a * {}; }}"
    assert refused(text.format(3), text.format(5), text.format(3)) == {"solve.ambiguous"}


def test_a_function_that_is_not_what_runs_is_refused() -> None:
    memory = link(compiled(REST), compiled(UNIT, WHOLE))
    broken = memory.flipped(memory.at("helper") + 15, 1)
    unit = bound(graph(UNIT), graph(UNIT.replace("a * limit", "a ^ limit")), broken)
    with pytest.raises(Refused) as caught:
        bind("test", (unit,), {})
    assert "runpre.content" in {each.key for each in caught.value.refusals}


def test_a_field_of_a_replaced_function_that_nothing_confirms_is_refused() -> None:
    memory, pre = link(compiled(REST), compiled(UNIT, WHOLE)), graph(UNIT)
    node = named(pre, "choose")
    field = next(r for r in pre.references[node.id] if pre.nodes[r.target].kind is Kind.STRING)
    place = solve(pre, {}, memory, memory.book).matches[node.id].run_offset(field.offset)
    assert place is not None
    broken = memory.flipped(memory.at("choose") + place, 3)
    unit = bound(pre, graph(UNIT.replace("gauge[2] = 77", "gauge[2] = 78")), broken)
    with pytest.raises(Refused) as caught:
        bind("test", (unit,), {})
    (refusal,) = caught.value.refusals
    assert (refusal.key, refusal.place) == ("solve.unverified", f"unit.o: .text.choose+{field.offset:#x}")


# Identity --------------------------------------------------------------------------------------------

CALLBACK = """
void call(int (*)(int));
__attribute__((noinline)) int callback(int a) {{ return a + {}; }}
int f(int a) {{ call(callback); return callback(a) + {}; }}
"""


def test_the_address_of_a_replaced_function_stays_the_kernels_and_calls_go_to_its_successor() -> None:
    rest = "void call(int (*f)(int)) { f(1); }"
    before, after = CALLBACK.format(1000, 1), CALLBACK.format(2000, 2)
    memory = link(compiled(rest), compiled(before, WHOLE, "-fno-inline", "-fno-ipa-ra"))
    pre, post = (graph(text, "-fno-inline", "-fno-ipa-ra") for text in (before, after))
    unit = bound(pre, post, memory)
    made = bind("test", (unit,), {})
    module = loaded(made)
    found = [address for label, address in destinations(made, unit.plan, module, "f") if label == "callback"]
    (successor,) = (each.symbol for each in made.replacements if each.name == "callback")
    assert sorted(found) == sorted(
        {memory.at("callback"), *(e.address for e in module.book.named(successor, "module"))}
    )


# Several units ---------------------------------------------------------------------------------------


def test_units_of_one_update_are_bound_into_one_object() -> None:
    first, second = (
        "int one(int a) { static int n; return n += a * %d; }",
        "int two(int a) { static int n; return n -= a * %d; }",
    )
    memory = link(*(compiled(text % 3, WHOLE) for text in (first, second)))
    units = tuple(bound(graph(text % 3), graph(text % 5), memory) for text in (first, second))
    made = bind("test", units, {})
    assert [(each.name, each.unit) for each in made.replacements] == [("one", 0), ("two", 1)]
    assert {each.address for each in made.borrowed} == {
        each.address for each in memory.book.entries if each.name.startswith("n.")
    }
    assert len({each.symbol for each in made.borrowed}) == 2
    module = loaded(made)
    variables = {
        destinations(made, unit.plan, module, name)[0][1]
        for unit, name in zip(units, ("one", "two"), strict=True)
    }
    assert len(variables) == 2


def test_what_must_be_written_in_place_is_refused_by_name() -> None:
    text = "const int sizes[] = {{1, {}}}; int size(int a) {{ return sizes[a] * {}; }}"
    assert refused(text.format(2, 1), text.format(3, 5)) == {"bind.in_place"}


def test_a_weak_definition_that_lost_cannot_be_replaced() -> None:
    after = UNIT.replace("return a ^ 0x55", "return a ^ 0x57")
    assert refused(UNIT, after, REST) == {"solve.overridden"}


def test_a_variable_that_only_the_patch_uses_is_found_by_a_name_that_occurs_once() -> None:
    """As the keys of jump labels, which only tables name; a number from the compiler makes no name."""
    unit = "static int spare __attribute__((used)) = 2; int f(int a) { return a + 1; }"
    made, *_ = update(unit, unit.replace("+ 1", "+ spare"))
    (borrowed,) = (each for each in made.borrowed if each.name == "spare")
    assert borrowed.learned == "kallsyms: only symbol of this name"
    twice = "static int spare __attribute__((used)) = 3;"
    assert refused(unit, unit.replace("+ 1", "+ spare"), twice) == {"bind.unresolved"}
    local = "int f(int a) { static int spare __attribute__((used)) = 2; return a + 1; }"
    assert refused(local, local.replace("+ 1", "+ spare")) == {"bind.unresolved"}


# Names of other units that no old code told of -------------------------------------------------------

EXPORTED = Export("key", 1, "kvm", True, "")
LISTED = (("key", 0x10, "d", "vmlinux"), ("key", 0x20, "D", "kvm"), ("key", 0x30, "d", "kvm_intel"))


def meant(*listed: tuple[str, int, str, str], exports: tuple[Export, ...] = (EXPORTED,)) -> list[int]:
    """The addresses that `key` may mean in a unit of kvm_intel."""
    module = cast(Any, SimpleNamespace())
    unit = Bound(cast(Any, SimpleNamespace(target="kvm_intel")), module, AddressBook(listed), module)
    found: tuple[BookEntry, ...] = _Binder({each.name: each for each in exports})._visible_to(unit, "key")
    return [entry.address for entry in found]


def test_a_name_means_what_another_module_exports_and_no_static_of_the_kernel() -> None:
    assert meant(*LISTED) == [0x20]


def test_a_modules_own_global_comes_first_and_without_an_export_it_is_the_kernels() -> None:
    assert meant(*LISTED, ("key", 0x40, "D", "kvm_intel")) == [0x30, 0x40]
    assert meant(*LISTED, exports=()) == [0x10]


def test_a_name_that_another_module_exports_and_nobody_lists_means_nothing() -> None:
    assert meant(LISTED[0], ("key", 0x20, "d", "kvm")) == []

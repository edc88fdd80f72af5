# SPDX-License-Identifier: Apache-2.0
"""Functions of a module that a live patch has moved: matched there, all else in the module's file."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from compiled import ARCHITECTURE, REST, UNIT, WHOLE, compiled, graph, graph_of, named, planned
from run_memory import BASE, MODULES, link, place_module
from test_redirected import FIRST, FUNCTION, LIST, MOVED, SECOND, STRUCTURES, Patched

from kdiff.addressbook import AddressBook
from kdiff.bind import Bound, bind
from kdiff.elf.read import read_bytes
from kdiff.errors import KdiffError, Refused
from kdiff.exports import Export
from kdiff.loaded import LoadedModule, load
from kdiff.module_listing import listing, sections_in_use
from kdiff.original import fixed, with_original_code
from kdiff.proof import dump, prove
from kdiff.sites import sites
from kdiff.solve import RunMatch, solve
from kdiff.target import proof_reader
from kdiff.target.match import Run, difference
from kdiff.target.proof import Symbol
from kdiff.targets import review_stacking
from kdiff.update import Update

INFO = """
static const char info[] __attribute__((section(".modinfo"), used)) = "vermagic=6.1 SMP\\0srcversion=77";
"""
FILE = compiled(UNIT.replace("int weak_one(int a);", "") + INFO, WHOLE)
"""driver.ko: the unit alone, as a module."""
HEAD = MODULES + 0x800000
HOME = MODULES + 0x400000
EXPORTS = {name: Export(name, 0, "vmlinux", True, "") for name in ("printk", "limit", "gauge", "other")}


@cache
def kernel_with(moved: str = MOVED, home: int = HOME, base: int = MODULES) -> Patched:
    """A kernel that has loaded the driver at `home`; live patch first, at `base`, has replaced choose."""
    kernel = link(compiled(REST))
    obj = read_bytes(FILE, "driver.ko")
    lines = [
        (row.name, home + 0x1000 * row.section + row.offset, row.letter.lower(), "driver")
        for row in listing(obj)
    ]
    places = {name: address for name, address, _, _ in lines}
    names = {name: kernel.at(name) for name in ("printk", "limit", "gauge", "other")}
    names |= {name: places[name] for name in ("tail", "primes")}
    module = place_module(compiled(moved), names, base)
    (newest,) = (each.address for each in module.book.named("choose", "module"))
    own = [(e.name, e.address, "t", "ksplice_first") for e in module.book.entries if e.kind in "tT"]
    book = kernel.book.joined([("klp_ops", HEAD, "d", "vmlinux"), *own, *lines])
    words = {HEAD: LIST, LIST: HEAD, LIST + 16: FUNCTION + 72}
    words |= {FUNCTION + 24: places["choose"], FUNCTION + 8: newest}
    return Patched(kernel.alive(), module, words, book, STRUCTURES)


def loaded(kernel: Patched, in_use: bool = True) -> LoadedModule:
    def nobody(name: str) -> tuple[bytes, str]:
        raise AssertionError(name)

    return load(kernel, "driver", FILE, "driver.ko", lambda obj: ARCHITECTURE, EXPORTS, nobody, in_use=in_use)


def solved(text: str, memory: LoadedModule) -> RunMatch:
    pre = graph(text)
    return solve(pre, sites(pre), memory, memory.address_book(), "driver")


def second(memory: LoadedModule, first: str = FIRST, after: str = SECOND) -> tuple[Bound, Update]:
    run = solved(first, memory)
    assert run.refusals == ()
    plan = replace(planned(run.graph, graph(after)), target="driver")
    unit = Bound(plan, run, memory.address_book(), memory)
    made = bind("second", (unit,), EXPORTS)
    return unit, with_original_code(made, (unit,), lambda obj: graph_of(FILE))


def test_the_replaced_function_matches_in_the_live_patch_and_the_others_in_the_file() -> None:
    memory = loaded(kernel_with())
    run = solved(FIRST, memory)
    assert run.refusals == ()
    book = kernel_with().book
    (newest,) = (each.address for each in book.named("choose", "ksplice_first"))
    (old,) = (each.address for each in book.named("choose", "driver"))
    choose, entry = named(run.graph, "choose").id, named(run.graph, "entry").id
    assert run.addresses[choose] == run.matches[choose].address == newest
    assert run.entry(newest) == old
    assert run.matches[entry].address == book.named("entry", "driver")[0].address


def test_source_without_the_live_patchs_change_is_refused() -> None:
    (refusal,) = solved(UNIT, loaded(kernel_with())).refusals
    assert refusal.key == "runpre.content"
    assert "a live patch has put this code in place of choose" in refusal.reason


@pytest.mark.parametrize("name", ["tail", "primes"])
def test_code_of_the_live_patch_that_refers_elsewhere_than_the_module_is_refused(name: str) -> None:
    """The live patch's code and the module's file must agree on where the rest of the module is."""
    obj = read_bytes(FILE, "driver.ko")
    (row,) = (each for each in listing(obj) if each.name == name)
    kernel = kernel_with(MOVED)
    moved = 0x10000
    book = AddressBook(
        (
            each.name,
            each.address + moved * (each.owner == "driver" and _section(each.name) == row.section),
            each.kind,
            each.owner,
        )
        for each in kernel.book.entries
    )
    words = dict(kernel.words)
    words[FUNCTION + 24] = book.named("choose", "driver")[0].address
    refusals = solved(FIRST, loaded(replace(kernel, book=book, words=words))).refusals
    assert refusals
    assert {each.key for each in refusals} <= {"runpre.content", "solve.contradiction", "solve.kallsyms"}


def _section(name: str) -> int:
    return next(each.section for each in listing(read_bytes(FILE, "driver.ko")) if each.name == name)


def test_the_update_stands_on_the_live_patch_and_knows_the_modules_own_code() -> None:
    memory = loaded(kernel_with())
    _, update = second(memory)
    (made,) = update.replacements
    assert (made.name, made.target, made.on) == ("choose", "driver", "ksplice_first")
    assert [each.name for each in update.modules] == ["driver"]
    (entry,) = memory.address_book().named("choose", "driver")
    own = memory.read(entry.address, len(made.code))
    assert own is not None
    assert bytes(a & b for a, b in zip(own, made.known, strict=True)) == made.code
    assert sum(map(bool, made.known)) > len(made.known) // 2
    newest = memory.read(made.address, made.size)
    assert newest is not None
    assert any((a ^ b) & mask for a, b, mask in zip(newest, made.code, made.known, strict=False))


@pytest.mark.parametrize(("home", "base"), [(HOME, MODULES), (HOME + 0x234000, MODULES + 0x40000)])
def test_the_proof_holds_the_live_patchs_code_wherever_both_modules_are_loaded(home: int, base: int) -> None:
    memory = loaded(kernel_with())
    unit, update = second(memory)
    value = prove(
        (unit,), update.replacements, update.borrowed, memory.address_book(), memory.facts(), "_text"
    )
    proof = proof_reader.read(dump(value))
    (node,) = proof.nodes
    assert proof.replaced == (("driver", "choose", 1),)
    assert proof.stacked == {("driver", "choose", 1): "ksplice_first"}
    there = kernel_with(MOVED, home, base)
    where = tuple(_run_address(there, symbol, home) for symbol in proof.symbols)
    start = where[node.start]
    data = there.read(start, node.size)
    assert data is not None
    checker = Run(there.read, 8, "little", where, proof.nops)
    assert difference(node.parts, data, start, checker) is None
    for at in range(node.size):
        changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        assert difference(node.parts, changed, start, checker) is not None


def _run_address(kernel: Patched, symbol: Symbol, home: int) -> int:
    """As the machine that is updated finds it."""
    if symbol.owner == "vmlinux":
        return symbol.address
    if symbol.section:
        assert symbol.owner == "driver"
        obj = read_bytes(FILE, "driver.ko")
        names = [obj.section_name(index) for index in range(len(obj.sections))]
        return home + 0x1000 * names.index(symbol.section) + symbol.address
    listed = kernel.book.named(symbol.name, symbol.owner)
    assert len(listed) == symbol.total
    return listed[symbol.position - 1].address


@pytest.mark.parametrize("base", [MODULES, BASE + (2 << 20)])
def test_a_function_that_the_live_patch_left_alone_is_proved_as_the_file_has_it(base: int) -> None:
    """Its strings are in a section that has no symbols, behind or in front of the live patch."""
    after = SECOND.replace("calls++;", "calls += 2;")
    memory = loaded(kernel_with(MOVED, HOME, base))
    unit, update = second(memory, after=after)
    replaced = {each.name: each.on for each in update.replacements}
    assert replaced == {"choose": "ksplice_first", "entry": ""}
    value = prove(
        (unit,), update.replacements, update.borrowed, memory.address_book(), memory.facts(), "_text"
    )
    owners = {(each.get("owner", "vmlinux"), each.get("section", "")) for each in value["symbols"]}
    assert ("driver", ".rodata.str1.1") in owners
    assert {owner for owner, _ in owners} == {"vmlinux", "driver", "ksplice_first"}


def test_what_lies_behind_a_symbol_of_another_module_is_not_told_by_that() -> None:
    """The string of the live patch's code is nearer to it than to any symbol of the live patch."""
    kernel = kernel_with()
    (start,) = (each.address for each in kernel.module.book.named("__start_rodata", "module"))
    memory = loaded(replace(kernel, book=kernel.book.joined([("near", start, "t", "other")])))
    unit, update = second(memory)
    value = prove(
        (unit,), update.replacements, update.borrowed, memory.address_book(), memory.facts(), "_text"
    )
    assert {each.get("owner", "vmlinux") for each in value["symbols"]} == {
        "vmlinux",
        "driver",
        "ksplice_first",
    }


def test_the_first_symbol_of_a_section_is_not_the_end_of_the_one_in_front_of_it() -> None:
    obj = read_bytes(FILE, "driver.ko")
    rows = tuple(listing(obj))
    starts, at = {}, HOME
    for section in sorted({row.section for row in rows}):
        starts[section] = at
        at += int(obj.sections["size"][section])
    kernel = kernel_with()
    lines = [(row.name, starts[row.section] + row.offset, "t", "driver") for row in rows]
    book = AddressBook([*(line for line in kernel.book.lines() if line[3] != "driver"), *lines])
    memory = loaded(replace(kernel, book=book))
    places = [memory.place(address) for _, address, _, _ in lines]
    assert [place and (place.section, place.offset) for place in places] == [
        (obj.section_name(row.section), row.offset) for row in rows
    ]


def test_what_only_the_live_patch_has_is_refused() -> None:
    fresh = "__attribute__((noinline)) int fresh(int a) { return other(a) * 3; }\nint choose(int a)"
    first, after, moved = (
        text.replace("return tail(a);", "return fresh(tail(a));").replace("int choose(int a)", fresh)
        for text in (FIRST, SECOND, MOVED)
    )
    memory = loaded(kernel_with(moved))
    with pytest.raises(Refused) as caught:
        second(memory, first, after)
    (refusal,) = caught.value.refusals
    assert refusal.key == "bind.no_name"
    assert "only live patch ksplice_first has" in refusal.reason


def test_what_a_live_patch_defines_is_no_import() -> None:
    book = loaded(kernel_with()).address_book()
    assert [each.owner for each in book.of_any("choose")] == ["driver"]
    assert [each.owner for each in book.named("choose", "ksplice_first")] == ["ksplice_first"]


def test_a_module_that_no_live_patch_has_changed_is_laid_out_behind_the_kernel_as_ever() -> None:
    kernel = kernel_with()
    memory = loaded(kernel, in_use=False)
    assert memory.pristine
    (entry,) = memory.address_book().named("choose", "driver")
    assert entry.address < MODULES
    assert {each.key for each in solved(FIRST, memory).refusals} == {"runpre.content"}


def test_variables_are_read_where_the_kernel_has_them() -> None:
    memory = loaded(kernel_with())
    (counter,) = memory.address_book().named("counter", "driver")
    assert not memory.pristine
    assert memory.read(counter.address, 4) is None
    code = memory.read(memory.address_book().named("entry", "driver")[0].address, 4)
    assert code is not None


@pytest.mark.parametrize("change", ["missing", "renamed", "moved"])
def test_a_module_that_was_loaded_from_another_file_is_an_error(change: str) -> None:
    kernel = kernel_with()
    lines = list(kernel.book.lines())
    at = next(i for i, line in enumerate(lines) if line[0] == "helper" and line[3] == "driver")
    name, address, kind, owner = lines[at]
    changed = {
        "missing": [],
        "renamed": [("helpers", address, kind, owner)],
        "moved": [(name, address + 16, kind, owner)],
    }
    lines[at : at + 1] = changed[change]
    with pytest.raises(KdiffError) as caught:
        loaded(replace(kernel, book=AddressBook(lines)))
    assert caught.value.key == "module.other_build"


def test_nothing_may_be_where_sections_without_symbols_are_put() -> None:
    kernel = kernel_with()
    end = kernel.book.address("_end")
    assert end is not None
    book = kernel.book.joined([("squatter", end + (16 << 20), "t", "other")])
    with pytest.raises(KdiffError, match="squatter of other") as caught:
        loaded(replace(kernel, book=book))
    assert caught.value.key == "module.room"


def test_each_section_with_symbols_lies_where_the_kernel_has_it() -> None:
    obj = read_bytes(FILE, "driver.ko")
    entries = [each for each in kernel_with().book.entries if each.owner == "driver"]
    found = sections_in_use(obj, entries, "driver")
    assert found == {row.section: HOME + 0x1000 * row.section for row in listing(obj)}
    assert {obj.section_name(index) for index in found} >= {".text", ".rodata", ".data", ".bss"}


def test_of_code_that_is_nowhere_nothing_is_known() -> None:
    assert fixed(graph_of(FILE), ".text", 1) == (b"", b"")
    assert fixed(graph_of(FILE), ".data", 0) == (b"", b"")


def test_a_live_patch_of_which_nobody_says_what_it_has_replaced_is_refused() -> None:
    kernel = kernel_with()
    plan = replace(planned(graph(FIRST), graph(SECOND)), target="driver")
    assert list(review_stacking(plan, kernel)) == []
    nameless = replace(kernel, book=AddressBook(line for line in kernel.book.lines() if line[3] != "driver"))
    (refusal,) = review_stacking(plan, nameless)
    assert (refusal.key, refusal.place) == ("bind.module_stacked", "unit.o")
    assert list(review_stacking(replace(plan, target="vmlinux"), nameless)) == []

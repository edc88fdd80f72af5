# SPDX-License-Identifier: Apache-2.0
"""Functions that a live patch has moved: found in the kernel's list, matched and proved where they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
from compiled import REST, UNIT, WHOLE, compiled, graph, named, planned
from run_memory import MODULES, LinkedMemory, link, place_module

from kdiff.addressbook import AddressBook
from kdiff.bind import Bound, bind
from kdiff.errors import KdiffError, Refused
from kdiff.kernel import KernelFacts, Structure
from kdiff.memory import Extent
from kdiff.proof import dump, prove
from kdiff.redirected import redirected
from kdiff.sites import sites
from kdiff.solve import RunMatch, solve
from kdiff.target import proof_reader
from kdiff.target.match import Run, difference

FIRST = UNIT.replace("gauge[2] = 77", "gauge[2] = 78")
SECOND = FIRST.replace("gauge[2] = 78", "gauge[2] = 79")
MOVED = """
int printk(const char *, ...);
extern int limit, gauge[8];
int other(int), tail(int);
extern const unsigned short primes[6];
""" + SECOND[SECOND.index("int choose") : SECOND.index("int entry")].replace("= 79", "= 78")
"""What a live patch that makes FIRST of UNIT brings with it."""
LIST, FUNCTION, OTHER = MODULES + 0x100000, MODULES + 0x200000, MODULES + 0x300000
STRUCTURES = {
    "klp_ops": Structure(64, {"node": 0, "func_stack": 16, "fops": 32}),
    "klp_func": Structure(128, {"old_name": 0, "new_func": 8, "old_func": 24, "stack_node": 72}),
}


@dataclass(frozen=True)
class Patched:
    """A kernel in use with a module in it; satisfies `MemorySource`."""

    kernel: LinkedMemory
    module: LinkedMemory
    words: dict[int, int]
    book: AddressBook
    structures: dict[str, Structure]
    pristine: bool = False
    name: str = "patched"

    def read(self, address: int, size: int) -> bytes | None:
        if address in self.words:
            return self.words[address].to_bytes(8, "little")
        return self.kernel.read(address, size) or self.module.read(address, size)

    def extents(self) -> tuple[Extent, ...]:
        """The linker made the module's constants, too, where the kernel's tables do not tell of them."""
        names = ("__start_rodata", "__end_rodata")
        start, end = (self.module.book.named(name, "module")[0].address for name in names)
        return (Extent(start, end - start, writable=False),)

    def address_book(self) -> AddressBook:
        return self.book

    def facts(self) -> KernelFacts:
        return KernelFacts(release="6.1", machine="x86_64", structures=self.structures)


@cache
def patched(moved_code: str = MOVED) -> Patched:
    """A live patch has put `moved_code`, which has a `choose`, in place of UNIT's."""
    kernel = link(compiled(REST), compiled(UNIT, WHOLE))
    names = {name: kernel.at(name) for name in ("printk", "limit", "gauge", "other", "tail", "primes")}
    module = place_module(compiled(moved_code), names)
    head = kernel.book.address("table")
    assert head is not None
    (moved,) = (each.address for each in module.book.named("choose", "module"))
    words = {
        head: LIST, LIST: head, LIST + 16: FUNCTION + 72, FUNCTION + 24: kernel.at("choose"),
        FUNCTION + 8: moved,
    }  # fmt: skip
    own = [
        (each.name, each.address, "t", "ksplice_first") for each in module.book.entries if each.kind in "tT"
    ]
    book = kernel.book.joined(own)
    book = book.joined([("klp_ops", head, "d", "vmlinux")])
    return Patched(kernel.alive(), module, words, book, STRUCTURES)


def solved(text: str, memory: Any) -> RunMatch:
    pre = graph(text)
    return solve(pre, sites(pre), memory, memory.address_book())


def test_the_kernels_own_list_tells_where_the_newest_code_is() -> None:
    memory = patched()
    assert redirected(memory) == {memory.kernel.at("choose"): memory.book.of_any("choose")[-1].address}
    assert redirected(replace(memory, pristine=True)) == {}
    assert redirected(replace(memory, structures={})) == {}


def test_an_entry_that_leads_to_the_function_itself_moves_nothing() -> None:
    memory = patched()
    same = {**memory.words, FUNCTION + 8: memory.kernel.at("choose")}
    assert redirected(replace(memory, words=same)) == {}


@pytest.mark.parametrize("word", [{LIST: LIST}, {LIST: OTHER}, {LIST + 16: 0}])
def test_a_broken_list_is_an_error(word: dict[int, int]) -> None:
    memory = patched()
    with pytest.raises(KdiffError) as caught:
        redirected(replace(memory, words={**memory.words, **word}))
    assert caught.value.key == "memory.redirected"


def test_the_newest_code_matches_what_it_was_made_of_and_is_entered_at_the_old_place() -> None:
    memory = patched()
    run = solved(FIRST, memory)
    assert run.refusals == ()
    choose = named(run.graph, "choose").id
    (new,) = (each.address for each in memory.book.of_any("choose") if each.owner == "ksplice_first")
    assert run.addresses[choose] == run.matches[choose].address == new
    assert run.entry(new) == memory.kernel.at("choose")
    assert run.matches[named(run.graph, "entry").id].address == memory.kernel.at("entry")


def test_source_without_the_live_patchs_change_is_refused_and_told_why() -> None:
    (refusal,) = solved(UNIT, patched()).refusals
    assert refusal.key == "runpre.content"
    assert "a live patch has put this code in place of choose" in refusal.reason


def test_an_update_of_moved_code_replaces_the_function_and_proves_what_runs() -> None:
    memory = patched()
    run = solved(FIRST, memory)
    unit = Bound(planned(run.graph, graph(SECOND)), run, memory.book)
    update = bind("second", (unit,), {})
    (replaced,) = update.replacements
    assert (replaced.name, replaced.target, replaced.on) == ("choose", "vmlinux", "ksplice_first")
    made = prove((unit,), update.replacements, update.borrowed, memory.book, memory.facts(), "_text")
    proof = proof_reader.read(dump(made))
    (node,) = proof.nodes
    assert proof.replaced == (("vmlinux", "choose", 1),)
    assert proof.stacked == {("vmlinux", "choose", 1): "ksplice_first"}
    where = tuple(_run_address(memory, symbol) for symbol in proof.symbols)
    start = where[node.start]
    assert start == replaced.address != memory.kernel.at("choose")
    data = memory.read(start, node.size)
    assert data is not None
    checker = Run(memory.read, 8, "little", where, proof.nops)
    assert difference(node.parts, data, start, checker) is None
    for at in range(node.size):
        changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        assert difference(node.parts, changed, start, checker) is not None


def _run_address(memory: Patched, symbol: Any) -> int:
    if symbol.owner == "vmlinux":
        return int(symbol.address)
    (entry,) = memory.book.named(symbol.name, symbol.owner)
    return entry.address


def test_what_only_the_live_patch_has_is_refused_and_its_owner_named() -> None:
    """A function that the first update has brought: the second one could not find it by name."""
    fresh = "static __attribute__((noinline)) int fresh(int a) { return other(a) * 3; }\nint choose(int a)"
    first, second, moved = (
        text.replace("return tail(a);", "return fresh(tail(a));").replace("int choose(int a)", fresh)
        for text in (FIRST, SECOND, MOVED)
    )
    memory = patched(moved)
    run = solved(first, memory)
    assert run.refusals == ()
    with pytest.raises(Refused) as caught:
        bind("second", (Bound(planned(run.graph, graph(second)), run, memory.book),), {})
    (refusal,) = caught.value.refusals
    assert refusal.key == "bind.no_name"
    assert "fresh at" in refusal.reason
    assert "only live patch ksplice_first has" in refusal.reason
    assert refusal.remedy

# SPDX-License-Identifier: Apache-2.0
"""Match all functions of many units against one memory, and say of each that is left over why.

In: the units of a build directory. Out: a `Coverage` for each, in their order, whoever finishes first. A unit
that cannot be read is an error of its own and does not stop the rest. With a `Truth` every address at which a
function matched is held against it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

from kdiff.addressbook import KERNEL, AddressBook
from kdiff.buildtree import BuiltUnit
from kdiff.elf.read import Object, read_bytes
from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.exports import read_symvers
from kdiff.graph import Node
from kdiff.habits import Habits
from kdiff.kernel import SpecialSection
from kdiff.loaded import load as lay_out
from kdiff.matchable import graph_to_match
from kdiff.memory import MemorySource
from kdiff.module_files import canonical, contents, module_files
from kdiff.registry import Registry, load
from kdiff.sites import sites
from kdiff.solve import RunMatch, solve
from kdiff.split import Kind
from kdiff.truth import Truth, read_truth
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Coverage:
    """What became of one unit's functions.

    `absent`: functions this kernel does not have, and why; `refused`: what must be there and is not, and
    contradictions; `wrong`: functions that matched where the truth has others. `seconds`: of this process.
    """

    unit: str
    part_of: str
    functions: int = 0
    matched: int = 0
    other_layout: int = 0
    unconfirmed: int = 0
    untold: int = 0
    """Matched functions of which the truth says nothing."""
    absent: tuple[Refusal, ...] = ()
    refused: tuple[Refusal, ...] = ()
    wrong: tuple[Refusal, ...] = ()
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Against:
    """One memory, with all that plugins say about its kernel."""

    plugins: Registry
    memory: MemorySource
    book: AddressBook
    special: Mapping[str, SpecialSection]
    habits: Habits

    def match(self, obj: Object, owner: str = KERNEL) -> RunMatch:
        """Stages 2, 7 and 8 for one object of the kernel itself, or of a module that is loaded."""
        if owner != KERNEL and not any(each == owner for _, _, _, each in self.book.lines()):
            raise KdiffError(
                "match.module",
                f"no symbols of a module {owner} are in this memory",
                place=self.memory.name,
                remedy="load the module first; the kernel must describe its structures (BTF)",
            )
        arch = self.plugins.architecture(obj.machine, obj.byte_order, obj.path)
        graph = graph_to_match(obj, arch, self.special, self.habits, self.memory.pristine)
        return solve(graph, sites(graph), self.memory, self.book, owner)

    def inside(self, file: Path, symvers: Path) -> Against:
        """The same memory with a module in it that is laid out from its file, as the loader would do it."""
        tree = next((each for each in file.parents if (each / "modules.order").exists()), file.parent)
        files = module_files(tree)

        def file_of(name: str) -> tuple[bytes, str]:
            if name not in files:
                raise KdiffError(
                    "module.missing",
                    f"{file} imports from module {name}, which is not below {tree}",
                    place=str(file),
                    remedy="name the module where its package has installed it",
                )
            return contents(files[name]), files[name]

        module = lay_out(
            self.memory,
            module_of(file),
            contents(str(file)),
            str(file),
            lambda obj: self.plugins.architecture(obj.machine, obj.byte_order, obj.path),
            read_symvers(symvers),
            file_of,
        )
        return replace(self, memory=module, book=module.address_book())


def module_of(file: Path) -> str:
    """The name of the module in a file: `nf-log.ko.xz` holds nf_log."""
    return canonical(file.name.partition(".ko")[0])


def against(plugins: Registry, memory: str) -> Against:
    """Open `SCHEME:WHAT`."""
    opened = plugins.open_memory(memory)
    facts = opened.facts()
    return Against(
        plugins, opened, opened.address_book(), plugins.special_sections(facts), plugins.habits(facts)
    )


def functions_of(run: RunMatch) -> list[Node]:
    """The functions that a unit has of its own."""
    graph = run.graph
    return [node for node in graph.nodes if node.kind is Kind.FUNCTION and not graph.is_piece(node)]


def cover(unit: BuiltUnit, kernel: Against, truth: Truth | None) -> Coverage:
    """Match one unit; one of a module, or of something else, is only named."""
    if unit.part_of != KERNEL:
        return Coverage(unit.name, unit.part_of)
    start = time.process_time()
    try:
        run = kernel.match(read_bytes(unit.path.read_bytes(), unit.name))
    except (OSError, KdiffError, Refused) as error:
        return Coverage(unit.name, unit.part_of, error=str(error))
    functions = functions_of(run)
    found = [run.matches[node.id] for node in functions if node.id in run.matches]
    left = [run.open[node.id] for node in functions if node.id not in run.matches]
    wrong, untold = _compare(run, functions, unit.source or unit.name, truth)
    return Coverage(
        unit.name, unit.part_of, len(functions), len(found), sum(bool(each.moved) for each in found),
        len(run.unverified), untold, tuple(each for each in left if each not in run.refusals), run.refusals,
        wrong, seconds=time.process_time() - start,
    )  # fmt: skip


def _compare(
    run: RunMatch, functions: list[Node], source: str, truth: Truth | None
) -> tuple[tuple[Refusal, ...], int]:
    """Hold every address against the truth: what contradicts it, and how many it does not speak of."""
    if truth is None:
        return (), 0
    wrong, untold = [], 0
    for node in (each for each in functions if each.id in run.matches):
        told = truth.addresses(node.names, source)
        address = run.matches[node.id].address
        untold += not told
        if told and address not in told:
            places = ", ".join(f"{each:#x}" for each in sorted(told))
            reason = f"{node.label} matched at {address:#x}, but the symbol table has it at {places}"
            wrong.append(Refusal("coverage.address", run.graph.where(node), reason))
    return tuple(wrong), untold


def cover_all(
    units: Sequence[BuiltUnit], memory: str, truth: Path | None = None, jobs: int = 1
) -> Iterator[Coverage]:
    """Match units, `jobs` at a time."""
    work = _prepared(memory, truth)
    gc.collect()
    gc.freeze()  # a symbol table has entries by the hundred thousand, and all of them stay
    try:
        if jobs <= 1:
            yield from map(work, units)
            return
        with ProcessPoolExecutor(jobs) as pool:
            rest = ([each] * len(units) for each in (memory, truth))
            yield from pool.map(_elsewhere, units, *rest, chunksize=max(1, min(8, len(units) // (8 * jobs))))
    finally:
        gc.unfreeze()


@cache
def _prepared(memory: str, truth: Path | None) -> Callable[[BuiltUnit], Coverage]:
    """Open everything once; a process of the pool finds it where it is forked."""
    kernel = against(load(), memory)
    told = None if truth is None else read_truth(truth, kernel.book)
    return lambda unit: cover(unit, kernel, told)


def _elsewhere(unit: BuiltUnit, memory: str, truth: Path | None) -> Coverage:
    """One unit in a process of the pool."""
    return _prepared(memory, truth)(unit)

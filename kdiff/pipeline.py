# SPDX-License-Identifier: Apache-2.0
"""From a source patch to an update: the stages in order. Read this first.

`check` is all that must be known before anything is written, `create` writes. Each stage takes frozen values
and returns a new one. Whatever speaks against an update is collected as refusals and raised together, before
anything is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdiff import kbuild
from kdiff.addressbook import KERNEL, AddressBook
from kdiff.arch import Architecture
from kdiff.bind import Bound, bind, bind_initial
from kdiff.callers import by_callers
from kdiff.confdir import Config, read_config
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.distribution import Say
from kdiff.elf.read import Object, read_bytes
from kdiff.emit import Emitter, Workshop
from kdiff.errors import KdiffError, NothingChanged, Refusal, Refused
from kdiff.exports import read_symvers
from kdiff.graph import SectionGraph, build
from kdiff.habits import Habits
from kdiff.kbuild import Build, Unit
from kdiff.kernel import KernelFacts, SpecialSection
from kdiff.late import check_same_code, edited, late
from kdiff.manifest import manifest, utsname
from kdiff.matchable import graph_to_match
from kdiff.memory import MemorySource
from kdiff.original import with_original_code
from kdiff.package import Package
from kdiff.pairs import PairsFile, check_units, wishes
from kdiff.patch import Patch, read_patch
from kdiff.plan import Plan, join, leave_out, plan
from kdiff.proof import dump, prove
from kdiff.registry import Registry
from kdiff.review import left_out, review, review_layouts
from kdiff.review_types import Compared, Retyped, compared, retyped, review_types
from kdiff.review_units import review_units
from kdiff.running import check_same_kernel, find_memory
from kdiff.sites import sites
from kdiff.solve import RunMatch, solve
from kdiff.targets import Targets, review_stacking
from kdiff.update import Fresh, Update
from kdiff.values import dataclass

ANCHOR = "_text"
"""The symbol whose address tells how far the kernel was moved (include/asm-generic/sections.h)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What `create` is asked for. `memory`: SCHEME:WHAT, or empty to look for the kernel's image."""

    config: Path
    source: Path
    patch: Path
    id: str
    timestamp: int
    description: str = ""
    jobs: int = 1
    memory: str = ""
    emitter: str = "livepatch"
    allow_compiler_mismatch: bool = False
    accept_layouts: tuple[str, ...] = ()
    """Names of types whose layout may change."""
    pairs: PairsFile | None = None
    """What the author says about pairs."""
    fuzz: int = 0
    """How many lines of a hunk's context need not agree with the source."""


@dataclass(frozen=True, slots=True)
class Checked:
    """An update that can be made, with all that was proved on the way; only its modules are missing."""

    request: Request
    config: Config
    patch: Patch
    built: Build
    memory: MemorySource
    facts: KernelFacts
    plans: tuple[Plan, ...]
    runs: tuple[RunMatch, ...]
    """Of each plan's unit."""
    types: Retyped
    units: tuple[Bound, ...]
    """Those of which something travels."""
    update: Update
    proof: dict[str, Any]


def create(request: Request, plugins: Registry, say: Say) -> Package:
    """Make an update. Refused, NothingChanged or KdiffError if there is none to make."""
    found = check(request, plugins, say)
    emitter = _emitter(plugins, request.emitter)
    say(f"writing the {emitter.name} module")
    with TemporaryDirectory(prefix="kdiff-") as scratch:
        shop = Workshop(found.config.headers, found.built.make_arguments, Path(scratch))
        modules = emitter.emit(found.update, found.facts, shop)
    return Package(
        id=request.id,
        patch=found.patch.text,
        description=request.description,
        utsname=utsname(found.facts),
        timestamp=request.timestamp,
        manifest=manifest(
            found.config,
            found.patch,
            found.built,
            found.units,
            found.update,
            found.facts,
            found.memory,
            found.types.accepted(request.accept_layouts),
            request.pairs,
        ),
        proof=dump(found.proof),
        modules=modules,
    )


def check(request: Request, plugins: Registry, say: Say) -> Checked:
    """All of `create` but writing modules, with the same refusals and errors."""
    config = read_config(request.config)
    patch = read_patch(request.patch, fuzz=request.fuzz)
    emitter = _emitter(plugins, request.emitter)
    memory = plugins.open_memory(request.memory or find_memory(config))
    facts = replace(memory.facts(), config=config.options)
    book = memory.address_book()
    check_same_kernel(config, facts, book, memory.pristine)

    special, habits = plugins.special_sections(facts), plugins.habits(facts)
    read = cache(
        partial(
            _planned, plugins=plugins, special=special, habits=habits, emitter=emitter, pairs=request.pairs
        )
    )
    compare, loaded = cache(lambda unit: compared(read(unit))), _loaded(memory)
    built = kbuild.build(
        config,
        request.source,
        patch,
        jobs=request.jobs,
        allow_compiler_mismatch=request.allow_compiler_mismatch,
        say=say,
        look=partial(_check_types, request.accept_layouts, loaded, read, compare),
    )
    for line in (*(f"left out of the patch: {name}" for name in patch.ignored), *built.warnings):
        say(line)

    say("comparing before and after")
    if request.pairs is not None:
        check_units(request.pairs, (unit.source for unit in built.units))
    plans = join(tuple(read(unit) for unit in built.units))
    built, plans = _in_time(request, config, patch, built, plans, book, read, say)
    types = _types(plans, loaded, map(compare, built.units))
    later = frozenset(types.fresh(request.accept_layouts)) & {each.target for each in plans if each.replaced}
    starting = later if emitter.sets_initial else frozenset()
    refusals = [
        refusal
        for each in plans
        for refusal in (
            *review(each, each.target in starting),
            *review_layouts(each, facts.release),
            *review_stacking(each, memory),
            *emitter.review(each, facts),
        )
    ]
    for line in types.notes:
        say(line)
    for name in types.unknown(request.accept_layouts):
        say(f"--accept-layout {name}: no such type changes")
    refusals += review_types(types, request.accept_layouts)
    exports = read_symvers(config.headers / "Module.symvers")
    refusals += review_units(plans, exports)
    if refusals:
        raise Refused(*dict.fromkeys(refusals))
    if not any(each.replaced or each.in_place for each in plans):
        raise _unchanged(built)
    for unit, each in zip(built.units, plans, strict=True):
        if unit.is_gone:
            say(f"{unit.source} is deleted: what is in the kernel of it stays")
        elif unit.is_new and not each.carried:
            say(f"left out of the update: {unit.source}, of which nothing that it replaces makes use")
        for line in left_out(each):
            say(f"left out of the update: {line} of {unit.source}, which no running module asks for")

    targets = Targets(config, memory, exports, partial(_architecture, plugins))
    where = ", ".join(dict.fromkeys(targets.memory(each.target).name for each in plans))
    say(f"matching every function of {len(plans)} unit(s) against {where}")
    runs = tuple(_matched(each, targets.memory(each.target)) for each in plans)
    refusals = [refusal for run in runs for refusal in run.refusals]
    if refusals:
        raise Refused(*dict.fromkeys(refusals))

    every = tuple(
        Bound(each, run, targets.memory(each.target).address_book(), targets.module(each.target))
        for each, run in zip(plans, runs, strict=True)
    )
    units = tuple(each for each in every if each.plan.carried or each.plan.in_place)
    update = with_original_code(
        bind(request.id, units, exports),
        units,
        lambda obj: graph_to_match(obj, _architecture(plugins, obj), special, habits),
    )
    update = replace(
        update,
        fresh=_fresh(types, request.accept_layouts, update),
        initial=bind_initial(each for each in every if each.plan.target in starting),
    )
    for fresh in update.fresh:
        say(
            f"module {fresh.module} must be loaded after the update is applied, and unloaded before it is"
            f" undone, for new layouts: {', '.join(fresh.types)}"
        )
    for owner, name in dict.fromkeys((each.variable.owner, each.variable.name) for each in update.initial):
        say(f"variable {name} of module {owner} will start with another value")
    proof = prove(
        units,
        update.replacements,
        update.borrowed,
        book,
        facts,
        ANCHOR,
        {each.module for each in update.fresh},
    )
    emitter.check(update, facts, config.headers)
    return Checked(request, config, patch, built, memory, facts, plans, runs, types, units, update, proof)


def _unchanged(built: Build) -> Exception:
    """What to raise if no code is to be replaced."""
    reason = "the patch deletes it and changes no other code; nothing can take code out of a running kernel"
    remedy = "change the code that uses it, or reboot into a fixed kernel"
    gone = [
        Refusal("patch.deleted_file", each.source, reason, remedy) for each in built.units if each.is_gone
    ]
    return Refused(*gone) if gone else NothingChanged()


def _emitter(plugins: Registry, name: str) -> Emitter:
    if name not in plugins.emitters:
        known = ", ".join(sorted(plugins.emitters))
        raise KdiffError("plugin.emitter", f"no emitter is called {name!r}; known: {known}")
    return plugins.emitters[name]


def _planned(
    unit: Unit,
    plugins: Registry,
    special: Mapping[str, SpecialSection],
    habits: Habits,
    emitter: Emitter,
    pairs: PairsFile | None,
) -> Plan:
    """Stages 1 to 5 for one unit."""
    pre = _graph(unit.pre, unit, plugins, special, habits)
    post = _graph(unit.post, unit, plugins, special, habits)
    wanted = None
    if pairs is not None:
        chosen = [each for each in (*pairs.pin, *pairs.forbid) if each.unit in ("", unit.source)]
        wanted = wishes(pairs, chosen, pre, post)
    pairing = correlate(pre, post, wanted)
    planned = plan(pre, post, pairing, diff(pre, post, pairing), unit.target)
    return by_callers(planned, emitter.redirects)


def _in_time(
    request: Request,
    config: Config,
    patch: Patch,
    built: Build,
    plans: tuple[Plan, ...],
    book: AddressBook,
    read: Callable[[Unit], Plan],
    say: Say,
) -> tuple[Build, tuple[Plan, ...]]:
    """See to it that no entry is read before what it names is known, as far as kdiff can (`kdiff.late`)."""
    found = [late(plan, book, plans) for plan in plans]
    edits = {
        unit.source: partial(edited, found=entries)
        for unit, entries in zip(built.units, found, strict=True)
        if any(each.table.without is not None for each in entries)
    }
    if edits:
        say(f"compiling {', '.join(edits)} (post, without what the kernel would read too early)")
        objects = kbuild.reassembled(
            config,
            request.source,
            patch,
            edits,
            jobs=request.jobs,
            allow_compiler_mismatch=request.allow_compiler_mismatch,
            say=say,
        )
        units = tuple(replace(unit, post=objects.get(unit.source, unit.post)) for unit in built.units)
        again = join(tuple(read(unit) for unit in units))
        for before, after in zip(plans, again, strict=True):
            check_same_code(before, after)
        built, plans = replace(built, units=units), again
        found = [late(plan, book, plans) for plan in plans]
    spared = (frozenset(each.entry for each in entries if each.table.spare) for entries in found)
    return built, tuple(leave_out(plan, left) for plan, left in zip(plans, spared, strict=True))


def _loaded(memory: MemorySource) -> frozenset[str]:
    """The modules that are loaded where this memory is from; none for a kernel that has not run."""
    if memory.pristine:
        return frozenset()
    return frozenset(owner for _, _, _, owner in memory.address_book().lines()) - {KERNEL}


def _types(plans: tuple[Plan, ...], loaded: frozenset[str], types: Iterable[Compared]) -> Retyped:
    """What became of types, if anything is done; if not, nothing reads old data anew."""
    done = any(each.replaced or each.in_place for each in plans)
    return retyped(plans, loaded, types) if done else retyped(())


def _fresh(types: Retyped, accepted: tuple[str, ...], update: Update) -> tuple[Fresh, ...]:
    """The modules that must be loaded after an update; code that does not change cares for no layout."""
    return tuple(Fresh(*each) for each in types.fresh(accepted).items() if each[0] in update.targets)


def _check_types(
    accepted: tuple[str, ...],
    loaded: frozenset[str],
    read: Callable[[Unit], Plan],
    compare: Callable[[Unit], Compared],
    units: tuple[Unit, ...],
) -> None:
    """Refuse at once what some units have to say against changes of types: more of them cannot mend it."""
    found = _types(tuple(map(read, units)), loaded, map(compare, units))
    refusals = review_types(found, accepted)
    if refusals:
        raise Refused(*refusals)


def _graph(
    data: bytes, unit: Unit, plugins: Registry, special: Mapping[str, SpecialSection], habits: Habits
) -> SectionGraph:
    obj = read_bytes(data, unit.name)
    return build(obj, _architecture(plugins, obj), special, habits)


def _architecture(plugins: Registry, obj: Object) -> Architecture:
    return plugins.architecture(obj.machine, obj.byte_order, obj.path)


def _matched(planned: Plan, memory: MemorySource) -> RunMatch:
    """Stages 7 and 8 for one unit."""
    return solve(planned.pre, sites(planned.pre), memory, memory.address_book(), planned.target)

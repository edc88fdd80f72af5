# SPDX-License-Identifier: Apache-2.0
"""Stage 6, continued: what the running kernel holds must not be taken for something else.

In: the plans of all units. Out: what changed in their types, and refusals for what the author has not
accepted. Whether the running kernel has an instance of a type cannot be told from an object: any function
may have got one from an allocator, or copied one out of memory. So each type that the pre object has counts,
unless all code that changes with it is in modules that are not loaded yet. When such a module is loaded after
the update, none of its code that knows the old layout ever runs, as in a module built of the changed source.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from kdiff.addressbook import KERNEL
from kdiff.elf.debug import debug_sections, has_types
from kdiff.errors import KdiffError, Refusal
from kdiff.graph import Node, SectionGraph
from kdiff.insn import texts
from kdiff.plan import Plan

if TYPE_CHECKING:
    from kdiff.layoutdiff import LayoutChange

_MOST_USERS = 8
_ADDRESSING = re.compile(r"\[[^\]]*\]|[\w-]*\([^)]*\)")
_NUMBER = re.compile(r"(?<![\w.-])(?:0x[0-9a-f]+|[1-9][0-9]*|0)(?!\w)")


class Seen(NamedTuple):
    """A change of a type as an object shows it that is part of `target`; what that is may be unknown ("").

    `matters`: something in the object changes. If not, its code is right for both layouts.
    """

    object: str
    target: str
    change: LayoutChange
    matters: bool = True


@dataclass(frozen=True)
class Retyped:
    """What became of the types of some units, in their order. `loaded`: modules that are known to be."""

    changes: tuple[Seen, ...]
    notes: tuple[str, ...]
    """A line for each object whose types could not be compared."""
    loaded: Container[str] = ()

    def accepted(self, names: Iterable[str]) -> tuple[LayoutChange, ...]:
        """The changes that are accepted by these names, each once."""
        wanted = frozenset(names)
        return tuple(dict.fromkeys(each.change for each in self.changes if wanted & _names(each.change)))

    def unknown(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names that accept nothing."""
        known = frozenset(name for each in self.changes for name in _names(each.change))
        return tuple(sorted(set(names) - known))

    def fresh(self, accepted: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        """The modules that must be loaded after the update, by name, and the titles of their types."""
        fine, found = frozenset(accepted), dict[str, list[str]]()
        for each in self.changes:
            if each.matters and self.is_fresh(each.change) and not fine & _names(each.change):
                found.setdefault(each.target, []).append(each.change.title)
        return {name: tuple(dict.fromkeys(found[name])) for name in sorted(found)}

    def is_fresh(self, change: LayoutChange) -> bool:
        """Whether only modules that may still be loaded have to do with a type."""
        targets = self._targets.get(change.title, frozenset())
        return targets.isdisjoint(("", KERNEL)) and not any(each in self.loaded for each in targets)

    @cached_property
    def _targets(self) -> Mapping[str, frozenset[str]]:
        """Whose code a type may matter to, by the type's title, whatever each takes it for."""
        found: dict[str, set[str]] = {}
        for each in self.changes:
            if each.matters:
                found.setdefault(each.change.title, set()).add(each.target)
        return {title: frozenset(targets) for title, targets in found.items()}


@dataclass(frozen=True)
class Compared:
    """The types of one unit before and after. `note`: why they could not be compared."""

    changes: tuple[LayoutChange, ...] = ()
    note: str = ""


def compared(plan: Plan) -> Compared:
    """Compare the types of a unit."""
    if not plan.pre.nodes or not plan.post.nodes:
        return Compared()  # a unit that comes or goes
    if not (has_types(plan.pre.obj) and has_types(plan.post.obj)):
        name = plan.post.obj.path
        return Compared(note=f"{name}: no debugging information, so layouts of structures were not compared")
    try:
        return Compared(_changes(plan))
    except KdiffError as error:
        if error.key != "dwarf.unsupported":
            raise
        return Compared(note=f"layouts of structures were not compared: {error}")


def retyped(
    plans: Sequence[Plan], loaded: Container[str] = (), types: Iterable[Compared] | None = None
) -> Retyped:
    """What became of the types of units. `loaded`: modules that are known to be; `types`: of each plan."""
    changes: list[Seen] = []
    notes = []
    for plan, found in zip(plans, types or map(compared, plans), strict=True):
        matters = bool(plan.delta.changed or plan.delta.added or plan.delta.removed)
        changes += (
            Seen(plan.post.obj.path, plan.target, _with_allocators(plan, each), matters)
            for each in found.changes
        )
        notes += [found.note] if found.note else []
    return Retyped(tuple(changes), tuple(notes), loaded)


def _changes(plan: Plan) -> tuple[LayoutChange, ...]:
    from kdiff.layoutdiff import layout_changes
    from kdiff.layouts import types_in

    before, after = (debug_sections(each.obj, each.arch) for each in (plan.pre, plan.post))
    types = types_in(before)
    return layout_changes(types, types if before == after else types_in(after))


def _with_allocators(plan: Plan, change: LayoutChange) -> LayoutChange:
    """Name first the functions in whose code the size became the new one, as in the call of an allocator."""
    if change.sizes is None:
        return change
    old, new = change.sizes
    found = []
    for pre, post in plan.replaced:
        ours, theirs = (
            _immediates(graph, graph.nodes[node]) for graph, node in ((plan.pre, pre), (plan.post, post))
        )
        if ours[old] and theirs[new] > ours[new]:
            found.append(f"its size in {plan.pre.nodes[pre].label}()")
    return replace(change, users=(*sorted(found), *change.users))


def _immediates(graph: SectionGraph, node: Node) -> Counter[int]:
    """The numbers in a function's instructions, those that address memory excepted."""
    return Counter(
        int(number, 0)
        for _, _, text in texts(graph.arch, graph.contents(node))
        for number in _NUMBER.findall(_ADDRESSING.sub("", text))
    )


def review_types(found: Retyped, accepted: Iterable[str]) -> tuple[Refusal, ...]:
    """Refuse each change that is not accepted by name and reaches data that exists, once for all units."""
    places: dict[tuple[str, tuple[str, ...]], list[Seen]] = {}
    fine = frozenset(accepted)
    for each in found.changes:
        if not found.is_fresh(each.change) and not fine & _names(each.change):
            places.setdefault((each.change.title, each.change.what), []).append(each)
    return tuple(map(_refusal, places.values()))


def _names(change: LayoutChange) -> frozenset[str]:
    """What an author may call a change: `foo`, `struct foo`."""
    return frozenset((change.name, change.title, f"{change.kind} {change.name}"))


def _refusal(places: list[Seen]) -> Refusal:
    name, change = places[0].object, places[0].change
    place = name if len(places) == 1 else f"{name} and {len(places) - 1} more"
    details = tuple(
        f"{each.change.title} in {each.object}: {_listed(each.change.users)}"
        for each in places
        if each.change.users
    )
    what = "; ".join(change.what)
    accept = f"accept it with --accept-layout {change.name}"
    if change.kind == "enum":
        return Refusal(
            "review.enum_changed", place,
            f"{change.title} changes ({what}), and the running kernel may hold old values",
            f"add new enumerators with new values; if no value is kept anywhere, {accept}", details,
        )  # fmt: skip
    return Refusal(
        "review.layout_changed", place,
        f"{change.title} changes ({what}), and the running kernel may hold data of the old layout",
        "leave it as it is and keep new state in a shadow variable; if no old data can reach new code, "
        f"{accept}",
        details,
    )  # fmt: skip


def _listed(users: tuple[str, ...]) -> str:
    more = len(users) - _MOST_USERS
    return ", ".join(users[:_MOST_USERS]) + (f" and {more} more" if more > 0 else "")

# SPDX-License-Identifier: Apache-2.0
"""Table entries that the kernel would read before it can know what they say.

In: a plan for code of a module. The kernel reads an update's tables when that is loaded, but fills in what is
a module's only when it patches the module (kernel/livepatch/core.c, klp_init_object_loaded). Out: the entries
that name something of a module. Some are only there to make code faster and are left out; for others the
table's row can rewrite the assembly of the code so that it needs none (`SpecialSection.without`).
"""

from __future__ import annotations

from collections.abc import Iterable

from kdiff.addressbook import KERNEL, AddressBook
from kdiff.errors import KdiffError
from kdiff.kernel import SpecialSection, Without
from kdiff.plan import Plan, new_globals
from kdiff.split import Kind
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Late:
    """A carried entry (post id), the names of the code it is about and of what it names in the module."""

    entry: int
    table: SpecialSection
    owner: tuple[str, ...]
    names: tuple[str, ...]


def late(plan: Plan, kernel: AddressBook, together: Iterable[Plan]) -> tuple[Late, ...]:
    """The late entries of a plan. `together`: all plans of the update, which bring globals for each other."""
    if plan.target == KERNEL:
        return ()
    post, carried = plan.post, frozenset(plan.carried)
    here = {name for each in together for name in new_globals(each)}
    found = []
    for index in plan.carried:
        table = post.nodes[index].table
        owner = post.owners.get(index)
        if table is None or owner is None:
            continue
        for reference in post.references[index]:
            target = post.nodes[reference.target]
            known = target.kind is Kind.EXTERN and (target.name in here or _is_global(kernel, target.name))
            if target.id not in carried and not known:
                found.append(Late(index, table, post.nodes[owner].names, target.names or (target.name,)))
    return tuple(found)


def edited(text: str, found: Iterable[Late]) -> str:
    """A unit's assembly in which the code that late entries are about needs none of them."""
    wanted: dict[Without, dict[str, set[str]]] = {}
    for each in found:
        if each.table.without is not None:
            functions = wanted.setdefault(each.table.without, {})
            for name in each.owner:
                functions.setdefault(name, set()).update(each.names)
    for without, functions in wanted.items():
        text = without(text, functions)
    return text


def check_same_code(before: Plan, after: Plan) -> None:
    """Whether editing assembly left everything else as it was; KdiffError `assembly.other_code` if not."""
    if _travelling(before) != _travelling(after):
        odd = sorted(_travelling(before) ^ _travelling(after))
        raise KdiffError(
            "assembly.other_code", f"edited assembly gave other code: {', '.join(odd[:5])}",
            place=after.post.obj.path,
        )  # fmt: skip


def _travelling(plan: Plan) -> set[str]:
    nodes = plan.post.nodes
    replaced = {f"{nodes[post].label} replaced" for _, post in plan.replaced}
    return replaced | {nodes[index].label for index in plan.carried if nodes[index].table is None}


def _is_global(kernel: AddressBook, name: str) -> bool:
    return any(entry.kind.isupper() for entry in kernel.named(name))

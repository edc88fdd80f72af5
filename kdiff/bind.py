# SPDX-License-Identifier: Apache-2.0
"""Stage 9: give every reference of every carried byte a destination.

In: a plan and the run match of the same unit. Out: an `Update`, whose `carried` object holds all that
travels. A reference to something carried becomes an ordinary one; a reference to something borrowed goes
to an undefined symbol for which run-pre matching has proved the address, name and position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdiff.carry import Carrier
from kdiff.errors import Refusal, Refused
from kdiff.exports import Export
from kdiff.graph import Node, Reference
from kdiff.kernel import AddressBook, BookEntry
from kdiff.plan import Plan, keeps_identity, new_globals
from kdiff.solve import RunMatch
from kdiff.split import Kind
from kdiff.update import Borrowed, How, Replacement, Update
from kdiff.verdict import Match


@dataclass(frozen=True, slots=True)
class Bound:
    """One unit on its way into an update: its plan and its run match."""

    plan: Plan
    run: RunMatch


def bind(
    update_id: str, units: tuple[Bound, ...], book: AddressBook, exports: Mapping[str, Export]
) -> Update:
    """Bind all units of one target into one object; Refused if a destination cannot be proved."""
    work = _Binder(book, exports)
    for number, unit in enumerate(units):
        work.place(number, unit)
    for number, unit in enumerate(units):
        work.refer(number, unit)
    if work.refusals:
        raise Refused(*work.refusals)
    plan = units[0].plan
    return Update(
        update_id,
        plan.target,
        work.carrier.finish(plan.post),
        tuple(work.replacements),
        tuple(sorted(work.borrowed.values(), key=lambda each: each.symbol)),
    )


class _Binder:
    """Collects one target's replacements, borrowed symbols and carried sections."""

    def __init__(self, book: AddressBook, exports: Mapping[str, Export]) -> None:
        self.book, self.exports = book, exports
        self.carrier = Carrier()
        self.replacements: list[Replacement] = []
        self.borrowed: dict[str, Borrowed] = {}
        self.refusals: list[Refusal] = []
        self.new_globals: dict[str, tuple[int, int]] = {}

    def place(self, number: int, unit: Bound) -> None:
        """Carry one unit's nodes."""
        plan = unit.plan
        for node in plan.carried:
            self.carrier.place(plan.post, number, plan.post.nodes[node])
        for pre, post in plan.replaced:
            self._replace(number, unit, pre, post)
        for item in plan.in_place:
            before = plan.pre.nodes[item.pre]
            self.refusals.append(
                Refusal(
                    "bind.in_place", plan.pre.where(before),
                    f"{before.label} must be written to in place, which no update can say yet",
                    "leave the constant as it is and change the code that uses it",
                )
            )  # fmt: skip
        for name, index in new_globals(plan).items():
            if index in self.carrier.members(number):
                self.new_globals[name] = (number, index)

    def refer(self, number: int, unit: Bound) -> None:
        """Bind one unit's references, when all units have their place."""
        plan = unit.plan
        for index in plan.carried:
            for reference in plan.post.references[index]:
                source = plan.post.nodes[index]
                if self._goes_along(number, plan, source, reference):
                    self.carrier.join(number, index, reference)
                elif (new := self._new_global(plan, reference)) is not None:
                    self.carrier.join_other(number, index, reference, *new)
                else:
                    symbol = self._destination(unit, reference)
                    if symbol is not None:
                        self.carrier.refer(number, index, reference, symbol)

    def _new_global(self, plan: Plan, reference: Reference) -> tuple[int, int] | None:
        """(unit, node) of a global that another unit of the update adds."""
        target = plan.post.nodes[reference.target]
        return self.new_globals.get(target.name) if target.kind is Kind.EXTERN else None

    def _replace(self, number: int, unit: Bound, pre: int, post: int) -> None:
        plan, node = unit.plan, unit.plan.pre.nodes[pre]
        match = unit.run.matches.get(pre)
        if match is None:
            self.refusals.append(
                unit.run.open.get(pre)
                or Refusal(
                    "bind.unmatched", plan.pre.where(node), f"{node.label} was not found in the kernel"
                )
            )
            return
        self.refusals += _unverified(unit, match)
        entry = self._entry(node, match.address, plan.target)
        if entry is None:
            self.refusals.append(
                Refusal(
                    "bind.no_name", plan.pre.where(node),
                    f"kallsyms has no name for {node.label} at {match.address:#x}",
                )
            )  # fmt: skip
            return
        symbol = self.carrier.publish(number, post, entry.name)
        self.replacements.append(
            Replacement(entry.name, self.book.sympos(entry), match.address, match.size, symbol, number, pre)
        )

    def _goes_along(self, number: int, plan: Plan, source: Node, reference: Reference) -> bool:
        """Whether a reference goes to the carried copy of its target."""
        if reference.target not in self.carrier.members(number):
            return False
        return not keeps_identity(plan, source, reference)

    def _destination(self, unit: Bound, reference: Reference) -> str | None:
        """The name of the borrowed symbol a reference goes to; None after a refusal."""
        target = unit.plan.post.nodes[reference.target]
        pre = unit.plan.pairing.to_pre(target.id)
        if pre is not None and target.kind is not Kind.EXTERN:
            return self._borrow_known(unit, pre)
        return self._borrow_extern(unit, target, pre)

    def _borrow_known(self, unit: Bound, pre: int) -> str | None:
        node = unit.plan.pre.nodes[pre]
        address = unit.run.addresses.get(pre)
        if address is None:
            self.refusals.append(
                unit.run.open.get(pre)
                or Refusal(
                    "bind.unresolved", unit.plan.pre.where(node),
                    f"the update needs {node.label}, and run-pre matching did not learn where it is",
                )
            )  # fmt: skip
            return None
        entry = self._entry(node, address, unit.plan.target)
        if entry is None:
            self.refusals.append(
                Refusal(
                    "bind.no_name", unit.plan.pre.where(node),
                    f"the update needs {node.label} at {address:#x}, for which kallsyms has no name",
                )
            )  # fmt: skip
            return None
        return self._borrow(entry, unit.run.learned.get(pre, "kallsyms"))

    def _borrow_extern(self, unit: Bound, target: Node, pre: int | None) -> str | None:
        """A symbol of another unit: as pre code taught, or by a name that can only mean one thing."""
        if pre is not None and pre in unit.run.addresses:
            address = unit.run.addresses[pre]
            for entry in self.book.named(target.name):
                if entry.address == address:
                    return self._borrow(entry, unit.run.learned.get(pre, "run-pre"))
        entries = self.book.named(target.name)
        visible = [entry for entry in entries if entry.kind.isupper()] or list(entries)
        if len(visible) == 1:
            how = "only global of this name" if len(entries) > 1 else "only symbol of this name"
            return self._borrow(visible[0], f"kallsyms: {how}")
        where = ", ".join(f"{entry.address:#x}" for entry in visible)
        self.refusals.append(
            Refusal(
                "bind.ambiguous" if visible else "bind.unresolved",
                unit.plan.post.where(target),
                f"the patch uses {target.name}, which the kernel "
                + (f"has at {where}" if visible else "does not have"),
                "use a symbol that exists once in the running kernel",
            )
        )
        return None

    def _borrow(self, entry: BookEntry, learned: str) -> str:
        export = self.exports.get(entry.name)
        exported = export is not None and export.owner == entry.owner and not export.namespace
        symbol = entry.name if exported else f"{entry.name},{entry.owner},{entry.position}"
        how = How.EXPORT if exported else How.POSITION
        self.borrowed[symbol] = Borrowed(
            symbol, entry.name, entry.owner, self.book.sympos(entry), entry.address, how, learned
        )
        return symbol

    def _entry(self, node: Node, address: int, owner: str) -> BookEntry | None:
        """The kallsyms entry for a node at its proved address: one of its own names."""
        for name in node.names:
            for entry in self.book.named(name, owner):
                if entry.address == address:
                    return entry
        return None


def _unverified(unit: Bound, match: Match) -> list[Refusal]:
    """Fields of a replaced function whose value nothing confirms: a flipped bit there would go unseen."""
    return [
        Refusal(
            "solve.unverified", fact.source,
            f"refers to {unit.plan.pre.nodes[fact.node].label} at {fact.address:#x}, which nothing confirms",
        )
        for fact in match.facts
        if fact.node is not None and fact.node in unit.run.unverified
    ]  # fmt: skip

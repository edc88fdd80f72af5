# SPDX-License-Identifier: Apache-2.0
"""Stage 9: give every reference of every carried byte a destination.

In: a plan and the run match of the same unit. Out: an `Update`, whose `carried` object holds all that
travels. A reference to something carried becomes an ordinary one; a reference to something borrowed goes
to an undefined symbol for which run-pre matching has proved the address, name and position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdiff.addressbook import KERNEL, AddressBook, BookEntry
from kdiff.carry import Carrier
from kdiff.errors import Refusal, Refused
from kdiff.exports import Export
from kdiff.graph import Node, Reference
from kdiff.kernel import Literal
from kdiff.loaded import LoadedModule
from kdiff.naming import is_numbered
from kdiff.plan import Plan, keeps_identity, new_globals
from kdiff.solve import RunMatch
from kdiff.split import Kind
from kdiff.update import Borrowed, How, Initial, Replacement, Update
from kdiff.values import dataclass
from kdiff.verdict import Match


@dataclass(frozen=True, slots=True)
class Bound:
    """One unit on its way into an update: its plan, its run match and the symbols it may borrow.

    `module`: what was matched against, for a unit of a module.
    """

    plan: Plan
    run: RunMatch
    book: AddressBook
    module: LoadedModule | None = None

    def known(self, name: str) -> tuple[BookEntry, ...]:
        """All that a name of another unit may have been linked with."""
        return self.book.named(name) if self.module is None else self.book.of_any(name)


def bind(update_id: str, units: tuple[Bound, ...], exports: Mapping[str, Export]) -> Update:
    """Bind all units into one object; Refused if a destination cannot be proved."""
    work = _Binder(exports)
    for number, unit in enumerate(units):
        work.place(number, unit)
    for number, unit in enumerate(units):
        work.refer(number, unit)
    if work.refusals:
        raise Refused(*dict.fromkeys(work.refusals))
    modules = {unit.plan.target: unit.module.identity for unit in units if unit.module is not None}
    return Update(
        update_id,
        work.carrier.finish(units[0].plan.post),
        tuple(work.replacements),
        tuple(sorted(work.borrowed.values(), key=lambda each: each.symbol)),
        tuple(modules[name] for name in sorted(modules)),
    )


def bind_initial(units: Iterable[Bound]) -> tuple[Initial, ...]:
    """What the variables of modules start with that are loaded later; Refused if one cannot be named."""
    work = _Binder({})
    found = []
    for unit in units:
        for item in unit.plan.delta.initial:
            variable = work.borrow_known(unit, item.pre)
            found += [
                Initial(variable, each.offset, each.old, each.new)
                for each in item.writes
                if variable is not None and isinstance(each.old, bytes) and isinstance(each.new, bytes)
            ]
    if work.refusals:
        raise Refused(*dict.fromkeys(work.refusals))
    return tuple(found)


class _Binder:
    """Collects replacements, borrowed symbols and carried sections."""

    def __init__(self, exports: Mapping[str, Export]) -> None:
        self.exports = exports
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
                    borrowed = self._destination(unit, reference)
                    if borrowed is not None:
                        self.carrier.refer(number, index, reference, borrowed.symbol)
                        self._check_time(plan, source, borrowed)

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
        entry = self._entry(unit, node, match.address)
        if entry is None:
            self.refusals.append(
                Refusal(
                    "bind.no_name", plan.pre.where(node),
                    f"kallsyms has no name for {node.label} at {match.address:#x}",
                )
            )  # fmt: skip
            return
        self._check_lookup(unit, entry)
        on = _live_patch(unit, match.address) if entry.address != match.address else ""
        if on is None:
            where = plan.pre.where(node)
            reason = f"{node.label} was moved to {match.address:#x}, for which kallsyms has no name"
            self.refusals.append(Refusal("bind.no_name", where, reason))
            return
        symbol = self.carrier.publish(number, post, entry.name)
        code, known = _fixed(match)
        self.replacements.append(
            Replacement(
                entry.name, unit.book.sympos(entry), match.address, match.size, symbol, number, pre,
                plan.target, code, known, on,
            )
        )  # fmt: skip

    def _goes_along(self, number: int, plan: Plan, source: Node, reference: Reference) -> bool:
        """Whether a reference goes to the carried copy of its target."""
        if reference.target not in self.carrier.members(number):
            return False
        return not keeps_identity(plan, source, reference)

    def _check_time(self, plan: Plan, source: Node, borrowed: Borrowed) -> None:
        """The kernel reads tables when the update is loaded, but what is a module's is known only later.

        Until the module is there, livepatch leaves those references open (klp_init_object_loaded).
        """
        late = borrowed.how is How.POSITION and borrowed.owner != KERNEL
        if late and (source.table is not None or plan.post.is_piece(source)):
            self.refusals.append(
                Refusal(
                    "bind.module_table", plan.post.where(source),
                    f"an entry of {source.section_name} refers to {borrowed.name} of module {borrowed.owner},"
                    " which is not known yet when the kernel reads the entry",
                    "leave out what needs the entry: a jump label, a static call, a tracepoint of the module",
                )
            )  # fmt: skip

    def _destination(self, unit: Bound, reference: Reference) -> Borrowed | None:
        """The borrowed symbol a reference goes to; None after a refusal."""
        target = unit.plan.post.nodes[reference.target]
        pre = unit.plan.pairing.to_pre(target.id)
        if pre is not None and target.kind is not Kind.EXTERN:
            return self.borrow_known(unit, pre)
        return self._borrow_extern(unit, target, pre)

    def borrow_known(self, unit: Bound, pre: int) -> Borrowed | None:
        node = unit.plan.pre.nodes[pre]
        address = unit.run.addresses.get(pre)
        listed = [entry for name in node.names for entry in unit.book.named(name, unit.plan.target)]
        sure = node.kind is Kind.DATA and not is_numbered(node.name) and len(listed) == 1
        if address is None and sure:  # no code refers to it, only tables do: a key of jump labels
            return self._borrow(unit, listed[0], "kallsyms: only symbol of this name")
        if address is None:
            self.refusals.append(
                unit.run.open.get(pre)
                or Refusal(
                    "bind.unresolved", unit.plan.pre.where(node),
                    f"the update needs {node.label}, and run-pre matching did not learn where it is",
                )
            )  # fmt: skip
            return None
        entry = self._entry(unit, node, address)
        if entry is None:
            owner = _live_patch(unit, address)
            why = f"which only live patch {owner} has" if owner else "for which kallsyms has no name"
            remedy = "undo that live patch, and make one update of both patches" if owner else ""
            what = f"the update needs {node.label} at {address:#x}, {why}"
            self.refusals.append(Refusal("bind.no_name", unit.plan.pre.where(node), what, remedy))
            return None
        return self._borrow(unit, entry, unit.run.learned.get(pre, "kallsyms"))

    def _borrow_extern(self, unit: Bound, target: Node, pre: int | None) -> Borrowed | None:
        """A symbol of another unit: as pre code taught, or by a name that can only mean one thing."""
        if pre is not None and pre in unit.run.addresses:
            address = unit.run.entry(unit.run.addresses[pre])
            for entry in unit.known(target.name):
                if entry.address == address:
                    return self._borrow(unit, entry, unit.run.learned.get(pre, "run-pre"))
        entries = self._visible_to(unit, target.name)
        visible = [entry for entry in entries if entry.kind.isupper()] or list(entries)
        if len(visible) == 1:
            how = "only global of this name" if len(entries) > 1 else "only symbol of this name"
            return self._borrow(unit, visible[0], f"kallsyms: {how}")
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

    def _visible_to(self, unit: Bound, name: str) -> tuple[BookEntry, ...]:
        """What an undefined name can mean in a unit: a global of its own target, else of the kernel.

        In a module it means what another module exports, if one does: no two exports have one name
        (verify_exported_symbols in kernel/module/main.c).
        """
        own = unit.book.named(name, unit.plan.target)
        if any(entry.kind.isupper() for entry in own):
            return own
        export = self.exports.get(name)
        if unit.module is None or export is None or export.owner == KERNEL:
            return unit.book.named(name)
        found = (entry for entry in unit.known(name) if entry.owner == export.owner)
        return tuple(entry for entry in found if entry.kind.isupper())

    def _borrow(self, unit: Bound, entry: BookEntry, learned: str) -> Borrowed:
        export = self.exports.get(entry.name)
        exported = export is not None and export.owner == entry.owner == KERNEL and not export.namespace
        needed_by = KERNEL if entry.owner == KERNEL else unit.plan.target
        if not exported:
            self._check_lookup(unit, entry)
        symbol = entry.name if exported else f"{entry.name},{entry.owner},{entry.position}"
        symbol += f",{needed_by}" if needed_by not in (KERNEL, entry.owner) else ""
        how = How.EXPORT if exported else How.POSITION
        self.borrowed[symbol] = Borrowed(
            symbol, entry.name, entry.owner, unit.book.sympos(entry), entry.address, how, learned, needed_by
        )
        return self.borrowed[symbol]

    def _check_lookup(self, unit: Bound, entry: BookEntry) -> None:
        """Whether a position among equal names means the same whenever the kernel looks it up."""
        if unit.module is None or entry.owner != unit.plan.target:
            return
        if entry.name in unit.module.boot_names:
            self.refusals.append(
                Refusal(
                    "bind.module_symbol", f"{unit.plan.post.obj.path}: {entry.name}",
                    f"module {entry.owner} has boot code of that name too, so its position among equal names"
                    " changes when that is freed",
                    "leave the code that needs it as it is, or load a fixed module",
                )
            )  # fmt: skip

    def _entry(self, unit: Bound, node: Node, address: int) -> BookEntry | None:
        """The kallsyms entry for a node at its proved address: one of its own names.

        For a function that a live patch has moved, that is where it is entered.
        """
        address = unit.run.entry(address)
        for name in node.names:
            for entry in unit.book.named(name, unit.plan.target):
                if entry.address == address:
                    return entry
        return None


def _live_patch(unit: Bound, address: int) -> str | None:
    """The module that an address of moved code belongs to, where kallsyms names it."""
    return next((e.owner for e in unit.book.entries if e.address == address and e.owner != KERNEL), None)


def _fixed(match: Match) -> tuple[bytes, bytes]:
    """A function's bytes in memory where nothing but these can be, and the mask of them."""
    code = b"".join(part.data if isinstance(part, Literal) else bytes(part.size) for part in match.parts)
    known = b"".join((b"\xff" if isinstance(part, Literal) else b"\0") * part.size for part in match.parts)
    return code, known


def _unverified(unit: Bound, match: Match) -> list[Refusal]:
    """Fields of a replaced function whose value nothing confirms: a flipped bit there would go unseen."""
    return [
        Refusal(
            "solve.unverified", fact.source(unit.run.graph),
            f"refers to {unit.plan.pre.nodes[fact.node].label} at {fact.address:#x}, which nothing confirms"
            + (f": {why}" if (why := unit.run.unverified.get(fact.node)) else ""),
        )
        for fact in unit.run.unconfirmed(match)
        if fact.node is not None
    ]  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""What changed between the types of two objects, as far as data in memory shows it.

In: the `Types` of a pre and a post object. Out: a `LayoutChange` for each structure, union, enumeration or
variable of the pre object that the post object takes for something else. What only one of the two has is no
change, unless it looks like a new name for the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from kdiff.layouts import Enumeration, Key, Layout, Member, Type, Types, Use
from kdiff.values import dataclass

_MOST_LINES = 12


@dataclass(frozen=True, slots=True)
class LayoutChange:
    """One type that changed. `kind` and `name` as in `Key`; `what`: a line for each difference."""

    kind: str
    name: str
    what: tuple[str, ...]
    scope: str = ""
    users: tuple[str, ...] = ()
    """Who has it in the pre object: `variable state`, `struct net`, `f()`."""
    sizes: tuple[int, int] | None = None
    """Bytes before and after, if they differ."""

    @property
    def title(self) -> str:
        """`struct foo`, `type foo_t`, `enum foo`, `variable foo of f()`."""
        kind = "type" if self.kind == "typedef" else self.kind
        return f"{kind} {self.name}" + (f" of {self.scope}()" if self.scope else "")


def layout_changes(pre: Types, post: Types) -> tuple[LayoutChange, ...]:
    """Compare all that both objects have, by kind and name."""
    work = _Comparison(pre, post)
    found = {
        *work.changed_layouts(),
        *work.changed_enumerations(),
        *work.changed_variables(),
        *work.renamed(),
    }
    return tuple(sorted(found, key=_order))


def _order(change: LayoutChange) -> tuple[str, str, str]:
    return change.kind, change.name, change.scope


class _Comparison:
    def __init__(self, pre: Types, post: Types) -> None:
        self._pre, self._post = pre, post
        self._whole = pre.units != post.units
        """The objects name their source files differently, so the files do not tell types apart."""
        self._now = self._merged(post.layouts)
        self._alike: dict[tuple[str, str], bool] = {}

    def _merged(self, layouts: Mapping[Key, tuple[Layout, ...]]) -> Mapping[Key, tuple[Layout, ...]]:
        if not self._whole:
            return layouts
        found: dict[Key, tuple[Layout, ...]] = {}
        for key, each in layouts.items():
            found[self._key(key)] = (*found.get(self._key(key), ()), *each)
        return found

    def _key(self, key: Key) -> Key:
        return key._replace(unit="") if self._whole else key

    def changed_layouts(self) -> Iterator[LayoutChange]:
        for key, before in self._merged(self._pre.layouts).items():
            after = self._now.get(key)
            if after is None or before == after:
                continue
            for layout in before:
                if not any(self._same(layout, each) for each in after):
                    nearest = _nearest(layout, after)
                    what = tuple(self._differences(layout, nearest))
                    yield replace(self._change(key, what), sizes=_sizes(layout, nearest))
                    break

    def _change(self, key: Key, what: tuple[str, ...]) -> LayoutChange:
        return LayoutChange(key.kind, key.name, what, key.scope, _users(self._pre, key))

    # Structures and unions

    def _same(self, one: Layout, other: Layout) -> bool:
        return one == other or (
            one.size == other.size
            and len(one.members) == len(other.members)
            and all(
                mine.name == yours.name and not self._moved(mine, yours)
                for mine, yours in zip(one.members, other.members, strict=True)
            )
        )

    def _moved(self, mine: Member, yours: Member) -> bool:
        return (mine.at, mine.bits) != (yours.at, yours.bits) or not self._compatible(
            mine.type, mine.aggregate, yours.type, yours.aggregate
        )

    def _compatible(self, one: str, of_one: str, other: str, of_other: str) -> bool:
        """Whether bytes of one type may be read as the other."""
        if one == other:
            return True
        if one.startswith("pointer") and other.startswith("pointer") and not (of_one and of_other):
            return True
        if not of_one or not of_other or one.replace(of_one, "", 1) != other.replace(of_other, "", 1):
            return False
        return self._renamed_alike(of_one, of_other)

    def _renamed_alike(self, one: str, other: str) -> bool:
        """Whether two names stand for one layout; those of recursive types are compared once."""
        if (one, other) not in self._alike:
            self._alike[one, other] = True
            ours, theirs = self._pre.by_title.get(one, ()), self._post.by_title.get(other, ())
            self._alike[one, other] = bool(ours) and all(
                any(self._same(mine, yours) for yours in theirs) for mine in ours
            )
        return self._alike[one, other]

    def _differences(self, one: Layout, other: Layout) -> Iterator[str]:
        if one.size != other.size:
            yield f"was {one.size} bytes long, is {other.size}"
        ours = {member.name: member for member in one.members}
        theirs = {member.name: member for member in other.members}
        lines = []
        for member in sorted({*one.members, *other.members}, key=lambda each: _rank(each, ours, theirs)):
            mine, yours = ours.get(member.name), theirs.get(member.name)
            if mine is None and yours is not None:
                lines.append(f"member {yours.name} is new, at {_at(yours)}")
            elif mine is not None and yours is None:
                lines.append(f"member {mine.name} is gone, was at {_at(mine)}")
            elif mine is member and yours is not None and self._moved(mine, yours):
                lines.append(_difference(mine, yours))
        yield from lines[:_MOST_LINES]
        if len(lines) > _MOST_LINES:
            yield f"and {len(lines) - _MOST_LINES} more members"

    # Enumerations

    def changed_enumerations(self) -> Iterator[LayoutChange]:
        values: dict[Key, set[int]] = {}
        holders: dict[Key, list[Enumeration]] = {}
        for each in self._post.enumerations:
            for name, value in each.values:
                key = self._key(each.key)._replace(kind="enumerator", name=name)
                values.setdefault(key, set()).add(value)
                holders.setdefault(key, []).append(each)
        for each in self._pre.enumerations:
            what = []
            others: list[Enumeration] = []
            for name, value in each.values:
                key = self._key(each.key)._replace(kind="enumerator", name=name)
                others += holders.get(key, [])
                if key in values and value not in values[key]:
                    what.append(f"{name} was {value}, is {min(values[key])}")
            if others:
                if all(other.size != each.size for other in others):
                    what.insert(0, f"was {each.size} bytes long, is {others[0].size}")
                what += _reused(each, others)
            if what:
                yield self._change(each.key, tuple(what))

    # Variables, and types under a new name

    def changed_variables(self) -> Iterator[LayoutChange]:
        """Variables of equal size that the post object takes for something else."""
        now: dict[tuple[str, str, str], list[Type]] = {}
        for use in self._post.variables:
            now.setdefault((self._file(use), use.function, use.name), []).append(use.type)
        for use in self._pre.variables:
            one, others = use.type, now.get((self._file(use), use.function, use.name), [])
            if others and all(
                one.bits == other.bits
                and not self._compatible(one.text, one.aggregate, other.text, other.aggregate)
                for other in others
            ):
                what = (f"was {one.text}, is {others[0].text}",)
                yield LayoutChange("variable", use.name, what, use.function)

    def _file(self, use: Use) -> str:
        return "" if self._whole else use.unit

    def renamed(self) -> Iterator[LayoutChange]:
        """Types that only one object has each, where some function's variable was one and is the other."""
        gone = self._pre.by_title.keys() - self._post.by_title.keys()
        come = self._post.by_title.keys() - self._pre.by_title.keys()
        if not gone or not come:
            return
        now: dict[tuple[str, str, str], set[str]] = {}
        for use in self._post.locals:
            if use.type.aggregate in come:
                now.setdefault((self._file(use), use.function, use.name), set()).add(use.type.aggregate)
        for use in self._pre.locals:
            one = use.type.aggregate
            for other in sorted(now.get((self._file(use), use.function, use.name), ())):
                if one in gone and not self._renamed_alike(one, other):
                    kind, _, name = one.partition(" ")
                    ours, theirs = self._pre.by_title[one][0], self._post.by_title[other][0]
                    what = (f"is called {other} now", *self._differences(ours, theirs))
                    yield self._change(Key("", "", kind, name), what)


def _reused(one: Enumeration, others: list[Enumeration]) -> Iterator[str]:
    """Values that had a name and have got another."""
    names = {name for other in others for name, _ in other.values}
    before = {name for name, _ in one.values}
    fresh = {value: name for other in others for name, value in other.values if name not in before}
    for name, value in one.values:
        if name not in names and value in fresh:
            yield f"{value} was {name}, is {fresh[value]}"


def _users(types: Types, key: Key) -> tuple[str, ...]:
    """Variables, structures and functions that have the type, in that order."""
    title = f"{key.kind} {key.name}"
    if key.kind in ("variable", "enum"):
        return ()
    variables = {f"variable {use.name}" for use in types.variables if use.type.aggregate == title}
    holders = {
        f"{holder.kind} {holder.name}"
        for holder, layouts in types.layouts.items()
        if (holder.kind, holder.name) != (key.kind, key.name)
        and any(member.aggregate == title for layout in layouts for member in layout.members)
    }
    functions = {f"{use.function}()" for use in types.locals if use.type.aggregate == title}
    return (*sorted(variables), *sorted(holders), *sorted(functions))


def _nearest(layout: Layout, others: tuple[Layout, ...]) -> Layout:
    """The one that shares most members."""
    return max(others, key=lambda other: len(set(layout.members) & set(other.members)))


def _sizes(one: Layout, other: Layout) -> tuple[int, int] | None:
    if one.size is None or other.size is None or one.size == other.size:
        return None
    return one.size, other.size


def _difference(mine: Member, yours: Member) -> str:
    if mine.at != yours.at:
        return f"member {mine.name} moved from {_at(mine)} to {_at(yours)}"
    if mine.type == yours.type:
        return f"member {mine.name} had {_size(mine.bits)}, has {_size(yours.bits)}"
    return f"member {mine.name} was {mine.type}, is {yours.type}"


def _at(member: Member) -> str:
    """`16`, or `16.3`: bytes and bits from the structure's start."""
    return f"{member.at // 8}.{member.at % 8}" if member.at % 8 else str(member.at // 8)


def _size(bits: int | None) -> str:
    if bits is None:
        return "an unknown size"
    return f"{bits} bits" if bits % 8 else f"{bits // 8} bytes"


def _rank(member: Member, ours: Mapping[str, Member], theirs: Mapping[str, Member]) -> tuple[int, bool, str]:
    """The order of lines: by place, and at one place what is new before what it moved."""
    return member.at, member.name in ours and member.name in theirs, member.name

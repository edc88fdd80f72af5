# SPDX-License-Identifier: Apache-2.0
"""What names in a kernel's objects mean, as rows of plugins: sections, statics of macros, line numbers.

The engine knows that memory may be freed after boot or exist once per processor, that some data have no
identity, and that some arguments only tell a line of source; which names say so is a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from kdiff.kernel import EntryView, Site
from kdiff.naming import longest
from kdiff.values import dataclass


class Standing(Enum):
    """What becomes of a section's memory while the kernel runs."""

    ORDINARY = "ordinary"
    BOOT = "boot"
    """Freed once the kernel, or the module, has started."""
    EXIT = "exit"
    """Of a module that is leaving; built-in code of this kind is dropped."""
    PER_CPU = "per-cpu"
    """A template: each processor has a copy of its own."""
    PROTECTED = "protected"
    """Written to while the kernel starts, then read-only."""


@dataclass(frozen=True, slots=True)
class SectionClass:
    """All sections whose name begins with `name`, and what becomes of their memory."""

    name: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class ConstantSection:
    """The section `name`, or `name.` and anything: nobody writes to it but whoever applies its relocations.

    Its flags say that it can be written to for their sake alone.
    """

    name: str


@dataclass(frozen=True, slots=True)
class ReadOnlyMemory:
    """From the kernel's symbol `name` to its symbol `end` nobody writes once the kernel has started."""

    name: str
    end: str


@dataclass(frozen=True, slots=True)
class RemadeData:
    """Data that a macro or the compiler makes anew at each use: a fresh copy is as good as the old one.

    `name`: that of its symbol without the compiler's numbers or, where `section`, how its section's begins.
    `ignored`: (offset, size) of fields whose contents are never a difference: line numbers.
    """

    name: str
    section: bool = False
    ignored: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class LineTaker:
    """A function that is told the line number of its call; `argument` counts from 0."""

    name: str
    argument: int


@dataclass(frozen=True, slots=True)
class CodeAhead:
    """`name` and a function's name: a symbol for what lies in front of that function and belongs to it.

    `sites`: what the kernel may write there, as in a `SpecialSection`; it is asked about each such symbol.
    `behind`: the same about the function.
    """

    name: str
    sites: Callable[[EntryView], Iterable[Site]] | None = None
    behind: Callable[[EntryView], Iterable[Site]] | None = None


@dataclass(frozen=True, slots=True)
class Intrusion:
    """What somebody writes over code while the kernel runs, which no rewrite allows, and what to do about it.

    `name` tells rows apart. The code begins with `found`; if `rewrite` is given, at a site of that rewrite.
    If it is a branch, it leads out of the kernel's image; with `owner` and `symbol`, to code that kallsyms
    lists as that owner's under a name that begins with `symbol`.
    """

    name: str
    found: bytes
    what: str
    remedy: str
    rewrite: str = ""
    owner: str = ""
    symbol: str = ""


Habit = CodeAhead | Intrusion | SectionClass | ConstantSection | ReadOnlyMemory | RemadeData | LineTaker


class Habits:
    """What names in a kernel's objects mean, indexed."""

    def __init__(self, rows: Iterable[Habit] = ()) -> None:
        rows = tuple(rows)
        self.line_takers: Mapping[str, LineTaker] = {r.name: r for r in rows if isinstance(r, LineTaker)}
        classes = [row for row in rows if isinstance(row, SectionClass)]
        self._classes = {row.name: row.standing for row in reversed(classes)}
        self._class = longest(tuple(self._classes)).match
        self.intrusions = tuple(row for row in rows if isinstance(row, Intrusion))
        ahead = [row for row in rows if isinstance(row, CodeAhead)]
        self.ahead = tuple(row.name for row in ahead)
        self.rewritten_ahead = tuple(row for row in ahead if row.sites or row.behind)
        self.read_only = tuple(row for row in rows if isinstance(row, ReadOnlyMemory))
        self._known: dict[str, Standing | None] = {}
        self._constants = frozenset(row.name for row in rows if isinstance(row, ConstantSection))
        self._constant_families = tuple(f"{name}." for name in self._constants)
        self.constant_families = (*self._constants, *self._constant_families)
        remade = [row for row in rows if isinstance(row, RemadeData)]
        self._remade = {row.name: row for row in remade if not row.section}
        self._remade_sections = [row for row in remade if row.section]
        self.remade_names = frozenset(self._remade)
        self.remade_families = self._remade_heads = tuple(row.name for row in self._remade_sections)

    def standing(self, section: str) -> Standing:
        """The class of a section: that of the longest name which its own begins with."""
        return self._standing(section) or Standing.ORDINARY

    def known(self, section: str) -> bool:
        """Whether any row names a section."""
        return self._standing(section) is not None

    def _standing(self, section: str) -> Standing | None:
        if section not in self._known:
            found = self._class(section)
            self._known[section] = None if found is None else self._classes[found[0]]
        return self._known[section]

    def is_constant(self, section: str) -> bool:
        """Whether what lies in a section is read-only whatever its flags say."""
        return section in self._constants or section.startswith(self._constant_families)

    def remade(self, stem: str, section: str) -> RemadeData | None:
        """The row for a datum, by its name without numbers, or by its section's.

        gcc writes `__key`, clang `function.__key` and `__func__.function`.
        """
        found = self._remade.get(stem)
        if found is None and "." in stem:
            found = self._remade.get(stem.rpartition(".")[2]) or self._remade.get(stem.partition(".")[0])
        if found is None and section.startswith(self._remade_heads):
            found = next((row for row in self._remade_sections if section.startswith(row.name)), None)
        return found


NO_HABITS = Habits()
"""Names mean nothing."""

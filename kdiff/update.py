# SPDX-License-Identifier: Apache-2.0
"""What stage 9 returns and emitters take: an update of which every reference has a destination."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from kdiff.addressbook import KERNEL
from kdiff.elf.write import Relocatable
from kdiff.kernel import ModuleIdentity
from kdiff.values import dataclass


class How(Enum):
    """How a borrowed symbol is resolved when the update is loaded."""

    EXPORT = "export"
    """By the module loader, checked against the kernel's symbol CRC."""
    POSITION = "position"
    """By name, owner and position among equal names: addresses that run-pre matching has proved."""


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A symbol that stays in the kernel. `symbol` is its (undefined) name in `Update.carried`.

    `needed_by`: the module whose code refers to it, where the symbol is a module's and so comes and goes with
    them; else the kernel.
    """

    symbol: str
    name: str
    owner: str
    position: int
    """0 where the name is unique, else counted from 1 in kallsyms order."""
    address: int
    how: How
    learned: str
    """How run-pre matching came to know the address, for the manifest."""
    needed_by: str = KERNEL


@dataclass(frozen=True, slots=True)
class Replacement:
    """A function of `target` (`name`, `position` as in kallsyms) and its successor `symbol` in `carried`.

    `node` is its id in the pre graph of the unit at index `unit`. `code`: its bytes in memory as far as they
    cannot differ, and `known`, the mask of those.
    """

    name: str
    position: int
    address: int
    size: int
    symbol: str
    unit: int
    node: int
    target: str = KERNEL
    code: bytes = b""
    known: bytes = b""
    on: str = ""
    """The live patch, by its module's name, whose code was matched in place of the kernel's own."""


class Fresh(NamedTuple):
    """A module that must be loaded after the update and unloaded before it goes.

    `types`: those of its data that the update lays out in another way, as `struct foo`.
    """

    module: str
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Initial:
    """What a variable of a `Fresh` module starts with: `new` bytes at `offset` in place of `old` ones.

    They must be there before any code of the module runs, and nothing is written if the old ones are not.
    """

    variable: Borrowed
    offset: int
    old: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class Update:
    """An update, ready for an emitter.

    `modules`: those whose code it changes, and which build of each.

    `carried` holds everything that travels: code, data, strings and the special-section entries they own,
    entries of one table together in one section under the table's own name. Its undefined symbols are
    exactly those in `borrowed`.
    """

    id: str
    carried: Relocatable
    replacements: tuple[Replacement, ...]
    borrowed: tuple[Borrowed, ...]
    modules: tuple[ModuleIdentity, ...] = ()
    fresh: tuple[Fresh, ...] = ()
    initial: tuple[Initial, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The kernel, if its code is changed, and the modules, by name."""
        found = {each.target for each in self.replacements}
        return tuple(sorted(found, key=lambda name: (name != KERNEL, name)))

# SPDX-License-Identifier: Apache-2.0
"""What stage 9 returns and emitters take: an update of which every reference has a destination."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kdiff.elf.write import Relocatable


class How(Enum):
    """How a borrowed symbol is resolved when the update is loaded."""

    EXPORT = "export"
    """By the module loader, checked against the kernel's symbol CRC."""
    POSITION = "position"
    """By name, owner and position among equal names: addresses that run-pre matching has proved."""


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A symbol that stays in the kernel. `symbol` is its (undefined) name in `Update.carried`."""

    symbol: str
    name: str
    owner: str
    position: int
    """0 where the name is unique, else counted from 1 in kallsyms order."""
    address: int
    how: How
    learned: str
    """How run-pre matching came to know the address, for the manifest."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A function in the kernel (`name`, `position` as in kallsyms) and its successor `symbol` in `carried`.

    `node` is its id in the pre graph of the unit at index `unit`.
    """

    name: str
    position: int
    address: int
    size: int
    symbol: str
    unit: int
    node: int


@dataclass(frozen=True, slots=True)
class Update:
    """One target's update, ready for an emitter.

    `carried` holds everything that travels: code, data, strings and the special-section entries they own,
    entries of one table together in one section under the table's own name. Its undefined symbols are
    exactly those in `borrowed`.
    """

    id: str
    target: str
    carried: Relocatable
    replacements: tuple[Replacement, ...]
    borrowed: tuple[Borrowed, ...]

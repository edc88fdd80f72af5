# SPDX-License-Identifier: Apache-2.0
"""Plugins in, one frozen `Registry` out. The only caller of hooks.

A plugin that cannot be imported, misspells a hook or repeats a key stops the run with its name: which
plugin was installed first must never decide what is written into a kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from kdiff import hookspecs
from kdiff.arch import Architecture, ByteOrder
from kdiff.entry_points import entry_points
from kdiff.errors import KdiffError
from kdiff.habits import Habits
from kdiff.kernel import KernelFacts, SpecialSection
from kdiff.memory import MemoryScheme, MemorySource
from kdiff.values import dataclass

if TYPE_CHECKING:
    from kdiff.distribution import Distribution
    from kdiff.emit import Emitter

Value = TypeVar("Value")
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Registry:
    """Everything plugins said, asked once."""

    architectures: Mapping[tuple[int, ByteOrder], Architecture]
    memory_schemes: Mapping[str, MemoryScheme]
    emitters: Mapping[str, Emitter]
    distributions: Mapping[str, Distribution]
    special_sections: Callable[[KernelFacts], Mapping[str, SpecialSection]]
    habits: Callable[[KernelFacts], Habits]

    def architecture(self, machine: int, order: ByteOrder, place: str) -> Architecture:
        """The plugin for an object's e_machine, or KdiffError `plugin.architecture`."""
        found = self.architectures.get((machine, order))
        if found is None:
            known = ", ".join(sorted(each.name for each in self.architectures.values()))
            raise KdiffError(
                "plugin.architecture",
                f"no plugin for ELF machine {machine} ({order} endian); known: {known}",
                place=place,
            )
        return found

    def open_memory(self, text: str) -> MemorySource:
        """Open `SCHEME:WHAT`."""
        scheme, colon, rest = text.partition(":")
        if not colon or scheme not in self.memory_schemes:
            known = ", ".join(f"{name}:" for name in sorted(self.memory_schemes))
            raise KdiffError("memory.scheme", f"{text!r} names no known memory scheme; known: {known}")
        return self.memory_schemes[scheme].open(rest, tuple(self.architectures.values()))


def load(disabled: Iterable[str] | None = None) -> Registry:
    """Import all plugins of the entry-point group `kdiff` and ask each hook that needs no facts.

    `disabled`: entry-point names to leave out; by default those in KDIFF_DISABLE_PLUGINS (commas).
    """
    if disabled is None:
        disabled = [name for name in os.environ.get("KDIFF_DISABLE_PLUGINS", "").split(",") if name]
    manager = _manager(frozenset(disabled))
    return Registry(
        architectures=_collect(manager, "kdiff_architectures", lambda a: (a.elf_machine, a.byte_order)),
        memory_schemes=_collect(manager, "kdiff_memory_schemes", lambda scheme: scheme.scheme),
        emitters=_collect(manager, "kdiff_emitters", lambda emitter: emitter.name),
        distributions=_collect(manager, "kdiff_distributions", lambda distribution: distribution.id),
        special_sections=lambda facts: _collect(
            manager, "kdiff_special_sections", lambda section: section.name, facts=facts
        ),
        habits=lambda facts: Habits(
            _collect(
                manager, "kdiff_habits", lambda row: (type(row).__name__, row.name), facts=facts
            ).values()
        ),
    )


def _manager(disabled: frozenset[str]) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for point in sorted(entry_points(group=hookspecs.PROJECT), key=lambda each: each.name):
        if point.name in disabled:
            continue
        try:
            plugin = point.load()
            manager.register(plugin, name=point.name)
            _no_unknown_hook(point.name, plugin)
            manager.check_pending()
        except (ImportError, AttributeError, SyntaxError, pluggy.PluginValidationError) as error:
            raise KdiffError(
                "plugin.broken",
                f"cannot load: {error}",
                place=f"plugin {point.name}",
                remedy=f"repair or uninstall it, or set KDIFF_DISABLE_PLUGINS={point.name}",
            ) from error
    return manager


def _no_unknown_hook(name: str, plugin: object) -> None:
    """A function called kdiff_* that is no hook is a misspelt one, marked as an implementation or not."""
    for attribute in dir(plugin):
        if attribute.startswith("kdiff_") and not hasattr(hookspecs, attribute):
            value: Any = getattr(plugin, attribute)
            if callable(value):
                raise AttributeError(f"unknown hook {attribute}")


def _collect(
    manager: pluggy.PluginManager, hook: str, key: Callable[[Any], Key], **arguments: object
) -> Mapping[Key, Any]:
    found: dict[Key, Any] = {}
    origin: dict[Key, str] = {}
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        for value in implementation.function(**{n: arguments[n] for n in implementation.argnames}):
            if key(value) in found:
                raise KdiffError(
                    "plugin.repeated",
                    f"{hook}: {key(value)!r} is provided by both {origin[key(value)]}"
                    f" and {implementation.plugin_name}",
                    remedy="uninstall one of them or name it in KDIFF_DISABLE_PLUGINS",
                )
            found[key(value)] = value
            origin[key(value)] = implementation.plugin_name
    return MappingProxyType(found)

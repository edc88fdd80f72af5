# SPDX-License-Identifier: Apache-2.0
"""The memory that each unit of an update is matched against: the kernel's, or that of a module's file.

In: the memory of the kernel, and the CONFDIR that tells where its modules are. Out: a memory by target, and
refusals where nobody can say what runs. A module of which a live patch has replaced functions in that kernel
is laid out where the kernel has it, since the newest code refers to it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from kdiff.addressbook import KERNEL
from kdiff.arch import Architecture
from kdiff.confdir import Config
from kdiff.elf.read import Object
from kdiff.errors import KdiffError, Refusal
from kdiff.exports import Export
from kdiff.loaded import LoadedModule, load
from kdiff.memory import MemorySource
from kdiff.module_files import contents, module_files
from kdiff.plan import Plan
from kdiff.redirected import redirected


class Targets:
    """The kernel and those of its modules that were asked for, each laid out once."""

    def __init__(
        self,
        config: Config,
        kernel: MemorySource,
        exports: Mapping[str, Export],
        architecture: Callable[[Object], Architecture],
    ) -> None:
        self._config, self._kernel, self._exports = config, kernel, exports
        self._architecture = architecture
        self._loaded: dict[str, LoadedModule] = {}

    def memory(self, target: str) -> MemorySource:
        """Where code of `target` is; KdiffError `module.*` if the module is missing or cannot be used."""
        return self.module(target) or self._kernel

    def module(self, target: str) -> LoadedModule | None:
        """The same, None for the kernel."""
        if target == KERNEL:
            return None
        if target not in self._loaded:
            data, path = self._file(target)
            self._loaded[target] = load(
                self._kernel,
                target,
                data,
                path,
                self._architecture,
                self._exports,
                self._file,
                in_use=target in self._patched,
            )
        return self._loaded[target]

    def _file(self, name: str) -> tuple[bytes, str]:
        if name not in self._files:
            raise KdiffError(
                "module.missing",
                f"module {name} is not among the modules of this kernel",
                place=str(self._tree),
                remedy=f"let {self._config.directory / 'modules'} be the /lib/modules/{self._config.release}"
                " of the kernel's package",
            )
        return contents(self._files[name]), self._files[name]

    @cached_property
    def _patched(self) -> frozenset[str]:
        """The owners of functions that live patches have replaced."""
        book = self._kernel.address_book()
        return frozenset(each.owner for address in redirected(self._kernel) for each in book.at(address))

    @cached_property
    def _tree(self) -> Path:
        """Where the modules are: beside the configuration, beside its image, or installed."""
        config = self._config
        image = (config.directory / "vmlinuz").resolve()
        places = (
            config.directory / "modules",
            image.parent.parent / "lib/modules" / config.release,
            Path("/lib/modules") / config.release,
        )
        return next((each for each in places if each.is_dir()), places[0])

    @cached_property
    def _files(self) -> Mapping[str, str]:
        return module_files(self._tree)


def review_stacking(plan: Plan, kernel: MemorySource) -> Iterator[Refusal]:
    """Refuse changes of a module if a live patch has replaced a function, and nobody tells of what module."""
    if plan.target == KERNEL or not plan.replaced:
        return
    book = kernel.address_book()
    for address in redirected(kernel):
        if not book.at(address):
            yield Refusal(
                "bind.module_stacked", plan.pre.obj.path,
                f"a live patch has replaced a function at {address:#x}, where the kernel's list has none: it"
                f" may be one of module {plan.target}",
                "undo that live patch, and make one update of both patches",
            )  # fmt: skip

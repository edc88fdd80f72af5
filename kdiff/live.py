# SPDX-License-Identifier: Apache-2.0
"""A kernel that has run, seen from outside: in a dump, or in a machine that a debugger holds.

In: a reader of virtual addresses, and what is mapped where the kernel's own code and data may lie. Out: a
`MemorySource`. Nothing says where the kernel is: its symbol table does, which is found by its content, and
which the kernel has moved along with itself (KASLR). So every address is that of this boot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from kdiff.addressbook import AddressBook
from kdiff.arch import Architecture, ByteOrder
from kdiff.errors import KdiffError
from kdiff.kallsyms import decode
from kdiff.kernel import KernelFacts
from kdiff.memory import Extent
from kdiff.module_symbols import module_symbols
from kdiff.observe import observe

Read = Callable[[int, int], bytes | None]

_MOST_TRIES = 16
"""Of what is mapped in pieces, the largest hold the kernel's constants."""


class LiveKernel:
    """Satisfies `MemorySource`.

    `image`: what is mapped where the kernel may lie, in order of address.
    """

    def __init__(
        self,
        name: str,
        read: Read,
        image: Sequence[Extent],
        architecture: Architecture | None,
        order: ByteOrder = "little",
    ) -> None:
        self.name = name
        self.pristine = False
        self.read = read
        self._image = tuple(image)
        self._architecture = architecture
        self._order: ByteOrder = order

    def extents(self) -> tuple[Extent, ...]:
        """Where the kernel's own code and data lie."""
        return self._image

    def address_book(self) -> AddressBook:
        """The kernel's symbols, then those of its modules where it describes them; KdiffError `memory.*`."""
        return self._book

    def facts(self) -> KernelFacts:
        """What memory says."""
        return self._facts

    @cached_property
    def _contents(self) -> tuple[tuple[Extent, bytes], ...]:
        found = ((each, self.read(each.address, each.size)) for each in self._image)
        return tuple((each, data) for each, data in found if data is not None)

    @cached_property
    def _own(self) -> AddressBook:
        failure: KdiffError | None = None
        for each, data in sorted(self._contents, key=lambda found: -found[0].size)[:_MOST_TRIES]:
            try:
                return decode(data, each.address, self._order)
            except KdiffError as error:
                failure = failure or error
        raise KdiffError(
            "memory.no_kernel",
            "no kernel with a symbol table was found in this memory",
            place=self.name,
            remedy="take the memory of a machine whose kernel has started and has CONFIG_KALLSYMS",
        ) from failure

    @cached_property
    def _facts(self) -> KernelFacts:
        memory = (data for _, data in self._contents)
        return observe(self.read, self._own, self._architecture, self._order, memory)

    @cached_property
    def _book(self) -> AddressBook:
        modules = module_symbols(self.read, self._own, self._facts.structures, self._order)
        return self._own.joined(modules or ())

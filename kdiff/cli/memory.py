# SPDX-License-Identifier: Apache-2.0
"""Say which kernel a memory holds, where it is, and what it lists."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping

from kdiff import registry
from kdiff.addressbook import KERNEL
from kdiff.errors import EXIT_DONE
from kdiff.memory import MemorySource

_START = ("_text", "_stext")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("memory", metavar="SCHEME:WHAT", help="see --memory of `kdiff match`")


def run(args: argparse.Namespace) -> int:
    """Print what is known; an error only if the memory cannot be read."""
    found = describe(registry.load().open_memory(args.memory))
    print(json.dumps(found, indent=2) if args.json else "\n".join(_lines(found)))
    return EXIT_DONE


def describe(memory: MemorySource) -> dict[str, object]:
    """All that a person asks first of a dump or an image."""
    book, facts = memory.address_book(), memory.facts()
    owners = Counter(owner for _, _, _, owner in book.lines())
    return {
        "memory": memory.name,
        "release": facts.release,
        "version": facts.version,
        "machine": facts.machine,
        "build_id": facts.build_id,
        "pristine": memory.pristine,
        "text": next((book.address(name) for name in _START if book.address(name) is not None), None),
        "extents": [[each.address, each.size] for each in memory.extents()],
        "symbols": owners.pop(KERNEL, 0),
        "modules": dict(sorted(owners.items())),
        "structures": len(facts.structures),
    }


def _lines(found: Mapping[str, object]) -> Iterator[str]:
    text, extents, modules = found["text"], found["extents"], found["modules"]
    assert isinstance(extents, list)
    assert isinstance(modules, dict)
    yield f"memory    {found['memory']}"
    yield f"version   {found['version'] or 'unknown'}"
    yield f"machine   {found['machine'] or 'unknown'}"
    yield f"build id  {found['build_id'] or 'none'}"
    yield f"state     {'nothing has run yet' if found['pristine'] else 'has run'}"
    yield f"text at   {text:#x}" if isinstance(text, int) else "text at   unknown"
    for address, size in extents:
        yield f"memory at {address:#x}, {size >> 10} KiB"
    yield f"symbols   {found['symbols']}, and {sum(modules.values())} of {len(modules)} modules"
    yield f"types     {found['structures']} structures"

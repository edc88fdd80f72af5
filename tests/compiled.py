# SPDX-License-Identifier: Apache-2.0
"""C for tests, compiled as the kernel compiles it, and its graph.

    before, after = graph("int f(void) { return 1; }"), graph("int f(void) { return 2; }")

Each text is compiled once per run. `WHOLE` leaves functions in one section, as a kernel is built; without it
each has its own, as pre and post objects are built.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff.correlate import correlate
from kdiff.diff import Change, Delta, diff
from kdiff.elf.read import Object, read_bytes
from kdiff.graph import Node, SectionGraph, build
from kdiff.kernel import SpecialSection
from kdiff.plan import Plan, plan

FLAGS = (
    *("-O2", "-ffreestanding", "-std=gnu11", "-w", "-fno-common", "-fno-strict-aliasing"),
    *("-mcmodel=kernel", "-fno-pic", "-fno-pie", "-mno-red-zone", "-mno-sse", "-mno-mmx", "-mno-80387"),
    *("-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-fno-stack-protector"),
)
SECTIONS = ("-ffunction-sections", "-fdata-sections")
WHOLE = "whole"
"""In place of options: without function and data sections."""
ASSEMBLY = "assembly"
"""In place of options: the text is for the assembler."""


@cache
def compiled(text: str, *options: str) -> bytes:
    """The object's bytes."""
    language = "assembler" if ASSEMBLY in options else "c"
    chosen = () if WHOLE in options else SECTIONS
    extra = [each for each in options if each not in (WHOLE, ASSEMBLY)]
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "unit.o"
        command = ["gcc", *FLAGS, *chosen, *extra, "-x", language, "-c", "-o", str(path), "-"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        assert not done.returncode, done.stderr.decode()
        return path.read_bytes()


def obj(text: str, *options: str) -> Object:
    return read_bytes(compiled(text, *options), "unit.o")


def graph_of(data: bytes, special: Iterable[SpecialSection] = ()) -> SectionGraph:
    return build(read_bytes(data, "unit.o"), ARCHITECTURE, {row.name: row for row in special})


def graph(text: str, *options: str, special: Iterable[SpecialSection] = ()) -> SectionGraph:
    return graph_of(compiled(text, *options), special)


def named(graph: SectionGraph, name: str) -> Node:
    """The only node of that name."""
    (found,) = (node for node in graph.nodes if name in node.names)
    return found


def delta(pre: SectionGraph, post: SectionGraph) -> Delta:
    return diff(pre, post, correlate(pre, post))


def changes(pre: SectionGraph, post: SectionGraph) -> dict[str, Change]:
    """What changed, by label in the post graph."""
    return {post.nodes[change.post].label: change for change in delta(pre, post).changed}


def planned(pre: SectionGraph, post: SectionGraph) -> Plan:
    pairing = correlate(pre, post)
    return plan(pre, post, pairing, diff(pre, post, pairing), "vmlinux")


def labels(graph: SectionGraph, ids: Iterable[int]) -> list[str]:
    return sorted(graph.nodes[index].label for index in ids)

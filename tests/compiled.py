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
from kdiff_kernel_linux import kdiff_habits

from kdiff.correlate import correlate
from kdiff.diff import Change, Delta, diff
from kdiff.elf.read import Object, read_bytes
from kdiff.graph import Node, SectionGraph, build
from kdiff.habits import Habits
from kdiff.kernel import KernelFacts, SpecialSection
from kdiff.plan import Plan, plan

FLAGS = (
    *("-O2", "-ffreestanding", "-std=gnu11", "-w", "-fno-common", "-fno-strict-aliasing"),
    *("-mcmodel=kernel", "-fno-pic", "-fno-pie", "-mno-red-zone", "-mno-sse", "-mno-mmx", "-mno-80387"),
    *("-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-fno-stack-protector"),
)
SECTIONS = ("-ffunction-sections", "-fdata-sections")
HABITS = Habits(kdiff_habits(KernelFacts(machine="x86_64")))
"""What names in the kernel's own objects mean."""
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
    rows = {row.name: row for row in special}
    return build(read_bytes(data, "unit.o"), ARCHITECTURE, rows, HABITS)


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


UNIT = """
int printk(const char *, ...);
extern int limit, gauge[8];
int other(int);
int weak_one(int a);
static int hits;
int counter = 5;
static const char *const names[] = {"one", "two", "three"};
static const unsigned short primes[] = {2, 3, 5, 7, 11, 13};
static __attribute__((noinline)) int helper(int a) { return a * limit + hits++; }
static __attribute__((noinline)) int tail(int a) { hits += a; return helper(a + 1); }
__attribute__((weak)) int weak_one(int a) { return a ^ 0x55; }
int choose(int a)
{
    switch (a) {
    case 0: return other(1);
    case 1: return primes[limit % 6];
    case 2: printk("case %d", a); return 9;
    case 3: return limit;
    case 4: return gauge[3];
    case 5: gauge[2] = 77; return 1;
    default: return tail(a);
    }
}
int entry(int a)
{
    static int calls;
    calls++;
    if (__builtin_expect(a < 0, 0)) {
        printk("%s: negative", __func__);
        return other(a) + weak_one(a);
    }
    printk("%s: %s", __func__, names[a]);
    return helper(a) + tail(a + 1) + counter;
}
struct ops { int (*entry)(int); int (*choose)(int); const char *name; };
struct ops table = {entry, choose, "table"};
"""
"""A unit with a bit of everything: strings, tables, static variables, tail calls, a switch, pointers."""

REST = """
int limit = 7, gauge[8];
int other(int a) { return a + 1; }
int printk(const char *f, ...) { return f[0]; }
int weak_one(int a) { return a; }
"""
"""The rest of the kernel."""

_INSIDE = """
.section .text.f,"ax"
.type f,@function
.globl f
f: mov ${},%eax
mov $inside,%rcx
ret
.size f,.-f
.section .text.g,"ax"
.type g,@function
g: jmp h
inside: inc %eax
ret
.size g,.-g
.section .text.h,"ax"
.type h,@function
h: ret
.size h,.-h
"""
"""`f` refers to the inside of `g`, whose jump to `h` is shorter where all share a section."""


def inside(number: int) -> bytes:
    """That code with function sections; `number` is an operand of `f`."""
    return compiled(_INSIDE.format(number), ASSEMBLY)


def inside_whole(number: int) -> bytes:
    """The same code without."""
    text = _INSIDE.format(number)
    for name in "fgh":
        text = text.replace(f".section .text.{name},", ".section .text,")
    return compiled(text, ASSEMBLY)

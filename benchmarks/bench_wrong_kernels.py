# SPDX-License-Identifier: Apache-2.0
"""Objects of one kernel against the image of another: what differs is refused, and the rest is matched?

The objects that bench_coverage.py has built for the newest kernel are matched against images of other point
releases of the same series. Who is right is decided without kdiff's matcher: capstone disassembles the
function in both images, addresses become names (of kallsyms, or the text they point to), and both texts are
compared. A function that matches although the texts differ is a wrong accept; one that does not although
they are equal is a wrong refusal. A few units are also compiled with other options, by other compilers and
with an option of the configuration off, and matched against their own kernel; there judges.py says which
functions are the same.

    python benchmarks/bench_wrong_kernels.py [--kernel 6.1.0-47-amd64 ...] [--sample 150] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import judges
from kdiff_distro_debian import apt, layout
from words import FARTHEST, Image, numbers_differ, same

from kdiff import registry, setup
from kdiff.addressbook import KERNEL
from kdiff.buildtree import BuiltUnit, built_units
from kdiff.confdir import read_config
from kdiff.distribution import KernelSetup
from kdiff.elf.read import Object, read
from kdiff.graph import Node, SectionGraph
from kdiff.kbuild import pristine_units
from kdiff.matchable import graph_to_match
from kdiff.running import find_memory
from kdiff.sites import sites
from kdiff.solve import RunMatch, solve
from kdiff.split import Kind
from kdiff.verdict import Match

OTHERS = ("6.1.0-47-amd64", "6.1.0-50-amd64", "6.1.0-53-amd64", "6.1.0-54-amd64", "6.1.0-55-amd64")
ALWAYS = "drivers/pci/probe.c"
"""Compiled otherwise whatever is drawn: it has copies of functions that many units have copies of."""
WAYS: Mapping[str, tuple[str, str]] = {
    "with -O1": ("KCFLAGS=-O1", ""),
    "with -Os": ("KCFLAGS=-Os", ""),
    "with -O3": ("KCFLAGS=-O3", ""),
    "with -fno-stack-protector": ("KCFLAGS=-fno-stack-protector", ""),
    "without CONFIG_MEMCG": ("", "CONFIG_MEMCG"),
    "by gcc-11": ("CC=gcc-11", ""),
    "by clang-14": ("CC=clang-14", ""),
}
"""Other ways to compile: what CONFDIR/flags says, and an option that is not set."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kernel", action="append", help="ABI of another kernel (repeatable)")
    parser.add_argument(
        "--way", action="append", choices=WAYS, help="compile otherwise in this way alone (repeatable)"
    )
    parser.add_argument("--built", type=int, default=12, help="how many units are compiled otherwise")
    parser.add_argument("--sample", type=int, default=150, help="how many units")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    given = parser.parse_args()
    plugins = registry.load()
    abi = setup.distribution(plugins).newest()
    made = setup.make(plugins, setup.choose(plugins, abi, None), say)
    ours = Image(plugins.open_memory(find_memory(read_config(made.config))))
    everywhere = [
        u for u in built_units(setup.cache() / "coverage" / abi) if u.part_of == KERNEL and u.source
    ]
    units = random.Random(given.seed).sample(everywhere, min(given.sample, len(everywhere)))
    facts = ours.memory.facts()
    special, habits = plugins.special_sections(facts), plugins.habits(facts)

    def made_of(obj: Object) -> SectionGraph:
        arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
        return graph_to_match(obj, arch, special, habits)

    results = []
    for other in given.kernel or OTHERS:
        theirs = Image(plugins.open_memory(f"image:{image_of(other)}"))
        version = theirs.memory.facts().version.rpartition("Debian ")[2].partition(" ")[0]
        title = f"objects of {abi} against {other} ({version})"
        graphs = ((unit.source, made_of(read(unit.path))) for unit in units)
        verdicts = ((source, judged(graph, ours, theirs)) for source, graph in graphs)
        results.append(told(title, len(units), verdicts))
    for way in given.way or WAYS:
        few = [unit for unit in everywhere if source_of(unit) == ALWAYS]
        few += [unit for unit in units[: given.built] if unit not in few]
        built = otherwise(made, way, [source_of(unit) for unit in few])
        pairs = [(unit.path, built[source_of(unit)]) for unit in few if source_of(unit) in built]
        verdicts = (
            (str(path), compiled_otherwise(path, other, made_of(read(other)), ours)) for path, other in pairs
        )
        results.append(told(f"objects compiled {way} against their own kernel", len(built), verdicts))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    return 1 if any(each["wrong"] for each in results) else 0


CONFIRMED_BY_REFUSED = "refused, since what it refers to is confirmed by refused functions only"
Verdict = tuple[str, str, str]
"""(verdict, function, reason)"""


def told(title: str, units: int, verdicts: Iterable[tuple[str, Iterable[Verdict]]]) -> dict[str, Any]:
    """Print what became of all functions; the same for programs."""
    counts: Counter[str] = Counter()
    wrong = []
    start = time.process_time()
    for source, found in verdicts:
        for verdict, name, why in found:
            counts[verdict] += 1
            if verdict.startswith("WRONG"):
                wrong.append(f"{source}: {name}: {verdict[7:]}{why}")
    print(f"{title}, {units} units, {time.process_time() - start:.1f} s CPU:")
    for verdict, number in sorted(counts.items()):
        print(f"  {number:>6} {verdict}")
    for line in wrong[:40]:
        print(f"    {line}")
    return {"title": title, "units": units, "counts": dict(counts), "wrong": wrong}


def source_of(unit: BuiltUnit) -> str:
    return f"{unit.name.removesuffix('.o')}.c"


def otherwise(made: KernelSetup, way: str, sources: list[str]) -> dict[str, Path]:
    """Units compiled in another way, by source."""
    flags, option = WAYS[way]
    folder = setup.cache() / "other-flags" / re.sub(r"\W+", "-", way).strip("-")
    confdir = folder / "config"
    confdir.mkdir(parents=True, exist_ok=True)
    for each in made.config.iterdir():
        if each.name not in ("flags", ".config") and not (confdir / each.name).exists():
            (confdir / each.name).symlink_to(each)
    (confdir / "flags").write_text(f"{flags}\n")
    text = (made.config / ".config").read_text()
    if option:
        text, number = re.subn(rf"^{option}=y$", f"# {option} is not set", text, flags=re.MULTILINE)
        assert number == 1, option
    if flags.startswith("CC="):
        version = subprocess.run([flags[3:], "--version"], capture_output=True, text=True, check=True).stdout
        told = f'CONFIG_CC_VERSION_TEXT="{version.splitlines()[0]}"'
        text = re.sub(r"^CONFIG_CC_VERSION_TEXT=.*$", told, text, flags=re.MULTILINE)
    (confdir / ".config").unlink(missing_ok=True)
    (confdir / ".config").write_text(text)
    found = {}
    for unit in pristine_units(read_config(confdir), made.source, sources, say=say):
        path = folder / unit.source.replace("/", "!").replace(".c", ".o")
        path.write_bytes(unit.pre)
        found[unit.source] = path
    return found


def compiled_otherwise(own: Path, other: Path, graph: SectionGraph, ours: Image) -> Iterator[Verdict]:
    """Hold what matches against which functions of the two objects are the same (judges.py)."""
    differing, equal = judges.objects(own, other)
    run = solve(graph, sites(graph), ours.memory, ours.book)
    parts: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.kind is Kind.FUNCTION and not graph.is_piece(node) and not node.weak:
            parts.setdefault(judges.canonical(node.name), []).append(node)
    for name, nodes in parts.items():
        if name not in differing | equal:
            continue
        matches = [run.matches.get(node.id) for node in nodes]
        accepted = all(found is not None and not run.unconfirmed(found) for found in matches)
        if name in differing:
            yield ("WRONG: matched, and not the same" if accepted else "refused, and not the same"), name, ""
        elif accepted:
            yield "matched, and the same", name, ""
        else:
            left = {node.id: run.open[node.id] for node in nodes if node.id in run.open}
            if not left and any(found is not None and run.unconfirmed(found) for found in matches):
                yield CONFIRMED_BY_REFUSED, name, ""
                continue
            if left and all(goes_on(node, ours, graph) for node in nodes if node.id in left):
                yield "refused, since code without a name lies behind it", name, ""
                continue
            why = "; ".join(f"{refusal.key} {refusal.reason}" for refusal in left.values())
            ambiguous = [graph.nodes[i] for i, refusal in left.items() if refusal.key == "solve.ambiguous"]
            if (
                ambiguous
                and len(ambiguous) == len(left)
                and all(equal_copies(run, n, ours) > 1 for n in ambiguous)
            ):
                yield "refused, one of several equal functions that nothing tells apart", name, ""
            else:
                yield "WRONG: refused, and the same", name, f": {why}"


def goes_on(node: Node, ours: Image, graph: SectionGraph) -> bool:
    """Whether something else than padding lies behind the only function of this name, up to the next one.

    Who compiles its neighbours otherwise cannot tell that what lies there is one of them.
    """
    places = {entry.address for name in node.names for entry in ours.book.named(name)}
    return len(places) == 1 and not ours.ends(places.pop() + node.size, graph.arch)


def equal_copies(run: RunMatch, node: Node, ours: Image) -> int:
    """How many functions of this name read alike, at most; 0 if something tells which it is.

    What tells equal code apart is who refers to it, and what lies on both sides of it. (One side says
    nothing: there another unit's copy may begin.)
    """
    places = sorted({entry.address for name in node.names for entry in ours.book.named(name)})
    words = [ours.words(at, node.size) for at in places]
    texts = max(([each for each in words if same(one, each)] for one in words), key=len, default=[])
    found = [each for each in run.matches.values() if run.graph.nodes[each.node].kind is Kind.FUNCTION]
    told = any(fact.node == node.id for each in found for fact in each.facts) or any(
        any(0 <= at - each.address - each.size < FARTHEST for each in found)
        and any(0 <= each.address - at - node.size < FARTHEST for each in found)
        for at in places
    )
    return 0 if told else len(texts)


def judged(graph: SectionGraph, ours: Image, theirs: Image) -> Iterator[Verdict]:
    """(verdict, function, reason) for each function that the objects' own kernel has."""
    here = solve(graph, sites(graph), ours.memory, ours.book)
    there = solve(graph, sites(graph), theirs.memory, theirs.book)
    for index, match in sorted(here.matches.items()):
        node = graph.nodes[index]
        if node.kind is not Kind.FUNCTION or graph.is_piece(node):
            continue
        places = {e.address for name in node.names for e in theirs.book.named(name)}
        found = there.matches.get(index)
        unsure = found is not None and bool(there.unconfirmed(found))
        broken = any(each.key in ("solve.contradiction", "solve.kallsyms") for each in there.refusals)
        exact = found is None or unsure
        mine = ours.words(match.address, match.size, exact)
        equal = {
            at
            for at in places
            if same(mine, theirs.words(at, match.size, exact))
            and (not exact or theirs.ends(at + match.size, graph.arch))
        }
        if found is not None and not unsure:
            if found.address not in equal and node.is_fragment and there.refusals:
                yield "matched, the unlikely part of a function that is refused", node.label, ""
            elif found.address in equal:
                yield "matched, and the same", node.label, ""
            elif broken:
                yield "refused, and not the same", node.label, ""
            else:
                yield "WRONG: matched, and not the same", node.label, f" at {found.address:#x}"
        elif not equal:
            yield "refused, and not the same", node.label, ""
        elif len(places) > 1:
            yield "refused, several of this name", node.label, ""
        elif numbers_differ(mine, theirs.words(min(equal), match.size, exact)):
            yield "refused, since the kernel has other numbers where it refers to", node.label, ""
        else:
            open_ = there.open.get(index)
            why = f": {open_.key} {open_.reason}" if open_ else ""
            if index in here.matches and here.unconfirmed(here.matches[index]):
                yield (
                    "refused, since nothing confirms what it refers to, in its own kernel neither",
                    node.label,
                    "",
                )
            elif there.refusals and not open_:
                yield CONFIRMED_BY_REFUSED, node.label, ""
            elif found is not None and all(
                fact.node is not None
                and fact.node in here.matches
                and texts_differ(
                    graph.nodes[fact.node].size, ours, here.matches[fact.node], theirs, fact.address
                )
                for fact in there.unconfirmed(found)
            ):
                yield "refused, since a constant that it refers to is another one there", node.label, ""
            else:
                yield "WRONG: refused, and the same", node.label, why


def texts_differ(size: int, ours: Image, mine: Match, theirs: Image, place: int) -> bool:
    """Whether two tables of pointers lead to texts one of which differs."""
    tables = ours.memory.read(mine.address, size), theirs.memory.read(place, size)
    pairs = zip(*(memoryview(each or b"")[: size // 8 * 8].cast("Q") for each in tables), strict=True)
    texts = ((ours.memory.read(one, 64), theirs.memory.read(other, 64)) for one, other in pairs)
    return any(
        one is not None and other is not None and one.partition(b"\0")[0] != other.partition(b"\0")[0]
        for one, other in texts
    )


@cache
def image_of(abi: str) -> Path:
    """The image of a kernel, from its package; kept in the cache."""
    folder = setup.cache() / "other-kernels" / abi
    image = folder / "root/boot" / f"vmlinuz-{abi}"
    if not image.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file = apt.download(apt.candidate(f"linux-image-{abi}"), folder, say)
        layout.unpack((file,), folder, say)
    return image


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

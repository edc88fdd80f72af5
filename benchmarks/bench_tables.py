# SPDX-License-Identifier: Apache-2.0
"""Are the tables of kernel objects cut right, and does an extract hold the entries it must?

Every entry's owner is found again by pyelftools, which shares no code with kdiff: through the relocation
where the owner must be named, and the function that holds the place it names. Each object must be the same as
itself. With `--pairs FILE`, a line each `PRE.o POST.o`, extracts are made and read again: they must hold the
entries of what is carried, each with its owner, and no others.

    python benchmarks/bench_tables.py OBJECT|DIRECTORY ... [--pairs FILE]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from kdiff import registry
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.elf.read import Object, read, read_bytes
from kdiff.elf.write import write
from kdiff.errors import Refused
from kdiff.extract import extract
from kdiff.graph import Node, SectionGraph, build
from kdiff.kernel import Keep, KernelFacts
from kdiff.plan import plan

Rows = Counter[tuple[str, str]]
"""(table, owner) of entries."""


class Bench:
    """Counts what was seen, and says what is wrong at once."""

    def __init__(self) -> None:
        self._plugins = registry.load()
        self.checked: Counter[str] = Counter()
        self.wrong = 0

    def graph(self, obj: Object) -> SectionGraph:
        arch = self._plugins.architecture(obj.machine, obj.byte_order, obj.path)
        facts = KernelFacts(machine=arch.name)
        return build(obj, arch, self._plugins.special_sections(facts), self._plugins.habits(facts))

    def object(self, path: Path) -> None:
        graph = self.graph(read(path))
        delta = diff(graph, graph, correlate(graph, graph))
        named = [i for i in (*delta.added, *delta.removed) if graph.nodes[i].names]
        if delta.changed or named:
            self._complain(f"{path}: not the same as itself")
        other = SecondReader(path)
        for node in graph.nodes:
            table = node.table
            if table is None or table.keep is not Keep.OWNER:
                continue
            if table.opaque or not table.entry_size:
                self._complain(f"{path}: {node.section_name} is opaque: {table.opaque}")
            elif table.owner is not None:
                for start in range(0, node.size, table.entry_size):
                    self._owner(graph, node, start, table.owner, other)

    def _owner(self, graph: SectionGraph, node: Node, start: int, at: int, other: SecondReader) -> None:
        back = at if node.table is not None and node.table.from_start else 0
        names = other.functions(node.section, node.start + start + at, back)
        owner = graph.owners.get(node.id)
        if owner is None or (names and not names & set(graph.nodes[owner].names)):
            self._complain(f"{graph.obj.path}: {node.label} is about {names}, not {owner}")
        self.checked[node.section_name if names else "of data, or of a place between functions"] += 1

    def pair(self, pre: Path, post: Path) -> None:
        before, after = self.graph(read(pre)), self.graph(read(post))
        pairing = correlate(before, after)
        made = plan(before, after, pairing, diff(before, after, pairing), "")
        if not made.carried:
            return
        try:
            found = self.graph(read_bytes(write(extract(made).obj), "extract"))
        except Refused:
            return
        wanted, got = _rows(after, set(made.carried)), _rows(found, None)
        if wanted != got:
            self._complain(f"{pre} {post}: lacks {dict(wanted - got)}, has {dict(got - wanted)} too")
        self.checked["in extracts"] += wanted.total()

    def _complain(self, what: str) -> None:
        self.wrong += 1
        print(f"WRONG {what}", flush=True)


class SecondReader:
    """Functions and relocations of an object, by pyelftools."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            elf = ELFFile(file)
            table: Any = elf.get_section_by_name(".symtab")
            self._symbols = [(s["st_shndx"], s["st_value"], s) for s in table.iter_symbols()]
            self._records: dict[int, dict[int, tuple[int, int]]] = {}
            for section in elf.iter_sections("SHT_RELA"):
                found = self._records.setdefault(section["sh_info"], {})
                for each in section.iter_relocations():
                    found.setdefault(each["r_offset"], (each["r_info_sym"], each["r_addend"]))

    def functions(self, section: int, offset: int, back: int) -> set[str]:
        """The functions at the place that a relocated field names."""
        symbol, addend = self._records[section][offset]
        home, value, _ = self._symbols[symbol]
        at = value + addend - back
        return {
            each.name
            for index, start, each in self._symbols
            if index == home and each["st_info"]["type"] == "STT_FUNC" and 0 <= at - start < each["st_size"]
        }


def _rows(graph: SectionGraph, carried: set[int] | None) -> Rows:
    owned = ((graph.nodes[entry], owner) for entry, owner in graph.owners.items())
    return Counter(
        (node.section_name, graph.nodes[owner].name)
        for node, owner in owned
        if node.table is not None and node.table.keep is Keep.OWNER
        if carried is None or owner in carried
        for _ in range(0, node.size, node.table.entry_size or node.size)
    )


def _objects(places: list[Path]) -> Iterator[Path]:
    for place in places:
        yield from sorted(place.rglob("*.o")) if place.is_dir() else [place]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("objects", nargs="*", type=Path)
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="a line each: PRE.o POST.o")
    given = parser.parse_args()
    bench, objects = Bench(), list(_objects(given.objects))
    for path in objects:
        bench.object(path)
    pairs = given.pairs.read_text().splitlines() if given.pairs else []
    for line in pairs:
        pre, post = line.split()
        bench.pair(Path(pre), Path(post))
    for name, count in sorted(bench.checked.items()):
        print(f"{count:8} {name}")
    print(f"{len(objects)} objects, {len(pairs)} pairs, {bench.wrong} wrong")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""Compare two relocatable objects: what is the same, changed (and why), added, removed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from kdiff import registry
from kdiff.cli.delta import as_json, is_listed
from kdiff.cli.main import keep_memory
from kdiff.compare import Comparer
from kdiff.correlate import Pairing
from kdiff.diff import Delta
from kdiff.elf.read import read
from kdiff.errors import EXIT_DONE, EXIT_NOTHING_CHANGED, EXIT_REFUSED, KdiffError, Refusal
from kdiff.graph import SectionGraph
from kdiff.kernel import KernelFacts
from kdiff.pairs import read_pairs
from kdiff.plan import Plan
from kdiff.review import review
from kdiff.review_sections import opaque_tables, unknown_sections
from kdiff.review_types import retyped, review_types


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("pre", type=Path, metavar="PRE.o", help="the object built before the patch")
    parser.add_argument("post", type=Path, nargs="?", metavar="POST.o", help="the object built after it")
    parser.add_argument("--batch", action="store_true", help="PRE.o is a list of pairs, a line each")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="compare N pairs at a time")
    parser.add_argument("--same", action="store_true", help="list what is the same, too")
    parser.add_argument("--why", metavar="NAME", help="explain what happens to one function or variable")
    parser.add_argument("--extract", type=Path, metavar="OUT.o", help="write what an update would hold")
    parser.add_argument(
        "--accept-layout", action="append", default=[], metavar="NAME", help="let this type's layout change"
    )
    parser.add_argument(
        "--facts", type=Path, metavar="FILE", help="what is known of the kernel: TOML or JSON"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page")
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="pairs to make or never to make: TOML")


def run(args: argparse.Namespace) -> int:
    """Print the delta; exit 0, 66 if there is nothing to do, 3 if the change must not be patched live."""
    keep_memory()
    plugins = registry.load()
    compare = Comparer(plugins, _facts(args.facts))
    if args.batch or args.pre.is_dir():
        from kdiff.cli.batch import run_batch

        return run_batch(args, compare)
    if args.post is None:
        raise KdiffError("diff.pairs", "there is only one object", remedy="name PRE.o and POST.o")
    pairs = read_pairs(args.pairs) if args.pairs else None
    before = read(args.pre)
    whole = bool(args.why or args.same or args.html)
    planned = compare(before, read(args.post, before), whole, pairs)
    pre, post, delta, pairing = planned.pre, planned.post, planned.delta, planned.pairing
    if args.why:
        return _why(planned, args.why, args.json)
    types = retyped((planned,) if planned.replaced or planned.in_place else ())
    for line in types.notes:
        print(line, file=sys.stderr)
    refusals = (*review(planned), *review_types(types, args.accept_layout))
    shown = as_json(planned, args.same)
    unknown = sorted({*unknown_sections(pre), *unknown_sections(post)})
    opaque = sorted({*opaque_tables(pre), *opaque_tables(post)})
    shown["unsure"] = list(_unsure(pre, post, pairing))
    shown["unknown_sections"] = unknown
    shown["opaque_tables"] = [{"name": name, "reason": why} for name, why in opaque]
    shown["in_place"], in_place = _in_place(planned)
    shown["refusals"] = [
        {"key": each.key, "place": each.place, "reason": each.reason, "remedy": each.remedy}
        for each in refusals
    ]
    notes = []
    if args.html:
        notes.append(_write_page(planned, refusals, args.html))
    if args.extract and not refusals:
        shown["extract"], said = _write_extract(planned, args.extract)
        notes += said
    if args.json:
        print(json.dumps(shown, indent=2))
    else:
        _print(pre, post, delta, args.same)
        for line in (*in_place, *_unsure_lines(pre, post, pairing)):
            print(line)
        for section in unknown:
            print(f"unknown  {section}: no plugin says what this section is; it counts as data")
        for table, why in opaque:
            print(f"opaque   {table}: {why}; it is compared as a whole")
        for each in refusals:
            print(f"refused  {each}")
            for line in each.details:
                print(f"         {line}")
        for note in notes:
            print(note)
    if refusals:
        return EXIT_REFUSED
    return EXIT_DONE if planned.replaced or planned.in_place else EXIT_NOTHING_CHANGED


def _facts(path: Path | None) -> KernelFacts:
    if path is None:
        return KernelFacts()
    from kdiff.factsfile import read_facts

    return read_facts(path)


def _in_place(planned: Plan) -> tuple[list[dict[str, object]], list[str]]:
    """What is written in place, as JSON and as lines."""
    if not planned.in_place:
        return [], []
    from kdiff.inplace_text import as_json, changes

    return [as_json(planned, each) for each in planned.in_place], [
        f"in place  {planned.post.nodes[each.post].label}: {'; '.join(changes(planned, each))}"
        for each in planned.in_place
    ]


# What may be asked for -------------------------------------------------------------------------------


def _why(planned: Plan, name: str, as_json: bool) -> int:
    from kdiff.dwarflines import source_lines
    from kdiff.evidence import Side
    from kdiff.why import Answer, why

    lines = (source_lines(graph.obj, graph.arch) for graph in (planned.pre, planned.post))
    answers = why(planned, name, *lines)
    if as_json:
        print(json.dumps({"why": [asdict(answer) for answer in answers]}, indent=2))
        return EXIT_DONE

    def side(title: str, found: Side) -> Iterator[str]:
        yield f"       {title:<5} {'  '.join(each for each in (found.place, found.source) if each)}"
        yield from (f"             {line}" for line in found.code)

    def text(answer: Answer) -> Iterator[str]:
        yield f"{answer.name} ({answer.kind}): {answer.fate}"
        for number, step in enumerate(answer.steps, start=1):
            yield f"  {number:>2}. {step.node}: {step.text}"
            for title, found in (("pre", step.before), ("post", step.after)):
                yield from side(title, found) if found is not None else ()

    for answer in answers:
        print("\n".join(text(answer)))
    return EXIT_DONE


def _write_page(planned: Plan, refusals: tuple[Refusal, ...], path: Path) -> str:
    from kdiff.dwarflines import source_lines
    from kdiff.object_file import write_whole
    from kdiff.page import page

    lines = (source_lines(graph.obj, graph.arch) for graph in (planned.pre, planned.post))
    write_whole(path, page(planned, refusals, *lines).encode("utf-8", "backslashreplace"))
    return f"page     {path}"


def _write_extract(planned: Plan, path: Path) -> tuple[dict[str, object] | None, list[str]]:
    """Write the object, if anything travels. What is written in place is not in it."""
    from kdiff.extract import extract
    from kdiff.object_file import save

    outside = [planned.post.nodes[each.post].label for each in planned.in_place]
    notes = [f"extract  not in the object, to be written in place: {', '.join(outside)}"] if outside else []
    if not planned.carried:
        return None, [*notes, f"extract  nothing travels: {path} is not written"]
    made = extract(planned)
    save(made.obj, path)
    sections = made.obj.sections
    shown: dict[str, object] = {
        "file": str(path),
        "sections": [
            {"name": each.name, "size": each.size, "relocations": len(each.relocations)} for each in sections
        ],
        "symbols": [
            {
                "name": each.name,
                "section": None if each.section is None else sections[each.section].name,
                "offset": each.value,
                "size": each.size,
                "global": bool(each.binding),
            }
            for each in made.obj.symbols
            if each.section is not None or each.reserved is not None
        ],
        "borrowed": [asdict(each) for each in made.borrowed],
        "in_place": outside,
    }
    note = f"extract  {path}: {len(sections)} sections, {len(made.borrowed)} borrowed symbols"
    return shown, [note, *notes]


# Printing --------------------------------------------------------------------------------------------


def _print(pre: SectionGraph, post: SectionGraph, delta: Delta, same: bool) -> None:
    if same:
        for index, _ in delta.same:
            if is_listed(pre.nodes[index]):
                print(f"same     {pre.nodes[index].label}")
    for change in delta.changed:
        node = post.nodes[change.post]
        if is_listed(node):
            causes = "; ".join(_cause(each.text, each.offset) for each in change.causes[:3])
            print(f"changed  {node.label}: {causes}")
    for index in delta.added:
        if is_listed(post.nodes[index]):
            print(f"added    {post.nodes[index].label}")
    for index in delta.removed:
        if is_listed(pre.nodes[index]):
            print(f"removed  {pre.nodes[index].label}")


def _cause(text: str, offset: int | None) -> str:
    return text if offset is None else f"{text} (+{offset:#x})"


def _unsure(pre: SectionGraph, post: SectionGraph, pairing: Pairing) -> Iterator[dict[str, object]]:
    """Pairs of things with a name for which another one would have fitted as well."""
    for post_id in sorted(pairing.by_post):
        pair = pairing.by_post[post_id]
        if not pair.sure and is_listed(post.nodes[post_id]):
            yield {
                "post": post.nodes[post_id].label,
                "pre": pre.nodes[pair.pre].label,
                "how": pair.how,
                "alternatives": [pre.nodes[each].label for each in pair.alternatives],
            }


def _unsure_lines(pre: SectionGraph, post: SectionGraph, pairing: Pairing) -> Iterator[str]:
    for post_id in sorted(pairing.by_post):
        pair = pairing.by_post[post_id]
        if not pair.sure and is_listed(post.nodes[post_id]):
            rest = ", ".join(pre.nodes[each].label for each in pair.alternatives)
            yield (
                f"unsure   {post.nodes[post_id].label}: taken for {pre.nodes[pair.pre].label} by {pair.how};"
                f" it may be {rest}"
            )

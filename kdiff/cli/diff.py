# SPDX-License-Identifier: Apache-2.0
"""Compare two relocatable objects: what is the same, changed (and why), added, removed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kdiff import registry
from kdiff.correlate import correlate
from kdiff.diff import Delta, diff
from kdiff.elf.read import read
from kdiff.errors import EXIT_DONE, EXIT_NOTHING_CHANGED, EXIT_REFUSED, KdiffError
from kdiff.graph import Node, SectionGraph, build
from kdiff.kernel import KernelFacts
from kdiff.plan import plan
from kdiff.review import review


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("pre", type=Path, metavar="PRE.o", help="the object built before the patch")
    parser.add_argument("post", type=Path, metavar="POST.o", help="the object built after it")
    parser.add_argument("--same", action="store_true", help="list what is the same, too")


def run(args: argparse.Namespace) -> int:
    """Print the delta; exit 0, 66 if no code or data changed, 3 if the change must not be patched live."""
    plugins = registry.load()
    pre, post = (_graph(plugins, path) for path in (args.pre, args.post))
    if pre.arch is not post.arch:
        raise KdiffError("diff.architecture", "built for another architecture", place=str(args.post))
    pairing = correlate(pre, post)
    delta = diff(pre, post, pairing)
    planned = plan(pre, post, pairing, delta, "")
    refusals = review(planned)
    if args.json:
        shown = _as_json(pre, post, delta)
        shown["refusals"] = [
            {"key": each.key, "place": each.place, "reason": each.reason} for each in refusals
        ]
        print(json.dumps(shown, indent=2))
    else:
        _print(pre, post, delta, args.same)
        for each in refusals:
            print(f"refused  {each}")
    if refusals:
        return EXIT_REFUSED
    return EXIT_DONE if planned.replaced else EXIT_NOTHING_CHANGED


def _graph(plugins: registry.Registry, path: Path) -> SectionGraph:
    obj = read(path)
    arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
    return build(obj, arch, plugins.special_sections(KernelFacts(machine=arch.name)))


def _listed(node: Node) -> bool:
    """Table entries follow their owners and strings their contents; neither says anything by itself."""
    return node.table is None and bool(node.names)


def _print(pre: SectionGraph, post: SectionGraph, delta: Delta, same: bool) -> None:
    if same:
        for index, _ in delta.same:
            if _listed(pre.nodes[index]):
                print(f"same     {pre.nodes[index].label}")
    for change in delta.changed:
        node = post.nodes[change.post]
        if _listed(node):
            causes = "; ".join(_cause(each.text, each.offset) for each in change.causes[:3])
            print(f"changed  {node.label}: {causes}")
    for index in delta.added:
        if _listed(post.nodes[index]):
            print(f"added    {post.nodes[index].label}")
    for index in delta.removed:
        if _listed(pre.nodes[index]):
            print(f"removed  {pre.nodes[index].label}")


def _cause(text: str, offset: int | None) -> str:
    return text if offset is None else f"{text} (+{offset:#x})"


def _as_json(pre: SectionGraph, post: SectionGraph, delta: Delta) -> dict[str, object]:
    return {
        "same": [pre.nodes[index].label for index, _ in delta.same if _listed(pre.nodes[index])],
        "changed": [
            {
                "name": post.nodes[change.post].label,
                "kind": post.nodes[change.post].kind.value,
                "causes": [
                    {"key": cause.key, "text": cause.text, "offset": cause.offset} for cause in change.causes
                ],
            }
            for change in delta.changed
            if _listed(post.nodes[change.post])
        ],
        "added": [post.nodes[index].label for index in delta.added if _listed(post.nodes[index])],
        "removed": [pre.nodes[index].label for index in delta.removed if _listed(pre.nodes[index])],
    }

# SPDX-License-Identifier: Apache-2.0
"""Find every function of an object in a kernel's memory, or say why it is not there."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kdiff import registry
from kdiff.elf.read import read
from kdiff.errors import EXIT_DONE, EXIT_REFUSED
from kdiff.graph import build
from kdiff.sites import sites
from kdiff.solve import RunMatch, solve
from kdiff.split import Kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("pre", type=Path, metavar="PRE.o", help="the object built from the kernel's source")
    parser.add_argument(
        "--memory",
        required=True,
        metavar="SCHEME:WHAT",
        help="image:FILE (vmlinux, vmlinuz, core) or kcore: (the running kernel)",
    )


def run(args: argparse.Namespace) -> int:
    """Print one line per function; exit 3 if one that must be in the kernel is not what runs there."""
    plugins = registry.load()
    memory = plugins.open_memory(args.memory)
    obj = read(args.pre)
    arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
    graph = build(obj, arch, plugins.special_sections(memory.facts()), plugins.habits(memory.facts()))
    result = solve(graph, sites(graph), memory, memory.address_book())
    if args.json:
        print(json.dumps(_as_json(result), indent=2))
    else:
        _print(result)
    return EXIT_REFUSED if result.refusals else EXIT_DONE


def _print(result: RunMatch) -> None:
    graph = result.graph
    functions = [node for node in graph.nodes if node.kind is Kind.FUNCTION and not graph.is_piece(node)]
    for node in functions:
        if node.id in result.matches:
            match = result.matches[node.id]
            layout = ", other layout" if match.moved else ""
            print(f"match     {match.address:#x} {node.label} ({match.size} bytes{layout})")
        elif node.id in result.open:
            print(f"no match  {result.open[node.id]}")
    matched = sum(node.id in result.matches for node in functions)
    print(f"{matched} of {len(functions)} functions match")
    for each in result.refusals:
        print(f"refused   {each}")
        for line in each.details:
            print(f"    {line}")


def _as_json(result: RunMatch) -> dict[str, object]:
    nodes = result.graph.nodes
    return {
        "matched": [
            {
                "name": nodes[index].label,
                "kind": nodes[index].kind.value,
                "address": match.address,
                "size": match.size,
                "other_layout": bool(match.moved),
            }
            for index, match in sorted(result.matches.items())
        ],
        "open": [
            {"name": nodes[index].label, "key": each.key, "reason": each.reason}
            for index, each in sorted(result.open.items())
        ],
        "refusals": [
            {"key": each.key, "place": each.place, "reason": each.reason, "details": each.details}
            for each in result.refusals
        ],
    }

# SPDX-License-Identifier: Apache-2.0
"""Find every function of an object, or of a whole build, in a kernel's memory, or say why it is not there."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from kdiff import registry
from kdiff.addressbook import KERNEL
from kdiff.cli.match_all import run_all
from kdiff.coverage import Against, against, functions_of, module_of
from kdiff.elf.read import read
from kdiff.errors import EXIT_DONE, EXIT_REFUSED, KdiffError
from kdiff.solve import RunMatch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "pre", type=Path, nargs="?", metavar="PRE.o", help="the object built from the kernel's source"
    )
    parser.add_argument(
        "--memory",
        required=True,
        metavar="SCHEME:WHAT",
        help="image:FILE (vmlinux, vmlinuz), kcore: (the running kernel), core:FILE, gdb:HOST:PORT",
    )
    parser.add_argument(
        "--module",
        default=KERNEL,
        metavar="NAME|FILE.ko",
        help="the object is of this module, which is loaded, or laid out from its file",
    )
    parser.add_argument(
        "--symvers", type=Path, metavar="FILE", help="with FILE.ko: the kernel's Module.symvers"
    )
    parser.add_argument("--all", type=Path, metavar="BUILD_DIR", help="match every unit of a build tree")
    parser.add_argument(
        "-j",
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="with --all: N units at a time",
    )
    parser.add_argument("--sample", type=int, metavar="N", help="with --all: only N units, drawn at random")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="which ones (default: 1)")
    parser.add_argument(
        "--truth",
        type=Path,
        metavar="FILE",
        help="with --all: hold addresses against this vmlinux or System.map",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="with --all: print no unit that is sound")


def run(args: argparse.Namespace) -> int:
    """Print one line per function; exit 3 if one that must be in the kernel is not what runs there."""
    if (args.pre is None) == (args.all is None):
        raise KdiffError("match.what", "name either one object or a build tree (--all BUILD_DIR)")
    if args.all is not None:
        return run_all(args)
    result = _match(against(registry.load(), args.memory), args)
    if args.json:
        print(json.dumps(_as_json(result), indent=2))
    else:
        _print(result)
    return EXIT_REFUSED if result.refusals else EXIT_DONE


def _match(memory: Against, args: argparse.Namespace) -> RunMatch:
    obj, file = read(args.pre), Path(args.module)
    if ".ko" not in file.name:
        return memory.match(obj, args.module)
    if args.symvers is None:
        raise KdiffError("match.what", "a module's file needs the kernel's Module.symvers (--symvers FILE)")
    return memory.inside(file, args.symvers).match(obj, module_of(file))


def _print(result: RunMatch) -> None:
    functions = functions_of(result)
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

# SPDX-License-Identifier: Apache-2.0
"""`kdiff diff` over many pairs: two directories, or a list with a pair on each line.

Equal files are told by their bytes and never parsed. What is alike is asked of several pairs at once. A pair
that fails is one line and does not stop the rest. Pairs are shown in the order of the list, whoever finishes
first.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kdiff import registry
from kdiff.cli.delta import as_json
from kdiff.cli.progress import bar
from kdiff.compare import NO_FACTS, Comparer
from kdiff.elf.read import Object, load, read_bytes
from kdiff.errors import EXIT_DONE, EXIT_ERROR, EXIT_NOTHING_CHANGED, EXIT_REFUSED, KdiffError, Refused
from kdiff.factsfile import read_facts
from kdiff.pairs import PairsFile, read_pairs
from kdiff.plan import Plan
from kdiff.review import review
from kdiff.review_types import retyped, review_types
from kdiff.values import dataclass

_STATUS = {"same": EXIT_NOTHING_CHANGED, "changed": EXIT_DONE, "refused": EXIT_REFUSED, "error": EXIT_ERROR}
"""Outcome of a pair -> exit status; the worst of all pairs is the status of the whole."""
_ORDER = ("error", "refused", "changed", "same")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files. `name`: for people."""

    name: str
    pre: Path
    post: Path


def run_batch(args: argparse.Namespace, compare: Comparer) -> int:
    """Compare all pairs; print a line each, and totals."""
    pairs = _pairs(args)
    accepted = tuple(args.accept_layout)
    totals: Counter[str] = Counter()
    with bar("comparing", len(pairs), quiet=args.json) as advance:
        for pair, found in zip(pairs, _results(pairs, accepted, args, compare), strict=True):
            totals[found["outcome"]] += 1
            print(json.dumps({"pair": pair.name, **found}) if args.json else _line(pair, found), flush=True)
            advance()
    shown = ", ".join(f"{totals[each]} {each}" for each in reversed(_ORDER))
    print(json.dumps({"totals": dict(totals)}) if args.json else f"{len(pairs)} pairs: {shown}")
    return next((_STATUS[each] for each in _ORDER if totals[each]), EXIT_NOTHING_CHANGED)


def _pairs(args: argparse.Namespace) -> list[Pair]:
    if args.batch:
        return list(_listed(args.pre))
    if args.post is None or not args.post.is_dir():
        raise KdiffError(
            "diff.pairs", "a directory can only be compared with a directory", place=str(args.post)
        )
    names = sorted({str(path.relative_to(args.pre)) for path in args.pre.rglob("*.o")})
    if not names:
        raise KdiffError("diff.pairs", "no object (*.o) is below this directory", place=str(args.pre))
    return [Pair(name, args.pre / name, args.post / name) for name in names]


def _listed(path: Path) -> Iterator[Pair]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KdiffError("diff.pairs", f"cannot read the list: {error}", place=str(path)) from error
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) != 2:
            raise KdiffError(
                "diff.pairs", f"line {number} names {len(words)} files", place=str(path),
                remedy="write PRE.o and POST.o on each line",
            )  # fmt: skip
        yield Pair(words[0], Path(words[0]), Path(words[1]))


_AT_ONCE = 1 << 22
"""Bytes of objects: with more, all that is made of them no longer fits the processor's caches."""


def _results(
    pairs: list[Pair], accepted: tuple[str, ...], args: argparse.Namespace, compare: Comparer
) -> Iterator[dict[str, Any]]:
    said = read_pairs(args.pairs) if args.pairs else None
    if args.jobs <= 1:
        for group in groups(pairs, len(pairs)):
            yield from outcomes(group, accepted, compare, said)
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(args.jobs) as pool:
        parts = groups(pairs, max(1, len(pairs) // (4 * args.jobs)))
        rest = ([each] * len(parts) for each in (accepted, args.facts, said))
        for found in pool.map(_elsewhere, parts, *rest):
            yield from found


def groups(pairs: list[Pair], most: int) -> list[list[Pair]]:
    """Pairs that are compared together: no more than `most`, and no more bytes than columns pay for."""
    found, total = list[list[Pair]](), 0
    for pair in pairs:
        size = _size(pair.pre) + _size(pair.post)
        if not found or len(found[-1]) == most or total + size > _AT_ONCE:
            total = 0
            found.append([])
        total += size
        found[-1].append(pair)
    return found


def _size(path: Path) -> int:
    """Bytes of a file; 0 for one that cannot be asked, which reading it tells."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


@cache
def _comparison(facts: Path | None) -> Comparer:
    return Comparer(registry.load(), read_facts(facts) if facts else NO_FACTS)


def _elsewhere(
    pairs: list[Pair], accepted: tuple[str, ...], facts: Path | None, said: PairsFile | None
) -> list[dict[str, Any]]:
    """Some pairs in a process of the pool."""
    return list(outcomes(pairs, accepted, _comparison(facts), said))


def outcomes(
    pairs: list[Pair], accepted: tuple[str, ...], compare: Comparer, said: PairsFile | None
) -> Iterator[dict[str, Any]]:
    """What became of each pair: `outcome`, and the lists of `kdiff diff --json`."""
    read = [_read(pair) for pair in pairs]
    objects = [each for each in read if isinstance(each, tuple)]
    plans = iter(compare.each(objects, said))
    for each in read:
        yield _told(next(plans), accepted) if isinstance(each, tuple) else each


def _read(pair: Pair) -> tuple[Object, Object] | dict[str, Any]:
    """The objects of a pair, or what became of it where they need not or can not be compared."""
    try:
        before, after = load(pair.pre), load(pair.post)
        if len(before) == len(after) and bytes(before) == bytes(after):
            return {"outcome": "same", "equal_bytes": True}
        pre = read_bytes(before, str(pair.pre))
        return pre, read_bytes(after, str(pair.post), pre)
    except (OSError, KdiffError) as error:
        return {"outcome": "error", "error": str(error)}


def _told(planned: Callable[[], Plan], accepted: tuple[str, ...]) -> dict[str, Any]:
    try:
        plan = planned()
        types = retyped((plan,) if plan.replaced or plan.in_place else ())
        refusals = (*review(plan), *review_types(types, accepted))
    except (OSError, KdiffError, Refused) as error:
        return {"outcome": "error", "error": str(error)}
    busy = bool(plan.replaced or plan.in_place)
    shown = as_json(plan)
    shown["refusals"] = [{"key": each.key, "place": each.place, "reason": each.reason} for each in refusals]
    shown["in_place"] = [plan.post.nodes[each.post].label for each in plan.in_place]
    return {"outcome": "refused" if refusals else "changed" if busy else "same", **shown}


def _line(pair: Pair, found: dict[str, Any]) -> str:
    parts = [f"{found['outcome']:<8} {pair.name}"]
    for title, key in (("", "replaced"), ("new ", "new"), ("in place ", "in_place")):
        if found.get(key):
            parts.append(f"{title}{', '.join(found[key])}")
    parts += [each["key"] for each in found.get("refusals", ())]
    parts += [found["error"]] if "error" in found else []
    return "  ".join(parts)

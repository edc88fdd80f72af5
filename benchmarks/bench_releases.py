# SPDX-License-Identifier: Apache-2.0
"""Is every change that `kdiff diff` reports between two stable releases a change, and is none overlooked?

Units are built from two of Debian's linux-source-6.1 packages (releaselab.py): some whose own file differs,
some for which only headers do. Two judges (judges.py) say what changed: one compares functions of the
objects, built once more with `__LINE__` as 0; one compares preprocessed text.

A false positive is a function that is reported, though its code is equal or nothing that it is made of
differs in the source. A false negative is one whose code differs and that is not reported. Also checked on
the same objects: an object is the same as itself, and a swapped pair swaps what is added and removed.

    python benchmarks/bench_releases.py [--from 6.1.190-1] [--to 6.1.192-1] [--own 45] [--headers 15]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import judges
from judges import canonical
from releaselab import Pair, Side, choose, prepare, preprocessed, say

from kdiff import registry, setup
from kdiff.cli.delta import as_json
from kdiff.compare import Comparer
from kdiff.elf.read import read
from kdiff.errors import KdiffError


@dataclass(frozen=True, slots=True)
class Verdict:
    """One function that kdiff and the judges do not agree on, or on whose source they do not."""

    unit: str
    function: str
    what: str
    """`reported, equal code`, `reported, equal source` or `overlooked`."""
    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One unit. `reported`, `differing`: numbers of functions, by kdiff and by the judge of objects."""

    unit: str
    own: bool
    reported: int
    differing: int
    equal: int
    because: dict[str, int]
    """By what in the source: its own text, a function it reaches, types or variables."""
    broken_laws: tuple[str, ...]
    wrong: tuple[Verdict, ...]
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="before", default="6.1.190-1", metavar="VERSION")
    parser.add_argument("--to", dest="after", default="6.1.192-1", metavar="VERSION")
    parser.add_argument("--own", type=int, default=45, metavar="N", help="units whose own file differs")
    parser.add_argument("--headers", type=int, default=15, metavar="N", help="units behind changed headers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    given = parser.parse_args()
    plugins = registry.load()
    kernel = setup.make(plugins, setup.choose(plugins, setup.distribution(plugins).newest(), None), say)
    before, after = Side(given.before), Side(given.after)
    prepare(before, after, (kernel.config / ".config").read_text())
    pairs = choose(before, after, given.own, given.headers, given.seed)
    compare = Comparer(plugins)
    results = []
    for pair in pairs:
        results.append(judged(pair, compare))
        show(results[-1])
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in results], indent=1))
    return total(results, given)


def judged(pair: Pair, compare: Any) -> Result:
    """Compare one unit and hold the answer against both judges."""
    pre, post = (read(side.product("plain", pair.unit)) for side in (pair.before, pair.after))
    start = time.process_time()
    planned = compare(pre, post, False, None)
    seconds = time.process_time() - start
    answer: dict[str, Any] = as_json(planned)
    causes = {
        canonical(each["name"]): tuple(cause["text"] for cause in each["causes"])
        for each in answer["changed"]
        if each["kind"] == "function"
    }
    differing, equal = judges.objects(
        *(side.product("nolines", pair.unit) for side in (pair.before, pair.after))
    )
    texts = [preprocessed(side.product("nolines", pair.unit, ".i")) for side in (pair.before, pair.after)]
    cache: dict[str, Any] = {}
    because: Counter[str] = Counter()
    wrong = []
    for name in sorted(causes):
        if name not in differing:
            wrong.append(Verdict(pair.unit, name, "reported, equal code", causes[name]))
        why = judges.sources(texts[0], texts[1], name.partition(".")[0], cache)
        because[why] += 1
        if not why:
            wrong.append(Verdict(pair.unit, name, "reported, equal source", causes[name]))
    wrong += [Verdict(pair.unit, name, "overlooked", ()) for name in sorted(differing - causes.keys())]
    return Result(
        pair.unit, pair.own, len(causes), len(differing), len(equal), dict(because),
        tuple(broken_laws(pre, post, answer, compare)), tuple(wrong), seconds,
    )  # fmt: skip


def broken_laws(pre: Any, post: Any, answer: dict[str, Any], compare: Any) -> list[str]:
    """What does not hold of a unit compared with itself and the other way round."""
    broken = []
    for obj in (pre, post):
        itself = as_json(compare(obj, obj, False, None))
        if any(itself[key] for key in ("changed", "added", "removed", "replaced")):
            broken.append("an object differs from itself")
    mirrored = as_json(compare(post, pre, False, None))
    if mirrored["added"] != answer["removed"] or mirrored["removed"] != answer["added"]:
        broken.append("a swapped pair does not swap what is added and removed")
    return broken


def show(result: Result) -> None:
    mark = "ok   " if not (result.wrong or result.broken_laws) else "WRONG"
    print(
        f"{mark} {result.unit}: {result.reported} reported, {result.differing} differ, {result.equal} equal"
    )
    for each in result.wrong:
        print(f"      {each.function}: {each.what} {'; '.join(each.causes)[:160]}")
    for law in result.broken_laws:
        print(f"      {law}")
    sys.stdout.flush()


def total(results: list[Result], given: argparse.Namespace) -> int:
    wrong = Counter(each.what for result in results for each in result.wrong)
    because: Counter[str] = Counter()
    for result in results:
        because.update(result.because)
    false = {(v.unit, v.function) for r in results for v in r.wrong if v.what != "overlooked"}
    reported, differing, equal = (
        sum(getattr(r, n) for r in results) for n in ("reported", "differing", "equal")
    )
    lines = (
        f"linux-source-6.1 {given.before} to {given.after}, seed {given.seed}: {len(results)} units",
        f"  {reported} functions reported, {differing} differ, {equal} are equal",
        f"  false positives: {len(false)} ({wrong['reported, equal code']} with equal code, "
        f"{wrong['reported, equal source']} with equal source)",
        f"  false negatives: {wrong['overlooked']}",
        f"  reported because of: own text {because['own']}, functions that are reached {because['reached']}, "
        f"types and variables {because['types']}",
        f"  broken laws: {sum(len(r.broken_laws) for r in results)}; "
        f"{sum(r.seconds for r in results):.1f} s CPU for comparing",
    )
    print("\n".join(lines))
    return 1 if wrong or any(r.broken_laws for r in results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KdiffError as error:
        sys.exit(str(error))

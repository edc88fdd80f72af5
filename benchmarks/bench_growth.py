# SPDX-License-Identifier: Apache-2.0
"""How the cost of `kdiff diff` grows: with the size of the objects, and with the size of the change.

    python benchmarks/bench_growth.py [--out docs/images] [--runs N]

Objects are the first N units of the pair of `bench_kernel_pair.py`, linked with `ld -r`, over two decades;
one function is edited. Then the change grows at one size: K units compiled with another flag. Each figure is
a whole process. Exponents are fitted in log space to what is above the cost of a process that compares
nothing; they, the points and the limit (hash and compare both files in C) are drawn. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import kernelpair
import matplotlib as mpl
import numpy as np
from bench_kernel_pair import kdiff, limit, median

from kdiff.elf.read import read

EDITED = "kernel/sys.c"
STEPS = (12, 25, 50, 100, 200, 400, 800, 1600)
CHANGES = (1, 2, 4, 8, 16, 32, 64)
AT = 200


@dataclass(frozen=True, slots=True)
class Point:
    """One pair: what it is (`size` in units or changed units), and what comparing it took."""

    size: int
    megabytes: float
    sections: int
    relocations: int
    functions: int
    cpu: float
    memory: float
    limit: float


def linked(objects: Iterable[Path], out: Path) -> Path:
    listed = out.with_suffix(".list")
    listed.write_text("\n".join(map(str, objects)))
    subprocess.run(("ld", "-m", "elf_x86_64", "-r", "-o", out, f"@{listed}"), check=True)
    return out


def measured(size: int, pre: Path, post: Path, runs: int) -> Point:
    ours, least = (median([tool(pre, post) for _ in range(runs)]) for tool in (kdiff, limit))
    obj = read(pre)
    changed = sum(line.startswith("changed ") for line in ours.said.splitlines())
    return Point(
        size, pre.stat().st_size / 1e6, len(obj.sections), len(obj.relocations), changed, ours.cpu,
        ours.memory, least.cpu,
    )  # fmt: skip


def points(runs: int) -> tuple[Point, list[Point], list[Point]]:
    """The cost of a process alone, by size, and by change."""
    kernelpair.build()
    units = kernelpair.leaves()
    first = kernelpair.BUILD / EDITED.replace(".c", ".o")
    units.sort(key=lambda each: each != first)
    changed = {first: kernelpair.edited(EDITED)}
    with tempfile.TemporaryDirectory(dir=kernelpair.CACHE) as scratch:
        folder = Path(scratch)
        alone = measured(0, *(linked([first], folder / f"{name}.o") for name in ("pre", "post")), runs)
        sizes, changes = [], []
        for count in (each for each in STEPS if each <= 2 * len(units)):
            pre = linked(units[:count], folder / "pre.o")
            post = linked([changed.get(each, each) for each in units[:count]], folder / "post.o")
            sizes.append(_said("units", measured(count, pre, post, runs)))
        large = set(kernelpair.within(kernelpair.LARGE["large"]))
        within = [each for each in units if each in large]
        made = kernelpair.recompiled(within[: max(CHANGES)])
        pre = linked(within[:AT], folder / "pre.o")
        for count in CHANGES:
            other = dict(list(made.items())[:count])
            post = linked([other.get(each, each) for each in within[:AT]], folder / "post.o")
            changes.append(_said("changed units", measured(count, pre, post, runs)))
    return alone, sizes, changes


def _said(what: str, point: Point) -> Point:
    print(
        f"{point.size:5} {what:<14} {point.megabytes:6.1f} MB {point.sections:7} sections"
        f" {point.relocations:8} relocations {point.functions:6} changed: {point.cpu:6.2f} s CPU"
        f" {point.memory:5.0f} MB, limit {point.limit:.3f} s",
        flush=True,
    )
    return point


def exponent(sizes: Iterable[float], costs: Iterable[float], alone: float) -> float:
    """The slope in log space of what a cost is above that of a process alone."""
    pairs = [(size, cost - alone) for size, cost in zip(sizes, costs, strict=True) if cost - alone > 0.05]
    slope, _ = np.polyfit(*np.log(np.array(pairs)).T, 1)
    return float(slope)


def draw(alone: Point, sizes: list[Point], changes: list[Point], out: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    megabytes = [each.megabytes for each in sizes]
    slope = exponent(megabytes, [each.cpu for each in sizes], alone.cpu)
    axes[0].loglog(megabytes, [each.cpu for each in sizes], "o-", label=f"kdiff diff (exponent {slope:.2f})")
    axes[0].loglog(megabytes, [each.limit for each in sizes], "s--", label="hash and compare both, in C")
    axes[0].axhline(alone.cpu, color="grey", lw=0.8, label="a process that compares one unit")
    axes[0].set(xlabel="MB of the pre object", ylabel="s CPU", title="Time by size, one function edited")
    axes[1].loglog(megabytes, [each.memory for each in sizes], "o-", label="kdiff diff")
    axes[1].loglog(megabytes, [2 * each for each in megabytes], "s--", label="both files")
    axes[1].set(xlabel="MB of the pre object", ylabel="MB at most", title="Memory by size")
    functions = [each.functions for each in changes]
    slope = exponent(functions, [each.cpu for each in changes], alone.cpu)
    axes[2].loglog(
        functions, [each.cpu for each in changes], "o-", label=f"kdiff diff (exponent {slope:.2f})"
    )
    axes[2].set(xlabel="functions and data changed", ylabel="s CPU", title=f"Time by change, {AT} units")
    for each in axes:
        each.legend()
        each.grid(alpha=0.3)
    out.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(out / f"growth.{kind}", dpi=110, metadata={"Date": None} if kind == "svg" else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/images")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    alone, sizes, changes = points(args.runs)
    for name in ("megabytes", "sections", "relocations"):
        slopes = [
            exponent(
                [getattr(p, name) for p in sizes], [getattr(p, cost) for p in sizes], getattr(alone, cost)
            )
            for cost in ("cpu", "memory")
        ]
        print(f"by {name}: CPU grows with the power {slopes[0]:.2f}, memory with {slopes[1]:.2f}")
    slope = exponent([p.functions for p in changes], [p.cpu for p in changes], alone.cpu)
    print(f"by functions changed: CPU grows with the power {slope:.2f}")
    draw(alone, sizes, changes, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

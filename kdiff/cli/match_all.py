# SPDX-License-Identifier: Apache-2.0
"""`kdiff match --all`: every unit of a build tree against one memory.

One line is printed for each unit, below it one for each function that is left over, at the end the totals.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from kdiff.addressbook import KERNEL
from kdiff.buildtree import ELSEWHERE, BuiltUnit, built_units
from kdiff.cli.progress import bar
from kdiff.coverage import Coverage, cover_all
from kdiff.errors import EXIT_DONE, EXIT_ERROR, EXIT_REFUSED, Refusal

_STATUS = {"error": EXIT_ERROR, "refused": EXIT_REFUSED}
_NOT_THERE = ("solve.overridden", "solve.freed", "solve.no_candidate")
"""Functions that this kernel does not have. All others must match."""
_COUNTS = ("functions", "matched", "other_layout", "unconfirmed", "untold")


def run_all(args: argparse.Namespace) -> int:
    """Exit 1 if a unit could not be read, 3 if one is refused or was found at a wrong address, else 0."""
    units = drawn(built_units(args.all), args.sample, args.seed)
    totals: Counter[str] = Counter()
    with bar("matching", len(units), quiet=args.json) as advance:
        for found in cover_all(units, args.memory, args.truth, args.jobs):
            totals.update(tally(found))
            if args.json:
                print(json.dumps(as_json(found)), flush=True)
            elif not args.quiet or outcome(found) not in ("ok", "module", "elsewhere"):
                print("\n".join(lines(found)), flush=True)
            advance()
    print(json.dumps({"totals": dict(totals)}) if args.json else "\n".join(summary(totals, bool(args.truth))))
    return next((_STATUS[each] for each in _STATUS if totals[each]), EXIT_DONE)


def drawn(units: Sequence[BuiltUnit], sample: int | None, seed: int) -> Sequence[BuiltUnit]:
    """All units, or a sample of those of the kernel itself, in order."""
    if sample is None:
        return units
    own = [unit for unit in units if unit.part_of == KERNEL]
    chosen = random.Random(seed).sample(own, min(sample, len(own)))
    return sorted(chosen, key=lambda unit: unit.name)


def outcome(found: Coverage) -> str:
    """One word for a unit; `absent`: none of its functions is in this kernel."""
    if found.error:
        return "error"
    if found.part_of != KERNEL:
        return "elsewhere" if found.part_of == ELSEWHERE else "module"
    if found.refused or found.wrong:
        return "refused"
    return "absent" if found.functions and not found.matched else "left" if found.absent else "ok"


def tally(found: Coverage) -> Counter[str]:
    """One unit's share of the totals: outcomes of units, counts of functions, keys of what is left over."""
    counts = Counter({name: getattr(found, name) for name in _COUNTS})
    counts["units"] = int(found.part_of == KERNEL)
    counts[outcome(found)] += 1
    counts["wrong"] += len(found.wrong)
    counts.update(each.key for each in (*found.absent, *found.refused))
    return counts


def lines(found: Coverage) -> Iterator[str]:
    """What is printed of one unit."""
    what = outcome(found)
    yield f"{what:<9} {found.unit}  {_told(found, what)}".rstrip()
    for each in found.absent:
        yield f"    left out  {each}"
    for each in found.refused:
        yield f"    refused   {each}"
        yield from (f"        {line}" for line in each.details)
    for each in found.wrong:
        yield f"    wrong     {each}"


def _told(found: Coverage, what: str) -> str:
    if what == "error":
        return found.error
    if what == "module":
        return f"of module {found.part_of}"
    if what == "elsewhere":
        return "not linked into the kernel"
    return f"{found.matched} of {found.functions} functions match"


def summary(totals: Counter[str], told: bool) -> Iterator[str]:
    """The last lines."""
    others = [f"{totals[each]} {text}" for each, text in (
        ("module", "of modules"), ("elsewhere", "of neither"), ("error", "not readable"),
    ) if totals[each]]  # fmt: skip
    yield f"{totals['units']} units of the kernel{''.join(f', {each}' for each in others)}"
    keys = sorted(key for key in totals if "." in key)
    absent = sum(totals[key] for key in _NOT_THERE)
    share = 100 * totals["matched"] / max(totals["functions"] - absent, 1)
    yield (
        f"{totals['matched']} of {totals['functions'] - absent} functions that are there match"
        f" ({share:.2f} %), {totals['other_layout']} with another layout; {totals['functions']} in all"
    )
    for key in keys:
        yield f"{totals[key]:>6} {key}"
    yield f"{totals['unconfirmed']} references that nothing confirms"
    if told:
        yield (
            f"{totals['wrong']} matched at another address than the symbol table's,"
            f" {totals['untold']} of which it says nothing"
        )


def as_json(found: Coverage) -> dict[str, object]:
    """One unit as a JSON object."""

    def listed(refusals: Iterable[Refusal]) -> list[dict[str, object]]:
        return [
            {"key": each.key, "place": each.place, "reason": each.reason, "details": each.details}
            for each in refusals
        ]

    shown: dict[str, object] = {"unit": found.unit, "part_of": found.part_of, "outcome": outcome(found)}
    shown |= {name: getattr(found, name) for name in _COUNTS}
    shown |= {name: listed(getattr(found, name)) for name in ("absent", "refused", "wrong")}
    return shown | {"error": found.error, "seconds": round(found.seconds, 4)}

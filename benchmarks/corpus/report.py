# SPDX-License-Identifier: Apache-2.0
"""What came out, by the rule of docs/corpus.md: as values, as Markdown and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from corpus.manifest import Row
from corpus.outcomes import Created, Tried

NOT_COUNTED = {
    "uncompilable": "does not compile alone",
    "nothing": "changes no object code",
    "boot": "changes only what is gone once the kernel is up",
    "data": "changes no code, only data",
}
COUNTED = {
    "held": "applied, seen, workload, undone, log clean",
    "untried": "update made, not yet tried in a guest",
    "refused": "refused by create",
    "error": "create ended in an error",
    "crash": "create crashed",
    "slow": "create was given up after a time",
    "apply": "refused or taken back when applied",
    "smoke": "the workload failed",
    "view": "not listed once applied",
    "unload": "a module that must go before the update is undone could not be unloaded",
    "undo": "could not be undone",
    "log": "bad news in the kernel's log",
    "died": "the guest died or hung",
}
_BOOT_KEYS = frozenset(
    ("review.init_code", "review.init_data", "review.initcall_changed", "review.exitcall_changed",
     "review.boot_option_changed", "livepatch.no_fentry")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One candidate with all that is known of it."""

    row: Row
    created: Created
    tried: Tried | None

    @property
    def outcome(self) -> str:
        """A key of `NOT_COUNTED` or `COUNTED`."""
        result = self.created.result
        if result == "refused" and self.created.units and not self.created.functions:
            return "boot" if set(self.created.keys) <= _BOOT_KEYS else "data"
        if result == "update":
            return self.tried.result if self.tried else "untried"
        return result

    @property
    def counted(self) -> bool:
        return self.outcome in COUNTED


def cases(
    rows: Iterable[Row], created: Mapping[str, Created], tried: Mapping[str, Tried]
) -> tuple[Case, ...]:
    """Those of the rows that have been through the first phase."""
    return tuple(Case(row, created[row.id], tried.get(row.id)) for row in rows if row.id in created)


def share(found: Iterable[Case]) -> tuple[int, int, int]:
    """How many held, how many became an update, and how many count."""
    counted = [case for case in found if case.counted]
    made = sum(case.created.result == "update" for case in counted)
    return sum(case.outcome == "held" for case in counted), made, len(counted)


def markdown(found: tuple[Case, ...], title: str) -> str:
    """The report as Markdown."""
    held, made, counted = share(found)
    lines = [
        f"# {title}",
        "",
        f"{len(found)} candidates, {counted} of them change code that exists at run time. Of these {made}"
        f" ({_percent(made, counted)}) became an update, and {held} ({_percent(held, counted)}) were applied,"
        " survived the workload and were undone with a clean log.",
        "",
        *_outcomes(found),
        *_keys(found),
        *_kinds(found),
        *_figures(found),
    ]
    return "\n".join(lines) + "\n"


def _outcomes(found: tuple[Case, ...]) -> list[str]:
    counts = Counter(case.outcome for case in found)
    lines = ["| outcome | candidates |", "|---|---|"]
    lines += [f"| {text} | {counts[name]} |" for name, text in COUNTED.items() if counts[name]]
    lines += [
        f"| not counted: {text} | {counts[name]} |" for name, text in NOT_COUNTED.items() if counts[name]
    ]
    return [*lines, ""]


def keys(found: Iterable[Case]) -> list[tuple[str, int, int]]:
    """For each key of a refusal or an error: counted candidates with it, and those with no other."""
    failed = [case for case in found if case.counted and case.created.result != "update"]
    any_of = Counter(key for case in failed for key in case.created.keys)
    alone = Counter(case.created.keys[0] for case in failed if len(case.created.keys) == 1)
    return [(key, number, alone[key]) for key, number in any_of.most_common()]


def _keys(found: tuple[Case, ...]) -> list[str]:
    lines = ["| key | counted candidates with it | with no other |", "|---|---|---|"]
    lines += [f"| `{key}` | {number} | {alone} |" for key, number, alone in keys(found)]
    return [*lines, ""]


def _kinds(found: tuple[Case, ...]) -> list[str]:
    lines = ["| what is changed | counted | updates | held |", "|---|---|---|---|"]
    groups = {
        **{f"kind {kind}": [case for case in found if case.row.kind == kind] for kind in _kinds_of(found)},
        "with a CVE id": [case for case in found if case.row.cves],
        "vmlinux": [case for case in found if "vmlinux" in case.created.targets],
        "modules": [case for case in found if set(case.created.targets) - {"vmlinux"}],
    }
    for name, members in groups.items():
        held, made, counted = share(members)
        lines.append(f"| {name} | {counted} | {made} | {held} |")
    return [*lines, ""]


def _kinds_of(found: tuple[Case, ...]) -> list[str]:
    return sorted({case.row.kind for case in found})


def figures(found: Iterable[Case]) -> dict[str, float]:
    """Medians in seconds over the updates that were made, and over those that were applied."""
    made = [case for case in found if case.created.result == "update"]
    applied = [case.tried for case in made if case.tried and case.tried.apply]
    columns = {
        "create, wall": [case.created.wall for case in made],
        "create, CPU of kdiff": [case.created.own for case in made],
        "create, CPU of compilers": [case.created.compilers for case in made],
        "apply, in the guest": [each.apply for each in applied],
        "undo, in the guest": [each.undo for each in applied if each.undo],
    }
    return {name: round(median(values), 2) for name, values in columns.items() if values}


def _figures(found: tuple[Case, ...]) -> list[str]:
    modules = [case.tried for case in found if case.tried and (case.tried.loaded or case.tried.missing)]
    lines = ["| median over updates | seconds |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in figures(found).items()]
    with_module = sum(bool(each.loaded) for each in modules)
    return [
        *lines,
        "",
        f"{len(modules)} updates change modules; of {with_module} a module was loaded when they were applied,"
        f" the other {len(modules) - with_module} modules do not load without their hardware.",
    ]


def as_json(found: tuple[Case, ...]) -> dict[str, object]:
    """Everything, for programs."""
    held, made, counted = share(found)
    return {
        "candidates": len(found),
        "counted": counted,
        "updates": made,
        "held": held,
        "outcomes": dict(Counter(case.outcome for case in found).most_common()),
        "keys": {key: {"any": number, "alone": alone} for key, number, alone in keys(found)},
        "medians": figures(found),
        "cases": [
            {
                "id": case.row.id,
                "kind": case.row.kind,
                "paths": list(case.row.paths),
                "cves": list(case.row.cves),
                "outcome": case.outcome,
                "counted": case.counted,
                "keys": list(case.created.keys),
                "functions": list(case.created.functions),
                "reasons": [f"{each.place}: {each.text}" for each in case.created.reasons],
                "detail": case.tried.detail if case.tried else "",
            }
            for case in found
        ],
    }


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"

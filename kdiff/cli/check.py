# SPDX-License-Identifier: Apache-2.0
"""Tell whether patches will apply to a kernel, and if not why. Nothing is written, no machine is touched."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from kdiff import registry
from kdiff.addressbook import KERNEL
from kdiff.cli.asking import add_options, request_of
from kdiff.cli.delta import is_listed
from kdiff.cli.progress import progress
from kdiff.coverage import functions_of
from kdiff.distribution import Say
from kdiff.errors import (
    EXIT_DONE,
    EXIT_ERROR,
    EXIT_NOTHING_CHANGED,
    EXIT_REFUSED,
    KdiffError,
    NothingChanged,
    Refused,
    json_of,
)
from kdiff.manifest import initial_as_json
from kdiff.pipeline import Checked, check
from kdiff.registry import Registry
from kdiff.split import Kind
from kdiff.values import dataclass

_STATUS = {
    "error": EXIT_ERROR,
    "refused": EXIT_REFUSED,
    "applies": EXIT_DONE,
    "nothing": EXIT_NOTHING_CHANGED,
}
"""Verdict -> exit status; of several patches the first one here that occurs decides."""
_ID = "check"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one patch and one kernel: what was proved, or what speaks against it, or neither."""

    patch: Path
    config: Path
    word: str
    found: Checked | None = None
    problem: KdiffError | Refused | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("patches", type=Path, nargs="+", metavar="PATCH", help="unified diff, for -p1")
    parser.add_argument(
        "--config", type=Path, required=True, action="append", metavar="CONFDIR",
        help="as for create; repeat it to check against several kernels",
    )  # fmt: skip
    parser.add_argument(
        "--source", type=Path, metavar="KERNEL_SOURCE",
        help="the kernel's pristine source (default: `source` beside CONFDIR, or in it)",
    )  # fmt: skip
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print a verdict for each patch and kernel; exit 0 if all apply."""
    if args.source is not None and len(args.config) > 1:
        raise KdiffError(
            "check.source", "one source cannot be that of several kernels",
            remedy="leave out --source and put each kernel's source beside its CONFDIR",
        )  # fmt: skip
    plugins = registry.load()
    verdicts = []
    with progress(args.quiet) as say:
        for config in args.config:
            for patch in args.patches:
                verdict = _verdict(args, patch, config, plugins, say)
                if not args.json:
                    print("\n".join(lines(verdict)), flush=True)
                verdicts.append(verdict)
    if args.json:
        print(json.dumps({"patches": [as_json(each) for each in verdicts]}, indent=2))
    elif len(verdicts) > 1:
        counts = ((sum(each.word == word for each in verdicts), word) for word in reversed(_STATUS))
        print(f"{len(verdicts)} checked: {', '.join(f'{count} {_WORDS[word]}' for count, word in counts)}")
    return next(_STATUS[word] for word in _STATUS if any(each.word == word for each in verdicts))


def _verdict(args: argparse.Namespace, patch: Path, config: Path, plugins: Registry, say: Say) -> Verdict:
    if len(args.patches) > 1 or len(args.config) > 1:
        say(f"checking {patch} for {config}")
    try:
        asked = request_of(args, patch, config, args.source or source_of(config), _ID)
        return Verdict(patch, config, "applies", check(asked, plugins, say))
    except NothingChanged:
        return Verdict(patch, config, "nothing")
    except Refused as refused:
        return Verdict(patch, config, "refused", problem=refused)
    except KdiffError as error:
        return Verdict(patch, config, "error", problem=error)


def source_of(config: Path) -> Path:
    """The source that belongs to a CONFDIR as `kdiff setup` lays it out."""
    places = (config.parent / "source", config / "source")
    return next((each for each in places if each.is_dir()), places[0])


# For people ------------------------------------------------------------------------------------------

_WORDS = {"error": "in error", "refused": "refused", "applies": "apply", "nothing": "change nothing"}


def lines(verdict: Verdict) -> Iterator[str]:
    """A verdict in words: one clear line, then what it rests on."""
    if verdict.found is not None:
        yield from _applies(verdict, verdict.found)
    elif isinstance(verdict.problem, Refused):
        yield f"{verdict.patch}: REFUSED, {len(verdict.problem.refusals)} reason(s)"
        for each in verdict.problem.refusals:
            yield f"  {each.key}: {each.place}: {each.reason}"
            if each.remedy:
                yield f"    what to do: {each.remedy}"
            yield from (f"      {detail}" for detail in each.details)
    elif verdict.problem is not None:
        yield f"{verdict.patch}: ERROR, {verdict.problem.key}: {verdict.problem}"
        yield from (f"      {detail}" for detail in verdict.problem.details)
    else:
        yield f"{verdict.patch}: CHANGES NOTHING in the code of this kernel"


def _applies(verdict: Verdict, found: Checked) -> Iterator[str]:
    yield f"{verdict.patch}: APPLIES to {found.facts.release} ({found.memory.name})"
    for each in found.update.replacements:
        yield f"  replaces  {each.name}{_where(each.target, each.address)}, {each.size} bytes"
    for kind, name, size in carried(found):
        yield f"  carries   {kind} {name}, {size} bytes"
    for change in found.types.accepted(found.request.accept_layouts):
        yield f"  accepted  {change.title}: {'; '.join(change.what)}"
    for fresh in found.update.fresh:
        types = ", ".join(fresh.types)
        yield f"  demands   module {fresh.module} to be loaded later, for new layouts: {types}"
    for value in found.update.initial:
        where = f"{value.variable.name}+{value.offset:#x} of module {value.variable.owner}"
        yield f"  sets      {where} from {value.old.hex()} to {value.new.hex()} when it is loaded"
    for note in found.types.notes:
        yield f"  note      {note}"
    for borrowed in found.update.borrowed:
        yield (
            f"  borrows   {borrowed.name}{_where(borrowed.owner, borrowed.address)}, by {borrowed.how.value};"
            f" proved by {borrowed.learned}"
        )
    for unit in proved(found):
        yield (
            f"  matched   {unit['matched']} of {unit['functions']} functions of {unit['unit']},"
            f" {unit['bytes']} bytes of code, {unit['data']} constants and strings"
        )


def _where(owner: str, address: int) -> str:
    """Where something of the kernel is; of a module that is known when it is loaded."""
    return f" at {address:#x}" if owner == KERNEL else f" of module {owner}"


def carried(found: Checked) -> Iterator[tuple[str, str, int]]:
    """(kind, name, size) of what travels and is new: the successors of what is replaced excepted."""
    for plan in found.plans:
        successors = {post for _, post in plan.replaced}
        for index in plan.carried:
            node = plan.post.nodes[index]
            if index not in successors and is_listed(node):
                yield node.kind.value, node.label, node.size


def proved(found: Checked) -> Iterator[dict[str, object]]:
    """For each unit how much of it was found in memory."""
    for run in found.runs:
        functions = functions_of(run)
        matches = [run.matches[node.id] for node in functions if node.id in run.matches]
        others = sum(run.graph.nodes[index].kind in (Kind.CONSTANT, Kind.STRING) for index in run.matches)
        yield {
            "unit": run.graph.obj.path,
            "target": run.owner,
            "functions": len(functions),
            "matched": len(matches),
            "bytes": sum(each.size for each in matches),
            "data": others,
            "left": [
                {"name": node.label, "key": run.open[node.id].key, "reason": run.open[node.id].reason}
                for node in functions
                if node.id not in run.matches
            ],
        }


# For programs ----------------------------------------------------------------------------------------


def as_json(verdict: Verdict) -> dict[str, object]:
    """A verdict as a JSON object."""
    shown: dict[str, object] = {
        "patch": str(verdict.patch),
        "config": str(verdict.config),
        "verdict": verdict.word,
    }
    if verdict.problem is not None:
        shown |= json_of(verdict.problem)
    if verdict.found is None:
        return shown
    found = verdict.found
    return shown | {
        "release": found.facts.release,
        "memory": found.memory.name,
        "replaced": [
            {
                "name": each.name,
                "position": each.position,
                "target": each.target,
                "address": each.address if each.target == KERNEL else None,
                "size": each.size,
            }
            for each in found.update.replacements
        ],
        "carried": [{"kind": kind, "name": name, "size": size} for kind, name, size in carried(found)],
        "borrowed": [asdict(each) | {"how": each.how.value} for each in found.update.borrowed],
        "accepted_layouts": [
            {"name": each.title, "changes": list(each.what)}
            for each in found.types.accepted(found.request.accept_layouts)
        ],
        "fresh": [each._asdict() for each in found.update.fresh],
        "initial": initial_as_json(found.update),
        "notes": list(found.types.notes),
        "units": list(proved(found)),
    }

# SPDX-License-Identifier: Apache-2.0
"""Does `kdiff diff` see in pairs of real kernel objects what was edited, and nothing else?

Each file of benchmarks/pairs is a small patch for Linux with what a reader of the source expects of it: which
functions change, what is new, or why it must be refused. Each is built for several releases, configurations
and architectures (pairlab.py) and compared by the command itself, in this process. Beside the expectation,
laws are checked: an object is the same as itself, a swapped pair swaps added and removed, and what
`--extract` writes satisfies readelf, objdump and ld.

    python benchmarks/bench_pairs.py [--build] [--only REGEX] [--where RELEASE/BUILD] [--json FILE]

Expectations, one a line in a patch's header; names are without the suffixes that compilers add:

    Expect: changed NAME|OTHER   one of these functions is replaced
    Expect: changed NAME?        may be replaced: depends on what the compiler puts into its callers
    Expect: new NAME             this function or variable is new
    Expect: refused KEY|KEY      refused with this key
    Expect: constant NAME        this constant changes: refused or written in place, never overlooked
    Expect: nothing              nothing changed
    Expect[BUILD]: ...           instead, for the builds whose name begins so
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pairlab
from pairlab import Build, Case

from kdiff.cli.main import main as kdiff
from kdiff.elf.read import read

Answer = dict[str, Any]
PARTS = re.compile(r"\.(isra|constprop|part|cold|llvm)\b.*$|\.\d+$")
REMADE = re.compile(
    r"^(__func__|__FUNCTION__|__PRETTY_FUNCTION__|__UNIQUE_ID_.*|__warned|__already_done|__print_once|___done|__key"
    r"|_rs|_entry|_entry_ptr|CSWTCH|switch\.table.*|\.L.*|.*__flags|descriptor|__param_str_.*|__ksym.*|__kstrtab.*|__compound.*)$"
)
"""What macros and compilers add by themselves; a reader of a patch does not count it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One pair's result."""

    release: str
    build: str
    case: str
    wrong: tuple[str, ...]
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", action="store_true", help="make the objects that are missing")
    parser.add_argument("--only", default="", metavar="REGEX", help="only patches whose name matches")
    parser.add_argument("--where", default="", metavar="REGEX", help="only these builds: 6.1/x86-debug")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    parser.add_argument("--no-laws", action="store_true", help="check the expectations only")
    given = parser.parse_args()
    chosen = [b for b in pairlab.builds() if re.search(given.where, f"{b.release}/{b.name}")]
    wanted = pairlab.cases(given.only)
    if given.build:
        pairlab.build_all(chosen, wanted)
    outcomes = []
    for build in chosen:
        for case in wanted:
            if case.about(build) and case.pre(build).exists() and case.post(build).exists():
                outcomes.append(judge(build, case, laws=not given.no_laws))
                _show(outcomes[-1])
    right = sum(not each.wrong for each in outcomes)
    seconds = sum(each.seconds for each in outcomes)
    print(f"{right} of {len(outcomes)} pairs right; {seconds / max(len(outcomes), 1):.2f} s CPU a pair")
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
    return 0 if right == len(outcomes) else 1


def _show(outcome: Outcome) -> None:
    verdict = "ok" if not outcome.wrong else "WRONG"
    print(f"{verdict:5} {outcome.release}/{outcome.build} {outcome.case} {outcome.seconds:.2f}", flush=True)
    for line in outcome.wrong:
        print(f"      {line}", flush=True)


def judge(build: Build, case: Case, laws: bool) -> Outcome:
    """Compare one pair and say what is not as it should be."""
    pre, post = case.pre(build), case.post(build)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.o"
        status, answer, error, seconds = _diff(pre, post, "--extract", str(out))
        if answer is None:
            return Outcome(build.release, build.name, case.name, (f"status {status}: {error}",), seconds)
        wrong = [*_expected(case, build, status, answer)]
        if laws:
            wrong += [*_laws(pre, post, answer), *(_tools(build, out) if out.exists() else ())]
    return Outcome(build.release, build.name, case.name, tuple(wrong), seconds)


def _diff(*words: str | Path) -> tuple[int, Answer | None, str, float]:
    shown, said = io.StringIO(), io.StringIO()
    start = time.process_time()
    with redirect_stdout(shown), redirect_stderr(said):
        try:
            status = kdiff(["diff", "--json", *map(str, words)])
        except Exception as error:  # a crash is a result, too
            return 70, None, f"crash: {error!r}", time.process_time() - start
    seconds = time.process_time() - start
    try:
        answer = json.loads(shown.getvalue())
    except ValueError:
        answer = None
    return status, answer, said.getvalue().strip()[:300], seconds


# Expectations ----------------------------------------------------------------------------------------


def _stem(name: str) -> str:
    """A name without what compilers add: gcc's `f.isra.0` and `count.3`, clang's `f.count`, `__func__.f`."""
    while PARTS.search(name):
        name = PARTS.sub("", name)
    first, _, last = name.partition(".")
    return name if not first else first if not last or REMADE.match(first) else last


def _expected(case: Case, build: Build, status: int, answer: Answer) -> Iterator[str]:
    own = [e for e in case.expected if e[2] and f"{build.release}/{build.name}".find(e[2]) >= 0]
    rows = own or [each for each in case.expected if not each[2]]
    refused = [what for verb, what, _ in rows if verb == "refused"]
    keys = {each["key"] for each in answer["refusals"]}
    if refused:
        for what in refused:
            if not keys & set(what.split("|")):
                yield f"not refused with {what} but {sorted(keys) or 'not at all'}, status {status}"
        return
    constants = {what for verb, what, _ in rows if verb == "constant"}
    if constants:
        found = {_stem(c["name"]) for c in answer["changed"]}
        yield from (f"overlooked: {name}" for name in sorted(constants - found))
        if status != 3 or keys - {"review.constant_changed", "review.data_changed"}:
            yield from () if status == 0 and not keys else (f"status {status}, {sorted(keys)}",)
        return
    changed = {
        _stem(c["name"]) for c in answer["changed"] if c["kind"] == "function" and ".cold" not in c["name"]
    }
    added = {_stem(name) for name in answer["added"]}
    added = {name for name in added & _defined(case.post(build)) if not REMADE.match(name)}
    if keys:
        reasons = [each["reason"] for each in answer["refusals"]][:2]
        yield f"refused with {sorted(keys)}: {reasons}"
    known: set[str] = set()
    for verb, what, _ in rows:
        names = {name.rstrip("?") for name in what.split("|")}
        known |= names
        found = changed if verb == "changed" else added
        if verb in ("changed", "new") and "?" not in what and not names & found:
            yield f"missed: {verb} {what}"
    for name in sorted(changed - known):
        causes = next(c["causes"] for c in answer["changed"] if _stem(c["name"]) == name)
        yield f"nobody touched {name}: {causes[0]['text']} at {causes[0]['offset']}"
    for name in sorted(added - known):
        yield f"nobody added {name}"
    wanted = 66 if not changed else 0
    if not keys and status != wanted:
        yield f"status {status}, not {wanted}"


def _defined(file: Path) -> set[str]:
    """Stems of all names an object defines: what is only referred to is not new."""
    obj = read(file)
    return {_stem(obj.symbol_name(i)) for i in np.flatnonzero(obj.symbols["section"] > 0).tolist()}


# Laws ------------------------------------------------------------------------------------------------


def _laws(pre: Path, post: Path, answer: Answer) -> Iterator[str]:
    for each in (pre, post):
        status, same, error, _ = _diff(each, each)
        if same is None or status != 66 or same["changed"] or same["added"] or same["removed"]:
            yield f"not the same as itself: status {status} {error}"
    _, back, error, _ = _diff(post, pre)
    if back is None:
        yield f"swapped: {error}"
    elif sorted(back["removed"]) != sorted(answer["added"]) or sorted(back["added"]) != sorted(
        answer["removed"]
    ):
        yield f"swapped: adds {back['added']}, removes {back['removed']}"


_CROSS = {"ppc64le": "powerpc64le-linux-gnu-", "s390x": "s390x-linux-gnu-", "arm64": "aarch64-linux-gnu-"}
_LLVM = {"readelf": "llvm-readelf-19", "objdump": "llvm-objdump-19", "ld": "ld.lld-19"}


def _tool(build: Build, name: str) -> str:
    machine = build.name.removesuffix("-debug")
    return _LLVM[name] if machine == "loongarch" else _CROSS.get(machine, "") + name


def _tools(build: Build, out: Path) -> Iterator[str]:
    linked = out.with_suffix(".linked")
    for words in (("readelf", "-aW", out), ("objdump", "-dr", out), ("ld", "-r", "-o", linked, out)):
        command = (_tool(build, str(words[0])), *map(str, words[1:]))
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            yield f"no {command[0]}"
            continue
        if ran.returncode or ran.stderr.strip():
            yield f"{words[0]}: {ran.stderr.strip()[:200] or ran.returncode}"


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""How many real fixes become updates: a corpus of patches out of two of Debian's point releases.

    python benchmarks/bench_corpus.py split units create guest report [--limit 400]

Phases may be given one at a time; what is done is kept below $XDG_CACHE_HOME/kdiff/corpus and not done again.
docs/corpus.md says which patches are counted, and what came out.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from corpus import (
    built,
    changelog,
    creating,
    guests,
    hunks,
    manifest,
    outcomes,
    page,
    report,
    split,
    ties,
    trees,
)
from releaselab import say

PHASES = ("split", "units", "create", "guest", "report")
MANIFESTS = Path(__file__).parent / "corpus"


def main() -> int:
    """Run the phase that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--from", dest="before", default="6.1.176-1", metavar="VERSION", help="of the running kernel"
    )
    parser.add_argument(
        "--to", dest="after", default="6.1.187-1", metavar="VERSION", help="of the fixed source"
    )
    parser.add_argument("-j", "--jobs", type=int, default=2, metavar="N", help="make jobs")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="take them in another order than the list's own"
    )
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="take only the first N of that order"
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="take ids, kinds or paths that match")
    parser.add_argument("--again", default="", metavar="REGEX", help="forget outcomes and keys that match")
    parser.add_argument(
        "--longest", type=int, default=creating.LONGEST, metavar="SECONDS", help="give up an update then"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("corpus"), metavar="DIR", help="where the report goes"
    )
    parser.add_argument("phases", nargs="+", choices=PHASES, metavar="PHASE", help=", ".join(PHASES))
    asked = parser.parse_args()
    both = trees.trees(asked.before, asked.after)
    if "split" in asked.phases:
        cut(both, asked.jobs)
    rows = chosen(manifest.read(listing(both)), asked.seed, asked.limit, asked.only)
    if "units" in asked.phases:
        creating.build_pristine(both, rows, asked.jobs)
    if "create" in asked.phases:
        done = outcomes.created(both.store / "created")
        waiting = [row for row in rows if wanting(done.get(row.id), asked.again)]
        creating.create_all(both, waiting, asked.jobs, asked.longest)
    if "guest" in asked.phases:
        made, tried = outcomes.created(both.store / "created"), outcomes.tried(both.store / "tried")
        updates = [made[row.id] for row in rows if row.id in made and made[row.id].result == "update"]
        guests.try_all(both, [each for each in updates if wanting(tried.get(each.id), asked.again)])
    if "report" in asked.phases:
        made, tried = outcomes.created(both.store / "created"), outcomes.tried(both.store / "tried")
        write_report(both, report.cases(rows, made, tried), asked.out)
    return 0


def write_report(both: trees.Trees, found: tuple[report.Case, ...], folder: Path) -> None:
    """Write corpus.md, corpus.json and corpus.html, and print the first."""
    title = f"Fixes of linux {both.after} as updates of {both.before} ({both.kernel.abi})"
    folder.mkdir(parents=True, exist_ok=True)
    text = report.markdown(found, title)
    (folder / "corpus.md").write_text(text)
    (folder / "corpus.json").write_text(json.dumps(report.as_json(found), indent=1) + "\n")
    (folder / "corpus.html").write_text(page.page(found, title))
    print(text)


def listing(both: trees.Trees) -> Path:
    """The manifest's file."""
    return MANIFESTS / f"{both.before}_{both.after}.tsv"


def chosen(rows: Sequence[manifest.Row], seed: int | None, limit: int, only: str) -> list[manifest.Row]:
    """The rows to take, in the list's order or one that `seed` decides."""
    found = list(rows)
    if seed is not None:
        Random(seed).shuffle(found)
    fitting = [row for row in found if re.search(only, " ".join((row.id, row.kind, *row.paths)))]
    return fitting[: limit or None]


def wanting(outcome: outcomes.Created | outcomes.Tried | None, again: str) -> bool:
    """Whether a candidate is still to be done, or done again."""
    if outcome is None:
        return True
    keys = outcome.keys if isinstance(outcome, outcomes.Created) else ()
    return bool(again) and any(re.search(again, each) for each in (outcome.id, outcome.result, *keys))


def cut(both: trees.Trees, jobs: int) -> None:
    """Write the manifest, and every candidate as a patch into the store."""
    say(f"comparing {both.before} with {both.after}")
    found = hunks.difference(both.kernel.source, both.fixed)
    say(f"{len(found)} hunks; looking for their words in both trees")
    words = split.known_words(found, both.kernel.source, both.fixed)
    candidates = split.split(found, *words, ties.find(found, both.kernel.source, both.fixed))
    reach = built.reaching(both.kernel, {hunk.path for hunk in found}, both.fixed, jobs)
    wanted = built.kept(candidates, reach)
    fixes = changelog.entries(both.changelog, both.before)
    listed = manifest.rows(wanted, changelog.attached(wanted, fixes))
    folder = both.store / "patches"
    folder.mkdir(parents=True, exist_ok=True)
    for each in wanted:
        (folder / f"{each.id}.patch").write_text(each.patch, "utf-8", "surrogateescape")
    earlier = manifest.read(listing(both)) if listing(both).exists() else ()
    listed = manifest.placed(listed, earlier)
    manifest.write(listing(both), listed)
    kinds = ", ".join(
        f"{number} {kind}" for kind, number in sorted(Counter(row.kind for row in listed).items())
    )
    say(f"{len(candidates)} candidates, {len(listed)} of them built for this kernel: {kinds}")
    cves = {cve for row in listed for cve in row.cves}
    say(f"{len(cves)} CVE ids for {sum(bool(row.cves) for row in listed)} of them, {len(fixes)} fixes listed")


if __name__ == "__main__":
    raise SystemExit(main())

# SPDX-License-Identifier: Apache-2.0
"""What a run of the corpus counts and leaves out, by the rule that docs/corpus.md gives."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from corpus import outcomes
from corpus.creating import guarded
from corpus.guests import BATCH, batches
from corpus.manifest import Row
from corpus.outcomes import Created, Reason, Tried
from corpus.page import page
from corpus.report import Case, as_json, cases, keys, markdown, share

from kdiff.errors import KdiffError, NothingChanged, Refusal, Refused

ROW = Row("a", "c", "later", 1, 2, 3, ("CVE-1-2",), ("net/<a>.c",))
UPDATE = Created("a", "update", units=("net/a.c",), targets=("vmlinux",), functions=("vmlinux:f",))


def refused(
    *names: str, functions: tuple[str, ...] = ("vmlinux:f",), units: tuple[str, ...] = ("a.c",)
) -> Created:
    return Created(
        "a", "refused", tuple(Reason(name, "p", "t") for name in names), units=units, functions=functions
    )


@pytest.mark.parametrize(
    ("created", "tried", "outcome", "counted"),
    [
        (UPDATE, Tried("a", "held"), "held", True),
        (UPDATE, None, "untried", True),
        (UPDATE, Tried("a", "log"), "log", True),
        (refused("review.layout_changed"), None, "refused", True),
        (refused("review.init_code"), None, "refused", True),
        (refused("review.init_code", functions=()), None, "boot", False),
        (refused("review.data_changed", functions=()), None, "data", False),
        (refused("review.init_code", "review.data_changed", functions=()), None, "data", False),
        (refused("patch.header", functions=(), units=()), None, "refused", True),
        (Created("a", "nothing"), None, "nothing", False),
        (Created("a", "uncompilable"), None, "uncompilable", False),
        (Created("a", "crash"), None, "crash", True),
        (Created("a", "slow"), None, "slow", True),
        (Created("a", "error"), None, "error", True),
    ],
)
def test_who_is_counted(created: Created, tried: Tried | None, outcome: str, counted: bool) -> None:
    case = Case(ROW, created, tried)
    assert (case.outcome, case.counted) == (outcome, counted)


def sample() -> tuple[Case, ...]:
    rows = [replace(ROW, id=name) for name in "abcde"]
    made = {
        "a": UPDATE,
        "b": replace(UPDATE, id="b"),
        "c": replace(refused("x.y", "x.z"), id="c"),
        "d": replace(refused("x.y"), id="d"),
    }
    return cases(rows, made, {"a": Tried("a", "held", loaded=("m",), apply=2.0, undo=1.0)})


def test_shares_are_of_what_counts_and_has_been_created() -> None:
    assert len(sample()) == 4
    assert share(sample()) == (1, 2, 4)
    assert keys(sample()) == [("x.y", 2, 1), ("x.z", 1, 0)]


def test_the_reports_say_the_same() -> None:
    assert "2 (50.0 %) became an update, and 1 (25.0 %)" in markdown(sample(), "T")
    told = as_json(sample())
    assert (told["counted"], told["updates"], told["held"]) == (4, 2, 1)
    assert told["keys"] == {"x.y": {"any": 2, "alone": 1}, "x.z": {"any": 1, "alone": 0}}


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    text = page(sample(), "T & U")
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(tag)
            assert not {"src", "href"} & {name for name, _ in attrs}

    Reader().feed(text)
    assert found.count("svg") == 2
    assert found.count("tr") == 5
    assert "net/&lt;a&gt;.c" in text
    assert "T &amp; U" in text


def test_outcomes_come_back_from_their_files(tmp_path: Path) -> None:
    first = replace(refused("x.y"), id="c", wall=1.5)
    second = Tried("a", "held", loaded=("m",), apply=2.0)
    outcomes.save(tmp_path / "created", first)
    outcomes.save(tmp_path / "tried", second)
    assert outcomes.created(tmp_path / "created") == {"c": first}
    assert outcomes.tried(tmp_path / "tried") == {"a": second}


def test_no_two_updates_of_a_batch_replace_one_function() -> None:
    updates = [replace(UPDATE, id=str(n), functions=(f"vmlinux:f{n % 15}", f"m:g{n}")) for n in range(40)]
    found = list(batches(updates))
    assert sorted(each.id for batch in found for each in batch) == sorted(each.id for each in updates)
    for batch in found:
        names = [name for each in batch for name in each.functions]
        assert len(names) == len(set(names))
        assert len(batch) <= BATCH


def raising(error: BaseException) -> Created:
    def make() -> Created:
        raise error

    return guarded("a", make)


def test_each_way_to_end_has_its_name() -> None:
    assert raising(NothingChanged()).result == "nothing"
    assert raising(KdiffError("build.post", "x")).result == "uncompilable"
    assert raising(KdiffError("emit.build", "x", place="p")) == Created(
        "a", "error", (Reason("emit.build", "p", "x"),)
    )
    found = raising(Refused(Refusal("a.b", "p", "r"), Refusal("a.c", "q", "s")))
    assert (found.result, found.keys) == ("refused", ("a.b", "a.c"))
    crashed = raising(AssertionError("why"))
    assert (crashed.result, crashed.keys) == ("crash", ("AssertionError",))
    with pytest.raises(KeyboardInterrupt):
        raising(KeyboardInterrupt())


def test_what_takes_too_long_is_given_up_and_says_so() -> None:
    found = guarded("a", lambda: time.sleep(30) or Created("a", "update"), longest=1)
    assert (found.result, found.reasons[0].text) == ("slow", "took more than 1 seconds")

# SPDX-License-Identifier: Apache-2.0
"""Tests of kdiff.pairs: what the author pins and forbids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compiled import compiled, graph, named

from kdiff.cli import main
from kdiff.correlate import Pairing, correlate
from kdiff.errors import KdiffError
from kdiff.graph import SectionGraph
from kdiff.naming import stem
from kdiff.pairs import beside, check_units, object_unit, read_pairs, wishes

UP, DOWN = "{ static int n = 1; far(n++); }", "{ static int n = 1; far(n--); }"
BLOCKS = "int far(int); int other(void) {{ return 1; }} int f(int a) {{ {} return 0; }}"
PRE, POST = BLOCKS.format(UP + DOWN), BLOCKS.format(DOWN + UP)


def statics(found: SectionGraph) -> list[str]:
    return sorted(node.name for node in found.nodes if stem(node.name) == "n")


def paired(text: str, tmp_path: Path) -> tuple[SectionGraph, SectionGraph, Pairing]:
    path = tmp_path / "f.pairs.toml"
    path.write_text(text)
    file = read_pairs(path)
    pre, post = graph(PRE), graph(POST)
    return pre, post, correlate(pre, post, wishes(file, (*file.pin, *file.forbid), pre, post))


def rows(*pairs: tuple[str, ...]) -> str:
    return json.dumps([list(each) for each in pairs])


def test_a_pair_that_is_not_sure_has_the_others_as_alternatives() -> None:
    pre, post = graph(PRE), graph(POST)
    pairing = correlate(pre, post)
    ours = {named(pre, name).id for name in statics(pre)}
    assert len(ours) == 2
    for one in ours:
        pair = pairing.by_pre[one]
        assert not pair.sure
        assert {pair.pre, *pair.alternatives} == ours


@pytest.mark.parametrize("crossed", [False, True])
def test_a_pin_makes_a_pair_and_makes_it_sure(tmp_path: Path, crossed: bool) -> None:
    before, after = statics(graph(PRE)), statics(graph(POST))[:: -1 if crossed else 1]
    wanted = list(zip(before, after, strict=True))
    pre, post, pairing = paired(f"pin = {rows(*wanted)}", tmp_path)
    for one, other in wanted:
        pair = pairing.by_pre[named(pre, one).id]
        assert (pair.post, pair.how, pair.sure) == (named(post, other).id, "pinned", True)


def test_a_forbidden_pair_is_not_made(tmp_path: Path) -> None:
    before, after = statics(graph(PRE)), statics(graph(POST))
    every = [(one, other) for one in before for other in after]
    pre, post, pairing = paired(f"forbid = {rows(*every)}", tmp_path)
    assert not any(named(pre, name).id in pairing.by_pre for name in before)
    assert not any(named(post, name).id in pairing.by_post for name in after)


def test_a_function_may_be_forbidden_its_namesake(tmp_path: Path) -> None:
    pre, _, pairing = paired('forbid = [["other", "other"]]', tmp_path)
    assert named(pre, "other").id not in pairing.by_pre


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("pin = ", "pairs.malformed"),
        ("pins = []", "pairs.malformed"),
        ("pin = 3", "pairs.malformed"),
        ('pin = [["a"]]', "pairs.malformed"),
        ('pin = [["a", 3]]', "pairs.malformed"),
        ('pin = [["", "f"]]', "pairs.malformed"),
        ('forbid = [["f", "nowhere"]]', "pairs.unknown"),
        ('pin = [["far", "f"]]', "pairs.unknown"),
        ('pin = [["f", "n.0"]]', "pairs.kind"),
        ('pin = [["f", "f"], ["f", "other"]]', "pairs.repeated"),
        ('pin = [["f", "f"], ["other", "f"]]', "pairs.repeated"),
        ('pin = [["f", "f"]]\nforbid = [["f", "f"]]', "pairs.contradiction"),
    ],
)
def test_what_no_pair_can_be_is_one_error(tmp_path: Path, text: str, key: str) -> None:
    numbered = statics(graph(POST))[0]
    with pytest.raises(KdiffError) as caught:
        paired(text.replace("n.0", numbered), tmp_path)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        read_pairs(tmp_path / "nowhere.toml")
    assert caught.value.key == "pairs.unreadable"


def test_an_entry_may_name_its_unit(tmp_path: Path) -> None:
    path = tmp_path / "f.pairs.toml"
    path.write_text('pin = [["kernel/fork.c", "a", "b"], ["c", "d"]]')
    file = read_pairs(path)
    assert [object_unit(each, Path("post/fork.o")) for each in file.pin] == [True, True]
    assert [object_unit(each, Path("post/exit.o")) for each in file.pin] == [False, True]
    check_units(file, ["kernel/fork.c"])
    with pytest.raises(KdiffError) as caught:
        check_units(file, ["kernel/exit.c"])
    assert caught.value.key == "pairs.unit"


def test_the_file_beside_a_patch_is_found_by_its_name(tmp_path: Path) -> None:
    assert beside(tmp_path / "fix.patch") is None
    (tmp_path / "fix.patch.pairs.toml").write_text("")
    assert beside(tmp_path / "fix.patch") == tmp_path / "fix.patch.pairs.toml"


def test_diff_shows_alternatives_until_they_are_pinned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pre, post, pairs = (tmp_path / name for name in ("pre.o", "post.o", "pairs.toml"))
    pre.write_bytes(compiled(PRE))
    post.write_bytes(compiled(POST))
    before, after = statics(graph(PRE)), statics(graph(POST))
    assert main.main(["diff", str(pre), str(post)]) == 3
    shown = capsys.readouterr().out
    assert shown.count("unsure ") == 2
    assert "correlate.ambiguous" in shown
    assert main.main(["diff", "--json", str(pre), str(post)]) == 3
    unsure = json.loads(capsys.readouterr().out)["unsure"]
    assert {each["how"] for each in unsure} == {"order of use"}
    assert sorted(name for each in unsure for name in (each["pre"], *each["alternatives"])) == sorted(
        before * 2
    )
    pairs.write_text(f"pin = {rows(*zip(before, after, strict=True))}")
    assert main.main(["diff", "--pairs", str(pairs), str(pre), str(post)]) == 0
    assert "unsure " not in capsys.readouterr().out

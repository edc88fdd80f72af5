# SPDX-License-Identifier: Apache-2.0
"""A comparison as one page for a browser, with nothing outside of it.

In: a plan, its refusals, and both line tables. Out: HTML text: a summary, what speaks against the change, the
change graph as a picture, and each changed function's instructions before and after, side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from kdiff.diff import Change
from kdiff.dwarflines import SourceLines
from kdiff.errors import Refusal
from kdiff.graph import Node, SectionGraph
from kdiff.inplace_text import changes, reason
from kdiff.listing import Line, Row, side_by_side
from kdiff.picture import svg
from kdiff.plan import Plan
from kdiff.split import Kind

_CONTEXT = 6
"""Equal instructions shown around those that differ; longer runs of them are folded."""
_SHORT = 4
"""Instructions that it would not be worth to fold."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #686e76; --paper: #ffffff; --line: #d9dce0;
  --replaced: #c2410c; --replaced-bg: #ffedd5; --carried: #1d4ed8; --carried-bg: #dbeafe;
  --borrowed: #5b6169; --borrowed-bg: #eef0f2; --gone-bg: #ffe9e7; --new-bg: #e2f6e5; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e4e6e9; --dim: #989fa8; --paper: #16181b; --line: #34383d;
  --replaced: #fb923c; --replaced-bg: #3b2212; --carried: #7fb0ff; --carried-bg: #172a4a;
  --borrowed: #a6adb5; --borrowed-bg: #25282c; --gone-bg: #45211f; --new-bg: #1a3a22; --bad: #f87171; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 32px 64px; max-width: 1500px;
  color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 28px 0 6px; font-family: ui-monospace, monospace; }
p { margin: 4px 0; } .dim { color: var(--dim); } .bad { color: var(--bad); }
code { overflow-wrap: anywhere; }
code, .asm, .graph text { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12px; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 8px 0; }
.number { font-size: 22px; font-weight: 600; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
.legend span { display: inline-block; margin-right: 18px; }
.legend i { display: inline-block; width: 14px; height: 14px; border-radius: 3px; border: 1.5px solid;
  vertical-align: -2px; margin-right: 6px; }
.legend .replaced { background: var(--replaced-bg); border-color: var(--replaced); }
.legend .carried { background: var(--carried-bg); border-color: var(--carried); }
.legend .borrowed { background: var(--borrowed-bg); border-color: var(--borrowed); }
.graph { display: block; min-width: 100%; }
.graph rect { stroke-width: 1.2; } .graph text { fill: var(--ink); font-size: 11px; }
.graph .replaced rect { fill: var(--replaced-bg); stroke: var(--replaced); }
.graph .carried rect { fill: var(--carried-bg); stroke: var(--carried); }
.graph .borrowed rect { fill: var(--borrowed-bg); stroke: var(--borrowed); }
.graph path { fill: none; stroke: var(--borrowed); stroke-width: 1; opacity: .45; }
.graph path.to-carried, .graph path.to-replaced { stroke: var(--carried); opacity: .75; }
.graph path:hover { stroke: var(--replaced); stroke-width: 2.5; opacity: 1; }
.asm { width: 100%; border-collapse: collapse; table-layout: fixed; }
.asm th { text-align: left; font-weight: 600; padding: 4px 8px; border-bottom: 1px solid var(--line); }
.asm td { padding: 0 8px; white-space: pre-wrap; overflow-wrap: anywhere; vertical-align: top; }
.asm .at { width: 60px; text-align: right; color: var(--dim); } .asm .src { width: 170px; color: var(--dim);
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis; direction: rtl; text-align: left; }
.asm .second { border-left: 1px solid var(--line); }
.asm .gone { background: var(--gone-bg); } .asm .new { background: var(--new-bg); }
summary { cursor: pointer; color: var(--dim); font-size: 12px; padding: 2px 8px;
  background: var(--borrowed-bg); }
ul { margin: 4px 0; padding-left: 20px; }
"""


def page(plan: Plan, refusals: Sequence[Refusal], before: SourceLines, after: SourceLines) -> str:
    """Make the page."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(_title(plan))}</title>",
        f"<style>{_STYLE}</style></head><body>",
        *_summary(plan),
        *_findings(refusals),
        *_graph(plan),
        *_in_place(plan),
        *_data(plan),
        *_functions(plan, before, after),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _title(plan: Plan) -> str:
    return f"kdiff: {plan.post.obj.path.rpartition('/')[2]}"


def _summary(plan: Plan) -> Iterator[str]:
    changed = [change for change in plan.delta.changed if _named(plan.post.nodes[change.post])]
    counts = (
        (len(plan.replaced), "replaced"),
        (len(plan.carried) - len(plan.replaced), "carried with them"),
        (len(plan.in_place), "written in place"),
        (len(plan.borrowed), "borrowed"),
        (len(changed), "changed"),
        (_count(plan.post, plan.delta.added), "added"),
        (_count(plan.pre, plan.delta.removed), "removed"),
        (_count(plan.pre, [pre for pre, _ in plan.delta.same]), "the same"),
    )
    yield f"<h1>{escape(_title(plan))}</h1>"
    yield (
        f'<p class="dim">before: <code>{escape(plan.pre.obj.path)}</code>, after:'
        f" <code>{escape(plan.post.obj.path)}</code>, {escape(plan.post.arch.name)}</p>"
    )
    yield '<div class="facts">'
    yield from (f'<div><span class="number">{count}</span><br>{name}</div>' for count, name in counts)
    yield "</div>"
    for name, ids, graph in (
        ("replaced", [post for _, post in plan.replaced], plan.post),
        ("written in place", [each.post for each in plan.in_place], plan.post),
        ("added", plan.delta.added, plan.post),
        ("removed", plan.delta.removed, plan.pre),
    ):
        labels = [graph.nodes[index].label for index in ids if _named(graph.nodes[index])]
        if labels:
            yield f"<p>{name}: {', '.join(f'<code>{escape(label)}</code>' for label in labels)}</p>"


def _named(node: Node) -> bool:
    return node.table is None and bool(node.names)


def _count(graph: SectionGraph, ids: Iterable[int]) -> int:
    return sum(_named(graph.nodes[index]) for index in ids)


def _findings(refusals: Sequence[Refusal]) -> Iterator[str]:
    yield "<h2>Findings</h2>"
    if not refusals:
        yield "<p>Nothing speaks against patching this into a running kernel.</p>"
        return
    yield "<ul>"
    for each in refusals:
        remedy = f' <span class="dim">{escape(each.remedy)}</span>' if each.remedy else ""
        yield (
            f'<li><code class="bad">{escape(each.key)}</code> {escape(each.reason)}'
            f" <code>{escape(each.place)}</code>{remedy}</li>"
        )
    yield "</ul>"


def _graph(plan: Plan) -> Iterator[str]:
    if not plan.carried:
        return
    yield "<h2>Change graph</h2>"
    yield (
        '<p class="legend"><span><i class="replaced"></i>replaced: redirected to the new version</span>'
        '<span><i class="carried"></i>carried: travels with it</span>'
        '<span><i class="borrowed"></i>borrowed: the kernel\'s own is used</span></p>'
    )
    yield f'<div class="scroll">{svg(plan)}</div>'


def _in_place(plan: Plan) -> Iterator[str]:
    """Constants that get new contents where they lie, and what is written."""
    if not plan.in_place:
        return
    yield "<h2>Written in place</h2>"
    yield '<p class="dim">No object holds these: they are written to the running kernel\'s own data.</p>'
    for item in plan.in_place:
        label = plan.post.nodes[item.post].label
        yield f'<h3 id="{escape(label)}">{escape(label)}</h3>'
        yield f'<p class="dim">{escape(reason(plan, item))}</p><ul>'
        yield from (f"<li><code>{escape(each)}</code></li>" for each in changes(plan, item))
        yield "</ul>"


def _data(plan: Plan) -> Iterator[str]:
    """What changed besides functions, in words."""
    in_place = {each.post for each in plan.in_place}
    found = [
        change
        for change in plan.delta.changed
        if _named(plan.post.nodes[change.post])
        and plan.post.nodes[change.post].kind is not Kind.FUNCTION
        and change.post not in in_place
    ]
    if found:
        yield "<h2>Changed data</h2><ul>"
        for change in found:
            causes = "; ".join(dict.fromkeys(cause.text for cause in change.causes))
            yield f"<li><code>{escape(plan.post.nodes[change.post].label)}</code>: {escape(causes)}</li>"
        yield "</ul>"


def _functions(plan: Plan, before: SourceLines, after: SourceLines) -> Iterator[str]:
    found = [change for change in plan.delta.changed if _is_function(plan, change)]
    if found:
        yield "<h2>Changed functions</h2>"
    for change in found:
        yield from _function(plan, change, before, after)


def _is_function(plan: Plan, change: Change) -> bool:
    pair = plan.pre.nodes[change.pre], plan.post.nodes[change.post]
    return all(node.kind is Kind.FUNCTION and not plan.post.is_piece(node) for node in pair)


def _function(plan: Plan, change: Change, before: SourceLines, after: SourceLines) -> Iterator[str]:
    one, other = plan.pre.nodes[change.pre], plan.post.nodes[change.post]
    rows = side_by_side(plan, change.pre, change.post)
    differ = sum(not row.same for row in rows)
    causes = dict.fromkeys(
        cause.text for cause in change.causes if cause.key != "entry" or len(change.causes) < 4
    )
    yield f'<h3 id="{escape(other.label)}">{escape(other.label)}</h3>'
    yield f'<p class="dim">{escape("; ".join(causes))}; {differ} of {len(rows)} lines differ</p>'
    yield '<div class="scroll">'
    cells = _Cells(one, other, before, after)
    yield f'<table class="asm">{_COLUMNS}{_HEAD}</table>'
    for fold, chunk in _chunks(rows):
        table = f'<table class="asm">{_COLUMNS}{"".join(cells.row(row) for row in chunk)}</table>'
        if fold:
            yield f"<details><summary>{len(chunk)} equal instructions</summary>{table}</details>"
        else:
            yield table
    yield "</div>"


_COLUMNS = "<colgroup>" + '<col style="width:60px"><col><col style="width:170px">' * 2 + "</colgroup>"
_HEAD = '<tr><th colspan="3">before</th><th colspan="3" class="second">after</th></tr>'


def _chunks(rows: Sequence[Row]) -> Iterator[tuple[bool, Sequence[Row]]]:
    """Cut rows into those that are shown and runs of equal ones that are folded."""
    shown = [False] * len(rows)
    for index, row in enumerate(rows):
        if not row.same:
            for near in range(max(index - _CONTEXT, 0), min(index + _CONTEXT + 1, len(rows))):
                shown[near] = True
    for index in range(1, len(rows) - 1):
        short = shown[index - 1] and any(shown[index + 1 : index + _SHORT])
        shown[index] = shown[index] or short
    start = 0
    for index in range(1, len(rows) + 1):
        if index == len(rows) or shown[index] != shown[start]:
            yield not shown[start], rows[start:index]
            start = index


class _Cells:
    """Makes the table rows of one function."""

    def __init__(self, one: Node, other: Node, before: SourceLines, after: SourceLines) -> None:
        self._sides = ((one, before, "gone", ""), (other, after, "new", " second"))

    def row(self, row: Row) -> str:
        cells = (
            self._cells(line, *side, same=row.same)
            for line, side in zip((row.before, row.after), self._sides, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    def _cells(
        self, line: Line | None, node: Node, table: SourceLines, mark: str, place: str, *, same: bool
    ) -> str:
        if line is None:
            return f'<td class="at{place}"></td><td></td><td class="src"></td>'
        found = table.at(node.section, node.start + line.offset)
        source = escape(str(found)) if found is not None else ""
        marked = "" if same else f" {mark}"
        return (
            f'<td class="at{place}{marked}">{line.offset:x}</td>'
            f'<td class="{marked.strip()}">{escape(line.text)}</td>'
            f'<td class="src{marked}" title="{source}">{source}</td>'
        )

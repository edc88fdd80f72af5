# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that needs nothing else: two charts and a table that can be searched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from html import escape

from corpus.report import COUNTED, NOT_COUNTED, Case, keys, share

_GOOD, _OPEN, _BAD, _APART = "#2a7f4f", "#c79a2b", "#b5452c", "#8a8f98"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; color: #1c1f24;
padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
svg text { font: 13px system-ui, sans-serif; fill: #1c1f24 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .25rem .5rem;
vertical-align: top; border-bottom: 1px solid #dde0e5; overflow-wrap: anywhere }
td:nth-child(1) { white-space: nowrap }
td:nth-child(3) { min-width: 9rem } details { max-width: 30rem }
input { font: inherit; width: 100%; box-sizing: border-box; padding: .4rem }
"""
_SCRIPT = """
const rows = [...document.querySelectorAll("tbody tr")];
document.querySelector("input").addEventListener("input", event => {
  const wanted = event.target.value.toLowerCase();
  for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
"""


def page(found: tuple[Case, ...], title: str) -> str:
    """The whole page."""
    held, made, counted = share(found)
    outcomes = Counter(case.outcome for case in found)
    bars = [
        (text, outcomes[name], {"held": _GOOD, "untried": _OPEN}.get(name, _BAD))
        for name, text in COUNTED.items()
        if outcomes[name]
    ]
    bars += [(text, outcomes[name], _APART) for name, text in NOT_COUNTED.items() if outcomes[name]]
    refusals = [(key, number, _BAD) for key, number, _ in keys(found)]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>"
        f"<p><b>{held} of {counted}</b> candidates that change code that exists at run time were applied,"
        f" survived a workload and were undone; {made} became an update. Grey: not counted.</p>"
        f"<h2>Outcomes</h2>{_chart(bars)}<h2>Why there is no update</h2>{_chart(refusals)}"
        '<h2>Candidates</h2><input placeholder="search: a path, a key, a CVE id, an outcome">'
        "<table><thead><tr><th>id<th>files<th>outcome<th>what was said</thead><tbody>"
        f"{''.join(map(_row, found))}</tbody></table><script>{_SCRIPT}</script></html>\n"
    )


def _chart(bars: Iterable[tuple[str, int, str]]) -> str:
    """Horizontal bars with their numbers."""
    bars = list(bars)
    most = max((number for _, number, _ in bars), default=1)
    parts = [f'<svg role="img" width="100%" viewBox="0 0 1000 {28 * len(bars)}">']
    for at, (text, number, colour) in enumerate(bars):
        width = 560 * number / most
        parts.append(
            f'<text x="360" y="{28 * at + 19}" text-anchor="end">{escape(text)}</text>'
            f'<rect x="370" y="{28 * at + 5}" width="{width:.1f}" height="19" fill="{colour}"/>'
            f'<text x="{376 + width:.1f}" y="{28 * at + 19}">{number}</text>'
        )
    return "".join(parts) + "</svg>"


def _row(case: Case) -> str:
    said = "\n".join(f"{each.key}: {each.place}: {each.text}" for each in case.created.reasons)
    said = said or (case.tried.detail if case.tried else "")
    about = " ".join((*case.row.paths, *case.row.cves))
    keyed = " ".join(case.created.keys)
    return (
        f"<tr><td>{case.row.id}<td>{escape(about)}<td>{escape(case.outcome)}<td>"
        + (
            f"<details><summary>{escape(keyed or said[:40])}</summary>{escape(said)}</details>"
            if said
            else ""
        )
        + "</tr>"
    )

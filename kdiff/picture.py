# SPDX-License-Identifier: Apache-2.0
"""The change graph as a picture: replaced, carried and borrowed nodes in layers, and who refers to whom.

In: a plan. Out: SVG text. Nodes stand in columns, each to the right of those that refer to it, replaced
functions first, what is borrowed last; within a column a node stands near its neighbours. The entries that a
function owns in one table are drawn as one node; where there is too much, so are strings and borrowed symbols
that the same code refers to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape

from kdiff.diff import string
from kdiff.graph import Node
from kdiff.plan import Plan
from kdiff.split import Kind
from kdiff.topology import topology

LIMIT = 100
"""Nodes that are drawn by themselves; beyond that, borrowed ones of one referrer are drawn as one."""
_ROW, _HEIGHT, _GAP, _CHARACTER, _LONGEST = 26, 20, 110, 6.7, 46


@dataclass(slots=True)
class Box:
    """One node of the picture; `kind` is replaced, carried or borrowed. Its upper left corner is at x, y."""

    key: str
    text: str
    kind: str
    title: str
    layer: int = 0
    x: float = 0
    y: float = 0
    width: float = 0


@dataclass(slots=True)
class Picture:
    """Boxes by key and the edges between them."""

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: set[tuple[str, str]] = field(default_factory=set)


def svg(plan: Plan) -> str:
    """Draw a plan's graph."""
    picture = _picture(plan)
    _layers(picture)
    columns = _columns(picture)
    width, height = _place(columns)
    parts = [
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
        ' xmlns="http://www.w3.org/2000/svg" role="img" aria-label="change graph">'
    ]
    parts += [_edge(picture.boxes[one], picture.boxes[other]) for one, other in sorted(picture.edges)]
    parts += [_box(box) for column in columns for box in column]
    return "\n".join((*parts, "</svg>"))


def _picture(plan: Plan) -> Picture:
    drawn = _drawn(plan)
    names = _names(plan, drawn, joined=False)
    if len({box.key for box in names.values()}) > LIMIT:
        names = _names(plan, drawn, joined=True)
    picture = Picture()
    for box in names.values():
        picture.boxes.setdefault(box.key, box)
    for source, target in topology(plan.post).subgraph(names).edges():
        one, other = names[source], names[target]
        if one.key != other.key and one.kind != "borrowed" and plan.post.owners.get(source) != target:
            picture.edges.add((one.key, other.key))
    return picture


def _drawn(plan: Plan) -> Mapping[int, str]:
    kinds = dict.fromkeys(plan.borrowed, "borrowed")
    kinds.update(dict.fromkeys(plan.carried, "carried"))
    kinds.update(dict.fromkeys((post for _, post in plan.replaced), "replaced"))
    return kinds


def _names(plan: Plan, kinds: Mapping[int, str], *, joined: bool) -> dict[int, Box]:
    """A box for each node; several nodes may share one."""
    users = _users(plan, kinds)
    groups: dict[str, list[Node]] = {}
    keys: dict[int, tuple[str, str]] = {}
    for index, kind in sorted(kinds.items()):
        node = plan.post.nodes[index]
        key = f"node {index}"
        if node.table is not None:
            owner = plan.post.owners.get(index)
            key = f"entries {node.section_name} {owner}"
        elif plan.post.is_piece(node):
            key = f"pieces {users.get(index)}"
        elif node.kind is Kind.STRING:
            key = f"strings {users.get(index)}" if joined else key
        elif kind == "borrowed" and joined:
            key = f"borrowed {users.get(index)}"
        groups.setdefault(key, []).append(node)
        keys[index] = key, kind
    return {index: _made(plan, key, kind, groups[key]) for index, (key, kind) in keys.items()}


def _users(plan: Plan, kinds: Mapping[int, str]) -> dict[int, tuple[int, ...]]:
    """Who refers to a node, among those that are carried."""
    found: dict[int, set[int]] = {}
    for source in plan.carried:
        for reference in plan.post.references[source]:
            if reference.target in kinds:
                found.setdefault(reference.target, set()).add(source)
    return {target: tuple(sorted(sources)) for target, sources in found.items()}


def _made(plan: Plan, key: str, kind: str, nodes: list[Node]) -> Box:
    first = nodes[0]
    text = first.label
    if first.kind is Kind.STRING:
        text = repr(string(plan.post, first))
    titles = [plan.post.where(node) if node.section else f"{node.label}, in another unit" for node in nodes]
    if first.table is not None:
        text = f"{len(nodes)} × {first.section_name}" if len(nodes) > 1 else first.section_name
        titles = titles[:1]
    elif len(nodes) > 1:
        what = {"strings": "strings", "borrowed": "borrowed symbols", "pieces": "replacement sequences"}
        text = f"{len(nodes)} {what[key.partition(' ')[0]]}"
        titles = [node.label for node in nodes]
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return Box(key, short, kind, "\n".join(titles), width=len(short) * _CHARACTER + 16)


# Layout ----------------------------------------------------------------------------------------------


def _layers(picture: Picture) -> None:
    """Give each box a column right of all that lead to it; cycles are cut where they are closed."""
    following: dict[str, list[str]] = {key: [] for key in picture.boxes}
    for one, other in sorted(picture.edges):
        following[one].append(other)
    order: list[str] = []
    back: set[tuple[str, str]] = set()
    state: dict[str, int] = {}
    for start in sorted(picture.boxes, key=lambda key: (picture.boxes[key].kind != "replaced", key)):
        stack = [(start, iter(following[start]))] if start not in state else []
        state.setdefault(start, 1)
        while stack:
            key, rest = stack[-1]
            after = next(rest, None)
            if after is None:
                state[key] = 2
                order.append(key)
                stack.pop()
            elif state.get(after) == 1:
                back.add((key, after))
            elif after not in state:
                state[after] = 1
                stack.append((after, iter(following[after])))
    for key in reversed(order):
        for after in following[key]:
            if (key, after) not in back:
                picture.boxes[after].layer = max(picture.boxes[after].layer, picture.boxes[key].layer + 1)
    last = max((box.layer for box in picture.boxes.values() if box.kind != "borrowed"), default=0) + 1
    for box in picture.boxes.values():
        if box.kind == "borrowed":
            box.layer = last


def _columns(picture: Picture) -> list[list[Box]]:
    """Boxes by column, each near the middle of its neighbours (the barycentre method, a few sweeps)."""
    layers: dict[int, list[Box]] = {}
    for box in sorted(picture.boxes.values(), key=lambda each: (each.kind, each.text, each.key)):
        layers.setdefault(box.layer, []).append(box)
    columns = [layers[layer] for layer in sorted(layers)]
    near: dict[str, list[str]] = {key: [] for key in picture.boxes}
    for one, other in sorted(picture.edges):
        near[one].append(other)
        near[other].append(one)
    middle = {box.key: position / len(each) for each in columns for position, box in enumerate(each)}
    layer = {box.key: box.layer for box in picture.boxes.values()}

    def wanted(box: Box) -> float:
        return _mean(middle[key] for key in near[box.key] if layer[key] != box.layer)

    for sweep in range(8):
        for column in columns[1:] if sweep % 2 == 0 else columns[-2::-1]:
            column.sort(key=wanted)
            middle.update((box.key, position / len(column)) for position, box in enumerate(column))
    return columns


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.5


def _place(columns: list[list[Box]]) -> tuple[float, float]:
    height = max((len(column) for column in columns), default=0) * _ROW + 2 * 10
    x = 10.0
    for column in columns:
        free = height - 2 * 10 - len(column) * _ROW
        step = _ROW + min(free / max(len(column), 1), 40)
        top = (height - step * len(column)) / 2 + (step - _HEIGHT) / 2
        for position, box in enumerate(column):
            box.x, box.y = x, top + position * step
        x += max((box.width for box in column), default=0) + _GAP
    return max(x - _GAP + 10, 20), max(height, 20)


# SVG -------------------------------------------------------------------------------------------------


def _box(box: Box) -> str:
    return (
        f'<g class="{box.kind}"><title>{escape(box.title)}</title>'
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{_HEIGHT}" rx="4"/>'
        f'<text x="{box.x + 8:.1f}" y="{box.y + 14:.1f}">{escape(box.text)}</text></g>'
    )


def _edge(one: Box, other: Box) -> str:
    """A curve from the right side of one box to the left side of another; loops go around below."""
    start, end = (one.x + one.width, one.y + _HEIGHT / 2), (other.x, other.y + _HEIGHT / 2)
    if other.layer <= one.layer:
        start, end = (one.x + one.width / 2, one.y + _HEIGHT), (other.x + other.width / 2, other.y + _HEIGHT)
        low = max(start[1], end[1]) + 24
        way = (
            f"M{start[0]:.1f},{start[1]:.1f} C{start[0]:.1f},{low:.1f}"
            f" {end[0]:.1f},{low:.1f} {end[0]:.1f},{end[1]:.1f}"
        )
    else:
        pull = max((end[0] - start[0]) / 2, 30)
        way = (
            f"M{start[0]:.1f},{start[1]:.1f} C{start[0] + pull:.1f},{start[1]:.1f}"
            f" {end[0] - pull:.1f},{end[1]:.1f} {end[0]:.1f},{end[1]:.1f}"
        )
    return (
        f'<path class="{one.kind} to-{other.kind}" d="{way}">'
        f"<title>{escape(one.text)} → {escape(other.text)}</title></path>"
    )

# SPDX-License-Identifier: Apache-2.0
"""proof.json, read and checked.

In: the text. Out: a `Proof`. docs/package.md describes the format; whatever does not follow it is a
KdiffError `proof.malformed` that says where.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from kdiff.errors import KdiffError
from kdiff.target.layout import KERNEL, is_target
from kdiff.target.proof import (
    CONTEXT,
    REPLACED,
    Contains,
    Holds,
    Howto,
    Listed,
    Lit,
    Mixed,
    Module,
    Node,
    Pad,
    Part,
    Plain,
    Proof,
    Relocated,
    Site,
    Symbol,
    Through,
    ToCode,
    size,
)

FORMAT = 5
OVERFLOWS = ("signed", "unsigned", "wrap")
WORDS = 1 << 64

Value = TypeVar("Value")


def read(text: bytes) -> Proof:
    """Read proof.json; KdiffError `proof.malformed`."""
    try:
        top = _object("", json.loads(text))
    except (ValueError, RecursionError) as error:
        raise _malformed("", "is not JSON") from error
    if not _whole(top.get("format"), FORMAT, FORMAT):
        raise _malformed("format", f"is {top.get('format')!r}, not {FORMAT}")
    howtos = _named(_list("howtos", top, _howto))
    symbols = _list("symbols", top, _symbol)
    modules = _list("modules", top, _module)
    nodes = _list("nodes", top, _Parts(howtos, len(symbols)).node)
    if not any(node.role == REPLACED for node in nodes):
        raise _malformed("nodes", "hold no function that is replaced")
    for node in nodes:
        if node.role == REPLACED and (node.offset or not symbols[node.symbol].position):
            raise _malformed(node.name, "is replaced but does not start at a symbol of kallsyms")
        owner = symbols[node.symbol].owner
        if owner != KERNEL and owner not in [module.name for module in modules]:
            raise _malformed(node.name, f"is in module {owner}, and which build of it is not said")
    order: Literal["little", "big"] = "little"
    if _choice("byte_order", top, ("little", "big")) == "big":
        order = "big"
    return Proof(
        release=_filled("release", top),
        version=_string("version", top),
        build_id=_string("build_id", top),
        byte_order=order,
        word=_integer("word_size", top, 4, 8),
        anchor=_anchor(_filled("anchor", top), symbols),
        nops=_list("nops", top, _filled_hex),
        symbols=symbols,
        nodes=nodes,
        modules=modules,
    )


def _malformed(place: str, message: str) -> KdiffError:
    return KdiffError(
        "proof.malformed",
        message,
        place=f"proof.json: {place}" if place else "proof.json",
        remedy="create the update again with ksplice-create",
    )


def _anchor(name: str, symbols: tuple[Symbol, ...]) -> int:
    for index, symbol in enumerate(symbols):
        if symbol.name == name and symbol.position and symbol.slides:
            return index
    raise _malformed("anchor", f"{name!r} is no symbol that moves with the kernel")


def _named(howtos: tuple[Howto, ...]) -> dict[str, Howto]:
    named = {howto.name: howto for howto in howtos}
    if len(named) != len(howtos):
        raise _malformed("howtos", "have equal names")
    return named


def _howto(place: str, value: Any) -> Howto:
    row = _object(place, value)
    size = _integer("size", row, 1, 16, place)
    fields = _list("fields", row, _bits, place)
    if not fields:
        raise _malformed(place, "has no bits")
    used = 0
    for lsb, _, width in fields:
        mask = ((1 << width) - 1) << lsb
        if used & mask or mask >> (8 * size):
            raise _malformed(place, "has bits that overlap or lie outside")
        used |= mask
    relative = row.get("pc_relative")
    if not isinstance(relative, bool):
        raise _malformed(place, "pc_relative is neither true nor false")
    return Howto(
        _filled("name", row, place), size, fields, _choice("overflow", row, OVERFLOWS, place), relative
    )


def _bits(place: str, value: Any) -> tuple[int, int, int]:
    if not isinstance(value, list) or len(value) != 3 or not all(_whole(each, 0, 128) for each in value):
        raise _malformed(place, "is not [field_lsb, value_lsb, width]")
    if not value[2]:
        raise _malformed(place, "has no width")
    return (value[0], value[1], value[2])


def _symbol(place: str, value: Any) -> Symbol:
    row = _object(place, value)
    name = _string("name", row, place)
    position = _integer("position", row, 0, WORDS - 1, place)
    total = _integer("count", row, position, WORDS - 1, place) if position else 0
    address = _integer("address", row, 0, WORDS - 1, place)
    if position and not name:
        raise _malformed(place, "has a position but no name")
    if "owner" in row:
        owner, section = _target("owner", row, place), _string("section", row, place)
        if owner == KERNEL:
            raise _malformed(place, "belongs to the kernel and says so")
        if not section and not position:
            raise _malformed(place, "has neither a section nor a name")
        return Symbol(name, position, total, address, False, owner, section)
    slides = row.get("slides")
    if not isinstance(slides, bool):
        raise _malformed(place, "slides is neither true nor false")
    return Symbol(name, position, total, address, slides)


def _module(place: str, value: Any) -> Module:
    row = _object(place, value)
    fresh = row.get("fresh")
    if not isinstance(fresh, bool):
        raise _malformed(place, "fresh is neither true nor false")
    return Module(
        _target("name", row, place),
        _string("build_id", row, place),
        _string("source_version", row, place),
        fresh,
    )


def _target(key: str, row: dict[str, Any], place: str) -> str:
    name = _string(key, row, place)
    if not is_target(name):
        raise _malformed(f"{place} {key}".lstrip(), f"{name!r} names no module")
    return name


class _Parts:
    """Reads nodes, whose parts name howtos and symbols."""

    def __init__(self, howtos: dict[str, Howto], symbols: int) -> None:
        self.howtos = howtos
        self.symbols = symbols

    def node(self, place: str, value: Any) -> Node:
        row = _object(place, value)
        place = f"{place} {row.get('name')}"
        node = Node(
            name=_filled("name", row, place),
            symbol=self._index(place, row.get("symbol")),
            offset=_integer("offset", row, 0, WORDS - 1, place),
            size=_integer("size", row, 1, 1 << 24, place),
            role=_choice("role", row, (REPLACED, CONTEXT), place),
            parts=_list("parts", row, self.part, place),
            code=self._index(place, row["code"]) if "code" in row else None,
        )
        self._adds_up(place, node.parts, node.size)
        return node

    def part(self, place: str, value: Any) -> Part:
        if isinstance(value, list) and len(value) == 4 and value[0] == "site":
            _, rewrite, size, forms = value
            if not isinstance(rewrite, str) or not _whole(size, 1, 1 << 16) or not isinstance(forms, list):
                raise _malformed(place, "is not [site, rewrite, size, forms]")
            if not forms:
                raise _malformed(place, "allows nothing")
            return Site(rewrite, size, tuple(self._form(place, form, size) for form in forms))
        part = self.plain(place, value)
        if isinstance(part, (Holds, Contains)):
            raise _malformed(place, "is a condition outside a form")
        return part

    def plain(self, place: str, value: Any) -> Plain:
        """Read a part that may stand inside a form too."""
        match value:
            case ["lit", data]:
                return Lit(_hex(place, data))
            case ["pad", size] if _whole(size, 1, 1 << 16):
                return Pad(size)
            case ["field", howto, symbol, addend, background] if _whole(addend, -WORDS, WORDS):
                row = self._howto(place, howto)
                data = _hex(place, background)
                if len(data) != row.size:
                    raise _malformed(place, f"has a background of {len(data)} bytes for {row.name}")
                return Relocated(row, (self._index(place, symbol),), addend, data)
            case ["oneof", howto, [_, *_] as symbols, addend] if _whole(addend, -WORDS, WORDS):
                row = self._whole_container(place, howto)
                indices = tuple(self._index(place, each) for each in symbols)
                return Relocated(row, indices, addend, bytes(row.size))
            case ["through", howto, symbol, slot, addend] if _whole(addend, -WORDS, WORDS) and _whole(
                slot, -WORDS, WORDS
            ):
                return Through(self._whole_container(place, howto), self._index(place, symbol), slot, addend)
            case ["listed", howto, str(owner), str(name), addend] if (
                owner and name and _whole(addend, -WORDS, WORDS)
            ):
                return Listed(self._whole_container(place, howto), owner, name, addend)
            case ["code", howto, code, addend] if _whole(addend, -WORDS, WORDS):
                row = self._whole_container(place, howto)
                whole = sum(width for _, _, width in row.fields) == row.span
                if not whole or (row.overflow == "wrap" and row.span < 32):
                    raise _malformed(place, f"{row.name} does not tell where it leads")
                return ToCode(row, _filled_hex(place, code), addend)
            case ["mixed", symbol, slot, data, bool(negated)] if _whole(slot, -WORDS, WORDS):
                return Mixed(self._index(place, symbol), slot, _filled_hex(place, data), negated)
            case ["contains", symbol, slot, data] if _whole(slot, -WORDS, WORDS):
                return Contains(self._index(place, symbol), slot, _filled_hex(place, data))
            case ["holds", symbol, slot, [_, *_] as symbols] if _whole(slot, -WORDS, WORDS):
                allowed = tuple(None if each is None else self._index(place, each) for each in symbols)
                return Holds(self._index(place, symbol), slot, allowed)
        raise _malformed(place, "is no part")

    def _form(self, place: str, value: Any, size: int) -> tuple[Plain, ...]:
        if not isinstance(value, list):
            raise _malformed(place, "has a form that is no list of parts")
        form = tuple(self.plain(place, part) for part in value)
        self._adds_up(place, form, size)
        return form

    def _adds_up(self, place: str, parts: tuple[Part, ...], expected: int) -> None:
        found = sum(size(part) for part in parts)
        if found != expected:
            raise _malformed(place, f"has parts of {found} bytes in place of {expected}")

    def _howto(self, place: str, name: Any) -> Howto:
        howto = self.howtos.get(name) if isinstance(name, str) else None
        if howto is None:
            raise _malformed(place, f"names no howto: {name!r}")
        return howto

    def _whole_container(self, place: str, name: Any) -> Howto:
        """A field without background must leave no bits to compare."""
        howto = self._howto(place, name)
        if howto.mask != (1 << (8 * howto.size)) - 1:
            raise _malformed(place, f"{howto.name} leaves bits that nothing compares")
        return howto

    def _index(self, place: str, value: Any) -> int:
        if not _whole(value, 0, self.symbols - 1):
            raise _malformed(place, f"names no symbol: {value!r}")
        return int(value)


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _object(place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(place, "is no object")
    return value


def _list(
    key: str, row: dict[str, Any], read: Callable[[str, Any], Value], place: str = ""
) -> tuple[Value, ...]:
    values = row.get(key)
    where = f"{place} {key}".lstrip()
    if not isinstance(values, list):
        raise _malformed(where, "is no list")
    return tuple([read(f"{where}[{index}]", value) for index, value in enumerate(values)])


def _integer(key: str, row: dict[str, Any], least: int, most: int, place: str = "") -> int:
    value = row.get(key)
    if not _whole(value, least, most):
        raise _malformed(f"{place} {key}".lstrip(), f"is {value!r}, not an integer from {least} to {most}")
    return int(value)  # type: ignore[arg-type]  # _whole has seen an int


def _string(key: str, row: dict[str, Any], place: str = "") -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise _malformed(f"{place} {key}".lstrip(), "is no string")
    return value


def _filled(key: str, row: dict[str, Any], place: str = "") -> str:
    value = _string(key, row, place)
    if not value:
        raise _malformed(f"{place} {key}".lstrip(), "is empty")
    return value


def _choice(key: str, row: dict[str, Any], choices: tuple[str, ...], place: str = "") -> str:
    value = _string(key, row, place)
    if value not in choices:
        raise _malformed(f"{place} {key}".lstrip(), f"is {value!r}, not {' or '.join(choices)}")
    return value


def _hex(place: str, value: Any) -> bytes:
    try:
        data = bytes.fromhex(value)
    except (TypeError, ValueError) as error:
        raise _malformed(place, "is no hexadecimal string") from error
    return data


def _filled_hex(place: str, value: Any) -> bytes:
    data = _hex(place, value)
    if not data:
        raise _malformed(place, "is empty")
    return data

# SPDX-License-Identifier: Apache-2.0
"""Two judges of what changed between two builds of a unit, who share no code with kdiff.

`objects` looks at x86-64 objects with pyelftools and capstone: a function is its bytes with every reference
put into words (a symbol and an offset, the contents of strings and constants), and the entries that tables
have about it.
`sources` looks at preprocessed text: a function is its tokens, and what it reaches are the functions, types
and variables of the unit that its tokens name, theirs, and so on.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import capstone
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

PLAIN = {0: 0, 1: 8, 2: 4, 4: 4, 9: 4, 10: 4, 11: 4, 24: 8, 41: 4, 42: 4}
"""Bytes of the field by relocation type (x86-64 psABI, 4.4.1)."""
RELATIVE = {2, 4, 9, 24, 41, 42}
ENTRIES = {
    ".altinstructions": 12, "__bug_table": 12, "__ex_table": 12, "__jump_table": 16, ".static_call_sites": 8,
    ".parainstructions": 16, ".smp_locks": 4, ".retpoline_sites": 4, ".return_sites": 4, "__mcount_loc": 8,
}  # fmt: skip
"""Bytes of an entry in Linux 6.1 for x86-64."""


_NAMED = ("STT_FUNC", "STT_OBJECT", "STT_NOTYPE")


def canonical(name: str) -> str:
    """A symbol's name without the numbers that compilers and macros count up.

    The unlikely part of a function (`.cold`) is that function, which only lies in two places.
    """
    name = name.removesuffix(".cold")
    return re.sub(r"(__UNIQUE_ID_\D*)\d+", r"\1", re.sub(r"\.\d+", "", name))


# Objects ---------------------------------------------------------------------------------------------


@dataclass
class _Section:
    name: str
    data: bytes
    strings: bool
    code: bool
    constant: bool
    symbols: list[tuple[int, int, str]] = field(default_factory=list)
    """(value, size, name) in order."""
    relocations: dict[int, tuple[int, Any, int]] = field(default_factory=dict)
    """offset -> (type, symbol, addend)."""


class _Unit:
    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            elf = ELFFile(file)
            self.sections = [
                _Section(
                    s.name, b"" if s["sh_type"] == "SHT_NOBITS" else s.data(),
                    bool(s["sh_flags"] & 0x20), bool(s["sh_flags"] & 4), s["sh_flags"] & 7 == 2,
                )
                for s in elf.iter_sections()
            ]  # fmt: skip
            table = next(s for s in elf.iter_sections() if isinstance(s, SymbolTableSection))
            self.symbols = list(table.iter_symbols())
            for symbol in self.symbols:
                home = symbol["st_shndx"]
                kind = symbol["st_info"]["type"]
                if isinstance(home, int) and kind in _NAMED and symbol.name and symbol.name[:2] != ".L":
                    self.sections[home].symbols.append((symbol["st_value"], symbol["st_size"], symbol.name))
            for section in self.sections:
                section.symbols.sort(key=lambda each: (each[0], -each[1]))
            for each in elf.iter_sections():
                if each["sh_type"] == "SHT_RELA":
                    target = self.sections[each["sh_info"]].relocations
                    for record in each.iter_relocations():
                        target[record["r_offset"]] = (
                            record["r_info_type"], self.symbols[record["r_info_sym"]], record["r_addend"],
                        )  # fmt: skip
        self.engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)

    def functions(self) -> dict[str, list[Any]]:
        """What each function is, by canonical name; several where a name occurs again."""
        entries = self._entries()
        found: dict[str, list[Any]] = defaultdict(list)
        for index, section in enumerate(self.sections):
            for value, size, name in section.symbols:
                if section.code and size and self._is_function(index, value, name):
                    about = tuple(sorted((table, at - value, repr(what)) for table, at, what in
                                         self._about(entries, index, value, size)))  # fmt: skip
                    found[canonical(name)].append((*self._code(index, value, size), about))
        return {name: sorted(each, key=repr) for name, each in found.items()}

    def _is_function(self, index: int, value: int, name: str) -> bool:
        return any(
            s["st_info"]["type"] == "STT_FUNC"
            and s["st_shndx"] == index
            and s["st_value"] == value
            and s.name == name
            for s in self.symbols
        )

    def _about(
        self, entries: dict[Any, Any], index: int, value: int, size: int
    ) -> Iterator[tuple[str, int, Any]]:
        for (where, at), each in entries.items():
            if where == index and value <= at < value + size:
                for table, what in each:
                    yield table, at, what

    def _entries(self) -> dict[tuple[int, int], list[tuple[str, Any]]]:
        """Table entries by the place that their first address names."""
        found: dict[tuple[int, int], list[tuple[str, Any]]] = defaultdict(list)
        for section in self.sections:
            width = ENTRIES.get(section.name)
            if not width:
                continue
            for start in range(0, len(section.data), width):
                if start not in section.relocations:
                    continue
                _, symbol, addend = section.relocations[start]
                home = symbol["st_shndx"]
                if not isinstance(home, int):
                    continue
                fields = [
                    (at - start, self._target(section.relocations[at], 0))
                    for at in range(start + 1, start + width)
                    if at in section.relocations and section.name != ".altinstructions"
                ]
                words = bytearray(section.data[start : start + width])
                payload: Any = ()
                if section.name == ".altinstructions" and start + 4 in section.relocations:
                    _, other, where = section.relocations[start + 4]
                    if isinstance(other["st_shndx"], int):
                        payload = self._code(other["st_shndx"], other["st_value"] + where, words[11])
                found[home, symbol["st_value"] + addend].append(
                    (section.name, (bytes(words), fields, payload))
                )
        return found

    def _code(self, index: int, start: int, size: int) -> tuple[Any, ...]:
        """Bytes without fields, and the fields in words."""
        section = self.sections[index]
        data = bytearray(section.data[start : start + size])
        fields: list[tuple[int, Any]] = []
        for address, length, mnemonic, operands in self.engine.disasm_lite(bytes(data), start):
            inside = [at for at in range(address, address + length) if at in section.relocations]
            for at in inside:
                record = section.relocations[at]
                tail = address + length - at if record[0] in RELATIVE else 0
                width = PLAIN.get(record[0], 4)
                data[at - start : at - start + width] = bytes(width)
                fields.append((at - start, (record[0] in RELATIVE, self._target(record, tail))))
            if not inside and mnemonic[0] in "jc" and operands.startswith("0x"):
                to = int(operands, 16)
                if not start <= to < start + size and (mnemonic == "call" or mnemonic[0] == "j"):
                    width = 1 if length == 2 else 4
                    at = address + length - width
                    data[at - start : at - start + width] = bytes(width)
                    fields.append((at - start, (True, self._named(index, to, 1))))
        return bytes(data), tuple(fields)

    def _target(self, record: tuple[int, Any, int], tail: int, depth: int = 1) -> Any:
        _, symbol, addend = record
        home = symbol["st_shndx"]
        if not isinstance(home, int):
            return canonical(symbol.name), addend + tail
        return self._named(home, symbol["st_value"] + addend + tail, depth)

    def _named(self, home: int, offset: int, depth: int) -> Any:
        section = self.sections[home]
        if section.strings:
            return "text", section.data[offset : section.data.find(b"\0", offset)]
        at = bisect_right(section.symbols, offset, key=lambda each: each[0]) - 1
        while at >= 0 and section.symbols[at][0] + max(section.symbols[at][1], 1) <= offset:
            at -= 1
        if at < 0:
            value, size, name = 0, len(section.data), f"unnamed {section.name}"
        else:
            value, size, name = section.symbols[at]
        if not section.constant or not depth:
            return canonical(name), offset - value
        held = sorted((o, r) for o, r in section.relocations.items() if value <= o < value + size)
        around = tuple((o - value, self._target(r, 0, 0)) for o, r in held)
        return canonical(name), offset - value, section.data[value : value + size], around


def objects(before: Path, after: Path) -> tuple[set[str], set[str]]:
    """Canonical names of functions that are in both objects: those that differ, and those that do not."""
    one, other = _Unit(before).functions(), _Unit(after).functions()
    differing = {name for name in one.keys() & other.keys() if one[name] != other[name]}
    return differing, (one.keys() & other.keys()) - differing


# Sources ---------------------------------------------------------------------------------------------

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[A-Za-z_]\w*|\.?\d(?:[eEpP][+-]|[\w.])*|\S')
_NOT_NAMES = frozenset(
    ("__attribute__", "__attribute", "typeof", "__typeof__", "__typeof", "asm", "__asm__", "__asm",
     "_Static_assert", "sizeof")
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass
class _Text:
    """A unit's top-level text: tokens by the names they define."""

    functions: dict[str, Counter[str]]
    others: dict[str, Counter[str]]
    words: dict[str, set[str]]


def sources(before: str, after: str, name: str, cache: dict[str, _Text]) -> str:
    """Why the function's code may have changed: `own`, `reached` (a function), `types`, or nothing."""
    one, other = _text(before, cache), _text(after, cache)
    if one.functions.get(name) != other.functions.get(name):
        return "own"
    changed_functions = _differing(one.functions, other.functions)
    changed_others = _differing(one.others, other.others)
    if changed_functions & _reached(one, other, name, functions_only=True):
        return "reached"
    if (changed_functions | changed_others) & _reached(one, other, name, functions_only=False):
        return "types"
    return ""


def _differing(one: dict[str, Counter[str]], other: dict[str, Counter[str]]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def _reached(one: _Text, other: _Text, name: str, functions_only: bool) -> set[str]:
    seen = {name}
    waiting = [name]
    while waiting:
        at = waiting.pop()
        for word in one.words.get(at, set()) | other.words.get(at, set()):
            if word in seen:
                continue
            if functions_only and not (word in one.functions or word in other.functions):
                continue
            if word in one.words or word in other.words:
                seen.add(word)
                waiting.append(word)
    return seen


def _text(text: str, cache: dict[str, _Text]) -> _Text:
    if text not in cache:
        cache[text] = _parse(text)
    return cache[text]


def _parse(text: str) -> _Text:
    found = _Text(defaultdict(Counter), defaultdict(Counter), defaultdict(set))
    for chunk, is_function in _chunks(_TOKEN.findall(text)):
        names = [_function_name(chunk)] if is_function else list(_defined(chunk))
        whole = " ".join(chunk)
        words = set(_WORD.findall(whole))
        for name in names:
            (found.functions if is_function else found.others)[name][whole] += 1
            found.words[name] |= words - {name}
    return found


def _chunks(tokens: list[str]) -> Iterator[tuple[list[str], bool]]:
    chunk: list[str] = []
    depth, body = 0, False
    for token in tokens:
        if token == "{" and depth == 0 and chunk and (chunk[-1] == ")"):
            body = True
        chunk.append(token)
        if token in "({[":
            depth += 1
        elif token in ")}]":
            depth -= 1
            if depth == 0 and token == "}" and body:
                yield chunk, True
                chunk, body = [], False
        elif token == ";" and depth == 0:
            yield chunk, False
            chunk, body = [], False


def _function_name(chunk: list[str]) -> str:
    depth = 0
    for at, token in enumerate(chunk[:-1]):
        if depth == 0 and chunk[at + 1] == "(" and _WORD.fullmatch(token) and token not in _NOT_NAMES:
            return token
        depth += (token in "({[") - (token in ")}]")
    return ""


def _defined(chunk: list[str]) -> Iterator[str]:
    """Tags, enumerators, typedefs and variables that a declaration introduces; none for a prototype."""
    depth, keeps = 0, "{" in chunk or "=" in chunk or chunk[0] in ("typedef", "static")
    for at, token in enumerate(chunk[:-1]):
        before, after = chunk[at - 1] if at else "", chunk[at + 1]
        if _WORD.fullmatch(token):
            tagged = before in ("struct", "union", "enum")
            tag = tagged and after == "{"
            enumerator = depth == 1 and "enum" in chunk[:at] and before in "{," and after in "=,}"
            variable = depth == 0 and not tagged and keeps and after in ";=[,"
            pointer = chunk[0] == "typedef" and before == "*" and after == ")"
            if tag or enumerator or variable or pointer:
                yield token
        depth += (token in "({[") - (token in ")}]")

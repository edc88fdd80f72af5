# SPDX-License-Identifier: Apache-2.0
"""Whether each row of an architecture takes the values that its linker takes, and stores what it stores.

    found = compare(CROSS, {"R_390_PC32DBL": "larl %r1, {}", ...}, (0x100000, 0x7FFF_0000))
    assert not wrong(CROSS, found, {"R_390_PC32DBL"})

Each row is written in assembly, with `{}` for a symbol and a number, once for each value at and around the
ends of the ranges that fields of its width may have: signed, unsigned, either. Each instruction has a section
of its own; one call of the linker stores all of them, and names those that it cannot. A row that reaches a
pointer made by the linker is placed so far from there instead (for lld near it, which makes one segment of
everything). Values whose low bits the field does not have are left out: linkers drop these bits, or end.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import lief
from linkoracle import Cross, compiled, graph, slots

from kdiff.arch import Howto, Overflow
from kdiff.graph import Reference, SectionGraph
from kdiff.split import Kind

_ADDENDS = (0, 4, -8, 0x7C, 0)
_STEP, _GOT = 0x40, 0x40_0000
"""Bytes between two sections, and from the first one to the pointers that the linker makes."""
_FAR = 0x7E00_0000_0000
"""Where symbols lie that are reached through a pointer: too far for the linker to do without one."""
_NAMED = re.compile(r"\(\.text\.c(\d+)\+0x[0-9a-f]+\)")
"""How ld and lld say where a field is that they cannot store."""
ORIGIN = "origin"
"""The symbol that a row with a `partner` subtracts."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row for one value (symbol + addend, less what it counts from), and both answers.

    An answer is the bytes of each field, or None where the value is refused.
    """

    row: str
    value: int
    place: int
    ours: tuple[bytes, ...] | None
    linker: tuple[bytes, ...] | None

    def __str__(self) -> str:
        ours, linker = ("refused" if x is None else b" ".join(x).hex() for x in (self.ours, self.linker))
        return f"{self.row} of {self.value:#x} at {self.place:#x}: kdiff {ours}, the linker {linker}"


@dataclass(frozen=True, slots=True)
class _Case:
    row: Howto
    text: str
    symbol: int
    addend: int
    value: int
    place: int


def compare(
    cross: Cross, texts: Mapping[str, str], places: Iterable[int], around: Iterable[str] = ()
) -> list[Sample]:
    """Every row for which there is a text, at each of the places, for all of its `values`.

    `around`: rows for which the linker, where the value does not fit, reaches the destination by another
    instruction or by code of its own. That is no answer to whether it fits, and counts as a refusal.
    """
    return [sample for start in places for sample in _linked(cross, texts, start, frozenset(around))]


def wrong(
    cross: Cross, found: Iterable[Sample], unchecked: Iterable[str] = (), narrow: Iterable[str] = ()
) -> list[str]:
    """A line for each disagreement that nothing explains.

    Of `unchecked` rows the linker stores values that do not fit, cut off; `narrow` ones it refuses although
    they fit; each must do so at least once. What ld calls a bitfield it also lets have any value whose bits
    above the field are all set.
    """
    rows = {row.name: row for row in cross.architecture.howtos.values()}
    lines, seen = [], set()
    for each in found:
        row = rows[each.row]
        if each.ours == each.linker:
            continue
        if each.row in (unchecked if each.ours is None else narrow if each.linker is None else ()):
            seen.add(each.row)
        elif (
            each.ours is not None or row.overflow is not Overflow.EITHER or each.value >= -(1 << row.span - 1)
        ):
            lines.append(str(each))
    return lines + [f"{name}: both agree" for name in sorted({*unchecked, *narrow} - seen)]


def values(row: Howto, bits: int) -> list[int]:
    """The ends of every range that a field of this width may have, their neighbours, and some within."""
    step = 1 << max(min(each.value_lsb for each in row.fields) - row.drops, 0)
    top = 1 << row.span
    ends = {0, top >> 1, -(top >> 1), top, -top, (top >> 1) + (top >> 2), top // 5 * 2, -top // 5 * 2}
    made_up = (1 << row.signed_low) >> 1
    near = {0, 1, -1, step, -step, step - 1, -step - 1, made_up - step, made_up, -made_up, -made_up - step}
    found = {end - row.adjust + way for end in ends for way in near}
    return sorted(each for each in found if -(1 << (bits - 1)) <= each < 1 << bits and not each % step)


def _cases(
    cross: Cross, texts: Mapping[str, str], start: int, around: frozenset[str], bases: Mapping[str, int]
) -> Iterator[_Case]:
    rows = {row.name: row for row in cross.architecture.howtos.values()}
    bits = cross.architecture.elf_class
    number = beside = 0
    for name, text in texts.items():
        row = rows[name]
        if row.slot:
            beside += _STEP
            ends = () if "lld" in cross.linker else (-1 << row.span - 1, 1 << row.span - 1)
            for end in (0, *ends):
                for way in (-0x1000, -0x400, 0x1000):
                    place = (start + _GOT - end + way + beside) % (1 << bits)
                    yield _Case(row, text, _FAR + 0x10 * number, 0, 0, place)
                    number += 1
            continue
        for value in values(row, bits):
            addend = 0 if name in around or row.span <= 8 else _ADDENDS[number % len(_ADDENDS)]
            place = start + _STEP * number
            symbol = (value + _origin(row, place, bases) - addend) % (1 << bits)
            yield _Case(row, text, symbol, addend, value, place)
            number += 1


def _origin(row: Howto, place: int, bases: Mapping[str, int]) -> int:
    """What the row's value counts from."""
    if row.base or row.partner is not None:
        return bases[row.base or ORIGIN]
    if not row.pc_relative:
        return 0
    return place >> row.drops << row.drops if row.paged else place


def _linked(cross: Cross, texts: Mapping[str, str], start: int, around: frozenset[str]) -> Iterator[Sample]:
    got = start + _GOT
    bases = {name: got + way for name, way in cross.bases} | {ORIGIN: start + 0x1234}
    cases = dict(enumerate(_cases(cross, texts, start, around, bases)))
    symbols = {f"d{number}": case.symbol for number, case in cases.items()} | bases
    source = []
    for number, case in cases.items():
        written = f"d{number}{case.addend:+d}" if case.addend else f"d{number}"
        source += [f'.section .text.c{number}, "ax"', case.text.replace("{}", written)]
    script = [f"{name} = {at:#x};" for name, at in symbols.items()]
    laid = [(case.place, f".o{n} {case.place:#x} : {{ *(.text.c{n}) }}") for n, case in cases.items()]
    laid.append((got, f".got {got:#x} : {{ *(.got.plt) *(.got) }}"))
    script += ["SECTIONS {", *(line for _, line in sorted(laid))]
    script += ["}" if "lld" in cross.linker else "/DISCARD/ : { *(*) } }"]
    data = compiled(cross, "\n".join(source) + "\n", language="assembler")
    image, refused = _run(cross, data, "\n".join(script) + "\n")
    contents = {str(each.name): bytes(each.content) for each in image.sections}
    pointers = slots(cross.architecture, image.get_section(".got"))
    found = graph(cross, data)
    nodes = {found.obj.section_name(node.section): node for node in found.nodes if node.section}
    for number, case in cases.items():
        node = nodes[f".text.c{number}"]
        fields = found.references[node.id]
        assert any(each.howto.name == case.row.name for each in fields), case.row.name
        value = pointers[case.symbol] - case.place if case.row.slot else case.value
        ours = _stored(found, case, node.section, fields, symbols, pointers)
        stored = contents.get(f".o{number}")
        answered = number not in refused and stored and (ours is not None or case.row.name not in around)
        linker = tuple(stored[each.offset :][: each.howto.size] for each in fields) if answered else None
        yield Sample(case.row.name, value, case.place, ours, linker)


def _stored(
    found: SectionGraph,
    case: _Case,
    section: int,
    fields: Iterable[Reference],
    symbols: Mapping[str, int],
    pointers: Mapping[int, int],
) -> tuple[bytes, ...] | None:
    arch, contents = found.arch, bytes(found.obj.contents(section))
    result = []

    def address(node: int) -> int:
        what = found.nodes[node]
        return symbols[what.name] if what.kind is Kind.EXTERN else case.place + what.start

    for each in fields:
        howto = each.howto
        target = address(each.target) + each.addend + each.entry
        target = (pointers[target] if howto.slot else target) + each.insn_addend
        if each.minus is not None:
            target -= address(each.minus[0]) + each.minus[1]
        value = howto.value(target, case.place + each.offset, arch.elf_class)
        try:
            result.append(howto.insert(contents[each.offset :][: howto.size], value, arch.byte_order))
        except OverflowError:
            return None
    return tuple(result)


def _run(cross: Cross, data: bytes, script: str) -> tuple[lief.ELF.Binary, frozenset[int]]:
    """The linked image, and the numbers of the sections that the linker complains about."""
    limit = "--error-limit=0" if "lld" in cross.linker else "--verbose"
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "unit.o").write_bytes(data)
        (folder / "script").write_text(script)
        emulation = ("-m", cross.emulation) if cross.emulation else ()
        command = [cross.linker or f"{cross.prefix}ld", *emulation, "-static", "--build-id=none", limit]
        command += ["--noinhibit-exec", "--no-check-sections", *cross.link_flags]
        command += ["-T", "script", "-o", "image", "unit.o"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        image = lief.ELF.parse(str(folder / "image"))
        assert image is not None, said[-2000:]
    return image, frozenset(int(found[1]) for found in _NAMED.finditer(said))

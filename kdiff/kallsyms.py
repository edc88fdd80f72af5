# SPDX-License-Identifier: Apache-2.0
"""The kernel's own symbol table: the tables inside an image, and its text forms.

In: a run of kernel memory, or the text of /proc/kallsyms or System.map. Out: an `AddressBook` in table order.

scripts/kallsyms.c of the kernel writes the tables and kernel/kallsyms.c reads them; nothing points at them,
so they are found by content and every count, marker and order is checked. Their order in memory:

    up to 6.3   addresses | offsets relative_base, num_syms names markers [seqs] token_table token_index
    from 6.4    num_syms names markers token_table token_index, addresses | offsets relative_base, seqs
    from 7.0    the same without relative_base: an offset counts from its own place

(404bad70fcf7 changed the order, a081b5789255 dropped the base; 73bbb94466fd brought two-byte name lengths.)
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdiff.addressbook import KERNEL, AddressBook
from kdiff.arch import ByteOrder
from kdiff.errors import KdiffError
from kdiff.values import dataclass

Column = NDArray[Any]

_DIGITS = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00"
"""Digits occur in symbol names, so each is the token of its own code: ten neighbours in every token table."""
_TOKENS = 256
_BLOCK = 256
"""Symbols per marker."""
_BLOCK_SIZE = 1 << 16
"""More bytes than a block of names has: they are compressed, and 256 characters long on average at most."""
_MOST_TEXT = 1 << 28
_REACHES = (1 << 20, 1 << 24)
"""How far below the token table markers are looked for. No kernel so far, with three bytes of order for each
symbol between them, needs more than the first."""
_KINDS = np.frombuffer(b"ABCDGINRSTUVWabcdginprstuvw-?", "u1")
"""The letters nm prints."""
_PLAIN = re.compile(rb"(?:[0-9a-fA-F]+ [!-~] [!-~]+\n)+")
_STUB = b"The real System.map is in"


@dataclass(frozen=True, slots=True)
class _Run:
    """`data[first:last]` is kernel memory from address `base`; `align` is that of the tables in it."""

    data: bytes | mmap.mmap
    first: int
    last: int
    base: int
    endian: Literal["<", ">"]
    word: Literal[4, 8]
    align: Literal[4, 8]

    def aligned(self, offset: int) -> int:
        """The first offset from `offset` on where a table may begin."""
        return offset + -self.address(offset) % self.align

    def address(self, offset: int) -> int:
        return self.base + offset - self.first

    def column(self, kind: str, offset: int, count: int) -> Column | None:
        """`count` numbers at `offset`, or None where the run ends before."""
        dtype = np.dtype(self.endian + kind)
        if offset < self.first or offset + count * dtype.itemsize > self.last:
            return None
        return np.frombuffer(self.data, dtype, count, offset)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A token table; `start` and `end` (behind its index) are offsets in the run."""

    start: int
    end: int
    offsets: Column
    lengths: Column


@dataclass(frozen=True, slots=True)
class _Names:
    """A table of names: where num_syms is, where the last name ends, and each symbol's length."""

    start: int
    stop: int
    lengths_at: Column
    wide: Column

    @property
    def count(self) -> int:
        return len(self.lengths_at)


def decode(
    data: bytes | mmap.mmap,
    base: int,
    order: ByteOrder = "little",
    word: Literal[4, 8] = 8,
    part: slice = slice(None),
) -> AddressBook:
    """Decode the tables in `data[part]`, a run of kernel memory that begins at address `base`.

    KdiffError `kallsyms.not_found` unless all tables are there and agree with each other.
    """
    missing = "no token table"
    first, last, _ = part.indices(len(data))
    alignments: tuple[Literal[4, 8], ...] = (8, 4) if word == 8 else (4,)
    for align in alignments:
        run = _Run(data, first, last, base, "<" if order == "little" else ">", word, align)
        for tokens in _token_tables(run):
            missing = "a token table but no table of names that fits it"
            for names in _name_tables(run, tokens.start):
                missing = "names but no addresses that are in order"
                text = _expand(run, tokens, names)
                if text is None:
                    continue
                for addresses in _address_columns(run, names, tokens):
                    if _plausible(run, addresses):
                        return AddressBook.of_columns(text[0], addresses.tolist(), text[1])
    raise KdiffError(
        "kallsyms.not_found",
        f"the kernel's symbol table was not found in {last - first} bytes at {base:#x}: {missing}",
        remedy="the kernel must have CONFIG_KALLSYMS and the image must be whole",
    )


def _token_tables(run: _Run) -> Iterator[_Tokens]:
    """Find runs of 256 strings that an index of 256 offsets describes exactly."""
    hit = run.data.find(_DIGITS, run.first, run.last)
    while hit >= 0:
        tokens = _tokens_around(run, hit)
        if tokens is not None:
            yield tokens
        hit = run.data.find(_DIGITS, hit + 1, run.last)


def _tokens_around(run: _Run, digits: int) -> _Tokens | None:
    end = digits
    for _ in range(ord("0"), _TOKENS):
        end = run.data.find(b"\0", end, min(end + 1024, run.last)) + 1
        if end == 0:
            return None
    index = run.aligned(end)
    offsets = run.column("u2", index, _TOKENS)
    if offsets is None or offsets[0] != 0:
        return None
    start = digits - int(offsets[ord("0")])
    bounds = np.append(offsets.astype("i8"), end - start)
    if start < run.first or np.any(bounds[1:] <= bounds[:-1]):
        return None
    table = np.frombuffer(run.data, "u1", end - start, start)
    if np.any(table[bounds[1:] - 1]) or np.count_nonzero(table == 0) != _TOKENS:
        return None
    return _Tokens(start, index + 2 * _TOKENS, bounds[:-1], bounds[1:] - bounds[:-1] - 1)


def _name_tables(run: _Run, stop: int) -> Iterator[_Names]:
    """Find tables of names whose markers stand below `stop`, those with most markers within reach first."""
    for reach in _REACHES:
        yield from _names_within(run, run.aligned(max(run.first, stop - reach)), stop)


def _names_within(run: _Run, low: int, stop: int) -> Iterator[_Names]:
    words = run.column("u4", low, max(0, stop - low) // 4)
    if words is None or len(words) < 3:
        return
    wide = words.astype("i8")
    step = np.diff(wide)
    growing = (step >= 2 * _BLOCK) & (step <= _BLOCK_SIZE)
    ends = np.flatnonzero(~growing)
    starts = np.flatnonzero((wide[:-1] == 0) & growing)
    stops = np.append(ends, len(wide) - 1)[np.searchsorted(ends, starts)] + 1
    for chosen in np.argsort(starts - stops, kind="stable"):
        first, behind = int(starts[chosen]), int(stops[chosen])
        if run.aligned(low + 4 * first) == low + 4 * first:
            yield from _names_before(run, low + 4 * first, wide[first:behind])


def _names_before(run: _Run, markers_at: int, markers: Column) -> Iterator[_Names]:
    """Try every word below the markers that could be num_syms."""
    low = run.aligned(max(run.first, markers_at - int(markers[-1]) - _BLOCK_SIZE))
    words = run.column("u4", low, max(0, markers_at - low) // 4)
    if words is None:
        return
    places = low + 4 * np.arange(len(words), dtype="i8")
    counts = words.astype("i8")
    blocks = (counts + _BLOCK - 1) // _BLOCK
    fits = (blocks >= 2) & (blocks <= len(markers)) & ((places - low) % run.align == 0)
    places, counts, blocks = places[fits], counts[fits], blocks[fits]
    room = markers_at - (places + run.align) - markers[blocks - 1]
    near = (room > 0) & (room <= _BLOCK_SIZE)
    places, counts, blocks = places[near], counts[near], blocks[near]
    table = np.frombuffer(run.data, "u1", markers_at)
    for two_bytes in (True, False):
        position = places + run.align
        for _ in range(_BLOCK):
            position = _following(table, position, two_bytes)[0]
        for each in np.flatnonzero(position == places + run.align + markers[1]):
            names = _walk(
                run, int(places[each]), markers[: blocks[each]], int(counts[each]), markers_at, two_bytes
            )
            if names is not None:
                yield names


def _following(table: Column, position: Column, two_bytes: bool) -> tuple[Column, Column]:
    """Where the entries behind those at `position` begin, and which of those had a length of two bytes."""
    first = table[np.minimum(position, len(table) - 1)].astype("i8")
    second = table[np.minimum(position + 1, len(table) - 1)].astype("i8")
    wide = (first >= 0x80) & two_bytes
    return position + 1 + np.where(wide, 1 + (first & 0x7F | second << 7), first), wide


def _walk(
    run: _Run, num_syms: int, markers: Column, count: int, markers_at: int, two_bytes: bool
) -> _Names | None:
    """Step through all names, every block of 256 at once; each block must end at the next marker."""
    start = num_syms + run.align
    table = np.frombuffer(run.data, "u1", markers_at - start, start)
    position = markers
    at = np.zeros((len(markers), _BLOCK), "i8")
    wide = np.zeros((len(markers), _BLOCK), "?")
    ends = np.zeros(_BLOCK, "i8")
    for step in range(_BLOCK):
        at[:, step] = position
        position, wide[:, step] = _following(table, position, two_bytes)
        ends[step] = position[-1]
    end = int(ends[(count - 1) % _BLOCK])
    if np.any(position[:-1] != markers[1:]) or end > len(table) or run.aligned(start + end) != markers_at:
        return None
    lengths_at = at.ravel()[:count]
    if np.any(np.diff(lengths_at) < 2) or end - lengths_at[-1] < 2:
        return None
    return _Names(num_syms, start + end, start + lengths_at, wide.ravel()[:count])


def _expand(run: _Run, tokens: _Tokens, names: _Names) -> tuple[list[str], str] | None:
    """Replace codes by tokens: names and kind letters, or None if that is no text of symbols."""
    start = names.start + run.align
    codes = np.frombuffer(run.data, "u1", names.stop - start, start).astype("u2")
    lengths_at = names.lengths_at - start
    codes[lengths_at] = _TOKENS
    codes = np.delete(codes, lengths_at[names.wide] + 1)
    characters = np.frombuffer(run.data, "u1", tokens.end - tokens.start, tokens.start)
    separator = tokens.offsets[1] - 1
    sources = np.append(tokens.offsets, separator).astype("i4")
    lengths = np.append(tokens.lengths, 1).astype("i4")
    each = lengths[codes]
    size = int(np.sum(each, dtype="i8"))
    if size > _MOST_TEXT:
        return None
    index = np.repeat(sources[codes] - (np.cumsum(each, dtype="i4") - each), each)
    text = characters[index + np.arange(size, dtype="i4")]
    kinds_at = np.flatnonzero(text == 0) + 1
    if text[-1] == 0 or not np.all(np.isin(text[kinds_at], _KINDS)):
        return None
    kinds: str = text[kinds_at].tobytes().decode("ascii")
    plain: str = np.delete(text, kinds_at)[1:].tobytes().decode("utf-8", "surrogateescape")
    return plain.split("\0"), kinds


def _address_columns(run: _Run, names: _Names, tokens: _Tokens) -> Iterator[Column]:
    """Read the addresses in every way a kernel may have stored them; only one of these is in order."""
    behind = run.aligned(tokens.end)
    before = names.start - run.word
    for offsets_at, base_at in (
        (before - _rounded(4 * names.count, run.align), before),
        (behind, run.aligned(behind + 4 * names.count)),
    ):
        offsets = run.column("i4", offsets_at, names.count)
        base = run.column(f"u{run.word}", base_at, 1)
        if offsets is not None and base is not None and _in_reach(run, int(base[0])):
            yield from _based(offsets, int(base[0]))
    for place in (names.start - run.word * names.count, behind):
        absolute = run.column(f"u{run.word}", place, names.count)
        if absolute is not None:
            yield absolute.astype("u8")
    placed = run.column("i4", behind, names.count)
    if placed is not None:
        own = np.uint64(run.address(behind)) + 4 * np.arange(names.count, dtype="u8")
        yield own + placed.astype("i8").astype("u8")


def _based(offsets: Column, base: int) -> Iterator[Column]:
    """Undo CONFIG_KALLSYMS_BASE_RELATIVE, without and with CONFIG_KALLSYMS_ABSOLUTE_PERCPU."""
    yield np.uint64(base) + offsets.astype("u4").astype("u8")
    signed = offsets.astype("i8")
    yield np.where(signed >= 0, signed, base - 1 - (1 << 64 if base >> 63 else 0) - signed).astype("u8")


def _plausible(run: _Run, addresses: Column) -> bool:
    in_order = bool(np.all(addresses[1:] >= addresses[:-1])) and addresses[0] < addresses[-1]
    return in_order and _in_reach(run, int(addresses[len(addresses) // 2]))


def _in_reach(run: _Run, address: int) -> bool:
    """Whether an address belongs to the same 2 GiB of kernel image as the tables."""
    return address != 0 and abs(address - run.base) < 1 << 31


def _rounded(size: int, unit: int) -> int:
    return size + -size % unit


def parse_text(data: bytes, place: str = "") -> AddressBook:
    """Read /proc/kallsyms or System.map, in the order of its lines; `place` is for messages.

    KdiffError `kallsyms.hidden` if every address is zero, `kallsyms.stub` for the 83 bytes that Debian ships
    as /boot/System.map, `kallsyms.malformed` for a line that is none, `kallsyms.empty`.
    """
    if len(data) < 1024 and _STUB in data:
        raise KdiffError(
            "kallsyms.stub",
            "this System.map is the distribution's stub and lists no symbols",
            place=place,
            remedy="use the symbols inside vmlinuz",
        )
    book = _plain(data)
    if book is None:
        book = AddressBook(_text_lines(data.decode("utf-8", "surrogateescape").splitlines(), place))
    if not book.names:
        raise KdiffError("kallsyms.empty", "no symbols are listed", place=place)
    if not any(book.addresses):
        raise KdiffError(
            "kallsyms.hidden",
            "the kernel shows every address as zero",
            place=place,
            remedy="run as root; if you are, set the sysctl kernel.kptr_restrict to 0 or 1",
        )
    return book


def _plain(data: bytes) -> AddressBook | None:
    """The same as `_text_lines` for a table that names no modules, as System.map; None for any other."""
    if _PLAIN.fullmatch(data) is None:
        return None
    words = data.decode("ascii").split()
    return AddressBook.of_columns(words[2::3], list(map(int, words[::3], repeat(16))), words[1::3])


def _text_lines(lines: Iterable[str], place: str) -> Iterator[tuple[str, int, str, str]]:
    for number, line in enumerate(lines, 1):
        fields = line.split()
        try:
            address = int(fields[0], 16)
            kind, name = fields[1], fields[2]
            owner = fields[3][1:-1] if len(fields) > 3 else KERNEL
        except (IndexError, ValueError):
            if not fields:
                continue
            raise KdiffError(
                "kallsyms.malformed", f"line {number} is not `address kind name [module]`", place=place
            ) from None
        yield name, address, kind, owner


def format_system_map(book: AddressBook) -> str:
    """Write vmlinux's symbols as System.map lists them: by address, equal addresses by name (`nm -n`)."""
    lines = sorted((address, name, kind) for name, address, kind, owner in book.lines() if owner == KERNEL)
    return "".join(f"{address:016x} {kind} {name}\n" for address, name, kind in lines)

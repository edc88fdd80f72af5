# SPDX-License-Identifier: Apache-2.0
"""Decoders of instructions. The only door to capstone.

In: the names of capstone's architecture and modes. Out: a `Decoder`. That of capstone's Python part is
imported where nothing else is possible: it describes the operands of twenty architectures, which nobody here
asks for, and takes longer to import than the comparison of ten objects. The library itself is loaded in two
milliseconds, and its answers are columns. It is asked directly if it is the one whose structures are known
and lies in the package; whether it is, an answer must show.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdiff.errors import KdiffError

UNKNOWN = ".byte"
"""The mnemonic capstone gives to bytes it skips."""
Instructions = Sequence[tuple[int, int, bool]]
"""(offset, size, whether it is one)"""
Texts = Sequence[tuple[int, int, str, str]]
"""(address, size, mnemonic, operands)"""


class Decoder(Protocol):
    """Decodes code as far as it can; what it cannot decode it skips, up to the last bytes."""

    def instructions(self, code: bytes) -> Instructions: ...

    def texts(self, code: bytes, address: int) -> Texts: ...


@cache
def decoder(machine: str, modes: tuple[str, ...]) -> Decoder:
    """The decoder for names of capstone's constants."""
    return direct(machine, modes) or Imported(machine, modes)


class Imported:
    """capstone's own Python part."""

    def __init__(self, machine: str, modes: tuple[str, ...]) -> None:
        import capstone

        self._machine, self._error = machine, capstone.CsError
        mode = 0
        for each in modes:
            mode |= getattr(capstone, each)
        self._decoder = capstone.Cs(getattr(capstone, machine), mode)
        self._decoder.skipdata = True

    def instructions(self, code: bytes) -> Instructions:
        return [(at, size, text != UNKNOWN) for at, size, text, _ in self.texts(code, 0)]

    def texts(self, code: bytes, address: int) -> Texts:
        try:
            return list(self._decoder.disasm_lite(code, address))
        except self._error as error:
            raise KdiffError("arch.decoding", f"capstone gives up: {error}", place=self._machine) from error


_MAJOR = 5
"""The version of the library that has these numbers and structures (capstone/capstone.h)."""
_NUMBERS = {
    "CS_ARCH_ARM": 0, "CS_ARCH_ARM64": 1, "CS_ARCH_X86": 3, "CS_ARCH_PPC": 4, "CS_ARCH_SYSZ": 6,
    "CS_ARCH_RISCV": 15, "CS_MODE_ARM": 0, "CS_MODE_V8": 1 << 6, "CS_MODE_32": 1 << 2, "CS_MODE_64": 1 << 3,
    "CS_MODE_LITTLE_ENDIAN": 0, "CS_MODE_BIG_ENDIAN": 1 << 31, "CS_MODE_RISCV64": 1 << 1,
    "CS_MODE_RISCVC": 1 << 2,
}  # fmt: skip
_SKIP, _ON = 5, 3
"""CS_OPT_SKIPDATA, CS_OPT_ON."""
_INSTRUCTION = np.dtype(
    {
        "names": ("address", "size", "head", "mnemonic", "operands"),
        "formats": ("u8", "u2", f"S{len(UNKNOWN) + 1}", "S32", "S160"),
        "offsets": (8, 16, 42, 42, 74),
        "itemsize": 248,
    }
)
"""struct cs_insn. `head`: as much of the mnemonic as tells what was skipped."""


class Direct:
    """The library itself."""

    def __init__(self, machine: str, library: ctypes.CDLL, handle: int) -> None:
        self._machine, self._library, self._handle = machine, library, handle

    def instructions(self, code: bytes) -> Instructions:
        rows = self._rows(code, 0)
        known = rows["head"] != UNKNOWN.encode()
        return list(zip(rows["address"].tolist(), rows["size"].tolist(), known.tolist(), strict=True))

    def texts(self, code: bytes, address: int) -> Texts:
        rows = self._rows(code, address)
        texts = (map(_text, rows[each].tolist()) for each in ("mnemonic", "operands"))
        return list(zip(rows["address"].tolist(), rows["size"].tolist(), *texts, strict=True))

    def _rows(self, code: bytes, address: int) -> NDArray[Any]:
        found = ctypes.c_void_p()
        count = self._library.cs_disasm(self._handle, code, len(code), address, 0, ctypes.byref(found))
        if not count:
            if error := self._library.cs_errno(self._handle):
                raise KdiffError("arch.decoding", f"capstone gives up: {error}", place=self._machine)
            return np.zeros(0, _INSTRUCTION)
        raw = ctypes.string_at(found.value or 0, count * _INSTRUCTION.itemsize)
        self._library.cs_free(found, count)
        return np.frombuffer(raw, _INSTRUCTION)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("ascii")


def direct(machine: str, modes: tuple[str, ...]) -> Direct | None:
    """A decoder that does without the import, if one can be had."""
    library, handle = _library(), ctypes.c_size_t()
    if library is None or not _NUMBERS.keys() >= {machine, *modes}:
        return None
    if library.cs_open(_NUMBERS[machine], sum(map(_NUMBERS.__getitem__, modes)), ctypes.byref(handle)):
        return None
    library.cs_option(handle, _SKIP, _ON)
    found = Direct(machine, library, handle.value)
    return found if _is_sound(found) else None


def _is_sound(found: Direct) -> bool:
    """Whether instructions lie side by side, as they must if the structures are those that are known."""
    rows = found.instructions(bytes(64))
    return [*(at for at, _, _ in rows), 64] == [0, *(at + size for at, size, _ in rows)]


@cache
def _library() -> ctypes.CDLL | None:
    """capstone's library where its Python package has it; None if it is another version."""
    spec = find_spec("capstone")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "lib" / "libcapstone.so"
        if path.exists():
            library = ctypes.CDLL(str(path))
            size, number, pointer = ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
            library.cs_open.argtypes = number, ctypes.c_uint, pointer
            library.cs_option.argtypes = size, number, size
            library.cs_disasm.argtypes = size, ctypes.c_char_p, size, ctypes.c_uint64, size, pointer
            library.cs_disasm.restype = size
            library.cs_free.argtypes, library.cs_free.restype = (pointer, size), None
            library.cs_errno.argtypes = (size,)
            return library if library.cs_version(None, None) >> 8 == _MAJOR else None
    return None

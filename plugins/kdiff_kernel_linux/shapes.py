# SPDX-License-Identifier: Apache-2.0
"""What the entries of Linux's tables have looked like since 3.10, where no type information tells.

One shape for each layout, by where addresses stand: a relative one is an `s32` that counts from itself, an
absolute one is a pointer. Which it is follows from the objects' relocations, so that all architectures share
the list. Sources: include/asm-generic/bug.h, linux/jump_label.h, static_call_types.h, dynamic_debug.h,
error-injection.h, bpf.h, and asm/extable.h, asm/alternative*.h, asm/bug.h of each architecture.
"""

from __future__ import annotations

from kdiff.api import KernelFacts, Shape
from kdiff_kernel_linux.layout import width

Shapes = tuple[Shape, ...]
_LINE = 2
"""bug_entry.line is an unsigned short."""
LINENO = 3
"""_ddebug.lineno has 18 bits, which fill two bytes and a part of the third on either byte order."""


def bugs(facts: KernelFacts) -> Shapes:
    """bug_entry: address, since 6.19 perhaps a format, file and line with BUGVERBOSE, flags (u16 each)."""
    word = width(facts)
    relative = (
        Shape(8, _at(4, 0)),
        Shape(12, _at(4, 0, 4), ignored=((8, _LINE),)),
        Shape(16, _at(4, 0, 4, 8), ignored=((12, _LINE),)),
    )
    if word == 4:
        return relative
    return (
        *relative,
        Shape(2 * word, _at(word, 0)),
        Shape(3 * word, _at(word, 0, word), ignored=((2 * word, _LINE),)),
    )


def exceptions(facts: KernelFacts) -> Shapes:
    """exception_table_entry: insn and fixup; then a handler, or type and data.

    Handlers: x86 4.6 to 5.16, s390 5.8 to 5.18.
    """
    word = width(facts)
    pointers = (Shape(2 * word, _at(word, 0, word)),) if word != 4 else ()
    return (
        Shape(8, _at(4, 0, 4)),
        Shape(12, _at(4, 0, 4)),
        Shape(12, _at(4, 0, 4, 8), named=(8,)),
        Shape(16, _at(4, 0, 4), others=_at(8, 8)),
        *pointers,
    )


def jumps(facts: KernelFacts) -> Shapes:
    """jump_entry: code, target, key. Three pointers until 4.19, then often s32, s32, long (..._RELATIVE)."""
    word = width(facts)
    if word == 4:
        return (Shape(12, _at(4, 0, 4, 8)),)
    return Shape(8 + word, (*_at(4, 0, 4), (8, word))), Shape(3 * word, _at(word, 0, word, 2 * word))


def alternatives(counted: bool = False) -> Shapes:
    """alt_instr: two s32, then packed numbers.

    11: s390 5.19 to 6.10. 12: x86 to 4.0 and 5.13 to 6.2, arm64, loongarch, s390 before. 13: x86 4.1 to 5.12
    (with padlen), s390 since 6.11. 14: x86 since 6.3. Loongarch's assembler leaves lengths to the linker.
    `counted`: x86, where a replacement may be empty: its length follows that of the instructions.
    """
    lengths = _at(1, 10, 11)
    replacement = {12: 11, 13: 11, 14: 13} if counted else {}
    return tuple(
        Shape(size, _at(4, 0, 4), others=lengths, counts=_counts(4, replacement.get(size)), payload=4)
        for size in (11, 12, 13, 14)
    )


def _counts(address: int, count: int | None) -> tuple[tuple[int, int], ...]:
    return ((address, count),) if count is not None else ()


def riscv_alternatives() -> Shapes:
    """alt_entry: two pointers and three numbers to 6.2, then two s32 and numbers, perhaps relocated."""
    return (
        Shape(16, _at(4, 0, 4), others=_at(2, 10), payload=4),
        Shape(36, _at(8, 0, 8), others=_at(8, 24), payload=8),
    )


def paravirt(facts: KernelFacts) -> Shapes:
    """paravirt_patch_site: a pointer, type, length, clobbers until 4.20. The last may lack its padding."""
    word = width(facts)
    return (Shape(2 * word, _at(word, 0), least=word + 2),)


def static_calls() -> Shapes:
    """static_call_site: two s32."""
    return (Shape(8, _at(4, 0, 4)),)


def injections(facts: KernelFacts) -> Shapes:
    """error_injection_entry: an address and an enumeration."""
    word = width(facts)
    return (Shape(2 * word, _at(word, 0)),)


def addresses(facts: KernelFacts) -> Shapes:
    """One address, as a pointer or as an s32."""
    return tuple(Shape(size, _at(size, 0)) for size in sorted({4, width(facts)}))


def debugs(facts: KernelFacts) -> Shapes:
    """_ddebug: four pointers, bit fields of which the line is the first, since 4.4 perhaps a static key."""
    word = width(facts)
    pointers = _at(word, 0, word, 2 * word, 3 * word)
    return tuple(
        Shape(size, pointers, owner=None, ignored=((4 * word, LINENO),))
        for size in ((40, 56) if word == 8 else (24, 32))
    )


def debug_classes(facts: KernelFacts) -> Shapes:
    """ddebug_class_map: a list head, perhaps the module, its name, names of classes, three numbers."""
    word = width(facts)
    size = 5 * word + 12
    return (
        Shape(-(-size // word) * word, _at(word, 3 * word, 4 * word), others=_at(word, 2 * word), owner=None),
    )


def raw_tracepoints(facts: KernelFacts) -> Shapes:
    """bpf_raw_event_map: two pointers and one or two numbers, aligned to 32 bytes."""
    word = width(facts)
    return (Shape(32, _at(word, 0, word)),)


def features(facts: KernelFacts) -> Shapes:
    """powerpc's fixup_entry: mask and value, then begin and end of a section and of its alternative."""
    word = width(facts)
    return (Shape(6 * word, _at(word, *(word * i for i in (2, 3, 4, 5))), owner=2 * word),)


def _at(size: int, *offsets: int) -> tuple[tuple[int, int], ...]:
    return tuple((offset, size) for offset in offsets)

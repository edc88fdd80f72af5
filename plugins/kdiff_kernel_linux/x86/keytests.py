# SPDX-License-Identifier: Apache-2.0
"""Jump labels turned into tests of their keys, in assembly.

A jump label (arch/x86/include/asm/jump_label.h, arch_static_branch and arch_static_branch_jump) is one no-op
or jump and an entry of __jump_table: where it is, where it leads to, and its key, in whose low bits stand
`branch` (1) and, for objtool, "make this jump a no-op" (2). The kernel makes it a jump while the key is
enabled, if `branch` is clear, else while it is not (jump_label_type in kernel/jump_label.c); a key is enabled
unless its `enabled` is 0 (static_key_count). The same in one comparison and one conditional jump is slower,
and right at any time. The compiler takes the flags to be lost behind every asm statement on x86.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

from kdiff_kernel_linux.layout import Layout

_FLAGS = 3
_LABEL = re.compile(
    r"^[ \t]*1:[ \t]*(?:jmp[ \t]+(?P<target>[.\w$]+)[^\n]*|\.byte[^\n]+)\n"
    r"[ \t]*\.pushsection[ \t]+__jump_table\b[^\n]*\n"
    r"[ \t]*\.balign[^\n]*\n"
    r"[ \t]*\.long[ \t]+1b[ \t]*-[ \t]*\.[ \t]*\n"
    r"[ \t]*\.long[ \t]+(?P<to>[.\w$]+)[ \t]*-[ \t]*\.[ \t]*\n"
    r"[ \t]*\.(?:quad|long)[ \t]+(?P<key>[.\w$]+)(?P<terms>(?:[ \t]*\+[ \t]*\d+)*)[ \t]*-[ \t]*\.[^\n]*\n"
    r"[ \t]*\.popsection[^\n]*\n",
    re.MULTILINE,
)


def without_entries(layout: Layout, assembly: str, wanted: Mapping[str, Set[str]]) -> str:
    """Replace the jump labels of these keys in these functions; `layout`: enabled of static_key."""
    (enabled,) = layout
    for function, keys in wanted.items():
        name = re.escape(function)
        body = rf"^{name}:[^\n]*\n.*?^[ \t]*\.size[ \t]+{name}[ \t]*,"
        for found in re.findall(body, assembly, re.MULTILINE | re.DOTALL):
            assembly = assembly.replace(found, _tested(found, keys, enabled))
    return assembly


def _tested(code: str, keys: Set[str], enabled: int) -> str:
    def test(found: re.Match[str]) -> str:
        if found["key"] not in keys:
            return found[0]
        distance = sum(int(each) for each in re.findall(r"\d+", found["terms"]))
        place, flags = (distance & ~_FLAGS) + enabled, distance & _FLAGS
        jump = "je" if flags & 1 else "jne"
        return f"\tcmpl $0, {found['key']}+{place}(%rip)\n\t{jump} {found['to']}\n"

    return _LABEL.sub(test, code)

# SPDX-License-Identifier: Apache-2.0
"""What compilers do to names: the numbers and suffixes they add.

gcc numbers static locals (`count.3`) and names parts and copies of functions after their origin (`f.cold`,
`f.part.0`, `f.isra.0`, `f.constprop.0`). The kernel numbers what macros declare (`__UNIQUE_ID_`,
include/linux/compiler.h).
"""

from __future__ import annotations

import re
from functools import lru_cache

_PART = re.compile(r"\.(cold|part|isra|constprop)\b")
_NUMBERS = re.compile(r"(\.\d+)+$")
_UNIQUE = re.compile(r"\d+(\.\d+)*$")


FRAGMENT = ".cold"
"""In the name of a function that is only a part."""
LABEL, UNIQUE = ".L", "__UNIQUE_ID_"
"""How names begin of labels that mean nothing, and of what macros declare."""


@lru_cache(maxsize=1 << 12)
def stem(name: str) -> str:
    """A name without the numbers compilers add."""
    if not name[-1:].isdecimal():
        return name
    return (_UNIQUE if is_made_unique(name) else _NUMBERS).sub("", name)


def origin(name: str) -> str:
    """The name in the source of a function that may be a part or a copy of it."""
    part = _PART.search(name)
    return stem(name[: part.start()] if part else name)


def is_made_unique(name: str) -> bool:
    """Whether a macro declared it under a name that it counts up."""
    return name.startswith(UNIQUE)


@lru_cache(maxsize=1 << 12)
def is_numbered(name: str) -> bool:
    """Whether the name of a static carries a compiler's number, so that an equal name proves nothing."""
    return bool(_head(name)) or name.startswith((UNIQUE, LABEL))


def example(name: str) -> str:
    """One name for all that differ in the compiler's last number only."""
    found = "" if is_made_unique(name) else _head(name)
    return f"{found}0" if found else name


def _head(name: str) -> str:
    """What is in front of a compiler's last number, with its dot; empty where there is none."""
    if not name[-1:].isdecimal():
        return ""
    found, dot, number = name.rpartition(".")
    return found + dot if number.isdecimal() else ""


def is_part(name: str) -> bool:
    """Whether a function is a part or a copy that the compiler made of another one."""
    return bool(_PART.search(name))


def is_fragment(name: str) -> bool:
    """Whether a function is the unlikely part of another one, which is never entered by itself."""
    return FRAGMENT in name


@lru_cache(maxsize=16)
def longest(families: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the longest of the families that a name begins with."""
    return re.compile("|".join(map(re.escape, sorted(families, key=len, reverse=True))) or "(?!)")

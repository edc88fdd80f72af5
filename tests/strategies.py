# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies: translation units, pairs of them, and files with a few bytes changed."""

from __future__ import annotations

from hypothesis import strategies as st

_HEAD = """
int printk(const char *, ...);
extern int limit, gauge[8];
int other(int);
"""
_STATEMENTS = (
    "a += limit * {n};",
    "gauge[a & 7] = {n};",
    'printk("number {n} of %d", a);',
    'if (a == {n}) printk("%s", __func__);',
    "a = other(a + {n});",
    "{{ static int calls; calls += {n}; a ^= calls; }}",
    "{{ static const int row[] = {{1, {n}, 3, 4, 5, 6, 7, 8}}; a += row[a & 7]; }}",
    "a = previous(a - {n});",
    "if (a > {n}) return previous(a);",
    "shared += {n};",
    "for (int i = 0; i < limit; i++) a += gauge[i & 7] + {n};",
)


@st.composite
def functions(draw: st.DrawFn) -> tuple[str, ...]:
    """Bodies of functions."""
    statement = st.tuples(st.sampled_from(_STATEMENTS), st.integers(100, 199)).map(
        lambda pair: pair[0].format(n=pair[1])
    )
    body = st.lists(statement, min_size=1, max_size=5).map(" ".join)
    return tuple(draw(st.lists(body, min_size=1, max_size=4)))


def unit(bodies: tuple[str, ...]) -> str:
    """A unit of these functions, every second one static; each can call the one before it."""
    text = _HEAD + "static int shared = 3;\n"
    previous = "other"
    for number, body in enumerate(bodies):
        static = "static __attribute__((noinline, used)) " if number % 2 else ""
        body = body.replace("previous(", f"{previous}(")
        text += f"{static}int function_{number}(int a) {{ {body} return a; }}\n"
        previous = f"function_{number}"
    return text


def units() -> st.SearchStrategy[str]:
    """Units that compile."""
    return functions().map(unit)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    """A unit before and after a change of its functions."""
    before = draw(functions())
    after = list(before)
    where = draw(st.integers(0, len(before) - 1))
    kind = draw(st.sampled_from(("replace", "replace", "append", "remove")))
    if kind == "replace":
        after[where] = draw(functions())[0]
    elif kind == "append":
        after.append(draw(functions())[0])
    elif len(after) > 1:
        del after[where]
    return unit(before), unit(tuple(after))


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """A file cut off, or with a few bytes or words overwritten; often in its headers."""
    changed = bytearray(data)
    if draw(st.sampled_from((False, False, False, False, True))):
        del changed[draw(st.integers(0, len(changed))) :]
    interesting = st.sampled_from((0, 1, 0x7F, 0xFF, 0xFF00, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 64) - 1))
    headers = int.from_bytes(data[40:48], "little")
    for _ in range(draw(st.integers(0, 4))):
        if not changed:
            break
        area = st.integers(0, 63) | st.integers(headers, len(data)) | st.integers(0, len(data))
        at = min(draw(area), len(changed) - 1)
        width = draw(st.sampled_from((1, 2, 4, 8)))
        value = draw(interesting | st.integers(0, (1 << 64) - 1)) & (1 << 8 * width) - 1
        changed[at : at + width] = value.to_bytes(width, "little")[: len(changed) - at]
    return bytes(changed)

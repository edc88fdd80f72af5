# SPDX-License-Identifier: Apache-2.0
"""Where macros may paste names together (`##`), going by text: a search that rather finds too much.

A paste is a chain of pieces: words, and parameters of the macro it stands in. The search goes backwards.
Each chain that could spell a wanted name is followed to the calls of its macro; the arguments take the
parameters' places, and what cannot spell the name any more is dropped. Arguments that are parameters of a
macro around the call lead to that macro's calls. Where a piece cannot be known (an argument that is a macro
itself, a macro that is named without being called), it is any text. C11 6.10.3.1 and 6.10.3.3 say what is
pasted: the last token of the left argument and the first of the right one, as they are written.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain as joined
from itertools import product
from typing import NamedTuple

from kdiff.macros import (
    GLUE,
    NUMBER,
    TOKEN,
    UNKNOWN,
    WORD,
    Chain,
    Glued,
    Macro,
    Part,
    Piece,
    Slot,
    Unknown,
    Use,
    arguments_of,
    chains,
    definition,
    groups,
    uses,
)

Environment = Mapping[bytes, list[Chain]]
"""What the parameters of a macro stand for."""
_NUMBERED = frozenset({b"__LINE__", b"__COUNTER__", b"__INCLUDE_LEVEL__"})
_NONE: frozenset[bytes] = frozenset()
_DEEPEST = 12
_MOST = 64
"""So many values an argument may have before it counts as unknown."""


class Origin(NamedTuple):
    """A paste in a macro's body, in a file."""

    file: str
    macro: Macro
    glued: Glued


class Step(NamedTuple):
    """A chain in the body of a macro. `open`: what is pasted must be called by what follows the body.

    `origin`: the paste that it comes from, if that is called where it is.
    """

    macro: bytes
    chain: Chain
    open: bool
    origin: Origin | None


class Paste(NamedTuple):
    """In this part of a file the name may be pasted together, for those who see it: `units`, a bit each."""

    file: str
    part: Part
    name: bytes
    units: int


@lru_cache(maxsize=1 << 16)
def spells(chain: Chain) -> re.Pattern[bytes]:
    """What a chain may become."""
    parts = (
        re.escape(each) if isinstance(each, bytes) else each.pattern if isinstance(each, Unknown) else rb"\w*"
        for each in chain
    )
    return re.compile(b"".join(parts))


class Pastes:
    """The search for pastes of names.

    `macros`: all definitions that hold `##`, and their files. `find` says which files have which of some
    words, of the files that count; `read` gives the parts of a file, `define` all definitions of some words;
    `seen` says which units may see a file, a bit each: what no unit sees together is no paste. `command` are
    names that a command line defines.
    """

    def __init__(
        self,
        macros: Iterable[tuple[str, Macro]],
        find: Callable[[Iterable[bytes]], Mapping[str, frozenset[bytes]]],
        read: Callable[[str], Iterable[Part]],
        define: Callable[[Iterable[bytes]], Iterable[Macro]],
        seen: Callable[[str], int],
        command: frozenset[bytes] = frozenset(),
    ) -> None:
        self._origins = [
            (Origin(file, macro, glued), seen(file)) for file, macro in macros for glued in chains(macro)
        ]
        self._find, self._read, self._define, self._seen = find, read, define, seen
        self._uses: dict[bytes, list[Use]] = {}
        self._values: dict[bytes, frozenset[bytes | Unknown]] = {
            name: frozenset({UNKNOWN}) for name in command
        }
        self._values |= {name: frozenset({NUMBER}) for name in _NUMBERED}
        self._called: dict[bytes, list[Macro]] = {}

    def of(self, names: Iterable[bytes]) -> set[Paste]:
        """All places where one of the names may be pasted together.

        The names of macros that paste may be pasted themselves, and called where they are, or behind the
        macro: then with unknown arguments. Not seen is a call by a macro that such a name is an argument of
        (`CALL(GET_##k, x)`, where CALL is `f(x)` and GET_a a macro that pastes); none is known in the kernel.
        """
        wanted = frozenset(names)
        hidden: set[tuple[bytes, Use]] = set()
        while True:
            found = {Paste(*where[:3], units) for where, units in self._search(wanted, called=False).items()}
            macros = frozenset(self._uses)
            new = {
                (name, _hidden(file, part, origin, units))
                for (file, part, name, origin), units in self._search(macros, called=True).items()
            } - hidden
            hidden |= new
            for name, use in new:
                self._uses[name].append(use)
            if not new and self._uses.keys() == macros:
                return found

    def _search(
        self, wanted: frozenset[bytes], called: bool
    ) -> Mapping[tuple[str, Part, bytes, Origin | None], int]:
        """The same for names one of which may be `called`: a parenthesis must follow what is pasted."""
        found: dict[tuple[str, Part, bytes, Origin | None], int] = defaultdict(int)
        waiting: dict[Step, int] = defaultdict(int)
        for origin, units in self._origins:
            chain, then, arguments, _ = origin.glued
            if (not called or then in (b"", b"(")) and _spelled(chain, wanted):
                kept = origin if called and arguments is not None else None
                waiting[Step(origin.macro.name, chain, called and then == b"", kept)] |= units
        done: dict[Step, int] = defaultdict(int)
        while waiting:
            for step, units in waiting.items():
                done[step] |= units
            self._look_up(frozenset(step.macro for step in waiting))
            made = self._steps(waiting, wanted)
            waiting = defaultdict(int)
            for step, use, units in made:
                if use.within is not None and (
                    step.open or any(isinstance(each, Slot) for each in step.chain)
                ):
                    if units & ~done[step]:
                        waiting[step] |= units
                elif not step.open:
                    for name in _spelled(step.chain, wanted):
                        found[use.file, use.part, name, step.origin] |= units
        return found

    def _steps(self, waiting: Mapping[Step, int], wanted: frozenset[bytes]) -> list[tuple[Step, Use, int]]:
        """What chains become where their macros are used, while that may spell a name; and who sees it."""
        while True:
            doubts: set[bytes] = set()
            steps: list[tuple[Step, Use, int]] = []
            for step, units in waiting.items():
                for named in self._uses[step.macro]:
                    if not units & named.units:
                        continue
                    use, unasked = self._chosen(named)
                    if step.open and use.then not in (b"", b"("):
                        continue
                    around = b"" if use.within is None else use.within.name
                    for chain, doubtful in self._filled(step.chain, use):
                        if _spelled(chain, wanted):
                            doubts |= doubtful | unasked
                            made = Step(around, chain, step.open and use.then == b"", step.origin)
                            steps.append((made, use, units & use.units))
            if not doubts:
                return steps
            self._evaluate(doubts)

    def _chosen(self, use: Use) -> tuple[Use, frozenset[bytes]]:
        """The use, not called where it is not known that what it is an argument of chooses it."""
        if not use.chooser:
            return use, _NONE
        macros = self._called.get(use.chooser, [])
        if macros and not self._values[use.chooser] and all(each.chooses for each in macros):
            return use, _NONE
        doubts = _NONE if use.chooser in self._called else frozenset({use.chooser})
        return use._replace(arguments=None, then=b"("), doubts

    def _filled(self, chain: Chain, use: Use) -> Iterator[tuple[Chain, frozenset[bytes]]]:
        """A chain with arguments in its slots; and the words of which nobody has asked yet what they are."""
        if use.alias:
            yield chain, _NONE
            return
        made: list[tuple[Chain, frozenset[bytes]]] = [((), frozenset())]
        for at, piece in enumerate(chain):
            options: list[Chain] = [(piece,)]
            doubt: frozenset[bytes] = frozenset()
            if isinstance(piece, Slot):
                options, doubt = self._options(piece, at == 0, at == len(chain) - 1, use)
            made = [((*head, *tail), doubts | doubt) for head, doubts in made for tail in options]
        yield from made

    def _options(self, slot: Slot, first: bool, last: bool, use: Use) -> tuple[list[Chain], frozenset[bytes]]:
        """What may stand in a slot: its argument's last token if it is the first piece, else the first."""
        if use.arguments is None:
            return [(UNKNOWN,)], _NONE
        further = self._further(slot, use)
        if further is not None:
            return [(further,)], _NONE
        if slot.position >= len(use.arguments):  # an argument that is there may become several
            doubts: set[bytes] = set()
            values = [each for one in use.arguments for each in self._alone(one, use, doubts)]
            return [(UNKNOWN,)] if (UNKNOWN,) in values else [(b"",)], frozenset(doubts)
        given = (
            use.arguments[slot.position :] if slot.rest else use.arguments[slot.position : slot.position + 1]
        )
        tokens = [token for at, each in enumerate(given) for token in ((b",",) * (at > 0) + each)]
        environment: Environment = {}
        if use.within is not None:
            environment = {name: [(own,)] for name, own in use.within.slots.items()}
        cut = groups(tokens)
        if not slot.raw and (len(tokens) < 2 or (tokens[-1] == b")" and tokens[1] == b"(")):
            doubts = set()
            return self._value(tokens, environment, doubts), frozenset(doubts)
        if not tokens:
            return [(b"",)], _NONE
        group = cut[-1] if first else cut[0]
        if (not (first or last) and len(cut) > 1) or (not slot.raw and (len(group) > 1 or not first)):
            return [(UNKNOWN,)], _NONE
        if len(group) > 1 and use.within is not None:
            return [tuple(use.within.slot(word, raw=True) or word for word in group)], _NONE
        if slot.raw:
            return self._written(tuple(group), environment), _NONE
        if group[0] == b")":
            return [(UNKNOWN,)], _NONE
        doubts = set()
        return self._value(group, environment, doubts), frozenset(doubts)

    def _further(self, slot: Slot, use: Use) -> Piece | None:
        """What is in a slot if the further arguments of the macro around are arguments of the call."""
        if use.within is None or use.arguments is None or not use.within.further:
            return None
        at = next(
            (at for at, each in enumerate(use.arguments) if use.within.further in each), slot.position + 1
        )
        if at > slot.position:
            return None
        passed = use.arguments[at]
        raw = passed == (GLUE, use.within.further)  # `, ##` keeps them as they are written
        if at < len(use.arguments) - 1 or not (raw or passed == (use.within.further,)):
            return UNKNOWN if at < slot.position or len(passed) == 1 else None
        if at < slot.position and not raw:  # each may become several
            return UNKNOWN
        return Slot(use.within.rest + slot.position - at, slot.raw and raw, slot.rest)

    def _alone(self, argument: tuple[bytes, ...], use: Use, doubts: set[bytes]) -> list[Chain]:
        """What an argument becomes that is one word; anything, if it is a parameter of the macro around."""
        if use.within is not None and set(argument) & set(use.within.parameters):
            return [(UNKNOWN,)]
        return self._word(argument[0], {}, doubts) if len(argument) == 1 else []

    def _value(
        self, tokens: Sequence[bytes], environment: Environment, doubts: set[bytes], depth: int = 0
    ) -> list[Chain]:
        """All that an argument may become: a word, or a call of macros that do nothing but paste."""
        if not tokens:
            return [(b"",)]
        if len(tokens) == 1:
            return self._word(tokens[0], environment, doubts)
        arguments = arguments_of(tokens) if tokens[-1] == b")" else None
        if arguments is None or depth > _DEEPEST or tokens[0] in environment:
            return [(UNKNOWN,)]
        if tokens[0] not in self._called:
            doubts.add(tokens[0])
        if self._values.get(tokens[0], True):
            return [(UNKNOWN,)]
        made: list[Chain] = []
        for macro in self._called[tokens[0]]:
            if macro.rest >= 0 or len(macro.parameters) != len(arguments):
                return [(UNKNOWN,)]
            given = dict(zip(macro.parameters, arguments, strict=True))
            body = TOKEN.findall(macro.body)
            cut = groups(body)
            if len(cut) == 1 and len(cut[0]) > 1:
                pieces = [
                    self._written(given[word], environment) if word in given else [(word,)] for word in cut[0]
                ]
                made += [tuple(joined.from_iterable(each)) for each in product(*pieces)]
            else:
                values = {
                    name: self._value(each, environment, doubts, depth + 1) for name, each in given.items()
                }
                made += self._value(body, values, doubts, depth + 1)
        return made if made and len(made) <= _MOST else [(UNKNOWN,)]

    def _word(self, word: bytes, environment: Environment, doubts: set[bytes]) -> list[Chain]:
        if word in environment:
            return environment[word]
        if not WORD.fullmatch(word):
            return []
        values, unasked = self._expanded(word)
        doubts |= unasked
        return [(each,) for each in values]

    def _written(self, tokens: tuple[bytes, ...], environment: Environment) -> list[Chain]:
        """The same for an argument that is pasted as it is written."""
        if not tokens:
            return [(b"",)]
        if len(tokens) > 1:
            return [(UNKNOWN,)]
        known = environment.get(tokens[0])
        return known if known is not None else [(tokens[0],)] if WORD.fullmatch(tokens[0]) else []

    def _expanded(self, word: bytes) -> tuple[set[bytes | Unknown], frozenset[bytes]]:
        """All that a word of an argument may become, itself included; and the words nobody has asked for."""
        values: set[bytes | Unknown] = {word}
        waiting: list[bytes | Unknown] = [word]
        while waiting:
            each = waiting.pop()
            if isinstance(each, Unknown) or each[:1].isdigit():
                continue
            if each not in self._values:
                return {UNKNOWN}, frozenset({each})
            waiting += self._values[each] - values
            values |= self._values[each]
        return values, frozenset()

    def _look_up(self, macros: frozenset[bytes]) -> None:
        """Read all uses of macros that have not been read yet."""
        missing = macros - self._uses.keys()
        self._uses |= {name: [] for name in missing}
        for file, words in self._find(missing).items() if missing else ():
            for part in self._read(file):
                for name, use in uses(file, part, words, self._seen(file)):
                    self._uses[name].append(use)

    def _evaluate(self, words: Iterable[bytes]) -> None:
        """Find out what words become when they are expanded: another word, or anything; or what they do."""
        found: dict[bytes, set[bytes | Unknown]] = {word: set() for word in words}
        called: dict[bytes, list[Macro]] = {word: [] for word in found}
        for macro in self._define(found):
            if macro.called:
                called[macro.name].append(macro)
            else:
                body = TOKEN.findall(macro.body)
                plain = len(body) == 1 and WORD.fullmatch(body[0])
                found[macro.name] |= {body[0]} if plain else {UNKNOWN} if body else set()
        for word, values in found.items():
            self._values.setdefault(word, frozenset(values))
        self._called |= called


def _hidden(file: str, part: Part, origin: Origin | None, units: int) -> Use:
    """A call by a name that is pasted: its arguments are known where the paste itself is what is called."""
    if origin is None:
        return Use(file, part, definition(part.text), None, b"", units)
    file, macro, glued = origin
    return Use(file, Part(macro.body, frozenset({macro.name})), macro, glued.arguments, glued.behind, units)


def _spelled(chain: Chain, names: frozenset[bytes]) -> list[bytes]:
    """The names that a chain may spell, out of two pieces at least.

    One that is a piece whole is written somewhere, and mentioned there, or comes out of another paste.
    """
    pieces = [each for each in chain if each]
    words = [each for each in pieces if isinstance(each, bytes)]
    if len(pieces) < 2:
        return []
    pattern = spells(chain)
    return [name for name in names if pattern.fullmatch(name) and words != [name]]

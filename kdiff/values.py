# SPDX-License-Identifier: Apache-2.0
"""Frozen values: `dataclasses.dataclass` for those with slots, in a tenth of the time.

That of the standard library compiles six functions for each class, and kdiff has a hundred classes: a fifth
of the time that it takes to start. Here `__init__` is compiled when the first value is made, and the others
are a few lines for all.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, slots: bool, eq: bool = True):
        """`@dataclass(frozen=True, slots=True)`: what it makes behaves as what the standard library makes."""
        if not frozen or not slots:
            raise TypeError("a value is frozen, and has slots")
        return lambda cls: _value(cls, eq)


@dataclasses.dataclass(init=False, repr=False, eq=False)
class _Example:
    """One with an ordinary field."""

    field: None


_ORDINARY = dataclasses.fields(_Example)[0]._field_type  # type: ignore[attr-defined]  # neither ClassVar nor InitVar


def _value(cls: type, eq: bool) -> type:
    every = _fields(cls)
    inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__slots__", ())}
    space = {
        name: value
        for name, value in vars(cls).items()
        if name not in every and name not in ("__dict__", "__weakref__")
    }
    fields = tuple(every.values())

    def __init__(self: Any, *given: Any, **named: Any) -> None:
        compiled = _init(made, fields)
        setattr(made, compiled.__name__, compiled)
        compiled(self, *given, **named)

    methods = {"__init__": __init__, "__repr__": _repr, **_FROZEN}
    if eq:
        methods |= _equality([each.name for each in fields if each.compare])
    made: type = type(cls)(cls.__name__, cls.__bases__, {
        "__slots__": tuple([name for name in every if name not in inherited]),
        "__match_args__": tuple([each.name for each in fields if each.init]),
        "__dataclass_fields__": every, **methods, **space,
    })  # fmt: skip
    made.__qualname__ = cls.__qualname__
    return made


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields by name, those of bases first; what `dataclasses` asks about a class is asked of them."""
    every: dict[str, dataclasses.Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):
        every |= getattr(base, "__dataclass_fields__", {})
    for name, kind in vars(cls).get("__annotations__", {}).items():
        given = vars(cls).get(name, dataclasses.MISSING)
        each = given if isinstance(given, dataclasses.Field) else dataclasses.field(default=given)
        each.name, each.type, each.kw_only = name, kind, False
        each._field_type = _ORDINARY  # type: ignore[union-attr]  # as that of the example
        every[name] = each
    return every


def _init(made: type, fields: tuple[dataclasses.Field[Any], ...]) -> Any:
    """Compile what sets all fields."""
    words, lines = ["self"], []
    given: dict[str, Any] = {"_set": object.__setattr__, "_made": object()}
    for each in fields:
        name, value = each.name, each.name
        if each.default is not dataclasses.MISSING:
            given[f"_{name}_"] = each.default
            words += [f"{name}=_{name}_"] * each.init
            value = name if each.init else f"_{name}_"
        elif each.default_factory is not dataclasses.MISSING:
            given[f"_{name}_"] = each.default_factory
            words += [f"{name}=_made"] * each.init
            value = f"_{name}_() if {name} is _made else {name}" if each.init else f"_{name}_()"
        elif each.init:
            words.append(name)
        else:
            continue
        lines.append(f" _set(self, {name!r}, {value})")
    if hasattr(made, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec("\n".join((f"def __init__({', '.join(words)}):", *lines, " return None")), given)
    found = given.pop("__init__")
    found.__qualname__ = f"{made.__qualname__}.__init__"
    return found


def _equality(names: list[str]) -> dict[str, Any]:
    """Equal are two of one class whose fields are."""
    of = attrgetter(*names) if names else lambda self: ()

    def __eq__(self: Any, other: object) -> Any:
        if self is other:
            return True
        return of(self) == of(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(of(self))

    return {"__eq__": __eq__, "__hash__": __hash__}


def _repr(self: Any) -> str:
    shown = (f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _refuse(self: object, name: str, *_: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot change field {name!r}")


def _state(self: Any) -> list[object]:
    return [getattr(self, each.name) for each in dataclasses.fields(self)]


def _restore(self: Any, state: list[object]) -> None:
    for each, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)


_FROZEN = {
    "__setattr__": _refuse, "__delattr__": _refuse, "__getstate__": _state, "__setstate__": _restore
}  # fmt: skip

"""JSON values to dataclasses, checked: a report may come from anywhere, so nothing in it is believed before it was looked at."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from leakycli.errors import CorruptError, shown

T = TypeVar("T")

#: Larger numbers of elements or bytes do not occur; Python would take any number of digits.
_LARGEST = 1 << 64

#: Numbers that are not finite, as strict JSON has them.
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def decode(kind: Callable[..., T], value: object, where: str = "") -> T:
    """`value`, as JSON gave it, as a `kind`: a dataclass, `int`, `tuple[float, ...]`, `str | None` and the like.

    where: the place of `value` in the document, for the message.

    A dataclass may have a method `problem`, which says in a few words what is wrong with the values together. Fields with a default may
    be absent, and keys that no field has are passed over. Raises CorruptError, which names the first value that is wrong.
    """
    return cast(T, _decoder(kind)(value, where))


def wrong(where: str, expected: str, value: object) -> CorruptError:
    """The error that `value` is not what was expected there."""
    try:
        found = "an object" if type(value) is dict else "a list" if type(value) is list else repr(value)
    except ValueError:
        found = "a number of too many digits"
    return CorruptError(f"{where or 'the document'}: expected {expected}, found {shown(found[:60])}")


@cache
def _decoder(kind: Any) -> Callable[[object, str], Any]:
    """What decodes a `kind`; it takes the value and where that is."""
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(cast(type, kind))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _of_union(tuple(a for a in arguments if a is not type(None)), type(None) in arguments)
    if origin is tuple:
        return _of_list(arguments[0])
    if origin is dict:
        return _of_dict(arguments[1])
    return _PLAIN[kind]


def _of_dataclass(kind: type) -> Callable[[object, str], Any]:
    hints = get_type_hints(kind)
    fields = [(field.name, _decoder(hints[field.name]), _has_default(field)) for field in dataclasses.fields(kind)]
    problem = getattr(kind, "problem", None)

    def decoder(value: object, where: str) -> Any:
        if type(value) is not dict:
            raise wrong(where, "an object", value)
        given = {}
        for name, field, optional in fields:
            place = f"{where}.{name}" if where else name
            if name in value:
                given[name] = field(value[name], place)
            elif not optional:
                raise CorruptError(f"{place}: is missing")
        made = kind(**given)
        if problem is not None and (text := problem(made)) is not None:
            raise CorruptError(f"{where or 'the document'}: {text}")
        return made

    return decoder


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _of_union(kinds: tuple[Any, ...], optional: bool) -> Callable[[object, str], Any]:
    assert len(kinds) == 1 or set(kinds) == {int, float}
    decoder = _decoder(kinds[0]) if len(kinds) == 1 else _number
    return lambda value, where: None if optional and value is None else decoder(value, where)


def _of_list(kind: Any) -> Callable[[object, str], Any]:
    one = _decoder(kind)

    def decoder(value: object, where: str) -> Any:
        if type(value) is not list:
            raise wrong(where, "a list", value)
        if kind is float and all(type(item) is float for item in value):
            return tuple(value)  # most of a report
        return tuple([one(item, f"{where}[{i}]") for i, item in enumerate(value)])

    return decoder


def _of_dict(kind: Any) -> Callable[[object, str], Any]:
    one = _anything if kind is Any else _decoder(kind)

    def decoder(value: object, where: str) -> Any:
        if type(value) is not dict:
            raise wrong(where, "an object", value)
        return {key: one(item, f"{where}.{key}") for key, item in value.items()}

    return decoder


def _text(value: object, where: str) -> str:
    if type(value) is not str:
        raise wrong(where, "a string", value)
    return value


def _flag(value: object, where: str) -> bool:
    if type(value) is not bool:
        raise wrong(where, "true or false", value)
    return value


def _whole(value: object, where: str) -> int:
    if type(value) is not int or not -_LARGEST < value < _LARGEST:
        raise wrong(where, "a whole number", value)
    return value


def _number(value: object, where: str) -> int | float:
    if type(value) is int and -_LARGEST < value < _LARGEST:
        return value
    return _float(value, where)


def _float(value: object, where: str) -> float:
    if type(value) is str and value in _SPECIAL:
        return _SPECIAL[value]
    if type(value) in (int, float):
        try:
            number = float(cast(float, value))
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise wrong(where, "a number", value)


def _anything(value: object, where: str) -> Any:
    return value


_PLAIN: dict[Any, Callable[[object, str], Any]] = {str: _text, bool: _flag, int: _whole, float: _float, object: _anything, Any: _anything}

"""What a Python caller gave for an option, as `Options` holds it; every wrong value is a UsageError that names the option and the value."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from leakycli.errors import UsageError, shown
from leakycli.function.alpha import checked_alpha
from leakycli.function.rule import OUTPUTS
from leakycli.tuning import Tuning


def normalised(name: str, value: Any) -> Any:
    """`value` of the option `name` in its one form: a dtype as its name, a size in bytes, several names as a tuple."""
    return _FORMS.get(name, _as_given)(name, value)


def known(function: str, given: Iterable[str], names: Iterable[str]) -> None:
    """Raise UsageError unless all that is given to `function` are `names` of its options."""
    names = list(names)
    for name in given:
        if name not in names:
            import difflib

            likely = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {likely[0]}?" if likely else f"it has {', '.join(names)}"
            raise UsageError(f"{function} has no option {name}; {hint}")


def parse_size(text: str) -> int:
    """Bytes in "128M", "1.5GiB", "4096"; units are powers of 1024. Raises UsageError."""
    number = text.strip().upper().removesuffix("BYTES").strip()
    factor = 1
    for power, prefix in enumerate("KMGT", start=1):
        for suffix in (f"{prefix}IB", f"{prefix}B", prefix):
            if factor == 1 and number.endswith(suffix):
                number, factor = number[: -len(suffix)].strip(), 1 << 10 * power
    try:
        size = float(number.removesuffix("B")) * factor
        if 0 < size < 1 << 63:
            return int(size)
    except ValueError:
        pass
    raise UsageError(f"{text!r} is no size; write it as in 512M, 2G or 4096")


def _wrong(name: str, expected: str, value: Any) -> UsageError:
    return UsageError(f"{name} must be {expected}, not {shown(repr(value)[:80])}")


def _as_given(name: str, value: Any) -> Any:
    return value


def _alpha(name: str, value: Any) -> float:
    if isinstance(value, (str, bytes, bool, np.bool_)):
        raise _wrong(name, "a finite number", value)
    return checked_alpha(value)


def _whole(name: str, value: Any) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise _wrong(name, "a whole number", value) from None


def _positive(name: str, value: Any) -> int:
    number = _whole(name, value)
    if number < 1:
        raise UsageError(f"{name} must be at least 1, not {number}")
    return number


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _wrong(name, "True or False", value)
    return bool(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "a string", value)
    return str(value)


def _dtype(name: str, value: Any) -> str:
    if isinstance(value, str) and value in OUTPUTS:
        return str(value)
    try:
        dtype = np.dtype(value)
    except (TypeError, ValueError):
        raise _wrong(name, f"one of {', '.join(OUTPUTS)}", value) from None
    if dtype.name not in OUTPUTS:
        raise UsageError(f"dtype {shown(dtype.name)} is not supported: choose one of {', '.join(OUTPUTS)}")
    if not dtype.isnative:
        raise UsageError(f"dtype {shown(repr(value)[:80])}: a result has the byte order of its source; give {dtype.name}")
    return str(dtype.name)


def _size(name: str, value: Any) -> int:
    if isinstance(value, str):
        return parse_size(value)
    size = _whole(name, value)
    if not 0 < size < 1 << 63:
        raise _wrong(name, "a number of bytes or a size as in '512M'", value)
    return size


def _names(name: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(name, item) for item in _several(name, value, "a name, or several", (str,)))


def _paths(name: str, value: Any) -> tuple[str, ...]:
    return tuple(path(name, item) for item in _several(name, value, "a path, or several", (str, os.PathLike)))


def _shape(name: str, value: Any) -> tuple[int, ...]:
    lengths = _several(name, value, "a length or several, of at least 1", (int, np.integer))
    try:
        return tuple(_positive(name, length) for length in lengths)
    except UsageError:
        raise _wrong(name, "a length or several, of at least 1", value) from None


def _several(name: str, value: Any, expected: str, single: tuple[type, ...]) -> Iterable[Any]:
    if isinstance(value, single):
        return (value,)
    if isinstance(value, (bytes, Mapping)) or not isinstance(value, Iterable):
        raise _wrong(name, expected, value)
    return value


def path(name: str, value: Any) -> str:
    """A path as a string. name: what it is of, for the message."""
    try:
        return os.fsdecode(value)
    except TypeError:
        raise _wrong(name, "a path", value) from None


def _version(name: str, value: Any) -> int:
    if value not in (2, 3) or isinstance(value, bool):
        raise _wrong(name, "2 or 3", value)
    return int(value)


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        # Not the value: it may hold credentials.
        raise UsageError(f"{name} must be a mapping of names to values, not a {type(value).__name__}")
    return value


def _tuning(name: str, value: Any) -> Tuning:
    if not isinstance(value, Tuning):
        raise _wrong(name, "a Tuning", value)
    return value


Form = Callable[[str, Any], Any]


def _unless_none(form: Form, otherwise: Any = None) -> Form:
    return lambda name, value: otherwise if value is None else form(name, value)


_FORMS: dict[str, Form] = {
    "alpha": _alpha,
    "dtype": _unless_none(_dtype),
    "nan": _unless_none(_whole),
    "workers": _unless_none(_positive),
    "memory": _unless_none(_size),
    "only": _unless_none(_names, ()),
    "skip": _unless_none(_names, ()),
    "to": _unless_none(_text),
    "compressor": _unless_none(_text),
    "chunks": _unless_none(_shape),
    "shards": _unless_none(_shape),
    "zarr_format": _unless_none(_version),
    "reports": _unless_none(_paths, ()),
    "command": _unless_none(_names),
    "tuning": _tuning,
    "storage_options": _unless_none(_mapping, {}),
    **dict.fromkeys(("strict", "overwrite", "verify", "parents", "provenance", "resume", "fsync", "patterns_met"), _flag),
}

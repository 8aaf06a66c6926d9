"""Which arrays are transformed: what the patterns of `only` and `skip` mean in a source, and in all the sources of a batch.

A name is taken exactly before it is taken as a pattern (a shell's): names may have brackets. Where no array has that very name, one whose
name is the same text in another Unicode form is meant: macOS stores "e" and its accent as two characters, and Python its identifiers in
compatibility form, whatever was typed. A pattern that meets no array is an error, never nothing.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import islice
from typing import Literal

from leakycli.errors import UsageError, counted, listed, shown
from leakycli.formats import Member

#: Names that are searched for one like a name that is not there.
_COMPARED = 10_000

_FORMS: tuple[Literal["NFC", "NFKC"], ...] = ("NFC", "NFKC")


@dataclass(frozen=True, slots=True)
class Found:
    """The members that a pattern means, by their keys. exactly: it is their name."""

    keys: frozenset[str] = frozenset()
    exactly: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns of names of arrays: those that are transformed (all that may be, without any), and those that are not.

    met: that each pattern meets an array in some source of a batch is known already, so that one need not in every source.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    met: bool = False

    def choose(self, members: Sequence[Member], path: str, copies: bool = True) -> tuple[Member, ...]:
        """The members of the source at `path` that are to be transformed.

        copies: those that are not are copied as they are. Raises UsageError where none is left or a pattern meets no array, and the error
        of a chosen array that cannot be transformed, or is to be named by its own path and was not.
        """
        arrays = _arrays(members)
        only = {pattern: found(pattern, arrays, path) for pattern in self.only}
        skip = {pattern: found(pattern, _skippable(members), path) for pattern in self.skip}
        if not self.met:
            for option, each in (("only", only), ("skip", skip)):
                for pattern, meant in each.items():
                    if not meant.keys:
                        raise UsageError(f"{shown(path)}: {_unmet(option, pattern, [member.name for member in arrays])}")
        asked = {key for meant in only.values() for key in meant.keys}
        named = {key for meant in only.values() if meant.exactly for key in meant.keys}
        left_out = {key for meant in skip.values() for key in meant.keys}
        chosen = tuple(member for member in arrays if (member.key in asked if self.only else member.unasked) and member.key not in left_out)
        if not chosen:
            hint = "--only, --skip" if self.only or self.skip else "none is of floats that are no coordinates; name them with --only"
            raise UsageError(f"{shown(path)}: no array is left to transform ({hint}); there are: {_names(arrays)}")
        for member in chosen:
            if member.reserved is not None and member.name and member.key not in named:
                raise member.reserved
        _refuse_problems([member for member in chosen if member.key not in named], arrays, copies)
        for member in chosen:
            if member.problem is not None:
                raise member.problem
        return chosen


def refuse_unmet(selection: Selection, sources: Iterable[Sequence[Member] | None], count: int) -> None:
    """Raise UsageError where a pattern meets no array in any of the `count` `sources`, each told by its members; None: cannot be read."""
    unmet = {("only", pattern) for pattern in selection.only} | {("skip", pattern) for pattern in selection.skip}
    names: dict[str, None] = {}
    unread = 0
    for members in sources:
        if members is None:
            unread += 1
            continue
        arrays, skippable = _arrays(members), _skippable(members)
        unmet = {each for each in unmet if not found(each[1], skippable if each[0] == "skip" else arrays, "").keys}
        if not unmet:
            return
        names |= dict.fromkeys(islice((member.name for member in arrays), _COMPARED))
    for option, patterns in (("only", selection.only), ("skip", selection.skip)):
        for pattern in patterns:
            if (option, pattern) in unmet:
                rest = f" ({unread} could not be read)" if unread else ""
                raise UsageError(
                    f"in none of the {counted(count, 'source')}{rest} {_unmet(option, pattern, list(names))}; nothing was written"
                )


def found(pattern: str, members: Sequence[Member], path: str) -> Found:
    """The `members` of the source at `path` that `pattern` means. Raises UsageError where it may be the name of several."""
    for text in ("name", "key"):
        if exact := [member.key for member in members if getattr(member, text) == pattern]:
            return Found(frozenset(exact), True)
    for form in _FORMS:
        wanted = unicodedata.normalize(form, pattern)
        same = [member for member in members if unicodedata.normalize(form, member.name) == wanted]
        if len(names := {member.name for member in same}) > 1:
            forms = " or ".join(sorted(map(ascii, names)))
            where = f"{shown(path)}: " if path else ""
            raise UsageError(f"{where}{shown(pattern)} may be either of several arrays; type the name as it is stored, {forms}")
        if same:
            return Found(frozenset(member.key for member in same), True)
    for form in _FORMS:
        wanted = unicodedata.normalize(form, pattern)
        if some := [m.key for m in members if fnmatchcase(m.name, pattern) or fnmatchcase(unicodedata.normalize(form, m.name), wanted)]:
            return Found(frozenset(some))
    return Found()


def _arrays(members: Sequence[Member]) -> list[Member]:
    return [member for member in members if member.array is not None or member.problem is not None]


def _skippable(members: Sequence[Member]) -> list[Member]:
    """What a pattern of `skip` may mean: arrays, and what holds no arrays; to skip a group would leave those in it transformed."""
    around = {""} | {member.name[:at] for member in _arrays(members) for at, c in enumerate(member.name) if c == "/"}
    return [member for member in members if member.array is not None or member.problem is not None or member.name.rstrip("/") not in around]


def _unmet(option: str, pattern: str, names: list[str]) -> str:
    """What to say of a pattern that meets none of the arrays of these `names`."""
    text = f"no array is named {shown(pattern)} (--{option})"
    if not any(names):
        return f"{text}; there is one array, which has no name: leave out --{option}"
    if any(name.startswith(f"{pattern}/") for name in names):
        text += f"; it is a group: give its arrays, as in {shown(shlex.quote(f'{pattern}/*'))}"
    elif "[" in pattern and not set("*?").isdisjoint(pattern):
        text += "; in a pattern brackets hold a set of characters, and [[] is a bracket itself"
    elif like := get_close_matches(pattern, names[:_COMPARED], 1):
        text += f"; did you mean {shown(like[0])}?"
    return f"{text}; there are: {listed(names)}"


def _names(arrays: Sequence[Member]) -> str:
    return listed(member.name for member in arrays)


def _refuse_problems(chosen: Sequence[Member], arrays: Sequence[Member], copies: bool) -> None:
    """Raise the error of the first of the `chosen` that cannot be transformed, and say how to get past all of them."""
    bad = [member for member in chosen if member.problem is not None]
    if not bad:
        return
    problem = bad[0].problem
    assert problem is not None
    text = str(problem)
    if len(bad) > 1:
        text += f"; {len(bad)} arrays cannot be transformed: {_names(bad)}"
    if len(bad) < len(arrays) and (not copies or all(member.copies for member in bad)):
        options = " ".join(f"--skip {shlex.quote(member.name)}" for member in bad[:10]) + (" and so on" if len(bad) > 10 else "")
        text += f"; leave {'it' if len(bad) == 1 else 'them'} {'as is' if copies else 'out'}: {shown(options)}"
    raise type(problem)(text)

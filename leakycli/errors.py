"""The errors of leakycli, each with the exit code the command line ends with.

Every error that a user can meet derives from `LeakyError` and from the builtin that a library user would expect. Its text is one
line: what is wrong, where, and what to do. Anything else that escapes is a defect of leakycli.

    LeakyError (1)
        StorageError, OSError (1)
            FlushError                      what was written may be lost
            SourceChangedError              the source is no longer what was opened
        UsageError, ValueError (2)
        CorruptError, ValueError (3)
        UnsupportedError, TypeError (3)
        LossError, ArithmeticError (4)
        DifferenceError, ArithmeticError (5)
        BatchError (6)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import islice


class LeakyError(Exception):
    """Base of all errors of leakycli; `exit_code` is the command line's exit code for it."""

    exit_code = 1


class StorageError(LeakyError, OSError):
    """Reading, writing or publishing failed: permission, no space, a file that vanished."""

    exit_code = 1


class FlushError(StorageError):
    """What was written could not be flushed to disk. It may be lost although the next flush succeeds: nothing may be built on it."""


class SourceChangedError(StorageError):
    """The source was changed by someone else while it was read."""


class UsageError(LeakyError, ValueError):
    """The call cannot be carried out as it was given: options, paths, an existing DEST, a memory bound too small."""

    exit_code = 2


class CorruptError(LeakyError, ValueError):
    """The input is not what it claims to be: truncated, malformed, not of its format."""

    exit_code = 3


class UnsupportedError(LeakyError, TypeError):
    """The input is sound, but of a kind that has no leaky ReLU here."""

    exit_code = 3


class LossError(LeakyError, ArithmeticError):
    """The cast lost something that the user did not allow: NaN to an integer, or any loss under `strict`."""

    exit_code = 4


class DifferenceError(LeakyError, ArithmeticError):
    """`verify` found a destination that is not what its source gives."""

    exit_code = 5


class BatchError(LeakyError):
    """Some sources of a batch failed; the others are done."""

    exit_code = 6


def let_go(error: BaseException) -> None:
    """Free what the calls hold that ended by `error`, and by those that it came of: frames and errors refer to each other, so that buffers
    would stay until garbage is looked for."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__, seen = None, seen.__cause__ or seen.__context__


#: Characters of a name that are shown.
_LONGEST_SHOWN = 500


#: The user and password in a URL; a word, in which what comes after a URL's "?" may be a signature. Each begins with a text that is found
#: at once or takes all that follows, so that the time grows with the length of a text and not with its square.
_USER = re.compile(r"(://)[^/\s]*@")
_WORD = re.compile(r"[^\s'\"]+")


def redacted(text: str) -> str:
    """`text` without what may be secret in the URLs in it."""
    return _WORD.sub(_without_query, _USER.sub(r"\1***@", text)) if "://" in text else text


def _without_query(word: re.Match[str]) -> str:
    url, mark, query = word[0].partition("?")
    if "://" not in url:
        # A "?" before the URL is none of it.
        before, _, after = word[0].partition("://")
        url, mark, query = after.partition("?")
        url = f"{before}://{url}"
        if not after:
            return word[0]
    return f"{url}{mark}***" if query else word[0]


def visible(text: str) -> str:
    """`text` as it can be printed: control characters, surrogates and other unprintables as escapes, and no secrets of URLs."""
    text = redacted(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shown(name: str | os.PathLike[str]) -> str:
    """`name`, or what another library says, as it can be printed in a message; the middle of a long one is left out."""
    text = visible(os.fspath(name))
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f"{text[: _LONGEST_SHOWN // 2]}...{text[-_LONGEST_SHOWN // 2 :]}"


def place(path: str, array: str = "") -> str:
    """The beginning of a message about an array of the file at `path`."""
    return f"{shown(path)}: " + (f"array {shown(array)}: " if array else "")


def listed(names: Iterable[str]) -> str:
    """The first of `names`, for a message."""
    several = [shown(name[:80]) for name in islice(names, 11)]
    return ", ".join(several[:10]) + (", ..." if len(several) > 10 else "")


def counted(number: int, what: str) -> str:
    """ "1 element", "2 elements"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def storage_error(error: OSError, path: str | os.PathLike[str], doing: str) -> StorageError:
    """The system's `error` as one line that names `path` and what was being done, as in "cannot read"."""
    found = StorageError(f"{doing} {shown(path)}: {error.strerror or error}")
    found.errno = error.errno
    return found

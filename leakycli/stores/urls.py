"""URLs, as far as they can be told apart from paths without opening any: a run without one loads nothing for them."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from leakycli.errors import UsageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

#: Options of a file system that are text whatever they look like; JSON otherwise.
_TEXTS = {"key", "secret", "token", "username", "password"}


def is_url(path: str) -> bool:
    """Whether `path` is a URL, as in "s3://bucket/key"."""
    return _URL.match(path) is not None


def name_in(url: str) -> str:
    """The last name in the path of a URL, without its query."""
    return url.partition("?")[0].rstrip("/").rpartition("/")[2]


def parse_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """The options of a file system in "KEY=VALUE"s; values are JSON where they can be. Raises UsageError, which tells no value."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError("a storage option is written KEY=VALUE (--storage-option)")
        options[name] = value
        if name not in _TEXTS:
            with contextlib.suppress(ValueError):
                options[name] = json.loads(value)
    return options

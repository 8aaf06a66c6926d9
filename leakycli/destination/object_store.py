"""Publishing on an object store, which has no renaming: the objects get their own names, and what makes them a hierarchy comes last.

The metadata documents are held back until all else is there (`Remote.held`), then written from the leaves up, those of the root the very
last. A URL with anything under it is refused. The journal is a file in the user's state folder, and its lock keeps off runs of the same
user on the same machine, no others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from leakycli.destination.journal import Past
from leakycli.destination.publish import Publication, missing_bytes, remove
from leakycli.errors import UsageError, redacted, shown, storage_error
from leakycli.formats import DOCUMENTS, METADATA, is_url, name_in
from leakycli.stores.remote import Remote


class UrlPublication(Publication):
    """Under a URL."""

    def __init__(self, url: str, options: Mapping[str, Any], resume: bool = False, flush: bool = False) -> None:
        """Raises UsageError where there is something under the URL and it is not to be gone on from."""
        self.partial: Remote = Remote(url, options, held={})
        if not self.partial.listed:
            raise UsageError(f"{shown(url)}: nothing is written to a web server; name a folder, or a URL of an object store")
        told = f"{self.partial.endpoint}\0{url}".encode("utf-8", "surrogateescape")
        name = re.sub(r"[^A-Za-z0-9.-]", "_", name_in(url))[-80:]
        beside = os.path.join(state_folder(), f"{name}.{hashlib.blake2b(told, digest_size=8).hexdigest()}")
        super().__init__(redacted(url), beside, resume, flush)
        self._room = self.spool
        self._ours = self._published = False
        if not resume:
            self._refuse_occupied(os.path.lexists(self._journal))

    def touched(self) -> tuple[str, ...]:
        return self.partial.url, self.spool, self._journal

    @property
    def kept_text(self) -> str:
        return f"what is done is kept (its journal is {shown(self._journal)}): go on from there with --resume"

    def finished(self, past: Past | None) -> bool:
        return not self._ours

    def _refuse_occupied(self, ours: bool) -> None:
        if self.partial.occupied():
            what = "an unfinished run left objects there: go on with --resume, or" if ours else "there are objects there:"
            raise UsageError(
                f"{shown(self.dest)}: {what} remove them, or choose another name; an object store has no renaming, and so nothing in it "
                "is replaced, with or without --overwrite"
            )

    def _prepare(self) -> None:
        try:
            os.makedirs(os.path.dirname(self._journal), mode=0o700, exist_ok=True)
        except OSError as error:
            raise storage_error(error, os.path.dirname(self._journal), "cannot keep a journal in") from None

    def _take_over(self, ours: bool) -> None:
        journal, past = self._load(durable=True)
        if not self._resume:
            self._refuse_occupied(ours)
        occupied = self._resume and self.partial.occupied()
        root = self._root(self.partial) if occupied else None
        self._published = root is not None and past is not None and past.published is not None and past.published["file"] == root
        if occupied and (not ours or (root is not None and not self._published)):
            # Of another run, or complete: whoever looks at it next says which. A run that has not come to its end has no root.
            return
        self._ours = True
        if past is not None and occupied:
            self.past = past
        else:
            self._clean(done=False)
            journal.clear()

    def published(self, past: Past | None) -> bool:
        return self._published

    def _clean(self, done: bool) -> None:
        remove(self.spool)
        if self._ours and not done:
            self.partial.remove("")

    @property
    def result(self) -> Remote:
        return self.partial

    def missing(self, result: int, spooled: int, left: float, reserved: bool) -> int:
        return missing_bytes(self.spool, spooled, left)

    def temporary(self, report: str) -> str:
        return f"{self._journal}.report"

    def _identity(self) -> str | None:
        return self._root(self.partial)

    @staticmethod
    def _root(remote: Remote) -> str | None:
        """What tells the hierarchy at `remote` from others, by the documents of its root; None where it is none."""
        found = dict(zip(METADATA, remote.read_all(list(METADATA)), strict=True))
        if all(found[name] is None for name in DOCUMENTS):
            return None
        return hashlib.blake2b(repr(found).encode(), digest_size=16).hexdigest()

    def _publish(self) -> None:
        assert self.partial.held is not None
        levels: dict[tuple[int, int], dict[str, bytes]] = {}
        for key, text in self.partial.held.items():
            rank = METADATA.index(key.rpartition("/")[2])
            levels.setdefault((-key.count("/"), rank), {})[key] = text
        for level in sorted(levels):
            self.partial.write_all(levels[level])

    def _move(self, temporary: str, final: str) -> None:
        if not is_url(final):
            super()._move(temporary, final)
            return
        with open(temporary, "rb") as file:
            Remote(final, self.partial.options).write("", file.read())
        remove(temporary)


def state_folder() -> str:
    """Where the journals of runs to URLs are."""
    with contextlib.suppress(KeyError):
        if os.path.isabs(base := os.environ["XDG_STATE_HOME"]):
            return os.path.join(base, "leakycli")
    return os.path.join(os.path.expanduser("~"), ".local", "state", "leakycli")

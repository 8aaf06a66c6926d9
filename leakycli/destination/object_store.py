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

from leakycli.destination.base import LockedDestination
from leakycli.destination.journal import Past, Published
from leakycli.destination.names import Names, missing_bytes
from leakycli.destination.rename import identity
from leakycli.errors import UsageError, redacted, shown, storage_error
from leakycli.formats import DOCUMENTS, METADATA
from leakycli.stores.remote import Remote
from leakycli.stores.urls import is_url, name_in


class ObjectStoreDestination(LockedDestination):
    """Under a URL."""

    _durable = True

    def __init__(self, url: str, options: Mapping[str, Any], resume: bool = False, flush: bool = False) -> None:
        """Raises UsageError where there is something under the URL and it is not to be resumed."""
        self.partial: Remote = Remote(url, options, held={})
        if not self.partial.listed:
            raise UsageError(f"{shown(url)}: nothing is written to a web server; name a folder, or a URL of an object store")
        told = f"{self.partial.endpoint}\0{url}".encode("utf-8", "surrogateescape")
        name = re.sub(r"[^A-Za-z0-9.-]", "_", name_in(url))[-80:]
        beside = os.path.join(state_folder(), f"{name}.{hashlib.blake2b(told, digest_size=8).hexdigest()}")
        super().__init__(redacted(url), Names(beside), resume, flush)
        self._ours = self._finished = False
        if not resume:
            self._refuse_occupied(os.path.lexists(self.names.journal))

    @property
    def touched(self) -> tuple[str, ...]:
        return self.partial.url, *self.names.all

    @property
    def kept_text(self) -> str:
        return f"what is done is kept (its journal is {shown(self.names.journal)}): continue with --resume"

    @property
    def finished(self) -> bool:
        return not self._ours

    @property
    def published(self) -> Published | None:
        return self.past.published if self.past is not None and self._finished else None

    @property
    def named(self) -> bool:
        return self.complete or self._finished

    @property
    def result(self) -> Remote:
        return self.partial

    def _refuse_occupied(self, ours: bool) -> None:
        if self.partial.occupied():
            what = "an unfinished run left objects there: continue with --resume, or" if ours else "there are objects there:"
            raise UsageError(
                f"{shown(self.dest)}: {what} remove them, or choose another name; an object store has no renaming, and so nothing in it "
                "is replaced, with or without --overwrite"
            )

    def _make_folder(self) -> None:
        folder = os.path.dirname(self.names.journal)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise storage_error(error, folder, "cannot keep a journal in") from None

    def _enter(self, past: Past | None, new: bool) -> None:
        self._made = {} if past is None else dict(past.made)
        for role, path in self.names.made.items():
            if identity(path) not in (None, self._made.get(role)):
                raise self._in_the_way(path)
        if not self._resume:
            self._refuse_occupied(ours=not new)
        occupied = self._resume and self.partial.occupied()
        root = self._root(self.partial) if occupied else None
        published = None if past is None else past.published
        self._finished = root is not None and published is not None and published.result == root
        if occupied and (past is None or (root is not None and not self._finished)):
            # Of another run, or complete: whoever looks at it next says which. A run that has not come to its end has no root.
            return
        self._ours = True
        if past is not None and past.valid and occupied:
            self.past = past
        else:
            if past is not None:
                self.journal.discard(self._made, flush=self.flushes)
            self._clean()
            self.journal.forget()
            self._made = {}

    def prepare(self, fingerprint: dict[str, Any], total: int, spool: bool) -> None:
        self._working = True
        made = {}
        if spool and "spool" not in self._made:
            os.close(os.open(self.names.spool, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            if (proof := identity(self.names.spool)) is not None:
                made = {"spool": proof}
        self._made |= made
        self.flush_folder()
        if self.past is None:
            self.journal.begin(fingerprint, total, self._made)
        elif made:
            self.journal.made("spool", made["spool"])

    def _clean(self) -> None:
        super()._clean()
        if self._ours and not self.complete and not self._finished:
            self.partial.remove("")

    def _missing(self, result: int, spooled: int, left: float, reserved: bool) -> int:
        return missing_bytes(self.names.spool, spooled, left)

    def report_paths(self, path: str, own: bool) -> tuple[str, ...]:
        return path, self.names.report_partial if own else super().report_paths(path, own)[1]

    @staticmethod
    def _root(remote: Remote) -> str | None:
        """What tells the hierarchy at `remote` from others, by the documents of its root; None where it is none."""
        found = dict(zip(METADATA, remote.read_all(list(METADATA)), strict=True))
        if all(found[name] is None for name in DOCUMENTS):
            return None
        return hashlib.blake2b(repr(found).encode(), digest_size=16).hexdigest()

    def _publish(self, digest: Any, bytes: int, warnings: tuple[str, ...]) -> None:
        if self._finished:
            return
        self.journal.publishing(Published(self._root(self.partial), None, digest, bytes, warnings), 0)
        assert self.partial.held is not None
        levels: dict[tuple[int, int], dict[str, Any]] = {}
        for key, text in self.partial.held.items():
            rank = METADATA.index(key.rpartition("/")[2])
            levels.setdefault((-key.count("/"), rank), {})[key] = text
        for level in sorted(levels):
            self.partial.write_all(levels[level])

    def _move_report(self, made: str, path: str) -> None:
        if not is_url(path):
            super()._move_report(made, path)
            return
        with open(made, "rb") as file:
            Remote(path, self.partial.options).write("", file.read())
        os.unlink(made)


def state_folder() -> str:
    """Where the journals of runs to URLs are."""
    with contextlib.suppress(KeyError):
        if os.path.isabs(base := os.environ["XDG_STATE_HOME"]):
            return os.path.join(base, "leakycli")
    return os.path.join(os.path.expanduser("~"), ".local", "state", "leakycli")

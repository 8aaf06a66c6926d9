"""Which source goes where: the rules of `cp` for several sources, folders and a destination folder. Paths only; no array is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from leakycli.cli.batch import placed
from leakycli.destination.publish import resolve, written_beside
from leakycli.errors import StorageError, UsageError, shown, storage_error
from leakycli.formats import FORMATS, SUFFIXES, is_stream, is_url, is_zarr, name_in


@dataclass(frozen=True, slots=True)
class Job:
    """One source and its destination."""

    source: str
    dest: str


def resolve_jobs(
    sources: Iterable[str], dest: str, recursive: bool = False, to: str | None = None, listed: Iterable[str] | None = None
) -> list[Job]:
    """The jobs of `apply SOURCE... DEST`, in the order given (folders in sorted order).

    DEST is a folder when it ends in "/", is an existing folder, when there are several sources, or some are `listed` in a file. With
    `recursive`, a source that is a folder stands for the array files in it, and its tree is made again under DEST as `cp -r` does.
    Raises UsageError (two sources for one destination, a folder without recursive) or StorageError (no such folder).
    """
    into_folder = listed is not None
    entries = [*((source, None) for source in sources), *map(placed, listed or ())]
    sources = [source for source, _ in entries]
    if not sources:
        raise UsageError("no sources were given")
    if dest == "-":
        if len(sources) > 1:
            raise UsageError("several sources cannot go to standard output; name a folder")
        return [Job(sources[0], dest)]
    store = dest.rstrip("/").lower().endswith(".zarr") or (os.path.isdir(dest) and is_zarr(dest))
    if store and (into_folder or len(sources) > 1):
        raise UsageError(f"{shown(dest)}: is a Zarr store, no folder for several results; name a folder")
    if store:
        dest = dest.rstrip("/")
    folder = not store and (into_folder or dest.endswith("/") or os.path.isdir(dest) or len(sources) > 1)
    copies_tree = recursive and any(os.path.isdir(source) and not is_zarr(source) for source in sources)
    there = os.path.lexists(dest.rstrip("/") or "/")
    # A URL has no folders that would have to be there.
    if not is_url(dest) and (folder or copies_tree) and not os.path.isdir(dest) and (there or not copies_tree or len(sources) > 1):
        if there:
            raise UsageError(f"{shown(dest)}: is no folder, and several results need one")
        raise StorageError(f"{shown(dest)}: this folder does not exist; create it first")
    jobs: list[Job] = []
    for source, place in entries:
        if place is not None and (is_zarr(source) or not os.path.isdir(source)):
            jobs.append(Job(source, _renamed(os.path.join(dest, place.rstrip("/")), to, is_zarr(source))))
        elif os.path.isdir(source) and not is_zarr(source) and not source.rstrip("/").lower().endswith(".zarr"):
            jobs += _tree(source, dest, recursive, to)
        elif folder or copies_tree:
            if is_stream(source) and not is_url(source):
                raise UsageError(f"{shown(source)}: a stream has no name to go by in a folder; name the destination file")
            jobs.append(Job(source, _renamed(os.path.join(dest, _name(source)), to, is_zarr(source))))
        else:
            jobs.append(Job(source, dest))
    _refuse_collisions(jobs)
    return jobs


def _name(source: str) -> str:
    return name_in(source) if is_url(source) else os.path.basename(source.rstrip("/"))


def _tree(source: str, dest: str, recursive: bool, to: str | None) -> Iterator[Job]:
    if not recursive:
        raise UsageError(f"{shown(source)}: is a folder; give --recursive for the arrays in it")
    inner, outer = os.path.realpath(dest), os.path.realpath(source)
    if os.path.commonpath([inner, outer]) == outer:
        raise UsageError(f"{shown(dest)}: lies inside the source {shown(source)}; choose a folder outside")
    # As cp -r: a folder's own name is kept in a folder that is there, and "." has none to keep.
    name = os.path.basename(os.path.normpath(source))
    base = os.path.join(dest, name) if os.path.isdir(dest) and name not in (".", "..") else dest

    def fail(error: OSError) -> None:
        raise storage_error(error, error.filename or source, "cannot read")

    found = False
    for folder, subfolders, files in os.walk(source, onerror=fail):
        subfolders.sort()
        stores = [name for name in subfolders if is_zarr(os.path.join(folder, name))]
        # A store is one source, whatever is in it.
        subfolders[:] = [name for name in subfolders if name not in stores]
        for name in stores:
            found = True
            path = os.path.join(folder, name)
            yield Job(path, _renamed(os.path.join(base, os.path.relpath(path, source)), to, True))
        for file in sorted(files):
            path = os.path.join(folder, file)
            if file.lower().endswith(SUFFIXES) and not is_stream(path):
                found = True
                relative = os.path.relpath(path, source)
                yield Job(path, _renamed(os.path.join(base, relative), to))
    if not found:
        raise UsageError(f"{shown(source)}: holds no array files ({', '.join(SUFFIXES)})")


def _renamed(dest: str, to: str | None, zarr: bool = False) -> str:
    """`dest` with the suffix of the format `to`. zarr: what comes is a Zarr node, whose name need not have a suffix."""
    suffix = next((suffix for suffix in SUFFIXES if dest.lower().endswith(suffix)), "")
    if to is None:
        return dest if suffix or not zarr else f"{dest}{FORMATS['zarr']}"
    return dest[: len(dest) - len(suffix)] + FORMATS[to]


def _refuse_collisions(jobs: list[Job]) -> None:
    """Raise UsageError where two jobs would write one file, or one would write over another's source."""
    if len(jobs) == 1:
        return  # it looks after itself
    sources = {found: job.source for job in jobs if (found := _identity(job.source))}
    taken: dict[str, str] = {}
    # Results are in few folders, whose links need to be followed once.
    followed = cache(os.path.realpath)
    for job in jobs:
        if "\0" in job.dest:
            continue  # no path; its job will say so
        folder, name = os.path.split(resolve(job.dest))
        real = os.path.realpath(job.dest) if name in ("", ".", "..") else os.path.join(followed(folder), name)
        other = taken.setdefault(real, job.source)
        if other is not job.source:
            raise UsageError(f"{shown(other)} and {shown(job.source)} would both become {shown(job.dest)}; nothing was written")
        for path in written_beside(real):
            if (found := _identity(path)) in sources:
                raise UsageError(f"{shown(job.dest)}: writing it would destroy the source {shown(sources[found])}; nothing was written")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino

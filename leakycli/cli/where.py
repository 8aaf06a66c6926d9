"""Which source goes where: the rules of `cp` for several sources and a destination folder, those of rsync for trees. No array is opened.

    DIR     the folder with its name      -r run1 results      results/run1/a.npy
    DIR/    what is in it (also DIR/.)    -r run1/ results     results/a.npy

Whether DEST is there already decides nothing of this, so that the same command line, once more, means the same results.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from leakycli.cli.batch import placed
from leakycli.destination.names import check_jobs
from leakycli.errors import StorageError, UsageError, counted, shown, storage_error
from leakycli.errors import listed as names
from leakycli.formats import FORMATS, MAGIC, SUFFIXES, is_folder_name, is_regular, is_stream, is_url, is_zarr, name_in


@dataclass(frozen=True, slots=True)
class Job:
    """One source and its destination."""

    source: str
    dest: str


def resolve_jobs(
    sources: Iterable[str],
    dest: str,
    recursive: bool = False,
    to: str | None = None,
    listed: Iterable[str] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Job]:
    """The jobs of `apply SOURCE... DEST`, in the order given (folders in sorted order).

    DEST is a folder when it ends in "/", is an existing folder, when there are several sources, or some are `listed` in a file. With
    `recursive`, a source that is a folder stands for the array files in it, and its tree is made again under DEST. note: takes one line
    for each kind of thing that is passed over. Raises UsageError (two sources for one destination, a folder without recursive, a command
    line that may mean two things) or StorageError (no such folder).
    """
    into_folder = listed is not None
    entries = [*((source, None) for source in sources), *map(placed, listed or ())]
    sources = [source for source, _ in entries]
    if not sources:
        text = (
            "no sources were given: the list is empty" if into_folder else f"DEST is missing after {shown(dest)}: name a SOURCE and a DEST"
        )
        raise UsageError(text)
    if recursive and len(sources) == 1 and not _is_there(sources[0]):
        raise StorageError(f"cannot read {shown(sources[0])}: there is no such file or folder; look at its name")
    if dest == "-":
        if len(sources) > 1:
            raise UsageError("several sources cannot go to standard output; name a folder")
        return [Job(sources[0], dest)]
    store = is_folder_name(dest) or (os.path.isdir(dest) and is_zarr(dest))
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
    passed: list[str] = []
    links: list[str] = []
    for source, place in entries:
        if place is not None and (is_zarr(source) or not os.path.isdir(source)):
            jobs.append(Job(source, _renamed(os.path.join(dest, place.rstrip("/")), to, is_zarr(source))))
        elif os.path.isdir(source) and not is_zarr(source) and not is_folder_name(source):
            jobs += _tree(source, dest, recursive, to, (passed, links))
        elif len(sources) > 1 and left_by_system(source):
            passed.append(source)
        elif folder or copies_tree:
            if is_stream(source) and not is_url(source):
                raise UsageError(f"{shown(source)}: a stream has no name to go by in a folder; name the destination file")
            jobs.append(Job(source, _renamed(os.path.join(dest, _name(source)), to, is_zarr(source))))
        else:
            jobs.append(Job(source, dest))
    if not jobs:
        raise UsageError(f"{names(passed)}: holds no array, but what macOS keeps beside files; name the arrays")
    if passed:
        note(f"skipped {counted(len(passed), 'file')} of macOS's own ('._*') without an array: {names(passed)}")
    if links:
        note(f"did not follow {counted(len(links), 'link')} to folders: {names(links)}; name a folder to take it, too")
    if len(jobs) > 1:  # a single one looks after itself
        check_jobs((job.source, job.dest) for job in jobs)
    return jobs


def _is_there(source: str) -> bool:
    return source == "-" or is_url(source) or os.path.lexists(source) or is_zarr(source)


def _name(source: str) -> str:
    return name_in(source) if is_url(source) else os.path.basename(source.rstrip("/"))


def left_by_system(path: str) -> bool:
    """Whether `path` is what macOS keeps beside a file, which has the file's name after "._"; an array may be called so, too."""
    if not os.path.basename(path).startswith("._") or not is_regular(path):
        return False
    try:
        with open(path, "rb") as file:
            return not file.read(len(MAGIC)).startswith((MAGIC, b"PK\3\4"))
    except OSError:
        return False  # its job will say so


def _tree(source: str, dest: str, recursive: bool, to: str | None, passed: tuple[list[str], list[str]]) -> Iterator[Job]:
    """The jobs of the folder `source`. passed: take what is not followed: files of the system's, and links to folders."""
    if not recursive:
        raise UsageError(f"{shown(source)}: is a folder; give --recursive for the arrays in it")
    if dest.lower().endswith(SUFFIXES):
        raise UsageError(
            f"{shown(dest)}: is the name of one array, and the tree {shown(source)} needs a folder; write {shown(dest)}/ for one"
        )
    inner, outer = os.path.realpath(dest), os.path.realpath(source)
    if os.path.commonpath([inner, outer]) == outer:
        raise UsageError(f"{shown(dest)}: lies inside the source {shown(source)}; choose a folder outside")
    name = os.path.basename(source)
    if name == "..":
        raise UsageError(f"{shown(source)}: has no name of its own; write {shown(source)}/ for what is in it, or its path from elsewhere")
    base = dest if name in ("", ".") else os.path.join(dest, name)

    found = False
    for path, zarr in _walk(source, passed):
        found = True
        yield Job(path, _renamed(os.path.join(base, os.path.relpath(path, source)), to, zarr))
    if not found:
        raise UsageError(f"{shown(source)}: holds no array files; their names end in {', '.join(SUFFIXES)}, so name others one by one")


def arrays_in(source: str) -> tuple[str, ...]:
    """The array files and Zarr stores in the folder `source`, in the order of their names; `source` itself where it is no such folder."""
    if not os.path.isdir(source) or is_zarr(source):
        return (source,)
    return tuple(path for path, _ in _walk(source, ([], [])))


def _walk(source: str, passed: tuple[list[str], list[str]]) -> Iterator[tuple[str, bool]]:
    """What is in a folder that holds arrays, and whether it is a Zarr store. passed: see `_tree`."""

    def fail(error: OSError) -> None:
        raise storage_error(error, error.filename or source, "cannot read")

    for folder, subfolders, files in os.walk(source, onerror=fail):
        subfolders.sort()
        stores = [name for name in subfolders if is_zarr(os.path.join(folder, name))]
        # A store is one source, whatever is in it.
        subfolders[:] = [name for name in subfolders if name not in stores]
        passed[1].extend(path for name in subfolders if os.path.islink(path := os.path.join(folder, name)))
        yield from ((os.path.join(folder, name), True) for name in stores)
        for file in sorted(files):
            path = os.path.join(folder, file)
            if left_by_system(path):
                if file.lower().endswith(SUFFIXES):
                    passed[0].append(path)
            elif file.lower().endswith(SUFFIXES) and not is_stream(path):
                yield path, False


def _renamed(dest: str, to: str | None, zarr: bool = False) -> str:
    """`dest` with the suffix of the format `to`. zarr: what comes is a Zarr node, whose name need not have a suffix."""
    suffix = next((suffix for suffix in SUFFIXES if dest.lower().endswith(suffix)), "")
    if to is None:
        return dest if suffix or not zarr else f"{dest}{FORMATS['zarr'].suffix}"
    return dest[: len(dest) - len(suffix)] + FORMATS[to].suffix

"""What is behind a URL: keys and their bytes, through one of fsspec's file systems. fsspec is imported when the first one is opened.

Every request is a coroutine on fsspec's own event loop (a thread), whoever asks for it: a thread that waits, or zarr's loop. Those that
fail for a reason that passes are made again, here and nowhere else: the retrying that a library has of its own is turned off, or a
server that is down would be asked the product of both numbers of times.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from leakycli import stopping
from leakycli.errors import LeakyError, SourceChangedError, StorageError, UsageError, redacted, shown
from leakycli.stores.urls import is_url

T = TypeVar("T")

#: How often a request is made before it counts as failed, and the seconds before the second; they double each time.
TRIES = 6
FIRST_WAIT = 0.2

#: Bytes that are asked for, or sent, at once where it is done in parts.
_STREAM_PART = 4 << 20

#: Seconds between two looks at whether the run is to stop.
_LOOK = 0.25

#: What to install, by the scheme of a URL.
_EXTRAS = {"s3": "leakycli[s3]", "s3a": "leakycli[s3]", "http": "leakycli[http]", "https": "leakycli[http]"}

#: HTTP statuses, S3 error codes and classes of errors of a server or a connection that may be well again a moment later.
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_PASSING_CODES = {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"}
_PASSING_CLASSES = {
    "ClientConnectionError",  # aiohttp
    "ClientPayloadError",
    "ConnectionError",  # the system's, botocore's
    "HTTPClientError",
    "IncompleteRead",  # urllib3
    "ResponseParserError",
    "TimeoutError",
}

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_BAD_CREDENTIALS = {"AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "401"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403"}


class Remote:
    """What is under a URL, by keys relative to it ("" is the URL itself); from any thread. Pickles as what it takes to open it again.

    held: of a destination, what is not to be there before all else is, by key; it is read as if it were there. None elsewhere.
    """

    def __init__(self, url: str, options: Mapping[str, Any], held: dict[str, bytes] | None = None) -> None:
        """Raises UsageError where no such file system is known, or its package is not installed."""
        self.url, self.options, self.held = url, options, held
        #: Whether a request has failed at each of its tries.
        self.given_up = False
        self.scheme = url.partition("://")[0].lower()
        if self.scheme in ("file", "local"):
            raise UsageError(f"{shown(url)}: is here; give its path instead of a URL")
        # A web server's is a signature, as a rule, which all that is under the URL is asked for with; a key elsewhere may have a "?".
        base, *query = [url] if self.listed else url.split("?", 1)
        self._base, self.query = base.rstrip("/"), "".join(f"?{text}" for text in query)
        if self.scheme in _EXTRAS and not _host(url):
            raise UsageError(f"{shown(url)}: names no {'bucket' if self.listed else 'server'}")
        try:
            self.fs = self._opened()
        except ImportError as error:
            extra = _EXTRAS.get(self.scheme)
            hint = f"pip install '{extra}'" if extra else f"it takes a package for fsspec: {self.scrubbed(str(error))}"
            raise UsageError(f"{shown(url)}: {self.scheme}:// cannot be read without an extra that is not installed; {hint}") from None
        except Exception as error:
            raise UsageError(f"{shown(url)}: cannot be opened: {self.scrubbed(str(error))}") from None

    def _opened(self) -> Any:
        import fsspec
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

        kind, options = fsspec.get_filesystem_class(self.scheme), dict(self.options)
        if self.scheme in ("s3", "s3a"):
            # One request for an object, not one for its size first; as many at once as there are; retries are ours.
            config = {"retries": {"max_attempts": 0}, "max_pool_connections": 100, **options.get("config_kwargs", {})}
            options = {"max_concurrency": 1, **options, "config_kwargs": config}
        elif self.scheme in ("http", "https"):
            import aiohttp

            # Proxies and the like are the environment's to say.
            waits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)
            options["client_kwargs"] = {"trust_env": True, "timeout": waits, **options.get("client_kwargs", {})}
        # The same for the same options, as fsspec keeps them: a client of S3 takes a while to make.
        fs = kind(**{**options, "use_listings_cache": False, "asynchronous": False})
        if getattr(fs, "retries", None):
            fs.retries = 1
        return fs if fs.async_impl else AsyncFileSystemWrapper(fs, asynchronous=False)

    @property
    def listed(self) -> bool:
        """Whether it can tell what is under a key; a web server cannot."""
        return self.scheme not in ("http", "https")

    @property
    def endpoint(self) -> str:
        """Which server it is, where a URL does not say."""
        if not hasattr(self.fs, "_s3"):
            return ""
        return str(self.run(self.persist(self.fs.set_session, "", "cannot open")).meta.endpoint_url)

    def where(self, key: str = "") -> str:
        """How to call what is under `key` in a message."""
        return shown(self._under(key))

    def path(self, key: str) -> str:
        """What fsspec calls it."""
        path: str = self.fs._strip_protocol(self._under(self.name(key)) + self.query)
        return path

    def name(self, key: str) -> str:
        """A key as it stands in a URL: a web server takes "#", "?" and "%" for more than themselves."""
        return key if self.listed else quote(key, safe="/!$&'()*+,;=:@~")

    def _under(self, key: str) -> str:
        return f"{self._base}/{key}" if key else self._base

    def read(self, key: str) -> bytes | None:
        """What is under `key`; None where there is nothing. Raises StorageError."""
        return self.read_all([key])[0]

    def read_all(self, keys: list[str]) -> list[bytes | None]:
        """What is under each of `keys`, asked for at once."""

        async def one(key: str) -> bytes | None:
            if self.held is not None and key in self.held:
                return self.held[key]
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                found: bytes = await self.persist(lambda: self.fs._cat_file(self.path(key)), key, "cannot read")
                return found
            return None

        async def every() -> list[bytes | None]:
            return await asyncio.gather(*map(one, keys))

        return self.run(every())

    def write(self, key: str, data: bytes) -> None:
        """Raises StorageError."""
        self.write_all({key: data})

    def write_pieces(self, key: str, pieces: Iterator[bytes]) -> None:
        """Write what comes in pieces; what is more than one request's worth goes by a temporary file, which is sent in parts."""
        held = bytearray()
        for piece in pieces:
            held += piece
            if len(held) > _STREAM_PART:
                break
        else:
            self.write(key, bytes(held))
            return
        with tempfile.NamedTemporaryFile(prefix="leakycli-") as file:
            file.write(held)
            held.clear()
            for piece in pieces:
                file.write(piece)
            file.flush()
            self.run(self.persist(lambda: self.fs._put_file(file.name, self.path(key)), key, "cannot write"))

    def write_all(self, texts: Mapping[str, bytes]) -> None:
        """Write several, at once and in no order."""

        async def every() -> None:
            await asyncio.gather(*(self.persist(partial(self._put, key, data), key, "cannot write") for key, data in texts.items()))

        self.run(every())

    async def _put(self, key: str, data: bytes) -> None:
        await self.fs._pipe_file(self.path(key), data)

    def size(self, key: str) -> int | None:
        """Bytes under `key`, None where that is not told. Raises FileNotFoundError, StorageError."""
        found: dict[str, Any] = self.run(self.persist(lambda: self.fs._info(self.path(key)), key, "cannot read"))
        return found.get("size")

    def state(self, key: str) -> str:
        """What is another when what is under `key` is another; "" where there is nothing. Raises StorageError."""
        with contextlib.suppress(FileNotFoundError):
            found = self.run(self.persist(lambda: self.fs._info(self.path(key)), key, "cannot read"))
            return hashlib.blake2b(repr(sorted(found.items())).encode(), digest_size=16).hexdigest()
        return ""

    def children(self, key: str) -> list[tuple[str, bool]]:
        """The keys directly under `key`, by name, and whether each stands for more under it."""

        async def listing() -> dict[str, bool]:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                entries = await self.persist(lambda: self.fs._ls(self.path(key), detail=True), key, "cannot list")
                named = ((self._key(entry["name"].rstrip("/")), entry["type"]) for entry in entries)
                return {name: kind == "directory" for name, kind in named if name is not None and name != key}
            return {}

        found = self.run(listing())
        for held in self.held or ():
            if held.startswith(f"{key}/" if key else ""):
                name, _, more = held[len(key) + 1 if key else 0 :].partition("/")
                found.setdefault(f"{key}/{name}" if key else name, bool(more))
        return sorted(found.items())

    def walk(self, key: str) -> Iterator[tuple[str, int]]:
        """Every key under `key` and the bytes it holds, as the listing comes in, in no order of its own."""
        listing = self._listing(key)
        while (page := self.run(anext(listing, None))) is not None:
            yield from page
        for held, data in (self.held or {}).items():
            if held.startswith(f"{key}/" if key else ""):
                yield held, len(data)

    async def _listing(self, key: str) -> AsyncIterator[list[tuple[str, int]]]:
        path = self.path(key).rstrip("/")
        if hasattr(self.fs, "_list_pages"):
            # S3, page by page: all at once would be some kilobytes for each object.
            bucket, prefix, _ = self.fs.split_path(path)
            within, more = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", **self.fs.req_kw}, dict[str, str]()
            while True:
                page = await self.persist(partial(self.fs._call_s3, "list_objects_v2", **within, **more), key, "cannot list")
                found = [(self._key(f"{bucket}/{each['Key']}"), each["Size"]) for each in page.get("Contents", ())]
                yield [(name, size) for name, size in found if name is not None]
                if not page.get("IsTruncated"):
                    return
                more = {"ContinuationToken": page["NextContinuationToken"]}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            entries = await self.persist(lambda: self.fs._find(path, detail=True), key, "cannot list")
            yield [(name, entry["size"]) for each, entry in entries.items() if (name := self._key(each)) is not None]

    def _key(self, path: str) -> str | None:
        """The key of what fsspec calls `path`, with a "/" at its end where it has one; None where it is not under the URL."""
        base = self.path("").rstrip("/")
        return path[len(base) :].lstrip("/") if path.startswith(f"{base}/") or path == base else None

    def stream(self, key: str = "") -> RemoteStream:
        """What is under `key`, from front to back. Raises StorageError."""
        return RemoteStream(self, key)

    def occupied(self) -> bool:
        """Whether there is anything at the URL, or under it."""
        for page in self.walk(""):
            return bool(page)
        return False

    def remove(self, key: str) -> None:
        """Remove all that is under `key`. Raises StorageError."""
        with contextlib.suppress(FileNotFoundError):
            self.run(self.persist(lambda: self.fs._rm(self.path(key), recursive=True), key, "cannot remove"))

    def run(self, work: Awaitable[T]) -> T:
        """What `work` gives on the loop; for any thread but the loop's."""

        async def awaited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self.fs.loop).result()

    async def elsewhere(self, work: Awaitable[T]) -> T:
        """What `work` gives on the loop, awaited on another."""

        async def awaited() -> T:
            return await work

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(awaited(), self.fs.loop))

    async def persist(self, make: Callable[[], Awaitable[T]], key: str, doing: str) -> T:
        """What the request that `make` makes gives; made again while it fails for a reason that passes.

        Raises FileNotFoundError and the like as they are, where there is a bucket; all else as StorageError, UsageError.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._unless_stopped(make(), key, doing)
            except (LeakyError, IsADirectoryError, NotADirectoryError):
                raise
            except Exception as raised:
                error = _meant(raised)
                code, status = _told(error)
                if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
                    raise
                reason = _passing(error, code, status)
                # One that failed at every try ends the run. Others of the same call, which nobody waits for any more, are not made again.
                self.given_up = self.given_up or (reason is not None and attempt == TRIES)
                if reason is None or self.given_up:
                    raise self._explained(error, f"{doing} {self.where(key)}", attempt if reason else 0) from None
            # Not all at the same moment again.
            wait = FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
            await self._unless_stopped(asyncio.sleep(wait), key, doing)
            if self.given_up:
                raise self._explained(error, f"{doing} {self.where(key)}", attempt)

    async def _unless_stopped(self, work: Awaitable[T], key: str, doing: str) -> T:
        task = asyncio.ensure_future(work)
        while not (await asyncio.wait({task}, timeout=_LOOK))[0]:
            if stopping.asked():
                task.cancel()
                raise StorageError(f"{doing} {self.where(key)}: the run was stopped")
        return task.result()

    def _explained(self, error: Exception, what: str, tries: int) -> LeakyError:
        """The `error` of a request as one line. tries: how often it was made, where it may pass; else 0."""
        code, status = _told(error)
        kinds = {each.__name__ for each in type(error).__mro__}
        if code == "NoSuchBucket":
            return StorageError(f"{what}: there is no bucket of the name {shown(urlsplit(self.url).netloc.rpartition('@')[2])}")
        if kinds & _NO_CREDENTIALS:
            return StorageError(f"{what}: no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give anon=true")
        if code in _BAD_CREDENTIALS or status == 401:
            return StorageError(f"{what}: the credentials were not accepted ({code or status}); check them, and the region")
        if code in _DENIED or status == 403 or isinstance(error, PermissionError):
            return StorageError(f"{what}: access denied ({code or status or 403}); the credentials are wrong, or do not allow this")
        if tries:
            reason = _passing(error, code, status)
            return StorageError(f"{what}: {self.scrubbed(reason or '')}, at each of {tries} tries; run again when it is well")
        if isinstance(error, (ImportError, TypeError)):
            return UsageError(f"{what}: {self.scrubbed(str(error))} (--storage-option?)")
        return StorageError(f"{what}: {self.scrubbed(str(error)) or type(error).__name__}")

    def scrubbed(self, text: str) -> str:
        """What another library says, in one line and without a value that may be a secret."""
        user = _host(self.url).rpartition("@")[0]
        for value in sorted({*_texts(self.options), *_texts([self.query[1:], user, *user.split(":")])}, key=len, reverse=True):
            text = text.replace(value, "***")
        return shown(" ".join(redacted(text).split()))[:300]

    def close(self) -> None:
        """Its connections are fsspec's to close, when nothing refers to it any more."""


class RemoteStream:
    """The bytes behind a URL, in order. A server that is asked for a file gives all of it as it is read; a store is asked for its parts.

    A connection that fails is made again, from where the bytes ended.
    """

    def __init__(self, remote: Remote, key: str = "") -> None:
        self.name = remote.where(key)
        self._remote, self._key, self._at, self._rest = remote, key, 0, memoryview(b"")
        self._response: Any = None
        self._version: tuple[str | None, ...] | None = None
        self._size: int | None = None
        try:
            if remote.listed:
                self._size = remote.size(key)
            self._rest = self._more()
        except FileNotFoundError:
            raise StorageError(f"cannot read {self.name}: there is no such object") from None

    def readinto(self, view: memoryview) -> int:
        if not self._rest:
            self._rest = self._more()
        count = min(len(view), len(self._rest))
        view[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def _more(self) -> memoryview:
        data: bytes = self._remote.run(self._remote.persist(self._part if self._remote.listed else self._body, self._key, "cannot read"))
        self._at += len(data)
        return memoryview(data)

    async def _part(self) -> bytes:
        end = self._at + _STREAM_PART if self._size is None else min(self._at + _STREAM_PART, self._size)
        if end <= self._at:
            return b""
        data: bytes = await self._remote.fs._cat_file(self._remote.path(self._key), start=self._at, end=end)
        return data

    async def _body(self) -> bytes:
        fs, skip = self._remote.fs, 0
        try:
            if self._response is None:
                session = await fs.set_session()
                headers = {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"} | (
                    {"Range": f"bytes={self._at}-"} if self._at else {}
                )
                response = await session.get(fs.encode_url(self._remote.path(self._key)), **{**fs.kwargs, "headers": headers})
                if response.status == 416 and self._at:
                    return b""
                self._response, skip = response, self._at if response.status == 200 else 0
                fs._raise_not_found_for_status(response, self.name)
                self._check_same(response)
            content = self._response.content
            while skip:
                # It does not know ranges, and begins anew.
                skip -= len(await content.readexactly(min(skip, _STREAM_PART)))
            data: bytes = await content.read(_STREAM_PART)
            return data
        except BaseException:
            self._close()
            raise

    def _check_same(self, response: Any) -> None:
        """Raise where a response is not of the file that was begun with, or not of the part that was asked for."""
        version = tuple(response.headers.get(name) for name in ("ETag", "Last-Modified"))
        if self._version not in (None, version):
            raise SourceChangedError(f"{self.name}: changed while it was read; run again when it is left alone")
        self._version = version
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {self._at}-"):
            raise StorageError(f"cannot read {self.name}: the server gives another part than was asked for")

    def state(self) -> dict[str, Any]:
        """What is another when the object is another. A web server's file is looked at when a connection is made, and only then."""
        return {"state_blake2b": self._remote.state(self._key)} if self._remote.listed else {}

    def _close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def close(self) -> None:
        self._remote.fs.loop.call_soon_threadsafe(self._close)


def _host(url: str) -> str:
    """The bucket or the server in a URL, with the user before it."""
    return url.partition("://")[2].partition("/")[0].partition("?")[0]


def _texts(value: Any) -> Iterator[str]:
    """The texts in an option's value that are long enough to be told from others."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str) and len(value) >= 4 and not is_url(value):
        yield value


def _meant(error: Exception) -> Exception:
    """The error itself; or, where another was taken for "not there", as fsspec takes whatever a web server says, that other."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        code, status = _told(cause)
        if status not in (0, 404) or _passing(cause, code, status):
            return cause
    return error


def _told(error: BaseException) -> tuple[str, int]:
    """What S3 calls the error, and the HTTP status; "" and 0 where it has none."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return str(response["Error"].get("Code", "")), int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    status = getattr(error, "status", 0)
    return "", status if isinstance(status, int) else 0


def _passing(error: BaseException, code: str, status: int) -> str | None:
    """Why a request failed that may succeed a moment later, in words; None where it will not."""
    if status in _PASSING_STATUS or code in _PASSING_CODES:
        said = " ".join(str(part) for part in (status or "", code if not code.isdigit() else "") if part)
        return f"the server is busy or unavailable ({said})"
    kinds = {each.__name__ for each in type(error).__mro__}
    if any("Timeout" in kind for kind in kinds):
        return "the server does not answer in time"
    if kinds & _PASSING_CLASSES:
        return f"the connection failed ({str(error) or type(error).__name__})"
    return None

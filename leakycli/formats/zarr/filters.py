"""Zarr's codecs from bytes to bytes: checksums, filters and compressors. Well-kept libraries do the work.

Each codec decodes into memory of a known size and checks what the encoded bytes claim. Libraries are imported on first use: numcodecs alone
takes 50 ms. Heavy calls release the interpreter's lock, except CRC-32C, fletcher32 and jenkins_lookup3.

Unknown codecs and settings raise `UnknownCodec`; damaged bytes raise `Damage`. All codecs here are lossless. Their output equals zarr's,
except that gzip headers have the time 0.
"""

from __future__ import annotations

import binascii
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leakycli.errors import UnsupportedError

#: Bytes, as a one-dimensional array.
Bytes = NDArray[np.uint8]

#: Bytes that stream decoders return at a time: small enough to stay in the cache until they are copied.
_PIECE = 1 << 18

#: Most memory that an lzma decoder may take, in bytes; preset 9 needs 65 MiB.
_LZMA_DECODER = 128 << 20


class UnknownCodec(UnsupportedError):  # noqa: N818  (users do not see it: the caller uses zarr's pipeline)
    """A codec or setting that is not implemented here."""


class Damage(Exception):  # noqa: N818
    """Encoded bytes are damaged. The chain adds the range of bytes and raises ChunkError."""


class Filter:
    """A codec whose encoded size follows from the decoded size."""

    #: Element size of the encoded output, for a version 2 blosc compressor that follows.
    itemsize = 1
    #: Whether `decode` returns a part of its input and needs no output buffer.
    views = False

    def encoded_size(self, size: int) -> int:
        return size

    def decoded_size(self, data: Bytes) -> int:
        return data.size

    def decode(self, data: Bytes, out: Bytes) -> Bytes:
        """Decode into `out` and return it, or return a part of `data`. Raises Damage."""
        raise NotImplementedError

    def encode(self, data: Bytes) -> list[Bytes]:
        """Encode to pieces to be written one after the other; `data` may be one of them."""
        raise NotImplementedError


class _Checksum(Filter):
    """A checksum of four bytes, before or after the data."""

    views = True

    def __init__(self, name: str, compute: Callable[[Bytes], int], at_start: bool = False) -> None:
        self._name, self._compute, self._at_start = name, compute, at_start

    def encoded_size(self, size: int) -> int:
        return size + 4

    def decoded_size(self, data: Bytes) -> int:
        return data.size - 4

    def decode(self, data: Bytes, out: Bytes) -> Bytes:
        if data.size < 4:
            raise Damage(f"it is cut off: its checksum ({self._name}) is missing")
        stored, content = (data[:4], data[4:]) if self._at_start else (data[-4:], data[:-4])
        if int.from_bytes(stored.tobytes(), "little") != self._compute(content) & 0xFFFFFFFF:
            raise Damage(f"its checksum ({self._name}) does not match")
        return content

    def encode(self, data: Bytes) -> list[Bytes]:
        checksum = as_bytes((self._compute(data) & 0xFFFFFFFF).to_bytes(4, "little"))
        return [checksum, data] if self._at_start else [data, checksum]


class _Shuffle(Filter):
    """Stores the first bytes of all elements, then the second bytes, and so on."""

    def __init__(self, elementsize: int) -> None:
        self._elementsize = elementsize

    def decode(self, data: Bytes, out: Bytes) -> Bytes:
        if data.size % self._elementsize:
            raise Damage(f"it has {data.size} bytes, which are no elements of {self._elementsize} bytes (shuffle)")
        np.copyto(out.reshape(-1, self._elementsize), data.reshape(self._elementsize, -1).T)
        return out

    def encode(self, data: Bytes) -> list[Bytes]:
        return [np.ascontiguousarray(data.reshape(-1, self._elementsize).T).reshape(-1)]


class _Delta(Filter):
    """Stores the first element, then differences. Integers only: sums of floats would not give the elements back."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype, self.itemsize = dtype, dtype.itemsize

    def decode(self, data: Bytes, out: Bytes) -> Bytes:
        if data.size % self._dtype.itemsize:
            raise Damage(f"it has {data.size} bytes, which are no elements of {self._dtype.itemsize} bytes (delta)")
        native = self._dtype.newbyteorder("=")
        sums = np.cumsum(data.view(self._dtype), dtype=native)
        np.copyto(out.view(self._dtype), sums)
        return out

    def encode(self, data: Bytes) -> list[Bytes]:
        values = data.view(self._dtype)
        encoded = np.empty_like(values)
        encoded[:1] = values[:1]
        np.subtract(values[1:], values[:-1], out=encoded[1:])
        return [encoded.view(np.uint8)]


class _Base64(Filter):
    def encoded_size(self, size: int) -> int:
        return (size + 2) // 3 * 4

    def decoded_size(self, data: Bytes) -> int:
        return data.size // 4 * 3 - data[-2:].tobytes().count(b"=")

    def decode(self, data: Bytes, out: Bytes) -> Bytes:
        try:
            decoded = binascii.a2b_base64(data.data, strict_mode=True)
        except ValueError as error:
            raise Damage(f"it is not base64: {error}") from None
        return as_bytes(decoded)

    def encode(self, data: Bytes) -> list[Bytes]:
        return [as_bytes(binascii.b2a_base64(data.data, newline=False))]


class Compressor:
    """A codec whose output size depends on the content."""

    name = ""

    def decode(self, data: Bytes, out: Bytes) -> None:
        """Fill `out`. Raises Damage if `data` does not decode to exactly its size, or has trailing bytes."""
        raise NotImplementedError

    def encode(self, data: Bytes) -> list[Bytes]:
        raise NotImplementedError

    def workspace(self, size: int) -> tuple[int, int]:
        """Peak memory of decoding and of encoding `size` bytes, in bytes, without input and output."""
        return 0, 0


class _Zstd(Compressor):
    name = "zstd"

    def __init__(self, level: int, checksum: bool) -> None:
        from numcodecs import zstd

        self._zstd, self._level, self._checksum = zstd, level, checksum

    def decode(self, data: Bytes, out: Bytes) -> None:
        # The library refuses content that is too large, but neither refuses nor reports content that is too small.
        if _zstd_size(data[:18]) != out.size and (known := _zstd_total(data)) is not None and known != out.size:
            raise Damage(f"it holds {known} bytes, where {out.size} belong (zstd)")
        try:
            self._zstd.decompress(data, out)
        except (RuntimeError, ValueError) as error:
            raise Damage(f"{error} ({self.name})") from None

    def encode(self, data: Bytes) -> list[Bytes]:
        return [as_bytes(self._zstd.compress(data, self._level, self._checksum))]

    def workspace(self, size: int) -> tuple[int, int]:
        return 1 << 18, _zstd_tables(self._level, size)


class _Blosc(Compressor):
    name = "blosc"

    def __init__(self, cname: str, clevel: int, shuffle: int, typesize: int, blocksize: int) -> None:
        from numcodecs import blosc

        # Blosc's own threads would be no faster from several threads, and make the output depend on timing. zarr sets this, too.
        blosc.use_threads = False
        self._blosc, self._settings, self._typesize = blosc, (cname.encode(), clevel, shuffle, blocksize), typesize

    def decode(self, data: Bytes, out: Bytes) -> None:
        size, block = check_blosc(data)
        if size != out.size:
            raise Damage(f"it holds {size} bytes, where {out.size} belong (blosc)")
        if data[3] == 0 or not 0 < block <= size:
            raise Damage("it has a malformed header (blosc)")
        try:
            self._blosc.decompress(data, out)
        except (RuntimeError, ValueError) as error:
            raise Damage(f"{error} ({self.name})") from None

    def encode(self, data: Bytes) -> list[Bytes]:
        return [as_bytes(self._blosc.compress(data, *self._settings, self._typesize))]

    def workspace(self, size: int) -> tuple[int, int]:
        # Three buffers of a block, whose size is 1 MiB at most where the library chooses it.
        cname, _, _, blocksize = self._settings
        blocks = 3 * min(blocksize or 1 << 20, size)
        return blocks + (1 << 19), blocks + (min(_zstd_tables(22, size), 20 << 20) if cname == b"zstd" else 2 << 20)


class _Lz4(Compressor):
    name = "lz4"

    def __init__(self, acceleration: int) -> None:
        from numcodecs import lz4

        self._lz4, self._acceleration = lz4, acceleration

    def decode(self, data: Bytes, out: Bytes) -> None:
        size = int.from_bytes(data[:4].tobytes(), "little")
        if data.size < 4 or size != out.size:
            raise Damage(f"it holds {size} bytes, where {out.size} belong (lz4)")
        try:
            self._lz4.decompress(data, out)
        except (RuntimeError, ValueError) as error:
            raise Damage(f"{error} ({self.name})") from None

    def encode(self, data: Bytes) -> list[Bytes]:
        return [as_bytes(self._lz4.compress(data, self._acceleration))]

    def workspace(self, size: int) -> tuple[int, int]:
        return 1 << 16, 1 << 16


class _Streamed(Compressor):
    """A codec whose library decodes piece by piece.

    several: whether a chunk may consist of several streams.
    """

    several = False

    def _decoder(self) -> tuple[Any, tuple[type[Exception], ...]]:
        """A decoder with the interface of bz2.BZ2Decompressor, and the exceptions that it raises for malformed data."""
        raise NotImplementedError

    def decode(self, data: Bytes, out: Bytes) -> None:
        done, rest = 0, data
        while rest.size:
            if done and not self.several:
                raise Damage(f"something follows its end ({self.name})")
            done, rest = self._stream(rest, out, done)
        if done != out.size:
            raise Damage(f"it holds {done} bytes, where {out.size} belong ({self.name})")

    @staticmethod
    def _streamed(size: int, decoder: int, encoder: int) -> tuple[int, int]:
        """The workspace. Decoders copy their input and encoders their output, each at most about `size` bytes."""
        return size + _PIECE + decoder, size + encoder

    def _stream(self, data: Bytes, out: Bytes, done: int) -> tuple[int, Bytes]:
        """Decode one stream to `out`, from byte `done` on. Returns where it ends in `out`, and the bytes after the stream."""
        decoder, errors = self._decoder()
        try:
            while not decoder.eof:
                piece = decoder.decompress(data, _PIECE)
                if not len(piece) and not decoder.eof:
                    raise Damage(f"it is cut off ({self.name})")
                if len(piece) > out.size - done:
                    raise Damage(f"it holds more than the {out.size} bytes that belong there ({self.name})")
                out[done : done + len(piece)] = as_bytes(piece)
                done, data = done + len(piece), out[:0]
        except errors as error:
            raise Damage(f"{error} ({self.name})") from None
        return done, as_bytes(decoder.unused_data)


class _Inflate(_Streamed):
    """gzip (RFC 1952) and zlib (RFC 1950)."""

    def __init__(self, name: str, level: int) -> None:
        self.name, self._level, self.several = name, level, name == "gzip"

    def _decoder(self) -> tuple[Any, tuple[type[Exception], ...]]:
        from isal import igzip_lib

        flag = igzip_lib.DECOMP_GZIP if self.name == "gzip" else igzip_lib.DECOMP_ZLIB
        error: Any = igzip_lib.IsalError
        return igzip_lib.IgzipDecompressor(flag=flag), (error, ValueError)

    def encode(self, data: Bytes) -> list[Bytes]:
        if self.name == "zlib":
            return [as_bytes(zlib.compress(data.data, self._level))]
        from isal import isal_zlib

        compressor = zlib.compressobj(self._level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, 0)
        extra = {9: 2, 1: 4}.get(self._level, 0)
        header = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, extra, 255))
        trailer = isal_zlib.crc32(data).to_bytes(4, "little") + (data.size & 0xFFFFFFFF).to_bytes(4, "little")
        return [as_bytes(part) for part in (header, compressor.compress(data.data), compressor.flush(), trailer)]

    def workspace(self, size: int) -> tuple[int, int]:
        return self._streamed(size, 1 << 17, 1 << 19)


class _Bz2(_Streamed):
    name, several = "bz2", True

    def __init__(self, level: int) -> None:
        self._level = level

    def _decoder(self) -> tuple[Any, tuple[type[Exception], ...]]:
        import bz2

        return bz2.BZ2Decompressor(), (OSError, ValueError)

    def encode(self, data: Bytes) -> list[Bytes]:
        import bz2

        return [as_bytes(bz2.compress(data.data, self._level))]

    def workspace(self, size: int) -> tuple[int, int]:
        return self._streamed(size, 4 << 20, 8 << 20)


class _Lzma(_Streamed):
    name = "lzma"

    #: Memory of an encoder in bytes, by preset 0 to 9 (xz(1)). A decoder takes at most a tenth of it.
    _ENCODER = tuple(n << 20 for n in (3, 9, 17, 32, 48, 94, 94, 186, 370, 674))

    def __init__(self, container: int, check: int, preset: int | None) -> None:
        self._container, self._check, self._preset = container, check, preset
        self.several = container == 1  # lzma.FORMAT_XZ

    def _decoder(self) -> tuple[Any, tuple[type[Exception], ...]]:
        import lzma

        return lzma.LZMADecompressor(format=self._container, memlimit=_LZMA_DECODER), (lzma.LZMAError, ValueError)

    def encode(self, data: Bytes) -> list[Bytes]:
        import lzma

        return [as_bytes(lzma.compress(data.data, format=self._container, check=self._check, preset=self._preset))]

    def workspace(self, size: int) -> tuple[int, int]:
        encoder = self._ENCODER[6 if self._preset is None else self._preset & 15]
        return self._streamed(size, max(encoder // 10, 1 << 20), encoder)


def as_bytes(data: Any) -> Bytes:
    """The memory of any object with a buffer, as an array of bytes."""
    return np.frombuffer(data, np.uint8)


def check_blosc(data: Bytes) -> tuple[int, int]:
    """Check a blosc header; returns the sizes of the content and of a block. Raises Damage.

    The library trusts the header: with a wrong length it would read past the end of `data`.
    """
    if data.size < 16:
        raise Damage("it is cut off (blosc)")
    size, block, encoded = data[4:16].view("<u4").tolist()
    if encoded != data.size:
        raise Damage(f"it is {'cut off' if encoded > data.size else 'longer than it says'}: its header tells of {encoded} bytes (blosc)")
    return size, block


def _zstd_tables(level: int, size: int) -> int:
    """Memory that zstd takes to encode `size` bytes: tables, by level and input size (measured with zstd 1.5)."""
    most = (2, 2, 2, 2, 2, 5, 5, 5, 14, 14, 48, 48, 48, 66, 66, 66, 66, 66, 66, 84, 170, 330, 660)[max(level, 0)] << 20
    window = 1 << (size - 1).bit_length()
    return min(most, 16 * window + (1 << 20))


def _zstd_size(header: Bytes) -> int | None:
    """The content size in a frame's header (RFC 8878, section 3.1.1.1); None if it has none."""
    data = header.tobytes()
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        return None
    at, width = _zstd_header(data[4])
    field = data[at - width : at]
    if not width or len(field) < width:
        return None
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)


def _zstd_header(flags: int) -> tuple[int, int]:
    """Bytes of a frame's header, and of the content size at its end, by its descriptor (the byte after the magic number)."""
    single = bool(flags & 0x20)
    width = (int(single), 2, 4, 8)[flags >> 6]
    return 5 + (not single) + (0, 1, 2, 4)[flags & 3] + width, width


def _zstd_total(data: Bytes) -> int | None:
    """The total content size of all frames, by their headers; None if one has none, or is malformed.

    In the first case the library itself insists on the exact size; in the second it fails.
    """
    total = at = 0
    while at < data.size:
        head = data[at : at + 18].tobytes()
        if len(head) >= 8 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:  # skippable
            at += 8 + int.from_bytes(head[4:8], "little")
            continue
        size = _zstd_size(data[at : at + 18])
        if size is None:
            return None
        total, at = total + size, at + _zstd_header(head[4])[0]
        while True:
            block = int.from_bytes(data[at : at + 3].tobytes(), "little")
            if at + 3 > data.size:
                return None
            # A block of one repeated byte (RLE) stores only that byte.
            at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
            if block & 1:
                break
        at += 4 if head[4] & 4 else 0
    return total


# From documents


def filter_v3(name: str, settings: dict[str, Any], itemsize: int) -> Filter | Compressor:
    """A codec by its name and configuration in version 3.

    itemsize: bytes of an element of the array.
    """
    if name.startswith("numcodecs."):
        plain = name.removeprefix("numcodecs.")
        if plain == "shuffle" and settings.get("elementsize") is None:
            settings["elementsize"] = itemsize
        if plain in ("delta", "base64"):
            raise UnknownCodec(f"codec {name}")
        # zarr passes plain bytes to these, whatever the elements are.
        return filter_v2(plain, settings, 1)
    if name == "crc32c" and not settings:
        return _Checksum("crc32c", _crc32c)
    if name == "gzip":
        return _made("gzip", {"level": 5, **settings}, 1)
    if name == "zstd":
        return _made("zstd", {"level": 0, "checksum": False, **settings}, 1)
    if name == "blosc":
        by_type = {"typesize": itemsize, "shuffle": "bitshuffle" if itemsize == 1 else "shuffle"}
        merged = {"cname": "zstd", "clevel": 5, "blocksize": 0, **settings}
        merged |= {key: value for key, value in by_type.items() if merged.get(key) is None}
        shuffles = ("noshuffle", "shuffle", "bitshuffle")
        if merged["shuffle"] not in shuffles:
            raise UnknownCodec("blosc with an unknown shuffle")
        return _made("blosc", merged | {"shuffle": shuffles.index(merged["shuffle"])}, itemsize)
    raise UnknownCodec(f"codec {name}")


#: Settings of numcodecs' codecs and their defaults.
_NUMCODECS: dict[str, dict[str, Any]] = {
    "zstd": {"level": 0, "checksum": False},
    "gzip": {"level": 1},
    "zlib": {"level": 1},
    "bz2": {"level": 1},
    "lz4": {"acceleration": 1},
    "lzma": {"format": 1, "check": -1, "preset": None, "filters": None},
    "blosc": {"cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0, "typesize": None},
    "shuffle": {"elementsize": 4},
    "delta": {"dtype": None, "astype": None},
    "base64": {},
    "crc32": {"location": "start"},
    "adler32": {"location": "start"},
    "crc32c": {"location": "end"},
    "fletcher32": {},
    "jenkins_lookup3": {"initval": 0, "prefix": None},
}


def filter_v2(name: str, settings: dict[str, Any], itemsize: int) -> Filter | Compressor:
    """A codec by its numcodecs id.

    itemsize: bytes of an element of its input.
    """
    usual = _NUMCODECS.get(name)
    if usual is None:
        raise UnknownCodec(f"codec {name[:80]}")
    return _made(name, usual | settings, itemsize)


def _made(name: str, settings: dict[str, Any], itemsize: int) -> Filter | Compressor:
    """Make a codec from its complete settings. Raises UnknownCodec for other settings, or values out of range."""
    if unknown := settings.keys() - _NUMCODECS[name].keys():
        raise UnknownCodec(f"{name} with the unknown setting {min(unknown)[:80]}")
    get = settings.__getitem__

    def number(key: str, low: int, high: int) -> int:
        if type(get(key)) is not int or not low <= get(key) <= high:
            raise UnknownCodec(f"{name} with a {key} out of range")
        return int(get(key))

    if name == "zstd" and isinstance(get("checksum"), bool):
        return _Zstd(number("level", -131072, 22), get("checksum"))
    if name in ("gzip", "zlib"):
        return _Inflate(name, number("level", 0 if name == "gzip" else -1, 9))
    if name == "bz2":
        return _Bz2(number("level", 1, 9))
    if name == "lz4":
        return _Lz4(number("acceleration", -(1 << 31), (1 << 31) - 1))
    if name == "lzma":
        preset = None if get("preset") is None else number("preset", 0, 9)
        if get("filters") is not None:
            raise UnknownCodec("lzma with filters")
        if get("check") in ((-1, 0, 1, 4, 10) if get("format") == 1 else (-1,)):
            return _Lzma(number("format", 1, 2), get("check"), preset)
    if name == "blosc" and get("cname") in ("blosclz", "lz4", "lz4hc", "zlib", "zstd"):
        typesize = itemsize if get("typesize") is None else number("typesize", 1, (1 << 31) - 1)
        shuffle = number("shuffle", -1, 2)
        if shuffle == -1:
            shuffle = 2 if typesize == 1 else 1
        return _Blosc(get("cname"), number("clevel", 0, 9), shuffle, typesize, number("blocksize", 0, (1 << 31) - 1))
    if name == "shuffle":
        return _Shuffle(number("elementsize", 1, 1 << 16))
    if name == "delta":
        return _Delta(_integers(get("dtype"), get("astype")))
    if name == "base64":
        return _Base64()
    if name in ("crc32", "adler32", "crc32c") and get("location") in ("start", "end"):
        return _Checksum(name, {"crc32": _crc32, "adler32": _adler32, "crc32c": _crc32c}[name], get("location") == "start")
    if name == "fletcher32":
        return _Checksum(name, _fletcher32)
    if name == "jenkins_lookup3" and get("prefix") is None:
        initial = number("initval", 0, (1 << 32) - 1)
        return _Checksum(name, lambda data: _jenkins(data, initial))
    raise UnknownCodec(f"{name} with unknown settings")


def _integers(dtype: Any, astype: Any) -> np.dtype[Any]:
    """The dtype of a lossless delta filter: integers, stored in their own type."""
    if isinstance(dtype, str) and re.fullmatch(r"[<>|]?[iu][1248]", dtype) and astype in (None, dtype):
        found: np.dtype[Any] = np.dtype(dtype)
        return found
    raise UnknownCodec("delta of other than integers")


def _crc32c(data: Bytes) -> int:
    import google_crc32c

    return int(google_crc32c.value(data))


def _crc32(data: Bytes) -> int:
    from isal import isal_zlib

    return int(isal_zlib.crc32(data))


def _adler32(data: Bytes) -> int:
    return zlib.adler32(data.data)


def _fletcher32(data: Bytes) -> int:
    from numcodecs.fletcher32 import Fletcher32

    return int.from_bytes(bytes(Fletcher32().encode(data)[-4:]), "little")


def _jenkins(data: Bytes, initial: int) -> int:
    from numcodecs.jenkins import jenkins_lookup3

    return int(jenkins_lookup3(data, initial))

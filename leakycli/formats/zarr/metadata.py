"""Zarr's metadata documents: what is read out of them, and what a transform changes in them. Pure: JSON values in, JSON values out.

See https://zarr-specs.readthedocs.io (versions 2 and 3). Nothing a document claims is believed before it is checked.
"""

from __future__ import annotations

import copy
import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from leakycli.errors import CorruptError, LeakyError, UnsupportedError, shown
from leakycli.formats.base import METADATA
from leakycli.function.rule import refuse_unsupported
from leakycli.regions import Index

Document = dict[str, Any]
Codecs = list[tuple[str, Document]]

_V3_TYPES = {
    name: np.dtype(name)
    for name in ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
}

#: Types of version 2 that other libraries write, and numpy does not have.
_OTHERS_TYPES = re.compile(r"bfloat16|float8_\w+|float6_\w+|float4_\w+|u?int[124]", re.ASCII)

#: Most bytes of a chunk that a codec takes: `max_buffer_size` in numcodecs, and what blosc adds.
_LARGEST = {"blosc": (1 << 31) - 1 - 16, "lz4": 0x7E000000}

#: Codecs that give back what went in; names of version 3 come with or without "numcodecs.".
_LOSSLESS = {
    *("bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed", "bz2", "crc32", "adler32", "fletcher32"),
    *("jenkins_lookup3", "lz4", "lzma", "zlib", "shuffle", "delta", "pcodec", "base64"),
}

#: Codecs that do not, or that change what numbers are stored: a result would not be what was computed.
_LOSSY = {"quantize", "bitround", "fixedscaleoffset", "astype", "zfpy", "packbits", "cast_value", "scale_offset"}


@dataclass(frozen=True, slots=True)
class ArrayDocument:
    """What the documents of an array say. Shapes in elements; dtype None for a type that numpy does not have, `dtype_name` its name.

    fill_value: what is not stored (None: not said). codecs: in words. order: of a chunk of version 2. prefix, separator: of chunk keys.
    """

    zarr_format: int
    shape: Index
    dtype: np.dtype[Any] | None
    dtype_name: str
    chunks: Index
    shards: Index | None
    fill_value: np.generic | None
    codecs: str
    order: str
    prefix: str
    separator: str
    dimension_names: tuple[str | None, ...] | None
    attributes: Document
    document: Document

    @property
    def unit(self) -> Index:
        """The shape of a write unit; lengths are at least 1."""
        return self.shards or self.chunks

    @property
    def canonical(self) -> Document | None:
        """The document in the form that zarr takes; None where it is in that form."""
        if self.zarr_format == 3 and isinstance(self.document["data_type"], dict) and self.dtype is not None:
            return {**self.document, "data_type": self.dtype_name}
        return None

    def chunk_key(self, index: Index) -> str:
        """The key, below the array's, of the write unit at `index`."""
        if not index:
            return self.prefix or "0"
        parts = [self.prefix] if self.prefix else []
        return self.separator.join(parts + [str(i) for i in index])

    def chunk_index(self, key: str) -> Index | None:
        """The index of the write unit under `key`; None where that is no write unit of the array."""
        parts = key.split(self.separator)
        if self.prefix:
            if parts.pop(0) != self.prefix:
                return None
        elif not self.shape:
            return () if key == "0" else None
        if len(parts) != len(self.shape):
            return None
        index = []
        for part, n, u in zip(parts, self.shape, self.unit, strict=True):
            if not re.fullmatch(r"0|[1-9][0-9]{0,18}", part, re.ASCII) or int(part) * u >= n:
                return None
            index.append(int(part))
        return tuple(index)

    def otherwise_keyed(self, key: str) -> bool:
        """Whether `key` would be that of a write unit if chunk keys had another separator or another beginning."""
        forms = [(prefix, separator) for prefix in ("", "c") for separator in ("/", ".")]
        return any(replace(self, prefix=prefix, separator=separator).chunk_index(key) is not None for prefix, separator in forms)

    def is_above_chunks(self, key: str) -> bool:
        """Whether `key` is that of a folder which chunks of the array are in."""
        return self.separator == "/" and any(self.chunk_index(key + "/0" * below) is not None for below in range(1, len(self.shape) + 1))


def is_document(key: str) -> bool:
    """Whether `key` is that of a metadata document."""
    return key.rpartition("/")[2] in METADATA


def parse(document: Document, attributes: Document, where: str) -> ArrayDocument:
    """What `document` (a `zarr.json` or a `.zarray`) says of an array; attributes: those beside a `.zarray`.

    Raises CorruptError where it is malformed, UnsupportedError where it asks for what is not supported, both beginning with `where`.
    """
    try:
        return _parse_v3(document) if _version(document) == 3 else _parse_v2(document, attributes)
    except LeakyError as error:
        raise type(error)(f"{where}: {error}") from None


def _version(document: Document) -> int:
    """The version of Zarr that a document says. Raises UnsupportedError for another than 2 and 3, as zarr does."""
    version = document.get("zarr_format")
    if type(version) is not int or version not in (2, 3):
        raise UnsupportedError(f"has zarr_format {_brief(version)}; versions 2 and 3 are supported")
    return version


def _parse_v3(document: Document) -> ArrayDocument:
    shape = _shape(document, "shape", least=0)
    grid = _named(document.get("chunk_grid"), "chunk_grid")
    if grid[0] != "regular":
        raise UnsupportedError(f"has a chunk grid of the kind {_brief(grid[0])}; only regular ones are supported")
    chunks = _shape(grid[1], "chunk_shape", least=0)
    if len(chunks) != len(shape):
        raise CorruptError(f"has {len(shape)} dimensions and chunks of {len(chunks)}")
    if any(c == 0 < n for c, n in zip(chunks, shape, strict=True)):
        raise CorruptError(f"has the chunk_shape {_brief(list(chunks))}; only an axis without elements has chunks of length 0")
    chunks = tuple(max(n, 1) for n in chunks)
    encoding, given = _named(document.get("chunk_key_encoding"), "chunk_key_encoding")
    if encoding not in ("default", "v2"):
        raise UnsupportedError(f"has chunk keys of the kind {_brief(encoding)}; default and v2 are supported")
    separator = given.get("separator", "/" if encoding == "default" else ".")
    if separator not in ("/", "."):
        raise CorruptError(f"has the separator {_brief(separator)} in chunk keys; it must be '/' or '.'")
    if transformers := document.get("storage_transformers"):
        named = [_named(each, "storage_transformers")[0] for each in (transformers if isinstance(transformers, list) else [transformers])]
        raise UnsupportedError(f"has the storage transformer {', '.join(map(_brief, named))}; storage transformers are not supported")
    _check_extensions(document, _V3_KEYS)
    codecs = _codecs(document.get("codecs"))
    shards = None
    if sharding := next((configuration for name, configuration in codecs if name == "sharding_indexed"), None):
        given_inner = tuple(max(n, 1) for n in _shape(sharding, "chunk_shape", least=0 if 0 in shape else 1))
        inner = _untransposed(given_inner, codecs)
        if len(inner) != len(chunks) or any(s % c for s, c in zip(chunks, inner, strict=True)):
            raise CorruptError(f"has shards {chunks} that are not made of whole chunks {inner}")
        _codecs(sharding.get("codecs"))
        if any(s % c for s, c in zip(chunks, given_inner, strict=True)):
            raise UnsupportedError("is transposed before it is sharded, into chunks of which zarr does not read the shape")
        chunks, shards = inner, chunks
    attributes = document.get("attributes", {})
    if not isinstance(attributes, dict):
        raise CorruptError("has attributes that are no JSON object")
    names = document.get("dimension_names")
    if names is not None and (
        not isinstance(names, list) or len(names) != len(shape) or not all(isinstance(n, (str, type(None))) for n in names)
    ):
        raise CorruptError("has malformed dimension_names")
    type_name, configured = _named(document.get("data_type"), "data_type")
    dtype = None if configured else _V3_TYPES.get(type_name)
    if "fill_value" not in document:
        raise CorruptError("has no fill_value")
    return ArrayDocument(
        3,
        shape,
        dtype,
        type_name,
        chunks,
        shards,
        None if dtype is None else decode_fill(document["fill_value"], dtype),
        "+".join(filter(None, (_described(*codec) for codec in _flattened(codecs)))) or "none",
        "C",
        "c" if encoding == "default" else "",
        separator,
        None if names is None else tuple(names),
        attributes,
        document,
    )


def _untransposed(inner: Index, codecs: Codecs) -> Index:
    """The shape of the chunks in a shard along the array's own axes, which may be transposed before they are sharded."""
    for name, configuration in reversed(codecs[: [name for name, _ in codecs].index("sharding_indexed")]):
        order = configuration.get("order")
        if name == "transpose" and isinstance(order, list) and sorted(map(str, order)) == sorted(map(str, range(len(inner)))):
            inner = tuple(inner[order.index(axis)] for axis in range(len(inner)))
    return inner


_V3_KEYS = {
    *("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs", "attributes"),
    *("dimension_names", "storage_transformers"),
}

_V3_GROUP_KEYS = {"zarr_format", "node_type", "attributes", "consolidated_metadata"}


def _check_extensions(document: Document, known: set[str]) -> None:
    for key, value in document.items():
        if key not in known and not (isinstance(value, dict) and value.get("must_understand") is False):
            raise UnsupportedError(f"has the extension {_brief(key)}, which must be understood and is not")


def check_group(document: Document, where: str) -> None:
    """Raise CorruptError where a group's document is malformed, UnsupportedError where it asks for what is not supported."""
    try:
        if not isinstance(document.get("attributes", {}), dict):
            raise CorruptError("has attributes that are no JSON object")
        if _version(document) == 3:
            _check_extensions(document, _V3_GROUP_KEYS)
    except LeakyError as error:
        raise type(error)(f"{where}: {error}") from None


def _parse_v2(document: Document, attributes: Document) -> ArrayDocument:
    shape = _shape(document, "shape", least=0)
    # zarr 2 gave axes without elements chunks of length 0.
    chunks = tuple(max(n, 1) for n in _shape(document, "chunks", least=0))
    if len(chunks) != len(shape):
        raise CorruptError(f"has {len(shape)} dimensions and chunks of {len(chunks)}")
    order, separator = document.get("order"), document.get("dimension_separator", ".")
    if order not in ("C", "F"):
        raise CorruptError(f"has the order {_brief(order)}; it must be 'C' or 'F'")
    if separator not in ("/", "."):
        raise CorruptError(f"has the separator {_brief(separator)} in chunk keys; it must be '/' or '.'")
    filters, compressor = document.get("filters"), document.get("compressor")
    if filters is not None and not isinstance(filters, list):
        raise CorruptError("has filters that are no JSON array")
    for codec in (*(filters or ()), *(() if compressor is None else (compressor,))):
        if not isinstance(codec, dict) or not isinstance(codec.get("id"), str):
            raise CorruptError(f"has a codec without an id: {_brief(codec)}")
    described = [_described(codec["id"], codec) for codec in (*(filters or ()), *(() if compressor is None else (compressor,)))]
    text = document.get("dtype")
    dtype = None
    if isinstance(text, str):
        try:
            dtype = np.dtype(text)
        except (TypeError, ValueError, SyntaxError):
            if not _OTHERS_TYPES.fullmatch(text):
                raise CorruptError(f"has the dtype {_brief(text)}, which is none") from None
    elif not isinstance(text, list):
        raise CorruptError(f"has the dtype {_brief(text)}, which is none")
    if "fill_value" not in document:
        raise CorruptError("has no fill_value")
    plain = dtype is not None and dtype.kind in "biuf"
    fill = decode_fill(document["fill_value"], dtype) if dtype is not None and plain and document["fill_value"] is not None else None
    return ArrayDocument(
        2,
        shape,
        dtype,
        dtype.name if dtype is not None else text if isinstance(text, str) else "structured",
        chunks,
        None,
        fill,
        "+".join(described) or "none",
        order,
        "",
        separator,
        None,
        attributes,
        document,
    )


def check_transformable(document: ArrayDocument, where: str) -> None:
    """Raise UnsupportedError where the array's type has no leaky ReLU, or one of its codecs is not known."""
    try:
        if document.dtype is None:
            hint = " (convert it to float32 first)" if "float" in document.dtype_name and document.dtype_name not in _V3_TYPES else ""
            raise UnsupportedError(f"type {shown(document.dtype_name)[:80]} is not supported; only floats and integers are{hint}")
        refuse_unsupported(document.dtype)
        for name, _ in _all_codecs(document):
            if name not in _LOSSLESS | _LOSSY:
                raise UnsupportedError(f"codec {shown(name)[:80]} is not known, so that its array can be copied but not transformed")
    except LeakyError as error:
        raise type(error)(f"{where}: {error}") from None


def is_floating(fields: Document) -> bool | None:
    """Whether a document, which may be of a kind that is not supported, says that its array is of floats; None where that is unclear."""
    declared = fields.get("data_type") if fields.get("zarr_format") == 3 else fields.get("dtype")
    if isinstance(declared, dict):
        declared = declared.get("name")
    if isinstance(declared, list) and fields.get("zarr_format") == 2:
        return False
    if not isinstance(declared, str):
        return None
    if fields.get("zarr_format") == 3:
        # Names of extensions are free; those of floats are these in the registry (zarr-extensions).
        return re.match(r"(numpy\.)?b?float", declared) is not None
    try:
        return np.dtype(declared).kind == "f"
    except (TypeError, ValueError, SyntaxError):
        return False if _OTHERS_TYPES.fullmatch(declared) else None


def is_others_float(fields: Document) -> bool:
    """Whether an array of version 2 is of a type of floats that the version does not have; such are copied."""
    declared = fields.get("dtype")
    if fields.get("zarr_format") != 2 or not isinstance(declared, str):
        return False
    return "float" in declared and _OTHERS_TYPES.fullmatch(declared) is not None


def outlined(fields: Document) -> tuple[Index, str]:
    """The shape and the name of the type that a document gives which cannot be parsed; () and "unknown" where it does not."""
    shape = fields.get("shape")
    sound = isinstance(shape, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in shape)
    declared = fields.get("data_type", fields.get("dtype"))
    if isinstance(declared, dict):
        declared = declared.get("name")
    return tuple(shape) if sound and shape else (), shown(declared)[:80] if isinstance(declared, str) else "unknown"


def codec_names(document: ArrayDocument) -> list[str]:
    """The names of the array's codecs as the document has them, those inside shards too."""
    fields = document.document
    if document.zarr_format == 2:
        return [name for name, _ in codec_chain(document)]

    def names(codecs: Any) -> list[str]:
        found = []
        for codec in codecs:
            name, configuration = _named(codec, "codecs")
            found += [name, *names(configuration["codecs"])] if name == "sharding_indexed" else [name]
        return found

    return names(fields["codecs"])


def too_large(codecs: str, chunk: Index, dtype: np.dtype[Any]) -> str | None:
    """Why a chunk of that shape and type cannot be encoded by `codecs` (in words); None where it can."""
    size = math.prod(chunk) * dtype.itemsize
    for name in codecs.split("+"):
        codec = name.partition(":")[0].partition("-")[0]
        if size > _LARGEST.get(codec, size):
            return f"a chunk of {size} bytes as {dtype.name} is more than {codec} takes ({_LARGEST[codec]})"
    return None


def codec_chain(document: ArrayDocument, codecs: Any = None) -> Codecs:
    """The codecs that a chunk goes through when it is stored, in that order; or those of `codecs`, a part of a version 3 document.

    Raises CorruptError where they are malformed.
    """
    fields = document.document
    if codecs is not None or document.zarr_format == 3:
        return _codecs(fields["codecs"] if codecs is None else codecs)
    chain = [*(fields.get("filters") or ()), *(() if fields.get("compressor") is None else (fields["compressor"],))]
    return [(codec["id"].removeprefix("numcodecs."), codec) for codec in chain]


def _all_codecs(document: ArrayDocument) -> Codecs:
    return _flattened(codec_chain(document), keep_sharding=True)


def adapt(
    document: ArrayDocument, dtype: np.dtype[Any], fill: np.generic | None, attributes: Document | None = None
) -> tuple[Document, Document | None, tuple[str, ...]]:
    """The documents of the array with values of `dtype`: (its own, its attributes of version 2 else None, warnings).

    fill: what is not stored. None where that is not said: version 2 has null then, version 3 zero.

    Only what must change is changed: the type, the fill value, what codecs know of the type, lossy codecs (dropped, each with a warning),
    and the attributes where they are given.
    """
    fields = copy.deepcopy(document.document)
    attributes = document.attributes if attributes is None else attributes
    floating = dtype.kind == "f"
    warnings: list[str] = []
    same_fill = fill is not None and _says(fields["fill_value"], fill)
    if document.zarr_format == 3:
        fields["data_type"] = dtype.newbyteorder("=").name
        if not same_fill:
            fields["fill_value"] = encode_fill(_scalar(0, dtype) if fill is None else fill, 3)
        fields["codecs"] = _adapted_v3(fields["codecs"], dtype, warnings)
        if attributes or "attributes" in fields:
            fields["attributes"] = attributes
        return fields, None, tuple(warnings)
    had = np.dtype(fields["dtype"])
    swapped = fields["dtype"].startswith(">")
    kind = dtype.newbyteorder("<").str[1:]
    fields["dtype"] = ("|" if dtype.itemsize == 1 else ">" if swapped else "<") + kind
    if fields["fill_value"] is not None and not same_fill:
        fields["fill_value"] = None if fill is None else encode_fill(fill, 2)
    if fields.get("filters"):
        kept = []
        for codec in fields["filters"]:
            if _lossy(codec["id"], floating):
                warnings.append(_dropped(codec["id"]))
            else:
                kept.append(_bound(codec["id"], codec, had, np.dtype(fields["dtype"])))
        fields["filters"] = kept or None
    compressor = fields.get("compressor")
    if compressor is not None:
        if _lossy(compressor["id"], floating):
            warnings.append(_dropped(compressor["id"]))
            fields["compressor"] = None
        else:
            fields["compressor"] = _bound(compressor["id"], compressor, had, np.dtype(fields["dtype"]))
    return fields, attributes, tuple(warnings)


def _says(value: Any, fill: np.generic) -> bool:
    """Whether `value` is one of the ways to write `fill`: what need not change stays as it was written."""
    number = type(value) is int or (isinstance(value, float) and fill.dtype.kind == "f")
    if number and not np.isfinite(fill):
        return False
    try:
        return (number or isinstance(value, str)) and decode_fill(value, fill.dtype).tobytes() == fill.tobytes()
    except CorruptError:
        return False


def _adapted_v3(codecs: list[Any], dtype: np.dtype[Any], warnings: list[str]) -> list[Any]:
    adapted = []
    for codec in codecs:
        (name, configuration), full = _named(codec, "codecs"), codec
        plain = name.removeprefix("numcodecs.")
        if _lossy(plain, dtype.kind == "f"):
            warnings.append(_dropped(name))
            if plain == "zfpy":  # it is what makes bytes of numbers
                adapted.append(_bytes(dtype))
            continue
        if plain == "bytes" and dtype.itemsize > 1 and "endian" not in configuration:
            full = _bytes(dtype)
        elif plain == "blosc" and "typesize" in configuration:
            full = {**codec, "configuration": {**configuration, "typesize": dtype.itemsize}}
        elif plain == "sharding_indexed":
            full = {**codec, "configuration": {**configuration, "codecs": _adapted_v3(configuration["codecs"], dtype, warnings)}}
        elif plain in ("shuffle", "delta"):
            full = {**codec, "configuration": _bound(plain, configuration, None, dtype)}
        adapted.append(full)
    return adapted


def _bytes(dtype: np.dtype[Any]) -> Document:
    return {"name": "bytes", "configuration": {"endian": "little"}} if dtype.itemsize > 1 else {"name": "bytes"}


def _bound(name: str, configuration: Document, had: np.dtype[Any] | None, dtype: np.dtype[Any]) -> Document:
    """A codec's configuration with what it knows of the element type."""
    if name == "shuffle" and "elementsize" in configuration:
        return {**configuration, "elementsize": dtype.itemsize}
    if name == "delta":
        known: Document = {key: dtype.str for key in ("dtype", "astype") if key in configuration}
        return {**configuration, **known}
    return configuration


def _lossy(name: str, floating: bool) -> bool:
    """Differences of floats do not add up to them again."""
    return name in _LOSSY or (name == "delta" and floating)


def _dropped(name: str) -> str:
    return f"the lossy filter {shown(name)} was dropped: with it the result would not be what was computed"


def decode_fill(value: Any, dtype: np.dtype[Any]) -> np.generic:
    """A fill value out of its JSON form. Raises CorruptError."""
    native = dtype.newbyteorder("=")
    try:
        if native.kind == "f":
            if isinstance(value, str) and value.startswith("0x"):
                bits = int(value, 16)
                found: np.generic = np.array([bits], f"u{native.itemsize}").view(native)[0]
                return found
            if isinstance(value, str):
                return _scalar({"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[value], native)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return _scalar(float(value), native)
        elif native.kind in "iu":
            # zarr 2 wrote 0.0 for integers, too.
            if isinstance(value, (int, float)) and not isinstance(value, bool) and int(value) == value:
                limits = np.iinfo(native)
                if limits.min <= int(value) <= limits.max:
                    return _scalar(int(value), native)
        elif native.kind == "b" and isinstance(value, (bool, int)):
            return _scalar(bool(value), native)
    except (ValueError, KeyError, OverflowError):
        pass
    raise CorruptError(f"has the fill_value {_brief(value)}, which is no {native.name}")


def _scalar(value: Any, dtype: np.dtype[Any]) -> np.generic:
    with np.errstate(all="ignore"):
        scalar: np.generic = np.array([value]).astype(dtype)[0]
    return scalar


def encode_fill(value: np.generic, zarr_format: int) -> Any:
    """The JSON form of a fill value."""
    if value.dtype.kind != "f":
        return value.item()
    number = float(value)
    if math.isnan(number):
        bits = np.array([value]).view(f"u{value.dtype.itemsize}")[0]
        usual = np.array([np.nan], value.dtype).view(f"u{value.dtype.itemsize}")[0]
        return "NaN" if bits == usual or zarr_format == 2 else f"0x{int(bits):0{2 * value.dtype.itemsize}x}"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def _shape(document: Document, key: str, least: int) -> Index:
    shape = document.get(key)
    if not isinstance(shape, list) or not all(type(n) is int and least <= n < 1 << 63 for n in shape):
        raise CorruptError(f"has the {key} {_brief(shape)}, which is no shape")
    if len(shape) > 64:
        raise UnsupportedError(f"has {len(shape)} dimensions; numpy reads at most 64")
    if math.prod(max(n, 1) for n in shape) >= 1 << 63:
        raise CorruptError(f"has the {key} {_brief(shape)}, more elements than can be counted")
    return tuple(shape)


def _named(value: Any, key: str) -> tuple[str, Document]:
    """(name, configuration) of an extension point: an object with both, or its name alone."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        configuration = value.get("configuration")
        if isinstance(configuration, (dict, type(None))):
            return value["name"], configuration or {}
    raise CorruptError(f"has a malformed {key}: {_brief(value)}")


def _codecs(value: Any) -> Codecs:
    if not isinstance(value, list) or not value:
        raise CorruptError(f"has malformed codecs: {_brief(value)}")
    named = [_named(codec, "codecs") for codec in value]
    return [(name.removeprefix("numcodecs."), configuration) for name, configuration in named]


def _flattened(codecs: Codecs, keep_sharding: bool = False) -> Codecs:
    """The codecs, with those inside shards in the place of the sharding."""
    flat = []
    for name, configuration in codecs:
        if name == "sharding_indexed":
            flat += [(name, configuration)] if keep_sharding else []
            flat += _flattened(_codecs(configuration.get("codecs")), keep_sharding)
        else:
            flat.append((name, configuration))
    return flat


def _described(name: str, configuration: Document) -> str:
    """A codec in words, as `--compressor` takes them where it can."""
    name = name.removeprefix("numcodecs.")
    if name == "bytes":
        return "big-endian" if configuration.get("endian") == "big" else ""
    if name == "blosc":
        shuffle = configuration.get("shuffle")
        known = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle", -1: "auto"}
        shuffle = known.get(shuffle, "") if isinstance(shuffle, int) else shuffle
        return f"blosc-{configuration.get('cname', 'lz4')}:{configuration.get('clevel', 5)}" + (f":{shuffle}" if shuffle else "")
    level = configuration.get("level")
    return f"{name}:{level}" if isinstance(level, int) else name


def _brief(value: Any) -> str:
    try:
        return shown(repr(value)[:80])
    except (ValueError, RecursionError):  # a number of more digits than Python prints, a nest too deep
        return f"({type(value).__name__})"

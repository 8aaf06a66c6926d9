"""Codecs that zarr knows by name, and whether they are installed here."""

from __future__ import annotations

import numcodecs.registry
import zarr.registry
from zarr.codecs.numcodecs._codecs import _NumcodecsBytesBytesCodec

from leakycli.errors import UsageError, shown
from leakycli.formats.zarr.metadata import ArrayDocument, codec_names

#: Packages that bring a codec which numcodecs does not bring itself.
_PACKAGES = {"pcodec": "pcodec", "zfpy": "zfpy", "crc32c": "google-crc32c"}

#: Codecs of zarr's own, which come with it in every version.
_ZARRS_OWN = {"bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed"}


class Base64(_NumcodecsBytesBytesCodec, codec_name="base64"):
    """numcodecs' base64 in version 3; zarr has a class for each of numcodecs' codecs but this."""


def _register() -> None:
    try:
        zarr.registry.get_codec_class("numcodecs.base64")
    except Exception:  # KeyError, or a class of its own in newer versions
        zarr.registry.register_codec("numcodecs.base64", Base64)


_register()


def missing_codec(document: ArrayDocument) -> UsageError | None:
    """What to install for an array that has a codec which is known and not installed; None where all are there."""
    for name in codec_names(document):
        plain = name.removeprefix("numcodecs.")
        if document.zarr_format == 3 and (plain in _ZARRS_OWN or not name.startswith("numcodecs.")):
            continue
        if plain not in numcodecs.registry.codec_registry:
            return UsageError(f"codec {shown(plain)} is not installed; pip install {_PACKAGES.get(plain, 'a newer numcodecs')}")
    return None

"""A headless Chromium, and a server on loopback that counts what it is asked for."""

from __future__ import annotations

import http.server
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: The browser, None where there is none.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--log-level=0",
)


class Server:
    """Serves `pages`, by their paths, while it is entered. asked: every path that was requested."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                body = pages.get(self.path.partition("?")[0])
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write((body or "").encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def browse(url: str, *flags: str, size: tuple[int, int] = (1100, 1000)) -> tuple[str, list[str]]:
    """Open `url`; returns what was printed (with `--dump-dom` the page) and the messages on its console."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="leakycli-browser-", ignore_cleanup_errors=True) as folder:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}", *flags, url]
        done = subprocess.run(command, capture_output=True, timeout=90, env={**os.environ, "HOME": folder})
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    messages = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    return done.stdout.decode(), messages


def pixels(path: Path) -> NDArray[np.uint8]:
    """A PNG of 8 bits a channel as an array of shape (height, width, channels)."""
    data, at, parts = path.read_bytes(), 8, []
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", data[at + 8 : at + 18])
        elif kind == b"IDAT":
            parts.append(data[at + 8 : at + 8 + size])
        at += 12 + size
    channels = {2: 3, 6: 4}[colour]
    assert depth == 8
    raw, stride = zlib.decompress(b"".join(parts)), width * channels
    image, above = bytearray(), bytes(stride)
    for at in range(0, height * (stride + 1), stride + 1):
        above = _unfiltered(raw[at], raw[at + 1 : at + 1 + stride], above, channels)
        image += above
    return np.frombuffer(bytes(image), np.uint8).reshape(height, width, channels)


def _unfiltered(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    """A row of a PNG as it was before its filter: see the specification, section 9."""
    if kind == 0:
        return row
    if kind == 2:
        return bytes((a + b) & 255 for a, b in zip(row, above, strict=True))
    out = bytearray(step) + bytearray(len(row))
    up = bytes(step) + above
    for i, value in enumerate(row):
        left, over, corner = out[i], up[i + step], up[i]
        if kind == 1:
            predicted = left
        elif kind == 3:
            predicted = (left + over) // 2
        else:
            p = left + over - corner
            a, b, c = abs(p - left), abs(p - over), abs(p - corner)
            predicted = left if a <= b and a <= c else over if b <= c else corner
        out[i + step] = (value + predicted) & 255
    return bytes(out[step:])

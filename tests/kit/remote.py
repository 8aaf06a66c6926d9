"""An S3 server on loopback (moto's, a process of its own), a web server, and a proxy before either that disturbs.

python -m tests.kit.remote PORT     moto's server
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: What a proxy does with a request, by its method and path: nothing (None), or one of these.
FAULTS = ("503", "reset", "cut", "slow", "403")
Choose = Callable[[str, str], str | None]

SECRET = "a-secret-that-nobody-may-see"


def environment(endpoint: str) -> dict[str, str]:
    """What makes S3 clients ask that server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Its endpoint."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kit.remote", str(port)], stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class Server(ThreadingHTTPServer):
    """Says nothing of clients that go away."""

    daemon_threads = True
    #: As it is, the tenth of ten clients that come at once may be let in by its system's next try only, a second later.
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        pass


class Proxy:
    """Passes requests on to `endpoint`, but for those that `choose` names a fault for."""

    def __init__(self, endpoint: str, choose: Choose) -> None:
        self.choose, self.requests, self.disturbed = choose, 0, 0
        host = endpoint.removeprefix("http://")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.requests += 1
                fault = proxy.choose(self.command, self.path)
                proxy.disturbed += fault is not None
                if fault == "reset":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if fault in ("503", "403"):
                    code = "ServiceUnavailable" if fault == "503" else "InvalidAccessKeyId"
                    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                    self.answer(int(fault), {"Content-Type": "application/xml"}, b"" if self.command == "HEAD" else text)
                    return
                if fault == "slow":
                    time.sleep(0.1)
                with contextlib.closing(http.client.HTTPConnection(host, timeout=60)) as connection:
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
                    connection.request(self.command, self.path, body, headers)
                    response = connection.getresponse()
                    data = response.read()
                    kept = {n: v for n, v in response.getheaders() if n.lower() not in ("connection", "transfer-encoding")}
                    if fault == "cut" and len(data) > 1:
                        self.send_response(response.status)
                        for name, value in ({"Content-Length": str(len(data))} | kept).items():
                            self.send_header(name, value)
                        self.end_headers()
                        self.wfile.write(data[: len(data) // 2])
                        self.wfile.flush()
                        self.connection.shutdown(socket.SHUT_RDWR)
                        self.close_connection = True
                        return
                    self.answer(response.status, kept, data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

            def answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response(status)
                length = {} if any(name.lower() == "content-length" for name in headers) else {"Content-Length": str(len(data))}
                for name, value in (headers | length).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def some(share: float, *faults: str, seed: int = 1) -> Choose:
    """Disturbs that share of the requests, each with one of the `faults`."""
    rng = random.Random(seed)
    return lambda method, path: rng.choice(faults) if rng.random() < share else None


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """The URL of a server of the files in `folder`, which knows neither ranges nor other comforts."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=os.fspath(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, run_simple

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: object) -> None:
            pass

    run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=True, request_handler=Quiet)


if __name__ == "__main__":
    main()

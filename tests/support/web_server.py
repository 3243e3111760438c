"""A web server of files for tests, which can be told to fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WebServer(ThreadingHTTPServer):
    """Serves `/name` from `files`, answers `/status/NUMBER` with that status, and redirects `/to/NAME` to `target`.

    Attributes:
        files: Content by name.
        target: URL prefix of redirects.
        cut: Whether to close a connection in the middle of a body.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.target = ""
        self.cut = False

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_GET(self) -> None:
        kind, _, rest = self.path.removeprefix("/").partition("/")
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", f"{self.server.target}/{rest}")
            self.end_headers()
            return
        content = self.server.files.get(kind)
        status = int(rest) if kind == "status" else 404 if content is None else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content is not None and self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if self.server.cut else content)

    do_HEAD = do_GET  # noqa: N815 - a name of http.server

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of http.server
        """Quiet."""


@contextmanager
def web_server(files: dict[str, bytes]) -> Iterator[WebServer]:
    """A server that answers while the block runs."""
    server = WebServer(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

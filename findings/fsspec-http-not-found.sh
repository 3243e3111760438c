#!/usr/bin/env bash
# fsspec over HTTP: a server that is down or overloaded is "file not found" to `open`, and other errors to other methods.
#
# Guess:    `fs.open(url)` raises FileNotFoundError for status 404 only. 503, 429, 403 or a refused connection raise an error that says
#           so and that retries can recognize, and `fs.exists(url)` raises as well, because the answer is unknown.
# Surprise: `open` and `info` raise FileNotFoundError for every one of them, `exists` returns False, and `cat([url], on_error="omit")`
#           leaves the file out. The cause is only in `__cause__`. `cat_file` and `glob` of the same place raise the true error.
# Matters:  A batch job that treats a missing file as permanent and an unreachable one as temporary gives up a whole dataset after one
#           minute of maintenance, and no retry of the library or of the job looks at it again.
# Do:       Look at `error.__cause__`: aiohttp's ClientResponseError has the status, ClientConnectorError is a refused connection.
#           Do not decide with `exists`.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check fsspec==2026.9.0 aiohttp==3.13.2

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from fsspec.implementations.http import HTTPFileSystem

print(*(f"{name} {version(name)}" for name in ("fsspec", "aiohttp")), sep=", ")


class Refusing(BaseHTTPRequestHandler):
    """Answers /503/clip.mp4 with the status 503."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
threading.Thread(target=server.serve_forever, daemon=True).start()
with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    closed = unused.getsockname()[1]


def outcome(call: Callable[[], object]) -> str:
    """The result or the error as text."""
    try:
        return str(call())
    except Exception as error:
        return type(error).__name__


def cause(fs: HTTPFileSystem, url: str) -> str:
    """The class of the error that `open` hides."""
    try:
        return str(fs.open(url))
    except FileNotFoundError as error:
        return type(error.__cause__).__name__


METHODS: dict[str, Callable[[HTTPFileSystem, str], object]] = {
    "open": lambda fs, url: fs.open(url),
    "info": lambda fs, url: fs.info(url),
    "exists": lambda fs, url: fs.exists(url),
    "cat omit": lambda fs, url: fs.cat([url], on_error="omit"),
    "cause of open's error": cause,
    "cat_file": lambda fs, url: fs.cat_file(url),
    "glob": lambda fs, url: fs.glob(url.replace("clip", "*")),
}
SAME = ["FileNotFoundError", "FileNotFoundError", "False", "{}"]
cases = {
    "404": [*SAME, "ClientResponseError", "FileNotFoundError", "[]"],
    "403": [*SAME, *["ClientResponseError"] * 3],
    "429": [*SAME, *["ClientResponseError"] * 3],
    "503": [*SAME, *["ClientResponseError"] * 3],
    "connection refused": [*SAME, *["ClientConnectorError"] * 3],
}
unchanged = True
for case, expected in cases.items():
    base = f"http://127.0.0.1:{server.server_port}/{case}" if case.isdigit() else f"http://127.0.0.1:{closed}"
    fs = HTTPFileSystem(skip_instance_cache=True)
    found = [outcome(lambda: method(fs, f"{base}/clip.mp4")) for method in METHODS.values()]
    unchanged &= found == expected
    told = ", ".join(f"{name} {result}" for name, result in zip(METHODS, found, strict=True))
    print(f"{'as described' if found == expected else 'CHANGED'}: {case}: {told}")
server.shutdown()
sys.exit(0 if unchanged else 1)
PYTHON

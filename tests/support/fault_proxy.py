"""A bad day between us and an object store: an HTTP proxy that answers, delays and drops as it likes, by a seed."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["internal error", "slow down", "hang", "drop before", "drop in mid-body", "lose the reply"]

FAULTS: tuple[Fault, ...] = ("internal error", "slow down", "hang", "drop before", "drop in mid-body", "lose the reply")
_STATUS: dict[str, tuple[int, str]] = {"internal error": (500, "InternalError"), "slow down": (503, "SlowDown")}
_OF_ONE_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


@dataclass(frozen=True)
class Seen:
    """A request on its way.

    Attributes:
        method: GET, PUT, ...
        path: With bucket and query.
        client_port: Of the process that sent it, on this machine.
        moment: `before` it is passed on, or `after` the store has done it and before the reply is passed on.
    """

    method: str
    path: str
    client_port: int
    moment: Literal["before", "after"]


class FaultProxy(ThreadingHTTPServer):
    """Passes requests on, but for a share of them.

    Args:
        target: The endpoint behind it.
        share: Probability of a fault, for each request.
        seed: Which requests; with threads, the order of requests is chance all the same.
        hang_s: How long a hanging request takes before it is passed on.
        on_request: Told of each request before and after; True drops the connection there.
    """

    daemon_threads = True

    def __init__(
        self,
        target: str,
        *,
        share: float,
        seed: int,
        hang_s: float = 3.0,
        on_request: Callable[[Seen], bool] = lambda _: False,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.hang_s = hang_s
        self.on_request = on_request
        self.faults: Counter[Fault] = Counter()
        self.requests = 0
        self._share = share
        self._chance = random.Random(seed)  # noqa: S311 - which requests fail, not a secret
        self._lock = threading.Lock()

    @property
    def endpoint_url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self) -> Fault | None:
        """What happens to the next request."""
        with self._lock:
            self.requests += 1
            if self._chance.random() >= self._share:
                return None
            fault = self._chance.choice(FAULTS)
            self.faults[fault] += 1
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up on a request is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.draw()
        if self._is_seen("before") or fault == "drop before":
            self._drop()
            return
        if fault in _STATUS:
            status, code = _STATUS[fault]
            self._answer(status, [], f"<Error><Code>{code}</Code><Message>{fault}</Message></Error>".encode())
            return
        if fault == "hang":
            time.sleep(self.server.hang_s)
        status, headers, content = self._ask(body)
        if self._is_seen("after") or fault == "lose the reply":
            self._drop()
            return
        cut = len(content) // 2 if fault == "drop in mid-body" else None
        self._answer(status, headers, content, cut)
        if cut is not None:
            self._drop()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815 - names of http.server

    def _is_seen(self, moment: Literal["before", "after"]) -> bool:
        return self.server.on_request(Seen(self.command, self.path, self.client_address[1], moment))

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            # The client's own Host: it is part of what was signed.
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            headers = [(name, value) for name, value in reply.getheaders() if name.lower() not in _OF_ONE_CONNECTION]
            if self.command == "HEAD":
                headers.append(("Content-Length", reply.headers.get("Content-Length", "0")))
            return reply.status, headers, reply.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])

    def _drop(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of http.server
        """Quiet."""


@contextmanager
def fault_proxy(
    target: str, *, share: float, seed: int, hang_s: float = 3.0, on_request: Callable[[Seen], bool] = lambda _: False
) -> Iterator[FaultProxy]:
    """A proxy that serves while the block runs."""
    proxy = FaultProxy(target, share=share, seed=seed, hang_s=hang_s, on_request=on_request)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()

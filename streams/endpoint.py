"""A worker's pages over HTTP: /live, /ready, /metrics. Nothing listens unless a port is asked for.

In threads of its own: a worker whose loop hangs can still say so, and a page never delays a commit.
"""

from __future__ import annotations

import errno
import json
import socket
import socketserver
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

import structlog

from streams.errors import Unavailable, WrongSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from streams.health import Verdict

#: Whoever has not sent a request within this is cut off.
PATIENCE_S = 5.0

log = structlog.get_logger("tidemark.endpoint")


class Page(NamedTuple):
    """What a request is answered with."""

    status: int
    kind: str
    body: bytes


def judged(name: str, verdict: Verdict) -> Page:
    """A verdict for whoever probes: 200 or 503, and why."""
    body = json.dumps({name: verdict.good, "why": verdict.why}).encode() + b"\n"
    return Page(200 if verdict.good else 503, "application/json", body)


@contextmanager
def serving(host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> Iterator[None]:
    """Answer requests for these paths meanwhile. Raises `Unavailable` (port taken) and `WrongSettings` (unusable)."""
    server = _listening(host, port, pages)
    thread = threading.Thread(target=server.serve_forever, name="endpoint", daemon=True)
    thread.start()
    log.info("listening", host=host, port=port, pages=sorted(pages))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listening(host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> _Server:
    try:
        return _Server(host, port, pages)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"port {port} of {host} is taken: end what listens there, or choose another TIDEMARK_HTTP_PORT"
            ) from problem
        raise WrongSettings(
            (f"TIDEMARK_HTTP_HOST, TIDEMARK_HTTP_PORT: cannot listen at {host}:{port} ({problem.strerror})",)
        ) from problem


class _Server(ThreadingHTTPServer):
    """`pages`: path -> what makes its page; called in the thread of the request."""

    daemon_threads = True

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> None:
        self.pages = pages
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Request)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the name service for the host's name, which takes seconds where none answers.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", 0

    def handle_error(self, *_: object) -> None:
        problem = sys.exception()
        if not isinstance(problem, OSError):  # that one is whoever asked and did not wait for the answer
            log.error("a page could not be made", problem=repr(problem))


class _Request(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE_S
    server_version, sys_version = "tidemark", ""

    def do_GET(self) -> None:
        make = self.server.pages.get(self.path.partition("?")[0])
        page = make() if make else Page(404, "text/plain; charset=utf-8", _list(self.server.pages))
        self.send_response(page.status)
        self.send_header("Content-Type", page.kind)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        self.wfile.write(page.body)

    def log_message(self, *_: object) -> None:
        """Probes come every few seconds: nobody needs a line for each."""


def _list(pages: Mapping[str, object]) -> bytes:
    return (" ".join(sorted(pages)) + "\n").encode()

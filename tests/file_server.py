"""A web server for tests that serves bytes and misbehaves as it is told."""

from __future__ import annotations

import base64
import threading
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Trick = Callable[["Handler", bytes, int, int], None]
"""Answers a request for bytes `first` to `last` (exclusive) of a file in its own way"""


class FileServer(ThreadingHTTPServer):
    """Serves `files` (path -> bytes) on 127.0.0.1, with ranges and ETags; use it in a `with` statement."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes] | None = None, login: tuple[str, str] | None = None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.login = dict(files or {}), login
        self.tags: dict[str, str] = {}
        self.tricks: dict[str, list[Trick]] = defaultdict(list)
        """path -> what is done to its next requests, one after the other"""
        self.seen: list[tuple[str, dict[str, str]]] = []
        """(path, headers) of each request"""

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}/"

    def ranges(self, path: str) -> list[str]:
        return [headers.get("Range", "") for seen, headers in self.seen if seen == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.lstrip("/")
        self.server.seen.append((path, dict(self.headers)))
        if self.server.login and not self._is_known():
            return self.answer(401, b"who are you?", {"WWW-Authenticate": 'Basic realm="x"'})
        if path not in self.server.files and not self.server.tricks[path]:
            return self.answer(404, b"no")
        content = self.server.files.get(path, b"")
        first, last = self._range(len(content))
        if self.server.tricks[path]:
            return self.server.tricks[path].pop(0)(self, content, first, last)
        return self.serve(content, first, last)

    def serve(self, content: bytes, first: int, last: int, **changes: str):
        if "Range" in self.headers and first >= len(content):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers = {"ETag": self.tag()}
        wanted = self.headers.get("If-Match")
        if wanted and wanted != self.tag():
            return self.answer(412, b"")
        status = 200
        if "Range" in self.headers:
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last - 1}/{len(content)}"
        return self.answer(status, content[first:last], headers | changes)

    def tag(self) -> str:
        return self.server.tags.get(self.path.lstrip("/"), '"1"')

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, send: int | None = None):
        """`send`: so many bytes of the body, and then the connection is cut."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if send is None else body[:send])
        if send is not None:
            self.close_connection = True

    def _is_known(self) -> bool:
        token = base64.b64encode(":".join(self.server.login).encode()).decode()
        agent = self.headers.get("User-Agent", "")
        return self.headers.get("Authorization") == f"Basic {token}" and agent.startswith(("Wget/", "libwfdb/"))

    def _range(self, size: int) -> tuple[int, int]:
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes="):
            return 0, size
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1 if last else size, size)


def cut(after: int) -> Trick:
    """Promise everything, send `after` bytes, hang up."""

    def trick(handler: Handler, content: bytes, first: int, last: int):
        headers = {"ETag": handler.tag(), "Content-Range": f"bytes {first}-{last - 1}/{len(content)}"}
        status = 206 if "Range" in handler.headers else 200
        handler.answer(status, content[first:last], headers, send=after)

    return trick


def status(code: int, **headers: str) -> Trick:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, *_: handler.answer(code, b"busy", names)


def whole(handler: Handler, content: bytes, first: int, last: int):
    """Ignore Range."""
    handler.answer(200, content, {"ETag": handler.tag()})


def lie_about_range(handler: Handler, content: bytes, first: int, last: int):
    headers = {"ETag": handler.tag(), "Content-Range": f"bytes {first + 1}-{last}/{len(content)}"}
    handler.answer(206, content[first:last], headers)


def garbage(handler: Handler, content: bytes, first: int, last: int):
    handler.serve(bytes(len(content)), first, last)


def redirect(url: str) -> Trick:
    return status(302, Location=url)


def page(handler: Handler, *_):
    handler.answer(200, b"<html>log in</html>", {"Content-Type": "text/html; charset=utf-8"})

"""A small Hugging Face hub on this machine: what huggingface_hub asks of a file, with ranges, and cuts if wanted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class FakeHub:
    """Files by repository and name, and what was asked for.

    Attributes:
        files: Their bytes, by `owner/name/file`.
        cut_after: Bytes of an answer after which the connection breaks; None never breaks it.
        claimed: Hash that the hub claims of its files; empty for the right one.
        asked: Method, path and range of every request.
        url: Of the server.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    claimed: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    """Serve a hub on a free port of this machine while the block runs."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            wanted = self.headers.get("Range", "")
            hub.asked.append((self.command, self.path, wanted))
            match = _RESOLVE.fullmatch(self.path)
            content = hub.files.get(f"{match['repository']}/{match['file']}") if match else None
            if content is None or match is None or match["revision"] not in ("main", COMMIT):
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            part = content[first:]
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", f'"{hub.claimed or hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if not body:
                return
            cut = hub.cut_after is not None and hub.cut_after < len(part)
            self.wfile.write(part[: hub.cut_after] if cut else part)
            self.wfile.flush()
            if cut:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

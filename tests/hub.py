"""A small hub on this machine: what `huggingface_hub` asks of huggingface.co, answered from a table of files."""

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "5" * 40


class Hub(ThreadingHTTPServer):
    """Serves `{"owner/name/file": path}` and remembers what was asked for."""

    daemon_threads = True

    def __init__(self, shelf: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.shelf = shelf
        self.asked: list[str] = []
        self.cuts = False
        """Whether every file breaks off in the middle."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _answer(self, *, with_content: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        asked = re.fullmatch(r"/(.+)/resolve/[^/]+/(.+)", self.path)
        path = self.server.shelf.get(f"{asked[1]}/{asked[2]}") if asked else None
        if path is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content[: len(content) // 2] if self.server.cuts else content)


@contextmanager
def running_hub(shelf: Mapping[str, Path]) -> Iterator[Hub]:
    """Serve until the end of the block."""
    with Hub(shelf) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()

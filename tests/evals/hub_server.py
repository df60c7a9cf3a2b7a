"""A hub on this machine: as much of huggingface.co's protocol as its client asks for to fetch a data set."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from evals.data.files import files_below
from tests.json_server import JsonHandler

SHA = "0123456789" * 4


@dataclass
class Hub:
    """A server of one repository's files, and what was asked of it."""

    repo: str
    folder: Path
    licence: str = "mit"
    gated: bool = False  # nobody has accepted its terms
    breaks_after: int | None = None  # bytes of a file, after which each connection ends
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, file, Range
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def files(self) -> dict[str, Path]:
        found = files_below(self.folder)
        return {path.relative_to(self.folder).as_posix(): path for path in found}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub, as long as the context lasts."""

    class Handler(JsonHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith(f"/api/datasets/{hub.repo}/tree/"):
                entries = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": etag(file)}
                    for name, file in hub.files().items()
                ]
                self.answer(entries)  # type: ignore[arg-type]
            elif path.startswith(f"/api/datasets/{hub.repo}"):
                siblings = [{"rfilename": name, "size": file.stat().st_size} for name, file in hub.files().items()]
                about = {"id": hub.repo, "sha": SHA, "private": False, "downloads": 0, "likes": 0, "tags": []}
                gated = "auto" if hub.gated else False
                card = {"license": hub.licence}
                self.answer({**about, "gated": gated, "cardData": card, "siblings": siblings})
            else:
                self.send_file(path)

        do_HEAD = do_GET

        def send_file(self, path: str) -> None:
            name = path.removeprefix(f"/datasets/{hub.repo}/resolve/").partition("/")[2]
            hub.asked.append((self.command, name, self.headers.get("Range")))
            file = hub.files().get(name)
            if file is None or hub.gated:
                self.send_response(403 if hub.gated else 404)
                self.send_header("X-Error-Code", "GatedRepo" if hub.gated else "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content, begin = file.read_bytes(), 0
            if asked := self.headers.get("Range"):
                begin = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            for header, value in (("ETag", f'"{etag(file)}"'), ("X-Repo-Commit", SHA), ("Accept-Ranges", "bytes")):
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            if self.command == "GET":
                end = None if hub.breaks_after is None else begin + hub.breaks_after
                self.wfile.write(content[begin:end])
                if end is not None and end < len(content):
                    self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def etag(file: Path) -> str:
    """As of a large file; that of a small one is shorter."""
    return hashlib.sha256(file.read_bytes()).hexdigest()

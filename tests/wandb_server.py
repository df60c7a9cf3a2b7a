"""A W&B server on this machine: as much of it as a run needs to go online, to be resumed and to be synced."""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from tests.json_server import JsonHandler


class Server:
    """Answers as W&B does; once `status` is set, with that to everything, and with "hang" not at all."""

    def __init__(self, status: int | str | None = None) -> None:
        self.status = status
        self.runs: dict[str, dict[str, Any]] = {}  # by id: as they were announced
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.streams: set[str] = set()  # runs that are online
        self.over = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"kept": self}))
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hung up is no news
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def steps(self, run: str) -> list[int]:
        """The steps of a run's curve as it would be shown."""
        return [line["_step"] for line in self.history.get(run, [])]

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def graphql(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The answer to a query or mutation of this name."""
        run, owner = asked.get("name"), {"id": "1", "name": "project", "entity": {"id": "1", "name": "entity"}}
        known = self.history.get(str(run))
        if name == "UpsertBucket":
            new = run not in self.runs
            told = {key: value for key, value in asked.items() if value is not None}
            self.runs[str(run)] = self.runs.get(str(run), {}) | told
            bucket = {"id": "1", "name": run, "displayName": asked.get("displayName"), "config": "{}", "project": owner}
            return {"upsertBucket": {"bucket": bucket | {"historyLineCount": len(known or [])}, "inserted": new}}
        if name == "RunResumeStatus":
            tail = {"historyTail": json.dumps([json.dumps(known[-1])]), "eventsTail": "[]"} if known else {}
            counts = {"historyLineCount": len(known or []), "eventsLineCount": 0, "logLineCount": 0}
            texts = dict.fromkeys(("config", "summaryMetrics", "wandbConfig"), "{}")
            return {"model": owner | {"bucket": {"name": run, "tags": []} | tail | counts | texts if known else None}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/put/{file}"} for file in asked["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        return {"viewer": {"id": "1", "entity": "entity", "flags": "{}"}, "serverInfo": {"features": []}}


class Handler(JsonHandler):
    kept: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.kept.status == "hang":
            self.kept.over.wait(20)
            return
        if self.kept.status is not None:
            self.answer({"errors": [{"message": "no"}]}, int(self.kept.status))
            return
        if self.path.startswith("/put/"):
            self.answer({})
            return
        asked = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body or "{}")
        if self.path == "/graphql":
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            self.answer({"data": self.kept.graphql(name[1] if name else "", asked.get("variables") or {})})
            return
        run = self.path.split("/")[-2]
        self.kept.streams.add(run)
        sent = (asked.get("files") or {}).get("wandb-history.jsonl")
        if sent is not None:  # from this line on, what was there is replaced
            lines = self.kept.history.setdefault(run, [])
            lines[sent["offset"] :] = map(json.loads, sent["content"])
        self.answer({"exitcode": None, "limits": {}})

    do_PUT = do_GET = do_POST

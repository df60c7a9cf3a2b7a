"""A W&B server on this machine: as much of it as a run with tables and pictures needs to go online, to be resumed and
to be synced, and as a report needs to be made."""

from __future__ import annotations

import gzip
import json
import re
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from tests.json_server import JsonHandler

ID = "MQ=="  # of an artifact, as base64


class Server:
    """Answers as W&B does; once `status` is set, with that to everything, and with "hang" not at all."""

    def __init__(self, status: int | str | None = None) -> None:
        self.status = status
        self.runs: dict[str, dict[str, Any]] = {}  # by id: as they were announced
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.streams: set[str] = set()  # runs that are online
        self.files: dict[str, bytes] = {}  # what was uploaded, by the last part of its name
        self.views: dict[str, dict[str, Any]] = {}  # reports by id
        self.refused: set[str] = set()  # names of queries and mutations that are answered with an error
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
        return self._artifact(name, asked) or self._report(name, asked) or self._viewer()

    def _viewer(self) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": "entity", "flags": "{}"}, "serverInfo": {"features": []}}

    def _artifact(self, name: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """What keeps a table."""

        def file(name: str) -> dict[str, Any]:
            about = {"id": ID, "name": name, "displayName": name, "storagePath": name, "uploadMultipartUrls": None}
            return about | {"uploadUrl": f"{self.url}/put/{name}", "uploadHeaders": [], "artifact": {"id": ID}}

        manifest = {"artifactManifest": {"id": ID, "file": file("manifest.json")}}
        kept = {"id": ID, "file": {"directUrl": f"{self.url}/file/manifest.json"}}
        made = {"id": ID, "state": "PENDING", "artifactSequence": {"id": ID, "latestArtifact": None}}
        edges = [{"node": file(one["name"])} for one in asked.get("artifactFiles") or ()]
        fields = ("entityName", "projectName", "runName", "artifactTypeName", "artifactCollectionName", "digest")
        fields += ("digestAlgorithm", "aliases", "historyStep", "clientID", "sequenceClientID")
        return {
            "InputFields": {"TypeInfo": {"inputFields": [{"name": field} for field in fields]}},
            "ArtifactType": {"project": {"artifact": None}},
            "CreateArtifact": {"createArtifact": {"artifact": made}},
            "CreateArtifactManifest": {"createArtifactManifest": manifest},
            "UpdateArtifactManifest": {"updateArtifactManifest": manifest},
            "CreateArtifactFiles": {"createArtifactFiles": {"files": {"edges": edges}}},
            "CommitArtifact": {"commitArtifact": {"artifact": {"id": ID, "digest": ID}}},
            "ArtifactByID": {"artifact": self._committed()},
            "FetchArtifactManifest": {"artifact": {"currentManifest": kept}},
        }.get(name)

    def _committed(self) -> dict[str, Any]:
        owner = {"__typename": "Project", "id": ID, "name": "project", "entity": {"id": ID, "name": "entity"}}
        kept = {"__typename": "ArtifactSequence", "id": ID, "name": "table", "project": owner}
        nothing = dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt"))
        numbers = {"versionIndex": 0, "ttlDurationSeconds": -2, "ttlIsInherited": True, "size": 1, "fileCount": 1}
        about = {"__typename": "Artifact", "id": ID, "state": "COMMITTED", "digest": ID, "tags": [], "aliases": []}
        about |= {"artifactType": {"name": "run_table"}, "createdAt": "2026-01-01T00:00:00"}
        return about | nothing | numbers | {"artifactSequence": kept}

    def _report(self, name: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """What a report needs: which runs and reports there are, and to be kept."""
        if name == "Runs":
            wanted = json.loads(asked["filters"])["name"]["$in"]
            edges = [{"node": {"name": run}} for run in self.runs if run in wanted]
            return {"project": {"runs": {"edges": edges}}}
        if name == "ProjectViews":
            found = [view for view in self.views.values() if view["name"] == asked["viewName"]]
            return {"project": {"allViews": {"edges": [{"node": view} for view in found]}}}
        if name == "upsertView":
            view = asked["id"] or f"View{len(self.views)}=="
            self.views[view] = asked | {"id": view}
            return {"upsertView": {"view": self.views[view], "inserted": asked["id"] is None}}
        return None


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
            self.kept.files[self.path.rpartition("/")[2]] = body
            self.answer({})
            return
        asked = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body or "{}")
        if self.path == "/graphql":
            found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            name = found[1] if found else ""
            if name in self.kept.refused:
                self.answer({"errors": [{"message": f"no {name}"}]}, 500)
            else:
                self.answer({"data": self.kept.graphql(name, asked.get("variables") or {})})
            return
        run = self.path.split("/")[-2]
        self.kept.streams.add(run)
        sent = (asked.get("files") or {}).get("wandb-history.jsonl")
        if sent is not None:  # from this line on, what was there is replaced
            lines = self.kept.history.setdefault(run, [])
            lines[sent["offset"] :] = map(json.loads, sent["content"])
        self.answer({"exitcode": None, "limits": {}})

    def do_GET(self) -> None:
        self.answer(json.loads(self.kept.files[self.path.rpartition("/")[2]]))

    do_PUT = do_POST


def forget_surroundings() -> None:
    """W&B reads its variables at a process's first run, and keeps them, and the server: they are read again."""
    if sys.modules.get("wandb") is not None:
        sys.modules["wandb"].teardown()

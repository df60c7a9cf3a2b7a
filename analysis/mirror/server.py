"""A W&B server, asked for the little that a report needs beside its runs. Every trouble is one line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from videonsa.wandb_rules import project_name, tidied_wandb

SECONDS = 20  # that one answer may take
RETRIES = 2  # of a question that met an error which may pass
AT_ONCE = 100  # runs that one query asks for

WHO = "query Viewer { viewer { id entity username } }"
RUNS = """
query Runs($entity: String!, $project: String!, $filters: JSONString, $perPage: Int) {
    project(name: $project, entityName: $entity) {
        runs(filters: $filters, first: $perPage) { edges { node { name } } }
    }
}"""
VIEWS = """
query ProjectViews($entity: String!, $project: String!, $viewName: String) {
    project(name: $project, entityName: $entity) {
        allViews(viewType: "runs", viewName: $viewName, first: 1) { edges { node { id name } } }
    }
}"""
UPSERT = """
mutation upsertView($id: ID, $entityName: String, $projectName: String, $type: String, $name: String,
        $displayName: String, $description: String, $spec: String!) {
    upsertView(input: {id: $id, entityName: $entityName, projectName: $projectName, name: $name, type: $type,
            displayName: $displayName, description: $description, spec: $spec, createdUsing: WANDB_SDK}) {
        view { id name }
        inserted
    }
}"""


class ServerError(Exception):
    """The server did not do what it was asked. The message is one line."""


class Server:
    """The project that the environment names, at the server that it names, with the key that it holds."""

    def __init__(self) -> None:
        """Raises ServerError where nobody answers, or not to this key."""
        wandb, said = tidied_wandb()
        self.said = [f"{what}; {then}" for what, then in said]
        wandb.setup(wandb.Settings(silent=True))
        from wandb.sdk.internal.internal_api import Api

        self._api = type("OfSeconds", (Api,), {"HTTP_TIMEOUT": SECONDS})()
        self.url = self._api.api_url
        viewer = (self.ask(WHO).get("viewer")) or {}
        self.entity = os.environ.get("WANDB_ENTITY") or viewer.get("entity") or viewer.get("username")
        if not self.entity:
            raise ServerError(f"W&B at {self.url} knows nobody by this key; WANDB_API_KEY holds yours")
        self.project = project_name()

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of the answer. Raises ServerError."""
        from wandb_gql import gql

        try:
            return self._api.gql(gql(query), variable_values=variables, num_retries=RETRIES) or {}
        except Exception as error:
            raise ServerError(f"W&B at {self.url} {_trouble(error)}") from None

    def known(self, runs: Iterable[str]) -> set[str]:
        """Which of these runs are in the project. Raises ServerError."""
        asked, found = sorted(runs), set[str]()
        for first in range(0, len(asked), AT_ONCE):
            filters = json.dumps({"name": {"$in": asked[first : first + AT_ONCE]}})
            project = self._of_project(RUNS, filters=filters, perPage=AT_ONCE)
            edges = (project.get("runs") or {}).get("edges") or []
            found |= {edge["node"]["name"] for edge in edges}
        return found & set(asked)

    def put_report(self, report: Mapping[str, Any]) -> str:
        """Make the report, or put it in the place of the one of its name; returns its address. Raises ServerError."""
        edges = (self._of_project(VIEWS, viewName=report["name"]).get("allViews") or {}).get("edges") or []
        there = [edge["node"]["id"] for edge in edges if edge["node"]["name"] == report["name"]]
        view = self.ask(
            UPSERT,
            id=there[0] if there else None,
            entityName=self.entity,
            projectName=self.project,
            type="runs",
            name=report["name"],
            displayName=report["title"],
            description=report["description"],
            spec=json.dumps(report["spec"]),
        )["upsertView"]["view"]
        return self._address(report["title"], view["id"])

    def _of_project(self, query: str, **variables: Any) -> dict[str, Any]:
        return self.ask(query, entity=self.entity, project=self.project, **variables).get("project") or {}

    def _address(self, title: str, view: str) -> str:
        from wandb.util import app_url

        place = "/".join(quote(name, safe="") for name in (str(self.entity), self.project))
        return f"{app_url(self.url)}/{place}/reports/{quote(title.replace(' ', '-'), safe='')}--{view.replace('=', '')}"


def _trouble(error: Exception) -> str:
    """What a question met, and what helps, in a few words."""
    from requests import ConnectionError, HTTPError, Timeout
    from requests.exceptions import SSLError

    if isinstance(error, Timeout):
        return f"gave no answer within {SECONDS} seconds"
    if isinstance(error, ConnectionError) and not isinstance(error, SSLError):
        return "cannot be reached from here; WANDB_MODE=offline asks no server"
    code = error.response.status_code if isinstance(error, HTTPError) and error.response is not None else None
    if code in (401, 403):
        return f"does not take this key ({code}); WANDB_API_KEY holds yours"
    cause = str(error) or type(error).__name__
    return f"is in trouble: {type(error).__name__}: {' '.join(cause.split())[:200]}"

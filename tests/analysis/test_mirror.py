"""Each cell's run at W&B: what it shows, and that it fails no cell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.mirror.cell import mirror
from tests.wandb_server import Server, forget_surroundings
from videonsa import tracking

RECORD = {
    "id": "0123456789ab",
    "status": "done",
    "settings": {"suite": {"name": "synth_needle"}, "nsa": {"window": 8}},
    "identities": {"cell": "0123456789ab"},
    "scores": {"accuracy": 0.5, "metric": "exact_match"},
    "summary": {"prefill_ms_p50": 5.0},
}
LABEL = "5 $_|</#?%: 注意 " + "x" * 300


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    forget_surroundings()
    online = Server()
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", online.url)
    monkeypatch.setattr(tracking, "SERVICE", tracking.Service())
    yield online
    forget_surroundings()  # else the next test's runs ask this server, half a minute each
    online.close()


def test_a_cell_is_shown_with_its_numbers_whatever_its_names_are(server, tmp_path, capsys):
    mirror(RECORD, tmp_path, LABEL, LABEL)
    assert capsys.readouterr().err == ""
    ((name, run),) = server.runs.items()
    assert name == "0123456789ab-done"
    assert run["displayName"].startswith("5 $_|</#?%: 注意 xxx")
    assert run["groupName"].startswith("5 $_|</#?%: 注意 xxx")
    assert run["tags"] == ["synth_needle", "done"]
    (line,) = server.history[name]
    assert (line["accuracy"], line["prefill_ms_p50"]) == (0.5, 5.0)


@pytest.mark.long
def test_a_server_that_refuses_the_key_costs_one_line(server, tmp_path, capsys):
    server.status = 401
    failed = RECORD | {"status": "failed", "error": {"message": "a\nb"}, "scores": {}, "summary": None}
    for record in (RECORD, failed, RECORD | {"id": "ba9876543210"}):
        mirror(record, tmp_path, "sweep", "b=4 w=8")
    said = capsys.readouterr().err
    assert said.startswith("W&B: b=4 w=8 · synth_needle: CommError")
    assert said.count("\n") == 1
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 3

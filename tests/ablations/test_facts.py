"""What lies outside of the settings: data, revisions, device, and what a plan keeps of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablations.cell import Cell, make_cells
from ablations.facts import Facts, facts_now, facts_of_plan, keep_files, minor, pin_revisions, read_revisions
from ablations.grid import load_grid
from ablations.plan import Sweep, write_plan
from ablations.profile import load_profile
from ablations.reasons import changes
from slurm.executor import local_device


def cells(
    tmp_path: Path, facts: Facts | None = None, text: str = "suites: [synth_order]", **settings: object
) -> list[Cell]:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    asked = {key.replace("__", "."): value for key, value in settings.items()}
    return make_cells(load_grid(str(path), "tiny", asked), load_profile("tiny"), facts)


def data(folder: Path, answer: str, video: bytes = b"v") -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "one.mp4").write_bytes(video)
    turns = [{"from": "human", "value": "A or B?"}, {"from": "gpt", "value": answer}]
    (folder / "data.jsonl").write_text(json.dumps({"video": "one.mp4", "conversations": turns}) + "\n")
    return {"train__data": str(folder / "data.jsonl"), "train__video_folder": str(folder)}


def test_training_data_count_by_content_not_by_place(tmp_path: Path):
    one, same, answer, video = (
        cells(tmp_path, **data(tmp_path / name, *given))[0].training.id
        for name, given in (("a", ("A",)), ("b", ("A",)), ("c", ("B",)), ("d", ("A", b"longer")))
    )
    assert one == same
    assert len({one, answer, video}) == 3


def test_a_large_file_is_read_once_and_not_by_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = data(tmp_path / "a", "A")
    usual = cells(tmp_path, facts_now("cpu"), **given)[0].training.inputs["data"]
    monkeypatch.setattr("ablations.facts.WHOLE", 10)

    def found(reads_whole: bool) -> dict[str, str | None]:
        facts = facts_now("cpu", tmp_path, reads_whole=reads_whole)
        inputs = cells(tmp_path, facts, **given)[0].training.inputs["data"]
        keep_files(facts, tmp_path)
        return inputs

    assert found(False) == {"file": None, "videos": None}
    assert found(True) == found(False) == usual  # now it is known
    data(tmp_path / "a", "B B")
    assert found(False)["file"] is None
    assert found(True)["file"] != usual["file"]


def test_the_device_and_versions_count_and_a_plan_keeps_them(tmp_path: Path):
    usual = facts_now("cpu")
    (here,) = cells(tmp_path, usual)
    (there,) = cells(tmp_path, facts_now("cuda"))
    assert set(changes(here.inputs, there.inputs).values()) >= {"device cpu -> cuda", "dtype float32 -> bfloat16"}
    other = Facts({**usual.versions, "transformers": "5.1"}, "cpu")
    assert list(changes(cells(tmp_path, other)[0].inputs, here.inputs)) == ["versions.transformers"]
    sweep = Sweep(load_grid("smoke", "tiny"), load_profile("tiny"), tmp_path, "x", (there,))
    write_plan(sweep)
    planned = facts_of_plan(sweep.folder)
    assert planned is not None
    assert cells(tmp_path, planned)[0].id == there.id


def test_a_record_of_inputs_names_no_place(tmp_path: Path):
    (cell,) = cells(tmp_path, **data(tmp_path / "a", "A"))
    text = json.dumps(cell.inputs)
    assert str(tmp_path) not in text
    assert json.loads(text) == cell.inputs


def test_a_hub_name_is_pinned_when_it_is_first_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refs = tmp_path / "hub" / "models--org--model" / "refs"
    text = "suites: [synth_order]\nbase: {nsa.attention: dense, checkpoint: org/model}"

    def inputs() -> dict:
        facts = facts_now(out=tmp_path)
        (cell,) = cells(tmp_path, facts, text)
        found = cell.inputs["weights"]
        pin_revisions(facts, tmp_path)
        return found

    assert inputs() == {"hub": "org/model", "revision": None}
    assert read_revisions(tmp_path) == {}
    refs.mkdir(parents=True)
    (refs / "main").write_text("1a2b")
    assert inputs() == {"hub": "org/model", "revision": "1a2b"}
    (refs / "main").write_text("3c4d")  # fetched anew: this folder's sweeps stay with what they began with
    assert inputs() == {"hub": "org/model", "revision": "1a2b"}
    facts = facts_now(out=tmp_path)
    assert facts.location("org/model") == "org/model@1a2b"
    assert facts.location("org/model@9") == "org/model@9"


@pytest.mark.parametrize(("visible", "device"), [("", "cpu"), ("-1", "cpu"), ("0", "cuda"), ("GPU-1a2b", "cuda")])
def test_this_machines_device(visible: str, device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("slurm.machine.metadata.version", lambda name: "2.13.0")
    assert local_device() == device
    monkeypatch.setattr("slurm.machine.metadata.version", lambda name: "2.13.0+cpu")
    assert local_device() == "cpu"


def test_minor_versions():
    versions = ("2.13.0+cpu", "5.23.1", "5.24.0.dev0", None)
    assert [minor(version) for version in versions] == ["2.13", "5.23", "5.24", None]

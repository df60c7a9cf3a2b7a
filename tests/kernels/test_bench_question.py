"""The benchmark of a whole question, without a card: what it compares are the same weights; it says what it needs."""

from __future__ import annotations

import csv

import pytest
import torch

from tests.helpers import relative_error
from tests.modeling.conftest import STOCK, sample
from videonsa.bench import question
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration
from videonsa.modeling.vision import speed_up_vision


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = VideoNSAForConditionalGeneration(VideoNSAConfig(**STOCK)).eval().requires_grad_(False)
    speed_up_vision(model)
    return model


def test_stock_holds_the_same_weights_and_gives_the_same_logits(model):
    stock = question.stock_of(model)
    assert type(stock.model.visual).__module__.startswith("transformers")
    embeddings = model.get_input_embeddings().weight
    assert stock.get_input_embeddings().weight.data_ptr() == embeddings.data_ptr()
    inputs = sample(("text", 3), ("video", (2, 6, 10)), ("text", 5))
    positions, _ = model.model.get_rope_index(**inputs)
    model.set_nsa(attention="dense")
    expected = stock(**inputs, position_ids=positions).logits
    assert relative_error(model(**inputs).logits, expected) < 1e-5
    model.set_nsa(attention="nsa")


@pytest.fixture
def on_cpu(monkeypatch):
    """Of the device only its clock and its meter of memory are missing."""
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**30)


def test_a_question_has_its_times(model, on_cpu):
    inputs = sample(("text", 3), ("video", (2, 6, 10)), ("text", 5))
    found = question.ask(model, inputs, 4)
    assert 0 < found["tower_s"] < found["first_token_s"]
    assert found["decode_ms"] > 0
    assert found["peak_gib"] == 1


def test_rows_come_one_by_one_and_a_failure_costs_its_own(model, on_cpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    about = {"gpu": "X", "torch": "1", "triton": "1", "commit": "c"}
    monkeypatch.setattr(question.command, "software", lambda commit: about)
    monkeypatch.setattr(question, "build", lambda *layers: model)
    monkeypatch.setattr(question, "check", lambda ours, stock: None)
    monkeypatch.setattr(question, "prompt", lambda frames: sample(("text", 3), ("video", frames.count), ("text", 5)))
    ask = question.ask

    def fails_once(asked, inputs, answer):
        if asked is model and inputs["input_ids"].shape[1] > 30:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return ask(asked, inputs, answer)

    monkeypatch.setattr(question, "ask", fails_once)
    out = tmp_path / "question.csv"
    given = ["--tokens", "8", "24", "--frames", "4x4", "--answer", "3", "--out", str(out)]
    assert question.main([*given, "--attention", "nsa", "stock"]) == 1
    assert "nsa 24 4x4: CUDA out of memory." in capsys.readouterr().err
    rows = list(csv.DictReader(out.open()))
    assert [(row["attention"], row["tokens"], row["patch_columns"]) for row in rows] == [
        ("nsa", "8", "4"), ("stock", "8", "4"), ("stock", "24", "4"),
    ]  # fmt: skip
    assert {"gpu", "tower_s", "first_token_s", "decode_ms", "peak_gib", "patch_rows"} <= set(rows[0])


def test_frames_are_read_as_rows_and_columns(capsys):
    assert question.parse(["--frames", "12x20"]).frames == [(12, 20)]
    with pytest.raises(SystemExit):
        question.parse(["--frames", "3x4"])
    assert "even numbers of patches" in capsys.readouterr().err

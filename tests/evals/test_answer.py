"""Greedy is greedy, whatever a checkpoint's generation settings say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from evals.answer import answer
from evals.checkpoint import Checkpoint, load
from evals.question import Sampling, prepare

CONTENT = [{"type": "text", "text": "red blue green red blue what comes first"}]
LENGTH = 12


def says(checkpoint: Checkpoint) -> str:
    question = prepare(checkpoint.processor, [{"role": "user", "content": CONTENT}], Sampling(8, None, 4))
    return answer(checkpoint, question, LENGTH).text


def changed(folder: Path, place: Path, settings: dict) -> Checkpoint:
    """The checkpoint with these settings in its generation_config.json."""
    shutil.copytree(folder, place)
    file = place / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return load(place, device="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 5.0, "do_sample": True, "temperature": 9.0, "top_k": 50},
        {"no_repeat_ngram_size": 1, "min_new_tokens": 8, "num_beams": 3, "length_penalty": -3.0},
        {"forced_eos_token_id": 5, "max_length": 3, "renormalize_logits": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_generation_settings_of_a_checkpoint_do_not_act(
    loaded: Checkpoint, folder: Path, tmp_path: Path, settings: dict
) -> None:
    assert says(changed(folder, tmp_path / "changed", settings)) == says(loaded)


def test_bans_of_a_checkpoint_do_not_act(loaded: Checkpoint, folder: Path, tmp_path: Path) -> None:
    first = loaded.processor.tokenizer(says(loaded), add_special_tokens=False)["input_ids"][0]
    bans = {"suppress_tokens": [first], "begin_suppress_tokens": [first], "bad_words_ids": [[first]]}
    assert says(changed(folder, tmp_path / "changed", bans)) == says(loaded)


def test_end_of_text_tokens_are_the_checkpoints(loaded: Checkpoint, folder: Path, tmp_path: Path) -> None:
    tokens = loaded.processor.tokenizer(says(loaded), add_special_tokens=False)["input_ids"]
    stops = changed(folder, tmp_path / "stops", {"eos_token_id": [tokens[0]]})
    assert len(says(stops)) < len(says(loaded))
    assert stops.identity != loaded.identity

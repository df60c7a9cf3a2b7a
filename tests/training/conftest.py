"""Settings of runs that take a second, and a small data set of real mp4 files."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from videonsa.config import NSASettings, TrainSettings
from videonsa.small import SMALL
from videonsa.synth import make_sample, prompt_text
from videonsa.tiny import build_processor, build_tiny, small_config
from videonsa.training.run import train

TOOK = ("seconds", "step_s", "data_s", "tokens_per_s", "peak_gib")  # of a line of metrics
NSA = NSASettings(block_size=4, block_count=2, window=6)


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(scope="session")
def processor():
    return build_processor()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A tiny model as transformers saves it, untrained."""
    folder = tmp_path_factory.mktemp("tiny")
    model, processor = build_tiny(NSA, seed=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_stock(folder: Path, tied: bool) -> Qwen2_5_VLForConditionalGeneration:
    """Stock weights as the hub has 3B, whose output layer is the embeddings, and 7B: bfloat16, in several files."""
    processor = build_processor()
    written = small_config(SMALL["tiny"], NSA, processor.tokenizer).to_dict()
    parts = {key: written[key] for key in written if key.endswith(("text_config", "vision_config", "token_id"))}
    parts["text_config"]["tie_word_embeddings"] = tied
    stock = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**parts, tie_word_embeddings=tied)).bfloat16()
    stock.save_pretrained(folder, max_shard_size="200KB")
    processor.save_pretrained(folder)
    return stock


def quick(**changes) -> TrainSettings:
    """A run of 6 steps on videos of 4 and 8 frames."""
    settings = {
        "model": "tiny",
        "nsa": NSA,
        "frames": (4, 8),
        "steps": 6,
        "batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "activation_checkpointing": False,
        "save_every": 2,
    }
    return TrainSettings(**{**settings, **changes})


def metrics(folder: Path) -> list[dict]:
    """The lines of a run, without the time and the memory that they took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TOOK} for line in lines]


@pytest.fixture(scope="session")
def video_data(tmp_path_factory) -> Path:
    """A folder with data.jsonl and three mp4 files of 24 frames at 12 a second, one of them cut off."""
    folder = tmp_path_factory.mktemp("videos")
    entries = []
    for index in range(3):
        sample = make_sample("layout", split="train", seed=0, index=index, frames=24)
        with av.open(str(folder / f"{index}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=12)
            stream.height, stream.width, stream.pix_fmt = 56, 56, "yuv420p"
            for frame in sample.frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        talk = [
            ("human", f"<image>\n{prompt_text(sample)}"),
            ("gpt", sample.answer),
            ("human", "how many"),
            ("gpt", "one"),
        ]
        conversations = [{"from": role, "value": text} for role, text in talk]
        entries.append({"id": str(index), "video": f"{index}.mp4", "conversations": conversations})
    broken = folder / "2.mp4"
    broken.write_bytes(broken.read_bytes()[:200])
    (folder / "data.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    """A run from start to end."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        train(quick(), folder, on_progress=lambda done, total: None)
    return folder

"""From a lossless mp4 to logits: our chain against transformers 4.57.1, in an environment made for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from evals.question import SMALLEST, Sampling, prepare
from evals.video import read_video
from tests.helpers import relative_error
from videonsa.modeling import load_model
from videonsa.tiny import TOKEN, build_processor

HERE = Path(__file__).parent
VERSION = "4.57.1"
TOKENS = 12  # a patch


@pytest.fixture(scope="module")
def old_python(tmp_path_factory) -> Path:
    """A Python with that version. It borrows torch and torchvision from this environment, the rest is its own."""
    folder = tmp_path_factory.mktemp("stock")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"transformers=={VERSION}"], check=True)
    packages = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    ours = Path(sysconfig.get_paths()["purelib"])
    (packages / "zz_borrowed.pth").write_text(f"{ours}\n{HERE.parents[1]}\n")
    shutil.copy(HERE.parents[1] / "videonsa" / "videonsa_torchvision.pth", packages / "zzz_torchvision.pth")
    return python


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """6 seconds of 16:9, 10 frames a second, kept bit for bit."""
    path = tmp_path_factory.mktemp("video") / "lossless.mp4"
    drawn = np.random.default_rng(0)
    height, width, time = np.ogrid[:100, :178, :60]
    waves = 128 + 60 * np.sin(height / 9 + time / 7) + 60 * np.cos(width / 11 - time / 5)
    frames = np.stack([np.roll(waves, 30 * channel, axis=1) for channel in range(3)], axis=-1)
    frames = (frames + drawn.normal(0, 4, frames.shape)).clip(0, 255).astype(np.uint8).transpose(2, 0, 1, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=Fraction(10), options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 178, 100, "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    read, _ = read_video(path, frames=None, fps=None)
    assert np.array_equal(read, frames), "the codec has changed the frames"
    return path


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("frames", "seconds"), [(4, 3.0), (8, 1.5), (24, 0.5)])
def test_the_chain_computes_what_transformers_4_does(old_python, video, frames, seconds, tmp_path):
    """Its whole seconds too: the checkpoint is its own."""
    processor = build_processor()
    token = processor.tokenizer.convert_tokens_to_ids
    config = json.loads((HERE / "golden/stock_checkpoint/config.json").read_text())
    for name, word in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
    ):
        config[name] = token(word)
    config["text_config"]["vocab_size"] = len(processor.tokenizer)
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor.tokenizer.save_pretrained(tmp_path)

    content = [{"type": "video", "url": str(video)}, {"type": "text", "text": "which colour moves first ?"}]
    messages = [{"role": "user", "content": content}]
    ours = prepare(processor, messages, Sampling(frames, None, TOKENS)).inputs
    assert [float(each) for each in ours["second_per_grid_ts"]] == [seconds]

    decoded, about = read_video(video, frames=frames, fps=None)
    shown = [{"role": "user", "content": [{"type": "video"}, content[1]]}]
    text = processor.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
    size = [SMALLEST * TOKEN**2, TOKENS * TOKEN**2]
    np.savez(tmp_path / "inputs.npz", text=text, frames=decoded, fps=about.sampled_fps, size=size)
    arguments = [HERE / "stock.py", tmp_path, tmp_path / "inputs.npz", tmp_path / "outputs.npz"]
    done = subprocess.run([old_python, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    stock = np.load(tmp_path / "outputs.npz")

    assert stock["transformers"] == VERSION
    for name in ("input_ids", "video_grid_thw", "second_per_grid_ts"):
        assert np.array_equal(np.asarray(ours[name]), stock[name]), name
    assert np.abs(ours["pixel_values_videos"].numpy() - stock["pixel_values_videos"]).max() < 1e-5
    model = load_model(tmp_path, nsa={"attention": "dense"}, dtype=torch.float32)
    positions, _ = model.model.get_rope_index(**ours)
    assert positions.tolist() == stock["position_ids"].tolist()
    expected = torch.from_numpy(stock["logits"])
    with torch.no_grad():
        assert relative_error(model(**ours).logits[:, -expected.shape[1] :], expected) < 1e-3
    new = stock["generated"].shape[1]
    out = model.generate(
        **ours, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=1
    )
    assert out[:, -new:].tolist() == stock["generated"].tolist()

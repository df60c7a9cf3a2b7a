"""The model as lmms-eval sees it: its arguments, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from lmms_eval.models import get_model, get_model_manifest

from evals.answer import answer
from evals.arguments import read_arguments
from evals.checkpoint import Checkpoint, from_memory
from evals.model import VideoNSA
from evals.question import Sampling, prepare
from evals.run import load_task
from evals.suites import suite_settings
from videonsa.config import NSASettings, SettingsError


def build(text: str) -> VideoNSA:
    return VideoNSA(**read_arguments(text))


def test_lmms_eval_finds_the_model() -> None:
    assert get_model_manifest("videonsa").chat_class_path == "evals.model.VideoNSA"
    assert get_model("videonsa") is VideoNSA


def test_model_arguments_reach_the_model(folder: Path) -> None:
    arguments = (
        "block_size=8,block_count=3,window=16,branches=cmp+swa,gate_mode=fixed,gate_values=1+0.5+0.25,backend=reference"
    )
    model = build(f"pretrained={folder},{arguments},max_frames=8,fps=2,tokens_per_frame=1,dtype=float32,device=cpu")
    assert model.checkpoint.model.config.nsa == NSASettings(
        block_size=8,
        block_count=3,
        window=16,
        branches=("cmp", "swa"),
        gate_mode="fixed",
        gate_values=(1.0, 0.5, 0.25),
        backend="reference",
    )
    assert model.sampling == Sampling(8, 2, 1)


def test_defaults(folder: Path, loaded: Checkpoint) -> None:
    model = build(f"pretrained={folder}")
    assert model.sampling == Sampling(32, None, loaded.tokens_per_frame)
    assert model.checkpoint.model.config.nsa == loaded.saved


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("block_cout=8", "unknown model argument 'block_cout'; known: pretrained, max_frames.*block_count"),
        ("window=0", "window=0 is not valid: 1 or more while swa is a branch"),
        ("branches=cmp+dense", "branches='cmp.dense' is not valid: a subset of cmp, slc, swa, each once"),
        ("max_frames=0", "max_frames=0 is not valid"),
        ("tokens_per_frame=2.5", "tokens_per_frame=2.5 is not valid"),
        ("fps=slow", "fps='slow' is not valid"),
        ("dtype=int8", "dtype='int8' is not valid: choose one of bfloat16, float16, float32"),
        ("device=abacus", "device='abacus' is not valid"),
        ("batch_size=none", "batch_size='none' is not valid"),
        ("max_frames=true", "max_frames=True is not valid"),
        ("fps=nan", "fps='nan' is not valid: a number above 0"),
        ("max_frames=1_000", "max_frames='1_000' is not valid"),
        ("gate_mode=fixed,gate_values=nan+1+1", "gate_values=.*'nan'.* is not valid: give numbers"),
        ("window=", "model argument window: no value is given; give one, or leave it out"),
        ("window=8,block_count=2,window=16", "model argument window is given twice"),
        ("windw=8", "unknown model argument 'windw'; .*; did you mean window\\?"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: str, message: str, folder: Path) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        build(f"pretrained={folder},{arguments}")
    assert "\n" not in str(raised.value)


def test_on_a_command_line_a_bad_argument_ends_the_program(folder: Path) -> None:
    with pytest.raises(SystemExit, match=r"^videonsa: unknown model argument 'block_cout'"):
        VideoNSA.create_from_arg_string(f"pretrained={folder},block_cout=8", {"batch_size": 1, "device": None})


def test_a_checkpoint_must_be_named() -> None:
    with pytest.raises(SettingsError, match="model argument pretrained is missing"):
        build("block_count=8")
    with pytest.raises(SettingsError, match="pretrained='' is not valid: the folder or hub name of a checkpoint"):
        build("pretrained=''")


def test_checkpoints_that_cannot_serve(folder: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    with pytest.raises(SettingsError, match="there is no such folder"):
        build(f"pretrained={tmp_path / 'nowhere'}")
    empty = copy("empty")
    (empty / "model.safetensors").unlink()
    with pytest.raises(SettingsError, match="the folder has no weights"):
        build(f"pretrained={empty}")
    other = copy("other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(SettingsError, match="its model_type is 'llama', not videonsa or qwen2_5_vl"):
        build(f"pretrained={other}")
    mute = copy("mute")
    for file in mute.glob("*token*"):
        file.unlink()
    with pytest.raises(SettingsError, match="no processor or tokenizer files in it"):
        build(f"pretrained={mute}")


def test_settings_start_from_the_saved_ones(loaded: Checkpoint) -> None:
    assert loaded.use({"block_count": 1}).block_count == 1
    assert loaded.use({"window": 16}) == NSASettings(
        block_size=loaded.saved.block_size, block_count=loaded.saved.block_count, window=16
    )
    with pytest.raises(SettingsError, match="unknown NSA setting 'widow'; known settings: block_size"):
        loaded.use({"widow": 1})
    assert loaded.use({}) == loaded.saved


def test_identity_of_a_checkpoint_is_that_of_its_weights(folder: Path, loaded: Checkpoint) -> None:
    from evals.checkpoint import load

    assert load(folder, {"block_count": 1}).identity == loaded.identity
    weight = loaded.model.lm_head.weight.data
    before = from_memory(loaded.model, loaded.processor).identity
    weight[0, 0] += 1
    try:
        assert from_memory(loaded.model, loaded.processor).identity != before
    finally:
        weight[0, 0] -= 1


def test_measurements(loaded: Checkpoint, data: Path) -> None:
    task = load_task(suite_settings("synth_needle", limit=4), data)
    question = prepare(loaded.processor, task.doc_to_messages(task.eval_docs[0]), Sampling(32, None, 4))
    loaded.use({})
    short, long = answer(loaded, question, 1), answer(loaded, question, 8)
    assert min(short.tower_ms, short.decoder_ms) > 0
    assert short.decode_ms < long.decode_ms
    assert 0 < short.prefill_ms <= short.latency_ms
    assert 0 < long.prefill_ms < long.latency_ms
    weights = sum(parameter.numel() for parameter in loaded.model.parameters()) * 4 / 2**20
    assert weights < short.peak_memory_mib < weights + 200
    assert long.text.startswith(short.text)
    with torch.inference_mode():
        first = loaded.model(**question.on(loaded.device)).logits[0, -1].argmax()
    assert short.text == loaded.processor.tokenizer.decode(first), "not the greedy first token"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no decoder"), KeyError("video"), OSError(2, "no file"), SystemExit("no file"), MemoryError()],
)
def test_what_ails_one_question_is_its_own_error(error: BaseException, loaded: Checkpoint) -> None:
    def messages() -> list:
        raise error

    row = VideoNSA.of(loaded, Sampling(8, None, 4)).question(messages, 4)
    assert type(error).__name__ in row["error"]
    assert row["prediction"] is None


def test_only_generation_is_offered(folder: Path) -> None:
    model = build(f"pretrained={folder}")
    with pytest.raises(NotImplementedError, match="loglikelihood"):
        model.loglikelihood([])


def test_a_method_that_did_not_run_ends_lmms_evals_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own evaluation fails the cell; lmms-eval's command line would exit with 0 after a mere exception."""
    from videonsa.modeling import MethodDidNotRun

    model = build(f"pretrained={folder},method=tri_shape")

    def idle(*_: object) -> dict:
        raise MethodDidNotRun("method tri_shape ran in 1 of 3 layers; not in 1, 2")

    monkeypatch.setattr(model, "question", idle)
    model.task_dict = {"task": {"test": [{}]}}
    with pytest.raises(SystemExit, match="videonsa: method tri_shape ran in 1 of 3 layers"):
        model._ask("", lambda doc: [], {}, 0, "task", "test")

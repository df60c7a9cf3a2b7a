"""Time the whole text model at full size, random weights: sparse against dense attention, in one run.

    python -m videonsa.bench.model --out benchmarks/model_h200.csv    # the lengths recorded there are the defaults

A prefill takes embeddings of vision tokens through the decoder (Qwen2.5-VL-7B's shape); a training step is forward and
backward with activation checkpointing of every layer. Dense is the same model with torch's cuDNN attention. Each length
is timed once or more after one call that compiles, on the host's clock around a synchronised call. Last, the attention
of one layer over a mixed prompt (64 text tokens, the vision tokens, 512 text tokens) beside `nsa_attention` of its
vision tokens alone: modes attention_fwd, attention_bwd, on the device's clock; before that, `nsa_attention` is checked
as by `python -m videonsa.bench`, and its output must be found in the mixed one, bit for bit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

from videonsa.bench import command, shapes
from videonsa.bench.case import Case, make_inputs
from videonsa.bench.check import CheckFailed, check
from videonsa.bench.measure import measure as measure_on_device
from videonsa.bench.providers import attention
from videonsa.config import NSASettings
from videonsa.methods.contract import make_batch
from videonsa.methods.layout import token_layout
from videonsa.methods.mixed import mixed_attention
from videonsa.methods.paper import Paper
from videonsa.modeling.backbone import VideoNSATextModel

NAME = "videonsa.bench.model"
SHAPE = {**shapes.TEXT["7b"], "vocab_size": 1024}  # the embedding table is not used: embeddings are given
TEXT_BEFORE, TEXT_AFTER = 64, 512  # of the mixed prompt
COLUMNS = ("provider", "mode", "length", "layers", "seconds", "peak_gib", "gpu", "torch", "triton", "commit")


def build(layers: int) -> VideoNSATextModel:
    config = Qwen2_5_VLTextConfig(**{**SHAPE, "num_hidden_layers": layers})
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = VideoNSATextModel._from_config(config, dtype=torch.bfloat16)
    finally:
        torch.set_default_dtype(torch.float32)
    return model


def step(model: VideoNSATextModel, length: int, sparse: bool, train: bool) -> Callable[[], None]:
    """One prefill or training step of a sample of `length` vision tokens."""
    embeddings = torch.randn(1, length, model.config.hidden_size, device="cuda", dtype=torch.bfloat16)
    batch = make_batch(torch.ones(1, length, dtype=torch.bool, device="cuda"))

    def call() -> None:
        chosen = {}
        if sparse:
            chosen["method"] = method = Paper(NSASettings(), None)
            method.batch = batch
        dense_backend = nullcontext() if sparse else sdpa_kernel(SDPBackend.CUDNN_ATTENTION)
        with dense_backend, torch.set_grad_enabled(train):
            output = model(inputs_embeds=embeddings.requires_grad_(train), use_cache=False, **chosen).last_hidden_state
            if train:
                output.float().square().mean().backward()
                model.zero_grad(set_to_none=True)

    return call


def attention_rows(length: int) -> list[dict[str, object]]:
    """Forward and backward of one layer's attention: NSA of `length` vision tokens, and with text around them."""
    case = Case(length, 28, 4, 128, 64, 32, 256, "bfloat16", "random")  # heads of SHAPE
    vision = make_inputs(case, torch.device("cuda"))
    text = make_inputs(replace(case, length=TEXT_BEFORE + TEXT_AFTER), torch.device("cuda"), seed=1)
    query, key, value = (
        torch.cat([around[:, :TEXT_BEFORE], inside, around[:, TEXT_BEFORE:]], 1).detach().requires_grad_()
        for around, inside in zip(text[:3], vision[:3], strict=True)
    )
    is_vision = torch.zeros(1, length + TEXT_BEFORE + TEXT_AFTER, dtype=torch.bool, device="cuda")
    is_vision[:, TEXT_BEFORE : TEXT_BEFORE + length] = True
    layout = token_layout(make_batch(is_vision), NSASettings(), None)
    calls = {
        "nsa_attention": (partial(attention("triton", case), *vision[:4]), vision[:4]),
        "mixed_attention": (
            partial(mixed_attention, query, key, value, vision.gates, layout, case.scale),
            (query, key, value, vision.gates),
        ),
    }
    check("triton", attention("triton", case), vision, case, dense=False)
    with torch.no_grad():
        alone, mixed = (forward() for forward, _ in calls.values())
    if not torch.equal(mixed[:, TEXT_BEFORE : TEXT_BEFORE + length], alone):
        raise CheckFailed("mixed attention gives the vision tokens another output than nsa_attention")
    del alone, mixed
    rows = []
    for provider, (forward, tensors) in calls.items():
        with torch.no_grad():
            forward()
            times = {"attention_fwd": measure_on_device(forward)}
        output = forward()
        grad = torch.randn_like(output)
        backward = partial(torch.autograd.grad, output, tensors, grad, retain_graph=True)
        backward()
        times["attention_bwd"] = measure_on_device(backward)
        for mode, timing in times.items():
            seconds, peak = round(timing.ms_p50 / 1e3, 6), round(timing.peak_gib, 2)
            rows.append({"provider": provider, "mode": mode, "length": length, "layers": 1, "seconds": seconds,
                         "peak_gib": peak})  # fmt: skip
            print(f"{provider:>15} {mode:>13} {length:>7} {1e3 * seconds:8.2f} ms {peak:7.2f} GiB", flush=True)
    return rows


def measure(call: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median seconds and peak GiB."""
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2], torch.cuda.max_memory_allocated() / 2**30


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--lengths", type=int, nargs="*", default=[32768, 65536, 131072], help="of prefills")
    parser.add_argument("--train", type=int, nargs="*", default=[32768, 65536], help="lengths of training steps")
    parser.add_argument("--attention", type=int, nargs="*", default=[131072], help="vision tokens of mixed prompts")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args(arguments)
    table = command.opened(NAME, COLUMNS, options)
    if table is None:
        return 2
    for length in options.attention:
        table.add(*attention_rows(length))
        torch.cuda.empty_cache()
    if not options.lengths and not options.train:
        return 0
    model = build(options.layers)
    model.gradient_checkpointing_enable()
    for mode, lengths in (("prefill", options.lengths), ("train", options.train)):
        model.train(mode == "train")
        for provider in ("videonsa", "dense"):
            for length in lengths:
                call = step(model, length, provider == "videonsa", mode == "train")
                call()  # compiles what this length needs
                seconds, peak = measure(call, options.repeats)
                row = {"provider": provider, "mode": mode, "length": length, "layers": options.layers}
                table.add({**row, "seconds": round(seconds, 4), "peak_gib": round(peak, 2)})
                print(f"{provider:>9} {mode:>8} {length:>7} {seconds:8.3f} s {peak:7.2f} GiB", flush=True)
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())

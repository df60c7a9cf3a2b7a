"""Time a whole question, from pixels to the answer: Qwen2.5-VL-7B's shape, random weights, one GPU.

    python -m videonsa.bench.question --out benchmarks/question.csv    # what is recorded there are the defaults

A prompt of one video and a little text goes through `generate`: nsa and dense are this package's model, stock is
transformers' own, dense, with the same weights. All three prefill by the fastest dense attention that torch has where
they attend densely (cuDNN's). tower_s and first_token_s are of the host's clock around a synchronised device, the first
token's time from pixels in the GPU's memory on, tower included; decode_ms is the mean of the tokens after it; peak_gib
is of the whole, weights and pixels included. Each row is the second of two calls, the first of which compiles, but for
stock's longer ones, which compile nothing.

Correct first: features of the tower and a decoded token's logits are compared with the stock tower's and with those of
the model's usual step. A row that fails (for want of memory, say) leaves the others, and the command exits with 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from videonsa.bench import command, shapes
from videonsa.bench.check import CheckFailed
from videonsa.bench.providers import FASTEST
from videonsa.config import NSASettings
from videonsa.modeling import VideoNSAForConditionalGeneration
from videonsa.modeling.decoding import Decoder, prompts_of

NAME = "videonsa.bench.question"
VIDEO, VISION_START, VISION_END = (
    shapes.SPECIAL[f"{name}_token_id"][1] for name in ("video", "vision_start", "vision_end")
)
PIXELS = 3 * 2 * 14 * 14  # of a patch
TEXT_BEFORE, TEXT_AFTER = 32, 96  # tokens of a prompt
KINDS = ("nsa", "dense", "stock")
ALLOWED = 0.05  # relative error of features and logits, of two computations of 32 and 28 layers in bfloat16
COLUMNS = (
    "attention", "tokens", "patch_rows", "patch_columns", "temporal_patches", "prompt_tokens", "layers", "tower_s",
    "first_token_s", "decode_ms", "peak_gib", "gpu", "torch", "triton", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Frames:
    """A video's temporal patches, each `rows` x `columns` patches; four patches are a token."""

    count: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        return self.count * self.rows * self.columns // 4


def build(layers: int, vision_layers: int) -> VideoNSAForConditionalGeneration:
    given = shapes.config("7b", layers, vision_layers)
    model = shapes.model_of(given, NSASettings(), torch.bfloat16, torch.device("cuda"))
    return model.eval().requires_grad_(False)


def stock_of(ours: VideoNSAForConditionalGeneration) -> Qwen2_5_VLForConditionalGeneration:
    """transformers' model on the same weights, which both then hold."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "tie_word_embeddings")
    parts = {name: getattr(ours.config, name).to_dict() for name in ("text_config", "vision_config")}
    with torch.device("meta"):
        given = Qwen2_5_VLConfig(**parts, **{name: getattr(ours.config, name) for name in names})
        stock = Qwen2_5_VLForConditionalGeneration._from_config(given, dtype=torch.bfloat16, attn_implementation="sdpa")
    weights = {name: weight for name, weight in ours.state_dict().items() if ".g_proj_" not in name}
    stock.load_state_dict(weights, assign=True)
    for name, buffer in ours.named_buffers():  # those that no state holds
        module, _, own = name.rpartition(".")
        setattr(stock.get_submodule(module), own, buffer)
    return stock.eval().requires_grad_(False)


def prompt(frames: Frames, seed: int = 0) -> dict[str, Tensor]:
    """A model's arguments: text, one video of noise, text."""
    generator = torch.Generator("cuda").manual_seed(seed)
    patches = frames.count * frames.rows * frames.columns
    text = torch.randint(0, 1000, (TEXT_BEFORE + TEXT_AFTER,), generator=generator, device="cuda")
    one = text.new_ones(1)
    parts = [text[:TEXT_BEFORE], one * VISION_START, one.new_full((frames.tokens,), VIDEO), one * VISION_END]
    ids = torch.cat([*parts, text[TEXT_BEFORE:]])[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": 2 * (ids == VIDEO).int(),
        "pixel_values_videos": torch.randn(patches, PIXELS, generator=generator, device="cuda", dtype=torch.bfloat16),
        "video_grid_thw": torch.tensor([[frames.count, frames.rows, frames.columns]], device="cuda"),
        "second_per_grid_ts": torch.ones(1),
    }


def now() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def clocked(model: Any) -> Iterator[dict[str, float]]:
    """When the tower began and ended, and when the first forward ended, while the context lasts."""
    times: dict[str, float] = {}

    def note(name: str) -> Any:
        def hook(*_: Any) -> None:
            if name not in times:
                times[name] = now()

        return hook

    with ExitStack() as stack:
        tower = model.model.visual
        stack.callback(tower.register_forward_pre_hook(note("tower")).remove)
        stack.callback(tower.register_forward_hook(note("features")).remove)
        stack.callback(model.register_forward_hook(note("first")).remove)
        yield times


@contextmanager
def fastest_attention(decoder: nn.Module) -> Iterator[None]:
    """Dense attention of prefills by the first of FASTEST that can."""
    inside = ExitStack()

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs["inputs_embeds"].shape[1] > 1:
            inside.enter_context(sdpa_kernel(FASTEST, set_priority=True))

    with ExitStack() as stack, inside:
        stack.callback(decoder.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(decoder.register_forward_hook(lambda *_: inside.close()).remove)
        yield


@torch.inference_mode()
def ask(model: Any, inputs: dict[str, Tensor], answer: int) -> dict[str, float]:
    """One question of `answer` tokens: its times, and the peak of memory."""
    torch.cuda.reset_peak_memory_stats()
    greedy = GenerationConfig(do_sample=False, max_new_tokens=answer, pad_token_id=0)
    with fastest_attention(model.model.language_model), clocked(model) as times:
        start = now()
        output = model.generate(**inputs, generation_config=greedy)
        end = now()
    if output.shape[1] != inputs["input_ids"].shape[1] + answer:
        raise CheckFailed(f"{answer} tokens were asked for, and {output.shape[1] - inputs['input_ids'].shape[1]} came")
    return {
        "tower_s": round(times["features"] - times["tower"], 4),
        "first_token_s": round(times["first"] - start, 4),
        "decode_ms": round(1000 * (end - times["first"]) / (answer - 1), 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


@torch.inference_mode()
def check(ours: VideoNSAForConditionalGeneration, stock: Qwen2_5_VLForConditionalGeneration) -> None:
    """Raises CheckFailed where features, or the logits of a decoded token, are off."""
    inputs = prompt(Frames(3, 12, 20))
    pixels, grid = inputs["pixel_values_videos"], inputs["video_grid_thw"]
    features, expected = (model.model.visual(pixels, grid_thw=grid).pooler_output for model in (ours, stock))
    hold("features of the tower", features, expected)
    seen: list[Tensor] = []
    hook = ours.lm_head.register_forward_hook(lambda layer, args, output: seen.append(output.flatten(0, -2)[-1:]))
    try:
        output = ours(**inputs)
        token, positions = output.logits[:, -1].argmax(-1), torch.full((3, 1, 1), 500, device="cuda")
        decoder = Decoder(ours, 1, 8)
        decoder.begin(prompts_of(output.past_key_values, None), token, positions, [], 0)
        decoder.advance(ours)
        ours(input_ids=token[:, None], position_ids=positions, past_key_values=output.past_key_values)
    finally:
        hook.remove()
    hold("logits of a decoded token", *seen[1:])


def hold(what: str, found: Tensor, expected: Tensor) -> None:
    error = float((found.double() - expected.double()).norm() / expected.double().norm())
    print(f"{what}: relative error {error:.2g}", flush=True)
    if not error < ALLOWED:
        raise CheckFailed(f"{what}: relative error {error:.2g}, allowed {ALLOWED}")


def row(model: Any, kind: str, tokens: int, size: tuple[int, int], options: argparse.Namespace, warm: bool) -> dict:
    """The row of one prompt; warm: a call before has compiled what this one runs."""
    frames = Frames(max(1, 4 * tokens // (size[0] * size[1])), *size)
    torch.cuda.empty_cache()
    inputs = prompt(frames)
    if not warm:
        ask(model, inputs, 4)
    measured = ask(model, inputs, options.answer)
    about = {"attention": kind, "tokens": tokens, "patch_rows": size[0], "patch_columns": size[1]}
    more = {"temporal_patches": frames.count, "prompt_tokens": inputs["input_ids"].shape[1], "layers": options.layers}
    return {**about, **more, **measured}


def size_of(text: str) -> tuple[int, int]:
    """ROWSxCOLUMNS of patches, each a multiple of 2."""
    rows, _, columns = text.partition("x")
    if not (rows.isdigit() and columns.isdigit() and all(int(n) > 0 and int(n) % 2 == 0 for n in (rows, columns))):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: give even numbers of patches, as in 12x20")
    return int(rows), int(columns)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--attention", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--tokens", type=int, nargs="+", default=[32768, 65536, 131072], help="of a video, about")
    frames = "patches of a frame, ROWSxCOLUMNS"
    parser.add_argument("--frames", type=size_of, nargs="+", default=[(16, 16), (12, 20)], help=frames)
    parser.add_argument("--answer", type=int, default=33, help="tokens; the first is not among the decoded")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--vision-layers", type=int, default=32)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print and append the rows; 0 when all came, 1 when some did not, 2 without a device."""
    options = parse(arguments)
    table = command.opened(NAME, COLUMNS, options)
    if table is None:
        return 2
    ours = build(options.layers, options.vision_layers)
    stock, failures = stock_of(ours), 0
    try:
        check(ours, stock)
    except CheckFailed as error:
        print(error, file=sys.stderr)
        return 1
    for kind in options.attention:
        ours.set_nsa(attention="dense" if kind == "dense" else "nsa")
        for size in options.frames:
            for place, tokens in enumerate(options.tokens):
                try:
                    warm = kind == "stock" and place > 0
                    made = row(stock if kind == "stock" else ours, kind, tokens, size, options, warm)
                except (CheckFailed, RuntimeError) as error:  # out of memory, too
                    failures += 1
                    print(f"{kind} {tokens} {size[0]}x{size[1]}: {str(error).splitlines()[0]}", file=sys.stderr)
                    continue
                print(", ".join(f"{name} {made[name]}" for name in COLUMNS if name in made), flush=True)
                table.add(made)
    return 1 if failures else 0


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())

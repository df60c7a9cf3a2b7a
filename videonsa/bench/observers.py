"""What a probe's observers cost beside its prefill: milliseconds and memory of one look into one layer.

    python -m videonsa.bench.observers
    python -m videonsa.bench.observers --observers sinks maps --lengths 131072 --out observers.csv

Made-up queries and keys of Qwen2.5-VL-7B's shape (lifelike.py) in bfloat16, one video of 64 tokens a frame between some
text. Each observer looks twice; the first look, which compiles, does not count. peak_gib is what a look takes on top of
what the layer was given. In a probe of both `points` looks at what `sinks` has found; here each finds it for itself.
"""

# Surroundings first: torch and transformers read them as they are imported.

from __future__ import annotations

if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from evals.observers import registry
from evals.observers.contract import SeenLayer, SeenVideo
from videonsa.bench import command
from videonsa.bench.lifelike import lifelike
from videonsa.config import NSASettings, SettingsError
from videonsa.methods.contract import LayerCall, make_batch
from videonsa.methods.paper import AttentionInputs, Paper
from videonsa.options import positive
from videonsa.surroundings import full_products, settings_decide

COLUMNS = ("observer", "length", "layers", "ms", "peak_gib", *command.SOFTWARE)
LENGTHS = (32768, 131072)  # vision tokens
FRAME, SIDE = 64, 8  # tokens of a temporal patch, and of its side
TEXT = 32  # tokens before the video, and after it
PIXELS = 3 * 2 * 14 * 14  # of a patch


def look(name: str, length: int, device: torch.device, heads: tuple[int, int, int] = (28, 4, 128)) -> dict[str, float]:
    """{ms, peak_gib} of the second look of one observer into the only layer of a model; heads: Hq, Hkv, D."""
    nsa = NSASettings()
    video, layer, method, call = made(nsa, length, device, heads)
    before = _memory(device)
    (observer,) = registry.make([name], nsa).values()
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        begun = _now(device)
        observer.choose("nsa", method, call)
        observer.look(SeenLayer(layer, nsa, torch.arange(length, device=device)), video)
        spent = _now(device) - begun
    observer.arrays()
    return {"ms": round(1000 * spent, 2), "peak_gib": round(_memory(device, peak=True) - before, 3)}


def made(
    nsa: NSASettings, length: int, device: torch.device, heads: tuple[int, int, int]
) -> tuple[SeenVideo, AttentionInputs, Paper, LayerCall]:
    """What a probe hands to its observers of one layer."""
    tokens = TEXT + length + TEXT
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    data = lifelike(tokens, *heads, dtype=dtype, device=device)
    shown = slice(TEXT, TEXT + length)
    query, key, value = (tensor[None] for tensor in (data.query, data.key, data.value))
    gates = torch.rand(1, length, heads[0], 3, device=device).to(dtype)
    kinds = torch.zeros(1, tokens, dtype=torch.long)
    kinds[:, shown] = 2
    frames = length // FRAME
    inputs = {
        "mm_token_type_ids": kinds,
        "video_grid_thw": torch.tensor([[frames, 2 * SIDE, 2 * SIDE]]),
        "second_per_grid_ts": [0.5],
        "pixel_values_videos": torch.randn(1, PIXELS).expand(4 * length, PIXELS),
    }
    question: Any = SimpleNamespace(inputs=inputs, vision_tokens=length)
    method = Paper(nsa, None)
    method.batch = make_batch(kinds.to(device) > 0)
    call = LayerCall(0, query, key, value, query, heads[2] ** -0.5, None)
    layer = AttentionInputs(0, query[:, shown], key[:, shown], value[:, shown], gates, None)
    return SeenVideo(0, "made", question, layers=1, merge=2, frames=2), layer, method, call


def measured(names: Sequence[str], lengths: Sequence[int], device: torch.device) -> Iterator[dict[str, object]]:
    """A row for each; of one that memory does not hold, without numbers."""
    for length in lengths:
        for name in names:
            try:
                found = look(name, length, device)
            except torch.OutOfMemoryError:
                found = {}
            yield {"observer": name, "length": length, "layers": 1, **found}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _memory(device: torch.device, peak: bool = False) -> float:
    """GiB that are allocated; on a CPU nobody counts them."""
    if device.type != "cuda":
        return 0.0
    count: Callable[[], int] = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
    return count() / 2**30


@settings_decide()
@full_products()
@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 2 where there is no device or wrong input."""
    parser = command.parser("videonsa.bench.observers", __doc__)
    parser.add_argument("--observers", nargs="+", default=registry.names(), metavar="NAME", help="all")
    parser.add_argument("--lengths", nargs="+", type=positive, default=LENGTHS, metavar="N", help="vision tokens")
    options = parser.parse_args(arguments)
    try:
        names = registry.chosen(list(options.observers), "--observers")
    except SettingsError as error:
        parser.error(str(error))
    if wrong := [length for length in options.lengths if length % FRAME]:
        parser.error(f"--lengths {wrong[0]}: give whole frames of {FRAME} tokens")
    if (table := command.opened("videonsa.bench.observers", COLUMNS, options)) is None:
        return 2
    for row in measured(names, options.lengths, torch.device("cuda")):
        taken = f"{row['ms']:,.0f} ms, {row['peak_gib']} GiB a layer" if "ms" in row else "out of memory"
        print(f"{row['observer']} at {row['length']} tokens: {taken}", flush=True)
        table.add(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())

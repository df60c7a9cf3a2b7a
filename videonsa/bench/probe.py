"""What a whole probe takes: seconds and peak memory of a prefill that observers look on, at full size.

    python -m videonsa.bench.probe
    python -m videonsa.bench.probe --observers gates gate_content --tokens 131072 --out probe.csv
    python -m videonsa.bench.probe --together --tokens 131072    # all observers at once, and no other row

Qwen2.5-VL-7B's shape with random weights, one video of noise at 64 tokens a temporal patch between some text, from
pixels on, as `evals.probe` runs it: a row without observers (none), one for each of them, and one for all at once.
peak_gib is of the whole, weights and pixels included; each row is the second of two prefills, the first of which
compiles. What an observer takes of one layer alone: python -m videonsa.bench.observers. --model tiny is a try, on a CPU
too, where nobody counts memory.
"""

# Surroundings first: torch and transformers read them as they are imported.

from __future__ import annotations

if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()

import sys
import time
from collections.abc import Iterator, Sequence

import torch
from transformers import BatchFeature

from evals.checkpoint import Checkpoint
from evals.observers import registry
from evals.observers.contract import SeenVideo, seen_video
from evals.probe import Stream, prefill
from evals.question import Question
from videonsa.bench import command, shapes
from videonsa.bench.suite import checkpoint
from videonsa.config import SettingsError
from videonsa.options import positive
from videonsa.surroundings import full_products, settings_decide

NAME = "videonsa.bench.probe"
COLUMNS = ("model", "observer", "tokens", "layers", "seconds", "peak_gib", *command.SOFTWARE)
FRAME, SIDE = 64, 8  # tokens of a temporal patch, and of its side
TEXT = 32  # tokens before the video, and after it
NONE, ALL = "none", "all"


def made(loaded: Checkpoint, tokens: int) -> SeenVideo:
    """A question that shows one video of noise, of so many tokens."""
    config, vision = loaded.model.config, loaded.model.config.vision_config
    random = torch.Generator().manual_seed(0)
    text = torch.randint(0, 100, (2 * TEXT,), generator=random)
    shown = text.new_full((tokens,), config.video_token_id)
    marks = text.new_tensor([config.vision_start_token_id, config.vision_end_token_id])
    ids = torch.cat([text[:TEXT], marks[:1], shown, marks[1:], text[TEXT:]])[None]
    merge, patch = vision.spatial_merge_size, 3 * vision.temporal_patch_size * vision.patch_size**2
    frames = tokens // FRAME
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": 2 * (ids == config.video_token_id).int(),
        "pixel_values_videos": torch.randn(tokens * merge**2, patch, generator=random).to(loaded.model.dtype),
        "video_grid_thw": torch.tensor([[frames, SIDE * merge, SIDE * merge]]),
        "second_per_grid_ts": torch.ones(1),
    }
    return seen_video(0, "made", Question("", BatchFeature(inputs)), config)


def measured(loaded: Checkpoint, video: SeenVideo, names: Sequence[str]) -> dict[str, float]:
    """{seconds, peak_gib} of the second of two prefills on which these observers look, with what they give at last."""
    nsa, seconds = loaded.use({}), 0.0
    for _ in range(2):
        observers = registry.make(names, nsa)
        _synchronize(reset=True)
        begun = time.perf_counter()
        prefill(loaded, Stream(observers, nsa, video, "nsa"))
        for observer in observers.values():
            observer.by_layer(), observer.whole(), observer.arrays()
        _synchronize()
        seconds = time.perf_counter() - begun
    found = {"seconds": round(seconds, 3)}
    if torch.cuda.is_available():
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


def rows(
    loaded: Checkpoint, names: Sequence[str], lengths: Sequence[int], together: bool = False
) -> Iterator[dict[str, object]]:
    """One for each length and observer, or for all at once alone; of what memory does not hold, without numbers."""
    layers = loaded.model.config.text_config.num_hidden_layers
    for tokens in lengths:
        video = made(loaded, tokens)
        for observer in (ALL,) if together else (NONE, *names, ALL):
            chosen = {NONE: [], ALL: list(names)}.get(observer, [observer])
            try:
                found = measured(loaded, video, chosen)
            except torch.OutOfMemoryError:
                found = {}
            yield {"observer": observer, "tokens": tokens, "layers": layers, **found}


def _synchronize(reset: bool = False) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        if reset:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


@settings_decide()
@full_products()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 2 where there is no device or wrong input."""
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--model", choices=shapes.NAMES, default="7b")
    parser.add_argument("--observers", nargs="+", default=registry.names(), metavar="NAME", help="all")
    parser.add_argument("--tokens", nargs="+", type=positive, default=[32768, 131072], metavar="N", help="of the video")
    parser.add_argument("--together", action="store_true", help="the row of all observers at once alone")
    parser.add_argument("--layers", type=positive, help="of the decoder; fewer are for a try")
    parser.add_argument("--vision-layers", type=positive, help="of the tower")
    options = parser.parse_args(arguments)
    try:
        names = registry.chosen(list(options.observers), "--observers")
    except SettingsError as error:
        parser.error(str(error))
    if wrong := [tokens for tokens in options.tokens if tokens % FRAME]:
        parser.error(f"--tokens {wrong[0]}: give whole temporal patches of {FRAME} tokens")
    if options.model != "tiny" and not command.has_device(NAME):
        return 2
    table = command.table(COLUMNS, options.out, command.software(options.commit))
    if table is None:
        return 2
    loaded = checkpoint(options.model, options.layers, options.vision_layers)
    for row in rows(loaded, names, options.tokens, options.together):
        taken = f"{row['seconds']} s, {row.get('peak_gib', '-')} GiB" if "seconds" in row else "out of memory"
        print(f"{row['observer']} at {row['tokens']} tokens: {taken}", flush=True)
        table.add({"model": options.model, **row})
    return 0


if __name__ == "__main__":
    sys.exit(main())

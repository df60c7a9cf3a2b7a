"""Time attention with release semantics, and write one CSV row per semantics, length and mode.

    python -m videonsa.bench.release --lengths 32768 65536 131072 --out benchmarks/release_h200.csv

One layer's attention of one sample: text and vision together, one token in a hundred text, half of it before
the vision tokens and half after. Correct first: choices of blocks and outputs of some slices of queries are compared
with the torch path's; semantics that are off get no row, and the command exits with status 1. `same_choices` is the
share of equal choices there, `error` the output's relative error where they are equal. Needs a CUDA device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from videonsa.bench import command
from videonsa.bench.case import DTYPES, Case
from videonsa.bench.check import TOLERANCE, CheckFailed
from videonsa.bench.choices import TIE
from videonsa.bench.measure import measure
from videonsa.config import canonical_semantics, differences
from videonsa.kernels import release
from videonsa.names import BRANCHES

NAME = "videonsa.bench.release"
TEXT = 100  # one token in so many
SLICE = 96  # queries of a slice that is checked
COLUMNS = (
    "semantics", "mode", "length", "heads", "kv_heads", "head_dim", "block_size", "block_count", "window", "dtype",
    "ms_p20", "ms_p50", "ms_p80", "peak_gib", "same_choices", "widest_gap", "error", "gpu", "torch", "triton", "commit",
)  # fmt: skip


def make_inputs(case: Case, device: torch.device | str = "cuda", seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Gaussian query, key and value, gates between 0 and 1, of a batch of 1; and which tokens are vision."""
    generator = torch.Generator(device).manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(1, case.length, *shape, generator=generator, device=device).to(DTYPES[case.dtype])

    heads = {"query": case.heads, "key": case.kv_heads, "value": case.kv_heads}
    tensors = {name: noise(many, case.head_dim) for name, many in heads.items()}
    tensors["gates"] = noise(case.heads, 3).sigmoid()
    text = case.length // TEXT
    is_vision = torch.ones(case.length, dtype=torch.bool, device=device)
    is_vision[: text // 2] = is_vision[case.length - text + text // 2 :] = False
    return tensors, is_vision


def slices(case: Case, is_vision: Tensor) -> list[slice]:
    """Runs of queries that are checked: both ends, the last vision tokens, and others between."""
    last = int(is_vision.nonzero()[-1]) + 1
    starts = {0, last - SLICE, case.length - SLICE, *(case.length * i // 7 for i in range(1, 7))}
    return [slice(max(0, start), min(max(0, start) + SLICE, case.length)) for start in sorted(starts)]


@torch.no_grad()
def check(tensors: dict[str, Tensor], is_vision: Tensor, case: Case, names: frozenset[str]) -> dict[str, float]:
    """same_choices, widest_gap and error of the Triton path in the slices; CheckFailed where they are off.

    Of a choice that differs the gap is that of the importances of the best block left out and the worst in its place.
    """
    from videonsa.kernels import release_branches

    sizes = release.Sizes(case.block_size, case.block_count, case.window, case.scale, names, tensors["query"].dtype)
    output = attention(tensors, is_vision, case, names, "triton")
    packing = sizes.has("vision_packing")
    query, key, value = (tensors[name] for name in ("query", "key", "value"))
    query_N, key_N, value_N = (release.vision_rows(tensor, is_vision, sizes) for tensor in (query, key, value))
    ours = release_branches.block_choices(query_N, key_N, sizes)
    places = torch.arange(case.length, device=is_vision.device) if packing else is_vision.nonzero()[:, 0]
    dense = release.dense_part(query, key, value, is_vision, sizes)
    inputs = release.prepare(query_N, key_N, value_N, sizes)
    same, gaps, wrong, norm = [], [0.0], 0.0, 0.0
    for part in slices(case, is_vision):
        part = slice(part.start, min(part.stop, len(places)))
        if part.start >= part.stop:
            continue
        chosen = release.choose(inputs, part, sizes)
        own = release.positions(part, inputs.key_BHJD) // sizes.block_size
        theirs_CHJ, ours_CHJ = (
            _mask(choice, inputs.key_BHJD.shape[2]) for choice in (chosen[0].transpose(0, 1), ours[0, part])
        )
        importance_CHJ = release.importances(inputs, part, own, sizes)[0].transpose(0, 1)
        left_out = importance_CHJ.masked_fill(~(theirs_CHJ & ~ours_CHJ), 0.0).amax(-1)
        taken = importance_CHJ.masked_fill(~(ours_CHJ & ~theirs_CHJ), torch.inf).amin(-1)
        equal_CH = (theirs_CHJ == ours_CHJ).all(-1)
        gaps += ((left_out - taken).abs() / left_out)[~equal_CH].tolist()
        same.append(equal_CH)
        expected = dense[0, places[part]]
        gate = tensors["gates"][0, places[part]].float()
        if packing:
            text_gate = 0.5 if sizes.has("gate_leak") else 0.0
            gate = torch.where(is_vision[places[part]][:, None, None], gate, text_gate)
        for i, name in enumerate(BRANCHES):
            branch = release.from_slots(release.BRANCH[name](inputs, part, sizes, chosen), case.heads, sizes)
            expected = expected + gate[..., i, None] * branch[0]
        rows_same = equal_CH.all(-1)
        wrong += float((output[0, places[part]].float() - expected)[rows_same].double().square().sum())
        norm += float(expected[rows_same].double().square().sum())
    found = {
        "same_choices": float(torch.cat(same).double().mean()), "widest_gap": max(gaps),
        "error": (wrong / max(norm, 1e-30)) ** 0.5,
    }  # fmt: skip
    sound = found["widest_gap"] <= TIE[DTYPES[case.dtype]] and found["error"] <= TOLERANCE[case.dtype]
    if not (sound and found["same_choices"] > 0.98 and norm > 0):
        raise CheckFailed(f"{case}: {found}")
    return found


def _mask(choice_CHn: Tensor, blocks: int) -> Tensor:
    """Choices as a map, bool [C, H, J]; -1 is none."""
    column = choice_CHn.long().masked_fill(choice_CHn < 0, blocks)
    chosen = torch.zeros(*choice_CHn.shape[:2], blocks + 1, dtype=torch.bool, device=choice_CHn.device)
    return chosen.scatter(2, column, True)[..., :blocks]


def attention(tensors: dict[str, Tensor], is_vision: Tensor, case: Case, names: frozenset[str], backend: str) -> Tensor:
    """The whole operation."""
    query, key, value, gates = (tensors[name] for name in ("query", "key", "value", "gates"))
    return release.mixed_attention(
        query, key, value, gates, is_vision, block_size=case.block_size, block_count=case.block_count,
        window=case.window, differences=names, scale=case.scale, backend=backend,
    )  # fmt: skip


def rows(semantics: str, case: Case, modes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows without the software's columns; backward: of a forward pass that ran before."""
    tensors, is_vision = make_inputs(case)
    names = frozenset(differences(semantics))
    found = check(tensors, is_vision, case, names)
    for mode in modes:
        torch.cuda.empty_cache()
        call = (_forward if mode == "fwd" else _backward)(tensors, is_vision, case, names)
        call()
        timing = measure(call)
        sizes = {name: getattr(case, name) for name in COLUMNS if hasattr(case, name)}
        times = {name: round(getattr(timing, name), 3) for name in ("ms_p20", "ms_p50", "ms_p80", "peak_gib")}
        yield {"semantics": semantics, "mode": mode, **sizes, **times, **{key: f"{n:.6g}" for key, n in found.items()}}


def _forward(tensors: dict[str, Tensor], is_vision: Tensor, case: Case, names: frozenset[str]) -> Callable[[], object]:
    @torch.no_grad()
    def call() -> Tensor:
        return attention(tensors, is_vision, case, names, "triton")

    return call


def _backward(tensors: dict[str, Tensor], is_vision: Tensor, case: Case, names: frozenset[str]) -> Callable[[], object]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    output = attention(leaves, is_vision, case, names, "triton")
    grad = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, list(leaves.values()), grad, retain_graph=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--semantics", nargs="+", default=["release"], help="release, release-NAME or NAME+NAME")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32768, 65536, 131072])
    parser.add_argument("--mode", choices=("fwd", "bwd", "both"), default="both")
    sizes = {"heads": 28, "kv-heads": 4, "head-dim": 128, "block-size": 64, "block-count": 32, "window": 256}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print and append the rows; 0 when all were right, 1 when some were not, 2 without a device."""
    options = parse(arguments)
    table, failures = command.opened(NAME, COLUMNS, options), 0
    if table is None:
        return 2
    for length in options.lengths:
        for semantics in map(canonical_semantics, options.semantics):
            case = Case(
                length, options.heads, options.kv_heads, options.head_dim, options.block_size, options.block_count,
                options.window, options.dtype, "random",
            )  # fmt: skip
            try:
                for made in rows(semantics, case, ("fwd", "bwd") if options.mode == "both" else (options.mode,)):
                    print(
                        f"{semantics} {length} {made['mode']}: {made['ms_p50']} ms, {made['peak_gib']} GiB, same "
                        f"choices {made['same_choices']}, widest gap {made['widest_gap']}, error {made['error']}",
                        flush=True,
                    )
                    table.add(made)
            except (CheckFailed, torch.OutOfMemoryError) as error:
                failures += 1
                print(f"{semantics} {length}: {error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())

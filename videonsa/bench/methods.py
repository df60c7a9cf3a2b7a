"""Time sparse prefills beside dense attention and NSA: the choice of keys, the attention to them, and both together.

    python -m videonsa.bench.methods --out benchmarks/methods.csv

One layer's attention of one sample, forward, for every method of the registry that chooses keys, at its defaults. Data
are `lifelike` (videonsa/bench/lifelike.py: sinks, stripes, local mass, diagonals, episodes) or `random`, where no key
matters more than another and adaptive methods must keep nearly all. density is the share of causal pairs of a query and
a key that are computed; of NSA its means of blocks count as keys. dense_ms is cuDNN's attention of the same tensors,
measured in the same run; density_x_dense_ms is what a sparse attention would take that lost nothing.

Correct first: the attention of each method is compared with float32 torch under the same choice, at all heads of some
blocks of queries; a method that is off gets no row, and the command exits with status 1. Needs a CUDA device.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from videonsa.bench import command, providers
from videonsa.bench.case import DTYPES, Case, Inputs, visible_keys
from videonsa.bench.check import TOLERANCE, CheckFailed, check
from videonsa.bench.lifelike import lifelike
from videonsa.bench.measure import measure
from videonsa.config import to_dict
from videonsa.kernels.block_sparse import KeyChoice, block_sparse_attention
from videonsa.methods import registry
from videonsa.methods.sparse import SparsePrefill

NAME = "videonsa.bench.methods"
DATA = ("lifelike", "random")
DENSE, NSA = "dense", "paper"
COLUMNS = (
    "method", "settings", "layer", "data", "length", "heads", "kv_heads", "head_dim", "dtype", "density", "choice_ms",
    "attention_ms", "total_ms", "dense_ms", "density_x_dense_ms", "speedup", "peak_gib", "error", "gpu", "torch",
    "triton", "commit", "command",
)  # fmt: skip


def sparse_methods() -> list[str]:
    """Those of the registry that choose keys for a shared kernel."""
    return [name for name, entry in registry.entries().items() if issubclass(registry.load(entry), SparsePrefill)]


def make_inputs(case: Case, device: torch.device | str = "cuda", seed: int = 0) -> Inputs:
    """Inputs of a batch of 1; gates between 0 and 1."""
    generator = torch.Generator(device).manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(1, case.length, *shape, generator=generator, device=device).to(DTYPES[case.dtype])

    query = noise(case.heads, case.head_dim)
    key, value = (noise(case.kv_heads, case.head_dim) for _ in range(2))
    if case.data == "lifelike":
        sizes = (case.length, case.heads, case.kv_heads, case.head_dim)
        made = lifelike(*sizes, dtype=DTYPES[case.dtype], device=device, seed=seed)
        query, key, value = made.query[None], made.key[None], made.value[None]
    return Inputs(query, key, value, noise(case.heads, 3).sigmoid(), noise(case.heads, case.head_dim))


def rows(names: list[str], case: Case, layer: int) -> Iterator[dict[str, Any]]:
    """Rows of one length and kind of data, dense attention first; where a check fails a text that says so."""
    inputs = make_inputs(case)
    with torch.no_grad():
        dense_ms = 0.0
        for name in (DENSE, NSA, *names):
            try:
                made = _whole(name, inputs, case) if name in (DENSE, NSA) else _sparse(name, inputs, case, layer)
            except (CheckFailed, torch.OutOfMemoryError) as error:
                yield {"method": name, "failed": f"{name} at {case.length}, {case.data}: {error}"}
                continue
            dense_ms = made["total_ms"] if name == DENSE else dense_ms
            yield _row(name, case, made, dense_ms)
            torch.cuda.empty_cache()


def _row(name: str, case: Case, made: dict[str, Any], dense_ms: float) -> dict[str, Any]:
    shape = {"data": case.data, "length": case.length, "heads": case.heads, "kv_heads": case.kv_heads}
    lossless = made["density"] * dense_ms
    compared = {"dense_ms": dense_ms, "density_x_dense_ms": lossless, "speedup": dense_ms / made["total_ms"]}
    numbers = {
        key: round(value, 6 if key == "error" else 4) if isinstance(value, float) else value
        for key, value in {**made, **(compared if dense_ms else {})}.items()
    }
    return {"method": name, **shape, "head_dim": case.head_dim, "dtype": case.dtype, **numbers}


def _whole(name: str, inputs: Inputs, case: Case) -> dict[str, Any]:
    """Dense attention or NSA, which chooses within."""
    attention = providers.attention("sdpa_cudnn" if name == DENSE else "triton", case)
    with torch.enable_grad():
        errors = check(name, attention, inputs, case, dense=name == DENSE)
    torch.cuda.empty_cache()
    attention(*inputs[:4])
    timing = measure(lambda: attention(*inputs[:4]))
    pairs = visible_keys(case)
    sparse = (pairs["cmp"] + pairs["slc"] + pairs["swa"]) / pairs["dense"]
    sizes = {"block_size": case.block_size, "block_count": case.block_count, "window": case.window}
    return {
        "settings": "{}" if name == DENSE else json.dumps(sizes),
        "density": 1.0 if name == DENSE else sparse,
        "attention_ms": timing.ms_p50 if name == DENSE else None,
        "total_ms": timing.ms_p50,
        "peak_gib": timing.peak_gib,
        "error": errors["output"],
    }


def _sparse(name: str, inputs: Inputs, case: Case, layer: int) -> dict[str, Any]:
    entry = registry.entries()[name]
    method = registry.load(entry)(entry.settings(), None)
    query, key, value = (tensor[0] for tensor in inputs[:3])

    def choose() -> KeyChoice | None:
        return method.choose(query, key, case.scale, layer)

    def attend(choice: KeyChoice | None) -> Tensor:
        if choice is None:  # everything
            return providers.attention("sdpa_cudnn", case)(*inputs[:4])[0]
        return block_sparse_attention(query, key, value, choice, case.scale, backend="triton")

    choice = choose()
    error = 0.0 if choice is None else check_choice(name, attend(choice), query, key, value, choice, case)
    pairs = case.heads * case.length * (case.length + 1) // 2
    density = 1.0 if choice is None else float(choice.pairs().sum()) / pairs
    torch.cuda.empty_cache()
    calls: tuple[Callable[[], object], ...] = (choose, lambda: attend(choice), lambda: attend(choose()))
    choosing, attending, both = (measure(call) for call in calls)
    return {
        "settings": json.dumps(to_dict(entry.settings())), "layer": layer, "density": density,
        "choice_ms": choosing.ms_p50, "attention_ms": attending.ms_p50, "total_ms": both.ms_p50,
        "peak_gib": both.peak_gib, "error": error,
    }  # fmt: skip


def check_choice(
    name: str, output: Tensor, query: Tensor, key: Tensor, value: Tensor, choice: KeyChoice, case: Case
) -> float:
    """Largest relative error of a head in some blocks of queries; raises CheckFailed where it exceeds the tolerance."""
    last = choice.blocks - 1
    worst = 0.0
    for block in sorted({0, 1 % choice.blocks, choice.blocks // 3, 2 * choice.blocks // 3, last}):
        visible = choice.rows(block, block + 1)
        start, end = block * choice.block_size, visible.shape[-1]
        for head in range(case.heads):
            kv_head = head // (case.heads // case.kv_heads)
            score = query[start:end, head].float() @ key[:end, kv_head].float().T * case.scale
            exact = score.masked_fill(~visible[head], -torch.inf).softmax(-1).nan_to_num(0)
            exact = exact @ value[:end, kv_head].float()
            found = (output[start:end, head].float() - exact).norm() / exact.norm().clamp_min(1e-20)
            worst = max(worst, float(found)) if found == found else float("nan")
            if not worst <= TOLERANCE[case.dtype]:
                raise CheckFailed(
                    f"{name} at {case.length}: relative error {worst:.1e} in block {block}, head {head}, "
                    f"exceeds {TOLERANCE[case.dtype]}"
                )
    return worst


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    known = sparse_methods()
    parser.add_argument("--lengths", type=int, nargs="+", default=[32768, 65536, 131072])
    parser.add_argument(
        "--methods", nargs="+", choices=(DENSE, NSA, *known), default=known, help=f"{DENSE} and {NSA} always come"
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--layer", type=int, default=14, help="which layer's settings a table by layer is asked for")
    parser.add_argument("--heads", type=int, default=28)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each row; 0 when all were right, 1 when one was not, 2 without a device."""
    options = parse(arguments)
    table, failures = command.opened(NAME, COLUMNS, options), 0
    if table is None:
        return 2
    asked = shlex.join(["python", "-m", NAME, *(sys.argv[1:] if arguments is None else arguments)])
    names = [name for name in options.methods if name not in (DENSE, NSA)]
    for data in options.data:
        for length in options.lengths:
            sizes = (length, options.heads, options.kv_heads, options.head_dim)
            for row in rows(names, Case(*sizes, 64, 32, 256, options.dtype, data), options.layer):
                if "failed" in row:
                    failures += 1
                    print(f"no row: {row['failed']}", file=sys.stderr, flush=True)
                    continue
                print(line(row), flush=True)
                table.add({**row, "command": asked})
            torch.cuda.empty_cache()
    return 1 if failures else 0


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    parts = "".join(
        f" {name[:-3]} {row[name]:8.2f}" for name in ("choice_ms", "attention_ms") if row.get(name) is not None
    )
    beside = (
        f" ({row['speedup']:.2f} x dense; density x dense {row['density_x_dense_ms']:.1f})" if "speedup" in row else ""
    )
    return (
        f"{row['method']:>11} {row['data']:>8} {row['length']:>7} density {row['density']:.3f} total "
        f"{row['total_ms']:8.2f} ms{beside}{parts} {row['peak_gib']:6.2f} GiB"
    )


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())

"""Does our release semantics compute what the release computed? `python -m videonsa.fidelity FILE.npz`

FILE.npz holds inputs and outputs of one attention layer of the release, run in bf16:
    query [L, Q, D], key, value [L, H, D] (position encoding applied), hidden_states [L, E], is_vision [L],
    g_proj_{1,2}_{weight,bias} (the gate network), block_indices [L, H, n] (-1 is none), output [L, Q, D],
    block_size, block_count, window
Our arithmetic is float32. The release held two things in bf16 on its way to the choice of blocks, the scaled queries
and the means of the keys. Near-equal blocks trade places by that rounding: the table shows the choice without it and
with it, and the verdict is with it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videonsa.config import SettingsError, canonical_semantics, differences
from videonsa.kernels.release import Sizes, block_choices, check, mixed_attention, vision_rows
from videonsa.options import Parser, folder

GATE_TEMPERATURE = 0.3
LEAST_AGREEMENT = 0.99  # share of equal block choices, each for vision and text
LARGEST_ERROR = 1e-2  # of the output in norm where choices agree; bf16 outputs alone cost about 4e-3
ROUNDINGS = {"choice unrounded": torch.float32, "choice rounded to bf16": torch.bfloat16}
JUDGED = "choice rounded to bf16"
TENSORS = ("query", "key", "value", "hidden_states", "is_vision", "block_indices", "output")
GATE_TENSORS = tuple(f"g_proj_{layer}_{part}" for layer in (1, 2) for part in ("weight", "bias"))
SIZES = ("block_size", "block_count", "window")


@dataclass(frozen=True)
class Agreement:
    """How close one computation came. Shares are None where there is no such token, errors where no token agrees."""

    vision_choices: float | None  # share of equal sets of blocks over vision tokens and key/value heads
    text_choices: float | None
    agreeing_tokens: int  # tokens whose choices are equal for every key/value head
    error_agreeing: float | None  # |ours - release| / |release| over those tokens
    error_agreeing_token: float | None  # the largest of one such token
    error_all: float
    error_all_token: float

    @property
    def passes(self) -> bool:
        """Whether it is close enough to be the release's computation."""
        shares = [share for share in (self.vision_choices, self.text_choices) if share is not None]
        error = self.error_agreeing
        return bool(shares) and min(shares) >= LEAST_AGREEMENT and error is not None and error <= LARGEST_ERROR


class VectorFileError(ValueError):
    """The file is no such vector file; the message is one line."""


def load_vectors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The file's arrays as tensors, floating ones as float32. Raises VectorFileError for an unfit file."""
    try:
        with np.load(path) as file:
            arrays = {name: torch.from_numpy(file[name]).to(device) for name in file.files}
    except (OSError, ValueError, TypeError) as error:
        raise VectorFileError(f"{path}: {str(error).splitlines()[0]}") from None
    missing = [name for name in (*TENSORS, *GATE_TENSORS, *SIZES) if name not in arrays]
    if missing:
        raise VectorFileError(f"{path}: no array named {missing[0]!r}")
    return {name: array.float() if array.is_floating_point() else array for name, array in arrays.items()}


def gates_of(vectors: dict[str, Tensor]) -> Tensor:
    """sigmoid((W2 gelu(W1 x)) / temperature), [1, L, Q, 3]."""
    linear = torch.nn.functional.linear
    inner = linear(vectors["hidden_states"], vectors["g_proj_1_weight"], vectors["g_proj_1_bias"])
    logits = linear(torch.nn.functional.gelu(inner), vectors["g_proj_2_weight"], vectors["g_proj_2_bias"])
    return (logits / GATE_TEMPERATURE).sigmoid().unflatten(-1, (-1, 3))[None]


@torch.no_grad()
def compare(
    vectors: dict[str, Tensor],
    semantics: str = "release",
    rounding: torch.dtype = torch.float32,
    backend: str = "reference",
) -> Agreement:
    """Compute the layer from the file's inputs and compare it with the file's choices and outputs.

    backend: as in mixed_attention; triton computes in bf16 on CUDA, which the files' inputs were rounded to.
    """
    query, key, value = (vectors[name][None] for name in ("query", "key", "value"))
    if backend == "triton" and query.is_cuda:
        query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    is_vision = vectors["is_vision"].bool()
    names = differences(semantics)
    block_size, block_count, window = (int(vectors[name]) for name in SIZES)
    window = window or len(is_vision)  # the release hands window - 1 to flash-attention, where -1 is no bound
    check(names, block_size, block_count, window)
    output = mixed_attention(
        query,
        key,
        value,
        gates_of(vectors),
        is_vision,
        block_size=block_size,
        block_count=block_count,
        window=window,
        differences=names,
        rounding=rounding,
        backend=backend,
    )[0]
    sizes = Sizes(block_size, block_count, window, query.shape[-1] ** -0.5, names, rounding)
    equal_LH: Tensor | None = None  # where vision tokens are packed, the choices number other blocks
    if not is_vision.any():  # no blocks are chosen
        equal_LH = torch.ones(len(is_vision), key.shape[2], dtype=torch.bool)
    elif sizes.has("vision_packing"):
        query_N, key_N = (vision_rows(tensor, is_vision, sizes) for tensor in (query, key))
        equal_LH = same_blocks(chosen(query_N, key_N, sizes, backend)[0], vectors["block_indices"])
    return agreement(output, vectors["output"], equal_LH, is_vision)


def chosen(query: Tensor, key: Tensor, sizes: Sizes, backend: str) -> Tensor:
    """Blocks chosen by each query for each key/value head, [B, N, H, n]; -1 is none."""
    if backend == "triton":
        from videonsa.kernels import release_branches  # triton is not installed everywhere

        return release_branches.block_choices(query, key, sizes)
    return block_choices(query, key, sizes)


def same_blocks(ours_LHn: Tensor, theirs_LHn: Tensor) -> Tensor:
    """Where two choices hold the same blocks in whatever order, bool [L, H]."""
    width = max(ours_LHn.shape[-1], theirs_LHn.shape[-1])
    ours, theirs = (
        torch.nn.functional.pad(choice.long(), (0, width - choice.shape[-1]), value=-1).sort(dim=-1).values
        for choice in (ours_LHn, theirs_LHn)
    )
    return (ours == theirs).all(dim=-1)


def agreement(output: Tensor, expected: Tensor, equal_LH: Tensor | None, is_vision: Tensor) -> Agreement:
    """Summary of outputs [L, Q, D] and equal choices [L, H]; None: the choices cannot be compared."""
    agrees_L = torch.zeros_like(is_vision) if equal_LH is None else equal_LH.all(dim=-1)
    error_L = (output - expected).flatten(1).double().norm(dim=1)
    norm_L = expected.flatten(1).double().norm(dim=1)
    each_L = error_L / norm_L.clamp_min(1e-30)

    def share(rows: Tensor) -> float | None:
        return None if equal_LH is None or not rows.any() else float(equal_LH[rows].double().mean())

    some = bool(agrees_L.any())
    return Agreement(
        vision_choices=share(is_vision),
        text_choices=share(~is_vision),
        agreeing_tokens=int(agrees_L.sum()),
        error_agreeing=float(error_L[agrees_L].norm() / norm_L[agrees_L].norm()) if some else None,
        error_agreeing_token=float(each_L[agrees_L].max()) if some else None,
        error_all=float(error_L.norm() / norm_L.norm()),
        error_all_token=float(each_L.max()),
    )


def table(found: dict[str, Agreement]) -> str:
    """The agreements side by side, a column each."""

    def percent(value: float | None) -> str:
        return "none" if value is None else f"{100 * value:.2f} %"

    def error(value: float | None) -> str:
        return "none" if value is None else f"{value:.2e}"

    rows = [("", list(found))]
    rows.append(("equal block choices, vision", [percent(one.vision_choices) for one in found.values()]))
    rows.append(("equal block choices, text", [percent(one.text_choices) for one in found.values()]))
    rows.append(("tokens whose choices agree", [str(one.agreeing_tokens) for one in found.values()]))
    rows.append(("output error over those", [error(one.error_agreeing) for one in found.values()]))
    rows.append(("  largest of one token", [error(one.error_agreeing_token) for one in found.values()]))
    rows.append(("output error over all tokens", [error(one.error_all) for one in found.values()]))
    rows.append(("  largest of one token", [error(one.error_all_token) for one in found.values()]))
    return "\n".join(f"{title:30}" + "".join(f"{cell:>26}" for cell in cells) for title, cells in rows)


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison of each file; 0 when all pass, 1 when one does not, 2 for an unfit file or setting."""
    parser = Parser(prog="python -m videonsa.fidelity", description=(__doc__ or "\n").splitlines()[0])
    parser.add_argument("files", nargs="+", type=folder, metavar="FILE.npz")
    parser.add_argument("--semantics", default="release", help="also release-NAME or NAME+NAME (default: release)")
    parser.add_argument(
        "--backend", default="reference", choices=["reference", "triton"], help="which is judged (default: reference)"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to compute (default: cpu)")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: there is no CUDA device", file=sys.stderr)
        return 2
    if options.backend == "triton" and options.device != "cuda":
        print("--backend triton: give --device cuda", file=sys.stderr)
        return 2
    passed = True
    try:
        semantics = canonical_semantics(options.semantics)
        for path in options.files:
            vectors = load_vectors(path, options.device)
            titles = [JUDGED] if options.backend == "triton" else list(ROUNDINGS)
            found = {title: compare(vectors, semantics, ROUNDINGS[title], options.backend) for title in titles}
            vision = int(vectors["is_vision"].sum())
            sizes = " ".join(f"{name}={int(vectors[name])}" for name in SIZES)
            print(f"{path}: {vision} vision and {len(vectors['is_vision']) - vision} text tokens, {sizes}")
            print(f"semantics={semantics}, {'Triton kernels' if options.backend == 'triton' else 'float32 arithmetic'}")
            print(table(found))
            passed &= found[JUDGED].passes
            print(
                f"{'PASS' if found[JUDGED].passes else 'FAIL'} ({JUDGED}): to pass, choices are at least "
                f"{LEAST_AGREEMENT:.0%} equal and the output error over agreeing tokens is at most {LARGEST_ERROR:g}\n"
            )
    except (VectorFileError, SettingsError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if passed else 1


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())

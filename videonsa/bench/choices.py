"""Do the kernels choose the blocks that float64 chooses? `python -m videonsa.bench.choices`

Prints, for each precision and seed, how many choices differ (each query makes one for each key/value head), the widest
gap between two blocks that changed places, and the output's relative error, at all queries and at those that choose the
same blocks. A choice is a step: where two blocks tie, rounding decides between them, and the two outputs have little in
common. Exits 1 when a gap is wider than TIE: then the choice is wrong, and no tie. Needs a CUDA device.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from videonsa.bench import command, providers
from videonsa.bench.case import DTYPES, Case, make_inputs
from videonsa.kernels.plan import make_plan
from videonsa.kernels.reference import attention_probabilities, choose_blocks
from videonsa.names import BRANCHES
from videonsa.options import Parser

# Relative difference of two importances that the kernels may order otherwise than float64. In half precision their
# log-sum-exp is of mean keys rounded to that type, so the heads of a group weigh a little otherwise (select.py).
TIE = {torch.float32: 2.0**-17, torch.float16: 2.0**-15, torch.bfloat16: 2.0**-12}


@dataclass(frozen=True)
class Choices:
    """Where the kernels' choices of blocks are those of float64."""

    same: Tensor  # bool [B, L], queries whose choices are equal for every key/value head
    differ: int  # choices that are not
    of: int  # choices, of queries that see more blocks than they may choose
    widest: float  # relative difference in importance of the best block left out and the worst taken in its place


def compare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    case: Case,
    cu_seqlens: Tensor | None = None,
    branches: tuple[str, ...] = BRANCHES,
) -> Choices:
    """Choices of the Triton kernels against float64's: query [B, L, Hq, D], key and value [B, L, Hkv, D].

    branches: with slc; the kernels' log-sum-exp comes from another launch where cmp is computed too.
    """
    from videonsa.kernels.triton_backend import Settings, attend

    plan = make_plan(query, cu_seqlens, case.block_size)
    same = torch.ones(plan.tokens, dtype=torch.bool, device=query.device)
    gaps = [torch.zeros(0, device=query.device)]
    if case.block_count < plan.most_blocks:
        rows, keys, values = (tensor.detach().flatten(0, 1).contiguous() for tensor in (query, key, value))
        settings = Settings(plan, case.block_count, case.window, branches, case.scale)
        index = attend(rows, keys, values, settings)[2]
        assert index is not None
        for i, (start, end) in enumerate(plan.sequences):
            chosen = index[start:end].long() - plan.block_ends[i]
            gap_LH = lost(rows[start:end], keys[start:end], chosen, case)
            same[start:end] = (gap_LH == 0).all(1)
            gaps.append(gap_LH[settings.chooses_from :].flatten())
    gap = torch.cat(gaps)
    widest = float(gap.max()) if len(gap) else 0.0
    return Choices(same.view(query.shape[:2]), int((gap > 0).sum()), len(gap), widest)


def lost(query: Tensor, key: Tensor, index_LHb: Tensor, case: Case) -> Tensor:
    """What a sequence's choices lose, [L, Hkv]: relative difference in importance of the best block left out and the
    worst taken in its place, 0 where none was; infinity for a choice that no rounding explains.

    query [L, Hq, D], key [L, Hkv, D]; index: the chosen blocks, read where a query sees more than there may be.
    """
    found = []
    for start, probability in attention_probabilities(
        query.double()[None], key.double()[None], block_size=case.block_size, block_count=case.block_count, window=0,
        branches=("cmp",), scale=case.scale,
    ):  # fmt: skip
        importance_HCJ = probability["cmp"][0].sum(1)
        position_C1 = torch.arange(start, start + importance_HCJ.shape[1], device=query.device)[:, None]
        own_C1 = position_C1 // case.block_size
        best_HCJ = choose_blocks(importance_HCJ[None], position_C1, case.block_size, case.block_count)[0]
        index_HCb = index_LHb[start : start + len(own_C1)].transpose(0, 1).clamp(0, best_HCJ.shape[-1] - 1)
        ours_HCJ = torch.zeros_like(best_HCJ).scatter(-1, index_HCb, True)
        ours_HCJ = torch.where(own_C1 < case.block_count, best_HCJ, ours_HCJ)
        padded_HCJ = torch.nn.functional.pad(importance_HCJ, (0, best_HCJ.shape[-1] - importance_HCJ.shape[-1]))
        left_out_HC = padded_HCJ.masked_fill(~best_HCJ | ours_HCJ, 0.0).amax(-1)
        taken_HC = padded_HCJ.masked_fill(~ours_HCJ | best_HCJ, torch.inf).amin(-1)
        gap_HC = ((left_out_HC - taken_HC) / left_out_HC).clamp(min=torch.finfo(torch.float64).tiny)
        gap_HC = gap_HC.where((ours_HCJ != best_HCJ).any(-1), 0.0)
        has_own_HC = ours_HCJ.gather(-1, own_C1.expand(len(ours_HCJ), -1, -1))[..., 0]
        sound_HC = has_own_HC & (ours_HCJ.sum(-1) == best_HCJ.sum(-1))
        found.append(gap_HC.where(sound_HC, torch.inf).T)
    return torch.cat(found)


def report(case: Case, dtype: str, seed: int) -> tuple[str, bool]:
    """A line of the table, and whether every choice that differs is a tie."""
    inputs = make_inputs(case, torch.device("cuda"), seed)
    found = compare(inputs.query, inputs.key, inputs.value, case)
    with torch.no_grad():
        ours = providers.attention("triton", case)(*inputs[:4]).double()
        exact = providers.attention("reference", case)(*(tensor.double() for tensor in inputs[:4]))
    errors = [float((ours - exact)[rows].norm() / exact[rows].norm()) for rows in (slice(None), found.same)]
    line = (
        f"{dtype:9} {seed:4} {found.differ:9} of {found.of:7} {found.widest:12.1e} {errors[0]:13.1e} {errors[1]:13.1e}"
    )
    return line, found.widest <= TIE[DTYPES[dtype]]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0 when every choice that differs is a tie, 1 when one is not, 2 without a device."""
    parser = Parser(prog="python -m videonsa.bench.choices", description=(__doc__ or "\n").splitlines()[0])
    for name, value in (("length", 6000), ("heads", 14), ("kv-heads", 2), ("head-dim", 128), ("block-size", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--block-count", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES), default=["bfloat16", "float16"])
    options = parser.parse_args(arguments)
    if not command.has_device("videonsa.bench.choices"):
        return 2
    sizes = (options.length, options.heads, options.kv_heads, options.head_dim, options.block_size, options.block_count)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {options}")
    print("dtype     seed  choices differ      widest gap  error, all    error, same choice")
    sound = True
    for dtype in options.dtypes:
        for seed in options.seeds:
            line, tie = report(Case(*sizes, 64, dtype, "random"), dtype, seed)
            print(line)
            sound &= tie
    return 0 if sound else 1


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())

"""Does any output read a later token? `python -m videonsa.audit [--semantics paper] [--backend all]`

Asked of each branch's output and of their sum, at vision and at text tokens, in two ways:
    perturbation: one token's query, key, value and gates are replaced; do outputs at earlier tokens change?
    gradient: does an output have a gradient with respect to a later token's query, key, value or gates?
A choice of blocks that depends on later tokens shows in the first only, because no gradient flows through it.
Exits 0 when nothing leaks, 1 when something does, 2 for a wrong argument.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from videonsa.config import BRANCHES, NSASettings, SettingsError, canonical_semantics, differences
from videonsa.kernels import nsa_attention
from videonsa.kernels.release import mixed_attention
from videonsa.options import Parser, positive

Inputs = dict[str, Tensor]  # query, key, value, gates of one sample, as in nsa_attention
ROWS = (*BRANCHES, "dense", "sum")  # the three branches, dense attention (of text; gate_leak has some for vision), all
BLOCK_SIZE, BLOCK_COUNT, WINDOW = 16, 3, 20
SPANS = ((6, False), (63, True), (5, False), (55, True), (8, False))  # (tokens, are they vision)
HEADS, KV_HEADS, HEAD_SIZE = 14, 2, 16
STRIDE = 5  # every fifth token is perturbed, every fifth output differentiated
# Relative changes above this are leaks. Kernels may add in another order, which half precision shows at 1e-3; a leak is
# of the order of the values.
THRESHOLD = {torch.float64: 1e-9, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Leak:
    """What later tokens do to the outputs of one branch at one modality; each amount with how far ahead it reaches."""

    branch: str
    outputs: str  # vision or text
    change: float  # largest |change| of an output by a later token, relative to the largest by any token
    change_ahead: int  # tokens from the output to the farthest such token; 0: none
    gradient: float  # largest gradient with respect to a later token, relative to the largest to any token
    gradient_ahead: int

    @property
    def leaks(self) -> bool:
        """Whether any later token matters."""
        return self.change_ahead > 0 or self.gradient_ahead > 0


def layer(inputs: Inputs, is_vision: Tensor, branch: str, semantics: str, backend: str) -> Tensor:
    """One layer's attention, [1, L, heads, D]: only one branch's gated part, only the dense part, or the sum."""
    branches = BRANCHES if branch == "sum" else tuple(name for name in BRANCHES if name == branch)
    if semantics != "paper":
        whole = release_layer(inputs, is_vision, branches, semantics)
        return whole - release_layer(inputs, is_vision, (), semantics) if branch in BRANCHES else whole
    output = torch.zeros_like(inputs["query"])
    if branch in ("dense", "sum"):
        output = release_layer(inputs, is_vision, (), "paper")
    if branches:
        sparse = nsa_attention(
            *(inputs[name][:, is_vision].contiguous() for name in ("query", "key", "value", "gates")),
            block_size=BLOCK_SIZE,
            block_count=BLOCK_COUNT,
            window=WINDOW,
            branches=branches,
            backend=backend,
        )
        output = output.index_add(1, is_vision.nonzero()[:, 0], sparse)
    return output


def release_layer(inputs: Inputs, is_vision: Tensor, branches: tuple[str, ...], semantics: str) -> Tensor:
    """The dense part and these branches."""
    return mixed_attention(
        inputs["query"],
        inputs["key"],
        inputs["value"],
        inputs["gates"],
        is_vision,
        block_size=BLOCK_SIZE,
        block_count=BLOCK_COUNT,
        window=WINDOW,
        branches=branches,
        differences=differences(semantics),
        backend="reference",
    )


def random_inputs(length: int, device: str, dtype: torch.dtype, seed: int = 0) -> Inputs:
    """Standard normal queries, keys and values; gates between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"query": (HEADS, HEAD_SIZE), "key": (KV_HEADS, HEAD_SIZE), "value": (KV_HEADS, HEAD_SIZE)}
    drawn = {name: torch.randn(1, length, *shape, generator=generator) for name, shape in shapes.items()}
    drawn["gates"] = torch.rand(1, length, HEADS, 3, generator=generator)
    return {name: tensor.to(device, dtype) for name, tensor in drawn.items()}


def audit(semantics: str, backend: str) -> list[Leak]:
    """Every branch and the sum, at vision and text tokens; branches that put nothing there are left out."""
    device, dtype = ("cuda", torch.bfloat16) if backend == "triton" else ("cpu", torch.float64)
    is_vision = torch.tensor([vision for tokens, vision in SPANS for _ in range(tokens)], device=device)
    inputs = random_inputs(len(is_vision), device, dtype)
    found = []
    for branch in ROWS:

        def compute(given: Inputs, branch: str = branch) -> Tensor:
            return layer(given, is_vision, branch, semantics, backend)[0].flatten(1)

        change_LL = changes(compute, inputs)
        gradient_LL = gradients(compute, inputs)
        for outputs, rows in (("vision", is_vision.cpu()), ("text", ~is_vision.cpu())):
            if change_LL[rows].any():  # else the branch has no output at these tokens
                amounts = [amount_and_reach(matrix, rows, THRESHOLD[dtype]) for matrix in (change_LL, gradient_LL)]
                found.append(Leak(branch, outputs, *amounts[0], *amounts[1]))
    return found


@torch.no_grad()
def changes(compute: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
    """[t, p]: norm of the change of the output at t when token p's inputs are replaced."""
    before = compute(inputs)
    length = len(before)
    other = random_inputs(length, str(before.device), before.dtype, seed=1)
    change_LL = torch.zeros(length, length, dtype=torch.float64)
    for token in range(0, length, STRIDE):
        replaced = {name: tensor.clone() for name, tensor in inputs.items()}
        for name, tensor in replaced.items():
            tensor[:, token] = other[name][:, token]
        change_LL[:, token] = (compute(replaced) - before).double().norm(dim=1).cpu()
    return change_LL


def gradients(compute: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
    """[t, p]: norm of the gradient of a random projection of the output at t with respect to token p's inputs."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    output = compute(leaves)
    length = len(output)
    direction = torch.randn(output.shape[1], generator=torch.Generator().manual_seed(2)).to(output)
    gradient_LL = torch.zeros(length, length, dtype=torch.float64)
    for token in range(0, length, STRIDE):
        found = torch.autograd.grad(
            output[token] @ direction, list(leaves.values()), retain_graph=True, materialize_grads=True
        )
        squares = [gradient[0].double().flatten(1).square().sum(dim=1) for gradient in found]
        gradient_LL[token] = torch.stack(squares).sum(dim=0).sqrt().cpu()
    return gradient_LL


def amount_and_reach(matrix_LL: Tensor, rows: Tensor, threshold: float) -> tuple[float, int]:
    """The largest entry of a later token in these rows, relative to the largest of any, and how far ahead it goes."""
    ahead_LL = torch.arange(len(matrix_LL)) - torch.arange(len(matrix_LL))[:, None]
    relative = matrix_LL[rows] / matrix_LL[rows].max().clamp_min(1e-30)
    ahead = ahead_LL[rows]
    reach = ahead[(ahead > 0) & (relative > threshold)]
    return float(relative[ahead > 0].max()), int(reach.max()) if len(reach) else 0


def table(found: list[Leak]) -> str:
    """One line a branch and modality."""
    lines = [f"{'output':14} {'changed by later tokens':34} {'gradient from later tokens':34}"]

    def cell(amount: float, reach: int) -> str:
        return f"{amount:8.1e} of the largest, {reach} ahead" if reach else f"no ({amount:.0e})"

    for leak in found:
        cells = cell(leak.change, leak.change_ahead), cell(leak.gradient, leak.gradient_ahead)
        verdict = "LEAKS" if leak.leaks else "clean"
        lines.append(f"{leak.branch + ', ' + leak.outputs:14} {cells[0]:34} {cells[1]:34} {verdict}")
    return "\n".join(lines)


def memory(length: int) -> list[tuple[str, float, float]]:
    """Release semantics with the 7B model's heads, one layer: (what, peak GiB of GPU memory, seconds)."""
    inputs = {
        name: torch.randn(1, length, heads, 128, device="cuda", dtype=torch.bfloat16)
        for name, heads in (("query", 28), ("key", 4), ("value", 4))
    }
    inputs["gates"] = torch.rand(1, length, 28, 3, device="cuda", dtype=torch.bfloat16)
    is_vision = torch.ones(length, dtype=torch.bool, device="cuda")
    is_vision[:40] = is_vision[-60:] = False
    found = []
    for title, with_gradient in (("forward", False), ("forward and backward", True)):
        leaves = {name: tensor.requires_grad_(with_gradient) for name, tensor in inputs.items()}
        torch.cuda.reset_peak_memory_stats()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        output = mixed_attention(
            leaves["query"],
            leaves["key"],
            leaves["value"],
            leaves["gates"],
            is_vision,
            block_size=64,
            block_count=32,
            window=256,
            backend="reference",
        )
        if with_gradient:
            output.float().square().mean().backward()
        end.record()
        torch.cuda.synchronize()
        found.append((title, torch.cuda.max_memory_allocated() / 2**30, start.elapsed_time(end) / 1e3))
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; the module's docstring says what it prints and returns."""
    parser = Parser(prog="python -m videonsa.audit", description=(__doc__ or "\n").splitlines()[0])
    parser.add_argument("--semantics", default="paper", help="paper, release, release-NAME or NAME+NAME")
    parser.add_argument("--backend", default="all", choices=["all", "reference", "triton"])
    parser.add_argument("--memory", type=positive, metavar="TOKENS", help="instead: release semantics' peak GPU memory")
    options = parser.parse_args(arguments)
    cuda = torch.cuda.is_available()
    try:
        semantics = canonical_semantics(options.semantics)
        if options.backend != "all":
            NSASettings(semantics=semantics, backend=options.backend)
        if options.backend == "triton" and semantics != "paper":
            raise SettingsError("--backend triton: only paper semantics; others are audited on the reference")
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if (options.memory or options.backend == "triton") and not cuda:
        print("this needs a CUDA device, and there is none", file=sys.stderr)
        return 2
    if options.memory:
        for title, peak, seconds in memory(options.memory):
            print(f"{options.memory} tokens, {title}: peak {peak:.2f} GiB, {seconds:.2f} s")
        return 0
    backends = [options.backend]
    if options.backend == "all":
        backends = ["reference", "triton"] if cuda and semantics == "paper" else ["reference"]
    leaks = False
    length = sum(tokens for tokens, _ in SPANS)
    sizes = f"block_size={BLOCK_SIZE} block_count={BLOCK_COUNT} window={WINDOW}"
    for backend in backends:
        found = audit(semantics, backend)
        leaks |= any(leak.leaks for leak in found)
        print(f"semantics={semantics} backend={backend}: {length} tokens, {sizes}\n{table(found)}\n")
    if options.backend == "all" and backends == ["reference"]:
        reason = "no CUDA device" if semantics == "paper" else "other semantics are audited on the reference"
        print(f"backend=triton: not audited, {reason}")
    return 1 if leaks else 0


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())

"""Made-up queries and keys that have what real ones have: sinks, vertical stripes, local mass, diagonals, episodes.

Every score is a sum of parts that lie in dimensions of their own:

    sink      the first 4 keys, for every query
    stripe    0.2 % of the keys (at least 4), other ones for each key/value head, for every query: vertical lines
    local     a sum of cosines of the distance, as rotary positions make it: highest at the query, and mass on the last
              some hundred keys
    diagonal  cosines of the distance whose periods divide a frame of 256 tokens: the same place of every earlier frame
    episode   a frame belongs to one of 24 episodes and stays in its predecessor's in 9 of 10 cases; a query attends to
              all frames of its own episode: blocks
    diffuse   what is left: independent Gaussian scores of standard deviation 1 over all keys

Heads differ: each query head draws its shares of the attention of a sample's last query from a Dirichlet distribution
with the means of SHARES and concentration CONCENTRATION, and strengths follow from the shares. An earlier query has
fewer keys to spread its diffuse part over, so that the other parts gain. The seven query heads of a key/value head
share its keys, and so the places of its stripes. The shares and forms are assumptions in the spirit of what the papers
of MInference, FlexPrefill and XAttention show; they were measured in no model.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SHARES = {"sink": 0.35, "stripe": 0.12, "local": 0.25, "diagonal": 0.08, "episode": 0.12, "diffuse": 0.08}
CONCENTRATION = 8.0
SINKS, STRIPES, FRAME, EPISODES, STAY = 4, 0.002, 256, 24, 0.9
WIDTH = {"sink": 2, "stripe": 2, "local": 32, "diagonal": 16, "episode": 24}  # dimensions; the rest is diffuse
LOUDNESS = 4.0  # norm of a key's part


class Lifelike(NamedTuple):
    """query [L, Hq, D]; key, value [L, Hkv, D]; shares float32 [Hq, 6], those drawn, in the order of SHARES."""

    query: Tensor
    key: Tensor
    value: Tensor
    shares: Tensor


def lifelike(
    length: int,
    heads: int = 28,
    kv_heads: int = 4,
    head_dim: int = 128,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Lifelike:
    """Queries and keys for attention scaled by 1/sqrt(D), and Gaussian values. ValueError for a head that is small."""
    diffuse = head_dim - sum(WIDTH.values())
    if diffuse < 16:
        raise ValueError(f"head_dim={head_dim} is not valid: at least {sum(WIDTH.values()) + 16}, for all parts")
    generator = torch.Generator("cpu").manual_seed(seed)
    on_device = torch.Generator(device).manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=on_device, device=device)

    keys = [_parts(length, generator, device) for _ in range(kv_heads)]
    shares = _dirichlet(heads, generator)
    query = torch.empty(length, heads, head_dim, dtype=dtype, device=device)
    key = torch.empty(length, kv_heads, head_dim, dtype=dtype, device=device)
    spread = (head_dim / diffuse) ** 0.25  # so that diffuse scores have standard deviation 1
    for head, parts in enumerate(keys):
        key[:, head] = torch.cat([LOUDNESS * part.key for part in parts] + [spread * noise(length, diffuse)], 1)
        group = range(head * heads // kv_heads, (head + 1) * heads // kv_heads)
        for number in group:
            gains = _strengths(shares[number], parts)
            unit = math.sqrt(head_dim) / LOUDNESS
            loud = [gain * unit * part.query for gain, part in zip(gains, parts, strict=True)]
            query[:, number] = torch.cat([*loud, spread * noise(length, diffuse)], 1)
    return Lifelike(query, key, noise(length, kv_heads, head_dim).to(dtype), shares)


class _Part(NamedTuple):
    """Directions [L, width] of queries and keys: their product is a part's form, 1 where it is highest."""

    query: Tensor
    key: Tensor


def _parts(length: int, generator: torch.Generator, device: torch.device | str) -> list[_Part]:
    """The parts of a key/value head, in the order of WIDTH."""
    position = torch.arange(length, device=device)
    stripes = torch.randperm(length, generator=generator)[: max(4, int(STRIPES * length))].to(device)
    is_stripe = torch.zeros(length, device=device).index_fill_(0, stripes, 1.0)
    local = 10.0 ** -torch.linspace(0, 4.5, WIDTH["local"] // 2)
    diagonal = 2 * math.pi / FRAME * torch.arange(1, WIDTH["diagonal"] // 2 + 1)
    frames = -(-length // FRAME)
    fresh = torch.randint(0, EPISODES, (frames,), generator=generator).tolist()
    stays = (torch.rand(frames, generator=generator) < STAY).tolist()
    episodes = fresh[:1]
    for number, stay in zip(fresh[1:], stays[1:], strict=True):
        episodes.append(episodes[-1] if stay else number)
    episode = torch.tensor(episodes, device=device).repeat_interleave(FRAME)[:length]
    one_hot = torch.nn.functional.one_hot(episode, WIDTH["episode"]).float()
    return [
        _same_for_all_queries((position < SINKS).float(), WIDTH["sink"]),
        _same_for_all_queries(is_stripe, WIDTH["stripe"]),
        _rotated(position, local.to(device)),
        _rotated(position, diagonal.to(device)),
        _Part(one_hot, one_hot),
    ]


def _same_for_all_queries(marked: Tensor, width: int) -> _Part:
    direction = torch.full((width,), width**-0.5, device=marked.device)
    return _Part(direction.expand(len(marked), -1), marked[:, None] * direction)


def _rotated(position: Tensor, frequencies: Tensor) -> _Part:
    """A product that is the mean of cos(frequency * distance)."""
    angle = (position[:, None] * frequencies.double()).float()
    both = torch.cat([angle.cos(), angle.sin()], 1) * len(frequencies) ** -0.5
    return _Part(both, both)


def _dirichlet(heads: int, generator: torch.Generator) -> Tensor:
    """[heads, 6] shares that sum to 1: Gamma numbers of whole or half shape, as sums of squares of Gaussian ones."""
    degrees = [max(1, round(2 * CONCENTRATION * mean)) for mean in SHARES.values()]
    drawn = [torch.randn(heads, count, generator=generator).square().sum(1) for count in degrees]
    gamma = torch.stack(drawn, 1)
    return gamma / gamma.sum(1, keepdim=True)


def _strengths(shares: Tensor, parts: list[_Part]) -> list[float]:
    """The highest score of each part, in the order of WIDTH, with which the last query gives it its share.

    Scores add, so weights multiply: beside a diffuse part of 1 a key, local, diagonal and episode in turn raise the
    sum of the weights by their share (solved by halving); then sinks and stripes weigh, whatever they weighed before,
    what is their share of all.
    """
    wanted = dict(zip(SHARES, shares.double().tolist(), strict=True))
    forms = {name: (part.key @ part.query[-1]).double() for name, part in zip(WIDTH, parts, strict=True)}
    marked = {name: forms[name] > 0.5 for name in ("sink", "stripe")}
    weight = (~(marked["sink"] | marked["stripe"])).double()
    unit = weight.sum() / max(wanted["diffuse"], 1e-3)  # the sum of all weights, in the end
    found = {}
    for name in ("local", "diagonal", "episode"):
        found[name] = _solve(weight, forms[name], float(wanted[name] * unit))
        weight = weight * (found[name] * forms[name]).exp()
    elsewhere = torch.stack([found[name] * forms[name] for name in found]).sum(0).exp()
    total = weight.sum() / (1 - wanted["sink"] - wanted["stripe"])
    for name in ("sink", "stripe"):
        found[name] = float((wanted[name] * total / (elsewhere * marked[name]).sum()).log())
    return [found[name] for name in WIDTH]


def _solve(weight: Tensor, form: Tensor, goal: float) -> float:
    """The strength, of at most 40, at which sum of weight * (exp(strength * form) - 1) reaches a goal."""
    low, high = 0.0, 40.0
    for _ in range(20):
        middle = (low + high) / 2
        reached = float((weight * torch.expm1(middle * form)).sum()) >= goal
        low, high = (low, middle) if reached else (middle, high)
    return high

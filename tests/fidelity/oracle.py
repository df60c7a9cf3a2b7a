"""The release's attention written down a second time: float64 numpy, one token and one head slot at a time.

Follows the description in docs/semantics.md with loops and no sharing of code with videonsa.kernels.release.
"""

from __future__ import annotations

import math

import numpy as np


def softmax_mean(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights @ values / weights.sum()


def bitonic_sort(pairs: list[tuple[float, int]], low: int, count: int, descending: bool) -> None:
    """Batcher's network on pairs[low : low + count], recursively: halves up and down, then merged."""
    if count == 1:
        return
    half = count // 2
    bitonic_sort(pairs, low, half, False)
    bitonic_sort(pairs, low + half, half, True)
    bitonic_merge(pairs, low, count, descending)


def bitonic_merge(pairs: list[tuple[float, int]], low: int, count: int, descending: bool) -> None:
    if count == 1:
        return
    half = count // 2
    for i in range(low, low + half):
        greater = pairs[i][0] > pairs[i + half][0]
        if greater != descending:  # a descending comparator swaps equals
            pairs[i], pairs[i + half] = pairs[i + half], pairs[i]
    bitonic_merge(pairs, low, half, descending)
    bitonic_merge(pairs, low + half, half, descending)


def ranked(importance: list[float], own: int, count: int, width: int) -> list[int]:
    """The chosen blocks of one query of one key/value head, best first, -1 for none."""
    kept: list[tuple[float, int]] = []
    for start in range(0, own + 1, width):
        group = [(importance[j], j) if j <= own else (0.0, -1) for j in range(start, start + width)]
        if not kept:
            bitonic_sort(group, 0, width, True)
            kept = group
        else:
            bitonic_sort(group, 0, width, False)
            kept = kept[: width // 2] + group[width // 2 :]
            bitonic_merge(kept, 0, width, True)
    return [label for _, label in kept[:count]]


def release_layer(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    gates: np.ndarray,
    is_vision: np.ndarray,
    block_size: int,
    block_count: int,
    window: int,
) -> tuple[np.ndarray, np.ndarray]:
    """query [L, Q, D], key and value [L, H, D], gates [L, Q, 3] -> outputs [L, Q, D] and choices [L, H, n]."""
    length, heads, size = query.shape
    kv_heads = key.shape[1]
    scale = 1 / math.sqrt(size)
    group = 1
    while group * kv_heads < 2 * heads:
        group *= 2
    slots = group * kv_heads
    head_of = [*range(heads), *range(heads)]
    q = np.zeros((length, slots, size))
    for slot, head in enumerate(head_of):
        q[:, slot] = query[:, head] * is_vision[:, None]
    k, v = key * is_vision[:, None, None], value * is_vision[:, None, None]
    blocks = -(-length // block_size)
    k_mean = np.stack([k[j * block_size : (j + 1) * block_size].mean(axis=0) for j in range(blocks)])
    v_mean = np.stack([v[j * block_size : (j + 1) * block_size].mean(axis=0) for j in range(blocks)])

    lse = np.zeros((slots, length))
    compressed = np.zeros((length, slots, size))
    for t in range(length):
        for slot in range(slots):
            scores = k_mean[t // block_size :, slot // group] @ q[t, slot] * scale  # its own block and all later ones
            lse[slot, t] = math.log(np.exp(scores).sum())
            compressed[t, slot] = softmax_mean(scores, v_mean[t // block_size :, slot // group])
    misread = lse.flatten()

    count = 1
    while count < block_count:
        count *= 2
    choices = np.full((length, kv_heads, count), -1)
    selected, windowed = np.zeros_like(compressed), np.zeros_like(compressed)
    for t in range(length):
        own = t // block_size
        for h in range(kv_heads):
            mine = range(h * group, (h + 1) * group)
            importance = [
                sum(math.exp(q[t, s] @ k_mean[j, h] * scale - misread[t * slots + s]) for s in mine) for j in range(own)
            ]
            choices[t, h] = ranked([*importance, float(group)], own, count, block_size)
            tokens = [i for j in choices[t, h] if j >= 0 for i in range(j * block_size, (j + 1) * block_size) if i <= t]
            recent = range(max(0, t - window + 1), t + 1)
            for s in mine:
                selected[t, s] = softmax_mean(k[tokens, h] @ q[t, s] * scale, v[tokens, h])
                windowed[t, s] = softmax_mean(k[recent, h] @ q[t, s] * scale, v[recent, h])

    output = np.zeros_like(query)
    dense = not is_vision.all()
    for t in range(length):
        for head in range(heads):
            gate = gates[t, head] if is_vision[t] else (0.5, 0.5, 0.5)
            for branch, weight in zip((compressed, selected, windowed), gate, strict=True):
                output[t, head] += weight * (branch[t, head] + branch[t, heads + head]) / 2
            if dense:
                h = head // (heads // kv_heads)
                question = query[t, head] * (not is_vision[t])
                output[t, head] += softmax_mean(key[: t + 1, h] @ question * scale, value[: t + 1, h])
    return output, choices

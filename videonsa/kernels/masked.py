"""Selection, window and gated sum in one kernel, for sequences so short that masking keys costs less than gathering.

The lists of selected.py pay for partial results: 32 of them a query and head, written and read again. Up to some
thousands of tokens it is cheaper to score every key once and to mask what was not chosen; the window branch takes its
probabilities from the same scores, and the gated sum needs no pass of its own. Backward, one kernel yields the queries'
and the gates' gradients of all branches, another the keys' and values' of these two. Which way pays: tiling.masks.

Which blocks a query chose is a row of bits, [T, HK, words] int32: bit j % 32 of word j / 32 is block j of its sequence.
Nothing is added atomically: results are deterministic.

Shapes: query, out, grad [T, HQ, D]; key, value [T, HK, D]; gates, shares [T, HQ, 3]; lse of slc [T, HQ], of cmp and
swa [HQ, T], base 2; statistics [3, HQ, T, 4], of each branch what rowstats.py says.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from videonsa.kernels import tiling
from videonsa.kernels.flash import LOG2E, query_gradient_step
from videonsa.kernels.plan import Plan
from videonsa.kernels.rowstats import load_four
from videonsa.kernels.tiles import load_rows, load_tile, rows_of, store_rows
from videonsa.limits import next_power_of_two
from videonsa.names import BRANCHES


@triton.jit(do_not_specialize=["tokens", "words"])
def _bits(index, bits, position, first_block, tokens, words, HK: tl.constexpr, BLOCK: tl.constexpr,
          COUNT: tl.constexpr, COUNT_2: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Chosen blocks as bits; all of them for a query that sees no more than COUNT."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1)
    live = row < tokens
    place = row.to(tl.int64) * HK + head
    rank = tl.arange(0, COUNT_2)
    chooses = live & (tl.load(position + row, mask=live, other=0) // BLOCK >= COUNT)
    block = tl.load(index + place[:, None] * COUNT + rank[None, :], mask=chooses[:, None] & (rank < COUNT)[None, :],
                    other=-1)  # fmt: skip
    block = tl.where(block < 0, -1, block - tl.load(first_block + row, mask=live, other=0)[:, None])
    for word in range(0, words):
        inside = (block >= word * 32) & (block < word * 32 + 32)
        found = tl.sum(tl.where(inside, 1 << (block & 31), 0), 1)  # each block once: a sum of bits is their union
        tl.store(bits + place * words + word, tl.where(chooses, found, -1), mask=live)


@triton.jit
def _chose(bits, rows, live, head, first_key, words, HK: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS]: whether the rows chose the blocks of keys first_key .. + COLUMNS, counted in their sequence.

    COLUMNS divide first_key, so that the blocks of a tile stand in one word."""
    word = tl.load(bits + (rows.to(tl.int64) * HK + head) * words + first_key // BLOCK // 32, mask=live, other=0)
    block = (first_key + tl.arange(0, COLUMNS)) // BLOCK
    return ((word[:, None] >> (block & 31)[None, :]) & 1) != 0


@triton.jit
def _take(score, value_tile, top, total, sum_):
    """Take scores (base 2) into the running maximum, denominator and weighted sum of the values."""
    new_top = tl.maximum(top, tl.max(score, 1))
    probability = tl.exp2(score - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(probability, 1)
    sum_ = tl.dot(probability.to(value_tile.dtype), value_tile, sum_ * shrink[:, None], input_precision="ieee")
    return new_top, total, sum_


@triton.jit
def _near(at, live, window, SWA: tl.constexpr, COLUMNS: tl.constexpr):
    """The first key of the tiles that some query of a tile does not see, or has in its window."""
    near = tl.min(tl.where(live, at + 1, 2147483647), 0)
    if SWA:
        near = tl.maximum(near - window, 0)
    return near // COLUMNS * COLUMNS


@triton.jit(do_not_specialize=["queries", "words", "window"])
def _forward(query, key, value, gates, bits, cmp_out, slc_out, slc_lse, swa_out, swa_lse, out, position, tiles, queries,
             words, window, scale, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
             ROWS: tl.constexpr, COLUMNS: tl.constexpr, CMP: tl.constexpr, SWA: tl.constexpr,
             CHOOSES: tl.constexpr, GATED: tl.constexpr):  # fmt: skip
    head = tl.program_id(0)
    kv_head = head // (HQ // HK)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)  # later queries see more keys: longest first
    first = tl.load(tiles + tile * 3)
    rows = first + tl.arange(0, ROWS)
    live = rows < tl.load(tiles + tile * 3 + 1)
    first_key = tl.load(tiles + tile * 3 + 2)
    at = tl.load(position + rows, mask=live, other=-1)
    query_tile = load_tile(query, first, head, D)
    near = _near(at, live, window, SWA, COLUMNS)
    end = tl.max(at, 0) + 1
    slc_top = tl.full([ROWS], -1.0e30, tl.float32)  # finite, so that a row which sees nothing yields 0 and no NaN
    slc_total = tl.zeros([ROWS], tl.float32)
    slc_sum = tl.zeros([ROWS, D], tl.float32)
    swa_top = tl.full([ROWS], -1.0e30, tl.float32)
    swa_total = tl.zeros([ROWS], tl.float32)
    swa_sum = tl.zeros([ROWS, D], tl.float32)
    for j in range(0, near, COLUMNS):
        score = tl.dot(query_tile, tl.trans(load_tile(key, first_key + j, kv_head, D)), input_precision="ieee") * scale
        if CHOOSES:
            score = tl.where(_chose(bits, rows, live, kv_head, j, words, HK, BLOCK, COLUMNS), score, float("-inf"))
        value_tile = load_tile(value, first_key + j, kv_head, D)
        slc_top, slc_total, slc_sum = _take(score, value_tile, slc_top, slc_total, slc_sum)
    for j in range(near, end, COLUMNS):
        score = tl.dot(query_tile, tl.trans(load_tile(key, first_key + j, kv_head, D)), input_precision="ieee") * scale
        index = j + tl.arange(0, COLUMNS)
        visible = index[None, :] <= at[:, None]
        value_tile = load_tile(value, first_key + j, kv_head, D)
        chosen = visible
        if CHOOSES:
            chosen = chosen & _chose(bits, rows, live, kv_head, j, words, HK, BLOCK, COLUMNS)
        slc_score = tl.where(chosen, score, float("-inf"))
        slc_top, slc_total, slc_sum = _take(slc_score, value_tile, slc_top, slc_total, slc_sum)
        if SWA:
            visible = visible & (index[None, :] > at[:, None] - window)
            score = tl.where(visible, score, float("-inf"))
            swa_top, swa_total, swa_sum = _take(score, value_tile, swa_top, swa_total, swa_sum)
    row = rows.to(tl.int64) * HQ + head
    gated = tl.zeros([ROWS, D], tl.float32)
    total = tl.where(live, slc_total, 1.0)  # a live row sees itself, and chose its own block
    slc_sum = slc_sum / total[:, None]
    store_rows(slc_out, slc_sum, rows, live, head, HQ, D)
    tl.store(slc_lse + row, slc_top + tl.log2(total), mask=live)
    if GATED:
        gated += tl.load(gates + row * 3 + 1, mask=live, other=0.0).to(tl.float32)[:, None] * slc_sum
    if SWA:
        total = tl.where(live, swa_total, 1.0)
        swa_sum = swa_sum / total[:, None]
        store_rows(swa_out, swa_sum, rows, live, head, HQ, D)
        tl.store(swa_lse + head.to(tl.int64) * queries + rows, swa_top + tl.log2(total), mask=live)
        if GATED:
            gated += tl.load(gates + row * 3 + 2, mask=live, other=0.0).to(tl.float32)[:, None] * swa_sum
    if GATED:
        if CMP:
            gate = tl.load(gates + row * 3, mask=live, other=0.0).to(tl.float32)
            gated += gate[:, None] * load_rows(cmp_out, rows, live, head, HQ, D).to(tl.float32)
        store_rows(out, gated, rows, live, head, HQ, D)


@triton.jit
def _share(branch_out, grad, rows, live, head, shares, statistics, lse, gates, at, branch, queries, HQ: tl.constexpr,
           D: tl.constexpr):  # fmt: skip
    """Dot product of a branch's output with the output's gradient: the gate's gradient. Also packs the statistics."""
    row = rows.to(tl.int64) * HQ + head
    share = tl.sum(grad * load_rows(branch_out, rows, live, head, HQ, D).to(tl.float32), 1)
    gate = tl.load(gates + row * 3 + branch, mask=live, other=0.0).to(tl.float32)
    tl.store(shares + row * 3 + branch, share, mask=live)
    which = tl.arange(0, 4)[None, :]
    four = tl.where(which == 0, lse[:, None], gate[:, None])
    four = tl.where(which == 2, share[:, None], four)
    four = tl.where(which == 3, at.to(tl.float32, bitcast=True)[:, None], four)
    place = (branch * HQ + head).to(tl.int64) * queries + rows
    tl.store(statistics + place[:, None] * 4 + which, four, mask=live[:, None])
    return gate, share


@triton.jit(do_not_specialize=["queries", "words", "window"])
def _query_gradient(query, key, value, key_mean, value_mean, gates, bits, grad, cmp_out, cmp_lse, slc_out, slc_lse,
                    swa_out, swa_lse, shares, statistics, grad_query, position, first_block, tiles, queries, words,
                    window, scale, natural_scale, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr,
                    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CMP: tl.constexpr,
                    SWA: tl.constexpr, CHOOSES: tl.constexpr):  # fmt: skip
    """Of all branches: grad_query = scale * sum of gate * (P * (grad V^T - share)) K; the shares; the statistics."""
    head = tl.program_id(0)
    kv_head = head // (HQ // HK)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    first = tl.load(tiles + tile * 3)
    rows = first + tl.arange(0, ROWS)
    live = rows < tl.load(tiles + tile * 3 + 1)
    first_key = tl.load(tiles + tile * 3 + 2)
    at = tl.load(position + rows, mask=live, other=-1)
    query_tile = load_tile(query, first, head, D)
    grad_tile = load_tile(grad, first, head, D)
    wide_grad = grad_tile.to(tl.float32)
    sum_ = tl.zeros([ROWS, D], tl.float32)
    if CMP:
        lse = tl.load(cmp_lse + head.to(tl.int64) * queries + rows, mask=live, other=1.0e30)
        gate, share = _share(
            cmp_out, wide_grad, rows, live, head, shares, statistics, lse, gates, at, 0, queries, HQ, D
        )
        base = tl.load(first_block + first)
        whole = (at + 1) // BLOCK
        edge = tl.min(tl.where(live, whole, 2147483647), 0) // COLUMNS * COLUMNS
        for j in range(0, edge, COLUMNS):
            sum_ = query_gradient_step(query_tile, grad_tile, key_mean, value_mean, base, kv_head, scale, at, lse,
                                       share, j, False, sum_, D, BLOCK, 0, COLUMNS)  # fmt: skip
        for j in range(edge, tl.max(whole, 0), COLUMNS):
            sum_ = query_gradient_step(query_tile, grad_tile, key_mean, value_mean, base, kv_head, scale, at, lse,
                                       share, j, True, sum_, D, BLOCK, 0, COLUMNS)  # fmt: skip
        sum_ = sum_ * gate[:, None]
    slc_row = tl.load(slc_lse + rows.to(tl.int64) * HQ + head, mask=live, other=1.0e30)
    slc_gate, slc_share = _share(slc_out, wide_grad, rows, live, head, shares, statistics, slc_row, gates, at, 1,
                                 queries, HQ, D)  # fmt: skip
    swa_row, swa_gate, swa_share = slc_row, slc_gate, slc_share
    if SWA:
        swa_row = tl.load(swa_lse + head.to(tl.int64) * queries + rows, mask=live, other=1.0e30)
        swa_gate, swa_share = _share(swa_out, wide_grad, rows, live, head, shares, statistics, swa_row, gates, at, 2,
                                     queries, HQ, D)  # fmt: skip
    near = _near(at, live, window, SWA, COLUMNS)
    end = tl.max(at, 0) + 1
    for j in range(0, near, COLUMNS):
        key_tile = load_tile(key, first_key + j, kv_head, D)
        value_tile = load_tile(value, first_key + j, kv_head, D)
        score = tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee") * scale
        probability = tl.exp2(score - slc_row[:, None]) * slc_gate[:, None]
        if CHOOSES:
            probability = tl.where(_chose(bits, rows, live, kv_head, j, words, HK, BLOCK, COLUMNS), probability, 0.0)
        grad_probability = tl.dot(grad_tile, tl.trans(value_tile), input_precision="ieee")
        grad_score = probability * (grad_probability - slc_share[:, None])
        sum_ = tl.dot(grad_score.to(key_tile.dtype), key_tile, sum_, input_precision="ieee")
    for j in range(near, end, COLUMNS):
        key_tile = load_tile(key, first_key + j, kv_head, D)
        value_tile = load_tile(value, first_key + j, kv_head, D)
        score = tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee") * scale
        grad_probability = tl.dot(grad_tile, tl.trans(value_tile), input_precision="ieee")
        index = j + tl.arange(0, COLUMNS)
        visible = index[None, :] <= at[:, None]
        chosen = visible
        if CHOOSES:
            chosen = chosen & _chose(bits, rows, live, kv_head, j, words, HK, BLOCK, COLUMNS)
        probability = tl.where(chosen, tl.exp2(score - slc_row[:, None]) * slc_gate[:, None], 0.0)
        grad_score = probability * (grad_probability - slc_share[:, None])
        if SWA:
            visible = visible & (index[None, :] > at[:, None] - window)
            probability = tl.where(visible, tl.exp2(score - swa_row[:, None]) * swa_gate[:, None], 0.0)
            grad_score += probability * (grad_probability - swa_share[:, None])
        sum_ = tl.dot(grad_score.to(key_tile.dtype), key_tile, sum_, input_precision="ieee")
    store_rows(grad_query, sum_ * natural_scale, rows, live, head, HQ, D)


@triton.jit
def _key_step(i, end, first, first_key, index, key, value, query, grad, statistics, bits, head, kv_head, queries, words,
              window, scale, key_sum, value_sum, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr,
              BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SWA: tl.constexpr,
              CHOOSES: tl.constexpr):  # fmt: skip
    """Add what queries i .. i + ROWS give to a tile of keys; SWA: some of them have some of it in their window."""
    rows = i + tl.arange(0, ROWS)
    live = rows < end
    at = (rows - first)[None, :]
    query_tile = load_tile(query, i, head, D)
    grad_tile = load_tile(grad, i, head, D)
    score = tl.dot(key, tl.trans(query_tile), input_precision="ieee") * scale
    grad_probability = tl.dot(value, tl.trans(grad_tile), input_precision="ieee")
    statistics += (HQ + tl.cast(head, tl.int64)) * queries * 4
    lse, gate, share, _ = load_four(statistics, rows.to(tl.int64), live, ROWS)
    visible = index[:, None] <= at
    chosen = visible
    if CHOOSES:
        chosen = chosen & tl.trans(_chose(bits, rows, live, kv_head, first_key - first, words, HK, BLOCK, COLUMNS))
    weight = tl.where(chosen, tl.exp2(score - lse[None, :]) * gate[None, :], 0.0)
    grad_score = weight * (grad_probability - share[None, :])
    if SWA:
        lse, gate, share, _ = load_four(statistics + HQ * tl.cast(queries, tl.int64) * 4, rows.to(tl.int64), live, ROWS)
        visible = visible & (index[:, None] > at - window)
        probability = tl.where(visible, tl.exp2(score - lse[None, :]) * gate[None, :], 0.0)
        weight += probability
        grad_score += probability * (grad_probability - share[None, :])
    value_sum = tl.dot(weight.to(grad_tile.dtype), grad_tile, value_sum, input_precision="ieee")
    key_sum = tl.dot(grad_score.to(query_tile.dtype), query_tile, key_sum, input_precision="ieee")
    return key_sum, value_sum


@triton.jit(do_not_specialize=["queries", "words", "window"])
def _key_gradient(query, key, value, grad, statistics, bits, grad_key, grad_value, tiles, queries, words, window, scale,
                  natural_scale, HQ: tl.constexpr, HK: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
                  ROWS: tl.constexpr, COLUMNS: tl.constexpr, HEADS: tl.constexpr, SWA: tl.constexpr,
                  CHOOSES: tl.constexpr):  # fmt: skip
    """Sums of slc and swa for a tile of keys, over HEADS heads of its group; grad_key, grad_value [splits, T, HK, D].

    Everything is transposed (keys x queries), so that probabilities feed the next product from registers.
    """
    tile = tl.program_id(0)
    split = tl.program_id(1)
    kv_head = tl.program_id(2)
    first_key = tl.load(tiles + tile * 6)
    keys = first_key + tl.arange(0, COLUMNS)
    live_key = keys < tl.load(tiles + tile * 6 + 1)
    first = tl.load(tiles + tile * 6 + 3)  # query of the sequence; its keys are the same tokens
    index = keys - first
    end = tl.load(tiles + tile * 6 + 4)
    far = first_key
    if SWA:
        far = tl.minimum(first_key + tl.cdiv(COLUMNS - 1 + window, ROWS) * ROWS, end)
    key_tile = load_tile(key, first_key, kv_head, D)
    value_tile = load_tile(value, first_key, kv_head, D)
    key_sum = tl.zeros([COLUMNS, D], tl.float32)
    value_sum = tl.zeros([COLUMNS, D], tl.float32)
    group: tl.constexpr = HQ // HK
    last_head = tl.minimum(kv_head * group + (split + 1) * HEADS, (kv_head + 1) * group)
    for head in range(kv_head * group + split * HEADS, last_head):
        for i in range(first_key, far, ROWS):
            key_sum, value_sum = _key_step(i, end, first, first_key, index, key_tile, value_tile, query, grad,
                                           statistics, bits, head, kv_head, queries, words, window, scale, key_sum,
                                           value_sum, HQ, HK, D, BLOCK, ROWS, COLUMNS, SWA, CHOOSES)  # fmt: skip
        for i in range(far, end, ROWS):
            key_sum, value_sum = _key_step(i, end, first, first_key, index, key_tile, value_tile, query, grad,
                                           statistics, bits, head, kv_head, queries, words, window, scale, key_sum,
                                           value_sum, HQ, HK, D, BLOCK, ROWS, COLUMNS, False, CHOOSES)  # fmt: skip
    row = tl.cast(split, tl.int64) * queries + keys
    store_rows(grad_key, key_sum * natural_scale, row, live_key, kv_head, HK, D)
    store_rows(grad_value, value_sum, row, live_key, kv_head, HK, D)


def chosen_bits(index: Tensor, plan: Plan) -> Tensor:
    """index [T, HK, block_count] (global blocks, undefined where all are chosen) -> [T, HK, words] int32."""
    tokens, kv_heads, count = index.shape
    words = -(-plan.most_blocks // 32)
    bits = torch.empty(tokens, kv_heads, words, dtype=torch.int32, device=index.device)
    rows = 32
    _bits[(triton.cdiv(tokens, rows), kv_heads)](
        index, bits, plan.position(), plan.first_block(), tokens, words,
        HK=kv_heads, BLOCK=plan.block_size, COUNT=count, COUNT_2=next_power_of_two(count), ROWS=rows,
    )  # fmt: skip
    return bits


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gates: Tensor | None,
    bits: Tensor | None,
    outputs: dict[str, Tensor],
    lses: dict[str, Tensor],
    plan: Plan,
    branches: tuple[str, ...],
    window: int,
    scale: float,
) -> Tensor | None:
    """The gated sum of the branches (None without gates), and `outputs` and `lses` of slc and swa where they are among
    them; those of cmp are there. bits: of the chosen blocks, None where every query chooses all that it sees."""
    queries, heads, size = query.shape
    for name in set(branches) - {"cmp"}:
        outputs[name] = torch.empty_like(query)
        shape = (queries, heads) if name == "slc" else (heads, queries)
        lses[name] = torch.empty(shape, dtype=torch.float32, device=query.device)
    out = None if gates is None else torch.empty_like(query)
    tile = tiling.masked_forward(size)
    tiles = plan.query_tiles(tile.rows, False)
    spare = query  # in the place of what is not used
    _forward[(heads, len(tiles))](
        rows_of(query, tile.rows), rows_of(key, tile.columns), rows_of(value, tile.columns),
        spare if gates is None else gates, spare if bits is None else bits, outputs.get("cmp", spare),
        outputs.get("slc", spare), lses.get("slc", spare), outputs.get("swa", spare), lses.get("swa", spare),
        spare if out is None else out, plan.position(), tiles, queries, 0 if bits is None else bits.shape[2], window,
        scale * LOG2E,
        HQ=heads, HK=key.shape[1], D=size, BLOCK=plan.block_size, ROWS=tile.rows, COLUMNS=tile.columns,
        CHOOSES=bits is not None, GATED=gates is not None, CMP="cmp" in branches, SWA="swa" in branches, **tile.options,
    )  # fmt: skip
    return out


def query_gradient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    means: tuple[Tensor, Tensor] | None,
    gates: Tensor,
    bits: Tensor | None,
    grad: Tensor,
    outputs: dict[str, Tensor],
    lses: dict[str, Tensor],
    plan: Plan,
    branches: tuple[str, ...],
    window: int,
    scale: float,
    *,
    grad_query: Tensor,
) -> tuple[Tensor, Tensor]:
    """Writes grad_query, of all branches; returns the gates' gradient (float32), and statistics. means: of keys and
    values, where cmp is a branch."""
    queries, heads, size = query.shape
    shares = (torch.empty if len(branches) == len(BRANCHES) else torch.zeros)(
        queries, heads, 3, dtype=torch.float32, device=query.device
    )
    statistics = torch.empty(3, heads, queries, 4, dtype=torch.float32, device=query.device)
    tile = tiling.masked_query_gradient()
    tiles = plan.query_tiles(tile.rows, False)
    key_mean, value_mean = means or (key, value)
    spare = query
    _query_gradient[(heads, len(tiles))](
        rows_of(query, tile.rows), rows_of(key, tile.columns), rows_of(value, tile.columns),
        rows_of(key_mean, tile.columns), rows_of(value_mean, tile.columns), gates, spare if bits is None else bits,
        rows_of(grad, tile.rows), outputs.get("cmp", spare), lses.get("cmp", spare), outputs.get("slc", spare),
        lses.get("slc", spare), outputs.get("swa", spare), lses.get("swa", spare), shares, statistics, grad_query,
        plan.position(), plan.first_block(), tiles, queries, 0 if bits is None else bits.shape[2], window,
        scale * LOG2E, scale,
        HQ=heads, HK=key.shape[1], D=size, BLOCK=plan.block_size, ROWS=tile.rows, COLUMNS=tile.columns,
        CHOOSES=bits is not None, CMP="cmp" in branches, SWA="swa" in branches, **tile.options,
    )  # fmt: skip
    return shares, statistics


def key_gradient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bits: Tensor | None,
    grad: Tensor,
    statistics: Tensor,
    plan: Plan,
    branches: tuple[str, ...],
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of key and value by slc and swa, [splits, T, HK, D] float32, to be added up."""
    queries, heads, size = query.shape
    kv_heads = key.shape[1]
    tile = tiling.masked_key_gradient()
    tiles = plan.key_tiles(tile.columns, False)
    group = heads // kv_heads
    each = tiling.heads_per_split(len(tiles) * kv_heads, group)
    grad_key = torch.empty(-(-group // each), *key.shape, dtype=torch.float32, device=key.device)
    grad_value = torch.empty_like(grad_key)
    _key_gradient[(len(tiles), len(grad_key), kv_heads)](
        rows_of(query, tile.rows), rows_of(key, tile.columns), rows_of(value, tile.columns), rows_of(grad, tile.rows),
        statistics, query if bits is None else bits, grad_key, grad_value, tiles, queries,
        0 if bits is None else bits.shape[2], window, scale * LOG2E, scale,
        HQ=heads, HK=kv_heads, D=size, BLOCK=plan.block_size, ROWS=tile.rows, COLUMNS=tile.columns, HEADS=each,
        CHOOSES=bits is not None, SWA="swa" in branches, **tile.options,
    )  # fmt: skip
    return grad_key, grad_value

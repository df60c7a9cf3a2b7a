"""The names that settings, kernels, tables and docs share. Imports nothing."""

BRANCHES = ("cmp", "slc", "swa")  # compression, selection, sliding window: the order of the gates' last axis
GATE_MODES = ("dynamic", "static", "fixed")
ATTENTIONS = ("nsa", "dense")
BACKENDS = ("auto", "reference", "triton")
PRECISIONS = ("bf16", "fp32")
SHARDINGS = ("none", "full")  # of the weights over a training's processes
MODEL_PARTS = ("tower", "projector", "decoder")  # that a training may leave as they are; gates always learn
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of a decoder's layer
TROUBLES = ("spike", "stall")  # in a training: its loss or gradient jumps; its samples do not come

# What the public release computes other than the paper, in canonical order (docs/semantics.md).
DIFFERENCES = (
    "cmp_mask",  # a query sees the means of its own and all later blocks: the compression branch reads the future
    "head_layout",  # heads lie twice in slots, 16 a key/value head, and meet other heads' keys; outputs are averaged
    "vision_packing",  # vision tokens stay at their place; text keys are zero yet attended, and blocks count them
    "gate_leak",  # text gains half of each branch for a zero query, vision the mean of all earlier values
    "modality_by_position",  # a token is vision when its three positions differ: a few vision tokens count as text
    "importance_lse",  # blocks are ranked by exp(score - lse) with the lse of some other token and head
    "importance_own_block",  # the query's own block weighs 1 a head instead of always being chosen
    "importance_round_up",  # the number of blocks rounds up to a power of two, chosen by a sorting network
    "dense_decode",  # a call of vision tokens only skips the dense path, and so that part of gate_leak
    "grid_seconds",  # each temporal patch lasts 1.0 s whatever the sampling: positions in time step equally
)
POSITION_DIFFERENCES = ("grid_seconds",)  # of the tokens' positions, whatever the attention; the rest change NSA
DIFFERENCE_GROUPS = {"importance": ("importance_lse", "importance_own_block", "importance_round_up")}
SMALL_MODELS = ("tiny", "study")  # made on the spot: videonsa/small.py

"""What a question takes on the GPUs of benchmarks/, for where none was measured yet. Imports no torch.

Recorded is Qwen2.5-VL-7B's shape: whole questions under NSA (the paper's budget) and densely; of other ways to attend
one layer's attention, which then stands in every layer in the place of NSA's, or of dense attention. Between recorded
lengths times follow a power of the length, beyond the longest that of the last two; below the shortest they are in
proportion.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent.parent / "benchmarks"
MODEL, LAYERS = "Qwen/Qwen2.5-VL-7B-Instruct", 28
PATCH = 2  # frames that make one temporal patch
CARDS = ("H100", "H200")  # of which the attention of a layer is recorded, in files of their names
OF_NSA = ("paper", "release")  # the others replace dense attention

Curve = Mapping[int, float]  # tokens -> seconds
Row = dict[str, str]


class Recorded(NamedTuple):
    """Seconds of one question on one GPU, reading the video aside."""

    seconds: float
    tower: float  # of these the vision tower's, which variants of one checkpoint share
    where: tuple[str, ...]  # the GPU and the files, and what stands for something else


class Trained(NamedTuple):
    """GPU seconds of one sample's training."""

    seconds: float
    where: str  # the GPU and the file, and what is not counted


def training_seconds(tokens: int, attention: str) -> Trained | None:
    """A sample of so many tokens, under NSA or dense attention; None where nothing is recorded."""
    dense = attention == "dense"
    rows = _rows("training.csv", model="7b", attention="dense" if dense else "nsa")
    rows = [row for row in rows if row["tokens_per_s"]]
    if rows:
        each = {int(row["tokens"]): int(row["gpus"]) / float(row["tokens_per_s"]) for row in rows}
        curve = {length: length * seconds for length, seconds in each.items()}
        return Trained(at(curve, tokens), f"{rows[0]['gpu']}, training.csv")
    rows = _rows("model_h200.csv", mode="train", provider="dense" if dense else "videonsa")
    if not rows:
        return None
    where = f"{rows[0]['gpu']}, model_h200.csv: the decoder's passes; tower, optimizer and reading not counted"
    return Trained(at(_slowest(rows, "length", "seconds"), tokens), where)


class Question(NamedTuple):
    """Seconds to the first token, of these the tower's, and of each further token, by tokens."""

    first: Curve
    tower: Curve
    decode: Curve
    gpu: str


def question_seconds(frames: int, tokens_per_frame: int, answer: int, kind: str) -> Recorded | None:
    """A question whose video fills its frames and whose answer its tokens; None where nothing is recorded.

    `kind`: paper, release or dense, or another method's name; a method that is not recorded counts as dense attention.
    """
    tokens = max(1, frames * tokens_per_frame // PATCH)
    question = _question("nsa" if kind in OF_NSA else "dense")
    if question is None:
        return None
    own, instead_of, where = _attention(kind, question.gpu)
    layer = at(own, tokens) - at(instead_of, tokens)
    tower = at(question.tower, tokens)
    first = max(tower, at(question.first, tokens) + LAYERS * layer)
    decoding = answer * at(question.decode, max(tokens, min(question.decode)))  # however short, weights are read
    return Recorded(first + decoding, tower, (f"{question.gpu}, question.csv", *where))


def at(curve: Curve, tokens: int) -> float:
    """The value at a length, as the module says; 0 of an empty curve."""
    points = sorted(curve.items())
    if not points:
        return 0.0
    if tokens <= points[0][0] or len(points) == 1:
        return points[0][1] * tokens / points[0][0]
    after = next((place for place, (length, _) in enumerate(points) if length >= tokens), len(points) - 1)
    (short, low), (long, high) = points[after - 1 : after + 1]
    return low * (tokens / short) ** (math.log(high / low) / math.log(long / short))


def _question(attention: str) -> Question | None:
    """Of one card; of shapes of frames the slowest."""
    rows = [row for row in _rows("question.csv", attention=attention) if row["first_token_s"]]
    if not rows:
        return None
    gpu = rows[0]["gpu"]
    rows = [row for row in rows if row["gpu"] == gpu]
    first, tower, decode = (_slowest(rows, "tokens", name) for name in ("first_token_s", "tower_s", "decode_ms"))
    return Question(first, tower, {tokens: ms / 1e3 for tokens, ms in decode.items()}, gpu)


def _attention(kind: str, gpu: str) -> tuple[Curve, Curve, tuple[str, ...]]:
    """Seconds of a layer's attention, of what it replaces, and where; nothing for what questions were recorded of."""
    if kind in ("paper", "dense"):
        return {}, {}, ()
    if kind == "release":
        card = next((card for card in CARDS if card in gpu), CARDS[0]).lower()
        own = _rows(f"release_{card}.csv", semantics="release", mode="fwd")
        theirs = _rows(f"{card}.csv", provider="triton", semantics="paper", stage="all", mode="fwd")
        where = f"the release's attention by release_{card}.csv"
        return _of_layer(own, "ms_p50"), _of_layer(theirs, "ms_p50"), (where,)
    own = _rows("methods.csv", method=kind, data="lifelike")
    if not own:
        return {}, {}, ("methods without a record as dense attention",)
    return _of_layer(own, "total_ms"), _of_layer(own, "dense_ms"), ("sparse prefills' attention by methods.csv",)


def _of_layer(rows: Iterable[Row], column: str) -> Curve:
    return {tokens: ms / 1e3 for tokens, ms in _slowest(rows, "length", column).items()}


def _slowest(rows: Iterable[Row], length: str, column: str) -> Curve:
    """By length; of several (shapes of frames, layers) the largest counts."""
    found: dict[int, float] = {}
    for row in rows:
        found[int(row[length])] = max(float(row[column]), found.get(int(row[length]), 0.0))
    return found


def _rows(name: str, **wanted: str) -> list[Row]:
    """The rows of a file that have these values; none where the file is not there."""
    path = FOLDER / name
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]

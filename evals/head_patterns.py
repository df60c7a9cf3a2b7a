"""Fit MInference's table to a checkpoint: how many columns and diagonals each head keeps, from its own attention.

    python -m evals.head_patterns CHECKPOINT --suite SUITE --density 0.2 --out TABLE.json

The first prompts of the suite run densely. In each layer every candidate pattern attends to the same queries, keys and
values; of those that compute at most the given share of causal pairs, a head takes the one whose output is nearest to
dense attention's, as squared error over squared output, summed over prompts; of equal ones the sparser. Where every
candidate computes more, a head takes the sparsest. (The search of arXiv 2407.02490, section 3.2, one prompt there.)

`minference.table: TABLE.json` asks for the table, with the sizes that it was fitted for; `--set minference.KEY=VALUE`
changes these here (block_size, last_queries, ...), `--set suite.KEY=VALUE` how the suite is sampled.
"""

# Surroundings first: torch and transformers read them as they are imported.

from __future__ import annotations

if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evals.checkpoint import Checkpoint, load
from evals.probe import questions
from evals.suites import suite_settings
from videonsa import options
from videonsa.config import SettingsError, SuiteSettings
from videonsa.disk import write_bytes
from videonsa.kernels.block_sparse import block_sparse_attention
from videonsa.methods import registry
from videonsa.methods.contract import LayerCall, Method, causal_pairs, dense_attention
from videonsa.methods.head_table import DIGITS, UNIFORM, HeadTable
from videonsa.methods.minference import vertical_slash_choice
from videonsa.methods.settings import MInferenceSettings
from videonsa.modeling import looking, metered
from videonsa.surroundings import full_products, settings_decide
from videonsa.values import number, one_line, read_value

# Columns and diagonals: those of the published tables, and some between.
PATTERNS = (
    *((30, 800), (100, 750), (100, 800), (500, 700), (3500, 100), (1000, 6096)),
    *((30, 100), (100, 400), (500, 200), (1000, 400), (2000, 800), (1000, 2000)),
)


@dataclass
class Search:
    """Errors and pairs of each candidate, by layer: [patterns, Hq], summed over prompts."""

    sizes: MInferenceSettings  # but for its table
    patterns: Sequence[tuple[int, int]]
    errors: dict[int, Tensor] = field(default_factory=dict)
    pairs: dict[int, Tensor] = field(default_factory=dict)
    causal: float = 0.0  # pairs of a head, over prompts
    longest: int = 0  # tokens of a prompt

    def look(self, method: Method, call: LayerCall) -> None:
        """Try every pattern in a layer, in a prefill of one sample."""
        query, key, value = call.query[0], call.key[0], call.value[0]
        dense = dense_attention(query, key, value, call.scale)
        found = [self._try(pattern, dense, query, key, value, call.scale) for pattern in self.patterns]
        if call.layer == 0:
            self.causal += causal_pairs([len(query)])
            self.longest = max(self.longest, len(query))
        for sums, new in zip((self.errors, self.pairs), zip(*found, strict=True), strict=True):
            sums[call.layer] = sums.get(call.layer, 0) + torch.stack(new).double().cpu()

    def _try(
        self, pattern: tuple[int, int], dense: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """(relative squared error, pairs) of each head, [Hq]."""
        heads, asked = query.shape[1], self.sizes
        vertical, slash = ([count] * heads for count in pattern)
        choice = vertical_slash_choice(query, key, scale, vertical, slash, **asked.sizes())
        if choice is None:
            return dense.new_zeros(heads), dense.new_full((heads,), causal_pairs([len(query)]), dtype=torch.float64)
        output = block_sparse_attention(query, key, value, choice, scale, asked.backend).float()
        squares = [tensor.square().sum((0, 2)) for tensor in (output - dense.float(), dense.float())]
        return squares[0] / squares[1].clamp_min(torch.finfo(torch.float32).tiny), choice.pairs()

    def table(self, density: float) -> HeadTable:
        """Each head's pattern. Raises SettingsError where every pattern is dense: there is nothing to choose."""
        if all(bool((pairs >= self.causal).all()) for pairs in self.pairs.values()):
            raise SettingsError(
                f"patterns {list(self.patterns)} are all dense at {self.longest} tokens: give smaller ones"
            )
        return HeadTable(tuple(self.patterns), tuple(self._places(layer, density) for layer in sorted(self.errors)))

    def _places(self, layer: int, density: float) -> tuple[int, ...]:
        errors, pairs = self.errors[layer].tolist(), self.pairs[layer].tolist()
        chosen = []
        for head in range(len(errors[0])):
            ranked = sorted((errors[place][head], pairs[place][head], place) for place in range(len(self.patterns)))
            fewest = min(pairs[place][head] for place in range(len(self.patterns)))
            most = max(fewest, density * self.causal)
            chosen.append(next(place for _, computed, place in ranked if computed <= most))
        return tuple(chosen)

    def summary(self, table: HeadTable) -> dict[str, float]:
        """Means over layers and heads, under the table: density, and relative squared error of a prompt's output."""
        chosen = [(layer, head, place) for layer, heads in enumerate(table.heads) for head, place in enumerate(heads)]
        density = sum(float(self.pairs[layer][place, head]) for layer, head, place in chosen) / self.causal
        error = sum(float(self.errors[layer][place, head]) for layer, head, place in chosen)
        return {"density": density / len(chosen), "error": error / len(chosen)}


@settings_decide()
@full_products()
def fit_table(
    checkpoint: Checkpoint | Path | str,
    suite: SuiteSettings,
    density: float,
    *,
    patterns: Sequence[tuple[int, int]] = PATTERNS,
    prompts: int = 1,
    sizes: Mapping[str, Any] | None = None,
    data: Path | str | None = None,
) -> dict[str, Any]:
    """A table, as a file holds it: {"patterns", "heads"}, and `made_by`, which says from what.

    Args:
        density: share of causal pairs that a head may compute.
        patterns: candidates, (columns, diagonals).
        prompts: first questions of the suite that are looked at.
        sizes: fields of MInferenceSettings, without table, vertical and slash.
        data: folder for synthetic data.
    Raises:
        SettingsError: a wrong setting; no prompt that can be read; patterns that are all dense at its length.
    """
    made: Any = registry.make("minference", {"table": UNIFORM, **(sizes or {})}, "minference")
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    loaded.use({"attention": "dense"})
    search, seen = Search(made, tuple(patterns)), 0
    with torch.inference_mode(), metered(loaded.model), looking(loaded.model, search.look):
        for _, question in questions(loaded, suite, prompts, data):
            loaded.model(**question.on(loaded.device), use_cache=False, logits_to_keep=1)
            seen += 1
    loaded.use({})
    if not seen:
        raise SettingsError(f"suite {suite.name}: none of its first {prompts} videos can be read")
    table = search.table(density)
    about = {"checkpoint": loaded.identity, "suite": suite.name, "prompts": seen, "tokens": search.longest}
    asked = {"density": density, "sizes": made.sizes()}
    return table.as_json() | {"made_by": about | asked, "kept": search.summary(table)}


def pattern(given: str) -> tuple[int, int]:
    """'30,800' -> (30, 800)."""
    parts = given.split(",")
    whole = all(part.strip().isdecimal() and len(part) < 10 for part in parts)
    if len(parts) != 2 or not whole or int(parts[1]) < 1:
        raise argparse.ArgumentTypeError("give COLUMNS,DIAGONALS, such as 30,800")
    return int(parts[0]), int(parts[1])


def share(given: str) -> float:
    """A number above 0 and at most 1."""
    try:
        value = float(number(given, "density"))
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError("give a share above 0 and at most 1")
    return value


def changes(asked: Sequence[str]) -> dict[str, dict[str, Any]]:
    """--set minference.KEY=VALUE and suite.KEY=VALUE, by group."""
    found: dict[str, dict[str, Any]] = {"minference": {}, "suite": {}}
    for text in asked:
        name, equals, value = text.partition("=")
        group, _, key = name.strip().partition(".")
        if not equals or group not in found or not key or key in ("table", "vertical", "slash"):
            raise SettingsError(f"--set {text!r} is not valid: minference.KEY=VALUE (no table) or suite.KEY=VALUE")
        found[group][key] = read_value(value, name)
    return found


def main(arguments: list[str]) -> int:
    """The command line. Exit codes: 0 written, 1 something failed, 2 wrong input."""
    parser = options.Parser(
        prog="python -m evals.head_patterns",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=options.text, metavar="CHECKPOINT", help="folder or hub name")
    parser.add_argument("--suite", type=options.text, required=True, help="whose first prompts are looked at")
    parser.add_argument("--density", type=share, required=True, help="share of causal pairs that a head may compute")
    parser.add_argument("--out", type=options.folder, required=True, metavar="TABLE.json")
    parser.add_argument("--prompts", type=options.positive, default=1, help="how many (1)")
    parser.add_argument("--patterns", type=pattern, nargs="+", metavar="COLUMNS,DIAGONALS", help="the candidates")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args(arguments)
    try:
        changed, patterns = changes(asked.set), asked.patterns or PATTERNS
        if len(patterns) > len(DIGITS):
            raise SettingsError(f"--patterns: {len(patterns)} are given; a table holds at most {len(DIGITS)}")
        suite = suite_settings(asked.suite, **changed["suite"])
        table = fit_table(
            asked.checkpoint,
            suite,
            asked.density,
            patterns=patterns,
            prompts=asked.prompts,
            sizes=changed["minference"],
        )
        write_bytes(asked.out, (json.dumps(table, indent=1) + "\n").encode())
    except (SettingsError, OSError) as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    kept = table["kept"]
    print(f"{asked.out}: density {kept['density']:.3f}, relative squared error {kept['error']:.2g}, means over heads")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

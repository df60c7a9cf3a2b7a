"""Random things that people may type and write: mostly right, now and then strange, for tests/test_tried.py."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from ablations.settings import OF_GRIDS, SETTINGS
from videonsa.config import NSASettings, SuiteSettings, TrainSettings

Texts = st.SearchStrategy[str]

ODD = (
    *("1", "8", "0", "-1", "010", "08", "+1", "-0.0", "1.0", "1.", ".5", "1e-3", "1e3", "1e400", "1e-400", "9" * 400),
    *("1_000", "0x10", "0o17", "1:30", "12:00:00", "1-12", "2024-01-01", "٣", "½", "∞", "nan", ".nan", "inf", "-.inf"),
    *("true", "TRUE", "false", "on", "off", "yes", "n", "null", "~", "''", '""', " ", "", "[]", "{}", "[1, 2]", "[[]]"),
    *("{a: 1}", "{nsa.window: 8}", "&a 1", "*a", "<<", "!!int 1", "!!python/name:os.system", "- 1", "a: b", "a #b"),
    *("cmp+slc", "slc+slc", "+", "paper", "release-", "release-cmp_mask", "nsa", "dense", "static", "fixed", "triton"),
    *("[1, 1, 1]", "1+nan+1", "needle", "needle+", "synth_needle", "synth_needle+synth_needle", "0+1", "0+0", "tiny"),
    *("train", "zip", "product", "b=1", "cpu-test", "slurm", "local", "paper.yaml", "{samples: 3}", "[{label: on}]"),
    *("./nowhere", "~nobody/x", "a/b@c", "a" * 300, "x/" * 200, "a\u2028b", "\u202e", "a\tb", "é", "e\u0301", "$(ls)"),
    *("[" * 400, '"\\0"', '"\\ud800"', '"\\UFFFFFFFF"', "'", '"', "|", "%", "@", "a\nb", "\r", "\ufeff", "\x1b[31m"),
)
NEARLY = ("training.lr", "nsa", "train.nsa", "window", "nsa.", ".window", "nsa..window", "train.seed", "slurm.mem")
OPTIONS = ("--grid", "--only", "--profile", "--cluster", "--out", "--workers", "--set", "--no", "-x", "--", "")


def texts(most: int, unprintable: bool = True) -> Texts:
    """Anything that can stand on a command line, or in a file."""
    never = ("Cs",) if unprintable else ("Cs", "Cc", "Cn", "Co")
    return st.text(st.characters(exclude_characters="\0", exclude_categories=never), max_size=most)


def mostly(usual: Texts, other: Texts, share: float = 0.1) -> Texts:
    """The usual, and in this share of draws the other."""
    return st.integers(0, 99).flatmap(lambda drawn: other if drawn >= 100 - 100 * share else usual)


# What a setting may well be, by its kind or by its name.
WHOLE = st.sampled_from(["1", "2", "4", "8", "016", "16.0"])
NUMBER = st.sampled_from(["0.5", "1", ".25", "1e-3", "2.0"])
KINDS = {
    **dict.fromkeys(("int", "int | None"), WHOLE),
    **dict.fromkeys(("float", "float | None", "tuple[float, float]"), NUMBER),
    "bool": st.sampled_from(["true", "false"]),
    "tuple[int, ...]": st.sampled_from(["8", "[4, 8]"]),
}
NAMED = {
    "branches": ("cmp+slc", "[swa, cmp]", "cmp+slc+swa"),
    "gate_mode": ("dynamic", "static"),
    "attention": ("nsa", "dense"),
    "backend": ("auto", "reference"),
    "semantics": ("paper", "release", "release-cmp_mask", "importance"),
    "families": ("needle", "needle+order"),
    "precision": ("fp32", "bf16"),
    "data": ("synth",),
    "model": ("tiny", "me/model"),
    "betas": ("[0.9, 0.98]", "[0, .5]"),
    "gate_values": ("null",),
    "frames": ("8", "16"),
}
odd = st.sampled_from(ODD) | st.integers().map(str) | st.floats().map(str) | texts(12)
printable = st.sampled_from(ODD[:-9]) | st.integers().map(str) | st.floats().map(str) | texts(8, unprintable=False)
FIELDS = {
    **{f"nsa.{field.name}": field for field in dataclasses.fields(NSASettings)},
    **{
        f"train.{field.name}": field for field in dataclasses.fields(TrainSettings) if field.name not in ("nsa", "seed")
    },
    **{f"suite.{field.name}": field for field in dataclasses.fields(SuiteSettings) if field.name != "name"},
}


def usual(key: str) -> Texts:
    """A value that this setting may have."""
    name = key.rpartition(".")[2]
    if name in NAMED:
        return st.sampled_from(NAMED[name])
    return KINDS.get(str(FIELDS[key].type), st.just("synth_order")) if key in FIELDS else WHOLE


def entries(names: list[str], strange: Texts, most: int = 3) -> st.SearchStrategy[list[tuple[str, str]]]:
    """Some of these settings with values; now and then another name, or another value."""
    known = st.sampled_from(names).flatmap(lambda key: st.tuples(st.just(key), mostly(usual(key), strange)))
    pair = mostly(known, st.tuples(st.sampled_from(NEARLY) | texts(6, unprintable=False), strange), 0.03)  # type: ignore
    return st.lists(pair, min_size=1, max_size=most, unique_by=lambda pair: pair[0])


def flow(items: list[tuple[str, str]]) -> str:
    """A mapping as YAML has it in one line."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}"


def several(values: Texts, most: int = 3) -> Texts:
    return st.lists(values, min_size=1, max_size=most, unique=True).map(lambda items: f"[{', '.join(items)}]")


def apart(pairs: st.SearchStrategy[tuple[str, str]]) -> Texts:
    """A mapping of one or two of these, with different keys."""
    return st.lists(pairs, min_size=1, max_size=2, unique_by=lambda pair: pair[0]).map(flow)


def lines(keys: dict[str, Texts], always: str = "") -> Texts:
    """A file with some of these keys; now and then with a strange key or value, or a character too few or many."""
    strange = st.tuples(st.sampled_from(list(keys)) | texts(5), printable).map(": ".join)
    line = st.sampled_from(list(keys)).flatmap(lambda key: keys[key].map(lambda value: f"{key}: {value}"))
    some = st.lists(mostly(line, strange, 0.04), min_size=1, max_size=4, unique_by=lambda text: text.partition(":")[0])
    whole = some.map(lambda found: always + "".join(f"{text}\n" for text in found))
    return mostly(whole, st.tuples(whole, st.integers(0, 200), texts(2)).map(_broken) | texts(60))


def _broken(cut: tuple[str, int, str]) -> str:
    text, place, other = cut
    return text[:place] + other + text[place + 1 :]


CHANGING = [key for key in SETTINGS if key != "checkpoint"]
label = mostly(st.sampled_from(["on", "off", "010", "a b", "1e3", "x"]), printable)
setting = entries(CHANGING, printable).map(flow)
row = st.tuples(entries(CHANGING, printable, 2), label).map(lambda found: flow([*found[0], ("label", found[1])]))
suite = st.sampled_from(["synth_needle", "synth_order", "synth_layout"])
asked = entries(["frames", "limit", "tokens_per_frame", "seed"], printable).map(flow)
axis = st.sampled_from(CHANGING).flatmap(lambda key: several(mostly(usual(key), printable)).map(lambda v: (key, v)))
axis |= several(row).map(lambda rows: ("rows", rows))
seeds = mostly(st.sampled_from(["0", "[0, 1]", "[08]"]), printable)
given_weights = entries([f"nsa.{name}" for name in ("window", "semantics", "block_size")], printable).map(
    lambda items: f"{{me/model: {flow([(key.removeprefix('nsa.'), value) for key, value in items])}}}"
)
GRID_LINES = {
    "question": label,
    "asks": mostly(st.sampled_from(["test", "train"]), printable),
    "combine": mostly(st.sampled_from(["product", "zip"]), printable),
    "base": setting,
    "axes": apart(axis),
    "exclude": several(setting, 2),
    "labels": st.sampled_from(CHANGING).flatmap(lambda key: label.map(lambda text: flow([(key, text)]))),
    "suites": several(suite, 2) | apart(st.tuples(suite, asked)),
    "seeds": seeds,
    "reference": label,
    "checkpoints": given_weights,
    "probe": entries(["suite", "videos", "observers", "label"], printable).map(flow),
}
PROFILE_LINES = {
    "description": label,
    "checkpoint": mostly(st.sampled_from(["me/model", "null"]), printable),
    "checkpoints": given_weights,
    "seeds": seeds,
    "probe": entries(["suite", "videos", "observers"], printable).map(flow),
    "gates": entries(["samples"], printable).map(flow),
}
name = mostly(st.sampled_from(["gpu", "007", "h100"]), printable)
SLURM_LINES = {
    **dict.fromkeys(("partition", "account", "qos", "constraint"), name),
    **dict.fromkeys(("nodes", "gpus_per_node", "cpus", "max_parallel"), mostly(WHOLE, printable)),
    "memory": mostly(st.sampled_from(["4", "0.5", "64G", "512M"]), printable),
    "minutes": mostly(st.sampled_from(["90", "90:00", "12:00:00", "1-12", "1-12:30", "1-0:0:1"]), printable),
    **dict.fromkeys(("modules", "setup"), name | several(name)),
    "environment": apart(st.tuples(st.sampled_from(["A", "B_C", "d"]), name)),
}
trained = entries([key for key in FIELDS if key.startswith("train.")], printable).map(
    lambda items: [(key.removeprefix("train."), value) for key, value in items]
)
tiny = [("model", "tiny"), ("data", "synth"), ("steps", "2")]
recipes = st.tuples(trained, lines(PROFILE_LINES, "suites: {synth_needle: {limit: 4}}\n")).map(
    lambda found: f"train: {flow(list(dict([*tiny, *found[0]]).items()))}\n{found[1]}"
)
of_set = entries([*SETTINGS, *OF_GRIDS, *(f"slurm.{key}" for key in SLURM_LINES)], odd).map(
    lambda items: ["=".join(item) for item in items]
)
options = st.tuples(st.sampled_from(OPTIONS), odd).map(list) | odd.map(lambda value: [value])

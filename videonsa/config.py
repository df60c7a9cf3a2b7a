"""Settings: frozen, validated where they are built, with a unit in every field's comment. Imports no torch.

Everything that a user can ask for lives in one of these classes. How they become part of an identity, and what a new
field must state, is in identity.py.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from videonsa import limits
from videonsa.identity import NO_EFFECT
from videonsa.names import (
    ATTENTIONS,
    BACKENDS,
    BRANCHES,
    DIFFERENCE_GROUPS,
    DIFFERENCES,
    GATE_MODES,
    LORA_MODULES,
    MODEL_PARTS,
    POSITION_DIFFERENCES,
    PRECISIONS,
    SHARDINGS,
    TROUBLES,
)
from videonsa.places import place_text
from videonsa.values import SettingsError, number, unknown

S = TypeVar("S")


def require(condition: bool, field_name: str, value: Any, valid: str) -> None:
    """Raise SettingsError naming the field, the value and what is valid, unless the condition holds."""
    if not condition:
        raise SettingsError(f"{field_name}={value!r} is not valid: {valid}")


def one_of(field_name: str, value: Any, names: Iterable[str]) -> None:
    """Raise SettingsError unless value is one of the names, which the message lists."""
    names = list(names)
    require(value in names, field_name, value, "choose one of " + ", ".join(names))


def split_list(value: Any) -> Any:
    """'cmp+slc' -> ('cmp', 'slc'): so lists arrive from a command line, where a comma separates the settings."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split("+"))
    return tuple(value) if isinstance(value, Iterable) else value


def differences(semantics: Any) -> frozenset[str]:
    """The release's differences that these semantics contain: none for paper, all for release.

    Accepts paper, release, names joined with + (or a list of them; importance stands for its three parts), and release
    with names taken away, as in release-cmp_mask. Raises SettingsError for anything else.
    """
    if isinstance(semantics, str) and semantics.startswith("release-"):
        return frozenset(DIFFERENCES) - _named_differences(tuple(semantics.split("-")[1:]))
    parts = split_list(semantics)
    if parts == ("paper",):
        return frozenset()
    if parts == ("release",):
        return frozenset(DIFFERENCES)
    return _named_differences(parts)


def attention_differences(semantics: Any) -> frozenset[str]:
    """Those of `differences` that change NSA's computation: without one, it is the paper's."""
    return differences(semantics) - set(POSITION_DIFFERENCES)


def canonical_semantics(semantics: Any) -> str:
    """One spelling for each set of differences: paper, release, or the names in their order, joined with +."""
    names = differences(semantics)
    if not names:
        return "paper"
    return "release" if len(names) == len(DIFFERENCES) else "+".join(name for name in DIFFERENCES if name in names)


def _named_differences(parts: Any) -> frozenset[str]:
    names: set[str] = set()
    for part in parts if isinstance(parts, tuple) and parts else (parts,):
        whole = part in ("paper", "release")
        require(not whole, "semantics", part, "it is a whole set and stands alone; join differences by name")
        one_of("semantics", part, ["paper", "release", *DIFFERENCES, *DIFFERENCE_GROUPS])
        names.update(DIFFERENCE_GROUPS.get(part, (part,)))
    return frozenset(names)


@dataclass(frozen=True)
class NSASettings:
    """Native sparse attention of the vision tokens (paper, section 3), named as in the model's configuration."""

    block_size: int = 64  # s, tokens a block; should equal the vision tokens of one frame patch
    block_count: int = 32  # b, blocks that a query attends to in the selection branch, its own block included
    window: int = 256  # w, most recent tokens of the sliding-window branch, the query's own included
    branches: tuple[str, ...] = BRANCHES  # branches that are computed; one left out contributes 0 and costs nothing
    gate_mode: str = (
        "dynamic"  # dynamic: from the hidden state; static: training means by layer and head; fixed: gate_values
    )
    gate_values: tuple[float, ...] | None = None  # gates of (cmp, slc, swa) under gate_mode="fixed"
    gate_temperature: float = 0.3  # gate = sigmoid(logit / temperature)
    attention: str = "nsa"  # nsa, or dense: stock causal attention of the same weights, gates unused
    backend: str = "auto"  # kernels: auto picks triton on CUDA in half precision, else the torch reference
    semantics: str = field(  # paper; release: what the published checkpoint was trained with; or differences by name
        default="paper", metadata={"input": lambda value: sorted(differences(value))}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "branches", split_list(self.branches))
        if self.gate_values is not None:
            object.__setattr__(self, "gate_values", _floats("gate_values", split_list(self.gate_values)))
        valid = f"give a non-empty subset of {', '.join(BRANCHES)}, joined with + on a command line"
        require(isinstance(self.branches, tuple) and bool(self.branches), "branches", self.branches, valid)
        one_of("gate_mode", self.gate_mode, GATE_MODES)
        one_of("attention", self.attention, ATTENTIONS)
        one_of("backend", self.backend, BACKENDS)
        object.__setattr__(self, "semantics", canonical_semantics(self.semantics))
        self._check_limits()
        object.__setattr__(self, "branches", tuple(name for name in BRANCHES if name in self.branches))
        object.__setattr__(self, "gate_temperature", _above_0("gate_temperature", self.gate_temperature))
        if self.gate_mode == "fixed":
            valid = "three numbers of at least 0 for cmp, slc, swa, as in 1.0+0.5+0.5, with gate_mode=fixed"
            given = self.gate_values
            require(given is not None and len(given) == 3 and min(given) >= 0, "gate_values", given, valid)
        else:
            require(self.gate_values is None, "gate_values", self.gate_values, "only with gate_mode=fixed")

    def _check_limits(self) -> None:
        """The kernels' own limits. Dense attention runs none of them, so only the sizes themselves must make sense."""
        sizes = {name: getattr(self, name) for name in ("block_size", "block_count", "window", "branches")}
        if self.attention == "nsa":
            sizes |= {"differences": attention_differences(self.semantics), "backend": self.backend}
        refused = limits.refusal(**sizes)
        if refused is not None:
            raise SettingsError(str(refused))

    @property
    def budget(self) -> int:
        """K_vis = b*s + w, as the paper counts it: all branches, b as it is set (section 3.3)."""
        return self.block_count * self.block_size + self.window

    def keys_read(self, length: int) -> float:
        """K: tokens that a vision query reads by the branches that are computed: b*s by selection, w by the window.

        Under importance_round_up b is the power of two that is chosen. Compression reads no tokens but block means,
        which the paper's K leaves out; where it is the only branch they are what is read, on average over `length`.
        """
        names = differences(self.semantics)
        if self.branches == ("cmp",):
            return self._block_means_read(length, "cmp_mask" in names)
        blocks = limits.next_power_of_two(self.block_count) if "importance_round_up" in names else self.block_count
        selected = blocks * self.block_size if "slc" in self.branches else 0
        return selected + (self.window if "swa" in self.branches else 0)

    def _block_means_read(self, length: int, of_later_blocks: bool) -> float:
        """Mean over `length` queries of the block means that one sees: of earlier blocks, or of its own and later."""
        whole, rest = divmod(length, self.block_size)
        earlier = self.block_size * whole * (whole - 1) / 2 + whole * rest  # blocks that end before a query's begins
        pairs = length * (whole + (rest > 0)) - earlier if of_later_blocks else earlier + whole
        return pairs / length

    def attention_fraction(self, length: int) -> float:
        """Gamma = 2*K/(L-1): `keys_read` as a share of causal dense attention over L vision tokens, at most 1."""
        if self.attention == "dense" or length <= 1:
            return 1.0
        return min(1.0, 2 * self.keys_read(length) / (length - 1))


@dataclass(frozen=True)
class TrainSettings:
    """One training run: what is trained, on what, for how long. The defaults are the paper's recipe (appendix)."""

    model: str = "Qwen/Qwen2.5-VL-7B-Instruct"  # hub name, folder, or a small model made on the spot: tiny, study
    nsa: NSASettings = field(default_factory=NSASettings)  # attention while training
    seed: int = 0  # of initial weights, order and content of the samples
    data: str = "synth"  # "synth", or a JSON/JSONL file of conversations about videos
    video_folder: str | None = None  # where the videos of `data` lie
    families: tuple[str, ...] = ("needle", "order", "layout")  # of questions; one named twice has two parts
    frames: tuple[int, ...] = (8, 16, 32)  # lengths of synthetic videos: stages, shortest first, equally many steps
    frame_shares: tuple[float, ...] | None = field(default=None, metadata={"before": None})  # of the steps, by length
    frame_batches: tuple[int, ...] | None = field(default=None, metadata={"before": None})  # samples a step, by length
    earlier: float = field(default=0.0, metadata={"before": 0.0})  # of a stage's steps those that show a shorter length
    fps: float = 4.0  # frames a second sampled from real videos
    pixels_per_frame: int = 50176  # cap of a frame, px; 64 vision tokens a 2-frame patch
    max_tokens: int = 36_000  # of a sample, as the decoder sees them; longer samples lose frames, evenly
    steps: int | None = None  # optimizer steps; None: one epoch
    batch_size: int = 32  # samples a step over all devices
    micro_batch_size: int = field(default=1, metadata=NO_EFFECT)  # samples a device holds at once, each padded
    packing: bool = field(default=False, metadata=NO_EFFECT)  # ... in its place as many as a row holds, unpadded
    row_tokens: int | None = field(default=None, metadata=NO_EFFECT)  # of such a row, at most; None: max_tokens
    learning_rate: float = 1e-6  # peak
    warmup_fraction: float = 0.1  # of the steps, linear
    warmup_start: float = 1e-5  # first learning rate, as a share of the peak
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW
    max_grad_norm: float = 1.0
    precision: str = "bf16"
    gate_start: tuple[float, ...] = field(  # where fresh gates of (cmp, slc, swa) start, between 0 and 1
        default=(0.5, 0.5, 0.5), metadata={"before": (0.5, 0.5, 0.5)}
    )
    freeze: tuple[str, ...] = field(default=(), metadata={"before": ()})  # parts that stay: tower, projector, decoder
    lora_rank: int = field(default=0, metadata={"before": 0})  # of adapters that learn for the decoder; 0: it does
    lora_alpha: float | None = field(default=None, metadata={"before": None})  # None: twice the rank
    lora_modules: tuple[str, ...] = field(  # matrices of the decoder's layers that get one
        default=LORA_MODULES, metadata={"before": LORA_MODULES}
    )
    activation_checkpointing: bool = field(default=True, metadata=NO_EFFECT)  # saves memory, takes time
    sharding: str = field(default="none", metadata=NO_EFFECT)  # of weights over the processes: none, or full
    offload: bool = field(default=False, metadata=NO_EFFECT)  # what sharding shares lies in CPU memory, and moves there
    sequence_parallel: int = field(default=1, metadata=NO_EFFECT)  # processes over which each sample lies
    deterministic: bool = field(default=False, metadata=NO_EFFECT)  # equal bits from equal work on GPUs, too; slower
    max_skipped: float = field(default=0.1, metadata=NO_EFFECT)  # share of the samples; more that fail end it
    save_every: int = field(default=100, metadata=NO_EFFECT)  # steps between checkpoints for resuming
    keep_checkpoints: int = field(default=1, metadata=NO_EFFECT)  # the newest that stay while it trains
    stop_at: tuple[str, ...] = field(default=(), metadata=NO_EFFECT)  # spike, stall: end there; else they are only said
    stall_seconds: float = field(default=120.0, metadata=NO_EFFECT)  # without a sample, after which it is said

    def __post_init__(self) -> None:
        for name in ("families", "stop_at"):
            object.__setattr__(self, name, _listed(split_list(getattr(self, name))))
        for name in ("frames", "betas"):
            object.__setattr__(self, name, _listed(getattr(self, name)))
        for name in ("model", "data", "video_folder"):
            if isinstance(given := getattr(self, name), str):
                object.__setattr__(self, name, place_text(given))
        for name in ("model", "data"):
            _text(name, getattr(self, name))
            _name(name, getattr(self, name))
        for name in (
            "batch_size",
            "micro_batch_size",
            "sequence_parallel",
            "save_every",
            "keep_checkpoints",
            "max_tokens",
            "pixels_per_frame",
        ):
            _integer(name, getattr(self, name), minimum=1)
        part = self.micro_batch_size
        require(self.batch_size % part == 0, "batch_size", self.batch_size, f"a multiple of micro_batch_size={part}")
        _integer("seed", self.seed, minimum=0)
        for name in ("steps", "row_tokens"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), minimum=1)
        if self.video_folder is not None:
            _name("video_folder", self.video_folder)
        for name, (valid, good) in _NUMBERS.items():
            require(_is_number(getattr(self, name)) and good(getattr(self, name)), name, getattr(self, name), valid)
            object.__setattr__(self, name, _float(getattr(self, name)))
        betas = self.betas
        require(len(betas) == 2 and all(_is_number(b) and 0 <= b < 1 for b in betas), "betas", betas, "two from 0 to 1")
        object.__setattr__(self, "betas", tuple(map(_float, betas)))
        names = bool(self.families) and all(isinstance(name, str) and name for name in self.families)
        require(names, "families", self.families, "names of question families, joined with +")
        even = all(isinstance(n, int) and n >= 2 and n % 2 == 0 for n in self.frames) and bool(self.frames)
        require(even, "frames", self.frames, "even numbers of at least 2")
        for name in ("activation_checkpointing", "packing", "offload", "deterministic"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        self._check_stages()
        one_of("precision", self.precision, PRECISIONS)
        for name in self.stop_at:
            one_of("stop_at", name, TROUBLES)
        require(isinstance(self.nsa, NSASettings), "nsa", self.nsa, "settings such as {window: 8}")
        self._check_learning()
        one_of("sharding", self.sharding, SHARDINGS)
        require(not self.offload or self.sharding == "full", "offload", self.offload, "false, or with sharding: full")
        synthetic = self.data == "synth"
        require(not synthetic or self.steps is not None, "steps", None, "a number of steps with data=synth")
        require(synthetic or self.video_folder is not None, "video_folder", None, "the folder of data's videos")

    @property
    def learns_gates(self) -> bool:
        """Gates follow from the hidden states: the networks that make them are used, and so learn."""
        return self.nsa.attention == "nsa" and self.nsa.gate_mode == "dynamic"

    @property
    def lora_scale(self) -> float:
        """What an adapter's product counts: alpha / rank."""
        return 2.0 if self.lora_alpha is None else self.lora_alpha / self.lora_rank

    def _check_stages(self) -> None:
        """A share and a number of samples for each length of `frames`, which then rise."""
        count, part = len(self.frames), self.micro_batch_size
        given = [name for name in ("frame_shares", "frame_batches") if getattr(self, name) is not None]
        for name in given:
            object.__setattr__(self, name, _listed(split_list(getattr(self, name))))
            require(len(getattr(self, name)) == count, name, getattr(self, name), f"one for each of {count} frames")
        rise = list(self.frames) == sorted(set(self.frames))
        require(rise or not given, "frames", self.frames, f"lengths that rise, with {' and '.join(given)}")
        if self.frame_shares is not None:
            shares = _floats("frame_shares", self.frame_shares)
            require(min(shares) > 0, "frame_shares", shares, "numbers above 0")
            object.__setattr__(self, "frame_shares", shares)
        if self.frame_batches is not None:
            for size in self.frame_batches:
                _integer("frame_batches", size, minimum=1)
                valid = f"at most micro_batch_size={part}, or multiples of it"
                require(size <= part or size % part == 0, "frame_batches", size, valid)
            largest, valid = max(self.frame_batches), "the largest of frame_batches"
            require(self.batch_size == largest, "batch_size", self.batch_size, f"{valid}, {largest}")

    def _check_learning(self) -> None:
        """Something must learn, and nothing be asked twice."""
        gates = _floats("gate_start", split_list(self.gate_start))
        require(len(gates) == 3 and all(0 < gate < 1 for gate in gates), "gate_start", gates, "three between 0 and 1")
        object.__setattr__(self, "gate_start", gates)
        for name, known in (("freeze", MODEL_PARTS), ("lora_modules", LORA_MODULES)):
            given = split_list(getattr(self, name))
            require(isinstance(given, tuple), name, given, "names joined with +")
            for each in given:
                one_of(name, each, known)
            object.__setattr__(self, name, tuple(each for each in known if each in given))
        _integer("lora_rank", self.lora_rank, minimum=0)
        require(bool(self.lora_modules), "lora_modules", self.lora_modules, "some of " + ", ".join(LORA_MODULES))
        if self.lora_alpha is not None:
            object.__setattr__(self, "lora_alpha", _above_0("lora_alpha", self.lora_alpha))
        usual = (self.lora_alpha, self.lora_modules) == (None, LORA_MODULES)
        require(usual or self.lora_rank > 0, "lora_rank", 0, "at least 1 with lora_alpha or lora_modules")
        twice = self.lora_rank > 0 and "decoder" in self.freeze
        require(not twice, "freeze", self.freeze, "without decoder: with lora_rank its own weights stay anyway")
        require(self.learns_gates or set(gates) == {0.5}, "gate_start", gates, "only with NSA and gate_mode=dynamic")
        valid = "dynamic or fixed: static gates are means of what a training has learnt, asked at test time"
        require(self.nsa.gate_mode != "static" or self.nsa.attention == "dense", "nsa.gate_mode", "static", valid)
        learns = self.learns_gates or self.lora_rank > 0 or len(self.freeze) < len(MODEL_PARTS)
        require(learns, "freeze", self.freeze, "leave something that learns: without dynamic gates nothing does")


_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {  # of a training: what is valid
    "fps": ("a number above 0", lambda value: value > 0),
    "learning_rate": ("a number above 0, such as 1e-4", lambda value: value > 0),
    "warmup_fraction": ("a share from 0 to 1", lambda value: 0 <= value <= 1),
    "warmup_start": ("a share from 0 to 1", lambda value: 0 <= value <= 1),
    "weight_decay": ("a number of at least 0", lambda value: value >= 0),
    "max_grad_norm": ("a number above 0", lambda value: value > 0),
    "max_skipped": ("a share from 0 to 1", lambda value: 0 <= value <= 1),
    "earlier": ("a share from 0 to 1", lambda value: 0 <= value <= 1),
    "stall_seconds": ("a number above 0", lambda value: value > 0),
}


@dataclass(frozen=True)
class SuiteSettings:
    """How one benchmark is asked: its lmms-eval task, the video's sampling, and the answer's length."""

    name: str  # our name, the key in evals/suites.py
    task: str = ""  # lmms-eval's task name
    frames: int | None = None  # frames a video (at most); None: by fps
    fps: float | None = None  # frames a second; None: by frames
    tokens_per_frame: int = 64  # vision tokens a 2-frame patch (cap); sets the resolution
    max_new_tokens: int = 16
    limit: int | None = None  # first questions only; None: all
    seed: int = 0  # of synthetic questions; real benchmarks ignore it

    def __post_init__(self) -> None:
        for name in ("name", "task"):
            _text(name, getattr(self, name))
        for name in ("tokens_per_frame", "max_new_tokens"):
            _integer(name, getattr(self, name), minimum=1)
        _integer("seed", self.seed, minimum=0)
        for name in ("frames", "limit"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), minimum=1)
        require(self.frames is not None or self.fps is not None, "frames", None, "give frames, or fps, or both as caps")
        object.__setattr__(self, "fps", None if self.fps is None else _above_0("fps", self.fps))


def _integer(name: str, value: Any, minimum: int) -> None:
    require(limits.is_whole(value, minimum), name, value, f"a whole number of at least {minimum}")


def _text(name: str, value: Any) -> None:
    require(isinstance(value, str), name, value, "text")


def _name(name: str, value: Any) -> None:
    require(isinstance(value, str | Path) and bool(str(value).strip()), name, value, "text, and not empty")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _float(value: float) -> float:
    """1 and 1.0, 0 and -0.0 are one number, and have one identity."""
    return float(value) + 0.0


def _above_0(name: str, value: Any) -> float:
    require(_is_number(value) and value > 0, name, value, "a number above 0")
    return _float(value)


def _listed(value: Any) -> tuple[Any, ...]:
    """A list as a tuple; one value as a tuple of it."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _floats(name: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = [number(value, name) if isinstance(value, str) else value for value in values]
    except (TypeError, SettingsError):
        numbers = [None]
    require(all(map(_is_number, numbers)), name, values, "give numbers")
    return tuple(map(_float, numbers))


def from_dict(cls: type[S], mapping: Mapping[str, Any], where: str = "") -> S:
    """Build settings from a plain mapping; an unknown key is refused with the list of the known ones."""
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{where}: " if where else ""
    if not isinstance(mapping, Mapping):
        raise SettingsError(f"{prefix}{mapping!r} is not valid: give some of {', '.join(sorted(known))}")
    for key in mapping:
        if key not in known:
            names = ", ".join(sorted(known))
            raise SettingsError(f"{prefix}unknown key {key!r}; known keys: {names}{unknown(key, known)}")
    values = dict(mapping)
    if "nsa" in known and isinstance(values.get("nsa"), Mapping):
        values["nsa"] = from_dict(NSASettings, values["nsa"], f"{where}.nsa" if where else "nsa")
    try:
        return cls(**values)
    except SettingsError as error:
        raise SettingsError(f"{prefix}{error}") from None
    except TypeError as error:
        raise SettingsError(f"{prefix}{error}") from None


def to_dict(settings: Any) -> dict[str, Any]:
    """The settings as JSON-ready values (tuples become lists); a copy of its own."""
    return {field.name: _as_json(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value

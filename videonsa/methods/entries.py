"""What a method states of itself without torch: its settings, and where the class that runs them lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from videonsa.config import one_of, require
from videonsa.identity import plain
from videonsa.limits import is_whole
from videonsa.names import BACKENDS

# Ways to spend less than all: NSA, none at all, keys that a head attends to, tokens that go on, what peers should be
# compared with (controls), what no method can beat (bounds).
KINDS = ("nsa", "dense", "sparse", "tokens", "control", "bound")

M = TypeVar("M", bound="type[MethodSettings]")


@dataclass(frozen=True)
class Entry:
    """One way to spend attention."""

    name: str
    settings: type  # frozen dataclass; NSASettings of the paper's, the release's and dense attention
    runs: str  # "package.module:Class" of a `videonsa.methods.contract.Method`
    parts: tuple[str, ...] = ()  # parts of videonsa.identity.CODE that it uses besides its own file
    kind: str = "sparse"  # one of KINDS: how tables and figures group methods

    def __post_init__(self) -> None:
        one_of("kind", self.kind, KINDS)

    @property
    def chooses_keys(self) -> bool:
        """Each query attends to keys that the method chose (videonsa/methods/sparse.py), and a probe can ask which."""
        return "sparse" in self.parts


@dataclass(frozen=True)
class MethodSettings:
    """Settings of a method: frozen, each field checked where it is built. Subclasses add fields, and no torch."""

    entry: ClassVar[Entry]

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check = item.metadata.get("check")
            if check is not None:
                object.__setattr__(self, item.name, check(f"{self.entry.name}.{item.name}", getattr(self, item.name)))

    @property
    def name(self) -> str:
        """The method's name, as in `method: NAME`."""
        return self.entry.name

    def sampling(self) -> dict[str, float]:
        """How videos become tokens under this method, where it is not as their suite says: `frame_share` of the frames,
        `pixel_share` of each frame's and image's tokens."""
        return {}

    def inputs(self) -> dict[str, Any]:
        """What can change a number, JSON-ready: every field, but a later one that does what was done before it."""
        values = {}
        for item in dataclasses.fields(self):
            as_input, no_effect = item.metadata.get("input", plain), item.metadata.get("no_effect")
            value = as_input(getattr(self, item.name))  # of a file: what it holds
            if not (no_effect or ("before" in item.metadata and value == as_input(item.metadata["before"]))):
                values[item.name] = value
        return {"name": self.name, **values}

    def check_model(self, layers: int, query_heads: int) -> None:
        """Raise SettingsError for a model of a shape that this does not serve."""


def method(name: str, runs: str, parts: tuple[str, ...] = (), kind: str = "sparse") -> Callable[[M], M]:
    """Make a settings class an entry: `@method("tri_shape", runs="videonsa.methods.tri_shape:TriShape")`."""

    def enter(cls: M) -> M:
        cls.entry = Entry(name, cls, runs, parts, kind)
        return cls

    return enter


def whole(default: int | None, at_least: int = 1, or_none: bool = False) -> Any:
    """A field that holds a whole number, or None where that is allowed."""
    valid = f"a whole number of at least {at_least}" + (", or null" if or_none else "")

    def check(name: str, value: Any) -> Any:
        require((value is None and or_none) or is_whole(value, at_least), name, value, valid)
        return value

    return field(default=default, metadata={"check": check})


def share(default: float, above: float = 0.0) -> Any:
    """A field that holds a share: a number above `above` and at most 1."""

    def check(name: str, value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and above < value <= 1
        require(number, name, value, f"a number above {above:g} and at most 1")
        return float(value)

    return field(default=default, metadata={"check": check})


def number(default: float, at_least: float = 0.0, at_most: float = float("inf")) -> Any:
    """A field that holds a number between two others."""

    def check(name: str, value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and at_least <= value <= at_most
        upper = "" if at_most == float("inf") else f" and at most {at_most:g}"
        require(good, name, value, f"a number of at least {at_least:g}{upper}")
        return float(value) + 0.0

    return field(default=default, metadata={"check": check})


def choice(default: str, names: tuple[str, ...]) -> Any:
    """A field that holds one of several names."""

    def check(name: str, value: Any) -> str:
        one_of(name, value, names)
        return value

    return field(default=default, metadata={"check": check})


def backend() -> Any:
    """The field `backend`: auto takes the fast path on a GPU in half precision, else the torch reference."""
    return choice("auto", BACKENDS)

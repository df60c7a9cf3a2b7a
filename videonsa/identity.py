"""What a number depends on, and the digits that stand for it: one rule for settings, one list of code. No torch.

An identity is made of plain inputs, and records carry them beside it: `identity` of equal inputs is equal on every
machine. What can change a number is an input; what cannot (where files lie, how work is spread, who looks on) is none.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from videonsa.git import ROOT, git
from videonsa.names import SMALL_MODELS

# Of the form of inputs, below; ablations/adopt.py knows what came when. Records of version 1 carry none; in those of
# version 2 the digits of code went by how the interpreter of that minor version of Python writes code out.
VERSION = 3

# Metadata of a field of settings that changes no number: placement, prose.
NO_EFFECT = {"no_effect": True}

# The fields that settings had when this rule began: always inputs. A field that came later states, in its metadata,
# the value that does what was done before it existed: field(default=..., metadata={"before": ...}). With that value
# it is no input, so that adding it changes no identity. The value is frozen: tests/test_identity.py holds them all.
FIRST_FIELDS: dict[str, tuple[str, ...]] = {
    "NSASettings": (
        *("block_size", "block_count", "window", "branches", "gate_mode", "gate_values", "gate_temperature"),
        *("attention", "backend", "semantics"),
    ),
    "TrainSettings": (
        *("model", "nsa", "seed", "data", "video_folder", "families", "frames", "fps", "pixels_per_frame"),
        *("max_tokens", "steps", "batch_size", "learning_rate", "warmup_fraction", "warmup_start", "weight_decay"),
        *("betas", "max_grad_norm", "precision"),
    ),
    "SuiteSettings": ("name", "task", "frames", "fps", "tokens_per_frame", "max_new_tokens", "limit", "seed"),
    "Suite": ("metric", "aggregate", "chance", "family", "questions", "video", "answer", "judged"),
    "Aggregate": ("score", "kind", "parts", "mean_over", "kinds", "figure"),
    "SyntheticData": ("family", "questions", "frames", "size", "seed"),
}

# The code that numbers depend on, by part: each file counts in the part that names it, or its folder, most closely.
CODE: dict[str, tuple[str, ...]] = {
    "settings": ("videonsa/config.py",),
    "modeling": (
        *("videonsa/modeling", "videonsa/torchvision_ops.py"),
        *("videonsa/methods/contract.py", "videonsa/methods/samples.py", "videonsa/methods/dense.py"),
        "videonsa/methods/runs.py",
    ),
    "kernels": (
        *("videonsa/kernels", "videonsa/limits.py"),
        *("videonsa/methods/paper.py", "videonsa/methods/layout.py", "videonsa/methods/mixed.py"),
        "videonsa/methods/tail.py",
    ),
    "sparse": (  # of methods that choose keys
        *("videonsa/kernels/block_sparse.py", "videonsa/kernels/key_choice.py", "videonsa/methods/sparse.py"),
        *("videonsa/kernels/block_sparse_triton.py", "videonsa/kernels/tiling_sparse.py"),
        "videonsa/kernels/antidiagonal.py",
        *("videonsa/methods/estimate.py", "videonsa/methods/diagonals.py"),
    ),
    "release": (
        *("videonsa/kernels/release.py", "videonsa/kernels/bitonic.py", "videonsa/methods/release.py"),
        *("videonsa/kernels/release_triton.py", "videonsa/kernels/release_choice.py"),
        *("videonsa/kernels/release_branches.py", "videonsa/kernels/release_gradients.py"),
    ),
    "dropping": ("videonsa/methods/compression.py", "videonsa/methods/tokens.py", "videonsa/methods/tower.py"),
    "synth": ("videonsa/synth", "videonsa/drawing.py"),
    "tiny": ("videonsa/tiny.py", "videonsa/small.py"),
    "reading": ("videonsa/video",),
    "training": ("videonsa/training",),
    "evals": ("evals",),
    "questions": ("evals/data/synthetic.py", "evals/tasks"),  # ours; their YAML files count by content, each for itself
    "probe": ("evals/probe.py", "evals/observers/contract.py"),
    "sinks": ("evals/sinks.py",),
    "branches": ("evals/branches.py",),
    "content": ("evals/content_measures.py",),
}
# What the code above imports and what yet counts nowhere, because its effect shows in the inputs, or it has none.
NOT_COUNTED = (
    *("videonsa/identity.py", "videonsa/fingerprint.py", "videonsa/hub.py", "videonsa/names.py", "videonsa/record.py"),
    *("videonsa/disk.py", "videonsa/values.py", "videonsa/places.py", "videonsa/lock.py", "videonsa/process.py"),
    *("videonsa/__init__.py", "videonsa/weights.py", "videonsa/tracking.py", "evals/plugin.py", "evals/content.py"),
    *("videonsa/wandb_rules.py", "videonsa/commands.py"),
    *("evals/needs.py", "evals/shipped.py", "evals/arguments.py", "videonsa/surroundings.py", "videonsa/git.py"),
    *("evals/data/__init__.py", "evals/answers.py", "evals/media.py"),
    *("evals/observers/__init__.py", "evals/observers/registry.py"),
    "evals/head_patterns.py",  # a table that it makes counts by what it holds
    *("videonsa/bootstrap.py", "videonsa/options.py", "videonsa/awq.py", "videonsa/placement.py"),
    *("videonsa/methods/__init__.py", "videonsa/methods/entries.py", "videonsa/methods/settings.py"),
    *("videonsa/methods/registry.py", "videonsa/methods/meter.py", "videonsa/methods/head_table.py"),
    "videonsa/methods/outside.py",
    *(
        "videonsa/text.py",
        "videonsa/training/journal.py",
        "videonsa/training/watch.py",
        "videonsa/limit.py",
    ),  # who looks on
    *("videonsa/video/__init__.py", "videonsa/video/readers.py", "videonsa/video/worker.py"),  # who reads
    "videonsa/video/header.py",  # estimates
)
# Of these files functions count, and declarations do not: the values that they declare are inputs.
DECLARATIONS = ("videonsa/config.py", "videonsa/modeling/configuration.py", "evals/suites.py", "evals/aggregates.py")
# Of this one not even checks and readers count: whatever they do shows in the values.
CHECKS = {"videonsa/config.py": ("require", "one_of", "split_list", "from_dict")}

Files = Callable[[str], Iterable[tuple[str, str]]]  # folder or file -> (path, text) of each file of code in it


def identity(mapping: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that stand for these values: SHA-256 of their canonical JSON."""
    text = json.dumps(mapping, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def settings_inputs(settings: Any) -> dict[str, Any]:
    """The fields of settings that can change a number, as inputs: JSON-ready.

    A field that is new since the rule began and does not state its `before` is taken to have its default there.
    """
    first = FIRST_FIELDS.get(type(settings).__name__, ())
    inputs = {}
    for field in dataclasses.fields(settings):
        as_input = field.metadata.get("input", plain)
        value = as_input(getattr(settings, field.name))
        known_before = field.name not in first or "before" in field.metadata
        if field.metadata.get("no_effect") or (known_before and value == as_input(before(field))):
            continue
        inputs[field.name] = value
    return inputs


def before(field: dataclasses.Field) -> Any:
    """The value of a field that does what was done before there was such a field."""
    if "before" in field.metadata:
        return field.metadata["before"]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def plain(value: Any) -> Any:
    """A value as JSON has it; a function is its name, or what its one line does, and what it was made with."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return settings_inputs(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if callable(value):
        held = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        name = _lambda(value) if value.__name__ == "<lambda>" else f"{value.__module__}.{value.__qualname__}"
        return [name, *plain(held)] if held else name
    return value


def _lambda(function: Any) -> str:
    """What a lambda does: it has no name, and stands among declarations, which do not count as code."""
    code = function.__code__
    nodes = (node for node in _nodes(code.co_filename) if isinstance(node, ast.Lambda))
    return "; ".join(ast.unparse(node) for node in nodes if node.lineno == code.co_firstlineno)


@lru_cache
def _nodes(file: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))))


def canonical(node: Any) -> str:
    """A syntax tree as text that is the same on every version of Python: `ast.unparse` quotes and puts parentheses now
    so, now so, newer trees have fields that are empty where nothing new is used, and some end a format with nothing."""
    if isinstance(node, list):
        return f"[{', '.join(map(canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.JoinedStr):
        node = ast.JoinedStr([part for part in node.values if getattr(part, "value", None) != ""])
    fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
    return f"{type(node).__name__}({', '.join(f'{name}={canonical(value)}' for name, value in fields)})"


def attention_parts(attention: str, semantics: str) -> tuple[str, ...]:
    """The parts of CODE that run a model with this attention: dense layers are stock."""
    usual = ("settings", "modeling")
    if attention == "dense":
        return usual
    return (*usual, "kernels") if semantics == "paper" else (*usual, "kernels", "release")


def training_parts(attention: str, semantics: str, model: str, data: str) -> tuple[str, ...]:
    """The parts of CODE that make the weights of a training."""
    more = (("tiny", model in SMALL_MODELS), ("synth", data == "synth"), ("reading", data != "synth"))
    return (*attention_parts(attention, semantics), "training", *(name for name, used in more if used))


def evaluation_parts(attention: str, semantics: str, synthetic: bool) -> tuple[str, ...]:
    """The parts of CODE that make the answers and scores of a cell."""
    more = ("synth", "questions") if synthetic else ()
    return (*attention_parts(attention, semantics), "reading", "evals", *more)


def probe_parts(attention: str, semantics: str, synthetic: bool) -> tuple[str, ...]:
    """The parts of CODE that make what any probe finds; each observer adds its own (evals/observers/registry.py)."""
    return (*evaluation_parts(attention, semantics, synthetic), "probe")


# What begins the part of a file of its own, below these folders: videonsa/methods/NAME.py is the part "method NAME".
OWN = "method "
OBSERVER = "observer "
FILES_OF_THEIR_OWN = {OWN: "videonsa/methods", OBSERVER: "evals/observers"}


def part_of(path: str) -> str | None:
    """The part of CODE in which a file of the repository counts; None: in none."""
    if path in NOT_COUNTED or (path.startswith("evals/tasks/") and not path.endswith(".py")):
        return None
    named = [
        (len(top), part) for part, tops in CODE.items() for top in tops if path == top or path.startswith(f"{top}/")
    ]
    longest, part = max(named, default=(0, None))
    for own, folder in FILES_OF_THEIR_OWN.items():
        if path.startswith(f"{folder}/") and longest <= len(folder):
            return own + Path(path).stem
    return part


def part_version(part: str, files: Files | None = None) -> str:
    """12 hexadecimal digits of what a part of CODE does; `files`: of another commit, see `files_at`."""
    return _part_here(part) if files is None else _digits(_part_files(part, files))


@lru_cache
def part_of_version_2(part: str) -> str:
    """The digits that records of version 2 have of a part as it is here, if this Python made them."""
    return _digits(_part_files(part, files_here), ast.unparse)


def code_version(*folders: str) -> str:
    """12 hexadecimal digits of what all Python files and YAML below these folders of the repository do."""
    return _folders_here(*folders)


@lru_cache
def _part_here(part: str) -> str:
    return _digits(_part_files(part, files_here))


@lru_cache
def _folders_here(*folders: str) -> str:
    return _digits(file for folder in sorted(folders) for file in files_here(folder))


def _part_files(part: str, files: Files) -> list[tuple[str, str]]:
    own = next((own for own in FILES_OF_THEIR_OWN if part.startswith(own)), None)
    tops = CODE[part] if own is None else (f"{FILES_OF_THEIR_OWN[own]}/{part.removeprefix(own)}.py",)
    found = {path: text for top in tops for path, text in files(top)}
    return sorted((path, text) for path, text in found.items() if part_of(path) == part)


def files_here(top: str) -> Iterator[tuple[str, str]]:
    """The files of code below a folder of this checkout."""
    place = ROOT / top
    found = [place] if place.is_file() else sorted([*place.rglob("*.py"), *place.rglob("*.yaml")])
    for file in found:
        yield file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")


def files_at(commit: str) -> Files | None:
    """The files of code as a commit has them, from git; None where the commit is not at hand."""
    if not commit or git("cat-file", "-e", f"{commit}^{{commit}}") is None:
        return None

    def files(top: str) -> Iterator[tuple[str, str]]:
        for path in (git("ls-tree", "-r", "--name-only", commit, "--", top) or "").splitlines():
            if path.endswith((".py", ".yaml")):
                yield path, git("show", f"{commit}:{path}") or ""

    return files


def _digits(files: Iterable[tuple[str, str]], write: Callable[[ast.AST], str] = canonical) -> str:
    digest = hashlib.sha256()
    for path, text in files:
        digest.update(path.encode())
        digest.update((effect(path, text, write=write) if path.endswith(".py") else text).encode())
    return digest.hexdigest()[:12]


def effect(path: str, source: str, declares: bool = False, write: Callable[[ast.AST], str] = canonical) -> str:
    """The source of a file without what changes no number: comments, docstrings, layout; of some, declarations."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        scope = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if scope and ast.get_docstring(node):  # type: ignore[arg-type]
            node.body = node.body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    if declares or path in DECLARATIONS:
        return "\n".join(f"{owner}{write(function)}" for owner, function in _functions(tree, path))
    return write(tree)


def _functions(tree: ast.Module, path: str) -> Iterator[tuple[str, ast.stmt]]:
    """(class, function) of a module of declarations, in the order of their names; its checks left out."""
    owners = [("", tree.body)] + [(f"{node.name}.", node.body) for node in tree.body if isinstance(node, ast.ClassDef)]
    found = [
        (owner, node.name, node)
        for owner, body in owners
        for node in body
        if isinstance(node, ast.FunctionDef) and not _is_check(path, node.name)
    ]
    yield from ((owner, node) for owner, _, node in sorted(found, key=lambda item: item[:2]))


def _is_check(path: str, name: str) -> bool:
    return path in CHECKS and (name.startswith("_") or name in CHECKS[path])

"""Identities: what counts, what does not, and that nothing which can change a number is forgotten."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations.snapshot import PACKAGES
from evals.aggregates import Aggregate
from evals.data.synthetic import SyntheticData
from evals.suites import Suite
from tests.test_layers import ROOT, imports, module_name, sources
from videonsa import identity as rules
from videonsa.config import NSASettings, SuiteSettings, TrainSettings, to_dict
from videonsa.identity import (
    CODE,
    FIRST_FIELDS,
    NO_EFFECT,
    NOT_COUNTED,
    OWN,
    attention_parts,
    code_version,
    effect,
    files_here,
    identity,
    part_of,
    settings_inputs,
)
from videonsa.methods.entries import Entry
from videonsa.methods.settings import ENTRIES as METHODS

SETTINGS = (NSASettings, TrainSettings, SuiteSettings, Suite, Aggregate, SyntheticData)
# Fields that came after FIRST_FIELDS, and the value of each that does what was done before there was the field. A line
# here is for ever: with another value, finished numbers would count for what they are not.
BEFORE: dict[str, dict[str, object]] = {cls.__name__: {} for cls in SETTINGS}
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BEFORE["TrainSettings"] |= {
    "freeze": (),
    "lora_rank": 0,
    "lora_alpha": None,
    "gate_start": (0.5, 0.5, 0.5),
    "lora_modules": LORA_MODULES,
    "frame_shares": None,
    "frame_batches": None,
    "earlier": 0.0,
}
BEFORE["Suite"] |= {"mp4": False}
BEFORE["SyntheticData"] |= {"mp4": False}
ENTRIES = ("evals.run", "evals.checkpoint", "evals.model", "videonsa.training.run", "videonsa.training.loop")


@given(st.sampled_from([f.name for f in dataclasses.fields(NSASettings) if f.type == "int"]), st.integers(1, 10**6))
def test_an_identity_notices_every_number(field, value):
    changed = dataclasses.replace(NSASettings(), **{field: value})
    same = changed == NSASettings()
    assert (identity(settings_inputs(changed)) == identity(settings_inputs(NSASettings()))) == same


def test_an_identity_does_not_depend_on_the_order():
    assert identity({"a": 1, "b": [2, 3]}) == identity({"b": [2, 3], "a": 1})
    assert identity({"b": [3, 2]}) != identity({"b": [2, 3]})


@pytest.mark.parametrize("cls", SETTINGS, ids=lambda cls: cls.__name__)
def test_a_new_field_states_what_was_done_before_it(cls: type):
    first = FIRST_FIELDS[cls.__name__]
    new = [field for field in dataclasses.fields(cls) if field.name not in (*first, "settings")]
    stated = {f.name: f.metadata["before"] for f in new if "before" in f.metadata}
    silent = [f.name for f in new if "before" not in f.metadata and not f.metadata.get("no_effect")]
    assert not silent, f"{silent}: field(default=..., metadata={{'before': ...}}), and a line in BEFORE above"
    assert stated == BEFORE[cls.__name__], "the value stated for the time before a field never changes"
    names = {field.name for field in dataclasses.fields(cls)}
    assert set(first) <= names, "a field that is gone changes identities: say what its numbers are now"


def test_fields_with_the_value_of_before_are_no_inputs():
    @dataclasses.dataclass(frozen=True)
    class Later:
        old: int = 1  # not among FIRST_FIELDS, without a statement: its default counts as the value of before
        new: int = dataclasses.field(default=2, metadata={"before": 1})
        place: str = dataclasses.field(default="here", metadata=NO_EFFECT)
        read: str = dataclasses.field(default="b+a", metadata={"input": lambda value: sorted(value.split("+"))})

    assert settings_inputs(Later()) == {"new": 2}
    assert settings_inputs(Later(new=1, place="there")) == {}
    assert settings_inputs(Later(old=3, read="a+b")) == {"old": 3, "new": 2}
    assert settings_inputs(Later(read="c")) == {"new": 2, "read": ["c"]}


def test_semantics_count_by_what_they_do():
    one, other = NSASettings(semantics="importance"), NSASettings(semantics="paper")
    assert settings_inputs(one)["semantics"] == ["importance_lse", "importance_own_block", "importance_round_up"]
    assert settings_inputs(other)["semantics"] == []


def test_placement_changes_no_identity():
    usual = TrainSettings(steps=1)
    moved = dataclasses.replace(usual, micro_batch_size=4, activation_checkpointing=False, save_every=7)
    assert to_dict(usual) != to_dict(moved)
    assert settings_inputs(usual) == settings_inputs(moved)


def test_all_code_that_makes_numbers_counts():
    """Whatever evaluation and training import, directly or not, counts in a part or is said to count nowhere."""
    by_name = {module_name(path): path for path in sources()}
    seen, todo = set(), list(ENTRIES)
    while todo:
        name = todo.pop()
        if name in by_name and name not in seen:
            seen.add(name)
            todo += [imported for _, imported in imports(by_name[name])]
    paths = {by_name[name].relative_to(ROOT).as_posix() for name in seen}
    assert {"videonsa/modeling/model.py", "videonsa/kernels/reference.py", "evals/scores.py"} <= paths
    assert {path for path in paths if part_of(path) is None} <= set(NOT_COUNTED)
    assert all((ROOT / top).exists() for tops in CODE.values() for top in tops)


# Files from which these take `causal_scores` or `causal_rows` alone, and no kernel; NSA only to answer probes, which
# count the part "sparse".
SCORES = dict.fromkeys(("paper", "release", "oracle"), "videonsa/methods/sparse.py")


def reached(entry: Entry) -> set[str]:
    """Files of ours that the class of a method imports, directly or not; what a package re-exports is not followed."""
    left_out = {ROOT / SCORES.get(entry.name, ""), *(ROOT / path for path in NOT_COUNTED)}
    by_name = {module_name(path): path for path in sources() if path.name != "__init__.py" and path not in left_out}
    seen, todo = set(), [entry.runs.partition(":")[0]]
    while todo:
        name = todo.pop()
        if name in seen or name not in by_name:
            continue
        seen.add(name)
        todo += [imported for _, imported in imports(by_name[name])]
    return {by_name[name].relative_to(ROOT).as_posix() for name in seen}


def parts_that_count(entry: Entry) -> set[str]:
    """The parts in a cell that asks for the method."""
    attention = "nsa" if entry.kind == "nsa" else "dense"
    usual = attention_parts(attention, "release" if entry.name == "release" else "paper")
    return {*usual, *(() if entry.settings is NSASettings else (f"{OWN}{entry.name}", *entry.parts))}


@pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
def test_all_files_of_ours_that_a_method_imports_count_in_its_cells(entry: Entry):
    parts = parts_that_count(entry)
    found = {path: part_of(path) for path in reached(entry)}
    assert found, f"{entry.runs} imports nothing"
    missing = {path: part for path, part in found.items() if part not in parts}
    assert not missing, "add these parts to the entry's `parts`, or the files to a part of CODE that it has"
    assert not set(entry.parts) - parts


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("videonsa/kernels/select.py", "kernels"),
        ("videonsa/kernels/release.py", "release"),
        ("evals/probe.py", "probe"),
        ("evals/observers/gates.py", "observer gates"),
        ("evals/sinks.py", "sinks"),
        ("evals/run.py", "evals"),
        ("evals/tasks/synthetic.py", "questions"),
        ("evals/tasks/synth_order.yaml", None),
        ("videonsa/bench/case.py", None),
        ("videonsa/audit.py", None),
        ("analysis/tables.py", None),
    ],
)
def test_where_code_counts(path: str, part: str | None):
    assert part_of(path) == part


def test_code_version_notices_code_and_ignores_prose(tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "ROOT", tmp_path)
    (tmp_path / "lib").mkdir()

    def version(source: str) -> str:
        (tmp_path / "lib" / "a.py").write_text(source)
        rules._folders_here.cache_clear()
        return code_version("lib")

    first = version('"""Doc."""\nx = 1  # one\n')
    assert version('"""Other words."""\n\nx   =   1\n') == first
    assert version('"""Doc."""\nx = 2\n') != first
    rules._folders_here.cache_clear()


CONFIG = """
class S:
    a: int = 1
    def __post_init__(self):
        _check(self.a)
    def budget(self):
        return self.a
"""


def test_code_counts_alike_on_every_python():
    """However a version of Python writes code out, it reads it back as what it was; and what it reads has one text."""
    files = [file for part in CODE for top in CODE[part] for file in files_here(top)]
    for path, text in files:
        if path.endswith(".py"):
            assert effect(path, ast.unparse(ast.parse(text))) == effect(path, text), path
    source = "def f(x, *y):\n    'prose'\n    return f'{x[\"a\"]!r:>{len(y)}}', None, (yield), [*y]\n"
    assert hashlib.sha256(effect("f.py", source).encode()).hexdigest()[:12] == "495a87055d05"


def test_of_settings_functions_count_and_declarations_and_checks_do_not():
    def version(old: str = "", new: str = "") -> str:
        return effect("videonsa/config.py", CONFIG.replace(old, new) if old else CONFIG)

    assert version("a: int = 1", "a: int = 2\n    b: int = 3") == version("_check", "_other") == version()
    assert version("return self.a", "return 2 * self.a") != version()


IDS = """
import json
from ablations.cell import make_cells
from ablations.grid import load_grid
from ablations.plan import Sweep
from ablations.profile import load_profile
from pathlib import Path
found = {}
for profile, grid in (("tiny", "budget"), ("tiny", "semantics_trained"), ("paper", "budget")):
    made = tuple(make_cells(load_grid(grid, profile), load_profile(profile)))
    sweep = Sweep(load_grid(grid, profile), load_profile(profile), Path("runs"), "x", made)
    found[f"{profile} {grid}"] = [*(cell.id for cell in made), *sweep.trainings, *(p.id for p in sweep.probes.values())]
print(json.dumps(found))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository's packages in a folder of their own."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def ids(folder: Path, code: str = IDS) -> dict[str, list[str]]:
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-B", "-c", code]  # as long an edit within a second would meet the code compiled before
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def change(path: Path, *pairs: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    path.write_text(text)


FIELD = "    later: int = field(default=3, metadata={'before': 3})\n\n    def __post_init__"
CHECK = "        _integer('later', self.later, minimum=0)\n"


def test_a_field_a_suite_or_a_figure_changes_no_identity_and_a_default_does(copy: Path):
    usual = ids(copy)
    config, suites = copy / "videonsa" / "config.py", copy / "evals" / "suites.py"
    first, *rest = config.read_text().split("\n    def __post_init__")
    assert len(rest) == 3  # NSASettings, TrainSettings, SuiteSettings
    config.write_text(first + "".join(FIELD + text for text in rest))
    change(config, ("        self._check_limits()\n", f"        self._check_limits()\n{CHECK}"))
    change(
        suites, ('        _synthetic("layout"),\n', '        _synthetic("layout"),\n        _synthetic("another"),\n')
    )
    (copy / "evals" / "tasks" / "synth_another.yaml").write_text("task: synth_another\n")
    (copy / "analysis" / "figures" / "another.py").write_text("def another():\n    return 1\n")
    assert ids(copy) == usual

    change(config, ("later: int = field(default=3", "later: int = field(default=4"))  # of NSASettings
    changed = ids(copy)
    assert all(not set(changed[name]) & set(usual[name]) for name in ("tiny budget", "tiny semantics_trained"))

    change(config, ("later: int = field(default=4", "later: int = field(default=3"))
    change(config, ("max_grad_norm: float = 1.0", "max_grad_norm: float = 2.0"))
    changed = ids(copy)
    assert not set(changed["tiny budget"]) & set(usual["tiny budget"])
    assert changed["paper budget"] == usual["paper budget"]  # nothing is trained there


OF_METHODS = """
import json
from ablations.cell import make_cells
from ablations.grid import load_grid
from ablations.profile import load_profile
cells = make_cells(load_grid("many.yaml", "tiny"), load_profile("tiny"))
print(json.dumps({cell.label: [cell.id] for cell in cells}))
"""
MANY = """
axes: {method: [paper, dense, tri_shape, xattention, fastv, random_tokens, oracle]}
base: {fastv.layer: 1}
suites: [synth_order]
seeds: [0]
"""
ANOTHER = """
@method("another", runs="videonsa.methods.another:Another", parts=SPARSE)
@dataclass(frozen=True)
class AnotherSettings(MethodSettings):
    n: int = whole(1)


ENTRIES: tuple[Entry, ...] = (
    AnotherSettings.entry,
"""


def test_a_method_more_changes_no_identity_and_a_line_of_one_its_own_cells_alone(copy: Path):
    (copy / "many.yaml").write_text(MANY)
    methods = copy / "videonsa" / "methods"

    usual = ids(copy, OF_METHODS)

    def changed() -> set[str]:
        """Methods whose cells are others than before."""
        return {name for name, found in ids(copy, OF_METHODS).items() if found != usual[name]}

    change(methods / "settings.py", ("ENTRIES: tuple[Entry, ...] = (\n", ANOTHER))
    (methods / "another.py").write_text((methods / "tri_shape.py").read_text().replace("TriShape", "Another"))
    change(methods / "tri_shape.py", ('"""', '"""Other words. '), ("\n\n\nclass", "\n\n\n# a comment\nclass"))
    assert changed() == set()
    for name in ("tri_shape", "compression"):
        (methods / f"{name}.py").write_text((methods / f"{name}.py").read_text() + "\nMORE = 1\n")
    assert changed() == {"tri_shape", "fastv", "random_tokens"}
    change(methods / "settings.py", ("stride: int = whole(16)", "stride: int = whole(8)"))
    (methods / "sparse.py").write_text((methods / "sparse.py").read_text() + "\nMORE = 1\n")
    assert changed() == {"tri_shape", "xattention", "fastv", "random_tokens", "oracle"}

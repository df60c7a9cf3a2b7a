"""What people type and write, tried at random: each is accepted, or refused in one line with exit code 2.

Nothing is lost, and nothing begun by what was refused. As many tries as wanted, from another seed:

    TRIES=100000 SEED=1 .venv/bin/python -m pytest -q --timeout 0 tests/test_tried.py
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from ablations import run
from analysis import run as analysis_run
from evals.arguments import read_arguments
from tests.test_layers import ROOT
from tests.typed import GRID_LINES, SLURM_LINES, lines, odd, of_set, options, recipes, texts
from videonsa.values import SettingsError, one_line, read_value, read_yaml

TRIES, SEED = int(os.environ.get("TRIES", "1000")), int(os.environ.get("SEED", "0"))
GRID = "question: q\nsuites: [synth_needle]\nbase: {suite.limit: 4, train.steps: 2}\naxes: {nsa.window: [4]}\n"
RECIPE = "train: {data: synth, model: tiny, steps: 2, nsa: {window: 4}}\nsuites: {synth_needle: {limit: 4}}\n"


def tries(share: float) -> settings:
    """This share of all tries."""
    return settings(
        max_examples=max(1, round(share * TRIES)),
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def tried(*typed: str, **files: str) -> None:
    """The command plans this, or refuses it in one line; either way nothing is written."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, text in {"grid": GRID, "small": RECIPE, **files}.items():
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8", newline="")
        typed = tuple(f"{folder}{part[1:]}" if part.startswith("@/") else part for part in typed)
        always = ["--grid", f"{folder}/grid.yaml", "--out", f"{folder}/runs", "--profile", f"{folder}/small.yaml"]
        code, printed, said = outcome([*always, "--dry-run", *typed])
        assert code in (0, 2), said
        if code == 2:
            assert printed == ""
            check_line(said)
            assert outcome([*always, *typed]) == (2, "", said)  # and so in earnest
        assert not (folder / "runs").exists()


def outcome(arguments: list[str], command: Callable[[list[str]], int] = run.main) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command, in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = command(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return code, out.getvalue(), err.getvalue()


def check_line(said: str) -> None:
    """One line, for people."""
    assert len(said) > 1
    assert one_line(said[:-1]) + "\n" == said
    assert "Traceback" not in said


def elsewhere(typed: list[str]) -> bool:
    """Another grid than the one that is tried, or a folder that the test does not clear."""
    return any(part == name or part.startswith(name[:4]) for part in typed for name in ("--out", "--grid"))


@seed(SEED)
@tries(0.08)
@given(of_set, st.sampled_from([["--profile", "cpu-test"], ["--profile", "cpu-test"], ["--profile", "paper"]]))
@example(["nsa.window=8", "nsa.window=16"], [])
@example(["slurm.minutes=1-12:30"], ["--profile", "cpu-test"])
def test_settings(typed: list[str], more: list[str]):
    tried(*more, *(part for pair in typed for part in ("--set", pair)))


@seed(SEED)
@tries(0.06)
@given(st.lists(options, max_size=3))
def test_options(typed: list[list[str]]):
    said = [part for parts in typed for part in parts]
    if not elsewhere(said):
        tried(*said)


FIGURES = ("table", "report", "parts", "published", "kernels", "budget", "gates", "--list")
drawn = st.sampled_from(FIGURES).map(lambda name: [name])
drawn |= st.tuples(st.sampled_from(["--sweep", "--benchmark"]), odd).map(list)


@seed(SEED)
@tries(0.03)
@given(st.lists(drawn | options, max_size=4))
def test_what_is_to_be_drawn(typed: list[list[str]]):
    said = [part for parts in typed for part in parts]
    if elsewhere(said) or any(part.startswith("--a") for part in said):  # --all, which takes long
        return
    with tempfile.TemporaryDirectory() as folder:
        code, printed, complaint = outcome([*said, "--out", f"{folder}/runs"], analysis_run.main)
    assert code in (0, 1, 2), complaint  # 1: no sweep has it
    assert "Traceback" not in complaint
    if code == 2:
        assert printed == ""
        check_line(complaint)


@seed(SEED)
@tries(0.1)
@given(lines(GRID_LINES, "suites: [synth_needle]\n") | lines(GRID_LINES))
def test_grids(text: str):
    tried(grid=text)


@seed(SEED)
@tries(0.06)
@given(recipes)
@example(f"{RECIPE}probe: {{suite: []}}\n")
def test_profiles(text: str):
    tried("--profile", "@/mine.yaml", mine=text)


@seed(SEED)
@tries(0.05)
@given(lines(SLURM_LINES))
def test_slurm_profiles(text: str):
    tried("--profile", "@/site.yaml", site=text)


@seed(SEED)
@tries(0.22)
@given(st.lists(st.tuples(st.sampled_from(["window", "fps", "pretrained", "branches"]) | texts(4), odd), max_size=4))
def test_model_arguments(typed: list[tuple[str, str]]):
    try:
        read = read_arguments(",".join(map("=".join, typed)))
    except SettingsError as error:
        check_line(one_line(str(error)) + "\n")
    else:
        assert set(read) >= {name.strip() for name, _ in typed if re.fullmatch(r"\s*\w+\s*", name)}


@seed(SEED)
@tries(0.35)
@given(odd)
def test_only_a_decimal_number_is_one_and_all_else_is_kept(text: str):
    try:
        value = read_value(text, "here")
    except SettingsError:
        return
    if isinstance(value, str):
        assert value == text.strip(" \t\r\n") or text.strip()[0] in "'\""
    elif isinstance(value, int | float) and not isinstance(value, bool):
        assert math.isfinite(value)
        assert value == float(text)
        assert set(text.strip()) <= set("+-.eE0123456789")
        assert isinstance(value, int) == (float(text).is_integer() and abs(value) <= 2**53)


letters = st.characters(exclude_categories=("Cs", "Cc", "Cn", "Zl", "Zp"), exclude_characters=".\ufffe\uffff")
names = st.text(letters, min_size=1, max_size=8).filter(str.strip)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | numbers | st.text(letters, max_size=8)
contents = st.recursive(leaves, lambda more: st.lists(more) | st.dictionaries(names, more), max_leaves=6)


@seed(SEED)
@tries(0.05)
@given(st.dictionaries(names, contents, min_size=1, max_size=3))
def test_what_is_written_as_json_is_read_as_it_was(content: dict[str, object]):
    assert read_yaml(json.dumps(content, ensure_ascii=False), "here") == content


def real_command(typed: list[str], folder: Path) -> None:
    """As a user types it, with an sbatch that tells when it is called."""
    sbatch = folder / "sbatch"
    sbatch.write_text(f"#!/bin/sh\ntouch {folder}/submitted\n")
    sbatch.chmod(0o755)
    (folder / "grid.yaml").write_text(GRID)
    command = [sys.executable, "ablations/run.py", "--grid", f"{folder}/grid.yaml", "--out", f"{folder}/runs"]
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run([*command, "--dry-run", *typed], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode in (0, 2), done.stderr
    if done.returncode == 2:
        assert done.stdout == b""
        check_line(done.stderr.decode())
        done = subprocess.run([*command, *typed], cwd=ROOT, env=environment, capture_output=True, check=False)
        assert done.returncode == 2
    assert not {"runs", "submitted"} & {path.name for path in folder.iterdir()}


typed_pairs = of_set.map(lambda found: [part for pair in found for part in ("--set", pair)])
typed_lines = typed_pairs | st.lists(options, max_size=2).map(lambda found: [part for parts in found for part in parts])


def test_real_commands():
    _tried_as_commands(3)


@pytest.mark.long
def test_real_commands_many():
    _tried_as_commands(50)


def _tried_as_commands(count: int) -> None:
    @seed(SEED)
    @settings(tries(1), max_examples=count)
    @given(typed_lines)
    def one(typed: list[str]) -> None:
        if elsewhere(typed):
            return
        with tempfile.TemporaryDirectory() as place:
            real_command(typed, Path(place))

    one()

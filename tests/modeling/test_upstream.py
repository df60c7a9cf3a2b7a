"""transformers' own tests of a model, from its source distribution, on our classes and on stock Qwen2.5-VL's.

The distribution holds the common tests. Those of generation and of exporting it lacks: they run too where the variable
TRANSFORMERS_TESTS names the `tests` folder of a checkout of the installed version.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import transformers

ROOT = Path(__file__).resolve().parents[2]
COLUMN = Path(__file__).parent / "upstream" / "column.py"

# What the common tests import and the distribution leaves out.
MISSING = {
    "__init__.py": "",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin: pass",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin: pass",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": "config_common_kwargs = {'return_dict': False, 'dtype': 'float16'}",
    "fetch_hub_objects_for_ci.py": "def url_to_local_path(url): return url",
}
# Tests with another outcome than on the stock model, and why that is right.
SIGNATURE = "reads forward's signature; ours hands stock arguments on, so it is skipped"
INHERITED = "asks for GenerationMixin among a class's own bases; ours has it from the stock class"
NO_WEIGHTS = "asks for attention weights; NSA never makes a matrix of L x L"
UNKNOWN = "embeddings alone do not say which tokens are vision: refused in one line"
OURS = {
    "test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions": SIGNATURE,
    "test_inherits_generation_mixin": INHERITED,
}
DIFFERENCES = {
    "dense": OURS,
    "nsa": OURS
    | {
        "test_attention_outputs": NO_WEIGHTS,
        "test_retain_grad_hidden_states_attentions": NO_WEIGHTS,
        "test_assisted_decoding_matches_greedy_search_0_random": NO_WEIGHTS,
        "test_assisted_decoding_matches_greedy_search_1_same": NO_WEIGHTS,
        "test_assisted_decoding_sample": NO_WEIGHTS,
        "test_generate_from_random_inputs_embeds": UNKNOWN,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the tests lie, with what they import."""
    path = tmp_path_factory.mktemp("transformers")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    version = f"transformers=={transformers.__version__}"
    source = ["--no-binary", "transformers", "--no-deps", "--no-build-isolation", "--dest", str(path)]
    subprocess.run([*pip, "download", *source, version], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", str(path / "libs"), "parameterized"], check=True)
    with tarfile.open(next(path.glob("*.tar.gz"))) as archive:
        archive.extractall(path, filter="data")
    shutil.move(next(path.glob("transformers-*/tests")), path / "tests")
    if checkout := os.environ.get("TRANSFORMERS_TESTS"):
        for name in ("generation", "exporters"):
            shutil.copytree(Path(checkout) / name, path / "tests" / name)
    for name, text in MISSING.items():
        file = path / ("libs" if name == "fetch_hub_objects_for_ci.py" else "tests") / name
        file.parent.mkdir(exist_ok=True)
        if not file.exists():
            file.write_text(text)
    shutil.copy(COLUMN, path / "tests" / "test_column.py")
    return path


@pytest.fixture(scope="module")
def stock(folder):
    return outcomes(folder, "stock")


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("attention", ["dense", "nsa"])
def test_each_outcome_is_the_stock_models(folder, stock, attention):
    ours = outcomes(folder, attention)
    assert ours.keys() == stock.keys()
    differ = {name: f"stock {stock[name]}, ours {ours[name]}" for name in ours if ours[name] != stock[name]}
    expected = DIFFERENCES[attention].keys() & stock.keys()
    assert differ.keys() == expected, differ


def outcomes(folder: Path, column: str) -> dict[str, str]:
    """Each test's outcome: passed, skipped, or failed."""
    report = folder / f"{column}.xml"
    environment = os.environ | {
        "COLUMN": column,
        "PYTHONPATH": f"{folder}:{folder / 'libs'}:{ROOT}",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", f"--junitxml={report}"]
    result = subprocess.run(
        [*command, "--timeout", "600", "--rootdir", str(folder), str(folder / "tests" / "test_column.py")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert report.exists(), result.stdout[-2000:] + result.stderr[-2000:]
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        bad = kinds & {"failure", "error"}
        outcome = "failed" if bad else "skipped" if "skipped" in kinds else "passed"
        if found.get(case.get("name")) != "failed":  # a test with subtests has several entries
            found[case.get("name")] = outcome
    assert sum(outcome == "passed" for outcome in found.values()) > 50, result.stdout[-2000:]
    return found

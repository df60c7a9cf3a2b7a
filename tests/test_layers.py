"""Who may import whom: data flows one way, and planning needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("videonsa", "ablations", "evals", "slurm", "analysis")

OF_BENCH = (
    *("videonsa.disk", "videonsa.options", "videonsa.git", "videonsa.video", "videonsa.process"),
    *("videonsa.config", "videonsa.names", "videonsa.kernels", "videonsa.modeling", "videonsa.bootstrap"),
    *("videonsa.methods", "videonsa.training", "videonsa.tiny", "videonsa.surroundings"),
    *("videonsa.small", "videonsa.synth", "videonsa.drawing"),
    "videonsa.bench",
)
OF_ANALYSIS = (
    *("videonsa.config", "videonsa.names", "videonsa.disk", "videonsa.record", "videonsa.bootstrap"),
    *("videonsa.commands", "videonsa.identity", "videonsa.options", "videonsa.values", "videonsa.text"),
    "videonsa.methods.registry",
    "videonsa.arrays",
    "analysis",
)
# Room -> rooms of ours that its files may import. The most specific name counts; a room may always import itself.
ALLOWED: dict[str, tuple[str, ...]] = {
    "videonsa.names": (),
    "videonsa.values": (),
    "videonsa.options": ("videonsa.values", "videonsa.places", "videonsa.limit"),
    "videonsa.limit": (),
    "videonsa.limits": ("videonsa.names",),
    "videonsa.git": (),
    "videonsa.identity": ("videonsa.git", "videonsa.names"),
    "videonsa.hub": (),
    "videonsa.config": (
        *("videonsa.names", "videonsa.limits", "videonsa.identity", "videonsa.values", "videonsa.places"),
    ),
    "videonsa.placement": ("videonsa.config",),
    "videonsa.awq": ("videonsa.config",),
    "videonsa.weights": ("videonsa.config", "videonsa.identity", "videonsa.awq", "videonsa.small"),
    "videonsa.small": (),
    "videonsa.counts": ("videonsa.config", "videonsa.hub", "videonsa.weights"),
    "videonsa.fingerprint": ("videonsa.config", "videonsa.identity"),
    "videonsa.disk": (),
    "videonsa.process": (),
    "videonsa.lock": ("videonsa.disk", "videonsa.process"),
    "videonsa.video": ("videonsa.disk",),
    "videonsa.places": ("videonsa.values",),
    "videonsa.arrays": ("videonsa.disk",),
    "videonsa.record": ("videonsa.disk", "videonsa.git"),
    "videonsa.bootstrap": ("videonsa.commands", "videonsa.disk"),
    "videonsa.commands": (),
    "videonsa.torchvision_ops": (),
    "videonsa.wandb_rules": (),
    "videonsa.tracking": ("videonsa.disk", "videonsa.wandb_rules"),
    "videonsa.surroundings": (),
    "videonsa.text": (),
    "videonsa.kernels": ("videonsa.names", "videonsa.limits"),
    "videonsa.synth": ("videonsa.config",),
    "videonsa.drawing": ("videonsa.synth",),
    "videonsa.methods.entries": ("videonsa.config", "videonsa.identity", "videonsa.limits", "videonsa.names"),
    "videonsa.methods.head_table": (
        *("videonsa.config", "videonsa.identity", "videonsa.limits", "videonsa.places", "videonsa.values"),
    ),
    "videonsa.methods.settings": (
        *("videonsa.config", "videonsa.limits", "videonsa.methods.entries", "videonsa.methods.head_table"),
    ),
    "videonsa.methods.registry": (  # what analysis may read of methods
        *("videonsa.config", "videonsa.identity", "videonsa.values", "videonsa.methods.outside"),
        *("videonsa.methods.entries", "videonsa.methods.settings"),
    ),
    "videonsa.methods.outside": (
        *("videonsa.config", "videonsa.git", "videonsa.identity", "videonsa.values", "videonsa.methods.entries"),
    ),
    "videonsa.methods": (
        *("videonsa.config", "videonsa.names", "videonsa.identity", "videonsa.limits", "videonsa.values"),
        "videonsa.kernels",
    ),
    "videonsa.modeling": (
        *("videonsa.methods", "videonsa.config", "videonsa.weights", "videonsa.awq", "videonsa.hub"),
        *("videonsa.kernels", "videonsa.limits", "videonsa.torchvision_ops"),
    ),
    "videonsa.tiny": (
        *("videonsa.config", "videonsa.modeling", "videonsa.torchvision_ops", "videonsa.synth", "videonsa.small"),
    ),
    "videonsa.training": (
        *(
            "videonsa.config",
            "videonsa.placement",
            "videonsa.awq",
            "videonsa.weights",
            "videonsa.disk",
            "videonsa.record",
            "videonsa.modeling",
            "videonsa.identity",
            "videonsa.hub",
        ),
        *("videonsa.synth", "videonsa.drawing", "videonsa.tiny", "videonsa.small"),
        *("videonsa.torchvision_ops", "videonsa.tracking"),
        *("videonsa.surroundings", "videonsa.bootstrap", "videonsa.options", "videonsa.values"),
        *("videonsa.video", "videonsa.text", "videonsa.limit"),
    ),
    "evals.aggregates": (),
    "evals.suites": ("evals.aggregates", "videonsa.config", "videonsa.identity", "videonsa.values", "videonsa.synth"),
    "evals": (
        *(
            "videonsa.config",
            "videonsa.disk",
            "videonsa.record",
            "videonsa.modeling",
            "videonsa.synth",
            "videonsa.drawing",
            "videonsa.tiny",
        ),
        *("videonsa.identity", "videonsa.fingerprint", "videonsa.hub", "videonsa.values", "videonsa.limits"),
        *("videonsa.methods", "videonsa.torchvision_ops", "videonsa.weights"),
        "videonsa.kernels",  # probes look inside
        *("videonsa.surroundings", "videonsa.places", "videonsa.lock", "videonsa.video"),
        *("videonsa.bootstrap", "videonsa.commands", "videonsa.options"),  # head_patterns.py is a command
    ),
    "ablations": PACKAGES,
    "slurm": ("videonsa.commands", "videonsa.values", "videonsa.places"),  # its profiles are read as all else is
    "analysis": OF_ANALYSIS,
    "analysis.mirror": (*OF_ANALYSIS, "videonsa.tracking", "videonsa.wandb_rules"),
    "analysis.joined": (*OF_ANALYSIS, "evals.suites"),  # what lmms-eval's own metric says of a question
    "videonsa.bench": OF_BENCH,
    # These measure evaluation itself.
    "videonsa.bench.suite": (*OF_BENCH, "evals"),
    "videonsa.bench.sweep": (*OF_BENCH, "evals"),
    "videonsa.bench.busy": (*OF_BENCH, "evals"),
    "videonsa.bench.dealing": (*OF_BENCH, "evals"),
    "videonsa.bench.observers": (*OF_BENCH, "evals"),
    "videonsa.bench.probe": (*OF_BENCH, "evals"),
    "videonsa.fidelity": ("videonsa.config", "videonsa.kernels", "videonsa.bootstrap", "videonsa.options"),
    "videonsa.audit": ("videonsa.config", "videonsa.kernels", "videonsa.bootstrap", "videonsa.options"),
    "videonsa": (),
}
ONLY_IMPORTER = {"submitit": "slurm/executor.py"}
LIGHT = (
    *("videonsa.values", "videonsa.options", "videonsa.placement"),
    *("videonsa.names", "videonsa.config", "videonsa.weights", "videonsa.disk", "videonsa.git", "videonsa.record"),
    *("videonsa.lock", "videonsa.process", "videonsa.counts", "videonsa.arrays"),
    *("videonsa.methods.entries", "videonsa.methods.settings", "videonsa.methods.registry"),
    "videonsa.methods.outside",
    *("videonsa.awq", "videonsa.tracking", "videonsa.surroundings", "videonsa.text", "videonsa.places"),
    *("videonsa.wandb_rules", "videonsa.commands"),
    *("videonsa.synth", "videonsa.video", "videonsa.fingerprint", "videonsa.hub", "ablations", "slurm"),
    *("evals.suites", "evals.content", "evals.needs", "evals.answers", "evals.observers.registry"),
)


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The most specific entry of ALLOWED that holds the module."""
    return max((name for name in ALLOWED if module == name or module.startswith(name + ".")), key=len)


def imports(path: Path, top_level_only: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of every import; of `from x import y` both x and x.y."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def violations(path: Path) -> list[str]:
    mine = room(module_name(path))
    rule = ", ".join(ALLOWED[mine]) or "nothing of ours"
    found = []
    for line, name in imports(path):
        if name.partition(".")[0] not in PACKAGES or name == "videonsa":
            continue
        other = room(name)
        allowed = (mine, *ALLOWED[mine])
        if not any(other == entry or other.startswith(entry + ".") for entry in allowed):
            found.append(f"{path.relative_to(ROOT)}:{line} imports {name}; {mine} may import {rule}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_imports_what_it_may_not(package: str):
    assert [line for path in sources() if path.relative_to(ROOT).parts[0] == package for line in violations(path)] == []


def test_the_rule_catches_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.test_layers.ROOT", tmp_path)
    (tmp_path / "videonsa" / "kernels").mkdir(parents=True)
    wrong = tmp_path / "videonsa" / "kernels" / "api.py"
    wrong.write_text("def f():\n    from ..modeling import attention\n")
    rule = "videonsa.kernels may import videonsa.names, videonsa.limits"
    assert violations(wrong) == [
        f"videonsa/kernels/api.py:2 imports videonsa.modeling; {rule}",
        f"videonsa/kernels/api.py:2 imports videonsa.modeling.attention; {rule}",
    ]


@pytest.mark.parametrize("package", ONLY_IMPORTER)
def test_one_file_alone_imports(package: str):
    importers = {
        str(path.relative_to(ROOT))
        for path in sources()
        if any(name.partition(".")[0] == package for _, name in imports(path))
    }
    assert importers == {ONLY_IMPORTER[package]}


def test_light_rooms_import_no_torch():
    code = f"""
import importlib, pkgutil, sys
for name in {LIGHT!r}:
    module = importlib.import_module(name)
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        importlib.import_module(info.name)
heavy = {{"torch", "transformers", "lmms_eval", "wandb", "submitit", "pandas", "matplotlib"}} & set(sys.modules)
print(sorted(heavy), end="")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]"), done.stderr


def test_every_script_starts_itself_under_the_environment():
    """A file that is run by its path must call ensure_environment before it imports what a bare Python lacks."""
    for name in ("ablations/run.py", "analysis/run.py"):
        path = ROOT / name
        if path.exists():
            text = path.read_text(encoding="utf-8")
            assert text.index("ensure_environment()") < text.index(
                "from ablations" if "ablations" in name else "from analysis"
            )

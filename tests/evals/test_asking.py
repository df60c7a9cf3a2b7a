"""Several attentions asked at once: what they share, and that no answer is another for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from evals import asking
from evals.answers import Answers
from evals.asking import Asked, Unit
from evals.checkpoint import Checkpoint, load
from evals.run import SuiteRun, evaluate
from evals.shown import Shown
from evals.suites import suite_settings
from tests.evals.test_run import NEEDLE as SIX
from tests.evals.test_run import damaged, unmeasured  # noqa: F401  a fixture
from videonsa.methods.registry import make
from videonsa.modeling import MethodDidNotRun
from videonsa.video import Readers, Video, VideoError

NEEDLE = suite_settings("synth_needle", limit=2, frames=8)
VARIANTS: dict[str, tuple[dict[str, Any], Any]] = {
    "as saved": ({}, None),
    "b=1 w=2": ({"block_count": 1, "window": 2}, None),
    "release": ({"semantics": "release", "block_size": 4}, None),
    "dense": ({"attention": "dense"}, None),
    "tri_shape": ({}, make("tri_shape", {"n_init": 1, "n_local": 6, "n_last": 6})),
    "fastv": ({}, make("fastv", {"layer": 1})),
    "vscan": ({}, make("vscan", {"layer": 2})),
    "vscan less": ({}, make("vscan", {"keep": 0.25, "layer": 1, "layer_keep": 1})),
    "visionzip": ({}, make("visionzip", {})),
    "fewer pixels": ({}, make("fewer_pixels", {})),
    "fewer frames": ({}, make("fewer_frames", {})),
}
# The tower's passes: one that nobody watches, by VScan, by VisionZip, over fewer pixels, over fewer frames.
PASSES = 5


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often videos are read, encoded and answered about."""
    found: Counter[str] = Counter()

    def counting(module: Any, name: str) -> None:
        real = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    for module, name in ((Readers, "read"), (asking, "encode"), (asking, "answer")):
        counting(module, name)
    return found


def ask(run: SuiteRun, loaded: Checkpoint, *names: str) -> dict[str, Asked]:
    asked = {name: run.under(loaded, *VARIANTS[name]) for name in names or VARIANTS}
    run.ask(loaded, list(asked.values()))
    return asked


def same(rows: Iterable[dict[str, Any]]) -> list[Any]:
    """What must not hang on the company: all but times and memory."""
    times = ("choice_ms", "attention_ms")
    spent = [{name: value for name, value in row["spent"].items() if name not in times} for row in rows]
    return [*unmeasured({"questions": rows}), spent]


def given(run: SuiteRun, asked: Asked) -> list[dict[str, Any]]:
    """The answers under a variant, in the order of the questions; how long they took and who gave them left out."""
    rows = [run.answers.rows[asked.key, content.question] for content in run.contents]
    return [{name: row[name] for name in asking.UNANSWERED} for row in rows]


def test_in_company_as_alone_and_shared_what_can_be(
    loaded: Checkpoint, data: Path, tmp_path: Path, counts: Counter[str]
) -> None:
    run = SuiteRun(NEEDLE, tmp_path / "together", data=data)
    asked = ask(run, loaded)
    assert counts == {"read": 2 * 3, "encode": 2 * PASSES, "answer": 2 * len(VARIANTS)}
    together = {name: same(given(run, one)) for name, one in asked.items()}
    scored = run.score(asked["vscan"])
    for name, one in asked.items():
        run.answers = Answers(tmp_path / name)
        run.ask(loaded, [one])
        assert same(given(run, one)) == together[name], name
    alone = evaluate(loaded, {}, NEEDLE, tmp_path / "alone", data=data, method=VARIANTS["vscan"][1])
    assert same(alone["questions"]) == same(scored["questions"])
    assert alone["scores"] == scored["scores"]


def test_one_variant_more_costs_that_variant(
    loaded: Checkpoint, data: Path, tmp_path: Path, counts: Counter[str]
) -> None:
    ask(SuiteRun(NEEDLE, tmp_path, data=data), loaded, "as saved", "dense", "vscan")
    counts.clear()
    run = SuiteRun(NEEDLE, tmp_path, data=data)
    asked = ask(run, loaded, "as saved", "b=1 w=2", "dense", "vscan")
    assert counts == {"read": 2, "encode": 2, "answer": 2}
    assert all(run.complete(one) for one in asked.values())
    ask(run, loaded, "as saved", "b=1 w=2")
    assert counts["read"] == 2


def test_who_comes_last_knows_what_others_gave_meanwhile(loaded: Checkpoint, data: Path, tmp_path: Path) -> None:
    """Else nobody would give a suite's cells their records before all else is done."""
    first, last = (SuiteRun(NEEDLE, tmp_path, data=data) for _ in range(2))
    with ExitStack() as held:
        for content in first.contents:
            held.enter_context(Answers(tmp_path).claimed(content.shown))
        ask(last, loaded, "as saved")
        assert not last.complete(last.under(loaded, {}))
    ask(first, loaded, "as saved")
    with ExitStack() as held:
        for content in first.contents:
            held.enter_context(Answers(tmp_path).claimed(content.shown))
        asked = ask(last, loaded, "as saved")
        assert last.complete(asked["as saved"])


def test_questions_about_one_video_share_it(
    loaded: Checkpoint, data: Path, tmp_path: Path, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SuiteRun._messages

    def of_one_video(run: SuiteRun, number: int) -> list[dict[str, Any]]:
        (said,) = real(run, 0)
        return [{**said, "content": [*said["content"], {"type": "text", "text": f"And {number}?"}]}]

    monkeypatch.setattr(SuiteRun, "_messages", of_one_video)
    run = SuiteRun(SIX, tmp_path / "together", data=data)
    asked = ask(run, loaded, "as saved", "dense", "fewer frames")
    assert counts == {"read": 2, "encode": 2, "answer": 3 * 6}
    alone = evaluate(loaded, {}, SIX, tmp_path / "alone", data=data)
    assert same(run.score(asked["as saved"])["questions"]) == same(alone["questions"])


def test_nothing_measured_holds_a_warm_up(folder: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    """Each attention, and each kind of the tower's pass, runs once before anything of it is measured."""
    loaded, ran = load(folder, device="cpu"), Counter[str]()

    def noting(module: Any, name: str, kind: Callable[[], str]) -> None:
        real = getattr(module, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            ran[kind()] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, noted)

    noting(loaded.model, "generate", lambda: str(loaded.spends))
    noting(loaded.model.model, "get_video_features", lambda: f"tower {loaded.watches}")
    ask(SuiteRun(NEEDLE, tmp_path, data=data), loaded, "as saved", "dense", "vscan")
    lengths = len({key[1:] for key in loaded.peaks})  # memory is measured once for each
    assert {ran[name] for name in ran if not name.startswith("tower")} == {1 + lengths + 2}
    assert {ran[name] for name in ran if name.startswith("tower")} == {1 + 2 + 2 * lengths, 1 + 2 + lengths}


def test_damaged_videos_cost_their_own_questions(
    loaded: Checkpoint,
    damaged: Path,  # noqa: F811
    data: Path,
    tmp_path: Path,
) -> None:
    run = SuiteRun(SIX, tmp_path / "broken", data=damaged)
    asked = ask(run, loaded, "as saved", "vscan", "fewer frames")
    for name, one in asked.items():
        result = run.score(one)
        assert [row["doc_id"] for row in result["questions"] if row["error"]] == [1, 3, 4], name
        assert (result["scores"]["errors"], result["scores"]["answered"]) == (3, 3)
        nsa, method = VARIANTS[name]
        whole = unmeasured(evaluate(loaded, nsa, SIX, tmp_path / name, data=data, method=method))
        assert [row for row in unmeasured(result) if not row["error"]] == [whole[n] for n in (0, 2, 5)]


def test_what_fails_under_one_attention_fails_there_alone(
    loaded: Checkpoint, data: Path, tmp_path: Path, monkeypatch
) -> None:
    """A method that does not run, a kernel that breaks; and memory that one question lacks costs that question."""
    real, lacking = asking.answer, iter([True, False])

    def answer(checkpoint: Checkpoint, *args: Any) -> Any:
        if "TriShape" in str(checkpoint.spends):
            raise MethodDidNotRun("method tri_shape ran in 1 of 3 layers; not in 1, 2")
        if "VScan" in str(checkpoint.spends):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if "attention='nsa'" in str(checkpoint.spends) and next(lacking):
            torch.empty(1 << 60, dtype=torch.uint8)
        return real(checkpoint, *args)

    monkeypatch.setattr(asking, "answer", answer)
    run = SuiteRun(NEEDLE, tmp_path, data=data)
    asked = ask(run, loaded, "tri_shape", "vscan", "as saved", "dense")
    assert isinstance(asked["tri_shape"].error, MethodDidNotRun)
    assert "illegal memory" in str(asked["vscan"].error)
    assert not run.complete(asked["tri_shape"])
    assert [row["error"] for row in given(run, asked["dense"])] == [None, None]
    first, second = given(run, asked["as saved"])
    assert first["error"].startswith("RuntimeError: ")
    assert "memory" in first["error"]
    assert second["error"] is None


def test_all_readings_begin_before_the_first_has_ended(loaded: Checkpoint, data: Path, tmp_path: Path) -> None:
    """One thread makes tensors, and waits for one video after the other; the workers must not."""
    run = SuiteRun(NEEDLE, tmp_path, data=data)
    asked = run.under(loaded, {})
    begun: list[Future[Video]] = []

    def reading(*_: Any) -> Future[Video]:
        begun.append(Future())
        return begun[-1]

    with ThreadPoolExecutor(1) as pool:
        asks = run._open([asked], [0])
        units = [Unit(asks, Shown(loaded.processor, reading), None, ExitStack()) for _ in range(3)]  # type: ignore[arg-type]
        prepared = [future for unit in units for future in unit.begin(pool)]
        assert len(begun) == 3
        for future in begun:
            future.set_exception(VideoError("never read"))
    assert [future.result()[0]["error"] for future in prepared] == ["VideoError: never read"] * 3
    assert units[0].prepared(asks[0], asked.sampling) is prepared[0].result(), "tensors are made once"

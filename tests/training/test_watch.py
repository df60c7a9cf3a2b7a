"""What is seen of a training that is left alone, and what is not taken for trouble."""

from __future__ import annotations

import random
from concurrent.futures import Future

import pytest

from videonsa.limit import Limit
from videonsa.training.watch import LASTS, LEAST, Leave, Stalled, Waits, Watch


def calm(watch: Watch, steps: int, loss: float = 2.0) -> None:
    noise = random.Random(0)
    for _ in range(steps):
        assert watch.see(loss * noise.uniform(0.8, 1.2), noise.lognormvariate(0, 0.3)) is None


@pytest.mark.parametrize(("loss", "norm", "what"), [(9.0, 1.0, "loss 9"), (2.0, 12.0, "gradient norm 12")])
def test_a_jump_that_lasts_is_said_once_and_then_the_new_level_is_usual(loss, norm, what):
    watch = Watch()
    calm(watch, 60)
    for _ in range(LASTS - 1):
        assert watch.see(loss, norm) is None
        assert watch.doubts, "no time to save"
    assert (watch.see(loss, norm) or "").startswith(f"{what}, after a median of ")
    assert not watch.doubts
    assert {watch.see(loss, norm) for _ in range(60)} == {None}


def test_a_training_leaves_when_told_and_when_its_time_is_up():
    leave, limit = Leave(), Limit(9)
    assert not leave.told
    assert not Leave(limit).told
    limit.ends = 0.0
    assert (Leave(limit).told, Leave(limit).why) == (True, "time is up")
    leave.heard = True
    assert (leave.told, leave.why) == (True, "told to leave")


def test_one_odd_batch_is_none_and_one_far_beyond_all_is():
    watch = Watch()
    calm(watch, 60)
    assert watch.see(9.0, 1.0) is None
    calm(watch, 20)
    assert not watch.doubts
    assert "loss 1e+04" in (watch.see(1e4, 1.0) or "")


def test_first_steps_and_losses_that_fall_are_no_trouble():
    watch = Watch()
    assert {watch.see(10.0 / (step + 1), 5.0 / (step + 1)) for step in range(100)} == {None}
    watch = Watch()
    assert {watch.see(float(step), float(step)) for step in range(LEAST)} == {None}


def test_it_goes_on_from_what_a_checkpoint_holds():
    watch = Watch()
    calm(watch, 60)
    assert Watch(watch.state).see(1e4, 1.0) == watch.see(1e4, 1.0) is not None


def test_who_waits_for_samples_says_for_which():
    said: list[str] = []
    late: Future[str] = Future()
    reads = {number: Future[str]() for number in range(6)}
    reads[0].set_result("read")

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            late.set_result("batch")

    waits = Waits(0.01, lambda number: f"sample {number} (a.mp4)", say, stop=False)
    assert waits(reads, late) == "batch"
    names = ", ".join(f"sample {number} (a.mp4)" for number in (1, 2, 3))
    assert said == [f"no samples for {limit} s: {names} and 2 more not read yet" for limit in ("0.01", "0.02")]
    assert waits.seconds >= 0.02
    with pytest.raises(Stalled, match=r"for 0\.01 s: all are read, and not encoded yet"):
        Waits(0.01, str, said.append, stop=True)({}, Future())
    failed: Future[str] = Future()
    failed.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        Waits(0.01, str, said.append, stop=True)({}, failed)

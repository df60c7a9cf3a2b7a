"""The audit: clean where nothing leaks, and able to see each kind of leak."""

from __future__ import annotations

import pytest
import torch

from videonsa import audit
from videonsa.kernels import reference


def leaking(semantics: str) -> dict[tuple[str, str], audit.Leak]:
    return {(leak.branch, leak.outputs): leak for leak in audit.audit(semantics, "reference") if leak.leaks}


def test_paper_is_clean_and_says_so(capsys):
    assert audit.main([]) == 0
    printed = capsys.readouterr().out
    assert "LEAKS" not in printed
    assert printed.count("clean") == 6  # three branches and the sum at vision, dense and the sum at text


@pytest.mark.gpu
def test_paper_is_clean_on_triton():
    assert audit.main(["--backend", "triton"]) == 0


@pytest.mark.gpu
def test_16k_tokens_of_the_7b_model_fit_in_40_gib():
    for what, peak, _ in audit.memory(16384):
        assert peak < 40, what


def test_release_leaks_through_compression_and_the_choice(capsys, monkeypatch):
    every = audit.audit("release", "reference")
    found = {(leak.branch, leak.outputs): leak for leak in every if leak.leaks}
    assert set(found) == {(b, o) for b in ("cmp", "sum") for o in ("vision", "text")} | {("slc", "vision")}
    cmp = found["cmp", "vision"]
    assert cmp.change > 0.1
    assert cmp.change_ahead > 100
    assert cmp.gradient_ahead > 100
    assert found["slc", "vision"].gradient_ahead == 0  # a choice has no gradient
    monkeypatch.setattr(audit, "audit", lambda semantics, backend: every)
    assert audit.main(["--semantics", "release"]) == 1
    assert capsys.readouterr().out.count("LEAKS") == 5


@pytest.mark.parametrize("semantics", ["head_layout+gate_leak+importance_round_up"])
def test_differences_that_leak_nothing(semantics):
    assert leaking(semantics) == {}


def test_a_leak_of_one_token_in_a_fast_path_is_seen(monkeypatch):
    """The window of the reference shifted by one token: the query sees the token after it."""

    def shifted(scores, visible):
        if visible.dim() == 2 and visible.shape[0] == visible.shape[1]:  # the mask of the window, not of blocks
            visible = visible.roll(1, dims=1) | visible
        return reference_softmax(scores, visible)

    reference_softmax = reference.masked_softmax
    monkeypatch.setattr(reference, "masked_softmax", shifted)
    found = leaking("paper")
    assert ("swa", "vision") in found
    assert found["swa", "vision"].gradient_ahead > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--semantics", "relase"], "choose one of"),
        (["--semantics", "release", "--backend", "triton"], "audited on the reference"),
        (["--memory", "16384"], "CUDA"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, message, capsys):
    if "CUDA" in message and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert audit.main(arguments) == 2
    assert message in capsys.readouterr().err

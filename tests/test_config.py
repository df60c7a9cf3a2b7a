"""Settings: what is refused, and what they become."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videonsa.config import (
    NSASettings,
    SettingsError,
    SuiteSettings,
    TrainSettings,
    from_dict,
    to_dict,
)
from videonsa.identity import identity, settings_inputs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 0}, "window=0 is not valid: 1 or more while swa"),
        ({"branches": "cmp+foo"}, "subset of cmp, slc, swa"),
        ({"branches": []}, "non-empty"),
        (
            {"branches": "cmp+"},
            "branches='cmp+' is not valid: a subset of cmp, slc, swa",
        ),
        ({"branches": "cmp+cmp+swa"}, "branches='cmp+cmp+swa' is not valid: a subset of cmp, slc, swa, each once"),
        ({"block_count": 0}, "block_count=0 is not valid: a whole number of at least 1"),
        ({"block_size": 2.5}, "block_size=2.5"),
        ({"block_size": True}, "block_size=True"),
        ({"gate_mode": "learned"}, "choose one of dynamic, static, fixed"),
        ({"gate_mode": "fixed"}, "three numbers"),
        ({"gate_mode": "fixed", "gate_values": "1+x+0"}, "give numbers"),
        ({"gate_mode": "fixed", "gate_values": "1+nan+0"}, "give numbers"),
        ({"gate_mode": "fixed", "gate_values": "1+1_0+0"}, "give numbers"),
        ({"gate_mode": "fixed", "gate_values": (1, float("inf"), 0)}, "give numbers"),
        ({"gate_values": (1, 1, 1)}, "only with gate_mode=fixed"),
        ({"attention": "sparse"}, "choose one of nsa, dense"),
        ({"backend": "cuda"}, "choose one of auto, reference, triton"),
        ({"gate_temperature": 0}, "a number above 0"),
        ({"blocks": 3}, "unknown key 'blocks'; known keys: attention, backend, block_count"),
    ],
    ids=str,
)
def test_a_bad_setting_is_refused_in_one_line_that_says_what_is_right(fields, message):
    with pytest.raises(SettingsError) as caught:
        from_dict(NSASettings, fields, "variant")
    assert message in str(caught.value)
    assert str(caught.value).startswith("variant: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (TrainSettings, {"learning_rate": "abc"}, "learning_rate='abc' is not valid: a number above 0, such as 1e-4"),
        (TrainSettings, {"learning_rate": True}, "learning_rate=True is not valid"),
        (TrainSettings, {"learning_rate": float("nan")}, "learning_rate=nan is not valid"),
        (TrainSettings, {"weight_decay": [0.1]}, "weight_decay=[0.1] is not valid: a number of at least 0"),
        (TrainSettings, {"warmup_fraction": 10}, "a share from 0 to 1"),
        (TrainSettings, {"betas": "0.9"}, "two from 0 to 1"),
        (TrainSettings, {"betas": [0.9, 1]}, "two from 0 to 1"),
        (TrainSettings, {"steps": 2.5}, "steps=2.5 is not valid: a whole number of at least 1"),
        (TrainSettings, {"steps": "many"}, "steps='many' is not valid"),
        (TrainSettings, {"frames": "8"}, "even numbers of at least 2"),
        (TrainSettings, {"frames": 7}, "even numbers of at least 2"),
        (TrainSettings, {"families": 3}, "names of question families"),
        (TrainSettings, {"families": "needle+"}, "names of question families"),
        (TrainSettings, {"model": 7}, "model=7 is not valid: text"),
        (TrainSettings, {"data": None}, "data=None is not valid: text"),
        (TrainSettings, {"activation_checkpointing": "maybe"}, "true or false"),
        (TrainSettings, {"precision": 16}, "choose one of bf16, fp32"),
        (TrainSettings, {"nsa": 3}, "nsa=3 is not valid"),
        (TrainSettings, {"freeze": "vision"}, "freeze='vision' is not valid: choose one of tower, projector, decoder"),
        (TrainSettings, {"freeze": "decoder", "lora_rank": 8}, "without decoder: with lora_rank its own weights stay"),
        (TrainSettings, {"lora_alpha": 8}, "lora_rank=0 is not valid: at least 1 with lora_alpha or lora_modules"),
        (
            TrainSettings,
            {"lora_rank": 8, "lora_modules": "qkv"},
            "lora_modules='qkv' is not valid: choose one of q_proj",
        ),
        (TrainSettings, {"gate_start": [0.5, 1, 0]}, "gate_start=(0.5, 1.0, 0.0) is not valid: three between 0 and 1"),
        (
            TrainSettings,
            {"nsa": NSASettings(gate_mode="static")},
            "nsa.gate_mode='static' is not valid: dynamic or fixed",
        ),
        (SuiteSettings, {"fps": "two"}, "fps='two' is not valid: a number above 0"),
        (SuiteSettings, {"limit": 1.5}, "limit=1.5 is not valid: a whole number of at least 1"),
        (SuiteSettings, {"task": 3}, "task=3 is not valid: text"),
        (SuiteSettings, {"seed": -1}, "seed=-1 is not valid"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_value_of_a_wrong_type_is_refused_where_settings_are_built(cls, fields, message):
    usual = {"steps": 1} if cls is TrainSettings else {"name": "x", "frames": 8}
    with pytest.raises(SettingsError) as caught:
        from_dict(cls, usual | fields, "budget")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_mapping_is_refused():
    with pytest.raises(SettingsError, match="suite: 3 is not valid: give some of fps"):
        from_dict(SuiteSettings, 3, "suite")  # type: ignore[arg-type]


def test_one_number_has_one_identity():
    assert TrainSettings(steps=1, weight_decay=0) == TrainSettings(steps=1, weight_decay=0.0)
    assert to_dict(TrainSettings(steps=1, weight_decay=0)) == to_dict(TrainSettings(steps=1, weight_decay=0.0))
    assert TrainSettings(steps=1, frames=8).frames == (8,)
    for one, other in (
        (NSASettings(gate_temperature=1), NSASettings(gate_temperature=1.0)),
        (SuiteSettings("x", fps=2), SuiteSettings("x", fps=2.0)),
        (TrainSettings(steps=1, weight_decay=-0.0), TrainSettings(steps=1, weight_decay=0)),
        (NSASettings(gate_mode="fixed", gate_values=(1, 0, 1)), NSASettings(gate_mode="fixed", gate_values="1+0.0+1.")),
    ):
        assert identity(settings_inputs(one)) == identity(settings_inputs(other))


def test_window_0_is_fine_without_its_branch():
    assert NSASettings(window=0, branches="slc+cmp").branches == ("cmp", "slc")


def test_budget_and_fraction_are_the_papers():
    nsa = NSASettings()
    assert nsa.budget == 2304
    assert nsa.attention_fraction(128_000) == pytest.approx(0.036, abs=5e-4)
    assert nsa.attention_fraction(100) == 1.0
    assert dataclasses.replace(nsa, attention="dense").attention_fraction(128_000) == 1.0


SMALL = {"block_size": 4, "block_count": 3, "window": 8}


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({}, 3 * 4 + 8),
        ({"branches": "slc"}, 3 * 4),
        ({"branches": "swa"}, 8),
        ({"branches": "slc+swa"}, 3 * 4 + 8),
        ({"branches": "cmp+swa"}, 8),  # the paper's K leaves the block means out
        ({"branches": "cmp+slc"}, 3 * 4),
        ({"semantics": "release"}, 4 * 4 + 8),  # 3 blocks round up to 4
        ({"semantics": "release-importance_round_up"}, 3 * 4 + 8),
        ({"semantics": "release", "branches": "cmp+swa"}, 8),  # no choice, nothing rounds up
        ({"branches": "slc", "block_count": 100}, 63 / 2),  # as many as there are
        ({"branches": "swa", "window": 100}, 63 / 2),
        ({"branches": "swa", "attention": "dense"}, 63 / 2),
    ],
    ids=str,
)
def test_the_fraction_counts_the_keys_that_are_read(fields, keys):
    assert NSASettings(**SMALL | fields).attention_fraction(64) == pytest.approx(2 * keys / 63)


@given(st.integers(2, 60), st.integers(1, 20))
def test_compression_alone_reads_block_means(length, size):
    nsa = NSASettings(block_size=size, branches="cmp")
    seen = [(t + 1) // size for t in range(length)]
    assert nsa.attention_fraction(length) == pytest.approx(min(1, 2 * sum(seen) / length / (length - 1)))
    ahead = dataclasses.replace(nsa, semantics="cmp_mask")
    seen = [-(-length // size) - t // size for t in range(length)]  # its own block and all later ones
    assert ahead.attention_fraction(length) == pytest.approx(min(1, 2 * sum(seen) / length / (length - 1)))


@pytest.mark.parametrize(
    "settings", [NSASettings(), TrainSettings(steps=1), SuiteSettings("x", frames=8)], ids=lambda s: type(s).__name__
)
def test_settings_survive_json(settings):
    assert from_dict(type(settings), to_dict(settings)) == settings


def test_nested_settings_are_checked():
    with pytest.raises(SettingsError, match=r"base\.nsa: window=0"):
        from_dict(TrainSettings, {"nsa": {"window": 0}}, "base")

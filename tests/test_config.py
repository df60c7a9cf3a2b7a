"""Settings and identities: what is refused, and what an identity notices."""

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
    code_version,
    from_dict,
    identity,
    to_dict,
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 0}, "window=0 is not valid: 1 or more while swa"),
        ({"branches": "cmp+foo"}, "subset of cmp, slc, swa"),
        ({"branches": []}, "non-empty"),
        ({"block_count": 0}, "block_count=0 is not valid: a whole number of at least 1"),
        ({"block_size": 2.5}, "block_size=2.5"),
        ({"block_size": True}, "block_size=True"),
        ({"gate_mode": "learned"}, "choose one of dynamic, static, fixed"),
        ({"gate_mode": "fixed"}, "three numbers"),
        ({"gate_mode": "fixed", "gate_values": "1+x+0"}, "give numbers"),
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


def test_window_0_is_fine_without_its_branch():
    assert NSASettings(window=0, branches="slc+cmp").branches == ("cmp", "slc")


def test_budget_and_fraction_are_the_papers():
    nsa = NSASettings()
    assert nsa.budget == 2304
    assert nsa.attention_fraction(128_000) == pytest.approx(0.036, abs=5e-4)
    assert nsa.attention_fraction(100) == 1.0
    assert dataclasses.replace(nsa, attention="dense").attention_fraction(128_000) == 1.0


@pytest.mark.parametrize(
    "settings", [NSASettings(), TrainSettings(steps=1), SuiteSettings("x", frames=8)], ids=lambda s: type(s).__name__
)
def test_settings_survive_json(settings):
    assert from_dict(type(settings), to_dict(settings)) == settings


def test_nested_settings_are_checked():
    with pytest.raises(SettingsError, match=r"base\.nsa: window=0"):
        from_dict(TrainSettings, {"nsa": {"window": 0}}, "base")


@given(st.sampled_from([f.name for f in dataclasses.fields(NSASettings) if f.type == "int"]), st.integers(1, 10**6))
def test_an_identity_notices_every_number(field, value):
    changed = dataclasses.replace(NSASettings(), **{field: value})
    same = changed == NSASettings()
    assert (identity(to_dict(changed)) == identity(to_dict(NSASettings()))) == same


def test_an_identity_does_not_depend_on_the_order():
    assert identity({"a": 1, "b": [2, 3]}) == identity({"b": [2, 3], "a": 1})
    assert identity({"b": [3, 2]}) != identity({"b": [2, 3]})


def test_code_version_notices_code_and_ignores_prose(tmp_path, monkeypatch):
    import videonsa.config as config

    monkeypatch.setattr(config, "__file__", str(tmp_path / "videonsa" / "config.py"))
    (tmp_path / "lib").mkdir()

    def version(source: str) -> str:
        (tmp_path / "lib" / "a.py").write_text(source)
        code_version.cache_clear()
        return code_version("lib")

    first = version('"""Doc."""\nx = 1  # one\n')
    assert version('"""Other words."""\n\nx   =   1\n') == first
    assert version('"""Doc."""\nx = 2\n') != first
    code_version.cache_clear()

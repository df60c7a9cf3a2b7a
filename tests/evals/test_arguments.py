"""Model arguments of lmms-eval's command line: read as settings are everywhere, without torch."""

from __future__ import annotations

import pytest

from evals.arguments import read_arguments
from videonsa.config import SettingsError


def test_arguments_are_read_as_settings_are():
    text = (
        "pretrained=010,window=08,gate_temperature=1.0,branches=cmp+slc,fps=null,gate_values=[1, .5,2],batch_size=auto,"
    )
    assert read_arguments(text) == {
        **{"pretrained": "010", "window": 8, "gate_temperature": 1, "branches": "cmp+slc", "fps": None},
        **{"gate_values": [1, 0.5, 2], "batch_size": "auto"},
    }


def test_a_path_may_hold_commas_and_equals_signs():
    assert read_arguments("pretrained=a,b/c d, window=8") == {"pretrained": "a,b/c d", "window": 8}
    assert read_arguments("pretrained=a=b") == {"pretrained": "a=b"}
    assert read_arguments("") == read_arguments(" , ") == {}
    assert read_arguments({"pretrained": "a", "window": 8}) == {"pretrained": "a", "window": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window=8,window=8", "model argument window is given twice"),
        ("window=", "model argument window: no value is given"),
        ("window", "model argument 'window' is not valid: give name=value"),
        ("=8", "model argument '=8' is not valid: give name=value"),
        ("tri_shape.n_local=4", "'tri_shape.n_local' is not valid: method=tri_shape is not asked"),
        ("method=fastv,tri_shape.n_local=4", "'tri_shape.n_local' is not valid: method=fastv is asked"),
        ("fps=1e400", "model argument fps: 1e400 is not valid"),
    ],
)
def test_what_says_two_things_or_nothing_is_refused(text: str, message: str):
    with pytest.raises(SettingsError, match=message):
        read_arguments(text)

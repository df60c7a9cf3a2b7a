"""The one reader of values: what is a number, what stays text, and what is refused by name and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from videonsa.values import SettingsError, one_line, read_mapping, read_value, read_yaml, unknown


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[("8", 8), ("08", 8), ("010", 10), ("+1", 1), ("-3", -3), ("8.0", 8), ("1.", 1), ("1e3", 1000), ("-0.0", 0)],
        *[(".5", 0.5), ("3e-4", 3e-4), ("1E+22", 1e22), ("5e-324", 5e-324), (str(2**53), 2**53)],
        *[("true", True), ("False", False), ("TRUE", True), ("null", None), ("NULL", None), ("~", None)],
        *[(text, text) for text in ("on", "off", "yes", "no", "y", "N", "tRUE", "nUll", "nan", ".nan", "inf", "-.inf")],
        *[(text, text) for text in ("0x10", "0o17", "0b1", "1_000", "1:30", "12:00:00", "2024-01-01", "1e", "e3", ".")],
        *[("٣", "٣"), ("１", "１"), ("1 000", "1 000"), ("'8'", "8"), ('"null"', "null"), ("''", "")],
    ],
)
def test_a_value_is_read_alike_in_a_file_and_on_a_command_line(written: str, value: object):
    found = read_yaml(f"key: {written}", "here")["key"], read_value(written, "here")
    assert found == (value, value)
    assert [type(one) for one in found] == [type(value)] * 2


@pytest.mark.parametrize("written", ["010", "1.10", "1e3", "true", "off", "2024-01-01", "1_000", "0x10", "1e999"])
def test_where_text_is_meant_it_stays_as_it_was_written(written: str):
    text = f"label: {written}\naxes: {{x: [{{a.label: {written}}}, {{labels: {{deep: [{written}]}}}}]}}"
    content = read_yaml(text, "here", ["label", "labels"])
    assert content == {"label": written, "axes": {"x": [{"a.label": written}, {"labels": {"deep": [written]}}]}}
    assert read_value(written, "here", is_text=True) == written
    assert read_yaml("label: null", "here", ["label"]) == {"label": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml: line 3: a stands twice, first in line 1"),
        ("base:\n  nsa.window: 1\n  nsa:\n    window: 2", "line 4: base.nsa.window stands twice, first in line 2"),
        ("a: [{b: 1,\nb: 2}]", "line 2: a, item 1.b stands twice, first in line 1"),
        ("'1': a\n1: b", "line 2: 1 stands twice"),
        ("a: 1\nb:\nc: 2", "x.yaml: line 2: b has no value; write null for none"),
        ("a:\n- 1\n-\n", "line 3: a, item 2 has no value"),
        ("a:  # nothing", "a has no value"),
        ("? \n: 1", "a key that is no name"),
        ("? [a, b]\n: 1", "a key that is no name"),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", "line 2: c is merged by <<, which YAML 1.2 has not: write it out"),
        ("!!str a: 3", "the mapping has a key that is no name"),
        ("a: !!int 3", "line 1: a: a tag such as 'int' has no meaning here"),
        ("a: !!python/object/apply:os.system [ls]", "has no meaning here"),
        ("a: 1e400", "line 1: a: 1e400 is not valid: a number from 5e-324 to 1.8e308"),
        ("a: -1e400", "-1e400 is not valid"),
        ("a: 1e-400", "1e-400 is not valid: a number from"),
        ("a: 9007199254740993", "is not valid: whole numbers go to 2^53"),
        ("a: " + "9" * 5000, "a: 9999999999999999999999999999999999999999 is not valid: whole numbers go to 2^53"),
        ('a: "x\\0y"', "text without the character '\\x00'"),
        ('a: "\\ud800"', "text without the character '\\ud800'"),
        ('a: "\\UFFFFFFFF"', "not valid YAML"),
        ("a: [1", "not valid YAML"),
        ("a:\n\t- 1", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: *b", "not valid YAML"),
        ("a: &b [*b]", "too many brackets or levels"),
        ("[" * 1000, "too many brackets or levels"),
        (
            "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]),
            "aliases",
        ),
    ],
    ids=lambda value: value[:20],
)
def test_what_says_two_things_or_nothing_is_refused_in_one_line(text: str, message: str):
    with pytest.raises(SettingsError) as caught:
        read_yaml(text, "x.yaml")
    assert message in str(caught.value)
    assert one_line(str(caught.value)) == str(caught.value)


def test_an_alias_stands_for_what_it_names_and_is_read_where_it_stands():
    text = "a: &number 010\nlabel: *number\nb: &map {c: 1}\nd: *map"
    assert read_yaml(text, "here", ["label"]) == {"a": 10, "label": "010", "b": {"c": 1}, "d": {"c": 1}}


@pytest.mark.parametrize("text", ["label: a\u2028 b", "label: 'a\u2028 b'", "{label: [{label: a\u2028 b}]}"])
def test_the_line_separator_of_unicode_ends_no_line(text: str):
    assert "a\u2028 b" in str(read_yaml(text, "here", ["label"])).replace("\\u2028", "\u2028")
    assert read_yaml("a\u2029\ue000: \ue000\u2029", "here") == {"a\u2029\ue000": "\ue000\u2029"}


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_text(tmp_path: Path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nlabel: on\r\n")
    assert read_mapping(tmp_path / "a.yaml", ["label"]) == {"a": 1, "label": "on"}


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"- a\n", b"3", b"\xff\xfea\x00", b"a: \x00"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(SettingsError, match=r"a\.yaml: ") as caught:
        read_mapping(tmp_path / "a.yaml")
    assert one_line(str(caught.value)) == str(caught.value)


def test_on_a_command_line_a_hash_or_a_colon_means_nothing_and_no_value_is_refused():
    assert read_value("a #b", "--set x", is_text=True) == "a #b"
    assert read_value("8 # b", "--set x") == "8 # b"
    assert read_value("a: b", "--set x") == "a: b"
    assert read_value("[1, a, {b: 2}]", "--set x") == [1, "a", {"b": 2}]
    for text, message in (
        ("", "no value is given"),
        (" ", "no value is given"),
        ("[1", "not valid"),
        ("{a: }", "a has"),
    ):
        with pytest.raises(SettingsError, match=f"--set x: {message}"):
            read_value(text, "--set x")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("training.lr", "train.learning_rate"),
        ("lr", "train.learning_rate"),
        ("nsa.windw", "nsa.window"),
        ("window", "nsa.window"),
        ("train.window", "train.nsa.window"),
        ("training.batch", "train.batch_size"),
        ("nsa.temperature", "nsa.gate_temperature"),
        ("NSA.Window", "nsa.window"),
        ("train.learning-rate", "train.learning_rate"),
        ("suite.new_tokens", "suite.max_new_tokens"),
        ("checkpoints", "checkpoint"),
    ],
)
def test_the_nearest_name_is_proposed_with_its_group(name: str, nearest: str):
    from ablations.settings import SETTINGS

    assert unknown(name, SETTINGS) == f"; did you mean {nearest}?"


def test_a_name_in_capitals_is_the_nearest_to_itself():
    assert unknown("TABLE1", ["table10", "table1", "table11"]) == "; did you mean table1?"
    assert unknown("tomato", ["TOMATO-mini", "TOMATO"]) == "; did you mean TOMATO?"


def test_where_no_name_is_near_none_is_proposed():
    assert unknown("zebra", ["nsa.window"]) == unknown("x", []) == ""

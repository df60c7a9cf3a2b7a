"""Values as people write them: in YAML files, after --set, in model arguments. One reader for all; imports nothing.

YAML 1.2 with fewer kinds. Numbers are decimal, and a whole one is an int however it is written (8, 08, 8.0, 8e0), so
that 1 and 1.0 are one value; true, false and null are spelled so. All else is text as it was written: 0x10, 1_000,
12:30, 2024-01-01, on, off, nan. Below a key that means text (a label, a name, a variable) numbers are text, too.
Refused by name and line: a key that stands twice (also as nsa.window and nsa: {window: ...}), a key without a value, a
tag, a number that a computer does not hold.

PyYAML only splits the text into nodes here. A YAML 1.2 library such as ruamel.yaml would still read 0x10, 1_000 and
dates as other things, and would not keep 010 where text is meant, so that the part below would be needed all the same.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**53  # beyond, whole numbers are not exact in JSON's readers and in tables
MOST_VALUES = 200_000  # of a file, aliases written out: a few lines of them can stand for billions
OLD_BREAKS = "\u2028\u2029"  # ended a line in YAML 1.1, and in PyYAML do still
CONSTANTS = {"null": None, "Null": None, "NULL": None, "~": None} | {
    name: name.lower() == "true" for name in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_NEAR = 0.6  # similarity from which a name is worth proposing


class SettingsError(ValueError):
    """A setting is wrong. The message is one line: the field, what was given, what is valid."""


def read_mapping(path: Path, texts: Collection[str] = ()) -> dict[str, Any]:
    """A YAML file that holds a mapping. `texts`: keys (without their group) below which text is meant."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    content = read_yaml(text, str(path), texts)
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected a mapping of keys to values")
    return content


def read_yaml(text: str, where: str, texts: Collection[str] = ()) -> Any:
    """The values of a YAML text; None of an empty one. Raises SettingsError that begins with `where`."""
    return _Reader(where, texts).read(text, "", False)


def read_value(text: str, where: str, is_text: bool = False, texts: Collection[str] = ()) -> Any:
    """One value from a command line: as in a file, but # and : mean nothing; lists, mappings and quotes are YAML's."""
    text = text.strip(" \t\r\n")
    if not text.strip():
        raise SettingsError(f"{where}: no value is given; give one, or leave it out")
    if text[0] in "[{'\"":
        return _Reader(where, texts, lines=False).read(text, "", is_text)
    return scalar(text, where, is_text)


def scalar(text: str, where: str, is_text: bool = False) -> Any:
    """An unquoted value."""
    if is_text:
        return None if text in CONSTANTS and CONSTANTS[text] is None else plain_text(text, where)
    if text in CONSTANTS:
        return CONSTANTS[text]
    return number(text, where) if _DECIMAL.fullmatch(text) else plain_text(text, where)


def number(text: str, where: str) -> int | float:
    """A decimal number; whole ones as int. Raises SettingsError for text, and for what no computer holds."""
    if not _DECIMAL.fullmatch(text):
        raise SettingsError(f"{where}: {text[:40]!r} is not valid: a decimal number")
    if _WHOLE.fullmatch(text):
        digits = text.lstrip("+-0") or "0"
        if len(digits) > len(str(LARGEST)) or int(digits) > LARGEST:
            raise SettingsError(f"{where}: {text[:40]} is not valid: whole numbers go to 2^53")
        return -int(digits) if text.startswith("-") else int(digits)
    value = float(text)
    lost = value == 0 and re.search("[1-9]", re.split("[eE]", text)[0])
    if math.isinf(value) or lost:
        raise SettingsError(f"{where}: {text[:40]} is not valid: a number from 5e-324 to 1.8e308")
    return int(value) if value.is_integer() and abs(value) <= LARGEST else value


def plain_text(text: str, where: str) -> str:
    """The text; SettingsError where it holds control characters or bytes that are no UTF-8."""
    wrong = [char for char in text if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"]
    if wrong:
        raise SettingsError(f"{where}: {text[:40]!r} is not valid: text without the character {wrong[0]!r}")
    return text


class _Loader(yaml.SafeLoader):
    """Composes nodes without guessing what they are: a node has a tag only where one is written."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        return ""


class _Reader:
    """One text; `path` names a value in messages, with the keys above it."""

    def __init__(self, where: str, texts: Collection[str], lines: bool = True) -> None:
        self.where, self.texts, self.lines, self.left = where, frozenset(texts), lines, MOST_VALUES

    def read(self, text: str, path: str, is_text: bool) -> Any:
        spare = (char for char in map(chr, range(0xE000, 0xF8FF)) if char not in text)
        stands_for = {ord(char): next(spare) for char in OLD_BREAKS if char in text}
        self.back = {ord(char): chr(code) for code, char in stands_for.items()}
        try:
            node = yaml.compose(text.translate(stands_for), Loader=_Loader)
            return None if node is None else self.value(node, path, is_text, {})
        except SettingsError:
            raise
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two: an escape beyond Unicode
            raise SettingsError(f"{self.where}: not valid YAML: {' '.join(str(error).split())}") from None
        except RecursionError:
            raise SettingsError(f"{self.where}: not valid: too many brackets or levels in one another") from None

    def value(self, node: yaml.Node, path: str, is_text: bool, seen: dict[str, int]) -> Any:
        self.left -= 1
        if self.left < 0:
            raise SettingsError(f"{self.where}: not valid: more than {MOST_VALUES:,} values, aliases written out")
        if node.tag:
            raise self.error(node, f"{path}: a tag such as {node.tag.rpartition(':')[2]!r} has no meaning here")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, is_text, seen)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value, 1)
            return [self.value(item, f"{path}, item {place}", is_text, {}) for place, item in items]
        where = self.at(node) + (f": {path}" if path else "")
        text = node.value.translate(self.back)
        if getattr(node, "style", None) is not None:  # quoted, or a block
            return plain_text(text, where)
        if text == "":
            raise self.error(node, f"{path} has no value; write null for none, or leave it out")
        return scalar(text, where, is_text)

    def mapping(self, node: yaml.MappingNode, path: str, is_text: bool, seen: dict[str, int]) -> dict[str, Any]:
        """`seen`: the lines of keys by their whole names, so that a.b and a: {b: ...} are known for one."""
        result = {}
        for key_node, value_node in node.value:
            key = self.key(key_node, path or "the mapping")
            name = f"{path}.{key}" if path else key
            if name in seen:
                raise self.error(key_node, f"{name} stands twice, first in line {seen[name]}")
            seen[name] = key_node.start_mark.line + 1
            meant = is_text or means_text(name, self.texts)
            result[key] = self.value(value_node, name, meant, seen)
        return result

    def key(self, node: yaml.Node, path: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag or not node.value.strip():
            raise self.error(node, f"{path} has a key that is no name")
        if node.value == "<<":
            raise self.error(node, f"{path} is merged by <<, which YAML 1.2 has not: write it out")
        return plain_text(node.value.translate(self.back), self.at(node))

    def at(self, node: yaml.Node) -> str:
        return f"{self.where}: line {node.start_mark.line + 1}" if self.lines else self.where

    def error(self, node: yaml.Node, text: str) -> SettingsError:
        return SettingsError(f"{self.at(node)}: {text.lstrip(' :,')}")


def text_fields(cls: type) -> set[str]:
    """The fields of a dataclass that hold text: one or several, or a mapping to it."""
    kinds = ("str", "tuple[str", "Mapping[str, str]")
    names = {field.name: getattr(field.type, "__name__", str(field.type)) for field in dataclasses.fields(cls)}
    return {name for name, kind in names.items() if kind.startswith(kinds)}


def none_fields(cls: type) -> set[str]:
    """The fields of a dataclass that may hold nothing."""
    return {field.name for field in dataclasses.fields(cls) if "None" in str(field.type)}


def means_text(name: str, texts: Collection[str]) -> bool:
    """Whether the setting of this dotted name holds text: by its last part, or by its group and last part.

    Of a group that `texts` has as "group." whole names alone count.
    """
    group, _, last = f".{name}".rpartition(".")
    group = group.rpartition(".")[2]
    return f"{group}.{last}" in texts or (last in texts and f"{group}." not in texts)


def unknown(name: Any, known: Iterable[str]) -> str:
    """'; did you mean train.learning_rate?': how a message on an unknown name ends; empty where none is near.

    Names are compared by their last part and by their group: training.lr is nearest to train.learning_rate.
    """
    best = max(known, key=lambda other: _likeness(str(name), other), default="")
    return f"; did you mean {best}?" if best and _likeness(str(name), best) >= _NEAR else ""


def _likeness(name: str, known: str) -> float:
    if name.lower() == known.lower():
        return 2.0
    group, _, last = name.lower().rpartition(".")
    known_group, _, known_last = known.rpartition(".")
    same_group = difflib.SequenceMatcher(None, group, known_group).ratio() if group else 0.5
    words = re.split("[_.]", known_last)
    if last == "".join(word[:1] for word in words) and len(words) > 1:
        alike = 0.9  # its initials
    elif last in words or known_last in last.split("_"):
        alike = 0.8
    else:
        alike = difflib.SequenceMatcher(None, last, known_last).ratio()
    return alike + 0.1 * same_group + (0.05 if known.startswith(name.lower()) or name.lower().startswith(known) else 0)


def one_line(text: str) -> str:
    """The text with what would break a line, or a terminal, written as its escape."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)

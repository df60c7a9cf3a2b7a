"""What a training or a probe is called, by the words that its variants' labels share."""

from __future__ import annotations

import pytest

from analysis.shared import common, lead, served


def cells(**labels: str) -> list[dict]:
    """Of each training its variants' labels, with commas between."""
    return [{"training": name, "label": label} for name, of in labels.items() for label in of.split(", ")]


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ("paper 8K, paper 32K", "paper"),
        ("no compression 8K, no compression 32K", "no compression"),
        ("paper 8K", "paper 8K"),
        ("paper, paper 32K", "paper"),
        ("papers 8K, paper 32K", "papers 8K"),
        ("cmp 8K, cmp 32K, slc 8K", "cmp"),
        ("videonsa 8K, videonsa 32K, asked densely 8K", "videonsa"),
        ("b=5 w=4, b=1 w=24, dense", "b=5 w=4"),
    ],
)
def test_a_training_is_called_by_whole_words_that_its_variants_share(labels: str, name: str) -> None:
    assert served(cells(a=labels), "training") == {"a": name}


def test_two_that_would_be_called_the_same_keep_their_first_labels() -> None:
    assert served(cells(a="x 1, x 2", b="x 3, x 4"), "training") == {"a": "x 1", "b": "x 3"}


def test_seeds_are_said_of_what_has_several() -> None:
    planned = [
        cell | {"seed": seed, "training": f"{cell['training']}{seed}"}
        for cell in cells(a="paper 8K, paper 32K")
        for seed in (0, 1)
    ]
    planned.append({"training": "given", "label": "the release's", "seed": 0})
    assert served(planned, "training") == {"a0": "paper seed 0", "a1": "paper seed 1", "given": "the release's"}


def test_names_of_groups_come_before_labels_and_cells_without_a_probe_do_not_count() -> None:
    grouped = [{"probe": "p", "label": f"{size} paper", "name": "paper"} for size in ("8K", "32K")]
    assert served([*grouped, {"probe": None, "label": "dense"}], "probe") == {"p": "paper"}


def test_words_in_common() -> None:
    assert common(["frames=8 w=4 long", "frames=16 w=4 long"]) == "w=4 long"
    assert common(["a", "b"]) == ""
    assert lead(["a", "b"]) == ""

"""Arrays beside a record: what is written comes back, and another file is not taken for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videonsa.arrays import ARRAYS, NoArrays, read_arrays, write_arrays


def test_arrays_come_back(tmp_path: Path) -> None:
    arrays = {
        "gates/mean": np.arange(6.0).reshape(2, 3),
        "gates/names": np.array(["a", "bc"]),
        "none": np.zeros((0, 2)),
    }
    said = write_arrays(tmp_path / ARRAYS, arrays)
    assert said["held"]["gates/mean"] == {"shape": [2, 3], "dtype": "float64"}
    found = read_arrays(tmp_path, said)
    assert set(found) == set(arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert write_arrays(tmp_path / "again.npz", arrays)["sha256"] == said["sha256"]


def test_another_file_is_not_taken_for_them(tmp_path: Path) -> None:
    with pytest.raises(NoArrays, match="cannot be read"):
        read_arrays(tmp_path, {"sha256": ""})
    said = write_arrays(tmp_path / ARRAYS, {"a": np.ones(2)})
    write_arrays(tmp_path / ARRAYS, {"a": np.ones(3)})
    with pytest.raises(NoArrays, match="not the file"):
        read_arrays(tmp_path, said)
    with pytest.raises(TypeError, match="array a holds objects"):
        write_arrays(tmp_path / ARRAYS, {"a": np.array([{}])})

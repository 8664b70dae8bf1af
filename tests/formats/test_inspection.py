"""What `inspect` says of a file is what the file holds."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from celebahq_builder.errors import FormatError
from celebahq_builder.formats.codecs import codec
from celebahq_builder.formats.hdf5_layout import pictures_per_chunk
from celebahq_builder.formats.inspection import inspect_hdf5
from tests.formats.test_hdf5 import pictures, write


def test_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5", pictures(5, 4))
    first, *lines = inspect_hdf5(path)
    assert first == f"{path}: 5 pictures, {path.stat().st_size / 1e6:.1f} MB"
    for line, r in zip(lines, (4, 2, 1), strict=False):
        assert line.split()[0] == f"data{r}x{r}"
        assert f"uint8 [5, 3, {r}, {r}], chunks [{pictures_per_chunk(r)}, 3, {r}, {r}], gzip" in line
    assert lines[3:7] == [
        "sources: 000000.jpg ... 000004.jpg",
        "scores: 0.0000 to 1.0000, median 0.5000",
        "splits: none 3, train 2",
        "format_version: 1",
    ]
    assert 'recipe: {"resolution": 4}' in lines
    assert "seed: 7" in lines


def test_share_of_raw_size(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    flat = np.zeros((3, 3, 64, 64), np.uint8)
    write(path, flat, codec("gzip", 9))
    line = next(line for line in inspect_hdf5(path) if "data64x64" in line)
    with h5py.File(path) as file:
        stored = file["data64x64"].id.get_storage_size()
    assert line.endswith(f"{stored / 1e6:.2f} MB, {stored / (3 * 3 * 64 * 64):.0%} of raw")


def test_attribute_names(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    columns = {"attribute_names": ["Bald", "Young"], "attributes": np.array([[1, -1]], np.int8)}
    write(path, pictures(1, 4), columns=columns)
    assert "attributes: Bald, Young" in list(inspect_hdf5(path))


def test_file_of_the_theano_tool(tmp_path: Path) -> None:
    """It knows levels only."""
    path = tmp_path / "celeba-hq-4x4.h5"
    with h5py.File(path, "w") as file:
        for r in (4, 2, 1):
            file.create_dataset(f"data{r}x{r}", data=np.zeros((2, 3, r, r), np.uint8), compression="gzip")
    lines = list(inspect_hdf5(path))
    assert lines[0].startswith(f"{path}: 2 pictures")
    assert len(lines) == 4


def test_no_pictures(tmp_path: Path) -> None:
    assert len(list(inspect_hdf5(write(tmp_path / "data.h5", pictures(0, 4))))) >= 4


def test_what_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="does not exist"):
        list(inspect_hdf5(tmp_path / "nowhere.h5"))

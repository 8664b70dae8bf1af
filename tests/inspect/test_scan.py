"""The padding is exact with `photos/inside`, a lower bound with `photos/quad`, and else unknown."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.imaging.geometry import share_inside
from celebahq_builder.inspect.borders import PaddingShare, read_padding
from tests.conftest import SMALL
from tests.hdf5.files import noise, store


def read(path: Path) -> PaddingShare | None:
    with PyramidFile(path) as pyramid:
        return read_padding(pyramid)


def square(left: float, top: float, side: float = 100) -> list[list[float]]:
    return [[left, top], [left, top + side], [left + side, top + side], [left + side, top]]


def test_recorded_share(tmp_path: Path) -> None:
    quads = np.array([square(-50, 0)] * 3)
    found = read(store(tmp_path / "a.h5", noise(3, 4), inside=np.array([1, 0.25, np.nan]), quad=quads))
    assert found is not None
    assert found.exact
    assert found.shares[:2].tolist() == [0, 0.75]
    assert found.known.tolist() == [0, 0.75]
    assert found.worst() == [1]


def test_share_recorded_by_a_build(tiny_run: Path) -> None:
    path = next(tiny_run.glob("*.h5"))
    found = read(path)
    assert found is not None
    assert found.exact
    with h5py.File(path) as file:
        names, quads = file["photos/file"].asstr()[:], file["photos/quad"][:]
    for name, quad, share in zip(names, quads, found.shares, strict=True):
        with Image.open(SMALL / "img_celeba" / name) as photo:
            assert share == pytest.approx(1 - share_inside(quad, *photo.size))
    assert found.shares.max() > 0


def test_lower_bound_from_the_crop(tmp_path: Path) -> None:
    turned = np.array([[50, -50], [-50, 50], [50, 150], [150, 50]], float)  # a corner on each side
    quads = np.array(
        [square(0, 0), square(-25, 10), square(-50, -50), square(500, 10), turned, np.full((4, 2), np.nan)]
    )
    found = read(store(tmp_path / "a.h5", noise(6, 4), quad=quads))
    assert found is not None
    assert not found.exact
    assert found.shares[:4] == pytest.approx([0, 0.25, 0.75, 0], abs=0.01)
    assert np.isnan(found.shares[5])
    assert found.worst()[0] == 2
    assert sorted(found.worst()) == [1, 2, 4]
    for number in range(5):  # for any size of the photo
        for width, height in ((60, 60), (100, 120), (5000, 5000)):
            assert found.shares[number] <= 1 - share_inside(quads[number], width, height) + 1e-12


def test_unknown_padding(tmp_path: Path) -> None:
    assert read(store(tmp_path / "a.h5", noise(2, 4))) is None
    assert read(store(tmp_path / "b.h5", noise(2, 4), quad=np.zeros((2, 3)))) is None

"""Bars are found and measured at every edge; even backgrounds are not bars. Padding is exact, a bound, or unknown."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.imaging.geometry import share_inside
from celebahq_builder.inspect.borders import EDGES, BorderBar, PaddingShare, bars, one_colour, read_padding, suspects
from tests.conftest import SMALL
from tests.hdf5.files import noise, store
from tests.inspect.audit_images import recoded, smooth, with_bar


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(("level", "colour"), [(0, "black"), (20, "black"), (255, "white"), (128, "plain")])
def test_each_edge_and_colour(edge: str, level: int, colour: str) -> None:
    contrast = smooth(1, 64)[0] // 2 + (128 if level < 128 else 0)  # differs from the bar everywhere
    if level == 128:
        contrast = np.where(contrast > 60, 250, 10).astype(np.uint8)
    barred = with_bar(contrast, edge, 8, level)
    assert bars(barred) == [BorderBar(edge, 8 / 64, colour)]
    assert suspects(np.stack([contrast, barred])).tolist() == [False, True]


def test_plain_up_to_the_last_line() -> None:
    """Nothing lies beyond the line next to such a bar, so it is no bar."""
    image = np.zeros((3, 64, 64), np.uint8)
    image[:, -1] = smooth(1, 64)[0][:, -1] // 2 + 128
    assert bars(image) == []


def test_two_bars_after_jpeg_and_in_grey() -> None:
    image = smooth(1, 128)[0] // 2 + 100
    barred = recoded(with_bar(with_bar(image, "top", 16), "bottom", 24), 75)
    found = bars(barred)
    assert [(bar.edge, bar.colour) for bar in found] == [("top", "black"), ("bottom", "black")]
    assert [bar.width * 128 for bar in found] == pytest.approx([16, 24], abs=1)  # JPEG may change a line
    assert [bar.edge for bar in bars(barred[:1])] == ["top", "bottom"]


def test_a_line_between_bar_and_image() -> None:
    image = with_bar(smooth(1, 64)[0] // 2 + 100, "left", 5)
    image[:, :, 5] = image[:, :, 6] // 2
    assert bars(image) == [BorderBar("left", 5 / 64, "black")]


def test_a_background_around_a_head_is_not_a_bar() -> None:
    down, right = np.mgrid[:64, :64]
    head = (down - 40) ** 2 + (right - 32) ** 2 < 26**2
    image = np.where(head, smooth(1, 64)[0] // 2 + 100, 3).astype(np.uint8)
    assert suspects(image[None]).all()
    assert bars(image) == []


@pytest.mark.parametrize(
    ("level", "share", "found"),
    [(0, 0.25, True), (0, 0.15, False), (8, 0.25, False), (255, 0.45, True), (255, 0.3, False), (247, 0.45, False)],
)
def test_a_bar_beside_clothes_of_a_similar_colour(level: int, share: float, found: bool) -> None:
    """Beyond an entirely black or white bar, a smaller share of the line must differ."""
    image = np.random.default_rng(0).integers(0, 25, (3, 64, 64)) + (0 if level < 128 else 231)
    image[:, :, : round(64 * share)] = smooth(1, 64)[0, :, :, : round(64 * share)] // 2 + 64
    barred = with_bar(image.astype(np.uint8), "bottom", 8, level)
    assert bars(barred) == ([BorderBar("bottom", 8 / 64, "black" if level < 128 else "white")] if found else [])


def test_a_gradient_is_not_a_bar() -> None:
    image = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None], (3, 64, 64))
    assert bars(image) == []


def test_images_of_one_colour() -> None:
    plain = np.full((3, 32, 32), 40, np.uint8)
    plain[2] = 200
    assert one_colour(plain)
    assert bars(plain) == []
    plain[0, 3, 3] = 49
    assert not one_colour(plain)
    assert one_colour(np.zeros((1, 1, 1), np.uint8))


# --- Padding -----------------------------------------------------------------------------------------------------


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

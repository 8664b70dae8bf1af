"""Image grids have every image in its place, in colour and grey."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from celebahq_builder.imaging.image_grid import fit_grid, image_grid, png_bytes


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_in_rows_from_the_top_left(channels: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 4, 6), dtype=np.uint8)
    grid = image_grid(images, 3)
    assert grid.shape == (channels, 8, 18)
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        assert np.array_equal(grid[:, 4 * row : 4 * row + 4, 6 * column : 6 * column + 6], image)
    assert not grid[:, 4:, 12:].any()
    (tmp_path / "grid.png").write_bytes(png_bytes(grid))
    read = cv2.imread(str(tmp_path / "grid.png"))[..., ::-1].transpose(2, 0, 1)
    assert np.array_equal(read, np.broadcast_to(grid, read.shape))


def test_gaps_and_empty_places_are_white() -> None:
    images = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(2, axis=2).repeat(3, axis=3)
    grid = image_grid(iter(images), columns=2, rows=2, gap_px=4)
    assert grid.shape == (1, 2 + 4 + 2, 3 + 4 + 3)
    assert [int(grid[0, top, left]) for top in (0, 6) for left in (0, 7)] == [0, 1, 2, 255]
    assert (grid[:, 2:6] == 255).all()
    assert (grid[:, :, 3:7] == 255).all()


def test_grids_have_a_maximum_size() -> None:
    assert fit_grid(15, 8, 256) == (15, 8)
    assert fit_grid(15, 8, 10_000) == (1, 1)

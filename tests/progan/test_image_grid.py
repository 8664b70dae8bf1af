"""Image grids have every image in its place, in colour and grey."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from celebahq_builder.progan.image_grid import fit_grid, image_grid, write_png


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_in_rows_from_the_top_left(channels: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 4, 6), dtype=np.uint8)
    grid = image_grid(images, 3)
    assert grid.shape == (channels, 8, 18)
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        assert np.array_equal(grid[:, 4 * row : 4 * row + 4, 6 * column : 6 * column + 6], image)
    assert not grid[:, 4:, 12:].any()
    write_png(tmp_path / "grid.png", grid)
    read = cv2.imread(str(tmp_path / "grid.png"))[..., ::-1].transpose(2, 0, 1)
    assert np.array_equal(read, np.broadcast_to(grid, read.shape))


def test_grids_have_a_maximum_size() -> None:
    assert fit_grid(15, 8, 256) == (15, 8)
    assert fit_grid(15, 8, 1024) == (8, 8)
    assert fit_grid(15, 8, 10_000) == (1, 1)

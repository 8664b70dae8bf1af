import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from celebahq_builder.landmarks import orientation


@pytest.mark.parametrize("exif", range(1, 9))
def test_as_pillow_applies_it(exif):
    stored = np.random.default_rng(exif).integers(0, 256, (4, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    info = Image.Exif()
    info[274] = exif
    Image.fromarray(stored).save(file, "PNG", exif=info)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    upright = orientation.upright(stored, exif)
    assert (upright == expected).all()
    points = np.array([[x, y] for y in range(4) for x in range(7)], float)
    there = orientation.to_upright(points, (7, 4), exif)
    for (x, y), (column, row) in zip(points.astype(int), there.astype(int), strict=True):
        assert (stored[y, x] == upright[row, column]).all()
    assert (orientation.to_stored(there, (7, 4), exif) == points).all()

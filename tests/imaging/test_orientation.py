import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from celebahq_builder.imaging import orientation


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
    assert orientation.upright_size((7, 4), exif) == upright.shape[1::-1]
    order = [1, 0, 2, 4, 3] if exif in (2, 4, 5, 7) else [0, 1, 2, 3, 4]
    for x, y in np.ndindex(7, 4):
        points = np.array([[x, y], [6 - x, y], [x, 3 - y], [(x + 1) % 7, y], [x, (y + 1) % 4]], float)
        there = orientation.to_upright(points, (7, 4), exif)
        for (a, b), (column, row) in zip(points.astype(int), there[order].astype(int), strict=True):
            assert (stored[b, a] == upright[row, column]).all()
        assert (orientation.to_stored(there, (7, 4), exif) == points).all()

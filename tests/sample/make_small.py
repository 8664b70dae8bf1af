"""Writes the sample with reduced photos, for builds in tests, which need half of the time.

The crop of each face has at most 120 px, so that builds at 64x64 still reduce it. The photos are otherwise those of
`celeba`, and the same ones are rejected. From the root of the project::

    python -m tests.sample.make_small
"""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from celebahq_builder.imaging.geometry import crop_from_landmarks
from celebahq_builder.sources.celeba import read_celeba

HERE = Path(__file__).parent
CROP_PX = 120
TRUNCATED = "000009.jpg"
"""A photo that cannot be decoded; it stays as it is."""

if __name__ == "__main__":
    folder = HERE / "small"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE / "celeba", folder)
    table = folder / "Anno" / "list_landmarks_celeba.txt"
    count, names, *_ = table.read_text().splitlines()
    rows = [count, names]
    for photo in read_celeba(HERE / "celeba").photos:
        landmarks = np.reshape(photo.landmarks, (5, 2))
        path = folder / "img_celeba" / photo.file
        if photo.file != TRUNCATED:
            scale = min(1.0, CROP_PX / crop_from_landmarks(landmarks).side)
            with Image.open(path) as image:
                size = round(image.width * scale), round(image.height * scale)
                small = image.resize(size, Image.Resampling.LANCZOS)
            small.save(path, quality=90)
            landmarks = landmarks * scale
        rows.append(f"{photo.file} " + " ".join(f"{number:4.0f}" for number in landmarks.ravel()))
    table.write_text("\n".join(rows) + "\n")

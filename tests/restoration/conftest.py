"""Fixtures of the trainings of restoration networks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.restoration.runs import RECIPES, train


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small images with soft blobs and sharp edges."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        noise = np.random.default_rng(i).normal(size=(132, 140, 3))
        image = gaussian_filter(noise, (4, 4, 0)) * 900 + 128
        image[40:90, 30 + 5 * i : 100] += 60
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session", params=RECIPES)
def whole_run(
    request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Name of a recipe, and the folder of an uninterrupted run of it."""
    out = tmp_path_factory.mktemp("whole") / request.param
    train(RECIPES[request.param], photos, out)
    return request.param, out

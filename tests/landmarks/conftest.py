"""Fixtures of these tests: the face detector, and photos with known landmarks."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from celebahq_builder.landmarks.detector import FaceDetector
from celebahq_builder.sources.celeba import read_celeba
from tests.conftest import SAMPLE


@pytest.fixture(scope="session")
def detector(yunet: Path) -> FaceDetector:
    return FaceDetector(yunet)


@pytest.fixture(scope="session")
def portrait() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """An upright photo of one face, and its landmarks."""
    photo = read_celeba(SAMPLE).photos[0]
    image = np.asarray(Image.open(SAMPLE / "img_celeba" / photo.file).convert("RGB"))
    return image, np.array(photo.landmarks).reshape(5, 2)


def error(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Return the mean distance of landmarks in distances of the eyes."""
    return float(np.hypot(*(found - expected).T).mean() / np.hypot(*(expected[1] - expected[0])))

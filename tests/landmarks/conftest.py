"""Fixtures of these tests: the face detector, a photo with known landmarks, and a training of the refiner."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from celebahq_builder.landmarks.detector import FaceDetector
from celebahq_builder.landmarks.faces import LandmarkFaces
from celebahq_builder.sources.celeba import read_celeba
from tests.landmarks.runs import RECIPE, SAMPLE, train


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A training sets the number of threads of OpenCV; results depend on that of torch."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture(scope="session")
def faces() -> LandmarkFaces:
    """The faces of the sample data set."""
    return LandmarkFaces.read(SAMPLE, held_out=3)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "run"
    train(RECIPE, out)
    return out


@pytest.fixture(scope="session")
def detector(yunet: Path) -> FaceDetector:
    return FaceDetector(yunet)


@pytest.fixture(scope="session")
def portrait() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """An upright photo of one face, and its landmarks."""
    photo = read_celeba(SAMPLE).photos[0]
    with Image.open(SAMPLE / "img_celeba" / photo.file) as file:
        return np.asarray(file.convert("RGB")), photo.points

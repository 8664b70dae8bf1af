"""Fixtures of the training of the landmark network."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch

from celebahq_builder.landmarks.faces import LandmarkFaces
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
def whole_run(faces: LandmarkFaces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "run"
    train(RECIPE, faces, out)
    return out

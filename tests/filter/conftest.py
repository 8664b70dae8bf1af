"""Folders of images for the tests of the filter."""

import shutil
from pathlib import Path

import pytest

from tests.filter.folders import make, run


@pytest.fixture(scope="package")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of valid images with its scores folder beside it, shared by the tests: never change it."""
    folder = make(tmp_path_factory.mktemp("good") / "in")
    run(folder)
    return folder


@pytest.fixture
def folder(scored: Path, tmp_path: Path) -> Path:
    """A copy of the images without their scores."""
    return Path(shutil.copytree(scored, tmp_path / "in"))

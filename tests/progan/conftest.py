"""Data and recipe of the tiny training, as fixtures."""

from pathlib import Path

import pytest

from celebahq_builder.config import load
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.progan.schedule import ProGANRecipe
from tests.progan.tiny import RECIPE, Noise


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "noise.h5"
    write_images(Noise(), path, codec=Gzip())
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def settings(recipe: Path) -> ProGANRecipe:
    return load(ProGANRecipe, recipe)

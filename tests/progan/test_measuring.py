"""A training's measurements never end it, and what they lack is told before it begins."""

import dataclasses
from pathlib import Path

import pytest
import torch

from celebahq_builder.config import load
from celebahq_builder.errors import WeightsError
from celebahq_builder.models.progan import Architecture, Generator
from celebahq_builder.progan.evaluation import TrainingMetrics
from celebahq_builder.progan.schedule import ProGANRecipe
from tests.evaluation.sources import smooth
from tests.hdf5.pyramids import theano_file
from tests.progan.tiny import NETWORK

CPU = torch.device("cpu")

RECIPE = f"""
{NETWORK}[tick]
metric_ticks = 1
metrics = ["swd"]
metric_num = 20
"""


@pytest.fixture
def recipe(tmp_path: Path) -> ProGANRecipe:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return load(ProGANRecipe, tmp_path / "tiny.toml")


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(Architecture(resolution=16, latent=8, channels_base=64, channels_max=8)).eval()


def test_a_generator_that_makes_all_the_same(
    recipe: ProGANRecipe, generator: Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measuring = TrainingMetrics(tmp_path / "run", theano_file(tmp_path / "a.h5", smooth(40, 16)), recipe, CPU)
    assert measuring.scores(generator, 4, 1.0).keys() == {"swd20", "swd20_16"}
    assert not caplog.messages
    with torch.no_grad():
        for tensor in generator.parameters():
            tensor.zero_()
    assert measuring.scores(generator, 4, 1.0) == {}
    (said,) = caplog.messages
    assert said.startswith("not measured: ")
    assert "have no texture at level 16" in said
    assert said.endswith("; the training goes on")
    with torch.no_grad():
        generator.dense.weight.fill_(float("nan"))
    with pytest.raises(WeightsError, match="makes NaN or infinity"):
        measuring.scores(generator, 4, 1.0)


def test_a_reference_that_is_gone(
    recipe: ProGANRecipe, generator: Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = theano_file(tmp_path / "a.h5", smooth(40, 16))
    measuring = TrainingMetrics(tmp_path / "run", reference, recipe, CPU)
    reference.unlink()
    assert measuring.scores(generator, 4, 1.0) == {}
    assert "a.h5" in caplog.text


def test_weights_of_inception_are_asked_for_at_once(
    recipe: ProGANRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut short")
    with_fid = dataclasses.replace(recipe, tick=dataclasses.replace(recipe.tick, metrics=("swd", "fid")))
    with pytest.raises(WeightsError, match=r"6726825d\.pth: SHA-256 is "):
        TrainingMetrics(tmp_path / "run", theano_file(tmp_path / "a.h5", smooth(40, 16)), with_fid, CPU)

"""Failed measurements do not end a training; missing requirements are reported before it begins."""

from pathlib import Path

import pytest
import torch

from celebahq_builder.errors import WeightsError
from celebahq_builder.models.progan import GeneratorNetwork
from celebahq_builder.progan.schedule import ProGANRecipe
from celebahq_builder.progan.ticks import TrainingMetrics
from tests.evaluation.sources import smooth
from tests.hdf5.pyramids import theano_file
from tests.progan.tiny import NET, changed

CPU = torch.device("cpu")


@pytest.fixture
def measured(settings: ProGANRecipe) -> ProGANRecipe:
    return changed(settings, tick={"metric_ticks": 1, "metrics": ("swd",), "metric_num": 20})


@pytest.fixture
def generator() -> GeneratorNetwork:
    torch.manual_seed(0)
    return GeneratorNetwork(NET).eval()


def test_equal_images_are_not_measured(
    measured: ProGANRecipe, generator: GeneratorNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = TrainingMetrics(tmp_path / "run", theano_file(tmp_path / "a.h5", smooth(40, 16)), measured, CPU)
    assert metrics.scores(generator, 4, 1.0).keys() == {"swd20", "swd20_16", "floor_swd20", "floor_swd20_16"}
    assert not caplog.messages
    with torch.no_grad():
        for tensor in generator.parameters():
            tensor.zero_()
    assert metrics.scores(generator, 4, 1.0) == {}
    (message,) = caplog.messages
    assert message.startswith("not measured: ")
    assert "have no texture at level 16" in message
    assert message.endswith("; the training continues")
    with torch.no_grad():
        generator.dense.weight.fill_(float("nan"))
    with pytest.raises(WeightsError, match="returns NaN or infinity"):
        metrics.scores(generator, 4, 1.0)


def test_a_deleted_reference(
    measured: ProGANRecipe, generator: GeneratorNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = theano_file(tmp_path / "a.h5", smooth(40, 16))
    metrics = TrainingMetrics(tmp_path / "run", reference, measured, CPU)
    reference.unlink()
    assert metrics.scores(generator, 4, 1.0) == {}
    assert "a.h5" in caplog.text


def test_inception_weights_are_verified_before_the_training(
    measured: ProGANRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut short")
    with_fid = changed(measured, tick={"metrics": ("swd", "fid")})
    with pytest.raises(WeightsError, match=r"6726825d\.pth: SHA-256 is "):
        TrainingMetrics(tmp_path / "run", theano_file(tmp_path / "a.h5", smooth(40, 16)), with_fid, CPU)

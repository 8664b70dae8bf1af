"""Budgets of host syncs, counted on the pretend device: a copy or a value for which the host waits for the device."""

import dataclasses
from pathlib import Path

import pytest
import torch

from celebahq_builder.config import load
from celebahq_builder.evaluation.evaluate import evaluate
from celebahq_builder.evaluation.image_sources import SourceImages
from celebahq_builder.evaluation.protocol import EvaluationProtocol
from celebahq_builder.hdf5.codecs import Gzip
from celebahq_builder.hdf5.create import write_images
from celebahq_builder.progan.schedule import LossSettings, ProGANRecipe, SchedulePoint, TrainingRequest
from celebahq_builder.progan.step import ProGANTrainer
from celebahq_builder.progan.train import Training
from celebahq_builder.training.distributed import DistributedContext
from celebahq_builder.training.logger import read_lines
from tests.device import pretend
from tests.device.test_cuda_build import recipe, run_photo_stages
from tests.device.test_cuda_progan import NET, reals
from tests.evaluation.sources import Held, smooth
from tests.progan.tiny import RECIPE, Noise

PHOTO_BUDGET = 3
"""At 256x256. It may be lowered, and grows with the tiles of larger images."""

EVALUATION_BUDGET = 100
"""For one batch of images, with its floor."""

pytestmark = pytest.mark.skipif(not pretend.ACTIVE, reason="host syncs are counted on the pretend device")


@pytest.mark.parametrize(
    ("kind", "labels", "budget"), [("wgan-gp", 0, 0), ("wgan-gp", 3, 0), ("logistic", 0, 0), ("lsgan", 0, 1)]
)
def test_a_training_step(kind: str, labels: int, budget: int, device: torch.device) -> None:
    """LSGAN's noise depends on the scores of the step before, which the host reads."""
    net = dataclasses.replace(NET, labels=labels)
    settings = ProGANRecipe("progan", net=net, loss=LossSettings(kind))
    progan = ProGANTrainer(settings, DistributedContext(0, 1, device), torch.eye(labels) if labels else None)
    now = SchedulePoint(5, 0.5, 8, None, 0.001)
    batch = reals(now, device, labels=labels)
    progan.mean_fake = 0.9  # LSGAN has noise
    progan.step(0, now, batch)
    pretend.syncs.clear()
    progan.step(1, now, batch)
    assert pretend.syncs.total() <= budget, pretend.syncs


def test_a_photo(device: torch.device) -> None:
    """A photo on its way through all stages, at 256x256."""
    run_photo_stages(recipe(256), device, ["000002"])
    pretend.syncs.clear()
    run_photo_stages(recipe(256), device, ["000011"])
    assert pretend.syncs.total() <= PHOTO_BUDGET, pretend.syncs


def test_the_loop_of_a_training(device: torch.device, tmp_path: Path) -> None:
    """Twice as many steps wait no more often: only a tick waits, for its sums, images and checkpoint."""
    data, settings = tmp_path / "noise.h5", tmp_path / "tiny.toml"
    write_images(Noise(), data, codec=Gzip())
    settings.write_text(RECIPE.replace("kimg = 0.016", "kimg = 0.08"))
    waits = []
    for total_kimg in (0.04, 0.08):  # 5 and 10 steps, which end in the same resolution
        out = tmp_path / f"{total_kimg}"
        request = TrainingRequest(data, out, total_kimg=total_kimg)
        training = Training(request, load(ProGANRecipe, settings), DistributedContext(0, 1, device))
        pretend.syncs.clear()
        training.run()
        assert len(read_lines(out / "stats.jsonl")) == 1
        # Images are also made after 30 s.
        waits.append({place: n for place, n in pretend.syncs.items() if "progan/generate.py" not in place})
    assert waits[0] == waits[1]


@pytest.mark.parametrize("metric", ["swd", "ms-ssim"])
def test_an_evaluation(metric: str, device: torch.device) -> None:
    """Its waits depend on the number of batches, not on that of images or pixels."""
    images, reference = (SourceImages(Held(smooth(40, 64, seed)), 0) for seed in (1, 2))
    pretend.syncs.clear()
    evaluate(images.source, reference, EvaluationProtocol((metric,), 20, device=device))
    assert pretend.syncs.total() <= EVALUATION_BUDGET, pretend.syncs

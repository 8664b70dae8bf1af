"""Budgets of host syncs, counted on the pretend device: a copy or a value for which the host waits for the device."""

import dataclasses

import pytest
import torch

from celebahq_builder.progan.schedule import LossSettings, ProGANRecipe, SchedulePoint
from celebahq_builder.progan.step import ProGANStep
from celebahq_builder.training.distributed import DistributedContext
from tests.device import pretend
from tests.device.test_cuda_build import recipe, run_photo_stages
from tests.device.test_cuda_progan import NET, reals

PHOTO_BUDGET = 3
"""At 256x256. It may be lowered, and grows with the tiles of larger images."""

pytestmark = pytest.mark.skipif(not pretend.ACTIVE, reason="host syncs are counted on the pretend device")


@pytest.mark.parametrize(
    ("kind", "labels", "budget"), [("wgan-gp", 0, 0), ("wgan-gp", 3, 0), ("logistic", 0, 0), ("lsgan", 0, 1)]
)
def test_a_training_step(kind: str, labels: int, budget: int, device: torch.device) -> None:
    """LSGAN's noise depends on the scores of the step before, which the host reads."""
    net = dataclasses.replace(NET, labels=labels)
    settings = ProGANRecipe("progan", net=net, loss=LossSettings(kind))  # type: ignore[arg-type]
    progan = ProGANStep(settings, DistributedContext(0, 1, device), torch.eye(labels) if labels else None)
    now = SchedulePoint(5, 0.5, 8, None, 0.001)
    batch = reals(now, device, labels=labels)
    progan.mean_fake = 0.9  # LSGAN has noise
    progan.step(0, now, batch)
    pretend.reset()
    progan.step(1, now, batch)
    assert pretend.total() <= budget, pretend.syncs


def test_a_photo(device: torch.device) -> None:
    """A photo on its way through all stages, at 256x256."""
    run_photo_stages(recipe(256), device, ["000002"])
    pretend.reset()
    run_photo_stages(recipe(256), device, ["000011"])
    assert pretend.total() <= PHOTO_BUDGET, pretend.syncs

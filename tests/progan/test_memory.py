"""Passes become as small as memory asks, never splitting a group, before a training begins."""

from collections.abc import Sequence

import pytest
import torch

from celebahq_builder.errors import TrainingError
from celebahq_builder.models.progan import Architecture
from celebahq_builder.progan.launch import fit_memory
from celebahq_builder.progan.schedule import ProGANRecipe, Schedule, SchedulePoint
from celebahq_builder.progan.step import ProGANStep, RealBatch
from celebahq_builder.training.distributed import SINGLE_PROCESS

RECIPE = ProGANRecipe(
    "progan",
    Architecture(resolution=16, channels_base=32, channels_max=4, latent=4),
    Schedule(train_kimg=1, fade_kimg=1, minibatch=8, minibatches={"4": 32}, per_gpu={"4": 16}),
)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, pixels: int) -> list[tuple[int, float, int, int]]:
    """Let steps run out of memory whose passes have more pixels than this; return what was tried."""
    tried = []
    real = ProGANStep.step

    def step(players: ProGANStep, number: int, moment: SchedulePoint, reals: Sequence[RealBatch]) -> torch.Tensor:
        n = len(reals[0].images)
        tried.append((moment.resolution, moment.alpha, n, len(reals)))
        if n * moment.resolution**2 > pixels:
            raise torch.cuda.OutOfMemoryError("no room")
        return real(players, number, moment, reals)

    monkeypatch.setattr(ProGANStep, "step", step)
    return tried


def test_what_fits_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = short_of_memory(monkeypatch, 10**6)
    assert fit_memory(RECIPE, SINGLE_PROCESS) == RECIPE
    assert tried == [(4, 1.0, 16, 2), (8, 0.5, 8, 1), (16, 0.5, 8, 1)]


def test_what_does_not_fit_goes_in_more_passes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    short_of_memory(monkeypatch, 4 * 16**2)
    assert fit_memory(RECIPE, SINGLE_PROCESS).schedule.per_gpu == {"4": 16, "16": 4}
    assert "16x16: 8 images do not fit cpu at once; they go in 2 passes of 4" in caplog.text


def test_a_group_is_never_split(monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 3 * 16**2)
    with pytest.raises(TrainingError, match="a minibatch of 8 at 16x16 does not fit cpu even in passes of 4"):
        fit_memory(RECIPE, SINGLE_PROCESS)

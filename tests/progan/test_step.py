"""The averaged generator follows the generator as the recipe says."""

import dataclasses

import pytest
import torch

from celebahq_builder.models.progan import Architecture
from celebahq_builder.progan.schedule import ProGANRecipe, Schedule
from celebahq_builder.progan.step import ProGANStep, RealBatch
from celebahq_builder.training.distributed import SINGLE_PROCESS

RECIPE = ProGANRecipe(
    "progan",
    net=Architecture(resolution=8, latent=4, channels_base=16, channels_max=4),
    schedule=Schedule(total_kimg=1, train_kimg=0.032, fade_kimg=0.016, minibatch=8),
)


@pytest.mark.parametrize("ema", [0.999, 0.25, 0.0])
def test_the_average(ema: float) -> None:
    """New levels first forget what they began with: decay (1 + n) / (10 + n), n steps after they entered."""
    players = ProGANStep(dataclasses.replace(RECIPE, ema=ema), SINGLE_PROCESS)
    average = {name: p.detach().clone() for name, p in players.generator.named_parameters()}
    entered = 0
    for step in range(9):  # 8x8 enters after 4 steps
        moment = RECIPE.schedule.at(step * 0.008, 3)
        entered = step if step == 4 else entered
        assert moment.steps == step - entered
        side = moment.resolution
        players.step(step, moment, [RealBatch(torch.rand((8, 3, side, side), generator=torch.manual_seed(step)))])
        decay = min(ema, (1 + step - entered) / (10 + step - entered))
        active = dict(players.generator.active(moment.level, moment.alpha))
        for name in active:
            average[name] = decay * average[name] + (1 - decay) * active[name].detach()
        for name, p in players.averaged.named_parameters():
            assert torch.allclose(p, average[name], atol=1e-6), (step, name)

"""Parts of a minibatch give the gradients of the whole; the averaged generator follows the generator."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from celebahq_builder.models.progan import Architecture
from celebahq_builder.progan.schedule import LossSettings, ProGANRecipe, Schedule, SchedulePoint
from celebahq_builder.progan.step import Microbatch, ProGANTrainer
from celebahq_builder.training.distributed import SINGLE_PROCESS

RECIPE = ProGANRecipe(
    "progan",
    net=Architecture(resolution=8, latent=4, channels_base=16, channels_max=4),
    schedule=Schedule(total_kimg=1, train_kimg=0.032, fade_kimg=0.016, minibatch=8),
)


@pytest.mark.parametrize("kind", ["wgan-gp", "logistic"])
@pytest.mark.parametrize("reuse_fakes", [False, True])
def test_gradients_of_parts_of_a_group(kind: str, reuse_fakes: bool) -> None:
    """A group in 2 or 4 parts has the gradients of the whole group, up to rounding; smaller groups have others.

    The same is true with weights that are scaled once for all passes, as on a GPU. Adam's first moment is the gradient,
    since its decay is 0.
    """
    gradients = {}
    now = SchedulePoint(3, 0.5, 4, None, 0.001)
    images = torch.rand((4, 3, 8, 8), generator=torch.manual_seed(5)) * 2 - 1
    for group, per_gpu, shares_weights in ((4, 4, False), (4, 4, True), (4, 2, False), (4, 1, True), (2, 2, False)):
        net = dataclasses.replace(RECIPE.net, stddev_group=group, labels=2)
        recipe = ProGANRecipe("progan", net=net, loss=LossSettings(kind), reuse_fakes=reuse_fakes)
        progan = ProGANTrainer(recipe, SINGLE_PROCESS, torch.eye(2))
        progan.shares_weights = shares_weights
        point = dataclasses.replace(now, per_gpu=per_gpu)
        passes = point.passes(1, group)
        labels = torch.eye(2)[[0, 1, 1, 0]]
        batches = [Microbatch(images[i::passes], labels[i::passes]) for i in range(passes)]
        statistics = progan.step(0, point, batches)
        states = [adam.state[p] for adam in (progan.discriminator_adam, progan.generator_adam) for p in adam.state]
        gradients[group, per_gpu, shares_weights] = torch.cat(
            [statistics, *(state["exp_avg"].flatten() for state in states)]
        )
    whole, smaller_groups = gradients.pop((4, 4, False)), gradients.pop((2, 2, False))
    assert len(whole) > 500
    for found in gradients.values():
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))
    assert (smaller_groups - whole).abs().max() > 0.01 * whole.abs().max()


class Launches(TorchDispatchMode):
    """Counts operations that are kernels on a GPU, and their FLOPs."""

    count, flops = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += not func.is_view
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize(("precision", "saved"), [("fp32", 0.05), ("bf16", 0.08)])
def test_shared_weights_save_launches(precision: str, saved: float) -> None:
    """At low resolutions a GPU waits for the host, which launches kernels. The FLOPs stay the same.

    Adam takes 40 % of these operations on a CPU; it is one kernel on a GPU.
    """
    now = SchedulePoint(3, 1.0, 4, None, 0.001)
    images = torch.zeros(4, 3, 8, 8)
    counts, flops = [], []
    for shares_weights in (False, True):
        progan = ProGANTrainer(dataclasses.replace(RECIPE, precision=precision), SINGLE_PROCESS)
        progan.shares_weights = shares_weights
        progan.step(0, now, [Microbatch(images)])
        with Launches() as launches:
            progan.step(1, now, [Microbatch(images)])
        counts.append(launches.count)
        flops.append(launches.flops)
    assert counts[1] < (1 - saved) * counts[0]
    assert flops[1] == flops[0] > 0


@pytest.mark.parametrize("ema", [0.999, 0.25, 0.0])
def test_the_average(ema: float) -> None:
    """The decay is at most (1 + n) / (10 + n), n steps after a level entered."""
    progan = ProGANTrainer(dataclasses.replace(RECIPE, ema=ema), SINGLE_PROCESS)
    average = {name: p.detach().clone() for name, p in progan.generator.named_parameters()}
    entered = 0
    for number in range(9):  # 8x8 enters after 4 steps
        now = RECIPE.schedule.at(number * 0.008, 3)
        entered = number if number == 4 else entered
        assert now.steps == number - entered
        side = now.resolution
        progan.step(number, now, [Microbatch(torch.rand((8, 3, side, side), generator=torch.manual_seed(number)))])
        decay = min(ema, (1 + number - entered) / (10 + number - entered))
        active = dict(progan.generator.active(now.level, now.alpha))
        for name in active:
            average[name] = decay * average[name] + (1 - decay) * active[name].detach()
        for name, p in progan.averaged.named_parameters():
            assert torch.allclose(p, average[name], atol=1e-6), (number, name)


def test_lsgan_is_resumed_with_its_noise() -> None:
    """The running mean of the fake scores, which decides the noise, is part of the state; there is none up to 0.5."""
    recipe = dataclasses.replace(RECIPE, loss=LossSettings("lsgan", noise=100.0))
    one, other = ProGANTrainer(recipe, SINGLE_PROCESS), ProGANTrainer(recipe, SINGLE_PROCESS)
    now = recipe.schedule.at(0, 3)
    images = Microbatch(torch.rand((8, 3, 4, 4), generator=torch.manual_seed(0)))
    one.mean_fake = 0.9
    one.step(0, now, [images])
    assert one.mean_fake < 0.9
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(one.step(1, now, [images]), other.step(1, now, [images]))
    assert other.mean_fake == one.mean_fake
    for mean, noisy in ((0.0, False), (0.5, False), (0.51, True)):
        one.mean_fake = mean
        noise = one._discriminator_noise(2)
        assert noise.strength == pytest.approx(100 * max(mean - 0.5, 0) ** 2)
        assert torch.equal(noise(torch.ones(3, 4)), torch.ones(3, 4)) is not noisy

"""The bundled recipes are the published schedules (Karras et al. 2018, appendices A and B; the authors' code)."""

import dataclasses
from pathlib import Path

import pytest
import torch

from celebahq_builder.config import load
from celebahq_builder.models.progan import Architecture
from celebahq_builder.pipeline.recipe import bundled_recipe
from celebahq_builder.progan.losses import wgan_discriminator
from celebahq_builder.progan.schedule import LossSettings, ProGANRecipe, Schedule, TickSettings
from celebahq_builder.progan.step import NOISE_DECAY, NOISE_THRESHOLD, ProGANTrainer
from celebahq_builder.training.distributed import SINGLE_PROCESS

V2 = {"celebahq-1024-1gpu": 1, "celebahq-1024-2gpu": 2, "celebahq-1024-4gpu": 4, "celebahq-1024-8gpu": 8}


def recipe(name: str) -> ProGANRecipe:
    return load(ProGANRecipe, bundled_recipe(Path(name), "train"))


@pytest.mark.parametrize(
    ("name", "minibatches", "rates", "kimg"),
    [
        ("celebahq-1024-paper", [16] * 6 + [14, 6, 3], {}, (800, 800, 19000)),
        ("celebahq-1024-1gpu", [128, 128, 128, 64, 32, 16, 8, 4, 4], {1024: 0.0015}, (600, 600, 12000)),
        ("celebahq-1024-2gpu", [256, 256, 128, 64, 32, 16, 8, 8, 8], {512: 0.0015, 1024: 0.002}, (600, 600, 12000)),
        (
            "celebahq-1024-4gpu",
            [512, 256, 128, 64, 32, 16, 16, 16, 16],
            {256: 0.0015, 512: 0.002, 1024: 0.003},
            (600, 600, 12000),
        ),
        (
            "celebahq-1024-8gpu",
            [512, 256, 128, 64, 32, 32, 32, 32, 32],
            {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003},
            (600, 600, 12000),
        ),
        ("cifar10", [16] * 4, {}, (400, 400, 20000)),
        ("lsun-256", [16] * 7, {}, (800, 800, 20000)),
        ("lsun-256-mirrored", [16] * 7, {}, (800, 800, 20000)),
    ],
)
def test_schedules(name: str, minibatches: list[int], rates: dict[int, float], kimg: tuple[float, ...]) -> None:
    one = recipe(name)
    schedule, net = one.schedule, one.net
    assert (schedule.train_kimg, schedule.fade_kimg, schedule.total_kimg) == kimg
    moments = [schedule.at(schedule.begins(level, net.level_max), net.level_max) for level in net.levels]
    assert [moment.minibatch for moment in moments] == minibatches
    assert {m.resolution: m.learning_rate for m in moments if m.learning_rate != 0.001} == rates
    assert (net.stddev_group, one.loss.kind, one.ema) == (4 if name in V2 else 16, "wgan-gp", 0.999)
    for moment in moments:  # in fp32 a GPU processes its whole share at once
        passes = moment.passes(V2.get(name, 1), net.stddev_group)
        assert passes == 1


def test_the_first_look_has_images_of_faces_from_the_start() -> None:
    """4x4 and 8x8 look like noise; a minute of a CPU has images, a checkpoint and a full minibatch of the sample."""
    one = recipe("quick")
    assert one.schedule.at(0, one.net.level_max).resolution == 16
    assert one.schedule.limit_minibatches(11) == one.schedule
    assert one.tick.kimg * max(one.tick.grid_ticks, one.tick.checkpoint_ticks) <= 2


def test_defaults() -> None:
    """Karras et al. 2018, appendices A and B, table 1, and the authors' recommended schedule; our choices last."""
    net = dataclasses.asdict(Architecture())
    assert net == {
        "resolution": 1024,
        "colours": 3,
        "latent": 512,
        "labels": 0,
        "channels_base": 8192,
        "channels_max": 512,
        "pixel_norm": True,
        "batch_norm": False,
        "equalized": True,
        "leaky": True,
        "stddev_group": 4,
    }
    assert dataclasses.asdict(LossSettings()) == {
        "kind": "wgan-gp",
        "penalty": 10.0,
        "target": 1.0,
        "drift": 0.001,
        "noise": 0.2,
        "label_weight": 1.0,
    }
    assert dataclasses.asdict(Schedule()) == {
        "total_kimg": 12000,
        "train_kimg": 600,
        "fade_kimg": 600,
        "first": 4,
        "growing": True,
        "minibatch": 16,
        "minibatches": {},
        "per_gpu": {},
        "learning_rate": 0.001,
        "learning_rates": {},
        "rampup_kimg": 0,
    }
    assert dataclasses.asdict(TickSettings()) == {
        "kimg": 10,
        "checkpoint_ticks": 5,
        "grid_ticks": 5,
        "grid": (15, 8),
        "metric_ticks": 0,
        "metrics": ("swd",),
        "metric_num": 8192,
    }
    whole = ProGANRecipe("progan")
    assert (whole.mirror, whole.together, whole.ema, whole.precision, whole.seed) == (True, False, 0.999, "fp32", 0)
    assert (whole.net, whole.loss) == (Architecture(), LossSettings())
    assert (NOISE_DECAY, NOISE_THRESHOLD) == (0.9, 0.5)
    progan = ProGANTrainer(dataclasses.replace(whole, net=Architecture(4, latent=2, channels_max=2)), SINGLE_PROCESS)
    for adam in (progan.generator_adam, progan.discriminator_adam):
        assert (adam.defaults["betas"], adam.defaults["eps"], adam.defaults["weight_decay"]) == ((0.0, 0.99), 1e-8, 0)
    assert wgan_discriminator(torch.ones(1), torch.zeros(1)).item() == pytest.approx(-1 + 0.001)


def test_settings_of_the_other_data_sets() -> None:
    cifar = recipe("cifar10")
    assert (cifar.net.latent, cifar.net.channels_base, cifar.net.channels_max) == (128, 4096, 128)
    assert (cifar.loss.target, cifar.together, cifar.mirror) == (750.0, True, False)
    assert (recipe("lsun-256").mirror, recipe("lsun-256-mirrored").mirror) == (False, True)
    assert not recipe("celebahq-1024-not-growing").schedule.growing


def test_the_rows_of_the_ablation() -> None:
    """Table 1: growing, small minibatch and leaky ReLU, stddev, equalized learning rate, pixel norm, length."""
    rows = {row: recipe(f"celeba-128-{row}") for row in "abdefgh"}
    has = {
        row: (r.schedule.growing, r.schedule.minibatch, r.net.batch_norm, r.net.stddev_group, r.net.equalized)
        + (r.net.pixel_norm,)
        for row, r in rows.items()
    }
    assert has == {
        "a": (False, 64, True, 1, False, False),
        "b": (True, 64, True, 1, False, False),
        "d": (True, 16, False, 1, False, False),
        "e": (True, 16, False, 16, False, False),
        "f": (True, 16, False, 16, True, False),
        "g": (True, 16, False, 16, True, True),
        "h": (True, 16, False, 16, True, True),
    }
    assert rows["h"].schedule.total_kimg > rows["g"].schedule.total_kimg
    assert all(r.net.resolution == 128 for r in rows.values())

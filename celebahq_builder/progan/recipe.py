"""The recipe of a ProGAN training: values that decide the weights, apart from the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from celebahq_builder.nets.progan import Architecture
from celebahq_builder.progan.schedule import Schedule


@dataclass(frozen=True)
class LossSettings:
    """What both networks minimise; the equations are in `progan.losses`."""

    kind: Literal["wgan-gp", "lsgan", "logistic"] = "wgan-gp"
    """``wgan-gp`` and ``lsgan`` as in the paper; ``logistic``: non-saturating, with R1."""
    penalty: float = 10.0
    """Weight of the gradient penalty (wgan-gp), or gamma of R1 (logistic)."""
    target: float = 1.0
    """Length of the gradient that wgan-gp's penalty aims at; 750 for CIFAR-10 in the paper."""
    drift: float = 0.001
    """Weight of E[D(real)^2] with wgan-gp."""
    noise: float = 0.2
    """With lsgan: the discriminator's noise has strength noise * max(0, d - 0.5)^2, d its mean score of fakes."""
    label_weight: float = 1.0
    """Of the labels' cross entropy, where the networks take labels."""

    def __post_init__(self) -> None:
        for name in ("penalty", "drift", "noise", "label_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss.{name} = {getattr(self, name)} must not be negative")
        if self.target <= 0:
            raise ValueError(f"loss.target = {self.target} must be positive")


@dataclass(frozen=True)
class TickSettings:
    """How often a training tells of itself and saves; kimg is thousands of real pictures shown."""

    kimg: float = 10
    """One line of statistics every so many kimg."""
    checkpoint_ticks: int = 5
    """A checkpoint every so many ticks."""
    grid_ticks: int = 5
    """A grid of generated pictures every so many ticks."""
    grid: tuple[int, ...] = (15, 8)
    """Columns and rows of a grid."""
    metric_ticks: int = 0
    """The averaged generator is measured every so many ticks; 0: never."""
    metrics: tuple[str, ...] = ("swd",)
    """By what: of swd, ms-ssim, fid, kid, is."""
    metric_num: int = 8192
    """On how many pictures."""

    def __post_init__(self) -> None:
        if self.kimg <= 0:
            raise ValueError(f"tick.kimg = {self.kimg} must be positive")
        if min(self.checkpoint_ticks, self.grid_ticks) < 1:
            raise ValueError("tick.checkpoint_ticks and tick.grid_ticks must be at least 1")
        if self.metric_ticks < 0 or self.metric_num < 2:
            raise ValueError("tick.metric_ticks must not be negative, and tick.metric_num at least 2")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"tick.grid = {list(self.grid)} must be columns and rows")


@dataclass(frozen=True)
class ProganRecipe:
    """Everything that decides the weights, apart from the pictures."""

    task: Literal["progan"]
    net: Architecture = field(default_factory=Architecture)
    schedule: Schedule = field(default_factory=Schedule)
    loss: LossSettings = field(default_factory=LossSettings)
    mirror: bool = True
    """Mirror the real pictures at random."""
    together: bool = False
    """Update the generator with the scores of the discriminator before its update, instead of after it."""
    ema: float = 0.999
    """Decay a step of the averaged generator, the one that is kept; 0: no averaging. While a level is new it is at most
    (1 + n) / (10 + n), n the steps since it entered."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: networks in bfloat16; norms, stddev, losses and penalties stay in float32."""
    seed: int = 0
    tick: TickSettings = field(default_factory=TickSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema = {self.ema} must be at least 0 and less than 1")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} must not be negative")
        if self.schedule.first > self.net.resolution:
            raise ValueError(f"schedule.first = {self.schedule.first} is above net.resolution = {self.net.resolution}")
        for name in ("minibatches", "per_gpu", "learning_rates"):
            for key in getattr(self.schedule, name):
                if int(key) > self.net.resolution:
                    raise ValueError(f"schedule.{name} names {key}, above net.resolution = {self.net.resolution}")

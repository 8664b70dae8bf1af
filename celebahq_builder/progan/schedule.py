"""The recipe of a ProGAN training, and its schedule of levels, alpha, minibatches and learning rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from celebahq_builder.models.progan import Architecture, group_size

RESUMABLE_KEYS = (
    "schedule.learning_rate",
    "schedule.learning_rates",
    "schedule.rampup_kimg",
    "loss",
    "precision",
    "ema",
)
"""Keys, or tables of keys, that may change where that is asked for: they decide neither what a checkpoint holds nor how
far it has come."""


@dataclass(frozen=True)
class Schedule:
    """The plan of a training; kimg is thousands of real images shown so far.

    The first level is trained for `train_kimg`; every later one fades in for `fade_kimg` and is then trained for
    `train_kimg`; the last one until the end.
    """

    total_kimg: float = 12000
    """Length of the training."""
    train_kimg: float = 600
    """How long a level is trained once it is faded in."""
    fade_kimg: float = 600
    """How long alpha takes from 0 to 1."""
    first: int = 4
    """Resolution that the training begins at."""
    growing: bool = True
    """False: the networks have their final size from the start."""
    minibatch: int = 16
    """Images a step, on all GPUs together."""
    minibatches: dict[str, int] = field(default_factory=dict)
    """Other minibatches, by resolution: {"4" = 128, "32" = 64}."""
    per_gpu: dict[str, int] = field(default_factory=dict)
    """Most images that a GPU takes at once, by resolution; the rest of its share follows in further passes."""
    learning_rate: float = 0.001
    """Of both networks."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Other learning rates, by resolution."""
    rampup_kimg: float = 0
    """The learning rate rises to its value over so many kimg at the very beginning."""

    def __post_init__(self) -> None:
        for name in ("total_kimg", "train_kimg"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be positive")
        for name in ("fade_kimg", "rampup_kimg"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must not be negative")
        if self.first < 4 or self.first & (self.first - 1):
            raise ValueError(f"first = {self.first} must be a power of two, 4 or more")
        for name in ("minibatches", "per_gpu", "learning_rates"):
            for key, value in getattr(self, name).items():
                if not key.isdigit() or int(key) < 4 or int(key) & (int(key) - 1):
                    raise ValueError(f"{name} is by resolution, a power of two from 4 up, not {key!r}")
                if value <= 0:
                    raise ValueError(f"{name}.{key} = {value} must be positive")
        if self.minibatch < 1 or self.learning_rate <= 0:
            raise ValueError(f"minibatch = {self.minibatch} and learning_rate = {self.learning_rate} must be positive")

    def at(self, kimg: float, level_max: int) -> SchedulePoint:
        """Return where the training stands after `kimg`, for networks whose largest level is `level_max`."""
        level, alpha = self._grown(kimg, level_max)
        resolution = str(1 << level)
        rate = self.learning_rates.get(resolution, self.learning_rate)
        if self.rampup_kimg > kimg:
            rate *= kimg / self.rampup_kimg
        minibatch = self.minibatches.get(resolution, self.minibatch)
        steps = round((kimg - self.begins(level, level_max)) * 1000 / minibatch)
        return SchedulePoint(level, alpha, minibatch, self.per_gpu.get(resolution), rate, steps)

    def _grown(self, kimg: float, level_max: int) -> tuple[int, float]:
        first = min(self.first.bit_length() - 1, level_max)
        if not self.growing or first == level_max:
            return level_max, 1.0
        phase = self.fade_kimg + self.train_kimg
        # Counted from where the first level would have begun to fade in, if it had to.
        grown, within = divmod(kimg + self.fade_kimg, phase)
        level = first + int(grown)
        if level > level_max:
            return level_max, 1.0
        if level == first or within >= self.fade_kimg:
            return level, 1.0
        return level, within / self.fade_kimg

    def begins(self, level: int, level_max: int) -> float:
        """Return the kimg at which a level begins to fade in; 0 for the first one."""
        first = min(self.first.bit_length() - 1, level_max)
        if not self.growing or level <= first:
            return 0.0
        return (level - first) * (self.fade_kimg + self.train_kimg) - self.fade_kimg


@dataclass(frozen=True)
class SchedulePoint:
    """Where a training stands."""

    level: int
    """log2 of the resolution."""
    alpha: float
    """How much of the newest level is in; 1: all."""
    minibatch: int
    """Images a step, on all GPUs together."""
    per_gpu: int | None
    """Most images that a GPU takes at once, or None for no limit."""
    learning_rate: float
    steps: int = 0
    """Steps since the level entered, at this minibatch."""

    @property
    def resolution(self) -> int:
        """Side of the images."""
        return 1 << self.level

    def passes(self, gpus: int, group: int) -> int:
        """Return in how many equal passes a GPU takes its share of a minibatch; no pass splits a stddev group.

        Args:
            gpus: how many share the minibatch.
            group: images of a minibatch-stddev group; see `nets.progan.group_size`.

        Raises:
            ValueError: the minibatch cannot be shared evenly, or not cut so small.
        """
        what = f"a minibatch of {self.minibatch} at {self.resolution}x{self.resolution}"
        share, rest = divmod(self.minibatch, gpus)
        if rest or not share:
            raise ValueError(f"{what} cannot be shared equally by {gpus} GPUs; make it a multiple")
        size = group_size(share, group)
        for count in range(1, share + 1):
            part = share // count
            if share % count == 0 and part % size == 0 and part <= (self.per_gpu or share):
                return count
        raise ValueError(f"{what} on {gpus} GPUs cannot be cut into passes of at most {self.per_gpu}: groups of {size}")


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
    """How often a training tells of itself and saves; kimg is thousands of real images shown."""

    kimg: float = 10
    """One line of statistics every so many kimg."""
    checkpoint_ticks: int = 5
    """A checkpoint every so many ticks."""
    grid_ticks: int = 5
    """A grid of generated images every so many ticks."""
    grid: tuple[int, ...] = (15, 8)
    """Columns and rows of a grid."""
    metric_ticks: int = 0
    """The averaged generator is measured every so many ticks; 0: never."""
    metrics: tuple[str, ...] = ("swd",)
    """By what: of swd, ms-ssim, fid, kid, is."""
    metric_num: int = 8192
    """On how many images."""

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
class ProGANRecipe:
    """Everything that decides the weights, apart from the images."""

    task: Literal["progan"]
    net: Architecture = field(default_factory=Architecture)
    schedule: Schedule = field(default_factory=Schedule)
    loss: LossSettings = field(default_factory=LossSettings)
    mirror: bool = True
    """Mirror the real images at random."""
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

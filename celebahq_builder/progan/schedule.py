"""The request and the recipe of a ProGAN training; its schedule of levels, alpha, minibatches and learning rates."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from celebahq_builder.imaging.pyramid import is_power_of_two
from celebahq_builder.models.progan import LEVEL_MIN, Architecture, group_size

RESUMABLE_KEYS = (
    "schedule.learning_rate",
    "schedule.learning_rates",
    "schedule.rampup_kimg",
    "loss",
    "reuse_fakes",
    "precision",
    "ema",
)
"""Recipe keys, or tables of keys, that may change when a run is resumed.

They affect neither the contents of a checkpoint nor its position in the schedule."""


GRID_MAX, METRIC_NUM_MAX = 100, 1_000_000
"""Largest number of columns and of rows of an image grid; largest number of images that are measured."""


@dataclass(frozen=True)
class TrainingRequest:
    """Everything that a training needs, apart from the recipe."""

    data: Path
    """HDF5 file."""
    out: Path
    """Folder of the run."""
    resume: bool = False
    """Require a checkpoint to resume from."""
    total_kimg: float | None = None
    """Length of the training, instead of the recipe's."""
    workers: int = 0
    """Processes that read; 0 for threads."""
    against: Path | None = None
    """HDF5 file of real images for the metrics; None for the training data."""
    changed: tuple[str, ...] = ()
    """Those of `RESUMABLE_KEYS` that may differ from the recipe of the checkpoint."""


@dataclass(frozen=True)
class Schedule:
    """Levels, minibatches and learning rates of a training; kimg is thousands of real images shown so far.

    The first level is trained for `train_kimg`. Each later level fades in for `fade_kimg`, and is then trained for
    `train_kimg`, the last one until the end.

    >>> Schedule(train_kimg=600, fade_kimg=600).at(750, level_max=10)
    SchedulePoint(level=3, alpha=0.25, minibatch=16, per_gpu=None, learning_rate=0.001, steps=9375)
    """

    total_kimg: float = 12000
    """Length of the training."""
    train_kimg: float = 600
    """Training of a level after it has faded in."""
    fade_kimg: float = 600
    """Time in which alpha rises from 0 to 1."""
    first: int = 4
    """First resolution."""
    growing: bool = True
    """False: the networks have their full size from the start."""
    minibatch: int = 16
    """Images per step, on all GPUs together."""
    minibatches: dict[str, int] = field(default_factory=dict)
    """Exceptions by resolution: {"4" = 128, "32" = 64}."""
    per_gpu: dict[str, int] = field(default_factory=dict)
    """Largest number of images that are in the networks of a GPU at once, by resolution. A larger share is split into
    several passes; a pass never has less than a group of the minibatch standard deviation, but may be split into
    parts."""
    learning_rate: float = 0.001
    """Learning rate of both networks."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Exceptions by resolution."""
    rampup_kimg: float = 0
    """Time in which the learning rate rises from 0 to its value, at the beginning of the training."""

    def __post_init__(self) -> None:
        _check_positive(self, "total_kimg", "train_kimg", "minibatch", "learning_rate")
        _check_not_negative(self, "fade_kimg", "rampup_kimg")
        if self.first < 4 or not is_power_of_two(self.first):
            raise ValueError(f"first = {self.first} must be a power of two, 4 or more")
        for name in ("minibatches", "per_gpu", "learning_rates"):
            for key, value in getattr(self, name).items():
                if not key.isdigit() or int(key) < 4 or not is_power_of_two(int(key)):
                    raise ValueError(f"{name}.{key}: the key must be a resolution, a power of two, 4 or more")
                if value <= 0:
                    raise ValueError(f"{name}.{key} = {value} must be positive")

    def at(self, kimg: float, level_max: int) -> SchedulePoint:
        """Return the point of the schedule after `kimg`, for networks whose largest level is `level_max`."""
        level, alpha = self._level(kimg, level_max)
        resolution = str(1 << level)
        rate = self.learning_rates.get(resolution, self.learning_rate)
        if self.rampup_kimg > kimg:
            rate *= kimg / self.rampup_kimg
        minibatch = self.minibatches.get(resolution, self.minibatch)
        steps = round((kimg - self.begins(level, level_max)) * 1000 / minibatch)
        return SchedulePoint(level, alpha, minibatch, self.per_gpu.get(resolution), rate, steps)

    def entries(self, level_max: int) -> list[SchedulePoint]:
        """Return the points at which the levels enter, the first one first; one point if the networks do not grow.

        >>> [point.resolution for point in Schedule(first=16).entries(level_max=6)]
        [16, 32, 64]
        """
        points = [self.at(self.begins(level, level_max), level_max) for level in range(LEVEL_MIN, level_max + 1)]
        return list({point.level: point for point in points}.values())

    def trained_level(self, kimg: float, last_level: int, level_max: int) -> tuple[int, float]:
        """Return the level and the alpha at which images are generated after `kimg`.

        At the very moment when a new level enters it is not trained yet, and the level before it is used.

        Args:
            last_level: level of the last step; 0 before the first step.
        """
        point = self.at(kimg, level_max)
        level = last_level or point.level
        return level, point.alpha if level == point.level else 1.0

    def _first_level(self, level_max: int) -> int:
        return min(self.first.bit_length() - 1, level_max) if self.growing else level_max

    def _level(self, kimg: float, level_max: int) -> tuple[int, float]:
        """Return the level and alpha after `kimg`."""
        first = self._first_level(level_max)
        # As if the first level had faded in, too, before the training began.
        grown, within = divmod(kimg + self.fade_kimg, self.fade_kimg + self.train_kimg)
        level = first + int(grown)
        if level > level_max:
            return level_max, 1.0
        return level, 1.0 if level == first or within >= self.fade_kimg else within / self.fade_kimg

    def limit_minibatches(self, images: int) -> Schedule:
        """Return the schedule with minibatches that a data set of so many images can fill.

        A minibatch that is too large becomes the largest power of two that is not above `images`. So the result does
        not depend on the number of processes, and most numbers of processes and groups divide it.

        >>> Schedule(minibatch=4, minibatches={"4": 64, "8": 8}).limit_minibatches(11)  # doctest: +ELLIPSIS
        Schedule(..., minibatch=4, minibatches={'4': 8, '8': 8}, ...)
        """
        largest = 1 << max(images, 1).bit_length() - 1
        minibatch, *sizes = (n if n <= images else largest for n in (self.minibatch, *self.minibatches.values()))
        return replace(self, minibatch=minibatch, minibatches=dict(zip(self.minibatches, sizes, strict=True)))

    def begins(self, level: int, level_max: int) -> float:
        """Return the kimg at which a level begins to fade in; 0 for the first one."""
        first = self._first_level(level_max)
        if level <= first:
            return 0.0
        return (level - first) * (self.fade_kimg + self.train_kimg) - self.fade_kimg


@dataclass(frozen=True)
class SchedulePoint:
    """Level, alpha, minibatch and learning rate at one time of a training."""

    level: int
    """log2 of the resolution."""
    alpha: float
    """Weight of the newest level, from 0 to 1."""
    minibatch: int
    """Images per step, on all GPUs together."""
    per_gpu: int | None
    """Largest number of images that are in the networks of a GPU at once; None for no limit."""
    learning_rate: float
    steps: int = 0
    """Steps of this minibatch since the level entered."""

    @property
    def resolution(self) -> int:
        """Side length of the images in px."""
        return 1 << self.level

    def passes(self, gpus: int, group: int) -> int:
        """Return the number of equal passes in which a GPU processes its share of the minibatch.

        A pass is one group of the minibatch standard deviation or several. If `per_gpu` is smaller than a group, each
        pass has one group, and goes through the networks in `parts`.

        Args:
            group: images of a group; see `models.progan.group_size`.

        Raises:
            ValueError: the minibatch cannot be shared equally.
        """
        what = f"a minibatch of {self.minibatch} at {self.resolution}x{self.resolution}"
        share, rest = divmod(self.minibatch, gpus)
        if rest or not share:
            raise ValueError(f"{what} cannot be shared equally by {gpus} GPUs; make it a multiple")
        size = group_size(share, group)
        largest = max(self.per_gpu or share, size)
        return next(
            n for n in range(1, share + 1) if share % n == 0 and share // n % size == 0 and share // n <= largest
        )

    def parts(self, gpus: int, group: int) -> int:
        """Return the number of equal parts in which a pass goes through the networks.

        It is 1 unless `per_gpu` is smaller than a group. The arguments and errors are those of `passes`.
        """
        images = self.minibatch // gpus // self.passes(gpus, group)
        return next(n for n in range(1, images + 1) if images % n == 0 and images // n <= (self.per_gpu or images))


@dataclass(frozen=True)
class LossSettings:
    """Losses of both networks; `progan.losses` has the equations."""

    kind: Literal["wgan-gp", "lsgan", "logistic"] = "wgan-gp"
    """``wgan-gp`` and ``lsgan`` of the paper, or ``logistic``: non-saturating, with R1."""
    penalty: float = 10.0
    """Weight of the gradient penalty: lambda of the paper (wgan-gp), or gamma of R1 (logistic)."""
    target: float = 1.0
    """Length of the gradient at which wgan-gp's penalty is 0: gamma of the paper, 750 for CIFAR-10."""
    drift: float = 0.001
    """Weight of E[D(real)^2] with wgan-gp: epsilon_drift of the paper."""
    noise: float = 0.2
    """With lsgan, the discriminator's noise has strength noise * max(0, d - 0.5)^2; d is its mean score of fakes."""
    label_weight: float = 1.0
    """Weight of the labels' cross entropy, for networks with labels."""

    def __post_init__(self) -> None:
        _check_positive(self, "target")
        _check_not_negative(self, "penalty", "drift", "noise", "label_weight")


@dataclass(frozen=True)
class TickSettings:
    """Frequency of statistics, image grids, metrics and checkpoints; a tick ends after `kimg` thousand real images."""

    kimg: float = 10
    """Length of a tick. Each tick writes one line of statistics."""
    checkpoint_ticks: int = 5
    """Ticks between two checkpoints."""
    grid_ticks: int = 5
    """Ticks between two grids of generated images."""
    grid: tuple[int, int] = (15, 8)
    """Columns and rows of a grid."""
    metric_ticks: int = 0
    """Ticks between two measurements of the averaged generator; 0: never."""
    metrics: tuple[str, ...] = ("swd",)
    """Some of swd, ms-ssim, fid, kid, is."""
    metric_num: int = 8192
    """Number of images that are measured."""

    def __post_init__(self) -> None:
        _check_positive(self, "kimg", "checkpoint_ticks", "grid_ticks")
        _check_not_negative(self, "metric_ticks")
        if not 2 <= self.metric_num <= METRIC_NUM_MAX:
            raise ValueError(f"metric_num = {self.metric_num} must be from 2 to {METRIC_NUM_MAX}")
        if not 1 <= min(self.grid) <= max(self.grid) <= GRID_MAX:
            raise ValueError(f"grid = {list(self.grid)} must be from 1 to {GRID_MAX}")


@dataclass(frozen=True)
class ProGANRecipe:
    """Settings of a training. Together with the images they determine the weights."""

    task: Literal["progan"]
    net: Architecture = field(default_factory=Architecture)
    schedule: Schedule = field(default_factory=Schedule)
    loss: LossSettings = field(default_factory=LossSettings)
    mirror: bool = True
    """Mirror the real images at random."""
    together: bool = False
    """Compute the losses of both networks with the same discriminator, then update both, as the paper does for
    CIFAR-10. False: update the discriminator first, and compute the generator's loss with the updated one."""
    reuse_fakes: bool = False
    """Train the generator on the fake images that the discriminator has just seen, instead of new ones as in the paper.
    It saves a pass of the generator per step, and needs memory for its graph. `together` always does so."""
    ema: float = 0.999
    """Decay per step of the averaged generator, which is exported; 0: no averaging. It is at most (1 + n) / (10 + n), n
    steps after a level entered."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: networks in bfloat16; norms, standard deviations, losses and penalties in float32."""
    seed: int = 0
    tick: TickSettings = field(default_factory=TickSettings)

    @property
    def can_split_groups(self) -> bool:
        """True if a group of the minibatch standard deviation may go through the networks in parts.

        The statistics of batch normalization are those of all images together, and LSGAN's noise is drawn once.
        """
        return not self.net.batch_norm and self.loss.kind != "lsgan"

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema = {self.ema} must be at least 0 and less than 1")
        _check_not_negative(self, "seed")
        if self.schedule.first > self.net.resolution:
            raise ValueError(f"schedule.first = {self.schedule.first} is above net.resolution = {self.net.resolution}")
        for name in ("minibatches", "per_gpu", "learning_rates"):
            for key in getattr(self.schedule, name):
                if int(key) > self.net.resolution:
                    raise ValueError(f"schedule.{name} names {key}, above net.resolution = {self.net.resolution}")


def _check_positive(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name} = {getattr(settings, name)} must be positive")


def _check_not_negative(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} = {getattr(settings, name)} must not be negative")

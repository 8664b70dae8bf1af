"""Evaluation protocols: the metrics, the number of images, and the checks before an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import torch

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.image_set import Numbers


@dataclass(frozen=True)
class Metric:
    """The properties of a metric that an evaluation needs in advance."""

    title: str
    count: int
    """Number of images (or pairs) in the protocol of the paper."""
    compares: bool
    """True for a distance between two sets of images, false for a property of one set."""
    least_px: int = 1
    """Resolution of the smallest images."""
    least: int = 2
    """Smallest number of images (or pairs)."""
    images_each: int = 1
    """2 if pairs are counted, else 1."""
    unit: str = ""

    @property
    def counted(self) -> str:
        """Unit of `count`: ``images`` or ``pairs``."""
        return "pairs" if self.images_each == 2 else "images"


METRICS = {
    "swd": Metric("sliced Wasserstein distance", 16_384, compares=True, least_px=16, least=1, unit="x 1e3"),
    "ms-ssim": Metric("multi-scale structural similarity of pairs", 10_000, compares=False, least=1, images_each=2),
    "fid": Metric("Frechet Inception distance", 50_000, compares=True),
    "kid": Metric("kernel Inception distance", 10_000, compares=True),
    "is": Metric("Inception score", 50_000, compares=False, least=10),
}
"""Metrics by name, in the order in which they are shown."""

INCEPTION_METRICS = ("fid", "kid", "is")
"""Metrics that need the Inception network."""

RENAMED = {16_384: "16k", 16_000: "16000"}
"""The SWD of the paper uses 2^14 images and is known as 16k, so 16,000 images need another name."""


def score_name(metric: str, count: int) -> str:
    """Return the name of a score: metric and number of images (or pairs).

    >>> score_name("swd", 16_384), score_name("fid", 50_000)
    ('swd16k', 'fid50k')
    """
    short = f"{count // 1000}k" if count >= 1000 and count % 1000 == 0 else str(count)
    return metric + RENAMED.get(count, short)


CPU = torch.device("cpu")


@dataclass(frozen=True)
class EvaluationProtocol:
    """The metrics, the number of images, and the seed of an evaluation.

    Raises:
        RecipeError: a metric is unknown, or `num` is too small.
    """

    metrics: tuple[str, ...]
    num: int | None = None
    """Number of images per side, or of pairs for MS-SSIM; None for the numbers of the papers."""
    seed: int = 0
    """Seed of the choice of images, and of all random numbers of the metrics."""
    device: torch.device = CPU
    inception: Path | None = None
    """File with the Inception weights; None for the default location."""

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS:
                raise RecipeError(f"`metrics` {metric} is no metric; there are {', '.join(METRICS)}")
            least = METRICS[metric].least
            if self.num is not None and self.num < least:
                raise RecipeError(f"`num` {self.num} is too few for {metric}; it needs {least} at least")

    def count(self, metric: str) -> int:
        """Return the number of images (or pairs) of the source for a metric."""
        return METRICS[metric].count if self.num is None else self.num

    def images(self, metric: str) -> int:
        """Return the number of images of the source for a metric; a pair has two."""
        return self.count(metric) * METRICS[metric].images_each

    def name(self, metric: str) -> str:
        """Return the name of the score of a metric."""
        return score_name(metric, self.count(metric))

    def for_resolution(self, resolution: int) -> Self:
        """Return the protocol without the metrics that need larger images."""
        return replace(self, metrics=tuple(name for name in self.metrics if METRICS[name].least_px <= resolution))


def parse_metrics(names: str) -> tuple[str, ...]:
    """Return the metrics of a comma-separated list, each once, in the order of `METRICS`; unknown ones last.

    Raises:
        RecipeError: the list is empty.

    >>> parse_metrics("FID, swd,ms_ssim,swd")
    ('swd', 'ms-ssim', 'fid')
    """
    asked = [name.strip().lower().replace("_", "-") for name in names.split(",") if name.strip()]
    if not asked:
        raise RecipeError(f"`metrics` names none; give some of {', '.join(METRICS)}")
    return tuple(sorted(dict.fromkeys(asked), key=lambda name: (*METRICS, name).index(name)))


# --- Checks -----------------------------------------------------------------------------------------------------


class ImageSource(Protocol):
    """Images of one size that can be read by number, repeatedly."""

    @property
    def count(self) -> int | None:
        """Number of images; None for a generator, which makes any number."""

    @property
    def resolution(self) -> int:
        """Side length of the images, px."""

    @property
    def channels(self) -> int:
        """Number of channels: 3, or 1 for grey."""

    @property
    def where(self) -> str:
        """Name of the set in messages."""

    @property
    def facts(self) -> dict[str, object]:
        """Kind, path and identity of the source as JSON values."""

    def read(self, numbers: Numbers, at_once: int) -> Iterator[torch.Tensor]:
        """Yield images in the order of their numbers, uint8 [n, C, R, R], n at most `at_once`.

        Raises:
            CelebAHQError: an image cannot be read.
        """


def check_evaluation(source: ImageSource, reference: ImageSource | None, protocol: EvaluationProtocol) -> None:
    """Raise a FormatError unless a source can be evaluated by a protocol.

    The error is that both sides differ in size or channels, that images are too small or too few, or that there is no
    reference.
    """
    r = source.resolution
    if reference is not None and r != reference.resolution:
        other = reference.resolution
        raise FormatError(
            f"{source.where} has images of {r}x{r}, {reference.where} of {other}x{other}; only images of one size can "
            "be compared: `resolution` chooses another level of an HDF5 file"
        )
    if reference is not None and source.channels != reference.channels:
        kinds = {1: "grey", 3: "in colour"}
        raise FormatError(
            f"{source.where} is {kinds[source.channels]}, {reference.where} is {kinds[reference.channels]}; only "
            "images of one kind can be compared"
        )
    for name in protocol.metrics:
        _check_metric(name, source, reference, protocol)


def _check_metric(name: str, source: ImageSource, reference: ImageSource | None, protocol: EvaluationProtocol) -> None:
    """Raise an error unless there are enough images for a metric, and they are large enough."""
    r = source.resolution
    metric, count, wanted = METRICS[name], protocol.count(name), protocol.images(name)
    if metric.compares and reference is None:
        raise FormatError(
            f"{name} compares {source.where} with other images, and there are none: add `against` REFERENCE"
        )
    if r < metric.least_px:
        raise FormatError(
            f"{name} needs images of {metric.least_px}x{metric.least_px} or more, {source.where} has {r}x{r}; leave "
            f"{name} out of `metrics`, or take larger images"
        )
    if source.count is not None and source.count < wanted:
        pairs = f" for {count:,} pairs" if metric.images_each == 2 else ""
        raise FormatError(
            f"{protocol.name(name)} needs {wanted:,} images{pairs}, {source.where} has {source.count:,}; "
            f"{_smaller_protocol(name, source.count)}"
        )
    # SWD compares equal numbers of sorted values. The other metrics accept half as many images of the reference:
    # the literature compares 50,000 generated images with the 30,000 images of CelebA-HQ.
    least = count if name == "swd" else -(-count // 2)
    if metric.compares and reference is not None and reference.count is not None and reference.count < least:
        raise FormatError(
            f"{protocol.name(name)} compares with {least:,} images at least, {reference.where} has "
            f"{reference.count:,}; {_smaller_protocol(name, reference.count)}, or give a larger reference"
        )


def reference_count(reference: ImageSource, wanted: int) -> int:
    """Return the number of images of the reference: as many as of the source, or all."""
    return wanted if reference.count is None else min(wanted, reference.count)


def half_count(reference: ImageSource, wanted: int) -> int:
    """Return the number of images in each of two disjoint halves of the reference, from which the floor is computed.

    The number of compared images if the reference has twice as many, else at least half of it; 0 for no floor.
    """
    if reference.count is None:
        return wanted
    return min(wanted, reference.count // 2) if reference.count >= wanted else 0


def _smaller_protocol(metric: str, images: int) -> str:
    """Return the advice for a set with too few images."""
    fits = images // METRICS[metric].images_each
    if fits < METRICS[metric].least:
        return f"that is too few for {metric} at all"
    default = score_name(metric, METRICS[metric].count)
    return f"`num` {fits} gives {score_name(metric, fits)}, which cannot be compared with {default}"

"""Evaluation protocols: which metrics, on which images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.evaluation.image_sources import Described, SourceImages
from celebahq_builder.metrics.batches import Batches


@dataclass(frozen=True)
class Metric:
    """What an evaluation needs to know of a metric beforehand."""

    title: str
    count: int
    """Images (or pairs) of the paper's protocol."""
    compares: bool
    """Whether it says how far two sets are apart; else it is a property of one."""
    least_px: int = 1
    """Of the smallest images it is defined for."""
    least: int = 2
    """Fewest images (or pairs)."""
    images_each: int = 1
    """Images for each that is counted: 2 where pairs are."""
    unit: str = ""


METRICS = {
    "swd": Metric("sliced Wasserstein distance", 16_384, compares=True, least_px=16, least=1, unit="x 1e3"),
    "ms-ssim": Metric("multi-scale structural similarity of pairs", 10_000, compares=False, least=1, images_each=2),
    "fid": Metric("Frechet Inception distance", 50_000, compares=True),
    "kid": Metric("kernel Inception distance", 10_000, compares=True),
    "is": Metric("Inception score", 50_000, compares=False, least=10),
}
"""By the names that `--metrics` takes, in the order in which they are shown."""

INCEPTION_METRICS = ("fid", "kid", "is")
"""Those that look through the Inception network."""

RENAMED = {16_384: "16k", 16_000: "16000"}
"""The paper's SWD has 2^14 images and is known as 16k; sixteen thousand are not to be taken for it."""


def score_name(metric: str, count: int) -> str:
    """Return the name of a number: metric and count, such as ``swd16k`` or ``fid50k``."""
    short = f"{count // 1000}k" if count >= 1000 and count % 1000 == 0 else str(count)
    return metric + RENAMED.get(count, short)


CPU = torch.device("cpu")


@dataclass(frozen=True)
class EvaluationProtocol:
    """What is measured, on how many images, and which.

    Raises:
        RecipeError: a metric that there is not, or a count that is too small.
    """

    metrics: tuple[str, ...]
    num: int | None = None
    """Images a side, of ms-ssim pairs; None for the paper's."""
    seed: int = 0
    """Of the choice of images, and of all that the metrics draw."""
    device: torch.device = CPU
    inception: Path | None = None
    """File of the Inception weights; None for where they usually lie."""

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS:
                raise RecipeError(f"--metrics {metric} is no metric; there are {', '.join(METRICS)}")
            least = METRICS[metric].least
            if self.num is not None and self.num < least:
                raise RecipeError(f"--num {self.num} is too few for {metric}; it needs {least} at least")

    def count(self, metric: str) -> int:
        """Return how many images (or pairs) a metric takes of the source."""
        return METRICS[metric].count if self.num is None else self.num

    def images(self, metric: str) -> int:
        """Return how many images of the source that are."""
        return self.count(metric) * METRICS[metric].images_each

    def name(self, metric: str) -> str:
        """Return the name of the number that results."""
        return score_name(metric, self.count(metric))


def parse_metrics(names: str) -> tuple[str, ...]:
    """Return the metrics of a list with commas, each once, in the order of `METRICS`; unknown ones last.

    Raises:
        RecipeError: there are none.
    """
    asked = [name.strip().lower().replace("_", "-") for name in names.split(",") if name.strip()]
    if not asked:
        raise RecipeError(f"--metrics names none; give some of {', '.join(METRICS)}")
    return tuple(sorted(dict.fromkeys(asked), key=lambda name: (*METRICS, name).index(name)))


def check_evaluation(source: Described, reference: Described | None, protocol: EvaluationProtocol) -> None:
    """Raise if a source cannot be evaluated so.

    Raises:
        FormatError: the two sides do not belong together, the images are too small, too few, or there are none to
            compare with.
    """
    if reference is not None:
        _check_alike(source, reference)
    for metric in protocol.metrics:
        needs = METRICS[metric]
        if needs.compares and reference is None:
            raise FormatError(
                f"{metric} compares {source.where} with other images, and there are none: add --against REFERENCE"
            )
        _check_size(source, metric)
        _check_count(source, metric, protocol)
        if needs.compares and reference is not None:
            check_reference(reference, metric, protocol)


def too_small(metric: str, resolution: int) -> bool:
    """Whether images are too small for a metric."""
    return resolution < METRICS[metric].least_px


def check_reference(reference: Described, metric: str, protocol: EvaluationProtocol) -> None:
    """Raise if the reference has too few images for a metric.

    SWD sorts equally many images of both sides against each other. For the others a reference of half as many will
    do: the literature compares 50,000 generated images with all 30,000 of CelebA-HQ.

    Raises:
        FormatError: says how many it has and needs.
    """
    wanted = protocol.count(metric)
    least = wanted if metric == "swd" else -(-wanted // 2)
    if reference.count is not None and reference.count < least:
        raise FormatError(
            f"{protocol.name(metric)} compares with {least:,} images at least, {reference.where} has "
            f"{reference.count:,}; {_smaller(metric, reference.count)}, or give a larger reference"
        )


def reference_count(reference: Described, wanted: int) -> int:
    """Return how many images of a reference are compared with: as many as of the source, or all it has."""
    return wanted if reference.count is None else min(wanted, reference.count)


def half_count(reference: Described, wanted: int) -> int:
    """Return how many images each of two disjoint halves of the reference has that make the floor; 0 for none.

    As many as are compared; down to half as many where the reference has no more.
    """
    if reference.count is None:
        return wanted
    return min(wanted, reference.count // 2) if reference.count >= wanted else 0


def _check_alike(source: Described, reference: Described) -> None:
    if source.resolution != reference.resolution:
        a, b = source.resolution, reference.resolution
        raise FormatError(
            f"{source.where} has images of {a}x{a}, {reference.where} of {b}x{b}; only images of one size can be "
            "compared: of an HDF5 file --resolution takes another level"
        )
    if source.channels != reference.channels:
        kinds = {1: "grey", 3: "in colour"}
        raise FormatError(
            f"{source.where} is {kinds[source.channels]}, {reference.where} is {kinds[reference.channels]}; only "
            "images of one kind can be compared"
        )


def _check_size(source: Described, metric: str) -> None:
    if too_small(metric, source.resolution):
        r, least = source.resolution, METRICS[metric].least_px
        raise FormatError(
            f"{metric} needs images of {least}x{least} or more, {source.where} has {r}x{r}; leave {metric} out of "
            "--metrics, or take larger images"
        )


def _check_count(source: Described, metric: str, protocol: EvaluationProtocol) -> None:
    wanted = protocol.images(metric)
    if source.count is None or source.count >= wanted:
        return
    what = f"{protocol.name(metric)} needs {wanted:,} images"
    if METRICS[metric].images_each == 2:
        what += f" for {protocol.count(metric):,} pairs"
    raise FormatError(f"{what}, {source.where} has {source.count:,}; {_smaller(metric, source.count)}")


def _smaller(metric: str, there: int) -> str:
    """Return what to ask for where there are but so many images."""
    fits = there // METRICS[metric].images_each
    if fits < METRICS[metric].least:
        return f"that is too few for {metric} at all"
    fixed = score_name(metric, METRICS[metric].count)
    return f"--num {fits} gives {score_name(metric, fits)}, which cannot be compared with {fixed}"


@dataclass(frozen=True)
class Part:
    """Some images of one side: the places from `start` to `stop`."""

    images: SourceImages
    start: int
    stop: int

    @property
    def batches(self) -> Batches:
        """The images."""
        return self.images.batches(self.start, self.stop)

    def __len__(self) -> int:
        """Return how many they are."""
        return self.stop - self.start


@dataclass(frozen=True)
class PlannedNumber:
    """A number to compute, and what to put beside it."""

    metric: str
    name: str
    count: int
    """Images of the source, or pairs."""
    parts: tuple[Part, ...]
    """What it is computed from: of the source, and of the reference if the metric compares."""
    beside: tuple[Part, ...] = ()
    """What the number beside it is computed from: two disjoint parts of the reference, or one; none for no number."""
    why_none: str = ""

    @property
    def beside_what(self) -> str:
        """What stands beside it: a floor, or the reference's own score."""
        return "floor" if METRICS[self.metric].compares else "reference"


def plan(source: SourceImages, reference: SourceImages | None, protocol: EvaluationProtocol) -> list[PlannedNumber]:
    """Return what is to be computed, for a source and a reference that `protocol.check` has passed."""
    return [_job(source, reference, protocol, metric) for metric in protocol.metrics]


def _job(
    source: SourceImages, reference: SourceImages | None, protocol: EvaluationProtocol, metric: str
) -> PlannedNumber:
    count, wanted = protocol.count(metric), protocol.images(metric)
    ours, name = Part(source, 0, wanted), protocol.name(metric)
    if reference is None:
        return PlannedNumber(metric, name, count, (ours,))
    there = reference.source.count
    if not METRICS[metric].compares:
        if there is not None and there < wanted:
            why = f"the reference has {there:,} images, {wanted:,} are needed"
            return PlannedNumber(metric, name, count, (ours,), why_none=why)
        return PlannedNumber(metric, name, count, (ours,), (Part(reference, 0, wanted),))
    parts = (ours, Part(reference, 0, reference_count(reference.source, count)))
    half = half_count(reference.source, count)
    if not half:
        why = f"the reference has {there:,} images, its two halves need {count:,} at least"
        return PlannedNumber(metric, name, count, parts, why_none=why)
    return PlannedNumber(metric, name, count, parts, (Part(reference, 0, half), Part(reference, half, 2 * half)))

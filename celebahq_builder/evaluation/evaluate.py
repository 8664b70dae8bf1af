"""Evaluation of a source by a protocol, for `celebahq evaluate` and for the metrics during a training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from celebahq_builder.errors import FormatError
from celebahq_builder.evaluation.features import (
    Features,
    extract_features,
    inception_number,
    inception_settings,
)
from celebahq_builder.evaluation.image_sources import FeatureKey, SourceImages
from celebahq_builder.evaluation.protocol import (
    INCEPTION_METRICS,
    METRICS,
    EvaluationProtocol,
    ImageSource,
    check_evaluation,
    half_count,
    reference_count,
    score_name,
)
from celebahq_builder.evaluation.result import Baseline, Number, Result, Score
from celebahq_builder.metrics import ssim, swd
from celebahq_builder.metrics.descriptors import PATCH_PX, PATCHES_PER_IMAGE
from celebahq_builder.metrics.inception import Inception
from celebahq_builder.metrics.sliced import DIRECTIONS
from celebahq_builder.progress import image_progress


def evaluate(
    source: ImageSource,
    reference: SourceImages | None,
    protocol: EvaluationProtocol,
    *,
    extractor: Inception | None = None,
) -> Result:
    """Return the scores of a source.

    Args:
        reference: the images to compare with, of the same seed; a second evaluation with it is faster.
        extractor: the Inception network; None to load it if it is needed.

    Raises:
        FormatError: source, reference and protocol do not fit together, an image cannot be read, or a number is not
            finite.
        WeightsError: the Inception network cannot be loaded, or a generator makes no images.
        ValueError: the reference has another seed.
    """
    if reference is not None and reference.seed != protocol.seed:
        raise ValueError(f"the reference is of seed {reference.seed}, the protocol of seed {protocol.seed}")
    check_evaluation(source, reference.source if reference else None, protocol)

    if extractor is None and not set(INCEPTION_METRICS).isdisjoint(protocol.metrics):
        extractor = Inception(protocol.inception, protocol.device)

    # Plan the numbers, and prepare the images for the passes over them
    images = SourceImages(source, protocol.seed)
    jobs = [_plan(metric, images, reference, protocol, extractor) for metric in protocol.metrics]
    for side in dict.fromkeys(part.images for job in jobs for part in job.all_parts):
        needed = max(part.stop for job in jobs for part in job.all_parts if part.images is side)
        hashed = {part.stop for job in jobs for part in job.parts if part.images is side}
        side.will_need(needed, hashed)

    # Run the Inception network, one pass over each side
    if extractor is not None:
        _extract(jobs, extractor)

    # Compute the numbers
    device_name = f"{protocol.device}, {torch.get_num_threads()} threads"  # they affect the last bits of sums
    if protocol.device.type == "cuda":
        device_name = str(torch.cuda.get_device_name(protocol.device))
    return Result(
        source=source.facts,
        reference=reference.source.facts if reference else None,
        resolution=source.resolution,
        channels=source.channels,
        seed=protocol.seed,
        device=device_name,
        scores=tuple(_score(job, reference, protocol) for job in jobs),
    )


# --- Plan -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """The images of one side from place `start` to place `stop`."""

    images: SourceImages
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def batches(self) -> Iterator[torch.Tensor]:
        """Yield the images."""
        return self.images.batches(self.start, self.stop)


@dataclass(frozen=True)
class Job:
    """A number to compute, and its baseline."""

    metric: str
    count: int
    """Number of images (or pairs) of the source."""
    extractor: Inception | None
    """The Inception network; None if the metric does not need it."""
    parts: tuple[Part, ...]
    """Images of the source, and of the reference if the metric compares."""
    baseline: tuple[Part, ...] = ()
    """Images of the baseline: two disjoint parts of the reference, or one; empty without a baseline."""
    missing_reason: str = ""

    @property
    def name(self) -> str:
        """The name of the score."""
        return score_name(self.metric, self.count)

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """The images of the number and of its baseline."""
        return *self.parts, *self.baseline

    def key(self, part: Part) -> FeatureKey:
        """Return the key of the features of a part."""
        return self.extractor.sha256 if self.extractor else "", self.metric, part.start, part.stop


def _plan(
    metric: str,
    source: SourceImages,
    reference: SourceImages | None,
    protocol: EvaluationProtocol,
    extractor: Inception | None,
) -> Job:
    count, wanted = protocol.count(metric), protocol.images(metric)
    job = Job(metric, count, extractor if metric in INCEPTION_METRICS else None, (Part(source, 0, wanted),))
    if reference is None:
        return job
    available = reference.source.count
    if not METRICS[metric].compares:
        if available is not None and available < wanted:
            return replace(job, missing_reason=f"the reference has {available:,} images, {wanted:,} are needed")
        return replace(job, baseline=(Part(reference, 0, wanted),))
    job = replace(job, parts=(*job.parts, Part(reference, 0, reference_count(reference.source, count))))
    half = half_count(reference.source, count)
    if not half:
        reason = f"the reference has {available:,} images, its two halves need {count:,} at least"
        return replace(job, missing_reason=reason)
    return replace(job, baseline=(Part(reference, 0, half), Part(reference, half, 2 * half)))


# --- Computation ------------------------------------------------------------------------------------------------


def _extract(jobs: Sequence[Job], extractor: Inception) -> None:
    """Compute the features of both sides that are not known yet, in one pass over each side."""
    wanted: dict[SourceImages, dict[FeatureKey, Features]] = {}
    for job in jobs:
        for part in job.all_parts if job.extractor else ():
            if (key := job.key(part)) not in part.images.features:
                wanted.setdefault(part.images, {})[key] = Features(job.metric, part.start, part.stop)
    for images, features in wanted.items():
        where, stop = images.source.where, max(one.stop for one in features.values())
        with image_progress(f"Inception features of {where}", stop) as progress:
            extract_features(images.batches(0, stop), extractor, features.values(), where, progress.advance)
        images.features.update(features)


def _score(job: Job, reference: SourceImages | None, protocol: EvaluationProtocol) -> Score:
    """Compute a number and its baseline; the reference keeps the baseline for later evaluations."""
    number, baseline = _number(job, job.parts, job.name, protocol), None
    if reference is not None:
        kind, found, count = "floor" if METRICS[job.metric].compares else "reference", None, 0
        if job.baseline:
            key = tuple(job.key(part) for part in job.baseline)
            if key not in reference.numbers:
                reference.numbers[key] = _number(job, job.baseline, f"{job.name}, {kind}", protocol)
            found, count = reference.numbers[key], len(job.baseline[0]) // METRICS[job.metric].images_each
        baseline = Baseline(kind, found, count, job.missing_reason)
    theirs = job.parts[1] if len(job.parts) > 1 else None
    return Score(
        metric=job.metric,
        count=job.count,
        number=number,
        baseline=baseline,
        reference_count=None if theirs is None else len(theirs),
        source_sha256=job.parts[0].images.sha256(job.parts[0].stop),
        reference_sha256=None if theirs is None else theirs.images.sha256(theirs.stop),
        settings=_settings(job),
    )


def _number(job: Job, parts: Sequence[Part], title: str, protocol: EvaluationProtocol) -> Number:
    """Return the value of the metric for one or two parts."""
    first, where, device = parts[0], parts[0].images.source.where, protocol.device
    if job.extractor:
        features = [part.images.features[job.key(part)] for part in parts]
        number = inception_number(job.metric, features, protocol.seed)
    elif job.metric == "ms-ssim":
        with image_progress(title, len(first)) as progress:
            similarity = ssim.mean_ms_ssim(
                lambda: (batch.to(device) for batch in first.batches()),
                len(first) // 2,
                name=where,
                advance=progress.advance,
            )
        number = Number(similarity)
    else:
        resolution, count, second = first.images.source.resolution, len(first), parts[1]
        with image_progress(title, swd.images_read(resolution, count)) as progress:
            levels = swd.swd(
                first.batches,
                second.batches,
                resolution=resolution,
                count=count,
                seed=protocol.seed,
                device=device,
                names=(where, second.images.source.where),
                advance=progress.advance,
            )
        number = Number(sum(levels.values()) / len(levels), levels=levels)
    if not all(map(math.isfinite, (number.value, *number.levels.values()))):
        raise FormatError(f"{title} of {where} is not finite; the images have no texture at all, or are all the same")
    return number


def _settings(job: Job) -> dict[str, object]:
    """Return the settings of the metric as JSON values."""
    if job.extractor:
        return inception_settings(job.metric, job.extractor, [len(part) for part in job.parts])
    if job.metric == "swd":
        drawn = f"{PATCHES_PER_IMAGE} of {PATCH_PX}x{PATCH_PX} px an image and level"
        return {"resize": None, "patches": drawn, "directions": DIRECTIONS}
    return {"resize": None, "window": "11x11 Gaussian, sigma 1.5", "scales": 5}

"""A source, a reference and a protocol become a result: for `celebahq evaluate`, and for a training as it goes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from celebahq_builder.errors import FormatError
from celebahq_builder.evaluation.features import Measures, device_name
from celebahq_builder.evaluation.image_sources import BATCH_BYTES, MEMORY_BYTES, ImageSource, Reference, SourceImages
from celebahq_builder.evaluation.protocol import (
    INCEPTION_METRICS,
    METRICS,
    EvaluationProtocol,
    Part,
    PlannedNumber,
    check_evaluation,
    plan,
)
from celebahq_builder.evaluation.result import Baseline, Number, Result, Score

if TYPE_CHECKING:
    from celebahq_builder.evaluation.features import Extractor


def evaluate(
    source: ImageSource,
    reference: Reference | None,
    protocol: EvaluationProtocol,
    *,
    extractor: Extractor | None = None,
    memory_bytes: int = MEMORY_BYTES,
    batch_bytes: int = BATCH_BYTES,
) -> Result:
    """Return the scores of a source.

    Args:
        source: of the images.
        reference: to compare with, of the protocol's seed; used again, it is quicker.
        protocol: metrics, counts, seed, device.
        extractor: the Inception network; None to load it if it is needed.
        memory_bytes: budget for keeping images of the source between passes.
        batch_bytes: of images that are handed on together; decides no number.

    Raises:
        FormatError: source, reference and protocol do not fit together, or an image cannot be read.
        WeightsError: the Inception network cannot be loaded, or a generator makes no images.
        ValueError: the reference is of another seed.
    """
    if reference is not None and reference.seed != protocol.seed:
        raise ValueError(f"the reference is of seed {reference.seed}, the protocol of seed {protocol.seed}")
    check_evaluation(source, reference.source if reference else None, protocol)
    images = SourceImages(source, protocol.seed, memory_bytes=memory_bytes, batch_bytes=batch_bytes)
    jobs = plan(images, reference.images if reference else None, protocol)
    _announce(jobs)
    measures = Measures(protocol, reference, extractor)
    if any(job.metric in INCEPTION_METRICS for job in jobs):
        measures.extract(jobs)
    return Result(
        source=source.facts,
        reference=reference.source.facts if reference else None,
        resolution=source.resolution,
        channels=source.channels,
        seed=protocol.seed,
        device=device_name(protocol.device),
        scores=tuple(_score(job, measures, reference is not None) for job in jobs),
    )


def _announce(jobs: list[PlannedNumber]) -> None:
    """Tell both sides which images will be needed, so that they keep what they can, and hash as they read."""
    for images in {id(part.images): part.images for job in jobs for part in (*job.parts, *job.beside)}.values():
        looked_at = {part.stop for job in jobs for part in (*job.parts, *job.beside) if part.images is images}
        hashed = {part.stop for job in jobs for part in job.parts if part.images is images}
        images.will_need(max(looked_at), hashed)


def _score(job: PlannedNumber, measures: Measures, compared: bool) -> Score:
    number = _finite(measures.number(job.metric, job.parts, job.name), job)
    beside = None
    if compared:
        found = (
            _finite(measures.number(job.metric, job.beside, f"{job.name}, {job.beside_what}"), job)
            if job.beside
            else None
        )
        count = len(job.beside[0]) // METRICS[job.metric].images_each if job.beside else 0
        beside = Baseline(job.beside_what, found, count, job.why_none)
    theirs = job.parts[1] if len(job.parts) > 1 else None
    return Score(
        metric=job.metric,
        count=job.count,
        number=number,
        beside=beside,
        reference_count=None if theirs is None else len(theirs),
        source_sha256=_sha256(job.parts[0]),
        reference_sha256=None if theirs is None else _sha256(theirs),
        settings=measures.settings(job),
    )


def _finite(number: Number, job: PlannedNumber) -> Number:
    if not all(map(math.isfinite, (number.value, *number.levels.values()))):
        raise FormatError(
            f"{job.name} of {job.parts[0].images.source.where} is not finite; the images have no texture at all, "
            "or are all the same"
        )
    return number


def _sha256(part: Part) -> str:
    return part.images.sha256(part.stop)

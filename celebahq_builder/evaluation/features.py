"""Features of the Inception network, and the scores that are computed from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from celebahq_builder.errors import FormatError
from celebahq_builder.evaluation.result import Number
from celebahq_builder.metrics.inception import Inception, InceptionOutput
from celebahq_builder.metrics.inception_metrics import (
    FeatureMoments,
    frechet_distance,
    inception_score,
    kernel_inception_distance,
)

BATCH_IMAGES = 32
"""Images per batch of the network, counted from the first image: the batches of a source do not change the features."""

SUBSETS, SUBSET_SIZE = 100, 1000
"""Number and size of the subsets of KID."""

SPLITS = 10
"""Number of splits of IS."""


class Features:
    """The part of the network's output that a metric needs: FID moments, KID features, IS logits.

    Args:
        metric: ``fid``, ``kid`` or ``is``.
        start: place of the first image; `stop` is the place after the last one.
    """

    def __init__(self, metric: str, start: int, stop: int) -> None:
        self.metric, self.start, self.stop = metric, start, stop
        self.moments = FeatureMoments()
        self._rows: list[Tensor] = []

    def add(self, place: int, output: InceptionOutput) -> None:
        """Add those outputs of a batch that belong to these images; the first output is of the image at `place`."""
        own = slice(max(self.start - place, 0), max(self.stop - place, 0))
        if self.metric == "fid":
            self.moments.add(output.pool3[own])
        else:
            self._rows.append((output.pool3 if self.metric == "kid" else output.logits)[own].cpu())

    @property
    def rows(self) -> Tensor:
        """KID: features [n, 2048]; IS: logits [n, 1008]."""
        self._rows = [torch.cat(self._rows)]
        return self._rows[0]


def extract_features(
    batches: Iterator[Tensor],
    extractor: Inception,
    wanted: Iterable[Features],
    where: str,
    advance: Callable[[int], None],
) -> None:
    """Run the network on images once, and add its output to all features that need it.

    Args:
        batches: the images, uint8 [n, C, H, W], from place 0 to the last one that is needed.
        where: name of the set in messages.
        advance: called with the number of images of each batch.

    Raises:
        FormatError: features are not finite.
    """
    features, place = list(wanted), 0
    for images in _regroup(batches):
        output, stop = extractor(images), place + len(images)
        if not bool(output.pool3.isfinite().all()):
            raise FormatError(
                f"{extractor.name}: features of some of the images {place} to {stop - 1} of {where} are not finite; "
                "the weights are damaged, get their file again"
            )
        for one in features:
            if one.start < stop and place < one.stop:
                one.add(place, output)
        place = stop
        advance(len(images))


def _regroup(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield the images of some batches in batches of `BATCH_IMAGES`."""
    waiting: list[Tensor] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count >= BATCH_IMAGES:
            joined = torch.cat(waiting)
            whole = count - count % BATCH_IMAGES
            yield from torch.split(joined[:whole], BATCH_IMAGES)
            waiting, count = [joined[whole:].clone()], count - whole
    if count:
        yield torch.cat(waiting)


def inception_number(metric: str, sides: Sequence[Features], seed: int) -> Number:
    """Return FID or KID of the features of two sides, or IS of one side."""
    if metric == "is":
        return Number(*inception_score(sides[0].rows, SPLITS, seed))
    a, b = sides
    if metric == "fid":
        return Number(frechet_distance(a.moments, b.moments))
    subsets, size = _kid_subsets(len(a.rows), len(b.rows))
    value, spread = kernel_inception_distance(a.rows, b.rows, subsets, size, seed)
    return Number(value, spread if subsets > 1 else None)


def inception_settings(metric: str, extractor: Inception, counts: Sequence[int]) -> dict[str, object]:
    """Return the settings of a metric as JSON values; `counts` are the numbers of images of each side."""
    settings: dict[str, object] = {
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "resize": "bilinear to 299x299, corners not aligned, no antialiasing (TensorFlow 1)",
        "range_of_network": "(x - 128) / 128",
        "features": "logits, without the bias" if metric == "is" else "pool3",
    }
    if metric == "kid":
        subsets, size = _kid_subsets(*counts)
        settings |= {"subsets": subsets, "subset_size": size, "kernel": "(x.y / 2048 + 1)^3"}
    return settings | ({"splits": SPLITS} if metric == "is" else {})


def _kid_subsets(a: int, b: int) -> tuple[int, int]:
    """Return number and size of the subsets that KID draws from sides of a and b images.

    One subset if it would have all images of both sides: equal subsets have no deviation.
    """
    size = min(SUBSET_SIZE, a, b)
    return (1 if a == b == size else SUBSETS), size

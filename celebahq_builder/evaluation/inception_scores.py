"""FID, KID and IS: one pass over each side through the Inception network, for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from celebahq_builder.errors import FormatError
from celebahq_builder.evaluation.pictures import Pictures
from celebahq_builder.evaluation.plan import Part
from celebahq_builder.evaluation.result import Number
from celebahq_builder.metrics.frechet import FeatureMoments, frechet_distance
from celebahq_builder.metrics.inception import InceptionOutput
from celebahq_builder.metrics.inception_score import inception_score
from celebahq_builder.metrics.kernel_distance import kernel_distance

AT_ONCE = 32
"""Pictures that go to the network together, counted from the first: how batches come decides nothing."""

SUBSETS, SUBSET_SIZE = 100, 1000
"""Of KID."""

SPLITS = 10
"""Of IS."""


class Extractor(Protocol):
    """The network; see `metrics.inception.Inception`."""

    name: str
    sha256: str

    def __call__(self, pictures: Tensor) -> InceptionOutput:
        """Return features and logits of pictures uint8 [n, C, H, W]."""


class Features:
    """What a metric keeps of the features of some pictures: for FID their moments, for KID themselves, for IS logits.

    Args:
        metric: fid, kid or is.
        part: which pictures.
    """

    def __init__(self, metric: str, part: Part) -> None:
        self.metric, self.start, self.stop = metric, part.start, part.stop
        self.moments = FeatureMoments()
        self._rows: list[Tensor] = []

    def take(self, at: int, output: InceptionOutput) -> None:
        """Take what is its own of some features, the first of which is of the place `at`."""
        mine = slice(max(self.start - at, 0), max(self.stop - at, 0))
        if self.metric == "fid":
            self.moments.add(output.pool3[mine])
        else:
            self._rows.append((output.pool3 if self.metric == "kid" else output.logits)[mine].cpu())

    @property
    def rows(self) -> Tensor:
        """All that was kept, [n, 2048] or [n, 1008]."""
        self._rows = [torch.cat(self._rows)]
        return self._rows[0]


def collect(
    pictures: Pictures, extractor: Extractor, wanted: Iterable[Features], advance: Callable[[int], None]
) -> None:
    """Let pictures pass the network once, from the first to the last that is wanted.

    Args:
        pictures: of one side.
        extractor: the network.
        wanted: filled.
        advance: called with how many pictures more have passed.

    Raises:
        FormatError: features that are not finite.
    """
    open_ones, at = list(wanted), 0
    for some in _regrouped(pictures.batches(0, max(one.stop for one in open_ones))()):
        output = extractor(some)
        if not bool(output.pool3.isfinite().all()):
            raise FormatError(
                f"{extractor.name}: features of some of the pictures {at} to {at + len(some) - 1} of "
                f"{pictures.source.where} are not finite; the weights are damaged, get their file again"
            )
        for one in open_ones:
            if one.start < at + len(some) and at < one.stop:
                one.take(at, output)
        at += len(some)
        advance(len(some))


def _regrouped(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    waiting: list[Tensor] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count >= AT_ONCE:
            joined = torch.cat(waiting)
            whole = count - count % AT_ONCE
            yield from torch.split(joined[:whole], AT_ONCE)
            waiting, count = [joined[whole:].clone()], count - whole
    if count:
        yield torch.cat(waiting)


def number(metric: str, sides: list[Features], seed: int) -> Number:
    """Return FID or KID of two sides, or IS of one."""
    if metric == "is":
        return Number(*inception_score(sides[0].rows, SPLITS, seed))
    a, b = sides
    if metric == "fid":
        return Number(frechet_distance(a.moments, b.moments))
    subsets, size = _subsets(len(a.rows), len(b.rows))
    value, spread = kernel_distance(a.rows, b.rows, subsets, size, seed)
    return Number(value, spread if subsets > 1 else None)


def settings(metric: str, extractor: Extractor, counts: list[int]) -> dict[str, Any]:
    """Return what a metric of so many pictures a side is computed with."""
    told: dict[str, Any] = {
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "resize": "bilinear to 299x299, corners not aligned, no antialiasing (TensorFlow 1)",
        "range_of_network": "(x - 128) / 128",
        "features": "logits, without the bias" if metric == "is" else "pool3",
    }
    if metric == "kid":
        subsets, size = _subsets(*counts)
        told |= {"subsets": subsets, "subset_size": size, "kernel": "(x.y / 2048 + 1)^3"}
    return told | ({"splits": SPLITS} if metric == "is" else {})


def _subsets(a: int, b: int) -> tuple[int, int]:
    """Return how many subsets of how many pictures KID draws from sides of a and b pictures.

    One where a subset is all there is of both: a hundred of the same would have no deviation, and look certain.
    """
    size = min(SUBSET_SIZE, a, b)
    return (1 if a == b == size else SUBSETS), size

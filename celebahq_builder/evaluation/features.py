"""Features of the Inception network, and the numbers that are computed from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from celebahq_builder.errors import FormatError
from celebahq_builder.evaluation.image_sources import Reference, SourceImages
from celebahq_builder.evaluation.protocol import INCEPTION_METRICS, EvaluationProtocol, Part, PlannedNumber
from celebahq_builder.evaluation.result import Number
from celebahq_builder.metrics import ssim, swd
from celebahq_builder.metrics.descriptors import PATCH_PX, PATCHES
from celebahq_builder.metrics.fid import FeatureMoments, frechet_distance
from celebahq_builder.metrics.inception import InceptionOutput
from celebahq_builder.metrics.inception_score import inception_score
from celebahq_builder.metrics.kid import kernel_distance
from celebahq_builder.metrics.sliced import DIRECTIONS
from celebahq_builder.progress import MOMENT_S, Progress

AT_ONCE = 32
"""Images that go to the network together, counted from the first: how batches come decides nothing."""

SUBSETS, SUBSET_SIZE = 100, 1000
"""Of KID."""

SPLITS = 10
"""Of IS."""


class Extractor(Protocol):
    """The network; see `metrics.inception.Inception`."""

    name: str
    sha256: str

    def __call__(self, images: Tensor) -> InceptionOutput:
        """Return features and logits of images uint8 [n, C, H, W]."""


class Features:
    """What a metric keeps of the features of some images: for FID their moments, for KID themselves, for IS logits.

    Args:
        metric: fid, kid or is.
        part: which images.
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
    images: SourceImages, extractor: Extractor, wanted: Iterable[Features], advance: Callable[[int], None]
) -> None:
    """Let images pass the network once, from the first to the last that is wanted.

    Args:
        images: of one side.
        extractor: the network.
        wanted: filled.
        advance: called with how many images more have passed.

    Raises:
        FormatError: features that are not finite.
    """
    open_ones, at = list(wanted), 0
    for some in _regrouped(images.batches(0, max(one.stop for one in open_ones))()):
        output = extractor(some)
        if not bool(output.pool3.isfinite().all()):
            raise FormatError(
                f"{extractor.name}: features of some of the images {at} to {at + len(some) - 1} of "
                f"{images.source.where} are not finite; the weights are damaged, get their file again"
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


def inception_number(metric: str, sides: list[Features], seed: int) -> Number:
    """Return FID or KID of two sides, or IS of one."""
    if metric == "is":
        return Number(*inception_score(sides[0].rows, SPLITS, seed))
    a, b = sides
    if metric == "fid":
        return Number(frechet_distance(a.moments, b.moments))
    subsets, size = _subsets(len(a.rows), len(b.rows))
    value, spread = kernel_distance(a.rows, b.rows, subsets, size, seed)
    return Number(value, spread if subsets > 1 else None)


def inception_settings(metric: str, extractor: Extractor, counts: list[int]) -> dict[str, Any]:
    """Return what a metric of so many images a side is computed with."""
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
    """Return how many subsets of how many images KID draws from sides of a and b images.

    One where a subset is all there is of both: a hundred of the same would have no deviation, and look certain.
    """
    size = min(SUBSET_SIZE, a, b)
    return (1 if a == b == size else SUBSETS), size


class Measures:
    """Computes the numbers of an evaluation.

    Args:
        protocol: what is measured.
        reference: keeps what is of it alone.
        extractor: the Inception network; None to load it when it is needed.
    """

    def __init__(
        self, protocol: EvaluationProtocol, reference: Reference | None, extractor: Extractor | None = None
    ) -> None:
        self.protocol, self.reference, self._extractor = protocol, reference, extractor
        self._known: dict[tuple[Any, ...], Any] = {}

    @property
    def extractor(self) -> Extractor:
        """The Inception network."""
        if self._extractor is None:
            from celebahq_builder.metrics.inception import Inception

            self._extractor = Inception(self.protocol.inception, self.protocol.device)
        return self._extractor

    def number(self, metric: str, parts: Sequence[Part], what: str) -> Number:
        """Return a metric's value for one or two parts; `what` it is called in the progress."""
        known = self._memory(parts[0].images, parts[-1].images)
        key = (
            metric,
            self.extractor.sha256 if metric in INCEPTION_METRICS else "",
            *((p.start, p.stop) for p in parts),
        )
        if key not in known:
            known[key] = self._computed(metric, parts, what)
        found: Number = known[key]
        return found

    def _computed(self, metric: str, parts: Sequence[Part], what: str) -> Number:
        if metric in INCEPTION_METRICS:
            # MOVED

            sides = [self._memory(part.images)[self._features_key(metric, part)] for part in parts]
            return inception_number(metric, sides, self.protocol.seed)
        if metric == "ms-ssim":
            part, device = parts[0], self.protocol.device
            with counted(what, len(part)) as progress:
                pairs = ssim.diversity(
                    lambda: (batch.to(device) for batch in part.batches()),
                    len(part) // 2,
                    name=part.images.source.where,
                    advance=progress.advance,
                )
            return Number(pairs)
        a, b = parts
        count, r = len(a), a.images.source.resolution
        with counted(what, swd.images_read(r, count)) as progress:
            levels = swd.swd(
                a.batches,
                b.batches,
                resolution=r,
                count=count,
                seed=self.protocol.seed,
                device=self.protocol.device,
                names=(a.images.source.where, b.images.source.where),
                advance=progress.advance,
            )
        return Number(sum(levels.values()) / len(levels), levels=levels)

    def extract(self, jobs: Sequence[PlannedNumber]) -> None:
        """Let both sides pass the Inception network, each once, as far as it is needed and has not been done."""
        # MOVED

        wanted: dict[int, dict[tuple[Any, ...], Features]] = {}
        sides: dict[int, SourceImages] = {}
        for job in jobs:
            for part in (*job.parts, *job.beside) if job.metric in INCEPTION_METRICS else ():
                key = self._features_key(job.metric, part)
                if key not in self._memory(part.images):
                    sides[id(part.images)] = part.images
                    wanted.setdefault(id(part.images), {})[key] = Features(job.metric, part)
        for side, features in wanted.items():
            images = sides[side]
            with counted(
                f"Inception features of {images.source.where}", max(one.stop for one in features.values())
            ) as progress:
                collect(images, self.extractor, features.values(), progress.advance)
            self._memory(images).update(features)

    def settings(self, job: PlannedNumber) -> dict[str, Any]:
        """Return what a number is computed with."""
        if job.metric in INCEPTION_METRICS:
            # MOVED

            return inception_settings(job.metric, self.extractor, [len(part) for part in job.parts])
        if job.metric == "swd":
            drawn = f"{PATCHES} of {PATCH_PX}x{PATCH_PX} px an image and level"
            return {"resize": None, "neighbourhoods": drawn, "directions": DIRECTIONS}
        return {"resize": None, "window": "11x11 Gaussian, sigma 1.5", "scales": 5}

    def _features_key(self, metric: str, part: Part) -> tuple[Any, ...]:
        return "features", self.extractor.sha256, metric, part.start, part.stop

    def _memory(self, *images: SourceImages) -> dict[tuple[Any, ...], Any]:
        """Return where to keep what is of some images: with the reference, if they are all its own."""
        if self.reference is not None and all(one is self.reference.images for one in images):
            return self.reference.known
        return self._known


def device_name(device: torch.device) -> str:
    """Return the name of a device: of a CPU with its number of threads, which decides the last bits of a sum."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device}, {torch.get_num_threads()} threads"


@contextmanager
def counted(what: str, total: int) -> Iterator[Progress]:
    """Show how far a pass over images is, if it takes its time."""
    progress = Progress(what, total, unit="image", judged=False, silent_s=MOMENT_S)
    yield progress
    progress.close()

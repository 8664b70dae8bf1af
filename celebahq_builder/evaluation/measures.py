"""The numbers of parts of either side: each metric's arithmetic, with its progress; what is known is not redone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from celebahq_builder.evaluation.pictures import Pictures
from celebahq_builder.evaluation.plan import Job, Part
from celebahq_builder.evaluation.protocol import INCEPTION, Protocol
from celebahq_builder.evaluation.reference import Reference
from celebahq_builder.evaluation.result import Number
from celebahq_builder.metrics import ms_ssim, swd
from celebahq_builder.metrics.descriptors import PATCH_PX, PATCHES
from celebahq_builder.metrics.sliced import DIRECTIONS
from celebahq_builder.progress import MOMENT_S, Progress

if TYPE_CHECKING:
    from celebahq_builder.evaluation.inception_scores import Extractor, Features


class Measures:
    """Computes the numbers of an evaluation.

    Args:
        protocol: what is measured.
        reference: keeps what is of it alone.
        extractor: the Inception network; None to load it when it is needed.
    """

    def __init__(self, protocol: Protocol, reference: Reference | None, extractor: Extractor | None = None) -> None:
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
        known = self._memory(parts[0].pictures, parts[-1].pictures)
        key = (metric, self.extractor.sha256 if metric in INCEPTION else "", *((p.start, p.stop) for p in parts))
        if key not in known:
            known[key] = self._computed(metric, parts, what)
        found: Number = known[key]
        return found

    def _computed(self, metric: str, parts: Sequence[Part], what: str) -> Number:
        if metric in INCEPTION:
            from celebahq_builder.evaluation import inception_scores

            sides = [self._memory(part.pictures)[self._features_key(metric, part)] for part in parts]
            return inception_scores.number(metric, sides, self.protocol.seed)
        if metric == "ms-ssim":
            part, device = parts[0], self.protocol.device
            with counted(what, len(part)) as progress:
                pairs = ms_ssim.diversity(
                    lambda: (batch.to(device) for batch in part.batches()),
                    len(part) // 2,
                    name=part.pictures.source.where,
                    advance=progress.advance,
                )
            return Number(pairs)
        a, b = parts
        count, r = len(a), a.pictures.source.resolution
        with counted(what, swd.pictures_read(r, count)) as progress:
            levels = swd.swd(
                a.batches,
                b.batches,
                resolution=r,
                count=count,
                seed=self.protocol.seed,
                device=self.protocol.device,
                names=(a.pictures.source.where, b.pictures.source.where),
                advance=progress.advance,
            )
        return Number(sum(levels.values()) / len(levels), levels=levels)

    def extract(self, jobs: Sequence[Job]) -> None:
        """Let both sides pass the Inception network, each once, as far as it is needed and has not been done."""
        from celebahq_builder.evaluation import inception_scores

        wanted: dict[int, dict[tuple[Any, ...], Features]] = {}
        sides: dict[int, Pictures] = {}
        for job in jobs:
            for part in (*job.parts, *job.beside) if job.metric in INCEPTION else ():
                key = self._features_key(job.metric, part)
                if key not in self._memory(part.pictures):
                    sides[id(part.pictures)] = part.pictures
                    wanted.setdefault(id(part.pictures), {})[key] = inception_scores.Features(job.metric, part)
        for side, features in wanted.items():
            pictures = sides[side]
            with counted(
                f"Inception features of {pictures.source.where}", max(one.stop for one in features.values())
            ) as progress:
                inception_scores.collect(pictures, self.extractor, features.values(), progress.advance)
            self._memory(pictures).update(features)

    def settings(self, job: Job) -> dict[str, Any]:
        """Return what a number is computed with."""
        if job.metric in INCEPTION:
            from celebahq_builder.evaluation import inception_scores

            return inception_scores.settings(job.metric, self.extractor, [len(part) for part in job.parts])
        if job.metric == "swd":
            drawn = f"{PATCHES} of {PATCH_PX}x{PATCH_PX} px a picture and level"
            return {"resize": None, "neighbourhoods": drawn, "directions": DIRECTIONS}
        return {"resize": None, "window": "11x11 Gaussian, sigma 1.5", "scales": 5}

    def _features_key(self, metric: str, part: Part) -> tuple[Any, ...]:
        return "features", self.extractor.sha256, metric, part.start, part.stop

    def _memory(self, *pictures: Pictures) -> dict[tuple[Any, ...], Any]:
        """Return where to keep what is of some pictures: with the reference, if they are all its own."""
        if self.reference is not None and all(one is self.reference.pictures for one in pictures):
            return self.reference.known
        return self._known


def device_name(device: torch.device) -> str:
    """Return the name of a device: of a CPU with its number of threads, which decides the last bits of a sum."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device}, {torch.get_num_threads()} threads"


@contextmanager
def counted(what: str, total: int) -> Iterator[Progress]:
    """Show how far a pass over pictures is, if it takes its time."""
    progress = Progress(what, total, unit="picture", judged=False, silent_s=MOMENT_S)
    yield progress
    progress.close()

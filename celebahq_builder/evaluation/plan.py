"""Which pictures of either side each number is computed from, before one is read."""

from __future__ import annotations

from dataclasses import dataclass

from celebahq_builder.evaluation import protocol as protocols
from celebahq_builder.evaluation.pictures import Pictures
from celebahq_builder.evaluation.protocol import METRICS, Protocol
from celebahq_builder.metrics.batches import Batches


@dataclass(frozen=True)
class Part:
    """Some pictures of one side: the places from `start` to `stop`."""

    pictures: Pictures
    start: int
    stop: int

    @property
    def batches(self) -> Batches:
        """The pictures."""
        return self.pictures.batches(self.start, self.stop)

    def __len__(self) -> int:
        """Return how many they are."""
        return self.stop - self.start


@dataclass(frozen=True)
class Job:
    """A number to compute, and what to put beside it."""

    metric: str
    name: str
    count: int
    """Pictures of the source, or pairs."""
    parts: tuple[Part, ...]
    """What it is computed from: of the source, and of the reference if the metric compares."""
    beside: tuple[Part, ...] = ()
    """What the number beside it is computed from: two disjoint parts of the reference, or one; none for no number."""
    why_none: str = ""

    @property
    def beside_what(self) -> str:
        """What stands beside it: a floor, or the reference's own score."""
        return "floor" if METRICS[self.metric].compares else "reference"


def plan(source: Pictures, reference: Pictures | None, protocol: Protocol) -> list[Job]:
    """Return what is to be computed, for a source and a reference that `protocol.check` has passed."""
    return [_job(source, reference, protocol, metric) for metric in protocol.metrics]


def _job(source: Pictures, reference: Pictures | None, protocol: Protocol, metric: str) -> Job:
    count, wanted = protocol.count(metric), protocol.pictures(metric)
    ours, name = Part(source, 0, wanted), protocol.name(metric)
    if reference is None:
        return Job(metric, name, count, (ours,))
    there = reference.source.count
    if not METRICS[metric].compares:
        if there is not None and there < wanted:
            why = f"the reference has {there:,} pictures, {wanted:,} are needed"
            return Job(metric, name, count, (ours,), why_none=why)
        return Job(metric, name, count, (ours,), (Part(reference, 0, wanted),))
    parts = (ours, Part(reference, 0, protocols.reference_count(reference.source, count)))
    half = protocols.half(reference.source, count)
    if not half:
        why = f"the reference has {there:,} pictures, its two halves need {count:,} at least"
        return Job(metric, name, count, parts, why_none=why)
    return Job(metric, name, count, parts, (Part(reference, 0, half), Part(reference, half, 2 * half)))

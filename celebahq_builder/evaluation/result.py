"""What an evaluation found, with all that its numbers need to be compared with others; and its JSON."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import PIL
import torch

from celebahq_builder import __version__
from celebahq_builder.evaluation.protocol import METRICS, name_of

FORMAT = "celebahq-evaluation-1"


@dataclass(frozen=True)
class Number:
    """A metric's value on some pictures."""

    value: float
    """Of SWD the mean over levels, of KID over subsets, of IS over splits."""
    spread: float | None = None
    """Standard deviation over subsets or splits."""
    levels: dict[int, float] = field(default_factory=dict)
    """Of SWD: by resolution, largest first."""


@dataclass(frozen=True)
class Beside:
    """What stands in the column beside a number, to judge it by."""

    what: str
    """``floor``: what two disjoint halves of the reference have; ``reference``: what the reference itself has."""
    number: Number | None
    count: int = 0
    """Pictures (or pairs) a side."""
    why_none: str = ""


@dataclass(frozen=True)
class Score:
    """A number and how it came about."""

    metric: str
    count: int
    """Pictures of the source, or pairs."""
    number: Number
    beside: Beside | None
    reference_count: int | None
    """Pictures of the reference, if it was needed."""
    source_sha256: str
    """Of the pixels of those pictures."""
    reference_sha256: str | None
    settings: dict[str, Any]
    """What the metric was computed with, other than pictures."""

    @property
    def name(self) -> str:
        """Of the protocol: ``swd16k``, ``fid50k``."""
        return name_of(self.metric, self.count)


@dataclass(frozen=True)
class Result:
    """The scores of a source."""

    source: dict[str, Any]
    reference: dict[str, Any] | None
    resolution: int
    channels: int
    seed: int
    device: str
    scores: tuple[Score, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    """Metrics that do not apply, and why."""

    def score(self, metric: str) -> Score | None:
        """Return the score of a metric, if there is one."""
        return next((score for score in self.scores if score.metric == metric), None)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "format": FORMAT,
            "source": self.source,
            "reference": self.reference,
            "resolution": self.resolution,
            "channels": self.channels,
            "seed": self.seed,
            "range": "uint8, 0 to 255",
            "mirror": False,
            "scores": {score.name: _score(score, self) for score in self.scores},
            "left_out": self.left_out,
            "device": self.device,
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Return the versions of what decides a number's last digits."""
    return {
        "celebahq-builder": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }


def _score(score: Score, result: Result) -> dict[str, Any]:
    beside: dict[str, Any] | None = None
    if score.beside is not None:
        beside = {"what": score.beside.what}
        if score.beside.number is None:
            beside["none_because"] = score.beside.why_none
        else:
            beside |= {"count": score.beside.count, **_number(score.beside.number)}
    counted = "pairs" if METRICS[score.metric].pictures_each == 2 else "pictures"
    return {
        "metric": score.metric,
        "title": METRICS[score.metric].title,
        **_number(score.number),
        "unit": METRICS[score.metric].unit or "1",
        "beside": beside,
        "counted": counted,
        "count": score.count,
        "source_pixels_sha256": score.source_sha256,
        "source_choice": _choice(result.source, score.count * METRICS[score.metric].pictures_each),
        "reference_count": score.reference_count,
        "reference_pixels_sha256": score.reference_sha256,
        "reference_choice": None
        if score.reference_count is None or result.reference is None
        else _choice(result.reference, score.reference_count),
        "settings": score.settings,
    }


def _number(number: Number) -> dict[str, Any]:
    values: dict[str, Any] = {"value": number.value}
    if number.spread is not None:
        values["standard_deviation"] = number.spread
    if number.levels:
        values["levels"] = {str(r): value for r, value in number.levels.items()}
    return values


def _choice(facts: dict[str, Any], count: int) -> str:
    """Return in words which pictures of a source were taken."""
    there = facts.get("pictures")
    if there is None:
        return f"numbers 0 to {count - 1} of the seed"
    return "all" if count == there else f"{count} of {there}, at random without replacement"

"""Results of an evaluation: JSON and text tables."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import PIL
import torch

from celebahq_builder import __version__
from celebahq_builder.evaluation.protocol import METRICS, score_name

FORMAT = "celebahq-evaluation-1"


@dataclass(frozen=True)
class Number:
    """A metric's value on some images."""

    value: float
    """Of SWD the mean over levels, of KID over subsets, of IS over splits."""
    spread: float | None = None
    """Standard deviation over subsets or splits."""
    levels: dict[int, float] = field(default_factory=dict)
    """Of SWD: by resolution, largest first."""


@dataclass(frozen=True)
class Baseline:
    """What stands in the column beside a number, to judge it by."""

    what: str
    """``floor``: what two disjoint halves of the reference have; ``reference``: what the reference itself has."""
    number: Number | None
    count: int = 0
    """Images (or pairs) a side."""
    why_none: str = ""


@dataclass(frozen=True)
class Score:
    """A number and how it came about."""

    metric: str
    count: int
    """Images of the source, or pairs."""
    number: Number
    beside: Baseline | None
    reference_count: int | None
    """Images of the reference, if it was needed."""
    source_sha256: str
    """Of the pixels of those images."""
    reference_sha256: str | None
    settings: dict[str, Any]
    """What the metric was computed with, other than images."""

    @property
    def name(self) -> str:
        """Of the protocol: ``swd16k``, ``fid50k``."""
        return score_name(self.metric, self.count)


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
    counted = "pairs" if METRICS[score.metric].images_each == 2 else "images"
    return {
        "metric": score.metric,
        "title": METRICS[score.metric].title,
        **_number(score.number),
        "unit": METRICS[score.metric].unit or "1",
        "beside": beside,
        "counted": counted,
        "count": score.count,
        "source_pixels_sha256": score.source_sha256,
        "source_choice": _choice(result.source, score.count * METRICS[score.metric].images_each),
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
    """Return in words which images of a source were taken."""
    there = facts.get("images")
    if there is None:
        return f"numbers 0 to {count - 1} of the seed"
    return "all" if count == there else f"{count} of {there}, at random without replacement"


Cells = list[str]


def result_lines(result: Result) -> Iterator[str]:
    """Yield the scores of one source, a number a line, and what it was compared with."""
    yield f"source     {describe_source(result.source)}, {size(result)}"
    if result.reference is not None:
        yield f"reference  {describe_source(result.reference)}"
    yield from _aligned([["", "", "value", "", "beside it", ""], *rows(result)], left=(0, 1, 5))
    yield from remarks([result])


def rows(result: Result) -> Iterator[Cells]:
    """Yield name, unit or level, value, deviation, what stands beside it and what that is, of each number."""
    for score in result.scores:
        beside = score.beside.number if score.beside else None
        for r, value in score.number.levels.items():
            yield [
                score.name,
                f"{r}x{r}",
                format_number(value),
                "",
                format_number(beside.levels[r]) if beside else "",
                "",
            ]
        what = "mean" if score.number.levels else ""
        yield [
            score.name,
            what,
            *_with_spread(score.number),
            format_number(beside.value) if beside else "-",
            _beside(score),
        ]


def snapshot_lines(results: Sequence[Result]) -> Iterator[str]:
    """Yield a table of the snapshots of a run: a line each, a column for each number; floors below."""
    columns = columns_of(results)
    head = ["kimg", "px", *(name for name, _, _ in columns)]
    body = [
        [f"{result.source['kimg']:g}", f"{result.resolution}", *(_cell(result, m, r, False) for _, m, r in columns)]
        for result in results
    ]
    last_of = {result.resolution: result for result in results}
    below = [
        ["beside", f"{side}", *(_cell(result, m, r, True) for _, m, r in columns)]
        for side, result in last_of.items()
        if any(score.beside and score.beside.number for score in result.scores)
    ]
    yield from _aligned([head, *body, *below], left=())
    if below:
        yield "beside: of swd, fid and kid what two halves of the reference have; of ms-ssim and is what it has itself"
    yield from remarks(results)


def short_line(result: Result) -> str:
    """Return the numbers of a result in one line, of SWD the mean."""
    return ", ".join(f"{score.name} {format_number(score.number.value)}" for score in result.scores) or "no numbers"


def columns_of(results: Sequence[Result]) -> list[tuple[str, str, int | None]]:
    """Return heading, metric and level of each column that the scores of some results need."""
    columns: list[tuple[str, str, int | None]] = []
    for metric in METRICS:
        scores = [score for result in results if (score := result.score(metric))]
        if scores:
            levels = sorted({r for score in scores for r in score.number.levels}, reverse=True)
            columns += [(f"{scores[0].name} {r}", metric, r) for r in levels]
            columns.append((f"{scores[0].name} mean" if levels else scores[0].name, metric, None))
    return columns


def cell(result: Result, metric: str, level: int | None, beside: bool) -> float | None:
    """Return the number of a column, or of what stands beside it; None where there is none."""
    score = result.score(metric)
    number = score and (score.beside.number if beside and score.beside else None if beside else score.number)
    if not number:
        return None
    return number.value if level is None else number.levels.get(level)


def remarks(results: Sequence[Result]) -> list[str]:
    """Return what is to be said of some results: numbers that mislead or are missing, and why; each once."""
    said: dict[str, None] = {}
    for result in results:
        for score in result.scores:
            if score.source_sha256 == score.reference_sha256:
                said[f"{score.name}: both sides are the same images, so it says nothing of how far two sets are"] = None
            if score.beside and score.beside.number is None:
                said[f"{score.name}: no {score.beside.what}, {score.beside.why_none}"] = None
        for metric, why in result.left_out.items():
            said[f"{metric}: left out, it {why}"] = None
    return list(said)


def describe_source(facts: dict[str, Any]) -> str:
    """Return a source in words."""
    count = facts.get("images")
    many = f"{count:,} images" if count is not None else f"generated, seed {facts.get('seed')}"
    return f"{facts['path']}: {facts['kind']}, {many}"


def size(result: Result) -> str:
    """Return the size of a result's images in words."""
    return f"{result.resolution}x{result.resolution}, {'grey' if result.channels == 1 else 'RGB'}"


def format_number(value: float) -> str:
    """Return a number for people: four digits or more; KID's are often below a thousandth."""
    if 0 < abs(value) < 0.1:
        return f"{value:#.4g}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def _cell(result: Result, metric: str, level: int | None, beside: bool) -> str:
    value = cell(result, metric, level, beside)
    return "-" if value is None else format_number(value)


def _with_spread(number: Number) -> Cells:
    return [format_number(number.value), "" if number.spread is None else f"+/- {format_number(number.spread)}"]


def _beside(score: Score) -> str:
    if score.beside is None:
        return ""
    if score.beside.number is None:
        return ""
    spread = score.beside.number.spread
    deviation = "" if spread is None else f"+/- {format_number(spread)}, "
    counted = "pairs" if METRICS[score.metric].images_each == 2 else "images"
    return f"{deviation}{score.beside.what} of {score.beside.count:,} {counted}"


def _aligned(table: list[Cells], left: tuple[int, ...]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (
            one.ljust(width) if i in left else one.rjust(width)
            for i, (one, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()

"""Results of an evaluation: JSON, text tables and an HTML page."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import PIL
import torch

from celebahq_builder import __version__
from celebahq_builder.config import flatten
from celebahq_builder.errors import printable
from celebahq_builder.evaluation.protocol import METRICS, score_name
from celebahq_builder.html import render_page
from celebahq_builder.html.charts import LineChart, line_chart
from celebahq_builder.progress import aligned

FORMAT = "celebahq-evaluation-2"

BASELINES = ("floor", "reference")
"""Kinds of a `Baseline`."""


@dataclass(frozen=True)
class Number:
    """The value of a metric for some images."""

    value: float
    """SWD: the mean over levels; KID: over subsets; IS: over splits."""
    spread: float | None = None
    """Standard deviation over subsets or splits."""
    levels: Mapping[int, float] = field(default_factory=dict)
    """SWD: the values by resolution, largest first."""

    def to_json(self) -> dict[str, object]:
        """Return the number as JSON values."""
        values: dict[str, object] = {"value": self.value}
        if self.spread is not None:
            values["standard_deviation"] = self.spread
        if self.levels:
            values["levels"] = {str(r): value for r, value in self.levels.items()}
        return values


@dataclass(frozen=True)
class Baseline:
    """A number of the reference alone, to which a score can be compared."""

    kind: str
    """One of `BASELINES`: ``floor``, between two disjoint halves of the reference; ``reference``, of the reference."""
    number: Number | None
    count: int = 0
    """Number of images (or pairs) per side."""
    missing_reason: str = ""
    """The reason why `number` is None."""

    def to_json(self) -> dict[str, object]:
        """Return the baseline as JSON values."""
        if self.number is None:
            return {"kind": self.kind, "missing_reason": self.missing_reason}
        return {"kind": self.kind, "count": self.count, **self.number.to_json()}


@dataclass(frozen=True)
class Score:
    """A number and its provenance."""

    metric: str
    count: int
    """Number of images (or pairs) of the source."""
    number: Number
    baseline: Baseline | None
    """None without a reference."""
    reference_count: int | None
    """Number of images of the reference; None if it was not needed."""
    source_sha256: str
    """SHA-256 of the pixels of these images."""
    reference_sha256: str | None
    settings: Mapping[str, object]
    """Settings of the metric."""

    @property
    def name(self) -> str:
        """The name by protocol, such as ``swd16k`` or ``fid50k``."""
        return score_name(self.metric, self.count)

    @property
    def baseline_number(self) -> Number | None:
        """The number of the baseline, if there is one."""
        return self.baseline.number if self.baseline else None


@dataclass(frozen=True)
class Result:
    """The scores of a source."""

    source: dict[str, object]
    """`ImageSource.facts` of the source."""
    reference: dict[str, object] | None
    resolution: int
    channels: int
    seed: int
    device: str
    scores: tuple[Score, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Metrics that do not apply, and the reasons."""

    def score(self, metric: str) -> Score | None:
        """Return the score of a metric, or None."""
        return next((score for score in self.scores if score.metric == metric), None)

    def to_json(self) -> dict[str, object]:
        """Return the result as JSON values."""
        return {
            "format": FORMAT,
            "source": self.source,
            "reference": self.reference,
            "resolution": self.resolution,
            "channels": self.channels,
            "seed": self.seed,
            "range": "uint8, 0 to 255",
            "mirror": False,
            "scores": {score.name: self._score_json(score) for score in self.scores},
            "left_out": self.left_out,
            "device": self.device,
            "versions": {
                "celebahq-builder": __version__,
                "torch": str(torch.__version__),
                "numpy": np.__version__,
                "opencv": cv2.__version__,
                "pillow": PIL.__version__,
                "python": platform.python_version(),
            },
        }

    def _score_json(self, score: Score) -> dict[str, object]:
        metric, compared = METRICS[score.metric], None
        if score.reference_count is not None and self.reference is not None:
            compared = _choice(self.reference, score.reference_count)
        return {
            "metric": score.metric,
            "title": metric.title,
            **score.number.to_json(),
            "unit": metric.unit or "1",
            "baseline": score.baseline and score.baseline.to_json(),
            "counted": metric.counted,
            "count": score.count,
            "source_pixels_sha256": score.source_sha256,
            "source_choice": _choice(self.source, score.count * metric.images_each),
            "reference_count": score.reference_count,
            "reference_pixels_sha256": score.reference_sha256,
            "reference_choice": compared,
            "settings": score.settings,
        }


def _choice(facts: dict[str, object], count: int) -> str:
    """Return in words which images of a source were used."""
    images = facts.get("images")
    if images is None:
        return f"numbers 0 to {count - 1} of the seed"
    return "all" if count == images else f"{count} of {images}, at random without replacement"


# --- Tables -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of a table of snapshots."""

    title: str
    metric: str
    level: int | None
    """A level of SWD; None for the value of the metric."""

    def value(self, result: Result, baseline: bool = False) -> float:
        """Return the number of a result, or of its baseline; NaN if there is none."""
        score = result.score(self.metric)
        number = None if score is None else score.baseline_number if baseline else score.number
        if number is None:
            return math.nan
        return number.value if self.level is None else number.levels.get(self.level, math.nan)


def columns(results: Sequence[Result]) -> list[Column]:
    """Return the columns that the scores of some results need."""
    found = []
    for metric in METRICS:
        scores = [score for result in results if (score := result.score(metric))]
        if scores:
            name, levels = scores[0].name, sorted({r for score in scores for r in score.number.levels}, reverse=True)
            found += [Column(f"{name} {r}", metric, r) for r in levels]
            found.append(Column(f"{name} mean" if levels else name, metric, None))
    return found


def snapshot_table(results: Sequence[Result]) -> list[list[str]]:
    """Return a head, a row for each snapshot, and a row of baselines for each resolution that has any."""
    shown = columns(results)

    def row(title: str, result: Result, baseline: bool) -> list[str]:
        values = (column.value(result, baseline) for column in shown)
        return [title, str(result.resolution), *("-" if math.isnan(one) else format_number(one) for one in values)]

    latest = {result.resolution: result for result in results}.values()
    return [
        ["kimg", "px", *(column.title for column in shown)],
        *(row(f"{result.source['kimg']:,g}", result, False) for result in results),
        *(row("baseline", one, True) for one in latest if any(score.baseline_number for score in one.scores)),
    ]


def score_table(result: Result) -> Iterator[list[str]]:
    """Yield name, level, value, deviation, baseline, and a description of the baseline, for each number."""
    for score in result.scores:
        number, baseline = score.number, score.baseline_number
        for r, value in number.levels.items():
            floor = format_number(baseline.levels[r]) if baseline else ""
            yield [score.name, f"{r}x{r}", format_number(value), "", floor, ""]
        described = ""
        if score.baseline and baseline:
            described = f"{score.baseline.kind} of {score.baseline.count:,} {METRICS[score.metric].counted}"
            described = ", ".join(filter(None, [_deviation(baseline), described]))
        value_text = format_number(baseline.value) if baseline else "-"
        mean = "mean" if number.levels else ""
        yield [score.name, mean, format_number(number.value), _deviation(number), value_text, described]


def _deviation(number: Number) -> str:
    return "" if number.spread is None else f"+/- {format_number(number.spread)}"


# --- Text -------------------------------------------------------------------------------------------------------


def result_lines(result: Result) -> Iterator[str]:
    """Yield the scores of one source, a number per line, and the reference."""
    yield f"source     {describe_source(result.source)}, {describe_size(result)}"
    if result.reference is not None:
        yield f"reference  {describe_source(result.reference)}"
    yield from aligned([["", "", "value", "", "baseline", ""], *score_table(result)], left=(0, 1, 5))
    yield from remarks([result])


def snapshot_lines(results: Sequence[Result]) -> Iterator[str]:
    """Yield a table of the snapshots of a run: a line for each snapshot, a column for each number."""
    table = snapshot_table(results)
    yield from aligned(table)
    if len(table) > len(results) + 1:
        yield "baseline: swd, fid, kid between two halves of the reference; ms-ssim, is of the reference itself"
    yield from remarks(results)


def short_line(result: Result) -> str:
    """Return the scores in one line; of SWD the mean."""
    return ", ".join(f"{score.name} {format_number(score.number.value)}" for score in result.scores) or "no numbers"


def remarks(results: Sequence[Result]) -> list[str]:
    """Return remarks about misleading and missing numbers, each once."""
    found: list[str] = []
    for result in results:
        for score in result.scores:
            if score.source_sha256 == score.reference_sha256:
                found.append(f"{score.name}: both sides are the same images, so this is not a distance of two sets")
            if score.baseline and score.baseline.number is None:
                found.append(f"{score.name}: no baseline; {score.baseline.missing_reason}")
        found += [f"{metric}: left out; it {reason}" for metric, reason in result.left_out.items()]
    return list(dict.fromkeys(found))


def describe_source(facts: dict[str, object]) -> str:
    """Return path, kind and number of images of a source."""
    count = facts.get("images")
    images = f"{count:,} images" if count is not None else f"seed {facts.get('seed')}"
    return printable(f"{facts['path']}: {facts['kind']}, {images}")


def describe_size(result: Result) -> str:
    """Return size and colours of the images of a result."""
    return f"{result.resolution}x{result.resolution}, {'grey' if result.channels == 1 else 'RGB'}"


def format_number(value: float) -> str:
    """Return a number with at least four digits; values of KID are often below a thousandth.

    >>> format_number(144.0312), format_number(0.28284), format_number(0.00123456)
    ('144.03', '0.2828', '0.001235')
    """
    if 0 < abs(value) < 0.1:
        return f"{value:#.4g}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


# --- Page ------------------------------------------------------------------------------------------------------------


def evaluation_page(title: Path, results: Sequence[Result]) -> bytes:
    """Return a page with the results of a source, or of all snapshots of a run; equal results make equal pages.

    Args:
        title: path of the source.
        results: one result, or those of the snapshots, the earliest first.
    """
    last = results[-1]
    snapshots = last.source.get("kimg") is not None and len(results) > 1
    head, *rows = snapshot_table(results) if snapshots else [[]]
    source = printable(f"{title}: {len(results)} snapshots") if snapshots else describe_source(last.source)
    return render_page(
        "evaluation.html.j2",
        {
            "name": printable(title.name or str(title)),
            "source": source,
            "reference": describe_source(last.reference) if last.reference else None,
            "size": describe_size(last),
            "charts": list(_charts(results)) if snapshots else [],
            "number_columns": [(one, "number") for one in head],
            "snapshots": rows,
            "numbers": list(score_table(last)),
            "titles": {score.name: _metric_title(score.metric) for score in last.scores},
            "remarks": [*_floor_remarks(last), *remarks(results)],
            "settings": list(_protocol(last)),
        },
    )


def _metric_title(metric: str) -> str:
    return ", ".join(filter(None, [METRICS[metric].title, METRICS[metric].unit]))


def _floor_remarks(result: Result) -> Iterator[str]:
    """Yield an explanation of each value that is below its floor."""
    for score in result.scores:
        floor = score.baseline
        if floor is None or floor.kind != "floor" or floor.number is None or score.number.value >= floor.number.value:
            continue
        text = (
            f"{score.name} is below its floor: by this metric, the images are closer to the reference than its two "
            "halves are to each other. Values below the floor do not rank generators; they also occur if the images "
            "contain images of the reference"
        )
        if floor.count < score.count:
            text += f"; the floor is of {floor.count:,} images instead of {score.count:,}, which makes it higher"
        yield text


SHOWN_ABOVE = {"metric", "title", "value", "standard_deviation", "levels", "baseline", "unit"}
"""Values of a score that the page shows in its table, not in its protocol."""


def _protocol(result: Result) -> Iterator[tuple[str, str]]:
    """Yield the protocol of a result, with names and values for people."""
    for key, value in flatten(result.to_json()).items():
        part, *rest = key.split(".")
        if value is None or part == "format" or (part == "scores" and rest[1] in SHOWN_ABOVE):
            continue
        name = ": ".join([part, *rest] if part != "scores" else rest).replace("_", " ").replace("sha256", "SHA-256")
        yield name, value if isinstance(value, str) else json.dumps(value)


def _charts(results: Sequence[Result]) -> Iterator[LineChart]:
    """Yield a chart of each number over kimg, with its baseline if all these snapshots have one."""
    for column in columns(results):
        shown = [result for result in results if not math.isnan(column.value(result))]
        kimg = [float(str(result.source["kimg"])) for result in shown]
        baselines = [column.value(result, baseline=True) for result in shown]
        score, baseline = shown[-1].score(column.metric), None
        if score and score.baseline and not any(map(math.isnan, baselines)):
            baseline = score.baseline.kind, baselines
        if chart := line_chart(column.title, kimg, {column.title: [*map(column.value, shown)]}, baseline):
            yield chart

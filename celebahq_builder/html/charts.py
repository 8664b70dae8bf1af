"""Histograms and line charts, laid out as SVG coordinates for the templates.

They are laid out here, not drawn by matplotlib: an SVG file of matplotlib is about three times as large, has fixed
colours (a page follows the light or dark scheme of the reader), and no descriptions for tooltips and screen readers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 480, 280
"""Size of a chart in SVG user units."""

LEFT, RIGHT, TOP, BOTTOM = 76, 456, 26, 228
"""Edges of the area that holds the bars or curves, in SVG user units."""

TICKS_MAX = 7
"""Labels of a logarithmic axis that fit side by side."""

Scale = Callable[[float], float]
"""Map from values to SVG user units."""


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    """Position in SVG user units."""
    text: str


# --- Histogram --------------------------------------------------------------------------------------------------

BINS = (8, 40)
"""Smallest and largest number of bins."""

LOG_RATIO = 10
"""The axis is logarithmic if the largest positive value is more than this many times the smallest one."""


@dataclass(frozen=True)
class HistogramBar:
    """A bin: a bar of kept photos, and a bar of the others on top of it; in SVG user units."""

    x: float
    width: float
    kept_y: float
    kept_height: float
    other_y: float
    other_height: float
    words: str
    """Limits and counts of the bin, for a tooltip."""


@dataclass(frozen=True)
class Histogram:
    """The layout of a histogram."""

    bars: tuple[HistogramBar, ...]
    """Bins that have a value."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    logarithmic: bool
    """True if the x axis is logarithmic."""
    what: str
    """The things that are counted, in the plural."""
    words: str
    """Number, range and median of the values, in one sentence."""
    cut: Tick | None
    """A vertical line across the bars."""


def histogram(
    kept: Sequence[float], others: Sequence[float], cut: float | None = None, what: str = "photos"
) -> Histogram | None:
    """Lay out a stacked histogram of the values of kept photos and of other photos.

    Args:
        cut: a value to mark, inside the range of the values.
        what: the things that have these values, in the plural.

    Returns:
        The layout, or None without any value.

    >>> histogram([0.2, 0.4], [0.1], what="images").words
    '3 images from 0.1 to 0.4, median 0.2'
    """
    values = np.array([*kept, *others], dtype=np.float64)
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    logarithmic = low > 0 and high / low > LOG_RATIO
    edges = _edges(low, high, int(np.clip(2 * math.sqrt(len(values)), *BINS)), logarithmic)
    kept_counts, other_counts = (np.histogram(some, edges)[0].tolist() for some in (kept, others))
    tallest = max(map(sum, zip(kept_counts, other_counts, strict=True)))
    x, y = _scale(edges[0], edges[-1], LEFT, RIGHT, logarithmic), _scale(0, tallest, BOTTOM, TOP)
    marks = _log_ticks(edges[0], edges[-1]) if logarithmic else _ticks(edges[0], edges[-1])
    return Histogram(
        bars=tuple(
            HistogramBar(
                x=x(left),
                width=round(x(right) - x(left), 1),
                kept_y=y(kept_count),
                kept_height=round(y(0) - y(kept_count), 1),
                other_y=y(kept_count + other_count),
                other_height=round(y(kept_count) - y(kept_count + other_count), 1),
                words=f"{left:.3g} to {right:.3g}: {kept_count:,} kept, {other_count:,} not",
            )
            for (left, right), kept_count, other_count in zip(
                itertools.pairwise(edges), kept_counts, other_counts, strict=True
            )
            if kept_count + other_count
        ),
        x_ticks=_labelled(marks, x),
        y_ticks=tuple(Tick(y(n), f"{n:,.0f}") for n in _ticks(0, tallest, whole=True)),
        logarithmic=logarithmic,
        what=what,
        words=f"{len(values):,} {what} from {low:.3g} to {high:.3g}, median {np.median(values):.3g}",
        cut=None if cut is None else Tick(x(cut), f"{cut:.3f}"),
    )


def _edges(low: float, high: float, bins: int, logarithmic: bool) -> list[float]:
    if logarithmic:
        edges = np.geomspace(low, high, bins + 1).tolist()
    else:
        margin = 0 if high > low else max(abs(low) * 0.05, 1e-3)
        edges = np.linspace(low - margin, high + margin, bins + 1).tolist()
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # rounding must not lose the outermost values
    return [float(edge) for edge in edges]


# --- Line chart -------------------------------------------------------------------------------------------------

POINTS_MAX = 400
"""Longer curves are reduced to this many points: each is the mean of neighbouring points."""

COLOURS = ("kept", "rejected", "other")
"""CSS classes of the first, second and third curve of a chart."""

BASELINE = "baseline"
"""CSS class of the curve to which the others are compared."""

SMOOTH_POINTS = 24
"""Curves of as many points also get a smoothed line: the mean over a sixteenth of the points."""


@dataclass(frozen=True)
class Curve:
    """A line."""

    name: str
    colour: str
    """CSS class, one of `COLOURS`, or `BASELINE`."""
    points: str
    """The attribute ``points`` of an SVG polyline."""
    smooth: str = ""
    """The same of the smoothed line; empty for a curve of few points."""


@dataclass(frozen=True)
class LineChart:
    """The layout of curves that share their axes."""

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    words: str
    """First and last value of each curve, in one sentence."""
    x_range: tuple[float, float]
    """Values at the left and right edge."""
    y_range: tuple[float, float]
    """Values at the lower and upper edge."""


def line_chart(
    title: str,
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    baseline: tuple[str, Sequence[float]] | None = None,
    *,
    from_zero: bool = False,
) -> LineChart | None:
    """Lay out a line chart.

    Args:
        x: x values of the points, in rising order.
        curves: y values by the name of the curve, one for each x; at most three curves. Values that are not finite
            are left out.
        baseline: name and y values of a curve to which the others are compared, such as a floor.
        from_zero: whether the y axis of positive values begins at 0.

    Returns:
        The layout, or None without two different x values or without a finite y value.

    >>> line_chart("swd", [0, 10], {"mean": [9.0, 4.5]}).words
    'swd: mean from 9 to 4.5'
    """
    named = [(name, values, colour) for (name, values), colour in zip(curves.items(), COLOURS, strict=False)]
    named += [(*baseline, BASELINE)] if baseline else []
    finite = [value for _, values, _ in named for value in values if math.isfinite(value)]
    if len(x) < 2 or x[-1] <= x[0] or not finite:
        return None
    low, high = min([*finite, 0.0] if from_zero else finite), max(finite)
    if high - low < 1e-9 * max(abs(high), 1e-9):
        low, high = low - 1, high + 1
    across, up = _scale(x[0], x[-1], LEFT, RIGHT), _scale(low, high, BOTTOM, TOP)
    ranges = ", ".join(f"{name} from {values[0]:.3g} to {values[-1]:.3g}" for name, values, _ in named)
    return LineChart(
        title,
        tuple(_curve(name, colour, _points(x, values), across, up) for name, values, colour in named),
        _labelled(_ticks(x[0], x[-1]), across),
        _labelled(_ticks(low, high), up),
        f"{title}: {ranges}",
        (float(x[0]), float(x[-1])),
        (low, high),
    )


def _points(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """Return the finite points; for a long curve, the means of neighbouring points."""
    pairs = list(zip(x, y, strict=True))
    size = -(-len(pairs) // POINTS_MAX)
    points = []
    for start in range(0, len(pairs), size):
        finite = [(a, b) for a, b in pairs[start : start + size] if math.isfinite(b)]
        if finite:
            mean_x, mean_y = (sum(column) / len(finite) for column in zip(*finite, strict=True))
            points.append((mean_x, mean_y))
    return points


def _curve(name: str, colour: str, points: Sequence[tuple[float, float]], across: Scale, up: Scale) -> Curve:
    def attribute(ys: Sequence[float]) -> str:
        return " ".join(f"{across(x)},{up(y)}" for (x, _), y in zip(points, ys, strict=True))

    ys = [y for _, y in points]
    raw = attribute(ys)
    if colour == BASELINE or len(ys) < SMOOTH_POINTS:
        return Curve(name, colour, raw)
    reach = len(ys) // 32 or 1
    means = [float(np.mean(ys[max(i - reach, 0) : i + reach + 1])) for i in range(len(ys))]
    return Curve(name, colour, raw, attribute(means))


# --- Axes -------------------------------------------------------------------------------------------------------


def _scale(low: float, high: float, start: float, end: float, logarithmic: bool = False) -> Scale:
    """Return the map from values to SVG user units, rounded to a tenth of a unit."""
    change = math.log if logarithmic else float
    first, last = change(low), change(high)
    return lambda value: round(start + (change(value) - first) / (last - first) * (end - start), 1)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return at most six round values from `low` to `high`, spaced by 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= raw * (1 - 1e-9))
    step = max(step, 1.0) if whole else step
    return [round(step * i, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return the values from `low` to `high` that are 1, 2 or 5 times a power of ten; only 1 where these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)

    def marks(*factors: int) -> list[float]:
        values = [round(factor * 10.0**power, 12) for power in powers for factor in factors]
        return [value for value in values if low <= value <= high]

    fine = marks(1, 2, 5)
    return fine if len(fine) <= TICKS_MAX else marks(1)


def _labelled(values: Sequence[float], x: Scale) -> tuple[Tick, ...]:
    """Return ticks; evenly spaced values have equal numbers of decimals, other values only those that they need."""
    decimals = max((len(f"{value:g}".partition(".")[2]) for value in values), default=0)
    even = len({round(b - a, 9) for a, b in itertools.pairwise(values)}) <= 1
    return tuple(Tick(x(value), f"{value:.{decimals}f}" if even else f"{value:g}") for value in values)

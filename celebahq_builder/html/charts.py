"""Histograms and line charts as SVG coordinates for the templates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 480, 280
"""Size of the drawing in user units."""

LEFT, RIGHT, TOP, BOTTOM = 76, 468, 26, 228
"""Edges of the area that holds the bars, in user units."""

BINS = (8, 40)
"""Fewest and most bars."""

LOG_RATIO = 10
"""Values that span more than this get a logarithmic axis."""


@dataclass(frozen=True)
class HistogramBar:
    """One bin: kept photos below, the others stacked on them."""

    x: float
    width: float
    kept_y: float
    kept_height: float
    other_y: float
    other_height: float
    words: str
    """The bin in words: its limits and counts."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, in user units, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """A laid-out histogram."""

    bars: tuple[HistogramBar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    logarithmic: bool
    what: str
    """What is counted, in the plural."""
    words: str
    """The values in one sentence."""
    cut: Tick | None
    """A vertical line across the bars."""


def histogram(
    kept: Sequence[float], others: Sequence[float], cut: float | None = None, what: str = "photos"
) -> Histogram | None:
    """Lay out a histogram of the values of kept photos and of others, stacked.

    Args:
        kept: values of photos that were kept.
        others: values of photos that were not.
        cut: a value to mark.
        what: what the values are of, in the plural.

    Returns:
        None where there is no value at all.
    """
    values = np.array([*kept, *others], dtype=np.float64)
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    logarithmic = low > 0 and high / low > LOG_RATIO
    edges = _edges(low, high, int(np.clip(2 * math.sqrt(len(values)), *BINS)), logarithmic)
    x = scale(edges[0], edges[-1], LEFT, RIGHT, logarithmic)
    below, above = np.histogram(kept, edges)[0], np.histogram(others, edges)[0]
    y = scale(0, max(int((below + above).max()), 1), BOTTOM, TOP, False)
    marks = _log_ticks(edges[0], edges[-1]) if logarithmic else ticks(edges[0], edges[-1], whole=False)
    return Histogram(
        bars=_bars(edges, below, above, x, y),
        x_ticks=named(marks, x),
        y_ticks=tuple(Tick(y(n), f"{n:,.0f}") for n in ticks(0, max((below + above).max(), 1), whole=True)),
        logarithmic=logarithmic,
        what=what,
        words=f"{len(values):,} {what} from {low:.3g} to {high:.3g}, median {np.median(values):.3g}",
        cut=None if cut is None else Tick(x(cut), f"{cut:.3f}"),
    )


def _edges(low: float, high: float, bins: int, logarithmic: bool) -> NDArray[np.float64]:
    if logarithmic:
        edges = np.geomspace(low, high, bins + 1)
    else:
        margin = 0 if high > low else max(abs(low) * 0.05, 1e-3)
        edges = np.linspace(low - margin, high + margin, bins + 1)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # rounding must not lose the outermost values
    return edges


def scale(low: float, high: float, start: float, end: float, logarithmic: bool) -> Callable[[float], float]:
    """Return the map from values to user units, rounded to a tenth: it is read by people."""
    change = math.log if logarithmic else float
    first, last = change(low), change(high)
    return lambda value: round(start + (change(value) - first) / (last - first) * (end - start), 1)


def _bars(
    edges: NDArray[np.float64],
    kept: NDArray[np.int64],
    others: NDArray[np.int64],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> tuple[HistogramBar, ...]:
    bars = []
    for left, right, below, above in zip(edges[:-1], edges[1:], kept.tolist(), others.tolist(), strict=True):
        if below + above == 0:
            continue
        words = f"{left:.3g} to {right:.3g}: {below:,} kept, {above:,} not"
        middle, top = y(below), y(below + above)
        width = round(x(right) - x(left), 1)
        bars.append(HistogramBar(x(left), width, middle, round(BOTTOM - middle, 1), top, round(middle - top, 1), words))
    return tuple(bars)


def ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Return at most six round values from `low` to `high`, a multiple of 1, 2 or 5 apart."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= raw * (1 - 1e-9))
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def named(values: Sequence[float], x: Callable[[float], float]) -> tuple[Tick, ...]:
    """Return ticks that all show the decimals that one of evenly spaced values needs; each its own, if uneven."""
    decimals = max((len(f"{value:g}".partition(".")[2]) for value in values), default=0)
    even = len({round(b - a, 9) for a, b in itertools.pairwise(values)}) <= 1
    return tuple(Tick(x(value), f"{value:.{decimals}f}" if even else f"{value:g}") for value in values)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return the values 1, 2 and 5 times a power of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [round(times * 10.0**power, 12) for power in powers for times in (1, 2, 5)]
    return [mark for mark in marks if low <= mark <= high]


POINTS_MAX = 400
"""More values than this are averaged, some neighbours to a point."""

COLOURS = ("kept", "cut", "other")
"""Classes of the curves of one chart, in their order."""


@dataclass(frozen=True)
class Curve:
    """A line."""

    name: str
    colour: str
    points: str
    """As an SVG's polyline has them."""


@dataclass(frozen=True)
class Chart:
    """Some curves that share their axes."""

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    words: str
    """The curves in one sentence."""


def chart(title: str, x: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Chart | None:
    """Lay out curves over x, which rises.

    Args:
        title: of the chart.
        x: of every point.
        curves: at most three, by name: a value for each x; what is not finite is left out.

    Returns:
        None where there are not two points to connect.
    """
    finite = [value for values in curves.values() for value in values if math.isfinite(value)]
    if len(x) < 2 or x[-1] <= x[0] or not finite:
        return None
    low, high = min(finite), max(finite)
    if high - low < 1e-9 * max(abs(high), 1e-9):
        low, high = low - 1, high + 1
    across, up = scale(x[0], x[-1], LEFT, RIGHT, False), scale(low, high, BOTTOM, TOP, False)
    some = -(-len(x) // POINTS_MAX)
    drawn = []
    for (name, values), colour in zip(curves.items(), COLOURS, strict=False):
        points = []
        for start in range(0, len(x), some):
            part = [(a, b) for a, b in zip(x[start : start + some], values[start : start + some], strict=True)]
            part = [(a, b) for a, b in part if math.isfinite(b)]
            if part:
                middle, mean = (sum(column) / len(part) for column in zip(*part, strict=True))
                points.append(f"{across(middle)},{up(mean)}")
        drawn.append(Curve(name, colour, " ".join(points)))
    told = ", ".join(f"{name} from {values[0]:.3g} to {values[-1]:.3g}" for name, values in curves.items())
    return Chart(
        title,
        tuple(drawn),
        named(ticks(x[0], x[-1], whole=False), across),
        named(ticks(low, high, whole=False), up),
        f"{title}: {told}",
    )

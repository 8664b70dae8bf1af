"""Curves over time, laid out: numbers become points and ticks in the user units of an SVG; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from celebahq_builder.report.charts import BOTTOM, LEFT, RIGHT, TOP, Tick, named, scale, ticks

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

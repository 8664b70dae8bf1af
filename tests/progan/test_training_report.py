"""The report shows the statistics and the image grids of a run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from celebahq_builder.html.charts import BOTTOM, LEFT, POINTS_MAX, RIGHT, TOP, line_chart
from celebahq_builder.imaging.image_grid import png_bytes
from celebahq_builder.progan.training_report import write_training_report


def test_points_are_where_the_values_are() -> None:
    drawn = line_chart("losses", [0.0, 5.0, 10.0], {"a": [1.0, 3.0, 2.0], "b": [1.0, math.nan, 3.0]})
    assert drawn is not None
    middle = (LEFT + RIGHT) / 2
    a = [tuple(map(float, point.split(","))) for point in drawn.curves[0].points.split()]
    assert a == [(LEFT, BOTTOM), (middle, TOP), (RIGHT, (TOP + BOTTOM) / 2)]
    assert drawn.curves[1].points == f"{float(LEFT)},{float(BOTTOM)} {float(RIGHT)},{float(TOP)}"
    assert drawn.words == "losses: a from 1 to 2, b from 1 to 3"


@pytest.mark.parametrize(("x", "y"), [([1.0], [2.0]), ([], []), ([1.0, 2.0], [math.nan, math.inf])])
def test_no_chart_of_nothing(x: list[float], y: list[float]) -> None:
    assert line_chart("empty", x, {"y": y}) is None


def test_long_curves_are_averaged() -> None:
    n = 10 * POINTS_MAX
    drawn = line_chart("long", [float(i) for i in range(n)], {"y": [float(i % 2) for i in range(n)]})
    assert drawn is not None
    points = [float(point.split(",")[1]) for point in drawn.curves[0].points.split()]
    assert len(points) == POINTS_MAX
    assert points == [(TOP + BOTTOM) / 2] * POINTS_MAX
    assert line_chart("flat", [0.0, 1.0], {"y": [3.0, 3.0]}) is not None


def line(tick: int, resolution: int) -> dict[str, float]:
    names = ("generator_loss", "discriminator_loss", "penalty", "score_real", "score_fake", "gradient_norm")
    figures = {name: tick + i / 10 for i, name in enumerate(names)}
    level = resolution.bit_length() - 1
    rest = {"tick": tick, "images": 1000 * tick, "kimg": tick, "level": level, "resolution": resolution, "alpha": 0.5}
    return {**rest, **figures, "minibatch": 16, "images_per_s": 10.0 * tick, "seconds": 60 * tick, "memory_bytes": 2e9}


def test_page(tmp_path: Path) -> None:
    lines = [line(1, 4), line(2, 8), line(3, 8)]
    (tmp_path / "stats.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + '{"kimg": 4}\n{"half')
    (tmp_path / "recipe.json").write_text('{"net": {"resolution": 8}, "task": "<progan>"}')
    for kimg in range(20):
        (tmp_path / f"fakes-{kimg:06d}.png").write_bytes(png_bytes(np.full((3, 32, 32), kimg, np.uint8)))
    page = write_training_report(tmp_path).read_text()
    assert "<dd>3</dd>" in page
    assert "3 min 0 s" in page
    assert page.count("<polyline") == 9
    assert '8 &times; 8</th><td class="number">1</td>' in page
    assert page.count('href="../fakes-') == 12
    assert 'href="../fakes-000000.png"' in page
    assert 'href="../fakes-000019.png"' in page
    assert "&lt;progan&gt;" in page
    assert "reals.png" not in page
    assert write_training_report(tmp_path).read_text() == page


def test_page_of_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    assert "Charts need at least two ticks" in write_training_report(tmp_path).read_text()

"""The forecast follows from schedule and speeds; the page shows the statistics and the image grids of a run."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celebahq_builder.html.charts import BOTTOM, LEFT, POINTS_MAX, RIGHT, TOP, line_chart
from celebahq_builder.imaging.image_grid import png_bytes
from celebahq_builder.models.progan import Architecture
from celebahq_builder.progan.schedule import ProGANRecipe, Schedule
from celebahq_builder.progan.training_report import EXPECTATIONS, outlook, remaining_s, write_training_report
from tests.browser import check_layout, visit, wait_for_image

# --- Forecast -------------------------------------------------------------------------------------------------


GROWING = ProGANRecipe(
    "progan",
    Architecture(resolution=16, channels_base=32, channels_max=4, latent=4),
    Schedule(train_kimg=2, fade_kimg=1, total_kimg=10),
)
"""4x4 until 2 kimg, 8x8 until 5 kimg, 16x16 until 10 kimg; 4 channels at all levels."""


def test_time_of_levels_that_were_measured() -> None:
    speeds = {2: 100.0, 3: 50.0, 4: 10.0}
    assert remaining_s(GROWING, 0, 10, speeds) == pytest.approx({2: 20, 3: 60, 4: 500})
    assert remaining_s(GROWING, 3.5, 10, speeds) == pytest.approx({3: 30, 4: 500})
    assert remaining_s(GROWING, 0, 4, speeds) == pytest.approx({2: 20, 3: 40})
    assert remaining_s(GROWING, 10, 10, speeds) == {}


def test_time_of_levels_that_were_not() -> None:
    """All levels have equal channels, so the cost of a level is 4 times that of the one below, added to it."""
    assert remaining_s(GROWING, 0, 10, {3: 50.0}) == pytest.approx({2: 2000 / 250, 3: 60, 4: 5000 / 50 * 21 / 5})


def test_networks_that_do_not_grow() -> None:
    recipe = ProGANRecipe("progan", GROWING.net, Schedule(total_kimg=10, growing=False))
    assert remaining_s(recipe, 4, 10, {4: 10.0}) == pytest.approx({4: 600})


def test_sentences() -> None:
    speeds = {2: 100.0, 3: 50.0, 4: 10.0}
    assert outlook(GROWING, 1, 10, speeds) == [
        "1 of 10 kimg, 4x4, alpha 1.00; estimated: 8x8 in 10 s (at 2 kimg), the end in 10 min (at 10 kimg)",
        "new levels, estimated: 8x8 in 10 s (at 2 kimg), 16x16 in 70 s (at 5 kimg), the end in 10 min (at 10 kimg)",
        EXPECTATIONS,
    ]
    assert outlook(GROWING, 9, 10, speeds)[0].endswith("estimated: the end in 2 min (at 10 kimg)")
    assert outlook(GROWING, 10, 10, speeds) == ["10 of 10 kimg, 16x16, alpha 1.00; the training is complete"]
    assert outlook(GROWING, 0, 10, {2: 0.1}, on_cpu=True)[-1].startswith("this recipe is for GPUs")
    assert outlook(GROWING, 0, 10, {2: 0.1})[-1] == EXPECTATIONS
    *_, last = outlook(GROWING, 0, 10, {2: 1e-4})
    assert re.fullmatch(r"warning: the training is not feasible on this device: it takes about \d+ years; .*", last)


# --- Page -----------------------------------------------------------------------------------------------------


def test_points_are_where_the_values_are() -> None:
    drawn = line_chart("losses", [0.0, 5.0, 10.0], {"a": [1.0, 3.0, 2.0], "b": [1.0, math.nan, 3.0]})
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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with every kind of content: 40 ticks, a metric with its floor at every fourth, 20 grids, long settings."""
    lines = [line(tick, 4 if tick == 1 else 8) for tick in range(1, 41)]
    for one in lines[3::4]:
        one |= {"swd16": 9.0, "swd16_8": 9.0, "floor_swd16": 2.0, "floor_swd16_8": 2.0}
    (tmp_path / "stats.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + '{"kimg": 4}\n{"half')
    recipe = {"net": {"resolution": 8}, "task": "<progan>", "schedule": {"minibatches": list(range(100)), "x" * 90: 1}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    for kimg in range(20):
        (tmp_path / f"fakes-{kimg:06d}.png").write_bytes(png_bytes(np.full((3, 32, 600), kimg, np.uint8)))
    (tmp_path / "reals.png").write_bytes(png_bytes(np.full((3, 32, 600), 99, np.uint8)))
    return tmp_path


def test_page(run: Path) -> None:
    page = write_training_report(run).read_text()
    assert "<dd>40</dd>" in page
    assert "40 min 0 s" in page
    assert "<dt>resolution</dt><dd>8x8 px</dd>" in page
    assert '8 &times; 8 px</th><td class="number">1</td>' in page
    assert page.count('href="../fakes-') == 12
    assert 'href="../fakes-000000.png"' in page
    assert "&lt;progan&gt;" in page
    assert "generator_loss" not in page
    assert write_training_report(run).read_text() == page


def test_the_newest_grid_comes_first_and_the_schedule_last(run: Path) -> None:
    page = write_training_report(run).read_text()
    assert re.findall(r"<h3>([^<]*)</h3>\s*<a", page)[:3] == ["19 kimg", "Real images", "17 kimg"]
    assert re.findall(r'<section id="(\w+)"', page) == ["grids", "curves", "levels", "settings"]


def test_metrics_have_a_floor_and_long_curves_a_smoothed_line(run: Path) -> None:
    page = write_training_report(run).read_text()
    swd, losses = (
        next(one for one in page.split("<figure") if f"<h3>{title}</h3>" in one) for title in ("swd16", "Losses")
    )
    assert re.findall(r'<polyline class="curve ([a-z ]+)"', swd) == ["kept", "baseline"]
    assert re.findall(r'<polyline class="curve ([a-z ]+)"', losses) == ["kept raw", "kept", "rejected raw", "rejected"]
    assert re.findall(r"<li class=\"\w+\">([^<]*)</li>", losses) == ["generator", "discriminator"]


def test_smoothed_line_is_the_mean_of_neighbours() -> None:
    drawn = line_chart("s", [float(i) for i in range(64)], {"y": [float(i % 2) for i in range(64)]})
    heights = [float(point.split(",")[1]) for point in drawn.curves[0].smooth.split()]
    expected = [np.mean([i % 2 for i in range(64)][max(at - 2, 0) : at + 3]) for at in range(64)]
    np.testing.assert_allclose(heights, [BOTTOM - value * (BOTTOM - TOP) for value in expected], atol=0.051)
    few = line_chart("s", [0.0, 1.0, 2.0], {"y": [0.0, 1.0, 2.0]})
    assert few.curves[0].smooth == ""


def test_page_in_a_browser(run: Path, chromium: Any) -> None:
    path = write_training_report(run)
    check_layout(chromium, path)
    with visit(chromium, path, 1400) as seen:
        chart = seen.page.locator("figure.chart", has_text="Losses")
        chart.locator("svg").focus()
        seen.page.keyboard.press("End")
        assert chart.locator(".readout").inner_text().startswith("kimg 40: generator ")
        seen.page.locator("a.enlarge").first.click()
        seen.page.keyboard.press("ArrowRight")
        seen.page.keyboard.press("ArrowRight")
        assert seen.page.locator("dialog h2").inner_text() == "17 kimg 3 of 13"
        wait_for_image(seen.page)
        shown = seen.page.locator("dialog .stage img")
        assert shown.evaluate("one => [one.clientWidth, getComputedStyle(one).imageRendering]") == [1400, "pixelated"]
        seen.page.get_by_role("button", name="100 %").click()
        assert shown.evaluate("one => one.clientWidth") == 600


def test_page_of_a_new_run(tmp_path: Path) -> None:
    """Its position is in the first sentence of the outlook; there is no number of kimg without a tick."""
    (tmp_path / "recipe.json").write_text("{}")
    page = write_training_report(tmp_path, ["0.152 of 600 kimg"]).read_text()
    assert "Charts need at least two ticks" in page
    assert re.findall("<dt>(.*)</dt><dd>(.*)</dd>", page) == [("complete ticks", "0")]
    assert f"<title>{tmp_path.name}: ProGAN training</title>" in page

"""The page of an evaluation: content, and layout in a browser."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celebahq_builder.evaluation.result import Baseline, Number, Result, Score, evaluation_page
from tests.browser import check_layout

LONG = "x" * 120


def result(kimg: int | None = None) -> Result:
    """A result of two metrics with long names and hashes; of a snapshot at some kimg."""
    levels = {resolution: 100.0 + resolution for resolution in (1024, 512, 256, 128, 64, 32, 16)}
    swd = Number(154.96, levels=levels)
    kid = Number(0.001234, spread=0.000123)
    source = {"path": f"/{LONG}/{LONG}", "kind": "hdf5", "images": 30_000, "sha256": "0" * 64}
    return Result(
        source={**source, "kimg": kimg} if kimg is not None else source,
        reference=source,
        resolution=1024,
        channels=3,
        seed=0,
        device="cpu, 1 threads",
        scores=(
            Score(
                "swd", 16384, swd, Baseline("floor", swd, 8192), 16384, "0" * 64, "1" * 64, {"scales": list(range(60))}
            ),
            Score("kid", 10000, kid, Baseline("floor", kid, 10000), 10000, "0" * 64, "1" * 64, {}),
        ),
    )


def test_page_explains_a_value_below_its_floor_and_has_readable_names() -> None:
    good = result()
    score, other = good.scores
    assert "below its floor" not in evaluation_page(Path("fakes"), [good]).decode()
    low = replace(
        good, scores=(replace(score, number=Number(100.0), baseline=replace(score.baseline, count=8192)), other)
    )
    page = evaluation_page(Path("fakes"), [low]).decode()
    assert '<p class="quiet">swd16k is below its floor: by this metric, the images are closer to the reference' in page
    assert "the floor is of 8,192 images instead of 16,384, which makes it higher." in page
    assert "sliced Wasserstein distance, x 1e3" in page
    assert "<title>fakes: evaluation</title>" in page
    assert "<span>swd16k: source pixels SHA-256</span>" in page
    assert "scores." not in page.split("<main>")[1].split("</main>")[0]


@pytest.mark.parametrize("results", [[result()], [result(kimg) for kimg in (100, 200, 300)]])
def test_page(results: list[Result], chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(evaluation_page(Path(f"/{LONG}"), results))
    page = path.read_text()
    for words in ("swd16k", "1024x1024", "154.96", "+/- 0.0001230", "floor of 8,192 images"):
        assert words in page
    assert page.count('class="curve baseline"') == (9 if len(results) > 1 else 0)
    check_layout(chromium, path)

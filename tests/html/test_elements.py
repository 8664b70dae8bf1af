"""Elements of reports: charts, thumbnails, durations."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from celebahq_builder.html import charts, duration, thumbnails
from tests.conftest import SAMPLE
from tests.pipeline.report_page import open_image


def test_file_outside_the_source_has_no_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(SAMPLE / "img_celeba" / "000003.jpg", tmp_path / "secret.jpg")
    assert thumbnails.of_photo(tmp_path, "secret.jpg", 96) is not None
    assert thumbnails.of_photo(tmp_path / "photos", "../secret.jpg", 96) is None
    assert thumbnails.of_photo(tmp_path / "photos", str(tmp_path / "secret.jpg"), 96) is None
    assert thumbnails.of_photo(tmp_path, "\0.jpg", 96) is None
    assert thumbnails.of_photo(tmp_path, "photos", 96) is None


def test_centre_of_an_image_is_upright(tmp_path: Path) -> None:
    pixels = np.zeros((40, 90, 3), dtype=np.uint8)
    pixels[:, 25:65] = [255, 255, 255]
    pixels[:20, 25:45] = [255, 0, 0]  # top left of the square as stored, top right once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    found = thumbnails.of_centre(tmp_path / "turned.png", 96)
    assert found is not None
    shown = np.asarray(open_image(found.uri))
    assert shown.shape == (40, 40, 3)
    assert shown[8, 30].tolist() == pytest.approx([254, 0, 0], abs=8)
    assert shown[30, 8].min() > 247
    assert thumbnails.of_centre(tmp_path / "gone.png", 96) is None


@pytest.mark.parametrize(
    ("value", "words"), [(0.153, "0.15 s"), (43.4, "43 s"), (59.9, "60 s"), (125, "2 min 5 s"), (7260, "2 h 1 min")]
)
def test_durations_in_words(value: float, words: str) -> None:
    assert duration(value) == words


values = st.lists(st.floats(1e-3, 1e4), max_size=60)


@given(values, values)
def test_histograms_hold_every_value(kept: list[float], others: list[float]) -> None:
    drawn = charts.histogram(kept, others)
    if not kept and not others:
        assert drawn is None
        return
    assert drawn is not None
    counts = [[int(word) for word in bar.words.split(": ")[1].split() if word.isdigit()] for bar in drawn.bars]
    assert [sum(some) for some in zip(*counts, strict=True)] == [len(kept), len(others)]
    tallest = max(sum(some) for some in counts)
    for bar, (below, above) in zip(drawn.bars, counts, strict=True):
        unit = (charts.BOTTOM - charts.TOP) / tallest
        assert bar.kept_height == pytest.approx(below * unit, abs=0.11)
        assert bar.other_height == pytest.approx(above * unit, abs=0.11)
        assert charts.LEFT - 0.1 <= bar.x <= bar.x + bar.width <= charts.RIGHT + 0.1
    assert drawn.logarithmic == (max(kept + others) / min(kept + others) > 10)
    assert min(len(drawn.x_ticks), len(drawn.y_ticks)) >= 1
    assert all(charts.LEFT - 0.1 <= tick.at <= charts.RIGHT + 0.1 for tick in drawn.x_ticks)
    assert all(charts.TOP - 0.1 <= tick.at <= charts.BOTTOM + 0.1 for tick in drawn.y_ticks)


def test_ticks_are_round_numbers_at_their_positions() -> None:
    drawn = charts.histogram(np.linspace(0.31, 0.69, 50).tolist(), [], cut=0.5)
    assert drawn is not None
    assert [tick.text for tick in drawn.x_ticks] == ["0.4", "0.5", "0.6"]
    assert drawn.cut is not None
    assert drawn.cut.at == drawn.x_ticks[1].at == (charts.LEFT + charts.RIGHT) / 2
    drawn = charts.histogram([1.0, 100.0], [10.0])
    assert drawn is not None
    assert [tick.text for tick in drawn.x_ticks] == ["1", "2", "5", "10", "20", "50", "100"]
    assert drawn.x_ticks[3].at == (charts.LEFT + charts.RIGHT) / 2

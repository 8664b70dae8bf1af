"""The page of a contact sheet shows the images, says what they are, and needs nothing else."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import FormatError
from celebahq_builder.hdf5.reader import PyramidFile
from celebahq_builder.inspect import contact_sheet
from celebahq_builder.inspect.contact_sheet import tiles
from tests.browser import browser, visit
from tests.hdf5.files import damage, noise, store


def smooth(count: int, resolution: int, channels: int = 3) -> np.ndarray:
    """Return images of large even fields, which JPEG keeps well."""
    return np.repeat(np.repeat(noise(count, 2, channels), resolution // 2, axis=2), resolution // 2, axis=3)


def page(path: Path, out: Path, numbers: list[int], resolution: int) -> str:
    with PyramidFile.with_images(path) as stored:
        contact_sheet.write_contact_page(out, stored, tiles(stored, numbers), resolution)
    return out.read_text("utf-8")


@pytest.mark.parametrize("channels", [3, 1])
def test_images(channels: int, tmp_path: Path) -> None:
    images = smooth(4, 16, channels)
    path = store(tmp_path / "data.h5", images, score=[0.5, 0.25, np.nan, 1], id=["a", "b", "<i>", "d"])
    text = page(path, tmp_path / "sheet.html", [2, 0], 16)
    shown = [base64.b64decode(data) for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)]
    assert len(shown) == 2
    for data, number in zip(shown, (2, 0), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1).astype(int)
        assert np.abs(pixels - images[number]).max() < 12
    captions = re.findall(r'<figcaption class="name">(.*?)</figcaption>', text)
    assert captions == ["2 &lt;i&gt; <span></span>", "0 a <span>0.500</span>"]
    assert f"2 of 4 images of 16 &times; 16 px, {'RGB' if channels == 3 else 'grey'}" in text
    assert "://" not in text
    assert page(path, tmp_path / "again.html", [2, 0], 16) == text


def test_in_a_browser(tmp_path: Path) -> None:
    path = store(tmp_path / "data.h5", smooth(5, 8), file=[f"photo-{i}.jpg" for i in range(5)])
    page(path, tmp_path / "sheet.html", [0, 1, 2, 3, 4], 8)
    with browser() as started, visit(started, tmp_path / "sheet.html", 500) as seen:
        assert seen.complaints == []
        assert len(seen.requests) == 1
        assert seen.page.locator("figure").count() == 5
        loaded = seen.page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth == 8)")
        assert loaded
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        box = seen.page.locator("img").first.bounding_box()
        assert box["width"] == box["height"] > 90  # enlarged


@pytest.mark.parametrize("columns", [1, 3, 12])
def test_columns_and_no_captions(columns: int, tmp_path: Path) -> None:
    """As many as asked for in a window of any width, without a bar to scroll by."""
    path = store(tmp_path / "data.h5", smooth(14, 8), file=[f"photo-{i}.jpg" for i in range(14)], score=np.ones(14))
    with PyramidFile.with_images(path) as stored:
        contact_sheet.write_contact_page(
            tmp_path / "sheet.html", stored, tiles(stored, range(14)), 8, columns, captions=False
        )
    assert "Under each" not in (tmp_path / "sheet.html").read_text("utf-8")
    with browser() as started:
        for width in (400, 1300):
            with visit(started, tmp_path / "sheet.html", width) as seen:
                assert seen.complaints == []
                assert seen.page.locator("figure").count() == 14
                assert seen.page.locator("figcaption").count() == 0
                boxes = [one.bounding_box() for one in seen.page.locator("img").all()]
                assert len({box["x"] for box in boxes}) == columns
                assert all(box["width"] == box["height"] <= 96 for box in boxes)
                assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(tmp_path / "data.h5", noise(3, 16))
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(FormatError, match=r"mine\.html exists"):
        page(path, tmp_path / "mine.html", [0], 16)
    with pytest.raises(FormatError, match="no level 32x32"):
        page(path, tmp_path / "a.html", [0], 32)
    damage(path, 16, 1)
    with pytest.raises(FormatError, match="image 1 of data16x16 cannot be read"):
        page(path, tmp_path / "new" / "a.html", [0, 1], 16)
    monkeypatch.setattr(contact_sheet, "SHEET_PIXELS_MAX", 256)
    with pytest.raises(FormatError, match="2 images of 16x16 are more than the 256 px of a page"):
        page(path, tmp_path / "a.html", [0, 2], 16)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["data.h5", "mine.html"]

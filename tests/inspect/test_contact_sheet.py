"""Image files and pages of contact sheets show the right images at the right places."""

import base64
import errno
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celebahq_builder.errors import DiskFull, FormatError
from celebahq_builder.hdf5.reader import open_pyramid
from celebahq_builder.inspect import contact_sheet
from celebahq_builder.inspect.contact_sheet import (
    CAPTION_PX,
    GAP_PX,
    MARGIN_PX,
    Tile,
    default_level,
    level_for,
    tiles,
    write_contact_sheet,
)
from tests.browser import check_layout, visit
from tests.disk import failing
from tests.hdf5.files import damage, levels_of, noise, store, trust_if_sound


def sheet(path: Path, out: Path, numbers: list[int], columns: int, resolution: int, captions: bool) -> np.ndarray:
    with open_pyramid(path) as stored:
        size = write_contact_sheet(out, stored, tiles(stored, numbers), columns, resolution, captions)
    with Image.open(out) as image:
        assert image.size == size
        assert image.mode == "RGB"
        return np.asarray(image)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(("columns", "rows", "width"), [(3, 3, 3), (7, 1, 7), (8, 1, 7), (1, 7, 1)])
@pytest.mark.parametrize(("resolution", "captions"), [(128, True), (8, False), (32, True), (1, True)])
def test_every_pixel_of_an_image_file(
    channels: int, columns: int, rows: int, width: int, resolution: int, captions: bool, tmp_path: Path
) -> None:
    numbers = [6, 0, 3, 2, 1, 5, 4]
    level = noise(7, resolution, channels)
    path = tmp_path / "data.h5"
    store(path, level) if resolution < 64 else store_top(path, level)
    found = sheet(path, tmp_path / "sheet.png", numbers, columns, resolution, captions)
    zoom = {128: 1, 8: 1, 32: 3, 1: 96}[resolution]
    side, step = resolution * zoom, resolution * zoom + GAP_PX
    line = CAPTION_PX if captions else 0
    assert found.shape == (
        2 * MARGIN_PX + rows * (step + line) - GAP_PX,
        2 * MARGIN_PX + width * step - GAP_PX,
        3,
    )
    paper = np.ones(found.shape[:2], bool)
    for place, number in enumerate(numbers):
        row, column = divmod(place, columns)
        top, left = MARGIN_PX + row * (step + line), MARGIN_PX + column * step
        tile = found[top : top + side, left : left + side]
        expected = np.kron(level[number].transpose(1, 2, 0), np.ones((zoom, zoom, 1), np.uint8))
        np.testing.assert_array_equal(tile, np.broadcast_to(expected, tile.shape))
        paper[top : top + side + line, left : left + side] = False
        caption = found[top + side : top + side + line, left : left + side]
        assert bool((caption < 128).any()) == captions
    assert (found[paper] == 255).all()


def store_top(path: Path, level: np.ndarray) -> None:
    """Write a file whose smaller levels are black, which is quick."""
    import h5py

    with h5py.File(path, "w") as file:
        for r in (128, 64, 32, 16, 8, 4, 2, 1):
            file[f"data{r}x{r}"] = level if r == level.shape[-1] else np.zeros((*level.shape[:2], r, r), np.uint8)
    trust_if_sound(path)


def test_levels_and_jpeg(tmp_path: Path) -> None:
    """A sheet shows the requested level; a JPEG file differs from the PNG file only by compression losses."""
    images = np.repeat(np.repeat(noise(4, 8), 4, axis=2), 4, axis=3)
    path = store(tmp_path / "data.h5", images)
    for resolution, level in levels_of(images).items():
        found = sheet(path, tmp_path / f"{resolution}.png", [1], 1, resolution, False)
        inner = found[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX].transpose(2, 0, 1)
        np.testing.assert_array_equal(inner, level[1])
    exact = sheet(path, tmp_path / "a.png", [0, 1, 2, 3], 2, 32, True).astype(int)
    for name in ("a.jpg", "a.JPEG"):
        lossy = sheet(path, tmp_path / name, [0, 1, 2, 3], 2, 32, True)
        assert 0 < np.abs(lossy - exact).mean() < 4
        with Image.open(tmp_path / name) as image:
            assert image.format == "JPEG"


def test_equal_sheets_make_equal_files(tmp_path: Path) -> None:
    path = store(tmp_path / "data.h5", noise(4, 8), score=[0.1, 0.2, 0.3, np.nan])
    for kind in ("png", "jpg"):
        sheet(path, tmp_path / f"a.{kind}", [0, 3], 2, 8, True)
        sheet(path, tmp_path / f"b.{kind}", [0, 3], 2, 8, True)
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_captions(tmp_path: Path) -> None:
    names = {"id": ["a", "b"], "file": ["a.jpg", "b\n.jpg"]}
    with open_pyramid(store(tmp_path / "1.h5", noise(2, 2), score=[0.12345, np.nan], **names)) as stored:
        assert tiles(stored, [1, 0]) == [Tile(1, "b", None), Tile(0, "a", 0.12345)]
        assert [tile.caption for tile in tiles(stored, [1, 0])] == ["1  b", "0  0.123  a"]
    with open_pyramid(store(tmp_path / "2.h5", noise(2, 2), file=names["file"])) as stored:
        assert tiles(stored, [1])[0].caption == "1  b\\n.jpg"
    with open_pyramid(store(tmp_path / "3.h5", noise(2, 2))) as stored:
        assert tiles(stored, [1])[0].caption == "1"


def test_long_captions_are_cut(tmp_path: Path) -> None:
    path = store(tmp_path / "data.h5", noise(2, 2), file=["W" * 300, "x"])
    found = sheet(path, tmp_path / "a.png", [0, 1], 2, 2, True)
    line = found[-MARGIN_PX - CAPTION_PX : -MARGIN_PX]
    assert (line[:, MARGIN_PX + 96 : MARGIN_PX + 96 + GAP_PX] == 255).all()
    assert (line[:, MARGIN_PX : MARGIN_PX + 96] < 128).any()


def test_level_for(tmp_path: Path) -> None:
    with open_pyramid(store(tmp_path / "data.h5", noise(1, 32))) as stored:
        assert [level_for(stored, side) for side in (1, 5, 6, 12, 22, 23, 1000)] == [1, 4, 8, 16, 16, 32, 32]


def test_more_images_are_shown_smaller(tmp_path: Path) -> None:
    with open_pyramid(store(tmp_path / "data.h5", noise(1, 256))) as stored:
        assert (default_level(stored, 200), default_level(stored, 201)) == (256, 128)


# --- Errors of image files ---------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return store(tmp_path / "data.h5", noise(3, 16))


def fails(path: Path, out: Path, match: str, columns: int = 2, resolution: int = 16) -> None:
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else []
    with open_pyramid(path) as stored, pytest.raises(FormatError, match=match):
        write_contact_sheet(out, stored, tiles(stored, [0, 1, 2]), columns, resolution)
    assert (sorted(out.parent.iterdir()) if out.parent.is_dir() else []) == before


def test_unknown_suffixes(stored: Path, tmp_path: Path) -> None:
    for name in ("sheet", "sheet.gif", "png"):
        fails(stored, tmp_path / name, r"expected a name that ends in \.png, \.jpg, \.jpeg or \.html")


def test_nothing_is_overwritten(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("mine")
    (tmp_path / "b.png").symlink_to("nowhere")
    fails(stored, tmp_path / "a.png", r"a\.png exists and is not overwritten; delete it, or choose another `out`")
    fails(stored, tmp_path / "b.png", r"b\.png exists")
    assert (tmp_path / "a.png").read_text() == "mine"


def test_path_that_cannot_be_written(stored: Path, tmp_path: Path) -> None:
    fails(stored, stored / "sheet.png", r"data\.h5 cannot be written: File exists; choose another `out`")


def test_too_large_sheet(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "SHEET_PIXELS_MAX", 50_000)
    fails(stored, tmp_path / "a.png", "would have 212 x 252 px, more than 50,000 in all or 65,500 a side")
    monkeypatch.setattr(contact_sheet, "SHEET_PIXELS_MAX", 60_000)
    monkeypatch.setattr(contact_sheet, "SIDE_PX_MAX", 250)
    fails(stored, tmp_path / "a.png", "would have 212 x 252 px")


def test_missing_level(stored: Path, tmp_path: Path) -> None:
    fails(stored, tmp_path / "a.png", "no level 32x32; it has 16, 8, 4, 2, 1", resolution=32)


def test_damaged_image(stored: Path, tmp_path: Path) -> None:
    damage(stored, 16, 2)
    fails(stored, tmp_path / "new" / "a.png", "image 2 of data16x16 cannot be read")
    assert not (tmp_path / "new").exists()


def test_full_disk(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errno.ENOSPC, lambda name: name.startswith(".a.png."))
    with open_pyramid(stored) as one, pytest.raises(DiskFull):
        write_contact_sheet(tmp_path / "deep" / "new" / "a.png", one, tiles(one, [0]), 1, 16)
    assert [path.name for path in tmp_path.iterdir()] == ["data.h5"]


# --- HTML pages --------------------------------------------------------------------------------------------------


def smooth(count: int, resolution: int, channels: int = 3) -> np.ndarray:
    """Return images with large even areas, which JPEG preserves well."""
    return np.repeat(np.repeat(noise(count, 2, channels), resolution // 2, axis=2), resolution // 2, axis=3)


def page(path: Path, out: Path, numbers: list[int], resolution: int) -> str:
    with open_pyramid(path) as stored:
        contact_sheet.write_contact_page(out, stored, tiles(stored, numbers), resolution)
    return out.read_text("utf-8")


@pytest.mark.parametrize("channels", [3, 1])
def test_page_shows_the_images(channels: int, tmp_path: Path) -> None:
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


def test_page_in_a_browser(chromium: Any, tmp_path: Path) -> None:
    path = store(tmp_path / "data.h5", smooth(5, 8), file=[f"photo-{i}.jpg" for i in range(5)])
    page(path, tmp_path / "sheet.html", [0, 1, 2, 3, 4], 8)
    with visit(chromium, tmp_path / "sheet.html", 500) as seen:
        assert seen.complaints == []
        assert len(seen.requests) == 1
        assert seen.page.locator("figure").count() == 5
        loaded = seen.page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth == 8)")
        assert loaded
        box = seen.page.locator("img").first.bounding_box()
        assert box["width"] == box["height"] > 90  # enlarged
    check_layout(chromium, tmp_path / "sheet.html")


@pytest.mark.parametrize("columns", [1, 3, 12])
def test_page_with_columns_and_without_captions(columns: int, chromium: Any, tmp_path: Path) -> None:
    """The page has this number of columns in a window of any width, and does not scroll sideways."""
    path = store(tmp_path / "data.h5", smooth(14, 8), file=[f"photo-{i}.jpg" for i in range(14)], score=np.ones(14))
    with open_pyramid(path) as stored:
        contact_sheet.write_contact_page(
            tmp_path / "sheet.html", stored, tiles(stored, range(14)), 8, columns, captions=False
        )
    assert "Captions:" not in (tmp_path / "sheet.html").read_text("utf-8")
    check_layout(chromium, tmp_path / "sheet.html")
    for width in (400, 1300):
        with visit(chromium, tmp_path / "sheet.html", width) as seen:
            assert seen.complaints == []
            assert seen.page.locator("figure").count() == 14
            assert seen.page.locator("figcaption").count() == 0
            boxes = [one.bounding_box() for one in seen.page.locator("img").all()]
            assert len({box["x"] for box in boxes}) == columns
            assert all(box["width"] == box["height"] <= 96 for box in boxes)


def test_page_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

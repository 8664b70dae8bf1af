"""Report of a filtered folder: the page has all images and files, as HTML and in a browser."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from celebahq_builder.filter import report
from celebahq_builder.filter.store import SCORE_PARTS
from tests.browser import check_layout, visit
from tests.filter.folders import add_bad, add_odd, make, run


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a folder with all kinds of files."""
    folder = make(tmp_path_factory.mktemp("page") / "in & <i>out", 12)
    add_odd(folder), add_bad(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "SHEET_IMAGES", 4)
        return run(folder, keep=10).page_path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_in_a_browser(shown: Path, chromium: Any, width: int, scheme: str) -> None:
    with visit(chromium, shown, width, scheme) as seen:
        view = seen.page
        counts = {name: view.locator(f"#count-{name}").inner_text() for name in ("images", "kept", "without-a-score")}
        assert counts == {"images": "28", "kept": "10", "without-a-score": "8"}
        assert view.locator("svg").count() == len(SCORE_PARTS)
        assert view.locator("svg .cut").count() == 1
        titles = view.locator("#sheets h3").all_inner_texts()
        assert titles == ["Best", "Last of those kept", "First of those below the cut", "Worst"]
        images = view.evaluate("[...document.images].map((i) => [i.complete, i.naturalWidth, i.naturalHeight])")
        assert len(images) == 16
        assert all(complete and wide == high > 0 for complete, wide, high in images)
        assert view.locator("#without tbody th.name").count() == 8
        assert view.get_by_text("<b>text.jpg", exact=True).is_visible()
        assert seen.complaints == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [shown.resolve().as_uri()]
        for link in view.locator("#sheets a").all():
            assert (shown.parent / unquote(link.get_attribute("href"))).resolve().is_file()


def test_layout(shown: Path, chromium: Any) -> None:
    check_layout(chromium, shown)


def test_the_page_without_a_browser(shown: Path) -> None:
    html = shown.read_text(encoding="utf-8")
    assert "10 of 28 images kept" in html
    assert "Kept: best 10." in html
    assert html.count("<svg ") == len(SCORE_PARTS)
    assert html.count("data:image/jpeg") == 16
    assert "&lt;b&gt;text.jpg" in html
    assert "<b>text.jpg" not in html
    assert "<i>out" not in html
    assert "picture" not in html.split("</style>")[1]
    links = re.findall(r'<a class="enlarge" href="(\.\./[^"]*)"', html)
    assert len(links) == 16
    assert all((shown.parent / unquote(link)).resolve().is_file() for link in links)

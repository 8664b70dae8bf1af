"""A real browser for tests of pages; tests that ask for it are skipped where there is none.

`check_layout` is for every page; the fixture `chromium` of conftest.py is one browser for all tests of a file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str:
    """Return the path of a Chromium, or skip the test."""
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES)]
    path = next(filter(None, found), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH, and CHROMIUM names none")
    return path


@contextmanager
def browser() -> Iterator[Any]:
    """Start a headless Chromium that reaches no network."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        # containers run tests as root, where Chromium's sandbox does not work; the pages are our own
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"]
        started = play.chromium.launch(executable_path=executable(), args=arguments)
        try:
            yield started
        finally:
            started.close()


class Visit:
    """A page as a browser shows it, and what it complained of or asked for meanwhile."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.resolve().as_uri())


@contextmanager
def visit(started: Any, path: Path, width: int, scheme: str = "light") -> Iterator[Visit]:
    """Show the page at `path` in a window of that width, px, to people who prefer that colour scheme."""
    context = started.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    try:
        yield Visit(context.new_page(), path)
    finally:
        context.close()


def wait_for_image(page: Any) -> None:
    """Wait until the viewer of a page has loaded the image or the photo that it shows."""
    page.locator("dialog .stage[aria-busy=false] > :is(img, .pair, svg)").wait_for()


WIDTHS = (400, 800, 1400)
"""Widths of windows in which every page is measured: a phone, a tablet, a desk."""

OVERFLOW = """() => {
  const shown = [...document.body.querySelectorAll('*')].filter((element) =>
    element.getClientRects().length && !element.closest('.unseen, thead')
      && !element.parentElement.closest('svg, .wide'));
  const beyond = shown.filter((element) => {
    const box = element.getBoundingClientRect();
    return box.right > innerWidth + 0.5 || box.left < -0.5;
  });
  const cut = shown.filter((element) =>
    element.matches('.scroll:not(.wide)') && element.scrollWidth > element.clientWidth);
  const page = document.scrollingElement;
  return [page.scrollWidth > innerWidth ? `the page has ${page.scrollWidth} px` : '',
    ...beyond.map((element) => `beyond the window: ${element.outerHTML.slice(0, 80)}`),
    ...cut.map((element) => `columns cut off: ${element.outerHTML.slice(0, 80)}`)].filter(Boolean);
}"""
"""Script that returns elements wider than the window or their parent, except in a part that scrolls sideways."""


def check_layout(started: Any, path: Path) -> None:
    """Check that nothing on a page is wider than the window in windows of three widths, and that nothing is loaded.

    The address of the page is the only request, and the browser reports no error.
    """
    with visit(started, path, WIDTHS[0]) as seen:
        wrong = list(seen.complaints)
        for width in WIDTHS:
            seen.page.set_viewport_size({"width": width, "height": 900})
            wrong += [f"in {width} px, {words}" for words in seen.page.evaluate(OVERFLOW)]
        assert not wrong, wrong  # assertions of this file are not rewritten by pytest
        assert [one for one in seen.requests if not one.startswith("data:")] == [path.resolve().as_uri()]

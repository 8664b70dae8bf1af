"""The HTML report of a build in a browser: layout, search, enlarged images."""

import itertools
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from celebahq_builder.pipeline import build_report
from celebahq_builder.pipeline.build_report import write_build_report
from celebahq_builder.run_directory.workspace import Workspace
from tests.browser import WIDTHS, check_layout, visit, wait_for_image
from tests.pipeline.report_page import EXAMPLE_STAGES, Page, page_examples, rewritten, scores_of

CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = parse(text).slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return (parse(color)[3] ?? 1) > 0 ? color : ground(element.parentElement);
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.getClientRects().length || ['title', 'desc'].includes(element.localName)) continue;
    const style = getComputedStyle(element);
    const ink = light(element.localName === 'text' ? style.fill : style.color);
    const paper = light(ground(element.localName === 'text' ? element.closest('figure') : element));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    found.push([ratio, element.localName + ' ' + element.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""
"""WCAG 2.2 contrast ratio of every visible text to what lies behind it, section 1.4.3."""


def test_layout(report_run: Workspace, chromium: Any) -> None:
    check_layout(chromium, report_run.report_path)


def test_search_and_order(report_run: Workspace, chromium: Any) -> None:
    scores = scores_of(report_run)
    with visit(chromium, report_run.report_path, 1400) as seen:
        page = seen.page
        grid = page.locator("#faces li")
        count = grid.count()
        page.get_by_label("Sort by").select_option("score")
        names = [one.get_attribute("data-name") for one in grid.all()]
        assert [scores[name] for name in names] == sorted((scores[name] for name in names), reverse=True)
        page.get_by_label("Sort by").select_option("name")
        assert [one.get_attribute("data-name") for one in grid.all()] == sorted(names)
        page.get_by_label("Search").fill(names[0].upper())
        assert page.locator("#faces li:visible").count() == 1
        assert f"1 of {count} in Faces" in page.locator(".tools output").inner_text()
        page.get_by_label("Search").fill("file_missing")
        assert page.locator("#faces li:visible").count() == 0
        missing = json.loads(report_run.summary_path.read_text())["reasons"]["FILE_MISSING"]
        assert page.locator("#left-out tbody tr:visible").count() == missing
        page.get_by_label("Search").fill("")
        assert page.locator("#faces li:visible").count() == count
        assert seen.complaints == []


def test_enlarged_image_with_the_keyboard(report_run: Workspace, chromium: Any) -> None:
    """The image itself is shown in full size, then beside its crop, then the photo; Escape leads back."""
    with visit(chromium, report_run.report_path, 1400) as seen:
        page, dialog = seen.page, seen.page.locator("dialog")
        page.locator("#faces a.enlarge").nth(1).focus()
        page.keyboard.press("Enter")
        assert dialog.is_visible()
        wait_for_image(page)
        shown = dialog.locator(".stage img")
        assert shown.get_attribute("src").endswith(".png")
        assert shown.evaluate("one => [one.naturalWidth, one.clientWidth]") == [64, 64]
        page.keyboard.press("ArrowLeft")
        first = page.locator("#faces figcaption").first.inner_text().split()[0]
        assert first in dialog.locator("h2").inner_text()
        dialog.get_by_role("button", name="Compare").focus()
        page.keyboard.press("Enter")
        slider = dialog.locator("input[type=range]")
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert dialog.locator(".stage").evaluate("one => one.style.getPropertyValue('--at')") == "51%"
        box = dialog.locator(".pair").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 5)
        page.mouse.up()
        assert abs(int(slider.input_value()) - 25) <= 1
        dialog.get_by_role("button", name="Photo").click()
        assert dialog.locator(".stage svg circle").count() == 5
        assert dialog.locator(".stage svg polygon").count() == 1
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        page.locator("#faces li:first-child a.enlarge:focus").wait_for()
        assert seen.complaints == []


STAGE = """([shares]) => {
  const stage = document.querySelector('dialog .stage');
  const room = [stage.scrollWidth - stage.clientWidth, stage.scrollHeight - stage.clientHeight];
  if (shares) stage.scrollTo(...shares.map((share, i) => share * room[i]));
  const [area, image] = [stage, stage.firstElementChild].map((one) => one.getBoundingClientRect());
  return { left: image.left - area.left, right: area.right - image.right, top: image.top - area.top,
    bottom: area.bottom - image.bottom, width: image.width };
}"""
"""Script that scrolls the viewer, and returns how far its image is inside of it on each side, and how wide it is."""


@pytest.mark.parametrize("width", WIDTHS)
def test_enlarged_image_can_be_judged_in_any_window(report_copy: Workspace, chromium: Any, width: int) -> None:
    """It is whole where the window is too narrow, and at 100 % every part of it can be reached, also of the photo."""
    page_links = [values["href"] for values in rewritten(report_copy).all("a") if values.get("class") == "enlarge"]
    for address in page_links[:2]:
        path = report_copy.report_path.parent / unquote(address)
        Image.effect_noise((1024, 1024), 50).convert("RGB").save(path)
    with visit(chromium, report_copy.report_path, width) as seen:
        page, dialog = seen.page, seen.page.locator("dialog")
        whole = dialog.get_by_role("button", name="100 %")

        def at(*shares: float) -> dict[str, float]:
            return page.evaluate(STAGE, [shares or None])

        def in_middle() -> tuple[float, float]:
            found = at()
            return found["left"] - found["right"], found["top"] - found["bottom"]

        def loaded() -> None:
            wait_for_image(page)
            assert dialog.locator(".stage img").first.evaluate("one => one.naturalWidth") == 1024

        page.locator("#faces a.enlarge").first.click()
        loaded()
        if width < 1024:
            assert whole.get_attribute("aria-pressed") == "false"
            assert min(at().values()) > -1
            whole.click()
        for mode in ("Result", "Compare"):
            dialog.get_by_role("button", name=mode).click()
            loaded()
            assert whole.get_attribute("aria-pressed") == "true"
            assert max(map(abs, in_middle())) < 4  # scroll positions are whole px
            assert (at(0, 0)["width"], at()["top"], min(at()["left"], 0)) == (1024, 0, 0)
            assert (abs(at(1, 1)["bottom"]) < 1, min(at()["right"], 0) > -1) == (True, True)
            at(0, 0)
            page.keyboard.press("ArrowRight")  # to see the same part of the next face
            assert "2 of" in dialog.locator("h2").inner_text()
            loaded()
            assert at()["top"] == 0
            page.keyboard.press("ArrowLeft")
            area = dialog.locator(".stage").bounding_box()
            x, y = area["x"] + area["width"] / 2 + 60, area["y"] + area["height"] / 2
            loaded()
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(x, y - 40)
            page.mouse.up()
            assert at()["top"] == -40
            whole.click()
            assert min(at().values()) > -1
            whole.click()
            assert at()["top"] == -40
            at(0.5, 0.5)
        dialog.get_by_role("button", name="Photo").click()
        drawn = dialog.locator(".stage svg")
        assert whole.get_attribute("aria-pressed") == "false"
        photo = page.evaluate("document.querySelector('dialog svg').dataset.photo")
        with Image.open(report_copy.report_path.parent / unquote(photo)) as opened:
            photo_px = opened.width
        wait_for_image(page)
        dot_px = drawn.locator("circle").first.bounding_box()["width"]
        whole.click()
        assert at()["width"] == photo_px
        assert drawn.locator("circle").first.bounding_box()["width"] == pytest.approx(dot_px, abs=1)
        assert seen.complaints == []


def test_enlarged_image_of_any_list_has_its_photo(
    report_copy: Workspace, chromium: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_report, "SMALL_RUN", 0)
    write_build_report(report_copy)
    with visit(chromium, report_copy.report_path, 1400) as seen:
        page, dialog = seen.page, seen.page.locator("dialog")
        for section in ("#sheets", "#spectra", "#kept"):
            link = page.locator(f"{section} a.enlarge").first
            name = link.evaluate("link => link.closest('[data-name]').dataset.name")
            link.click()
            dialog.get_by_role("button", name="Photo").click()
            assert dialog.locator(".stage svg").get_attribute("aria-label").startswith(f"{name}, ")
            assert dialog.locator(".stage svg circle").count() == 5
            page.keyboard.press("Escape")


def test_stages_of_an_example_are_enlarged_in_order(report_run: Workspace, chromium: Any) -> None:
    with visit(chromium, report_run.report_path, 1400) as seen:
        seen.page.locator("#examples a.enlarge").first.click()
        titles = []
        for _ in EXAMPLE_STAGES:
            wait_for_image(seen.page)
            titles.append(seen.page.locator("dialog h2").inner_text().partition("  ")[0])
            assert seen.page.locator("dialog .stage img").evaluate("one => one.naturalWidth") == 768
            seen.page.keyboard.press("ArrowRight")
        assert all(title.startswith(f"{page_examples(report_run)[0]}, ") for title in titles)
        assert len(set(titles)) == 4
        assert seen.complaints == []


def test_page_without_its_run_shows_the_thumbnail(report_run: Workspace, chromium: Any, tmp_path: Path) -> None:
    moved = Path(shutil.copy(report_run.report_path, tmp_path / "report.html"))
    with visit(chromium, moved, 1400) as seen:
        seen.page.locator("#faces a.enlarge").first.click()
        seen.page.wait_for_selector("dialog .stage p")
        assert seen.page.locator("dialog .stage img").get_attribute("src").startswith("data:image/jpeg")


def test_values_of_a_chart(report_run: Workspace, chromium: Any) -> None:
    with visit(chromium, report_run.report_path, 1400) as seen:
        chart = seen.page.locator("#distributions figure").first
        chart.locator("g.bin").last.hover()
        assert re.fullmatch(r"\S+ to \S+: \d+ kept, \d+ not", chart.locator(".readout").inner_text())
        chart.locator("svg").focus()
        last = chart.locator(".readout").inner_text()
        seen.page.keyboard.press("Home")
        assert chart.locator(".readout").inner_text() != last


def test_page_without_scripts(report_run: Workspace, chromium: Any) -> None:
    context = chromium.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(report_run.report_path.as_uri())
        assert not page.locator("form.tools").is_visible()
        page.locator("#faces summary").first.click()
        assert page.locator("#faces details svg").first.is_visible()
    finally:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_fits_the_screen(report_run: Workspace, chromium: Any, width: int, scheme: str) -> None:
    with visit(chromium, report_run.report_path, width, scheme) as seen:
        page = seen.page
        assert page.locator("h1").is_visible()
        images = page.evaluate(
            "[...document.querySelectorAll('img:not(.crop)')].map((i) => [i.complete, i.naturalWidth, i.clientWidth])"
        )
        assert len(images) == len([1 for values in Page(report_run).all("img") if values.get("class") != "crop"])
        assert all(complete and natural > 0 and shown > 0 for complete, natural, shown in images)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 100
        assert [one for one in contrasts if one[0] < 4.5] == []
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(246, 245, 242)", "dark": "rgb(21, 23, 26)"}[scheme]
        assert seen.complaints == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [
            report_run.report_path.resolve().as_uri()
        ]


def test_stages_of_an_example_are_side_by_side(report_run: Workspace, chromium: Any) -> None:
    for width, columns in ((1400, 4), (400, 2)):
        with visit(chromium, report_run.report_path, width) as seen:
            for steps in seen.page.locator(".steps").all():
                for kind in ("whole", "detail"):
                    boxes = [image.bounding_box() for image in steps.locator(f"img.{kind}").all()]
                    assert [len(row) for row in rows_of(boxes)] == [columns] * (4 // columns)
            detail = seen.page.locator("img.detail").first
            assert detail.bounding_box()["height"] == 192  # pixel by pixel: where it is narrower, it is cut
            assert detail.evaluate("(image) => getComputedStyle(image).objectFit") == "none"


def rows_of(boxes: Sequence[dict[str, float]]) -> list[list[dict[str, float]]]:
    """Boxes that start at the same height, left to right without overlap."""
    rows: dict[float, list[dict[str, float]]] = {}
    for box in boxes:
        rows.setdefault(round(box["y"]), []).append(box)
    for row in rows.values():
        for left, right in itertools.pairwise(row):
            assert left["x"] + left["width"] <= right["x"]
    return list(rows.values())

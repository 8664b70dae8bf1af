"""The HTML report of a build: content, images, markup, and layout in a browser."""

import base64
import html
import io
import itertools
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from celebahq_builder.html import charts, duration, render_page, thumbnails
from celebahq_builder.imaging.warp import warp_quad
from celebahq_builder.models.registry import find_entry
from celebahq_builder.outcome import Failed, Kept, Reason, Rejected
from celebahq_builder.pipeline import build_report, report_images
from celebahq_builder.pipeline import build_report as report_page
from celebahq_builder.pipeline.build_report import BuildProgress
from celebahq_builder.pipeline.face import Face
from celebahq_builder.pipeline.results import photo_statuses
from celebahq_builder.pipeline.stages.score import ScoreStage
from celebahq_builder.pipeline.stages.select import SelectSettings
from celebahq_builder.progress import size
from celebahq_builder.run_directory.timings import StageTime, read_timings
from celebahq_builder.run_directory.workspace import Workspace
from tests.browser import WIDTHS, check_layout, visit, wait_for_image
from tests.conftest import SAMPLE, TINY, build_tiny
from tests.reference.outcomes import outcomes

HOSTILE = "<b>&\"'.jpg"
"""A good photo whose name is markup."""

LONG = f"{'x' * 120}.jpg"
"""A missing photo whose name is wider than a window."""

UNLUCKY = "000008.jpg"
"""A photo for which a stage raises an unexpected error."""

EXAMPLE_STAGES = ("crop", "denoise", "upscale", "align")

TIMES_4 = "4\N{MULTIPLICATION SIGN}"
"""The upscaler's factor on a page."""

VOID = {"meta", "img", "wbr", "link", "br", "hr", "input"}


def bad_sample(root: Path) -> Path:
    """The sample with a missing file, an empty one, an unlisted one, a row without numbers, and odd names."""
    shutil.copytree(SAMPLE, root)
    photos, table = root / "img_celeba", root / "Anno" / "list_landmarks_celeba.txt"
    rows = table.read_text().splitlines()
    good = next(row for row in rows if row.startswith("000003.jpg")).split(maxsplit=1)[1]
    shutil.copy(photos / "000003.jpg", photos / HOSTILE)
    shutil.copy(photos / "000003.jpg", photos / "<i>unlisted.jpg")
    (photos / "empty&lt;.jpg").touch()
    rows += [f"{name} {good}" for name in (HOSTILE, "empty&lt;.jpg", LONG)] + ["<u>nonsense.jpg 1 2 x"]
    table.write_text("\n".join([str(len(rows) - 2), *rows[1:]]) + "\n")
    return root


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished run with photos of many outcomes; do not change it, copy it."""
    folder = tmp_path_factory.mktemp("report")
    root = bad_sample(folder / "celeba")
    run = ScoreStage.run

    def sometimes(stage: ScoreStage, faces: Sequence[Face], *arguments: Any) -> list[Face]:
        if any(face.photo.file == UNLUCKY for face in faces):
            raise RuntimeError("<script>alert('a bug')</script>")
        return run(stage, faces, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreStage, "run", sometimes)
        build_tiny(folder / "run", root, recipe=replace(TINY, select=SelectSettings(keep=8)), limit=None)
    return Workspace(folder / "run")


@pytest.fixture
def copy(run: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the run, to be changed at will."""
    return Workspace(Path(shutil.copytree(run.root, tmp_path / "run")))


def images(workspace: Workspace) -> report_images.ReportImages:
    return report_images.ReportImages(workspace, workspace.run())


def scores_of(workspace: Workspace) -> dict[str, float]:
    scored = (one for _, one in workspace.stage("score").outcomes() if isinstance(one, Kept))
    return {one.photo: one.record["score"]["score"] for one in scored}


def page_examples(workspace: Workspace) -> list[str]:
    """Names of the photos shown at every stage, in the order of the page."""
    return [one.status.name for one in images(workspace).examples(photo_statuses(workspace))]


class Page(HTMLParser):
    """A page's elements and texts."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}
        """Text by id, or by value of a data attribute."""
        self.tables: list[list[list[str]]] = []
        """Texts of the cells of each row of each table."""
        self.text = ""
        self.open: list[tuple[str, str]] = []
        self.feed(workspace.report_path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open, "elements that are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, values))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append((tag, values.get("id") or values.get("data-reason") or values.get("data-note") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        for tag, name in self.open:
            self.texts[name] = self.texts.get(name, "") + data
            if tag in ("td", "th"):
                self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [values for name, values in self.elements if name == tag]

    @property
    def rows(self) -> list[list[str]]:
        """The rows of all tables."""
        return [row for rows in self.tables for row in rows]

    def left_out(self) -> list[list[str]]:
        """The rows of the table of photos left out: image, file, reason, what was found."""
        head = ["", "file", "reason", "what was found"]
        return next(rows[1:] for rows in self.tables if rows[0] == head)

    def row(self, file: str) -> str:
        """The row of that table that is headed by a file name."""
        return " ".join(next(row for row in self.left_out() if row[1] == file))


def open_image(uri: str) -> Image.Image:
    kind, data = uri.split(",", 1)
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_counts_are_those_of_the_summary(run: Workspace) -> None:
    page, summary = Page(run), json.loads(run.summary_path.read_text())
    assert summary["failed"] == 1
    assert len(summary["reasons"]) >= 6
    for name in ("photos", "kept", "rejected", "failed"):
        assert page.texts[f"count-{name}"] == str(summary[name])
    assert {name: int(page.texts[name]) for name in summary["reasons"]} == summary["reasons"]
    headline = f"{summary['kept']} of {summary['photos']} photos kept"
    assert page.texts[""].strip().startswith(f"run: build report, {headline}")
    for reason in summary["reasons"]:
        assert Reason(reason).describe in page.text


def test_stages_lose_no_photo(run: Workspace) -> None:
    counts = build_report.stage_counts(run.run(), run.read_state(), photo_statuses(run))
    assert [count.names[-1] for count in counts] == ["landmark table", "align", "score", "select", "pack"]
    for before, after in itertools.pairwise(counts):
        assert after.entered == before.kept
    for count in counts:
        assert count.kept + count.rejected + count.failed == count.entered
    rows = {row[0]: row[1:5] for row in Page(run).rows if len(row) == 6}
    for count in counts:
        numbers = [count.entered, count.kept, count.rejected, count.failed]
        assert rows[", ".join(count.names)] == [str(number) for number in numbers]


def test_statuses_are_those_of_the_manifests(run: Workspace) -> None:
    stood, ended = photo_statuses(run), list(outcomes(run))
    assert [one.file for one in stood] == [one.photo for one in ended]
    for one, end in zip(stood, ended, strict=True):
        if isinstance(end, Kept):
            assert one.end is None
            record = end.record
            expected = (record["identity"]["id"], record["score"]["score"], record["crop"]["zoom"])
            assert (one.id, one.score, one.zoom) == expected
            assert list(one.notes) == end.record["crop"]["notes"]
        else:
            assert one.end == end


def test_notes_of_the_decoder_are_counted(run: Workspace) -> None:
    kept = [one for _, one in run.stage("align").outcomes() if isinstance(one, Kept)]
    notes = Counter(note for one in kept for note in one.record["crop"]["notes"])
    page = Page(run)
    assert notes["grey"] >= 1
    assert {note: int(page.texts[note]) for note in notes} == notes


def test_every_photo_left_out_is_shown_with_its_reason(run: Workspace) -> None:
    page = Page(run)
    captions = [values["alt"].rpartition(", score ")[0] for values in page.all("img")]
    for one in outcomes(run):
        if isinstance(one, Rejected) and one.reason is Reason.LOW_SCORE:
            assert one.photo in captions
        elif isinstance(one, Rejected):
            assert one.reason.describe in page.row(one.photo)
            assert one.reason.value in page.row(one.photo)
            assert one.detail in page.row(one.photo)
        elif isinstance(one, Failed):
            assert one.error in page.row(one.photo)


def test_names_and_errors_are_text_not_markup(run: Workspace) -> None:
    page = Page(run)
    assert not {"b", "i", "u"} & {tag for tag, _ in page.elements}
    assert len(page.all("script")) == 1
    assert HOSTILE in page.text
    assert "empty&lt;.jpg" in page.text
    assert "<script>alert('a bug')</script>" in page.row(UNLUCKY)


def test_page_is_self_contained(run: Workspace) -> None:
    page = Page(run)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    assert page.all("script") == [{}]
    for tag, values in page.elements:
        for name in ("src", "srcset", "poster", "action", "data"):
            assert values.get(name, "data:").startswith("data:"), (tag, values)
        assert not any(name.startswith("on") for name in values)
    style = run.report_path.read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_links_lead_to_files_and_sections_that_exist(run: Workspace) -> None:
    page = Page(run)
    ids = [values["id"] for _, values in page.elements if "id" in values]
    assert len(ids) == len(set(ids))
    targets = [values["href"] for values in page.all("a")]
    assert f"../{run.hdf5_path(64).name}" in targets
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in ids
        else:
            assert target.startswith(("../", "examples/"))
            assert (run.report_path.parent / unquote(target)).is_file()
    for _, values in page.elements:
        assert set(values.get("aria-labelledby", "").split()) <= set(ids)


def test_images_decode_and_are_described(run: Workspace) -> None:
    images = Page(run).all("img")
    assert len(images) > 8 * report_images.EXAMPLES
    for values in images:
        image = open_image(values["src"])
        image.load()
        assert image.size == (int(values["width"]), int(values["height"]))
        assert values["alt"]


def test_headings_and_tables_are_marked_up(run: Workspace) -> None:
    page = Page(run)
    assert len(page.all("h1")) == 1
    assert len(page.all("th")) > 20
    assert all(values.get("scope") in ("col", "row") for values in page.all("th"))
    charts = [values for values in page.all("svg") if "data-area" in values]
    assert [values["aria-labelledby"].split("-")[0] for values in charts] == ["scores", "zooms", "throughput"]
    named = [values for values in page.all("svg") if values.get("aria-labelledby") or values.get("aria-label")]
    assert named == [values for values in page.all("svg") if values["role"] == "img"] == page.all("svg")


def test_equal_runs_make_equal_pages(run: Workspace) -> None:
    before = run.report_path.read_bytes()
    report_page.write_build_report(run)
    assert run.report_path.read_bytes() == before


def test_examples_go_from_the_smallest_face_to_the_largest(run: Workspace) -> None:
    shown = images(run).examples(photo_statuses(run))
    zooms = [one.status.zoom for one in shown]
    assert len(shown) == report_images.EXAMPLES
    assert zooms == sorted(zooms, reverse=True)
    for one in shown:
        assert len(one.steps) == len(EXAMPLE_STAGES)
        for stage, step in zip(EXAMPLE_STAGES, one.steps, strict=True):
            whole = Image.open(run.example_path(one.status.id, stage))
            left, top = round(report_images.DETAIL[0] * whole.width), round(report_images.DETAIL[1] * whole.height)
            detail = np.asarray(open_image(step.detail.uri), dtype=np.int16)
            height, width, _ = detail.shape
            assert (width, height) == (320, 192)
            true = np.asarray(whole, dtype=np.int16)[top : top + height, left : left + width]
            assert np.abs(detail - true).mean() < 2  # the same pixels, but for one more JPEG compression


def test_examples_are_kept_photos_as_long_as_there_are_enough(run: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    stood = photo_statuses(run)
    monkeypatch.setattr(report_images, "EXAMPLES", 99)
    kept = [one.status.zoom for one in images(run).examples(stood) if one.status.end is None]
    assert len(kept) >= 3
    monkeypatch.setattr(report_images, "EXAMPLES", 2)
    shown = images(run).examples(stood)
    assert all(one.status.end is None for one in shown)
    assert [one.status.zoom for one in shown] == [max(kept), min(kept)]


def test_example_with_a_missing_image_is_not_shown(copy: Workspace) -> None:
    shown = images(copy).examples(photo_statuses(copy))
    gone = shown[0].status.id
    copy.example_path(gone, "denoise").write_bytes(b"torn")
    assert gone not in [one.status.id for one in images(copy).examples(photo_statuses(copy))]
    shutil.rmtree(copy.report_path.parent / "examples")
    report_page.write_build_report(copy)
    assert "Through the stages" not in Page(copy).text


def test_sheets_show_both_ends_and_the_best_below_the_cut(
    run: Workspace, copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_report, "SMALL_RUN", 0)
    monkeypatch.setattr(report_images, "SHEET", 3)
    scores = scores_of(run)
    kept = [one.photo for _, one in run.stage("select").outcomes() if isinstance(one, Kept)]
    low = sorted(set(scores) - set(kept), key=lambda file: (-scores[file], file))
    report_page.write_build_report(copy)
    page = Page(copy)
    alts = [values["alt"] for values in page.all("img")]
    wanted = [f"{file}, score {scores[file]:.3f}" for file in (*kept[:3], *kept[-3:], *low[:3])]
    assert [alt for alt in alts if ", score " in alt] == wanted
    [listed] = [rows for rows in page.tables if rows[0] == ["file", "id", "score", "zoom", "upscaled"]]
    assert [(row[0], row[-1]) for row in listed[1:]] == [(file, TIMES_4) for file in kept]
    assert len(low) > 3
    assert "LOW_SCORE" in page.row(low[-1])


def test_a_small_run_shows_each_face_once(run: Workspace) -> None:
    """The best face comes first; the list of kept photos and their sheets would repeat the faces."""
    page, statuses = Page(run), photo_statuses(run)
    scored = sorted((one for one in statuses if one.score is not None), key=lambda one: -(one.score or 0))
    links = [unquote(values["href"]) for values in page.all("a") if values.get("class") == "enlarge"]
    examples = [link for link in links if link.startswith("examples/")]
    assert len(examples) == len(EXAMPLE_STAGES) * len(page_examples(run))
    links = [link for link in links if link not in examples]
    assert links[: len(scored)] == [f"../stages/align/{one.image}" for one in scored]
    assert sorted(link.rpartition("/")[2] for link in links[len(scored) :]) == [
        "000008.jpg",
        "000014.jpg",
        "<i>unlisted.jpg",
    ]
    assert page.text.count(f", upscaled {TIMES_4}") == sum(one.end is None for one in statuses)
    assert "kept" not in [values.get("id") for values in page.all("section")]
    assert {"Below the cut", "Rejected and failed"} <= {text.strip() for text in page.texts.values()}


def test_a_small_run_without_aligned_images_lists_its_photos(tmp_path: Path) -> None:
    build_tiny(tmp_path / "run", until="crop")
    page = Page(Workspace(tmp_path / "run"))
    assert page.texts["count-kept"] == "5"
    assert page.texts.get("faces-title") is None
    [kept] = [rows for rows in page.tables if rows[0] == ["file", "id", "score", "zoom", "upscaled"]]
    assert len(kept) == 1 + 5
    assert [row[-1] for row in kept[1:]] == [""] * 5


def test_spectra_of_both_ends_of_the_ranking(run: Workspace, copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_images, "SPECTRA", 2)
    scores = scores_of(run)
    ranked = sorted(scores, key=lambda file: (-scores[file], file))
    report_page.write_build_report(copy)
    alts = [values["alt"] for values in Page(copy).all("img")]
    begin = "power spectrum of "
    assert [alt.removeprefix(begin) for alt in alts if alt.startswith(begin)] == [*ranked[:2], *ranked[-2:]]
    monkeypatch.setattr(report_images, "SPECTRA", len(ranked))
    report_page.write_build_report(copy)
    assert len([1 for values in Page(copy).all("img") if values["alt"].startswith(begin)]) == len(ranked)


def test_source_photos_are_shown_while_they_exist(copy: Workspace, tmp_path: Path) -> None:
    description = json.loads(copy.run_path.read_text())
    photos = Path(shutil.copytree(description["source"], tmp_path / "photos"))
    copy.run_path.write_text(json.dumps({**description, "source": str(photos)}))
    report_page.write_build_report(copy)
    before = Page(copy)
    shutil.rmtree(photos)
    report_page.write_build_report(copy)
    after = Page(copy)
    lost = [values["alt"] for values in before.all("img") if values not in after.all("img")]
    crops = [alt for alt in lost if alt.endswith(", crop of the photo")]
    assert len(crops) == int(before.texts["count-kept"])
    assert sorted(set(lost) - set(crops)) == ["000008.jpg", "000014.jpg", "<i>unlisted.jpg"]
    assert before.rows == after.rows


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


def test_missing_results_cost_only_their_thumbnails(copy: Workspace) -> None:
    before = Page(copy)
    shutil.rmtree(copy.stage("align").root / "images")
    report_page.write_build_report(copy)
    after = Page(copy)
    low = sum(", score " in values["alt"] for values in before.all("img"))
    assert after.text.count("no image") == low + int(before.texts["count-kept"])
    assert after.texts["count-kept"] == before.texts["count-kept"]


def test_long_lists_are_cut_with_a_note(copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_report, "ROWS", 4)
    monkeypatch.setattr(build_report, "ROW_THUMBNAILS", 1)
    left_out = Page(copy).left_out()
    assert len(left_out) > 4
    report_page.write_build_report(copy)
    page = Page(copy)
    assert page.left_out() == left_out[:4]
    assert "The list ends after 4; rejected.csv has all." in " ".join(page.text.split())
    assert "Only the first 1 have thumbnails." in page.text


def test_timings_are_summed_and_incomplete_lines_skipped(copy: Workspace) -> None:
    copy.timings_path.write_text(
        '{"batch": 0, "photos": 4, "seconds": {"crop": 1.0, "align": 2.0}}\n'
        '{"batch": 1, "photos": 2, "seconds": {"crop": 0.5}}\n'
        "17\n"
        f'{{"batch": 3, "photos": 1, "seconds": {{"crop": 1{"0" * 400}}}}}\n'
        '{"peak_memory_bytes": {"main": 3000000, "largest worker": 100}, "seconds": {}}\n'
        '{"peak_memory_bytes": {"main": 2000000, "largest worker": 200}, "seconds": {}}\n'
        '{"batch": 2, "photos": 2, "sec'
    )
    found = read_timings(copy.timings_path)
    assert found.stages == {"crop": StageTime(1.5, 6), "align": StageTime(2.0, 4)}
    assert found.stages["crop"].photos_per_s == 4.0
    assert found.peak_memory_bytes == {"main": 3000000, "largest worker": 200}
    report_page.write_build_report(copy)
    assert "main 3.0 MB, largest worker 200 bytes" in Page(copy).text
    copy.timings_path.unlink()
    report_page.write_build_report(copy)
    assert "No times were recorded." in Page(copy).text


def test_settings_versions_and_warnings_are_there(copy: Workspace) -> None:
    description = json.loads(copy.run_path.read_text())
    description["warnings"] = ["a <table> says 7 rows & has 8"]
    description["origins"] = {"select.keep": "some/where/else.toml"}
    copy.run_path.write_text(json.dumps(description))
    report_page.write_build_report(copy)
    page = Page(copy)
    assert "a <table> says 7 rows & has 8" in page.text
    rows = [row for row in page.rows if len(row) in (2, 3)]
    assert ["select.keep", "8", "some/where/else.toml"] in rows
    assert ["denoise.tile_px", str(description["recipe"]["denoise"]["tile_px"]), "default"] in rows
    upscaler = find_entry(description["recipe"]["upscale"]["weights"]).sha256
    assert ["upscale.weights_sha256", upscaler, "file of upscale.weights"] in rows
    for name, version in description["versions"].items():
        assert [name, version] in rows


def test_report_of_an_unfinished_run(copy: Workspace) -> None:
    kept = json.loads(copy.summary_path.read_text())["kept"]
    for name in ("select", "pack"):
        copy.stage(name).discard()
    copy.hdf5_path(64).unlink()
    manifests = sorted((copy.stage("align").root / "batches").iterdir())
    for stage in ("align", "score"):
        (copy.stage(stage).root / "batches" / manifests[-1].name).unlink()
        copy.stage(stage).mark_path.unlink()
    report_page.write_build_report(copy)
    page = Page(copy)
    assert "Unfinished." in page.text
    assert "The build was interrupted; the same command resumes it." in " ".join(page.text.split())
    assert "Newest faces" not in page.text
    assert "No data set of these photos has been packed yet." in page.text
    assert "selection.csv" not in page.text  # a run that grows still has that of the run before
    assert int(page.texts["count-kept"]) > kept
    assert 'http-equiv="refresh"' not in copy.report_path.read_text()


def test_report_of_a_running_build(copy: Workspace) -> None:
    """It can be written from the first moment, refreshes itself, and shows the newest faces first."""
    for stage in ("align", "score", "select", "pack"):
        manifests = sorted((copy.stage(stage).root / "batches").glob("*"))
        for path in manifests[2:] if stage == "align" else manifests:
            path.unlink()
        copy.stage(stage).mark_path.unlink(missing_ok=True)
    report_page.write_build_report(copy, BuildProgress(photos_per_s=1.5, seconds_left=125.0))
    page, text = Page(copy), copy.report_path.read_text()
    assert "1.50 photos per second, about 2 min 5 s left" in page.text
    assert f'<noscript><meta http-equiv="refresh" content="{build_report.REFRESH_S}"></noscript>' in text
    assert "Newest faces" in page.text
    batches = {f"{one.file}": one.batch for one in photo_statuses(copy)}
    faces = text.split('id="faces"')[1].split("</section>")[0]
    shown = [html.unescape(name) for name in re.findall(r'<li data-name="([^"]*)"', faces)]
    assert [batches[name] for name in shown] == sorted((batches[name] for name in shown), reverse=True) != []
    for path in (copy.stage("align").root / "batches").iterdir():
        path.unlink()
    report_page.write_build_report(copy, BuildProgress(photos_per_s=None, seconds_left=None))
    assert Page(copy).texts["count-kept"] == "0"


def test_faces_are_chosen_at_random_but_always_the_same(
    run: Workspace, copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_report, "SMALL_RUN", 0)
    monkeypatch.setattr(build_report, "FACES", 4)
    kept = [one for one in photo_statuses(run) if one.end is None]
    chosen = [one.key for one in build_report._random(kept)]
    assert len(set(chosen)) == 4
    assert [one.key for one in build_report._random(kept[::-1])] == chosen
    report_page.write_build_report(copy)
    first = copy.report_path.read_text().split('id="faces"')[1].split("</section>")[0]
    assert [html.unescape(name) for name in re.findall(r'<li data-name="([^"]*)"', first)] == [f for f, _ in chosen]


def test_photo_and_crop_of_a_face(run: Workspace) -> None:
    """The crop is what an independent resampling of the photo gives; landmarks are where the table has them."""
    status = next(one for one in photo_statuses(run) if one.file == "000003.jpg")
    [(_, origin)] = images(run).faces([status])
    assert origin is not None
    record = next(one.record for _, one in run.stage("align").outcomes() if one.photo == status.file)
    quad, photo = np.array(record["crop"]["quad"]), Image.open(SAMPLE / "img_celeba" / status.file)
    scale = origin.photo.thumbnail.width_px / photo.width
    points = np.reshape(record["identity"]["landmarks"], (5, 2))
    np.testing.assert_allclose(origin.photo.faces[0].points, (points + 0.5) * scale, atol=0.051)
    crop = np.asarray(open_image(origin.crop.uri), dtype=np.float64)
    side, pixels = len(crop), torch.from_numpy(np.asarray(photo).transpose(2, 0, 1).copy())
    wanted = warp_quad(pixels, quad, side, supersampling=4).numpy().transpose(1, 2, 0)
    inner = slice(side // 4, -side // 4)
    assert np.abs(crop[inner, inner] - wanted[inner, inner]).mean() < 4


def test_photo_of_a_turned_face_is_upright(copy: Workspace, tmp_path: Path) -> None:
    description = json.loads(copy.run_path.read_text())
    photos = Path(shutil.copytree(description["source"], tmp_path / "photos"))
    copy.run_path.write_text(json.dumps({**description, "source": str(photos)}))
    status = next(one for one in photo_statuses(copy) if one.file == "000003.jpg")
    [(_, plain)] = images(copy).faces([status])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter; the stored pixels, and so landmarks and crop, are as before
    with Image.open(photos / status.file) as image:
        image.save(photos / status.file, exif=exif, quality=95)
    [(_, turned)] = images(copy).faces([status])
    assert plain is not None
    assert turned is not None
    size = plain.photo.thumbnail.width_px, plain.photo.thumbnail.height_px
    assert (turned.photo.thumbnail.height_px, turned.photo.thumbnail.width_px) == size
    expected = [(size[1] - y, x) for x, y in plain.photo.faces[0].points]
    np.testing.assert_allclose(turned.photo.faces[0].points, expected, atol=0.5)


def test_page_is_bounded_for_all_of_celeba(copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of 202,599 photos has no more images and rows than the bound says."""
    monkeypatch.setattr(build_report, "ROWS", 500)
    real = [one for one in photo_statuses(copy) if one.score is not None]
    count = 202_599
    statuses = [replace(real[i % len(real)], file=f"{i:06d}.jpg", id=f"{i:06d}", end=None) for i in range(count)]
    for status in statuses[30_000:]:
        status.end = Rejected(status.file, Reason.LOW_SCORE if int(status.id) % 50 else Reason.CROP_TOO_SMALL, "why")
    contents = build_report._contents(copy, statuses, None)
    assert len(contents["rows"]) == len(contents["kept"]) == build_report.ROWS
    page = render_page("build.html.j2", contents).decode()
    assert page.count("<tr") < 2 * build_report.ROWS + 200
    assert page.count("<img ") + page.count("<image ") <= 536
    assert f"The list ends after {build_report.ROWS:,}" in page


def test_throughput_counts_the_time_of_work_only() -> None:
    """Two runs of 10 s with a day between them: 2 photos/s, then 4 photos/s."""
    begin, day = 1000.0, 86_400.0
    batches = [(begin, 0), *((begin + t, 2) for t in range(1, 11)), (begin + day, 0)]
    batches += [(begin + day + t, 4) for t in range(1, 11)]
    found = build_report._throughput(batches, "photos")
    assert found is not None
    chart, unit = found
    assert unit == "minutes of work"
    assert chart.y_range == pytest.approx((0, 4))
    assert chart.x_range == pytest.approx((0.5 / 60, 19.5 / 60))
    assert build_report._throughput(batches[:2], "photos") is None
    assert build_report._throughput([], "photos") is None


@pytest.mark.parametrize(
    ("value", "words"), [(12, "12 bytes"), (1200, "1.2 kB"), (25_340_000, "25.3 MB"), (2.5e12, "2,500.0 GB")]
)
def test_sizes_in_words(value: int, words: str) -> None:
    assert size(value) == words


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


def test_layout(run: Workspace, chromium: Any) -> None:
    check_layout(chromium, run.report_path)


def test_search_and_order(run: Workspace, chromium: Any) -> None:
    scores = scores_of(run)
    with visit(chromium, run.report_path, 1400) as seen:
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
        missing = json.loads(run.summary_path.read_text())["reasons"]["FILE_MISSING"]
        assert page.locator("#left-out tbody tr:visible").count() == missing
        page.get_by_label("Search").fill("")
        assert page.locator("#faces li:visible").count() == count
        assert seen.complaints == []


def test_enlarged_image_with_the_keyboard(run: Workspace, chromium: Any) -> None:
    """The image itself is shown in full size, then beside its crop, then the photo; Escape leads back."""
    with visit(chromium, run.report_path, 1400) as seen:
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
def test_enlarged_image_can_be_judged_in_any_window(copy: Workspace, chromium: Any, width: int) -> None:
    """It is whole where the window is too narrow, and at 100 % every part of it can be reached, also of the photo."""
    report_page.write_build_report(copy)  # links to the photos
    page_links = [values["href"] for values in Page(copy).all("a") if values.get("class") == "enlarge"]
    for address in page_links[:2]:
        path = copy.report_path.parent / unquote(address)
        Image.effect_noise((1024, 1024), 50).convert("RGB").save(path)
    with visit(chromium, copy.report_path, width) as seen:
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
        with Image.open(copy.report_path.parent / unquote(photo)) as opened:
            photo_px = opened.width
        wait_for_image(page)
        dot_px = drawn.locator("circle").first.bounding_box()["width"]
        whole.click()
        assert at()["width"] == photo_px
        assert drawn.locator("circle").first.bounding_box()["width"] == pytest.approx(dot_px, abs=1)
        assert seen.complaints == []


def test_enlarged_image_of_any_list_has_its_photo(
    copy: Workspace, chromium: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_report, "SMALL_RUN", 0)
    report_page.write_build_report(copy)
    with visit(chromium, copy.report_path, 1400) as seen:
        page, dialog = seen.page, seen.page.locator("dialog")
        for section in ("#sheets", "#spectra", "#kept"):
            link = page.locator(f"{section} a.enlarge").first
            name = link.evaluate("link => link.closest('[data-name]').dataset.name")
            link.click()
            dialog.get_by_role("button", name="Photo").click()
            assert dialog.locator(".stage svg").get_attribute("aria-label").startswith(f"{name}, ")
            assert dialog.locator(".stage svg circle").count() == 5
            page.keyboard.press("Escape")


def test_stages_of_an_example_are_enlarged_in_order(run: Workspace, chromium: Any) -> None:
    with visit(chromium, run.report_path, 1400) as seen:
        seen.page.locator("#examples a.enlarge").first.click()
        titles = []
        for _ in EXAMPLE_STAGES:
            wait_for_image(seen.page)
            titles.append(seen.page.locator("dialog h2").inner_text().partition("  ")[0])
            assert seen.page.locator("dialog .stage img").evaluate("one => one.naturalWidth") == 768
            seen.page.keyboard.press("ArrowRight")
        assert all(title.startswith(f"{page_examples(run)[0]}, ") for title in titles)
        assert len(set(titles)) == 4
        assert seen.complaints == []


def test_page_without_its_run_shows_the_thumbnail(run: Workspace, chromium: Any, tmp_path: Path) -> None:
    moved = Path(shutil.copy(run.report_path, tmp_path / "report.html"))
    with visit(chromium, moved, 1400) as seen:
        seen.page.locator("#faces a.enlarge").first.click()
        seen.page.wait_for_selector("dialog .stage p")
        assert seen.page.locator("dialog .stage img").get_attribute("src").startswith("data:image/jpeg")


def test_values_of_a_chart(run: Workspace, chromium: Any) -> None:
    with visit(chromium, run.report_path, 1400) as seen:
        chart = seen.page.locator("#distributions figure").first
        chart.locator("g.bin").last.hover()
        assert re.fullmatch(r"\S+ to \S+: \d+ kept, \d+ not", chart.locator(".readout").inner_text())
        chart.locator("svg").focus()
        last = chart.locator(".readout").inner_text()
        seen.page.keyboard.press("Home")
        assert chart.locator(".readout").inner_text() != last


def test_page_without_scripts(run: Workspace, chromium: Any) -> None:
    context = chromium.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(run.report_path.as_uri())
        assert not page.locator("form.tools").is_visible()
        page.locator("#faces summary").first.click()
        assert page.locator("#faces details svg").first.is_visible()
    finally:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_fits_the_screen(run: Workspace, chromium: Any, width: int, scheme: str) -> None:
    with visit(chromium, run.report_path, width, scheme) as seen:
        page = seen.page
        assert page.locator("h1").is_visible()
        images = page.evaluate(
            "[...document.querySelectorAll('img:not(.crop)')].map((i) => [i.complete, i.naturalWidth, i.clientWidth])"
        )
        assert len(images) == len([1 for values in Page(run).all("img") if values.get("class") != "crop"])
        assert all(complete and natural > 0 and shown > 0 for complete, natural, shown in images)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 100
        assert [one for one in contrasts if one[0] < 4.5] == []
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(246, 245, 242)", "dark": "rgb(21, 23, 26)"}[scheme]
        assert seen.complaints == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [run.report_path.resolve().as_uri()]


def test_stages_of_an_example_are_side_by_side(run: Workspace, chromium: Any) -> None:
    for width, columns in ((1400, 4), (400, 2)):
        with visit(chromium, run.report_path, width) as seen:
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

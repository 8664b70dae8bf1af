"""The HTML report of a build: counts, lists, tables and markup."""

import html
import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from celebahq_builder.html import render_page
from celebahq_builder.models.registry import find_entry
from celebahq_builder.outcome import Failed, Kept, Reason, Rejected
from celebahq_builder.pipeline import build_report
from celebahq_builder.pipeline.build_report import BuildProgress, write_build_report
from celebahq_builder.pipeline.results import photo_statuses
from celebahq_builder.run_directory.timings import StageTime, read_timings
from celebahq_builder.run_directory.workspace import Workspace
from tests.conftest import build_tiny
from tests.pipeline.report_page import EXAMPLE_STAGES, HOSTILE, TIMES_4, UNLUCKY, Page, page_examples, rewritten
from tests.reference.outcomes import outcomes


def test_counts_are_those_of_the_summary(report_run: Workspace) -> None:
    page, summary = Page(report_run), json.loads(report_run.summary_path.read_text())
    assert summary["failed"] == 1
    assert len(summary["reasons"]) >= 6
    for name in ("photos", "kept", "rejected", "failed"):
        assert page.texts[f"count-{name}"] == str(summary[name])
    assert {name: int(page.texts[name]) for name in summary["reasons"]} == summary["reasons"]
    headline = f"{summary['kept']} of {summary['photos']} photos kept"
    assert page.texts[""].strip().startswith(f"run: build report, {headline}")
    for reason in summary["reasons"]:
        assert Reason(reason).describe in page.text


def test_stages_lose_no_photo(report_run: Workspace) -> None:
    counts = build_report.stage_counts(report_run.run(), report_run.read_state(), photo_statuses(report_run))
    assert [count.names[-1] for count in counts] == ["landmark table", "align", "score", "select", "pack"]
    for before, after in itertools.pairwise(counts):
        assert after.entered == before.kept
    for count in counts:
        assert count.kept + count.rejected + count.failed == count.entered
    rows = {row[0]: row[1:5] for row in Page(report_run).rows if len(row) == 6}
    for count in counts:
        numbers = [count.entered, count.kept, count.rejected, count.failed]
        assert rows[", ".join(count.names)] == [str(number) for number in numbers]


def test_statuses_are_those_of_the_manifests(report_run: Workspace) -> None:
    stood, ended = photo_statuses(report_run), list(outcomes(report_run))
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


def test_notes_of_the_decoder_are_counted(report_run: Workspace) -> None:
    kept = [one for _, one in report_run.stage("align").outcomes() if isinstance(one, Kept)]
    notes = Counter(note for one in kept for note in one.record["crop"]["notes"])
    page = Page(report_run)
    assert notes["grey"] >= 1
    assert {note: int(page.texts[note]) for note in notes} == notes


def test_every_photo_left_out_is_shown_with_its_reason(report_run: Workspace) -> None:
    page = Page(report_run)
    captions = [values["alt"].rpartition(", score ")[0] for values in page.all("img")]
    for one in outcomes(report_run):
        if isinstance(one, Rejected) and one.reason is Reason.LOW_SCORE:
            assert one.photo in captions
        elif isinstance(one, Rejected):
            assert one.reason.describe in page.row(one.photo)
            assert one.reason.value in page.row(one.photo)
            assert one.detail in page.row(one.photo)
        elif isinstance(one, Failed):
            assert one.error in page.row(one.photo)


def test_names_and_errors_are_text_not_markup(report_run: Workspace) -> None:
    page = Page(report_run)
    assert not {"b", "i", "u"} & {tag for tag, _ in page.elements}
    assert len(page.all("script")) == 1
    assert HOSTILE in page.text
    assert "empty&lt;.jpg" in page.text
    assert "<script>alert('a bug')</script>" in page.row(UNLUCKY)


def test_page_is_self_contained(report_run: Workspace) -> None:
    page = Page(report_run)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    assert page.all("script") == [{}]
    for tag, values in page.elements:
        for name in ("src", "srcset", "poster", "action", "data"):
            assert values.get(name, "data:").startswith("data:"), (tag, values)
        assert not any(name.startswith("on") for name in values)
    style = report_run.report_path.read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_links_lead_to_files_and_sections_that_exist(report_run: Workspace) -> None:
    page = Page(report_run)
    ids = [values["id"] for _, values in page.elements if "id" in values]
    assert len(ids) == len(set(ids))
    targets = [values["href"] for values in page.all("a")]
    assert f"../{report_run.hdf5_path(64).name}" in targets
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in ids
        else:
            assert target.startswith(("../", "examples/"))
            assert (report_run.report_path.parent / unquote(target)).is_file()
    for _, values in page.elements:
        assert set(values.get("aria-labelledby", "").split()) <= set(ids)


def test_headings_and_tables_are_marked_up(report_run: Workspace) -> None:
    page = Page(report_run)
    assert len(page.all("h1")) == 1
    assert len(page.all("th")) > 20
    assert all(values.get("scope") in ("col", "row") for values in page.all("th"))
    charts = [values for values in page.all("svg") if "data-area" in values]
    assert [values["aria-labelledby"].split("-")[0] for values in charts] == ["scores", "zooms", "throughput"]
    named = [values for values in page.all("svg") if values.get("aria-labelledby") or values.get("aria-label")]
    assert named == [values for values in page.all("svg") if values["role"] == "img"] == page.all("svg")


def test_equal_runs_make_equal_pages(report_run: Workspace) -> None:
    before = report_run.report_path.read_bytes()
    write_build_report(report_run)
    assert report_run.report_path.read_bytes() == before


def test_a_small_run_shows_each_face_once(report_run: Workspace) -> None:
    """The best face comes first; the list of kept photos and their sheets would repeat the faces."""
    page, statuses = Page(report_run), photo_statuses(report_run)
    scored = sorted((one for one in statuses if one.score is not None), key=lambda one: -(one.score or 0))
    links = [unquote(values["href"]) for values in page.all("a") if values.get("class") == "enlarge"]
    examples = [link for link in links if link.startswith("examples/")]
    assert len(examples) == len(EXAMPLE_STAGES) * len(page_examples(report_run))
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


def test_long_lists_are_cut_with_a_note(report_copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_report, "ROWS", 4)
    monkeypatch.setattr(build_report, "ROW_THUMBNAILS", 1)
    left_out = Page(report_copy).left_out()
    assert len(left_out) > 4
    page = rewritten(report_copy)
    assert page.left_out() == left_out[:4]
    assert "The list ends after 4; rejected.csv has all." in " ".join(page.text.split())
    assert "Only the first 1 have thumbnails." in page.text


def test_timings_are_summed_and_incomplete_lines_skipped(report_copy: Workspace) -> None:
    report_copy.timings_path.write_text(
        '{"batch": 0, "photos": 4, "seconds": {"crop": 1.0, "align": 2.0}}\n'
        '{"batch": 1, "photos": 2, "seconds": {"crop": 0.5}}\n'
        "17\n"
        f'{{"batch": 3, "photos": 1, "seconds": {{"crop": 1{"0" * 400}}}}}\n'
        '{"peak_memory_bytes": {"main": 3000000, "largest worker": 100}, "seconds": {}}\n'
        '{"peak_memory_bytes": {"main": 2000000, "largest worker": 200}, "seconds": {}}\n'
        '{"batch": 2, "photos": 2, "sec'
    )
    found = read_timings(report_copy.timings_path)
    assert found.stages == {"crop": StageTime(1.5, 6), "align": StageTime(2.0, 4)}
    assert found.stages["crop"].photos_per_s == 4.0
    assert found.peak_memory_bytes == {"main": 3000000, "largest worker": 200}
    assert "main 3.0 MB, largest worker 200 bytes" in rewritten(report_copy).text
    report_copy.timings_path.unlink()
    assert "No times were recorded." in rewritten(report_copy).text


def test_settings_versions_and_warnings_are_there(report_copy: Workspace) -> None:
    description = json.loads(report_copy.run_path.read_text())
    description["warnings"] = ["a <table> says 7 rows & has 8"]
    description["origins"] = {"select.keep": "some/where/else.toml"}
    report_copy.run_path.write_text(json.dumps(description))
    page = rewritten(report_copy)
    assert "a <table> says 7 rows & has 8" in page.text
    rows = [row for row in page.rows if len(row) in (2, 3)]
    assert ["select.keep", "8", "some/where/else.toml"] in rows
    assert ["denoise.tile_px", str(description["recipe"]["denoise"]["tile_px"]), "default"] in rows
    upscaler = find_entry(description["recipe"]["upscale"]["weights"]).sha256
    assert ["upscale.weights_sha256", upscaler, "file of upscale.weights"] in rows
    for name, version in description["versions"].items():
        assert [name, version] in rows


def test_report_of_an_unfinished_run(report_copy: Workspace) -> None:
    kept = json.loads(report_copy.summary_path.read_text())["kept"]
    for name in ("select", "pack"):
        report_copy.stage(name).discard()
    report_copy.hdf5_path(64).unlink()
    manifests = sorted((report_copy.stage("align").root / "batches").iterdir())
    for stage in ("align", "score"):
        (report_copy.stage(stage).root / "batches" / manifests[-1].name).unlink()
        report_copy.stage(stage).mark_path.unlink()
    page = rewritten(report_copy)
    assert "Unfinished." in page.text
    assert "The build was interrupted; the same command resumes it." in " ".join(page.text.split())
    assert "Newest faces" not in page.text
    assert "No data set of these photos has been packed yet." in page.text
    assert "selection.csv" not in page.text  # a run that grows still has that of the run before
    assert int(page.texts["count-kept"]) > kept
    assert 'http-equiv="refresh"' not in report_copy.report_path.read_text()


def test_report_of_a_running_build(report_copy: Workspace) -> None:
    """It can be written from the first moment, refreshes itself, and shows the newest faces first."""
    for stage in ("align", "score", "select", "pack"):
        manifests = sorted((report_copy.stage(stage).root / "batches").glob("*"))
        for path in manifests[2:] if stage == "align" else manifests:
            path.unlink()
        report_copy.stage(stage).mark_path.unlink(missing_ok=True)
    write_build_report(report_copy, BuildProgress(photos_per_s=1.5, seconds_left=125.0))
    page, text = Page(report_copy), report_copy.report_path.read_text()
    assert "1.50 photos per second, about 2 min 5 s left" in page.text
    assert f'<noscript><meta http-equiv="refresh" content="{build_report.REFRESH_S}"></noscript>' in text
    assert "Newest faces" in page.text
    batches = {f"{one.file}": one.batch for one in photo_statuses(report_copy)}
    faces = text.split('id="faces"')[1].split("</section>")[0]
    shown = [html.unescape(name) for name in re.findall(r'<li data-name="([^"]*)"', faces)]
    assert [batches[name] for name in shown] == sorted((batches[name] for name in shown), reverse=True) != []
    for path in (report_copy.stage("align").root / "batches").iterdir():
        path.unlink()
    write_build_report(report_copy, BuildProgress(photos_per_s=None, seconds_left=None))
    assert Page(report_copy).texts["count-kept"] == "0"


def test_page_is_bounded_for_all_of_celeba(report_copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of 202,599 photos has no more images and rows than the bound says."""
    monkeypatch.setattr(build_report, "ROWS", 500)
    real = [one for one in photo_statuses(report_copy) if one.score is not None]
    count = 202_599
    statuses = [replace(real[i % len(real)], file=f"{i:06d}.jpg", id=f"{i:06d}", end=None) for i in range(count)]
    for status in statuses[30_000:]:
        status.end = Rejected(status.file, Reason.LOW_SCORE if int(status.id) % 50 else Reason.CROP_TOO_SMALL, "why")
    contents = build_report._contents(report_copy, statuses, None)
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

"""The images of a build report: examples, sheets, spectra, photos and crops."""

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from celebahq_builder.imaging.warp import warp_quad
from celebahq_builder.outcome import Kept
from celebahq_builder.pipeline import build_report, report_images
from celebahq_builder.pipeline.build_report import write_build_report
from celebahq_builder.pipeline.results import photo_statuses
from celebahq_builder.run_directory.workspace import Workspace
from tests.conftest import SAMPLE
from tests.pipeline.report_page import EXAMPLE_STAGES, TIMES_4, Page, images_of, open_image, rewritten, scores_of


def test_images_decode_and_are_described(report_run: Workspace) -> None:
    images = Page(report_run).all("img")
    assert len(images) > 8 * report_images.EXAMPLES
    for values in images:
        image = open_image(values["src"])
        image.load()
        assert image.size == (int(values["width"]), int(values["height"]))
        assert values["alt"]


def test_examples_go_from_the_smallest_face_to_the_largest(report_run: Workspace) -> None:
    shown = images_of(report_run).examples(photo_statuses(report_run))
    zooms = [one.status.zoom for one in shown]
    assert len(shown) == report_images.EXAMPLES
    assert zooms == sorted(zooms, reverse=True)
    for one in shown:
        assert len(one.steps) == len(EXAMPLE_STAGES)
        for stage, step in zip(EXAMPLE_STAGES, one.steps, strict=True):
            whole = Image.open(report_run.example_path(one.status.id, stage))
            left, top = round(report_images.DETAIL[0] * whole.width), round(report_images.DETAIL[1] * whole.height)
            detail = np.asarray(open_image(step.detail.uri), dtype=np.int16)
            height, width, _ = detail.shape
            assert (width, height) == (320, 192)
            true = np.asarray(whole, dtype=np.int16)[top : top + height, left : left + width]
            assert np.abs(detail - true).mean() < 2  # the same pixels, but for one more JPEG compression


def test_examples_are_kept_photos_as_long_as_there_are_enough(
    report_run: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood = photo_statuses(report_run)
    monkeypatch.setattr(report_images, "EXAMPLES", 99)
    kept = [one.status.zoom for one in images_of(report_run).examples(stood) if one.status.end is None]
    assert len(kept) >= 3
    monkeypatch.setattr(report_images, "EXAMPLES", 2)
    shown = images_of(report_run).examples(stood)
    assert all(one.status.end is None for one in shown)
    assert [one.status.zoom for one in shown] == [max(kept), min(kept)]


def test_example_with_a_missing_image_is_not_shown(report_copy: Workspace) -> None:
    shown = images_of(report_copy).examples(photo_statuses(report_copy))
    gone = shown[0].status.id
    report_copy.example_path(gone, "denoise").write_bytes(b"torn")
    assert gone not in [one.status.id for one in images_of(report_copy).examples(photo_statuses(report_copy))]
    shutil.rmtree(report_copy.report_path.parent / "examples")
    assert "Through the stages" not in rewritten(report_copy).text


def test_sheets_show_both_ends_and_the_best_below_the_cut(
    report_run: Workspace, report_copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_report, "SMALL_RUN", 0)
    monkeypatch.setattr(report_images, "SHEET", 3)
    scores = scores_of(report_run)
    kept = [one.photo for _, one in report_run.stage("select").outcomes() if isinstance(one, Kept)]
    low = sorted(set(scores) - set(kept), key=lambda file: (-scores[file], file))
    page = rewritten(report_copy)
    alts = [values["alt"] for values in page.all("img")]
    wanted = [f"{file}, score {scores[file]:.3f}" for file in (*kept[:3], *kept[-3:], *low[:3])]
    assert [alt for alt in alts if ", score " in alt] == wanted
    [listed] = [rows for rows in page.tables if rows[0] == ["file", "id", "score", "zoom", "upscaled"]]
    assert [(row[0], row[-1]) for row in listed[1:]] == [(file, TIMES_4) for file in kept]
    assert len(low) > 3
    assert "LOW_SCORE" in page.row(low[-1])


def test_spectra_of_both_ends_of_the_ranking(
    report_run: Workspace, report_copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_images, "SPECTRA", 2)
    scores = scores_of(report_run)
    ranked = sorted(scores, key=lambda file: (-scores[file], file))
    alts = [values["alt"] for values in rewritten(report_copy).all("img")]
    begin = "power spectrum of "
    assert [alt.removeprefix(begin) for alt in alts if alt.startswith(begin)] == [*ranked[:2], *ranked[-2:]]
    monkeypatch.setattr(report_images, "SPECTRA", len(ranked))
    assert len([1 for values in rewritten(report_copy).all("img") if values["alt"].startswith(begin)]) == len(ranked)


def test_source_photos_are_shown_while_they_exist(report_copy: Workspace, tmp_path: Path) -> None:
    description = json.loads(report_copy.run_path.read_text())
    photos = Path(shutil.copytree(description["source"], tmp_path / "photos"))
    report_copy.run_path.write_text(json.dumps({**description, "source": str(photos)}))
    before = rewritten(report_copy)
    shutil.rmtree(photos)
    after = rewritten(report_copy)
    lost = [values["alt"] for values in before.all("img") if values not in after.all("img")]
    crops = [alt for alt in lost if alt.endswith(", crop of the photo")]
    assert len(crops) == int(before.texts["count-kept"])
    assert sorted(set(lost) - set(crops)) == ["000008.jpg", "000014.jpg", "<i>unlisted.jpg"]
    assert before.rows == after.rows


def test_missing_results_cost_only_their_thumbnails(report_copy: Workspace) -> None:
    before = Page(report_copy)
    shutil.rmtree(report_copy.stage("align").root / "images")
    after = rewritten(report_copy)
    low = sum(", score " in values["alt"] for values in before.all("img"))
    assert after.text.count("no image") == low + int(before.texts["count-kept"])
    assert after.texts["count-kept"] == before.texts["count-kept"]


def test_faces_are_chosen_at_random_but_always_the_same(
    report_run: Workspace, report_copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_report, "SMALL_RUN", 0)
    monkeypatch.setattr(build_report, "FACES", 4)
    kept = [one for one in photo_statuses(report_run) if one.end is None]
    chosen = [one.key for one in build_report._random(kept)]
    assert len(set(chosen)) == 4
    assert [one.key for one in build_report._random(kept[::-1])] == chosen
    write_build_report(report_copy)
    first = report_copy.report_path.read_text().split('id="faces"')[1].split("</section>")[0]
    assert [html.unescape(name) for name in re.findall(r'<li data-name="([^"]*)"', first)] == [f for f, _ in chosen]


def test_photo_and_crop_of_a_face(report_run: Workspace) -> None:
    """The crop is what an independent resampling of the photo gives; landmarks are where the table has them."""
    status = next(one for one in photo_statuses(report_run) if one.file == "000003.jpg")
    [(_, origin)] = images_of(report_run).faces([status])
    assert origin is not None
    record = next(one.record for _, one in report_run.stage("align").outcomes() if one.photo == status.file)
    quad, photo = np.array(record["crop"]["quad"]), Image.open(SAMPLE / "img_celeba" / status.file)
    scale = origin.photo.thumbnail.width_px / photo.width
    points = np.reshape(record["identity"]["landmarks"], (5, 2))
    np.testing.assert_allclose(origin.photo.faces[0].points, (points + 0.5) * scale, atol=0.051)
    crop = np.asarray(open_image(origin.crop.uri), dtype=np.float64)
    side, pixels = len(crop), torch.from_numpy(np.asarray(photo).transpose(2, 0, 1).copy())
    wanted = warp_quad(pixels, quad, side, supersampling=4).numpy().transpose(1, 2, 0)
    inner = slice(side // 4, -side // 4)
    assert np.abs(crop[inner, inner] - wanted[inner, inner]).mean() < 4


def test_photo_of_a_turned_face_is_upright(report_copy: Workspace, tmp_path: Path) -> None:
    description = json.loads(report_copy.run_path.read_text())
    photos = Path(shutil.copytree(description["source"], tmp_path / "photos"))
    report_copy.run_path.write_text(json.dumps({**description, "source": str(photos)}))
    status = next(one for one in photo_statuses(report_copy) if one.file == "000003.jpg")
    [(_, plain)] = images_of(report_copy).faces([status])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter; the stored pixels, and so landmarks and crop, are as before
    with Image.open(photos / status.file) as image:
        image.save(photos / status.file, exif=exif, quality=95)
    [(_, turned)] = images_of(report_copy).faces([status])
    assert plain is not None
    assert turned is not None
    size = plain.photo.thumbnail.width_px, plain.photo.thumbnail.height_px
    assert (turned.photo.thumbnail.height_px, turned.photo.thumbnail.width_px) == size
    expected = [(size[1] - y, x) for x, y in plain.photo.faces[0].points]
    np.testing.assert_allclose(turned.photo.faces[0].points, expected, atol=0.5)
